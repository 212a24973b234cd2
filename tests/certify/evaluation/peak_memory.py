"""A process that evaluates images of a file within a memory, and prints by how many bytes its peak rises."""

import json
import resource
import sys
from pathlib import Path

import torch
from torch import nn

import certify
from certify.methods import IntervalBounds, MinimalPerturbation, Smoothing

SIDE = 96


def network() -> nn.Module:
    """Logits of patches, for large images."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 16, 16), nn.ReLU(), nn.Flatten(), nn.Linear(4 * (SIDE // 16) ** 2, 5)).eval()


def peak() -> int:
    """Bytes that this process held at its peak."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(file: Path, memory: str) -> None:
    """Evaluate a few images, so that all is loaded, and then all."""
    torch.set_num_threads(1)
    x = certify.StoredInputs.of_file(file)
    methods = [Smoothing(n=5, n0=5), IntervalBounds(), MinimalPerturbation(steps=1, restarts=1)]
    settings = {"norms": 2, "methods": methods, "memory": memory, "cross_sections": 1}
    few = torch.stack([x[place] for place in range(3)])
    certify.evaluate(network(), few, torch.zeros(3).long(), output=file.parent / "few", **settings)
    base = peak()
    labels = torch.zeros(len(x), dtype=torch.int64)
    evaluation = certify.evaluate(network(), x, labels, output=file.parent / "run", **settings)
    evaluation.check()
    print(json.dumps({"base": base, "rise": peak() - base, "records": len(evaluation.records)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
