"""A process that evaluates images of a file within a memory, and prints by how many bytes its peak rises."""

import json
import resource
import sys
from pathlib import Path

import torch
from torch import nn

import certify
from certify.methods import IntervalBounds, Method, MinimalPerturbation, Smoothing
from certify.stored_inputs import Rows

SIDE = 96


def network() -> nn.Module:
    """Logits of patches, for large images."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 16, 16), nn.ReLU(), nn.Flatten(), nn.Linear(4 * (SIDE // 16) ** 2, 5)).eval()


def peak() -> int:
    """Bytes that this process held at its peak."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(file: Path, memory: str) -> None:
    """Evaluate a few images, so that all is loaded; then bounds of all, and draws and searches for some."""
    torch.set_num_threads(1)
    x, model = certify.StoredInputs.of_file(file), network()
    some = certify.StoredInputs(lambda places: x[places], 40)
    bounds, others = [IntervalBounds()], [Smoothing(n=100, n0=10), MinimalPerturbation(steps=1, restarts=1)]

    def evaluate(inputs: Rows, methods: list[Method], name: str) -> certify.Evaluation:
        return certify.evaluate(model, inputs, norms=2, methods=methods, memory=memory, output=file.parent / name)

    evaluate(torch.stack([x[place] for place in range(3)]), [*bounds, *others], "few")
    base = peak()
    found = [evaluate(x, bounds, "all"), evaluate(some, others, "some")]
    rows = sum(len(evaluation.to_dataframe()) for evaluation in found)
    print(json.dumps({"rise": peak() - base, "rows": rows}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
