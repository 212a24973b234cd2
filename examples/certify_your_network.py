"""Train a small network of your own, certify it, attack it, and compare what is proved with what was broken.

Needs nothing but this package; takes a few seconds. Prints a table in which, for every norm, the median certified
radius of the model lies below the median distance of the adversarial examples found, and writes the page.
"""

import argparse
import math
from pathlib import Path

import torch
from torch import nn

import certify


def blobs(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Three clouds of points in the unit square: a stand-in for your data, inputs in [0, 1]."""
    centers = torch.tensor([[0.25, 0.25], [0.75, 0.3], [0.5, 0.8]])
    y = torch.randint(3, (count,), generator=generator)
    x = centers[y] + 0.07 * torch.randn(count, 2, generator=generator)
    return x.clamp(0, 1), y


def train(x: torch.Tensor, y: torch.Tensor, sigma: float, generator: torch.Generator) -> nn.Sequential:
    """A network that sees Gaussian noise in training, which smoothing needs."""
    torch.manual_seed(0)
    model = nn.Sequential(certify.Normalize([0.5, 0.5], [0.3, 0.3]), nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(200):
        noisy = x + sigma * torch.randn(x.shape, generator=generator)
        loss = nn.functional.cross_entropy(model(noisy), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/your_network"))
    output = parser.parse_args().output
    generator = torch.Generator().manual_seed(0)
    model = train(*blobs(500, generator), sigma=0.1, generator=generator)
    x, y = blobs(40, generator)
    methods = [
        certify.methods.Smoothing(sigma=0.1, n=10_000),
        certify.methods.IntervalBounds(),
        certify.methods.MinimalPerturbation(),
    ]
    evaluation = certify.evaluate(model, x, y, norms=(2, math.inf), methods=methods, output=output)
    evaluation.to_html(output / "report.html")
    print(evaluation.summary().to_string(index=False))
    assert not evaluation.check(), "a certificate was refuted"


if __name__ == "__main__":
    main()
