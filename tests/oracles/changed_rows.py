"""A run on rows of a table and on texts, small enough to list all changed inputs."""

import math

import torch
from oracles.feature_tables import listed_rows
from torch import Tensor, nn

import bounds
import certify

GROUPS = [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
FEATURES = [
    *map(bounds.Category, GROUPS[:3]),
    bounds.Levels(12, [0.0, 0.5, 1.0], direction="up"),
    bounds.Category([13, 14]),
]
FEW = certify.ChangedFeatures(FEATURES, at_most=3)


def rows(count: int = 6) -> Tensor:
    """Inputs (N, 15) in float32."""
    generator = torch.Generator().manual_seed(2)
    hot = [nn.functional.one_hot(torch.randint(0, 3, (count,), generator=generator), 3) for _ in GROUPS]
    level = torch.randint(0, 2, (count, 1), generator=generator) / 2
    pair = nn.functional.one_hot(torch.randint(0, 2, (count,), generator=generator), 2)
    return torch.cat([*hot, level, pair], 1).float()


def network() -> nn.Module:
    """A small network that few changes flip, for some rows and not for others."""
    torch.manual_seed(51)
    return nn.Sequential(nn.Linear(15, 8), nn.ReLU(), nn.Linear(8, 2))


def fewest(model: nn.Module, row: Tensor, label: int, features: list = FEATURES, most: int = 3) -> float:
    """The fewest changes of a row that give it another class, by running all; infinite if none do."""
    for changes in range(most + 1):
        if bool((model(listed_rows(row, features, changes)).argmax(1) != label).any()):
            return changes
    return math.inf


def texts(count: int = 4) -> tuple[nn.Module, certify.ChangedWords, Tensor, Tensor]:
    """A model of vectors of words, the set, vectors (N, 3, 2) and tokens (N, 3) of texts."""
    torch.manual_seed(5)
    embedding = torch.randn(6, 2)
    synonyms = {0: [1, 2], 1: [0], 2: [3, 4], 3: [2], 5: [0, 4]}
    tokens = torch.randint(0, 6, (count, 3))
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    return model, certify.ChangedWords((embedding, synonyms), at_most=2), embedding[tokens], tokens
