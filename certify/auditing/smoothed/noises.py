"""Whether a noise allows a radius, from the probabilities alone: each rule from its paper, in exact arithmetic.

A noise is read from the plain values in the manifest, and none of its code is used. ``True`` and ``False`` are proved;
``None`` says that this noise, or this pair of numbers, cannot be judged.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from statistics import NormalDist
from typing import Any

from mpmath import iv

from certify.auditing.exact import Enclosure, enclosure, fraction, interval, normal_probability
from certify.auditing.smoothed.radial import generalized_gaussian_allows

Plain = Mapping[str, Any]
Entries = Sequence[float] | None  # of the input, where the box around it matters
HALF = Fraction(1, 2)


def allows(noise: Plain, radius: float, p: float, other: float | None = None, x: Entries = None) -> bool | None:
    """Whether a label of at least probability ``p`` is certified within ``radius``.

    Args:
        noise: in plain values, with its name.
        radius: stated, in the norm of the noise.
        p: lower bound of the probability of the label.
        other: upper bound of that of every other class; None where it is what ``p`` leaves.
        x: the input, flat, for noises whose radius depends on it.
    """
    rule = RULES.get(str(noise.get("name")))
    if rule is None:
        return None
    if radius == 0:
        return True
    low, high = fraction(p), 1 - fraction(p)
    if other is not None:
        high = min(high, fraction(other))
    if low <= high:
        return False
    try:
        return rule(noise, fraction(radius), low, high, x)
    except (KeyError, ValueError, TypeError, ArithmeticError):  # of values that no noise has
        return None


def _gaussian(noise: Plain, r: Fraction, p: Fraction, other: Fraction, x: Entries) -> bool | None:
    """Cohen et al. (2019), Theorem 1: r <= sigma / 2 (quantile of p - quantile of other)."""
    shift = r / fraction(noise["sigma"])
    if other == 1 - p:
        return normal_probability(shift).at_most(p)
    if other <= 0:
        return None if p < 1 else True
    # With t the quantile of the other, the label needs the probability below t + 2 r / sigma. Both ends of t are tried.
    guess = fraction(NormalDist().inv_cdf(min(max(float(other), 1e-300), 1 - 1e-16)))
    slack = (abs(guess) + 1) * Fraction(1, 10**12)
    if normal_probability(guess - slack).high > other or normal_probability(guess + slack).low < other:
        return None
    if normal_probability(guess + slack + 2 * shift).at_most(p):
        return True
    return (
        False if normal_probability(guess - slack + 2 * shift).at_most(p) is False else _gaussian_near(shift, p, other)
    )


def _gaussian_near(shift: Fraction, p: Fraction, other: Fraction) -> bool | None:
    """The rule within 1e-12 of equality, by halving the interval of the quantile."""
    guess = fraction(NormalDist().inv_cdf(float(other)))
    low, high = guess - (abs(guess) + 1) / 10**12, guess + (abs(guess) + 1) / 10**12
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if normal_probability(middle).at_least(other) else (middle, high)
    if normal_probability(high + 2 * shift).at_most(p):
        return True
    return False if normal_probability(low + 2 * shift).at_most(p) is False else None


def _laplace(noise: Plain, r: Fraction, p: Fraction, other: Fraction, x: Entries) -> bool | None:
    """Teng et al. (2020), Theorem 1: r <= b max(ln(p / other) / 2, -ln(1 - (p - other)))."""
    size = interval(r / fraction(noise["scale"]))
    grown = enclosure(iv.exp(2 * size))
    rules = [
        Enclosure(grown.low * other, grown.high * other).at_most(p),
        enclosure(iv.exp(-size)).at_least(1 - p + other),
    ]
    return any(rules) or (None if None in rules else False)


def _overlap(noise: Plain, r: Fraction, p: Fraction, other: Fraction, x: Entries) -> bool | None:
    """Lee et al. (2019), and Levine and Feizi (2021): a class changes by r / 2w at most, so r <= w (p - other)."""
    return r <= fraction(noise["half_width"]) * (p - other)


def _in_box(noise: Plain, r: Fraction, p: Fraction, other: Fraction, x: Entries) -> bool | None:
    """Voracek and Hein (2023): the overlap of the worst perturbation inside the box is at least 1 - (p - other) / 2.

    Of one length, the worst moves the entries with the most room one after the other to the far side of the box, as the
    logarithm of the overlap is concave in the way of each.
    """
    if _overlap(noise, r, p, other, x):
        return True
    if x is None:
        return None
    width, low, high = (fraction(noise[key]) for key in ("half_width", "low", "high"))
    overlap, left = Fraction(1), r
    for value in sorted(x, key=lambda value: -max(value - float(low), float(high) - value)):
        way = min(max(fraction(value) - low, high - fraction(value)), left)
        overlap, left = overlap * max(1 - way / (2 * width), Fraction(0)), left - way
        if left <= 0 or overlap < 1 - (p - other) / 2:
            break
    return overlap >= 1 - (p - other) / 2


def _uniform_linf(noise: Plain, r: Fraction, p: Fraction, other: Fraction, x: Entries) -> bool | None:
    """Lee et al. (2019): (1 - r / 2w)^d is at least 1 - (p - other) / 2."""
    share = 1 - r / (2 * fraction(noise["half_width"]))
    if share <= 0:
        return False
    return enclosure(interval(share) ** int(noise["dimension"])).at_least(1 - (p - other) / 2)


def _ablation(noise: Plain, r: Fraction, p: Fraction, other: Fraction, x: Entries) -> bool | None:
    """Levine and Feizi (2020), Theorem 1: p - other > 2 (1 - C(d - r, k) / C(d, k))."""
    pixels, keep = int(noise["pixels"]), int(noise["keep"])
    unseen = Fraction(math.comb(pixels - math.ceil(r), keep), math.comb(pixels, keep)) if r <= pixels else Fraction(0)
    return p - other > 2 * (1 - unseen)


def _discrete(noise: Plain, r: Fraction, p: Fraction, other: Fraction, x: Entries) -> bool | None:
    """Lee et al. (2019), section 4: the least probability of the label exceeds the largest of every other class."""
    masses = _likelihoods(fraction(noise["keep_probability"]), int(noise["levels"]) - 1, math.ceil(r))
    return _least(masses, p) > 1 - _least(masses, 1 - other)


@lru_cache(maxsize=64)
def _likelihoods(keep: Fraction, others: int, changed: int) -> list[tuple[Fraction, Fraction]]:
    """Probabilities at the input and at one with so many changed entries, of all likelihood ratios, largest first."""
    other = (1 - keep) / others
    steps = ((keep, other), (1 - keep - other, 1 - keep - other), (other, keep))  # ratios keep / other, 1, other / keep
    here, there = [Fraction(1)], [Fraction(1)]
    for _ in range(changed):
        wide = [[Fraction(0)] * (len(here) + 2) for _ in range(2)]
        for place, (a, b) in enumerate(zip(here, there, strict=True)):
            for move, (c, d) in enumerate(steps):
                wide[0][place + move] += a * c
                wide[1][place + move] += b * d
        here, there = wide
    return list(zip(here, there, strict=True))


def _least(masses: list[tuple[Fraction, Fraction]], p: Fraction) -> Fraction:
    """Least probability at the changed input of a class of probability p: it takes the largest ratios first."""
    total = Fraction(0)
    for here, there in masses:
        if here >= p:
            return total + there * p / here
        total, p = total + there, p - here
    return total


def _in_norm(noise: Plain, r: Fraction, p: Fraction, other: Fraction, x: Entries) -> bool | None:
    """In a higher norm, the norm of the noise is at most d^(1/a - 1/b) times as large."""
    inner = noise["noise"]
    own = norm_of(inner)
    exponent = (0 if math.isinf(own) else 1 / fraction(own)) - (
        0 if noise["norm"] == "inf" else 1 / fraction(noise["norm"])
    )
    ratio = enclosure(iv.exp(iv.log(iv.mpf(int(noise["dimension"]))) * interval(max(exponent, Fraction(0)))))
    rule = RULES[inner["name"]]
    if rule(inner, r * ratio.high, p, other, x):
        return True
    return False if rule(inner, r * ratio.low, p, other, x) is False else None


def _generalized(noise: Plain, r: Fraction, p: Fraction, other: Fraction, x: Entries) -> bool | None:
    """Li et al. (2022), for one probability, which is what the rest of the library uses."""
    if noise["k"] == 0:
        return _gaussian(noise, r, p, 1 - p, x)
    if p <= HALF:
        return False
    return generalized_gaussian_allows(float(r / fraction(noise["sigma"])), float(p), noise["dimension"], noise["k"])


Rule = Callable[[Plain, Fraction, Fraction, Fraction, Entries], bool | None]
RULES: dict[str, Rule] = {
    "gaussian": _gaussian,
    "generalized_gaussian": _generalized,
    "laplace": _laplace,
    "uniform": _overlap,
    "uniform_in_box": _in_box,
    "uniform_linf": _uniform_linf,
    "splitting": _overlap,
    "discrete": _discrete,
    "ablation": _ablation,
    "in_norm": _in_norm,
}
NORMS = {"gaussian": 2.0, "generalized_gaussian": 2.0, "laplace": 1.0, "uniform": 1.0, "uniform_in_box": 1.0}
NORMS |= {"uniform_linf": math.inf, "splitting": 1.0, "discrete": 0.0, "ablation": 0.0}


def norm_of(noise: Plain) -> float:
    """Order of the norm that the radii of a noise are in; NaN where the noise is not known."""
    if noise.get("name") == "in_norm":
        return float(noise["norm"])
    return NORMS.get(str(noise.get("name")), math.nan)


def noise_of_table(table: Plain) -> Plain:
    """The noise of a method of smoothing, from its settings in the manifest."""
    noise = table.get("noise")
    return noise if isinstance(noise, Mapping) else {"name": "gaussian", "sigma": table.get("sigma")}


def subject_of(noise: Plain) -> str:
    """Beginning of the subject of certificates that speak of this noise; empty for a noise that is not known."""
    name = str(noise.get("name"))
    if name == "in_norm":
        return subject_of(noise["noise"])
    shown = {"generalized_gaussian": ("sigma", "k"), "discrete": ("keep_probability", "levels"), "ablation": ("keep",)}
    shown |= {"gaussian": ("sigma",), "laplace": ("scale",)}
    keys = shown.get(name, ("half_width",))
    title = "uniform" if name in ("uniform_in_box", "uniform_linf") else name
    known = name in RULES and all(key in noise for key in keys)
    return f"smoothed({title}({', '.join(f'{key}={noise[key]}' for key in keys)})" if known else ""
