"""Assertions: nested ``and``, ``or``, ``not`` and comparisons become a disjunction of conjunctions."""

from itertools import chain, pairwise
from typing import NamedTuple

from bounds.errors import InvalidProperty
from bounds.vnnlib.arithmetic import Exact, Linear, Lookup, linear_term
from bounds.vnnlib.expressions import Form

MOST_CASES, MOST_LITERALS = 2**18, 2**24  # of a property: what takes about a gigabyte to hold

COMPARISONS = {"<=", ">=", "<", ">", "=", "==", "!=", "distinct"}
NEGATED = {"<=": ">", ">=": "<", "<": ">=", ">": "<=", "=": "!=", "==": "!=", "!=": "=", "distinct": "="}


class Literal(NamedTuple):
    """One inequality: the sum of coefficients times variables is at most, or where strict below, the offset."""

    terms: dict[int, Exact]
    offset: Exact
    strict: bool

    @property
    def holds_always(self) -> bool:
        """Whether one without variables holds."""
        return self.offset > 0 or (self.offset == 0 and not self.strict)


Conjunction = tuple[Literal, ...]
Cases = list[Conjunction]  # of which one must hold


def clauses(form: Form | str, around: Form, place_of: Lookup) -> list[Cases]:
    """The demands of a formula, which hold all at once: one for each part of ``and`` at its top.

    Args:
        form: the formula.
        around: the assertion, for messages.
        place_of: the variables.

    Raises:
        InvalidProperty: what is no formula, is not linear, or has too many cases.
    """
    found: list[Cases] = []
    waiting: list[Form | str] = [form]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Form) and part.head == "and":
            waiting += _operands(part)[::-1]
        else:
            found.append(_cases(part, around, place_of))
    return found


def _cases(whole: Form | str, around: Form, place_of: Lookup) -> Cases:
    """The disjunction that a formula says, however deep it is nested."""
    waiting: list[tuple[Form | str, Form, bool, bool]] = [(whole, around, False, False)]
    values: list[Cases] = []
    while waiting:
        form, outer, negated, is_done = waiting.pop()
        if isinstance(form, str):
            if form not in ("true", "false"):
                raise outer.refusal(f"expected a comparison, and, or, not, true or false, got {form!r}")
            values.append([()] if (form == "true") != negated else [])
        elif is_done:
            count = len(form) - 1
            parts = values[-count:]
            del values[-count:]
            values.append(_joined(form, parts, all_at_once=(form.head == "and") != negated))
        elif form.head in COMPARISONS:
            values.append(_comparison(form, place_of, negated=negated))
        elif form.head == "not":
            if len(form) != 2:
                raise form.refusal("'not' takes one formula")
            waiting.append((form[1], form, not negated, False))
        elif form.head in ("and", "or", "=>"):
            waiting.append((form, outer, negated, True))
            operands = _operands(form)
            turned = [negated != (form.head == "=>" and place < len(operands) - 1) for place in range(len(operands))]
            waiting += [(part, form, turn, False) for part, turn in zip(operands[::-1], turned[::-1], strict=True)]
        else:
            raise form.refusal("expected a comparison, and, or, not or =>")
    return values[0]


def _operands(form: Form) -> list[Form | str]:
    if len(form) == 1:
        raise form.refusal(f"{form.head!r} takes at least one formula")
    return form[1:]


def _joined(form: Form, parts: list[Cases], *, all_at_once: bool) -> Cases:
    """The disjunction of formulas, or their conjunction multiplied out."""
    if not all_at_once:
        return [case for part in parts for case in part]
    common = tuple(chain.from_iterable(part[0] for part in parts if len(part) == 1))
    result: Cases = [common]
    for part in (part for part in parts if len(part) != 1):
        literals = len(part) * sum(map(len, result)) + len(result) * sum(map(len, part))
        if len(result) * len(part) > MOST_CASES or literals > MOST_LITERALS:
            raise too_many_cases(form)
        result = [first + second for first in result for second in part]
    return result


def too_many_cases(form: Form) -> InvalidProperty:
    """The error for a product of disjunctions that cannot be multiplied out."""
    return form.refusal(f"this makes more than {MOST_CASES} cases of unsafe sets: split the property")


def _comparison(form: Form, place_of: Lookup, *, negated: bool) -> Cases:
    """A comparison of two terms, or of each of several with the next."""
    if len(form) < 3:
        raise form.refusal(f"{form.head!r} compares at least two terms")
    relation = NEGATED[form.head] if negated else form.head
    if len(form) > 3 and form.head in ("!=", "distinct"):
        raise form.refusal(f"{form.head!r} compares two terms")
    sides = [linear_term(side, form, place_of) for side in form[1:]]
    pairs = [_relation(relation, first, second) for first, second in pairwise(sides)]
    return _joined(form, pairs, all_at_once=not negated)


def _relation(relation: str, first: Linear, second: Linear) -> Cases:
    """The cases of a comparison of two terms."""
    if relation in ("<", "<="):
        return [(_literal(first, second, strict=relation == "<"),)]
    if relation in (">", ">="):
        return [(_literal(second, first, strict=relation == ">"),)]
    if relation in ("=", "=="):
        return [(_literal(first, second, strict=False), _literal(second, first, strict=False))]
    return [(_literal(first, second, strict=True),), (_literal(second, first, strict=True),)]


def _literal(smaller: Linear, larger: Linear, *, strict: bool) -> Literal:
    terms = dict(smaller.terms)
    for place, value in larger.terms.items():
        total = terms.get(place, 0) - value
        if total:
            terms[place] = total
        else:
            del terms[place]
    return Literal(terms, larger.constant - smaller.constant if smaller.constant else larger.constant, strict)
