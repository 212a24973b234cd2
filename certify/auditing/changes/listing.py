"""Moves of each feature or word of one input, listed in plain numbers: the audit's own reading of a set."""

import math
from collections.abc import Iterator, Mapping
from itertools import combinations, product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from certify.changes.sets import ChangedWords, ChangeSet

Move = dict[int, float]  # values of the columns that change, by their places in the flat input


class Changeable(NamedTuple):
    """A feature or a word.

    Attributes:
        columns: its places in the flat input.
        moves: all that it may change to; of a range, its two ends.
        ranged: whether it takes all values between.
    """

    columns: list[int]
    moves: list[Move]
    ranged: bool = False


def changeable_parts(over: ChangeSet, x: Tensor) -> list[Changeable]:
    """The parts of one input (*D) that may change.

    Raises:
        BoundsError: words that are not at hand.
    """
    if isinstance(over, ChangedWords):
        return _words(over, x)
    row = [float(value) for value in x.flatten().tolist()]
    found = []
    for feature in over.table()["features"]:
        part = {"category": _category, "levels": _levels, "numeric": _numeric}[feature["kind"]](feature, row, x.dtype)
        still = {column for column in part.columns if column in over.frozen}
        moves = [move for move in part.moves if all(row[column] == move[column] for column in still)]
        found.append(part._replace(moves=[] if part.ranged and still else moves))
    return found


def _rounded(value: float, dtype: torch.dtype) -> float:
    return float(torch.tensor(value, dtype=torch.float64).to(dtype))


def _onward(feature: Mapping[str, Any], now: float, then: float) -> bool:
    return {"both": True, "up": then > now, "down": then < now}[feature.get("direction", "both")]


def _category(feature: Mapping[str, Any], row: list[float], dtype: torch.dtype) -> Changeable:
    columns = feature["columns"]
    on, off = (feature.get(name, default) for name, default in (("on", 1.0), ("off", 0.0)))
    lit, dark = (
        [_rounded(value, dtype) for value in (side if isinstance(side, list) else [side] * len(columns))]
        for side in (on, off)
    )
    now = next((place for place, column in enumerate(columns) if row[column] == lit[place]), -1)
    others = [place for place in range(-1 if feature.get("dropped") else 0, len(columns)) if place != now]
    moves = [
        {column: lit[i] if i == place else dark[i] for i, column in enumerate(columns)}
        for place in others
        if _onward(feature, now, place)
    ]
    return Changeable(columns, moves)


def _levels(feature: Mapping[str, Any], row: list[float], dtype: torch.dtype) -> Changeable:
    now, most = row[feature["column"]], feature.get("steps", math.inf)
    levels = sorted({_rounded(value, dtype) for value in feature["values"]})
    above, below = [v for v in levels if v > now], [v for v in levels if v < now][::-1]
    near = [v for side in (above, below) for steps, v in enumerate(side, 1) if steps <= most]
    return Changeable([feature["column"]], [{feature["column"]: v} for v in near if _onward(feature, now, v)])


def _numeric(feature: Mapping[str, Any], row: list[float], dtype: torch.dtype) -> Changeable:
    """A range, whose ends are rounded outward."""
    now, reach = row[feature["column"]], feature.get("reach", math.inf)
    ends = []
    for sign, side in ((-1, feature["low"]), (1, feature["high"])):
        far = math.nextafter(now + sign * reach, sign * math.inf)
        end = min(_rounded(side, dtype) * sign, far * sign) * sign
        ends.append(now if not _onward(feature, now, now + sign) else end)
    moves = [{feature["column"]: end} for end in ends] if ends[0] < ends[1] else []
    return Changeable([feature["column"]], moves, ranged=True)


def _words(over: ChangedWords, x: Tensor) -> list[Changeable]:
    embedding, synonyms = over.words.found()
    table = embedding.to(x.dtype)
    found = []
    for place, word in enumerate(x.cpu()):
        columns = list(range(place * len(word), (place + 1) * len(word)))
        tokens = (table == word).all(1).nonzero()[:, 0].tolist()
        others = (
            [] if place in over.frozen else [one for token in tokens for one in synonyms[token].tolist() if one >= 0]
        )
        vectors = {tuple(table[one].tolist()) for one in others} - {tuple(word.tolist())}
        found.append(Changeable(columns, [dict(zip(columns, vector, strict=True)) for vector in sorted(vectors)]))
    return found


def changes_of(parts: list[Changeable], x: Tensor, point: Tensor, slack: float) -> int | None:
    """Number of parts that a point changes, each to one of its moves; None for a point that is not of the set.

    Args:
        parts: of the input.
        x: (*D), the input.
        point: (*D), likewise.
        slack: relative, by which a number may lie beyond its range.
    """
    before, after = ([float(value) for value in tensor.flatten().tolist()] for tensor in (x, point))
    moved = {column for column, value in enumerate(after) if value != before[column]}
    count = 0
    for part in parts:
        if not moved & set(part.columns):
            continue
        moved -= set(part.columns)
        here = {column: after[column] for column in part.columns}
        if part.ranged and part.moves:
            (low,), (high,) = (move.values() for move in part.moves)
            (value,), room = here.values(), slack * max(abs(low), abs(high))
            fits = low - room <= value <= high + room
        else:
            fits = any(move == here for move in part.moves)
        if not fits:
            return None
        count += 1
    return None if moved else count


def count_of(parts: list[Changeable], most: int) -> float:
    """Number of inputs with at most so many changes; infinite with ranges."""
    if any(part.ranged and part.moves for part in parts):
        return math.inf
    ways = [1] + [0] * most
    for part in parts:
        ways = [here + len(part.moves) * before for here, before in zip(ways, [0, *ways[:-1]], strict=True)]
    return sum(ways)


def combinations_of(parts: list[Changeable], most: int) -> Iterator[list[Move]]:
    """All ways to change at most so many parts, of ranges to their ends."""
    able = [part for part in parts if part.moves]
    for count in range(min(most, len(able)) + 1):
        for chosen in combinations(able, count):
            yield from map(list, product(*(part.moves for part in chosen)))


def points_of(x: Tensor, ways: list[list[Move]]) -> Tensor:
    """The inputs (B, *D) with these changes; values beyond a short type are rounded toward the input."""
    made = x.detach().cpu().double().flatten().repeat(len(ways), 1)
    for place, way in enumerate(ways):
        for move in way:
            made[place, list(move)] = torch.tensor(list(move.values()), dtype=torch.float64)
    short = made.to(x.dtype)
    beyond = (short.double() - x.double().cpu().flatten()).abs() > (made - x.double().cpu().flatten()).abs()
    center = x.detach().cpu().flatten().expand_as(short)
    return torch.where(beyond, torch.nextafter(short, center), short).view(-1, *x.shape)
