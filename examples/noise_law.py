"""The sqrt(D) law holds although boundaries are not flat: small networks of 20, 80 and 320 inputs.

Random noise has to be about sqrt(D) times as large as the worst perturbation, with the effective dimension of flat
boundaries, while the whole distribution of the ratio is not theirs. Takes about half a minute.
"""

import argparse
import math

import torch
from torch import Tensor, nn

import bounds


def small_network(features: int) -> tuple[nn.Sequential, Tensor]:
    """A network of 64-64 units that has learnt a plane with a wave in it, and the inputs it was trained on."""
    torch.manual_seed(features)
    x = torch.randn(3000, features)
    y = (x @ torch.randn(features) / math.sqrt(features) + 0.5 * torch.sin(2 * x[:, 0]) > 0).long()
    model = nn.Sequential(nn.Linear(features, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(300):
        rows = torch.randint(len(x), (200,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model, x


def small_test(features: int, count: int, lines: int) -> bounds.NoiseRatioTest:
    """The test of such a network, at a level of 1%."""
    model, x = small_network(features)
    options = {"dimensions": [1], "alpha": 0.01, "generator": torch.Generator().manual_seed(0)}
    return bounds.noise_ratio_test(model, x[:count], directions=lines, **options)  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=24)
    parser.add_argument("--lines", type=int, default=120)
    options = parser.parse_args()
    for features in (20, 80, 320):
        print(f"\nsmall network, D = {features}\n{small_test(features, options.inputs, options.lines)}")


if __name__ == "__main__":
    main()
