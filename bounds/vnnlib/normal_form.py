"""Combinations of inequalities become tensors: boxes of inputs with their cases of unsafe outputs."""

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from bounds.errors import InvalidProperty
from bounds.vnnlib.arithmetic import Exact
from bounds.vnnlib.combinations import ANY, Combination, Direction, Segment
from bounds.vnnlib.records import UnsafeBox, UnsafeCase, rounded

MOST_NUMBERS = 2**27  # of all boxes and rows: a gigabyte
LARGEST_INTEGER = 2**53  # up to which each is a float64 number

Name = Callable[[int], str]  # of an entry of the inputs, by its place


class Row(NamedTuple):
    """One inequality: the direction times a factor is at most the offset, or below it."""

    direction: Direction
    factor: Exact
    offset: Exact
    strict: bool


def boxes(base: Combination, found: list[Combination], inputs: int, outputs: int, name: Name) -> tuple[UnsafeBox, ...]:
    """The boxes, each with all of its cases.

    Args:
        base: what holds in all combinations.
        found: the combinations.
        inputs: number F of entries of inputs.
        outputs: number K of entries of outputs.
        name: of an entry of the inputs, for messages.

    Raises:
        InvalidProperty: an input without a bound on both sides, more or larger numbers than can be held.
    """
    groups: dict[frozenset[tuple[int, Exact | None, Exact | None]], list[Combination]] = {}
    for combination in found:
        narrower = ((place, *each[:2]) for place, each in combination.inputs.items())
        key = frozenset(ends for ends in narrower if ends[1:] != base.inputs.get(ends[0], ANY)[:2])
        groups.setdefault(key, []).append(combination)
    own = [group[0].inputs for group in groups.values()]
    _refuse_unbounded(base.inputs, own, inputs, name)
    ordered = [combination for group in groups.values() for combination in group]
    strict = {place: each for place, each in base.inputs.items() if each.low_strict or each.high_strict}
    rows = [list(_rows(Combination(strict, base.others), combination)) for combination in ordered]
    on_inputs = any(row.direction[0][0] < inputs for each in rows for row in each)
    numbers = 4 * inputs * len(groups) + (outputs + inputs * on_inputs) * sum(map(len, rows))
    if numbers > MOST_NUMBERS:
        raise InvalidProperty(f"the property needs {numbers} numbers, more than {MOST_NUMBERS}: split it")
    try:
        sides = _sides(base.inputs, own, inputs) if groups else []
        cases = iter(_cases(rows, inputs, outputs, on_inputs=on_inputs))
    except OverflowError:
        raise InvalidProperty("the property has a number beyond the largest of float64: scale it") from None
    counts = [len(group) for group in groups.values()]
    return tuple(
        UnsafeBox(
            lower=lower,
            upper=upper,
            outer_lower=outer_lower,
            outer_upper=outer_upper,
            cases=tuple(next(cases) for _ in range(count)),
        )
        for lower, outer_lower, upper, outer_upper, count in zip(*sides, counts, strict=True)
    )


def _refuse_unbounded(base: dict[int, Segment], own: list[dict[int, Segment]], inputs: int, name: Name) -> None:
    """Refuse inputs without both ends: no search over them would come to an end."""
    unbounded = [place for place in range(inputs) if None in base.get(place, ANY)[:2]]
    for ranges in own:
        for place in unbounded:
            both = ranges.get(place) or base.get(place, ANY)
            if both.low is None or both.high is None:
                side, sign = ("upper", "<=") if both.high is None else ("lower", ">=")
                written = name(place)
                raise InvalidProperty(f"{written} has no {side} bound: add (assert ({sign} {written} number))")


def _sides(base: dict[int, Segment], own: list[dict[int, Segment]], inputs: int) -> list[tuple[Tensor, ...]]:
    """Lower, outer lower, upper and outer upper sides of each box."""
    found = []
    changed = [(box, place) for box, ranges in enumerate(own) for place in ranges]
    for end, outer in (("low", 1), ("high", 2)):
        common = rounded([getattr(base.get(place, ANY), end) or 0 for place in range(inputs)])
        special = rounded([getattr(own[box][place], end) for box, place in changed])
        for kind in (0, outer):
            side = common[kind].expand(len(own), inputs).clone()
            if changed:
                side[tuple(torch.tensor(changed, device="cpu").T)] = special[kind]
            found.append(side.unbind())
    return found


def _rows(base: Combination, own: Combination) -> Iterator[Row]:
    """All inequalities of a case that a closed box does not say."""
    for place, each in {**base.inputs, **own.inputs}.items():
        yield from (row for row in _ends(((place, 1),), each) if row.strict)
    for direction, each in {**base.others, **own.others}.items():
        yield from _ends(direction, each)


def _ends(direction: Direction, each: Segment) -> Iterator[Row]:
    """The inequalities of a range; coefficients beyond what float64 can count to are scaled to about 1."""
    largest = max(abs(value) for _, value in direction)
    scale = Fraction(1, 2 ** (largest.bit_length() - 1)) if largest > LARGEST_INTEGER else 1
    if each.high is not None:
        yield Row(direction, scale, each.high * scale, each.high_strict)
    if each.low is not None:
        yield Row(direction, -scale, -each.low * scale, each.low_strict)


def _cases(rows: list[list[Row]], inputs: int, outputs: int, *, on_inputs: bool) -> Iterable[UnsafeCase]:
    """The cases, all made at once and then taken apart."""
    every = list(chain.from_iterable(rows))
    entries = [(row, place, value) for row, each in enumerate(every) for place, value in each.direction]
    exact = [value * every[row].factor for row, _, value in entries]
    values, below, above = rounded(exact)
    places = torch.tensor([entry[:2] for entry in entries], dtype=torch.int64, device="cpu").view(-1, 2)
    of_input = places[:, 1] < inputs
    on_outputs = torch.zeros(len(every), outputs, dtype=torch.float64, device="cpu")
    on_outputs[places[~of_input, 0], places[~of_input, 1] - inputs] = values[~of_input]
    inputs_too = torch.zeros(len(every) if on_inputs else 1, inputs, dtype=torch.float64, device="cpu")
    inputs_too[places[of_input, 0], places[of_input, 1]] = values[of_input]
    inexact = torch.zeros(len(every), dtype=torch.bool, device="cpu")
    inexact[places[below != above, 0]] = True
    offsets, _, offsets_above = rounded([row.offset for row in every])
    strict = torch.tensor([row.strict for row in every], dtype=torch.bool, device="cpu")
    parts = (inputs_too.expand(len(every), inputs), on_outputs, offsets, offsets_above, strict, inexact)
    split = zip(*(part.split([len(each) for each in rows]) for part in parts), strict=True)
    return (
        UnsafeCase(
            on_inputs=row[0],
            on_outputs=row[1],
            offsets=row[2],
            offsets_above=row[3],
            strict=row[4],
            rounded=bool(row[5].any()),
        )
        for row in split
    )
