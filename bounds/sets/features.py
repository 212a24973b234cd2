"""Features of a table, in the words of those who know it: categories, levels, numbers; and which of them may change."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput
from bounds.numerics import converted_down

DIRECTIONS = ("both", "up", "down")
NO_COLUMN = -1


@dataclass(frozen=True)
class Category:
    """A feature that is one of several categories, each with a column of its own (one-hot).

    Args:
        columns: of the categories, at least two; or one if ``dropped``.
        on: value of the column of the category that is present: one number, or one for each column, as for columns
            that were standardised.
        off: value of the other columns.
        dropped: whether one more category has no column: all columns are off where it is present.
        direction: ``"both"``; or ``"up"`` or ``"down"`` for categories in an order, such as degrees, which may only
            change to a later or to an earlier column. A dropped category is the first.
    """

    columns: Sequence[int]
    on: float | Sequence[float] = 1.0
    off: float | Sequence[float] = 0.0
    dropped: bool = False
    direction: str = "both"


@dataclass(frozen=True)
class Levels:
    """A feature in one column that takes some values alone: integers, grades, sizes.

    Args:
        column: its place.
        values: that it may take, such as ``range(11)``.
        direction: ``"both"``, or ``"up"`` or ``"down"`` where it may only grow or fall.
        steps: the most levels by which it may move; None for any number. From between two levels, the next level is one
            step away.
    """

    column: int
    values: Sequence[float] | Tensor
    direction: str = "both"
    steps: int | None = None


@dataclass(frozen=True)
class Numeric:
    """A feature in one column that takes any number of a range.

    Args:
        column: its place.
        low: the least number.
        high: the largest number.
        direction: ``"both"``, or ``"up"`` or ``"down"`` where it may only grow or fall.
        reach: the most by which it may move; None for any.
    """

    column: int
    low: float
    high: float
    direction: str = "both"
    reach: float | None = None


Feature = Category | Levels | Numeric


@dataclass(frozen=True)
class Listed:
    """The choices of one feature, for N inputs.

    Attributes:
        columns: that change with the feature.
        column: of each choice, or ``NO_COLUMN``.
        value: (N, V), that the column takes with each choice.
        off: (N, E), values of the columns with other choices.
        allowed: (N, V) bool, choices that may be taken.
        ranged: whether the choices are two ends of a range.
    """

    columns: list[int]
    column: list[int]
    value: Tensor
    off: Tensor
    allowed: Tensor
    ranged: bool = False


def listed(feature: Feature, x: Tensor, frozen: Tensor) -> Listed:
    """The choices of a feature of inputs (N, F), of which some entries (N, F) are frozen.

    Raises:
        InvalidInput: columns that the inputs do not have; values that they do not take; a wrong direction.
    """
    if not isinstance(feature, Feature):
        raise InvalidInput(
            f"features must be bounds.Category, bounds.Levels or bounds.Numeric, got {type(feature).__name__}: "
            f"describe each feature that may change by one of them"
        )
    checks.one_of("direction", feature.direction, DIRECTIONS)
    if isinstance(feature, Category):
        return _of_category(feature, x, frozen)
    column = _columns([feature.column], x)[0]
    here, still = x[:, column : column + 1], frozen[:, column : column + 1]
    if isinstance(feature, Levels):
        value, allowed = _of_levels(feature, here)
    else:
        value, allowed = _of_numbers(feature, here)
    places = [column] * value.shape[1]
    return Listed([column], places, value, here, allowed & ~still, isinstance(feature, Numeric))


def _columns(columns: Sequence[int], x: Tensor) -> list[int]:
    found = [checks.at_least("columns", column, 0) for column in checks.several("columns", columns)]
    if max(found) >= x.shape[1]:
        raise InvalidInput(
            f"columns must be below {x.shape[1]}, the entries of an input, got {max(found)}: count from 0"
        )
    if len(set(found)) < len(found):
        raise InvalidInput(f"columns of a feature must differ, got {found}: name each of them once")
    return found


def _of_category(feature: Category, x: Tensor, frozen: Tensor) -> Listed:
    columns = _columns(feature.columns, x)
    if len(columns) + feature.dropped < 2:
        raise InvalidInput(f"columns of a Category must be at least two, got {columns}: add them, or set dropped=True")
    on, off = (_per_column(name, getattr(feature, name), columns, x) for name in ("on", "off"))
    index = torch.tensor(columns, device=x.device)
    here, still = x.index_select(1, index), frozen.index_select(1, index)
    present = here == on
    others = (here == off) | present
    count = present.sum(1)
    wrong = ~(others.all(1) & ((count == 1) | ((count == 0) & feature.dropped)))
    if bool((on == off).any()) or bool(wrong.any()):
        row = int(wrong.to(torch.uint8).argmax())
        raise InvalidInput(
            f"x must have one of the columns {_said(columns)} on and the others off, but row {row} does not: check the "
            f"columns, on= and off=, or set dropped=True if one category has no column"
        )
    moves = ~(present & still).any(1, keepdim=True)  # a present category that is frozen stays
    allowed = ~present & ~still & moves
    order = torch.arange(len(columns), device=x.device).expand_as(present)
    now = torch.where(present, order, NO_COLUMN).amax(1, keepdim=True)
    value = on.expand_as(here)
    if feature.dropped:
        allowed = torch.cat([allowed, moves & (now != NO_COLUMN)], 1)
        order = torch.cat([order, torch.full_like(now, NO_COLUMN)], 1)
        value = torch.cat([value, torch.zeros_like(value[:, :1])], 1)
    allowed = allowed & _along(feature.direction, order, now)
    column = [*columns, *[NO_COLUMN] * feature.dropped]
    return Listed(columns, column, value, off.expand_as(here), allowed)


def _of_levels(feature: Levels, here: Tensor) -> tuple[Tensor, Tensor]:
    values = torch.as_tensor(
        feature.values if isinstance(feature.values, Tensor) else [float(v) for v in feature.values],
        dtype=here.dtype,
        device=here.device,
    )
    if values.ndim != 1 or len(values) == 0 or not bool(values.isfinite().all()):
        raise InvalidInput(f"values of Levels must be finite numbers, at least one, got shape {tuple(values.shape)}")
    values = values.unique()  # sorted
    allowed = (values != here) & _along(feature.direction, values, here)
    if feature.steps is not None:
        checks.at_least("steps", feature.steps, 1)
        above = torch.where(values > here, (values > here).cumsum(1), 0)
        below = torch.where(values < here, (values < here).flip(1).cumsum(1).flip(1), 0)
        allowed = allowed & (above + below <= feature.steps)
    return values.expand(len(here), -1), allowed


def _of_numbers(feature: Numeric, here: Tensor) -> tuple[Tensor, Tensor]:
    sides = torch.tensor([feature.low, feature.high], dtype=here.dtype, device=here.device)
    if not bool(sides.isfinite().all()) or sides[0] > sides[1]:
        raise InvalidInput(
            f"low and high must be finite and in order, got [{feature.low}, {feature.high}]: exchange them"
        )
    if bool(((here < sides[0]) | (here > sides[1])).any()):
        raise InvalidInput(
            f"x must lie in the range [{feature.low}, {feature.high}] of column {feature.column}, got values from "
            f"{here.min():.6g} to {here.max():.6g}: widen the range"
        )
    low, high = sides.expand(len(here), 2).split(1, 1)
    if feature.reach is not None:
        checks.positive("reach", feature.reach)
        low = torch.maximum(low, -_furthest(-here, feature.reach))
        high = torch.minimum(high, _furthest(here, feature.reach))
    low = here if feature.direction == "up" else low
    high = here if feature.direction == "down" else high
    value = torch.cat([low, high], 1)
    return value, (low < high).expand(-1, 2)


def _furthest(here: Tensor, reach: float) -> Tensor:
    """At least ``here + reach``; a reach rounded to a short type would lose what is left where both nearly cancel."""
    exact = here.double() + reach
    return -converted_down(-torch.nextafter(exact, torch.full_like(exact, torch.inf)), here.dtype)


def _along(direction: str, values: Tensor, now: Tensor) -> Tensor:
    """Values that a direction leads to from where a feature is."""
    if direction == "up":
        return values > now
    return values < now if direction == "down" else torch.ones_like(values > now)


def _per_column(name: str, value: float | Sequence[float], columns: list[int], x: Tensor) -> Tensor:
    found = torch.as_tensor(value, dtype=x.dtype, device=x.device)
    if found.ndim > 1 or (found.ndim and len(found) != len(columns)) or not bool(found.isfinite().all()):
        raise InvalidInput(f"{name} must be a finite number or one for each of {len(columns)} columns, got {value!r}")
    return found.expand(len(columns))


def _said(columns: list[int]) -> str:
    return str(columns) if len(columns) <= 6 else f"{columns[0]} ... {columns[-1]}"
