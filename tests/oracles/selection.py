"""Cases of a test that are in the default run; the others are run with ``-m slow`` or ``-m combinations``."""

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import pytest

Axis = tuple[str | tuple[str, ...], Iterable[object]]  # names of arguments as for parametrize, and their values


def some(cases: Iterable[object], often: Iterable[object]) -> list[object]:
    """All cases, of which some are tried often: one for each mechanism. A tuple holds several arguments."""
    often = list(often)
    rows = [(case in often, case if isinstance(case, tuple) else (case,)) for case in cases]
    return [pytest.param(*row, marks=() if quick else pytest.mark.slow) for quick, row in rows]


def crossed(*axes: Axis, ids: Callable[[object], str] | None = None) -> pytest.MarkDecorator:
    """All combinations of the values of several arguments; each value is in the default run once, with some others."""
    names = tuple(name for one, _ in axes for name in ((one,) if isinstance(one, str) else one))
    sides = [[_arguments(one, value) for value in values] for one, values in axes]
    longest = max(len(side) for side in sides)
    often = {tuple(i % len(side) for side in sides) for i in range(longest)}
    cases = []
    for places in product(*(range(len(side)) for side in sides)):
        chosen = [side[place] for side, place in zip(sides, places, strict=True)]
        marks = [mark for _, own in chosen for mark in own] + [pytest.mark.combinations] * (places not in often)
        cases.append(pytest.param(*(part for values, _ in chosen for part in values), marks=marks))
    return pytest.mark.parametrize(names, cases, ids=ids)


def _arguments(names: str | tuple[str, ...], value: Any) -> tuple[tuple[object, ...], tuple[Any, ...]]:
    """The values of arguments, and the marks that they bring along."""
    if hasattr(value, "marks"):  # of pytest.param
        return tuple(value.values), tuple(value.marks)
    return ((value,) if isinstance(names, str) else tuple(value)), ()
