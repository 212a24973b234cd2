"""A process that evaluates and audits images of a file within a memory, and prints by how many bytes its peak rises."""

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
    """Evaluate a few images, so that all is loaded; then bounds of all, and draws and searches for some; then read."""
    torch.set_num_threads(1)
    x, model = certify.StoredInputs.of_file(file), network()
    some = certify.StoredInputs(lambda places: x[places], 40)
    bounds, others = [IntervalBounds()], [Smoothing(n=100, n0=10), MinimalPerturbation(steps=1, restarts=1)]
    labels = torch.cat([model(part).argmax(1) for part in x.split(100)])

    def evaluate(inputs: Rows, methods: list[Method], name: str) -> int:
        """Number of rows of a run, which is stored."""
        settings = {"norms": 2, "methods": methods, "memory": memory, "output": file.parent / name}
        return len(certify.evaluate(model, inputs, labels[: len(inputs)], **settings).to_dataframe())

    def read(inputs: Rows, name: str) -> int:
        """Number of statements that an audit confirms; the page is written, and the run merged, on the way."""
        merged = certify.merge(file.parent / f"merged {name}", [file.parent / name])
        merged.to_html(file.parent / f"{name}.html")
        report = certify.audit(file.parent / name, model, inputs, labels[: len(inputs)], sample=0)
        assert report.holds, str(report)
        return sum(report.confirmed.values())

    few = torch.stack([x[place] for place in range(3)])
    evaluate(few, [*bounds, *others], "few")
    before = peak()
    rows = evaluate(x, bounds, "all") + evaluate(some, others, "some")
    evaluated = peak() - before
    read(few, "few")
    before = peak()
    confirmed = read(x, "all") + read(some, "some")
    print(json.dumps({"rises": [evaluated, peak() - before], "rows": rows, "confirmed": confirmed}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
