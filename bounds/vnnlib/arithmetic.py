"""Linear terms of variables: sums, differences and multiples, exactly."""

import re
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from bounds.errors import InvalidProperty
from bounds.vnnlib.expressions import Form, quoted

NUMBER = re.compile(r"([+-]?)(?=\.?\d)(\d*)\.?(\d*)(?:[eE]([+-]?\d+))?", re.ASCII)
RATIO = re.compile(r"([+-]?\d+)/(\d+)", re.ASCII)
MOST_DIGITS, LARGEST_EXPONENT = 1000, 400  # of a number: more of either cannot be meant, and would take long
LARGEST = int(sys.float_info.max)
OPERATIONS = ("+", "-", "*", "/")

Exact = int | Fraction
Lookup = Callable[[str], int | None]  # the place of a variable among inputs, then outputs, by its name


class Linear(NamedTuple):
    """A sum of multiples of variables and a number.

    Attributes:
        terms: coefficients by the place of the variable; none is 0.
        constant: the number.
    """

    terms: dict[int, Exact]
    constant: Exact

    def times(self, factor: Exact) -> "Linear":
        """The multiple by a number."""
        if factor == 0:
            return Linear({}, 0)
        return Linear({place: value * factor for place, value in self.terms.items()}, self.constant * factor)


def linear_term(form: Form | str, around: Form, place_of: Lookup) -> Linear:
    """The linear term that is written, however deep it is nested.

    Args:
        form: the term.
        around: the list that it stands in, for messages.
        place_of: the variables.

    Raises:
        InvalidProperty: a word that is neither number nor variable, another operation, a product of variables.
    """
    if isinstance(form, str):
        return _word(form, around, place_of)
    waiting: list[tuple[Form | str, Form, bool]] = [(form, around, False)]
    values: list[Linear] = []
    while waiting:
        item, outer, is_done = waiting.pop()
        if isinstance(item, str):
            values.append(_word(item, outer, place_of))
        elif not is_done:
            if item.head not in OPERATIONS or len(item) == 1:
                raise item.refusal(f"expected a number, a variable or one of {', '.join(OPERATIONS)} with operands")
            waiting.append((item, outer, True))
            waiting += [(operand, item, False) for operand in reversed(item[1:])]
        else:
            count = len(item) - 1
            operands = values[-count:]
            del values[-count:]
            values.append(_combined(item, operands))
    return values[0]


def exact_number(word: str) -> Exact | None:
    """The exact value of a number as it is written, None for another word.

    Raises:
        ValueError: more digits or a larger exponent than a number can have here, a number beyond float64, or a
            division by 0.
    """
    decimal = NUMBER.fullmatch(word)
    ratio = RATIO.fullmatch(word) if decimal is None else None
    if (decimal or ratio) and len(word) > MOST_DIGITS:
        raise ValueError(f"a number has more than {MOST_DIGITS} digits")
    if ratio:
        if int(ratio[2]) == 0:
            raise ValueError("a number is divided by 0")
        return Fraction(int(ratio[1]), int(ratio[2]))
    if not decimal:
        return None
    sign, whole, behind, exponent = decimal.groups()
    power = int(exponent or 0)
    if abs(power) > LARGEST_EXPONENT:
        raise ValueError(f"a number has an exponent beyond {LARGEST_EXPONENT}")
    places = power - len(behind)
    mantissa = int(f"{sign}{whole}{behind}")
    value = mantissa * 10**places if places >= 0 else Fraction(mantissa, 10**-places)
    if len(whole) + power > 300 and abs(value) > LARGEST:
        raise ValueError("a number is beyond the largest of float64")
    return value


def _word(word: str, around: Form, place_of: Lookup) -> Linear:
    try:
        value = exact_number(word)
        if value is not None:
            return Linear({}, value)
        place = place_of(word)
    except (ValueError, InvalidProperty) as error:
        raise around.refusal(str(error)) from None
    if place is None:
        raise around.refusal(f"{quoted(word)} is neither a number nor a declared variable")
    return Linear({place: 1}, 0)


def _combined(form: Form, operands: list[Linear]) -> Linear:
    """The value of an operation."""
    match form.head:
        case "+":
            return _sum(operands)
        case "-" if len(operands) == 1:
            return operands[0].times(-1)
        case "-":
            return _sum([operands[0], _sum(operands[1:]).times(-1)])
        case "*":
            return _product(form, operands)
    return _quotient(form, operands)


def _sum(parts: list[Linear]) -> Linear:
    """The sum; the part with most terms takes up the others, so that long and deep sums take no longer."""
    largest = max(parts, key=lambda part: len(part.terms))
    terms = largest.terms
    for part in parts:
        if part is largest:
            continue
        for place, value in part.terms.items():
            total = terms.get(place, 0) + value
            if total:
                terms[place] = total
            else:
                terms.pop(place, None)
    return Linear(terms, sum(part.constant for part in parts))


def _product(form: Form, factors: list[Linear]) -> Linear:
    result = factors[0]
    for factor in factors[1:]:
        if result.terms and factor.terms:
            raise form.refusal("a product of variables is not linear: multiply by numbers alone")
        result = factor.times(result.constant) if factor.terms else result.times(factor.constant)
    return result


def _quotient(form: Form, operands: list[Linear]) -> Linear:
    result = operands[0]
    for divisor in operands[1:]:
        if divisor.terms or divisor.constant == 0:
            raise form.refusal("the divisor must be a number other than 0")
        result = result.times(Fraction(1) / divisor.constant)
    return result
