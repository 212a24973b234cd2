"""Words for numbers, the same everywhere."""

import math
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction

from bounds.sets.orders import Order

DIGITS = 4  # significant digits of a printed bound
NOTHING = "—"
LEVELS = 255  # steps of an 8-bit image


def norm_name(norm: Order | str) -> str:
    """A norm as a reader writes it, or the set of perturbations in its place with the unit of its sizes.

    >>> norm_name(2), norm_name(math.inf), norm_name("rotation -10..10, degrees")
    ('l2', 'l∞', 'Rotation -10 to 10 (degrees)')
    """
    if isinstance(norm, str):
        name, unit = _named(norm)
        return f"{name} ({unit})"
    return "l∞" if norm == math.inf else f"l{norm:g}"


def with_unit(norm: Order | str) -> str:
    """A norm, or what stands in its place, with the unit of radii.

    >>> with_unit(2), with_unit("rotation -10..10, degrees")
    ('l2, in input units', 'Rotation -10 to 10, in degrees')
    """
    if not isinstance(norm, str):
        return f"{norm_name(norm)}, in input units"
    name, unit = _named(norm)
    return f"{name}, in {unit}"


def _named(key: str) -> tuple[str, str]:
    """Name of a set in words, and the unit of its sizes."""
    name, _, unit = key.rpartition(", ")
    return name[:1].upper() + name[1:].replace("..", " to "), unit


def rounded_down(value: float, digits: int = DIGITS) -> str:
    """``value`` with so many significant digits, never above it: a lower bound stays one when printed.

    >>> rounded_down(0.799644), rounded_down(0.00275599), rounded_down(0.5), rounded_down(math.inf)
    ('0.7996', '0.002755', '0.5', '∞')
    """
    return _rounded(value, digits, ROUND_FLOOR)


def rounded_up(value: float, digits: int = DIGITS) -> str:
    """``value`` with so many significant digits, never below it: an upper bound stays one when printed.

    >>> rounded_up(0.572101), rounded_up(1.0), rounded_up(3.00001e-7), rounded_up(math.nan)
    ('0.5722', '1', '3.001e-7', '—')
    """
    return _rounded(value, digits, ROUND_CEILING)


def estimated(value: float) -> str:
    """``value`` to the nearest, with a sign that it is about so much.

    >>> estimated(0.799644), estimated(math.nan)
    ('≈ 0.7996', '—')
    """
    return NOTHING if math.isnan(value) else f"≈ {value:.{DIGITS}g}"


def in_levels(value: float, *, up: bool, digits: int = 3) -> str:
    """``value`` of images in [0, 1] in levels of 8-bit ones, rounded down, or up if it bounds from above.

    >>> in_levels(8 / 255, up=False), in_levels(0.101, up=False), in_levels(0.101, up=True)
    ('8/255', '25.7/255', '25.8/255')
    """
    whole = round(value * LEVELS, 3)
    level = whole if whole / LEVELS == value else Decimal(value) * LEVELS  # the number that was meant, as it is written
    return f"{_rounded(level, digits, ROUND_CEILING if up else ROUND_FLOOR)}/{LEVELS}"


def in_input_units(norm: Order) -> bool:
    """Whether radii are in units of the input: not where entries are counted, or a set has a unit of its own."""
    return norm != 0 and not isinstance(norm, str)


def with_levels(shown: str, value: float, norm: Order, eight_bit: bool, *, up: bool = False, digits: int = 3) -> str:
    """A radius or distance as it is shown, and of 8-bit images in their levels too; not where entries are counted.

    >>> with_levels("0.03137", 8 / 255, math.inf, True), with_levels("3", 3.0, 0, True)
    ('0.03137 (8/255)', '3')
    """
    if not eight_bit or not in_input_units(norm) or not 0 < value < math.inf:
        return shown
    return f"{shown} ({in_levels(value, up=up, digits=digits)})"


def stated_radius(value: float, norm: Order, eight_bit: bool) -> str:
    """A radius that somebody asked for: nothing is proved by it, so it is rounded to the nearest.

    >>> stated_radius(0.05, math.inf, True), stated_radius(8 / 255, 2, False)
    ('0.05 (12.75/255)', '0.0313725')
    """
    return with_levels(f"{value:.6g}", value, norm, eight_bit, digits=4)


def percent(share: float, up: bool = False) -> str:
    """A share in percent, a lower bound rounded down and an upper bound up.

    >>> percent(2 / 3), percent(2 / 3, up=True), percent(0.57), percent(1.0)
    ('66.6', '66.7', '57.0', '100.0')
    """
    exact = 1000 * Fraction(share).limit_denominator(10**7)  # the count over the number of inputs, not its float
    tenths = math.ceil(exact) if up else math.floor(exact)
    return f"{tenths / 10:.1f}"


def _rounded(value: float | Decimal, digits: int, rounding: str) -> str:
    """Decimal arithmetic, because the shortest decimal of a float may lie on either side of it."""
    if math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    kept = Context(prec=digits, rounding=rounding).create_decimal(Decimal(value))
    if kept == 0:
        return "0"
    return f"{kept:f}" if -5 <= kept.adjusted() < 7 else f"{kept.normalize():e}"


def listed(words: Sequence[str]) -> str:
    """Words as an enumeration.

    >>> listed(["l2"]), listed(["l1", "l2", "l∞"])
    ('l2', 'l1, l2 and l∞')
    """
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


NETWORKS = {
    "base": "the model itself",
    "quantised copy": "the quantised copy",
    "base, quantised copy and all between": "the model, its quantised copy and all between",
}


def classifier_name(subject: str) -> str:
    """The classifier that a result speaks of.

    >>> classifier_name("base"), classifier_name("smoothed(gaussian(sigma=0.25))")
    ('the model itself', 'the smoothed classifier')
    """
    if subject in NETWORKS:
        return NETWORKS[subject]
    return "the smoothed classifier" if subject.startswith("smoothed(") else f"the classifier {subject}"


def panel_name(subject: str) -> str:
    """The classifier of a curve with its setting, as a title.

    >>> panel_name("base"), panel_name("smoothed(gaussian(sigma=0.25))")
    ('the model itself', 'smoothed by gaussian(sigma=0.25)')
    """
    if subject.startswith("smoothed("):
        return f"smoothed by {subject.removeprefix('smoothed(').removesuffix(')')}"
    return classifier_name(subject)
