"""Properties in VNN-LIB, read for the checker: unsafe sets of inputs with their outputs, from exact fractions."""

import gzip
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from certify.proofs.errors import Unreadable
from certify.proofs.networks.maps import Array

TOKEN = re.compile(r'[()]|;[^\n]*|"[^"]*"|[^\s();"\[\]]+(?:[ \t]*\[[^\[\]();"]*\])?|\S')
NUMBER = re.compile(r"[+-]?(?=\.?\d)\d*\.?\d*(?:[eE][+-]?\d{1,3})?|[+-]?\d+/\d+", re.ASCII)
IGNORED = {"check-sat", "get-model", "set-logic", "set-info", "set-option", "exit", "vnnlib-version"}
NEGATED = {"<=": ">", ">=": "<", "<": ">=", ">": "<=", "=": "!=", "==": "!=", "!=": "=", "distinct": "="}
MOST_SETS, DEEPEST = 2**18, 400

Form = str | list["Form"]
Direction = tuple[tuple[int, int], ...]  # places of variables, inputs first, with coprime integers, the first positive


class Linear(NamedTuple):
    """A sum of multiples of variables, by place, and a number."""

    terms: dict[int, Fraction]
    constant: Fraction

    def plus(self, other: "Linear", factor: Fraction) -> "Linear":
        """The sum with a multiple of another."""
        terms = dict(self.terms)
        for place, value in other.terms.items():
            terms[place] = terms.get(place, Fraction(0)) + factor * value
        kept = {place: value for place, value in terms.items() if value}
        return Linear(kept, self.constant + factor * other.constant)


class Below(NamedTuple):
    """A linear term that is at most 0, or below it where strict."""

    term: Linear
    strict: bool


class Ends(NamedTuple):
    """The range of a direction: its ends, and whether they are left out."""

    low: Fraction | None = None
    high: Fraction | None = None
    without_low: bool = False
    without_high: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether no number lies between."""
        if self.low is None or self.high is None:
            return False
        return self.low > self.high or (self.low == self.high and (self.without_low or self.without_high))


@dataclass(frozen=True, eq=False)
class UnsafeSet:
    """Inputs of a box whose values meet all rows: ``on_inputs @ x + on_outputs @ y <= offsets``.

    The set holds every unsafe point that is written: sides and offsets are rounded outward, and strict rows count as
    others.

    Attributes:
        low: (F,).
        high: (F,).
        on_inputs: (M, F).
        on_outputs: (M, K).
        offsets: (M,).
        exact: the ends of all directions, for the replay of witnesses.
    """

    low: Array
    high: Array
    on_inputs: Array
    on_outputs: Array
    offsets: Array
    exact: dict[Direction, Ends]

    def holds(self, point: list[Fraction]) -> bool:
        """Whether inputs with outputs behind them are unsafe by what is written, ends taken to the nearest float."""
        for direction, ends in self.exact.items():
            value = sum((scale * point[place] for place, scale in direction), Fraction(0))
            if ends.low is not None and not _above(value, Fraction(float(ends.low)), without=ends.without_low):
                return False
            if ends.high is not None and not _above(Fraction(float(ends.high)), value, without=ends.without_high):
                return False
        return True


@dataclass(frozen=True, eq=False)
class Property:
    """The unsafe sets of a text, over F inputs and K outputs."""

    sets: tuple[UnsafeSet, ...]
    inputs: int
    outputs: int


def read_property(content: bytes) -> Property:
    """The property of a text of version 1.0 or 2.0, which gzip may have compressed.

    Raises:
        Unreadable: the text is damaged, or says what is not linear.
    """
    try:
        text = (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode("utf-8-sig")
        forms = _forms(text)
        places, inputs = _declared([form for form in forms if _head(form).startswith("declare-")])
        cases: list[list[Below]] = [[]]
        for form in forms:
            if _head(form) == "assert" and len(form) == 2:
                cases = _both(cases, _cases(form[1], places, negated=False, depth=0), inputs)
            elif _head(form) not in IGNORED and not _head(form).startswith("declare-"):
                raise Unreadable(f"the property has the command {_head(form)!r}")
        found = (_set(_directions(case), inputs, len(places) - inputs) for case in cases)
        return Property(tuple(each for each in found if each is not None), inputs, len(places) - inputs)
    except Unreadable:
        raise
    except (OSError, EOFError, ArithmeticError, IndexError, TypeError, ValueError, zlib.error) as error:
        raise Unreadable(f"the property is damaged: {' '.join(str(error).split())}") from error


def _forms(text: str) -> list[Form]:
    """Nested lists of words."""
    stack: list[list[Form]] = [[]]
    for token in TOKEN.findall(text):
        if token == "(":
            stack.append([])
        elif token == ")":
            if len(stack) == 1:
                raise Unreadable("the property closes a parenthesis that is not open")
            closed = stack.pop()
            stack[-1].append(closed)
        elif token[0] != ";":
            stack[-1].append("".join(token.split()))
    if len(stack) != 1 or any(isinstance(form, str) for form in stack[0]):
        raise Unreadable("the property has an open parenthesis, or words outside of any")
    return stack[0]


def _head(form: Form) -> str:
    return form[0] if form and isinstance(form, list) and isinstance(form[0], str) else ""


def _declared(forms: list[Form]) -> tuple[dict[str, int], int]:
    """The places of variables, inputs before outputs, and the number of inputs."""
    names: dict[str, list[str]] = {"X": [], "Y": []}
    if any(_head(form) == "declare-network" for form in forms):
        if len(forms) != 1:
            raise Unreadable("the property declares several networks, or mixes versions")
        for part in forms[0][2:]:
            if _head(part) not in ("declare-input", "declare-output"):
                raise Unreadable(f"the property declares {_head(part)!r}")
            names["X" if _head(part) == "declare-input" else "Y"] += _entries(str(part[1]), str(part[2]))
    else:
        for form in forms:
            letter, _, number = str(form[1]).partition("_")
            if letter not in names or str(len(names[letter])) != number:
                numbers = sorted(int(str(each[1])[2:]) for each in forms if str(each[1]).startswith(f"{letter}_"))
                if letter not in names or numbers != list(range(len(numbers))):
                    raise Unreadable(f"the property declares {form[1]!r}, which is no X_0, X_1, ... or Y_0, Y_1, ...")
            names[letter].append(str(form[1]))
        for letter in names:
            names[letter].sort(key=lambda name: int(name[2:]))
    every = names["X"] + names["Y"]
    if len(set(every)) != len(every) or not names["X"] or not names["Y"]:
        raise Unreadable("the property declares a variable twice, or no input or output")
    return {name: place for place, name in enumerate(every)}, len(names["X"])


def _entries(name: str, kind: str) -> list[str]:
    """The entries of a tensor of version 2.0, such as X[0,1]; a tensor without dimensions has its name alone."""
    sizes = [int(size) for size in kind[kind.index("[") + 1 : -1].split(",") if size] if "[" in kind else []
    return [f"{name}[{','.join(map(str, index))}]" for index in np.ndindex(*sizes)] if sizes else [name]


def _cases(form: Form, places: dict[str, int], *, negated: bool, depth: int) -> list[list[Below]]:
    """A formula as a disjunction of conjunctions."""
    head, parts = _head(form), form[1:]
    if depth > DEEPEST:
        raise Unreadable("the property is nested too deep")
    if form in ("true", "false"):
        return [[]] if (form == "true") != negated else []
    if isinstance(form, str) or not parts:
        raise Unreadable(f"the property asserts {str(form)[:40]!r}")
    if head == "not":
        return _cases(parts[0], places, negated=not negated, depth=depth + 1)
    if head in ("and", "or", "=>"):
        turned = [negated != (head == "=>" and place < len(parts) - 1) for place in range(len(parts))]
        found = [_cases(part, places, negated=turn, depth=depth + 1) for part, turn in zip(parts, turned, strict=True)]
        if (head == "and") == negated:
            return [case for each in found for case in each]
        return _joined(found)
    if head not in NEGATED or len(parts) < 2:
        raise Unreadable(f"the property asserts {head!r} of {len(parts)} parts")
    relation = NEGATED[head] if negated else head
    sides = [_linear(part, places, depth) for part in parts]
    pairs = [_compared(relation, first, second) for first, second in pairwise(sides)]
    if len(pairs) > 1 and head in ("!=", "distinct"):
        raise Unreadable(f"the property asserts {head!r} of {len(parts)} parts")
    return [case for each in pairs for case in each] if negated else _joined(pairs)


def _joined(found: list[list[list[Below]]]) -> list[list[Below]]:
    """A conjunction of disjunctions, multiplied out."""
    result: list[list[Below]] = [[]]
    for each in found:
        if len(each) == 1:  # most are: nothing is multiplied
            for case in result:
                case.extend(each[0])
            continue
        if len(result) * len(each) > MOST_SETS:
            raise Unreadable(f"the property has more than {MOST_SETS} unsafe sets")
        result = [first + second for first in result for second in each]
    return result


def _both(cases: list[list[Below]], more: list[list[Below]], inputs: int) -> list[list[Below]]:
    """The conjunctions of both that do not contradict themselves."""
    found = _joined([cases, more])
    if len(more) == 1:
        return found
    return [case for case in found if not any(ends.is_empty for ends in _directions(case).values())]


def _compared(relation: str, first: Linear, second: Linear) -> list[list[Below]]:
    """The cases of one comparison."""
    down, up = first.plus(second, Fraction(-1)), second.plus(first, Fraction(-1))
    if relation in ("<", "<="):
        return [[Below(down, relation == "<")]]
    if relation in (">", ">="):
        return [[Below(up, relation == ">")]]
    if relation in ("=", "=="):
        return [[Below(down, strict=False), Below(up, strict=False)]]
    return [[Below(down, strict=True)], [Below(up, strict=True)]]


def _linear(form: Form, places: dict[str, int], depth: int) -> Linear:
    """The linear term that is written."""
    if isinstance(form, str):
        if form in places:
            return Linear({places[form]: Fraction(1)}, Fraction(0))
        if NUMBER.fullmatch(form) is None:
            raise Unreadable(f"the property uses {form[:40]!r}, which is neither a number nor a variable")
        return Linear({}, Fraction(form))
    head, parts = _head(form), [_linear(part, places, depth + 1) for part in form[1:]] if depth < DEEPEST else []
    if head not in ("+", "-", "*", "/") or not parts:
        raise Unreadable(f"the property computes {head!r}")
    found = parts[0]
    if head == "-" and len(parts) == 1:
        return Linear({}, Fraction(0)).plus(found, Fraction(-1))
    for part in parts[1:]:
        if head in "+-":
            found = found.plus(part, Fraction(1 if head == "+" else -1))
            continue
        if part.terms and (found.terms or head == "/"):
            raise Unreadable("the property multiplies or divides by variables")
        zero = Linear({}, Fraction(0))
        if part.terms:
            found = zero.plus(part, found.constant)
        else:
            found = zero.plus(found, part.constant if head == "*" else 1 / part.constant)
    return found


def _directions(case: list[Below]) -> dict[Direction, Ends]:
    """The ends of every direction; the direction without variables is empty where something false is demanded."""
    found: dict[Direction, Ends] = {}
    for (terms, constant), strict in case:
        if not terms:
            if constant > 0 or (constant == 0 and strict):
                found[()] = Ends(Fraction(1), Fraction(0))
            continue
        ordered = sorted(terms)
        shared = math.lcm(*(terms[place].denominator for place in ordered))
        whole = [int(terms[place] * shared) for place in ordered]
        divisor = math.gcd(*whole) * (1 if whole[0] > 0 else -1)
        direction = tuple(zip(ordered, (value // divisor for value in whole), strict=True))
        end, ends = -constant * shared / divisor, found.get(direction, Ends())
        if divisor > 0:
            if ends.high is None or end < ends.high or (end == ends.high and strict):
                ends = ends._replace(high=end, without_high=strict)
        elif ends.low is None or end > ends.low or (end == ends.low and strict):
            ends = ends._replace(low=end, without_low=strict)
        found[direction] = ends
    return found


def _set(directions: dict[Direction, Ends], inputs: int, outputs: int) -> UnsafeSet | None:
    """The unsafe set of a conjunction, None if it is empty."""
    if any(ends.is_empty for ends in directions.values()):
        return None
    low, high, rows = np.zeros(inputs), np.zeros(inputs), list[tuple[Direction, int, Fraction]]()
    for place in range(inputs):
        ends = directions.get(((place, 1),), Ends())
        if ends.low is None or ends.high is None:
            raise Unreadable(f"the property leaves input {place} without a bound")
        low[place], high[place] = 0.0 - _rounded_up(-ends.low), _rounded_up(ends.high) + 0.0  # no -0.0
    for direction, ends in directions.items():
        if len(direction) == 1 and direction[0][0] < inputs:
            continue
        rows += [(direction, 1, ends.high)] if ends.high is not None else []
        rows += [(direction, -1, -ends.low)] if ends.low is not None else []
    matrix, offsets = np.zeros((len(rows), inputs + outputs)), np.zeros(len(rows))
    for row, (direction, sign, offset) in enumerate(rows):
        offsets[row] = _rounded_up(offset)
        for place, scale in direction:
            if abs(scale) > 2**53:
                raise Unreadable("the property has coefficients that no float64 number is equal to")
            matrix[row, place] = sign * scale
    return UnsafeSet(low, high, matrix[:, :inputs], matrix[:, inputs:], offsets, directions)


def _rounded_up(value: Fraction) -> float:
    """The least float64 number that is not below."""
    nearest = float(value)
    return math.nextafter(nearest, math.inf) if Fraction(nearest) < value else nearest


def _above(larger: Fraction, smaller: Fraction, *, without: bool) -> bool:
    return larger > smaller if without else larger >= smaller


def boxes(prop: Property) -> Iterator[list[int]]:
    """Groups of sets with the same box."""
    groups: dict[bytes, list[int]] = {}
    for place, each in enumerate(prop.sets):
        groups.setdefault(each.low.tobytes() + each.high.tobytes(), []).append(place)
    yield from groups.values()
