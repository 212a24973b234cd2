"""Proofs that decisions about rows of a table survive one, two or three changed features.

Trains a network on rows of twelve made-up features, and proves for each new row that no so many changes flip its
decision, or shows the fewest that do. Takes ten seconds of one core. Expected: every row is decided; with one change,
proofs by linear bounds alone are fewer than those with cutting.
"""

import argparse

import torch
from torch import Tensor, nn

import bounds
import certify

CATEGORIES = (2, 3, 4, 5, 6, 8, 10, 12)
FIRST = [sum(CATEGORIES[:place]) for place in range(len(CATEGORIES) + 1)]  # column of each feature


def rows(count: int) -> Tensor:
    """Categories, then two levels of tenths, then two numbers."""
    one_hot = [nn.functional.one_hot(torch.randint(0, size, (count,)), size).float() for size in CATEGORIES]
    return torch.cat([*one_hot, torch.randint(0, 11, (count, 2)) / 10, torch.rand(count, 2)], 1)


def features() -> list[bounds.Category | bounds.Levels | bounds.Numeric]:
    """Categories change to any other, one level by two steps, one only upward, one number by a fifth."""
    last = FIRST[-1]
    return [
        *(bounds.Category(range(first, first + size)) for first, size in zip(FIRST, CATEGORIES, strict=False)),
        bounds.Levels(last, torch.arange(11) / 10, steps=2),
        bounds.Levels(last + 1, torch.arange(11) / 10, direction="up"),
        bounds.Numeric(last + 2, 0.0, 1.0, reach=0.2),
        bounds.Numeric(last + 3, 0.0, 1.0),
    ]


def trained(x: Tensor, y: Tensor, epochs: int) -> nn.Module:
    """A network of two hidden layers."""
    model = nn.Sequential(nn.Linear(x.shape[1], 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, weight_decay=1e-4)
    for _ in range(epochs):
        for part in torch.randperm(len(x)).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()
    return model.eval()


def main() -> None:
    """Print the table of the guide."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--rows", type=int, default=100, help="rows to prove")
    options = parser.parse_args()
    torch.manual_seed(0)
    x = rows(3000)
    weight = 0.7 * torch.randn(x.shape[1])
    score = x @ weight + 2 * x[:, 3] * x[:, 20] - x[:, 7] * x[:, 51]
    y = (score > score.quantile(0.9)).long()
    model, new = trained(x[:2500], y[:2500], options.epochs), x[2500:][: options.rows]
    label = model(new).argmax(1)
    print("changes  by crown alone  proved  found  open")
    for changes in (1, 2, 3):
        region = bounds.FeatureChanges(new, features(), changes)
        margins = bounds.margin_bounds(model, region, label, "crown")
        alone = margins.scatter(1, label[:, None], torch.inf).amin(1) > 0
        found = certify.certified_no_counterfactual(model, new, region)
        counts = [int(each.sum()) for each in (alone, found.verified, found.found, found.unknown)]
        print(f"{changes:7d}  {counts[0]:14d}  {counts[1]:6d}  {counts[2]:5d}  {counts[3]:4d}")
        assert (found.verified | ~alone).all()
        assert found.smallest[found.found].all()
        assert not found.unknown.any()


if __name__ == "__main__":
    main()
