"""All rows of a table with few changed features, listed one by one in plain Python."""

import itertools
import math

import torch
from torch import Tensor, nn

import bounds


def alternatives(row: list[float], feature: bounds.Category | bounds.Levels | bounds.Numeric) -> list[dict[int, float]]:
    """Columns and values of all that a feature may change to; of a range, its ends."""
    if isinstance(feature, bounds.Category):
        columns = list(feature.columns)
        on, off = (
            list(side) if isinstance(side, list | tuple) else [side] * len(columns)
            for side in (feature.on, feature.off)
        )
        now = next((i for i, c in enumerate(columns) if row[c] == on[i]), -1)
        targets = [*range(len(columns)), *([-1] if feature.dropped else [])]
        keep = {"both": lambda i: True, "up": lambda i: i > now, "down": lambda i: i < now}[feature.direction]
        return [
            {c: on[j] if j == i else off[j] for j, c in enumerate(columns)} for i in targets if i != now and keep(i)
        ]
    now = row[feature.column]
    keep = {"both": lambda v: True, "up": lambda v: v > now, "down": lambda v: v < now}[feature.direction]
    if isinstance(feature, bounds.Levels):
        values = sorted({float(v) for v in feature.values})
        far = feature.steps or math.inf
        near = [
            v for v in values if v != now and sum(min(v, now) < w <= max(v, now) for w in values if w != now) <= far
        ]
        below = [v for v in values if v < now and sum(v <= w < now for w in values) <= far]
        near = [v for v in near if v > now] + below
        return [{feature.column: v} for v in near if keep(v)]
    reach = math.inf if feature.reach is None else feature.reach
    ends = {max(feature.low, now - reach), min(feature.high, now + reach)}
    return [{feature.column: v} for v in ends if v != now and keep(v)]


def listed_rows(row: Tensor, features: list, changes: int, frozen: Tensor | None = None) -> Tensor:
    """All rows (T, F) with at most so many changed features."""
    values = row.tolist()
    still = set() if frozen is None else set(frozen.nonzero()[:, 0].tolist())
    options = []
    for feature in features:
        moves = [{}]
        for move in alternatives(values, feature):
            if not any(values[column] != value for column, value in move.items() if column in still):
                moves.append(move)
        options.append(moves)
    found = []
    for combination in itertools.product(*options):
        if sum(bool(move) for move in combination) <= changes:
            made = list(values)
            for move in combination:
                for column, value in move.items():
                    made[column] = value
            found.append(made)
    return torch.tensor(found, dtype=row.dtype)


FEATURES = [
    bounds.Category([0, 1, 2]),
    bounds.Category([3, 4], on=[2.5, 1.5], off=[-0.5, -0.25], dropped=True, direction="up"),
    bounds.Levels(5, range(5), steps=2),
    bounds.Levels(6, [-1.0, 0.5, 3.0], direction="down"),
    bounds.Numeric(7, 0.0, 1.0, reach=0.25),
]
ROWS = torch.tensor(
    [
        [1.0, 0.0, 0.0, -0.5, -0.25, 2.0, 3.0, 0.5, 9.0],
        [0.0, 0.0, 1.0, 2.5, -0.25, 0.0, 0.5, 1.0, 9.0],
        [0.0, 1.0, 0.0, -0.5, 1.5, 4.0, -1.0, 0.125, -9.0],
    ],
    dtype=torch.float64,
)


class Residual(nn.Module):
    """Two residual blocks and attention over groups of four numbers."""

    def __init__(self, entries: int, classes: int) -> None:
        super().__init__()
        self.start, self.block = nn.Linear(entries, 16), nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 16))
        self.query, self.value, self.end = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.start(x.flatten(1)))
        h = (h + self.block(h)).unflatten(1, (4, 4))
        share = (self.query(h) @ h.transpose(1, 2) / 2).softmax(2)
        return self.end((h + share @ self.value(h)).flatten(1))


def network(kind: str, entries: int, classes: int = 3) -> nn.Module:
    """A small network of one kind, seeded."""
    torch.manual_seed(1)
    if kind == "residual":
        return Residual(entries, classes)
    if kind == "linear":
        return nn.Sequential(nn.Flatten(), nn.Linear(entries, classes))
    widths = {"deep": [12] * 6, "expanding": [8, 24, 48], "smooth": [16, 16]}[kind]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise([entries, *widths]):
        layers += [nn.Linear(before, after), nn.Softplus() if kind == "smooth" else nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))
