"""Combinations of inequalities that are possible: disjunctions multiplied out, without what contradicts itself.

A disjunction is multiplied out as it comes, and a combination that contradicts itself is dropped at once. So their
number is that of possible combinations, not the product of all disjunctions. Where even that is too large, the property
is refused: kept as it is, it would only be multiplied out later, by a search without end.
"""

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple, TypeVar

from bounds.vnnlib.arithmetic import Exact
from bounds.vnnlib.expressions import Form
from bounds.vnnlib.formulas import MOST_CASES, MOST_LITERALS, Cases, Conjunction, Literal, too_many_cases

Key = TypeVar("Key")
Direction = tuple[tuple[int, int], ...]  # places of variables with coprime integers, the first of them above 0


class Segment(NamedTuple):
    """An interval with no end, one or two, each of which may be left out of it."""

    low: Exact | None = None
    high: Exact | None = None
    low_strict: bool = False
    high_strict: bool = False

    def up_to(self, end: Exact, strict: bool) -> "Segment":
        """The part at and below an end."""
        if self.high is None or end < self.high or (end == self.high and strict):
            return self._replace(high=end, high_strict=strict)
        return self

    def down_to(self, end: Exact, strict: bool) -> "Segment":
        """The part at and above an end."""
        if self.low is None or end > self.low or (end == self.low and strict):
            return self._replace(low=end, low_strict=strict)
        return self

    @property
    def is_empty(self) -> bool:
        """Whether no number lies in it."""
        if self.low is None or self.high is None or self.low < self.high:
            return False
        return self.low > self.high or self.low_strict or self.high_strict


class Combination(NamedTuple):
    """Inequalities that hold all at once: the range of each direction, those of single inputs apart from the others."""

    inputs: dict[int, Segment]
    others: dict[Direction, Segment]


ANY = Segment()


class Expansion:
    """The demands of assertions, taken up one after the other, and the combinations that they allow.

    Args:
        inputs: number of entries of inputs, whose places come before those of outputs.

    Attributes:
        base: what holds in every combination.
    """

    def __init__(self, inputs: int) -> None:
        self._inputs = inputs
        self._disjunctions: list[tuple[Form, Cases]] = []
        self._is_possible = True
        self.base = Combination({}, {})

    def demand(self, form: Form, cases: Cases) -> None:
        """Take up that one of the cases must hold, as ``form`` says."""
        if len(cases) == 1:
            self._is_possible = self._is_possible and self._narrow(self.base, cases[0])
        else:
            self._disjunctions.append((form, cases))

    def combinations(self) -> list[Combination]:
        """The combinations, each with the ranges that are narrower there than in the base.

        Raises:
            InvalidProperty: too many of them.
        """
        found = [Combination({}, {})] if self._is_possible else []
        for form, cases in self._disjunctions:
            possible: list[Combination] = []
            size = 0
            for combination in found:
                for case in cases:
                    more = Combination(dict(combination.inputs), dict(combination.others))
                    if not self._narrow(more, case):
                        continue
                    possible.append(more)
                    size += len(more.inputs) + len(more.others)
                    if len(possible) > MOST_CASES or size > MOST_LITERALS:
                        raise too_many_cases(form)
            found = possible
        return found

    def _narrow(self, combination: Combination, case: Conjunction) -> bool:
        """Add inequalities to a combination; False if they cannot hold at once."""
        for literal in case:
            if not literal.terms:
                if not literal.holds_always:
                    return False
                continue
            direction, scale = _direction(literal)
            end = literal.offset * scale if scale in (1, -1) else Fraction(literal.offset) / scale
            place = direction[0][0]
            if len(direction) == 1 and place < self._inputs:
                narrower = _part(combination.inputs, self.base.inputs, place, end, scale, literal.strict)
            else:
                narrower = _part(combination.others, self.base.others, direction, end, scale, literal.strict)
            if narrower.is_empty:
                return False
        return True


def _part(
    own: dict[Key, Segment], base: Mapping[Key, Segment], key: Key, end: Exact, scale: Exact, strict: bool
) -> Segment:
    """Narrow the range of a direction, which is kept where it is narrower than that of the base."""
    before = own.get(key) or base.get(key, ANY)
    after = before.up_to(end, strict) if scale > 0 else before.down_to(end, strict)
    if after is not before:
        own[key] = after
    return after


def _direction(literal: Literal) -> tuple[Direction, Exact]:
    """The direction of a left side, and how often it is the left side of the literal."""
    if len(literal.terms) == 1:
        ((place, scale),) = literal.terms.items()
        return ((place, 1),), scale
    places = sorted(literal.terms)
    values = [literal.terms[place] for place in places]
    shared = math.lcm(*(value.denominator for value in values))
    whole = [value.numerator * (shared // value.denominator) for value in values]
    divisor = math.gcd(*whole) * (1 if whole[0] > 0 else -1)
    return tuple(zip(places, (value // divisor for value in whole), strict=True)), Fraction(divisor, shared)
