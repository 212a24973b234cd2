"""Noises against changes of few entries or pixels. Their radii are whole numbers, and exact.

Thresholds are fractions of whole numbers. A float64 probability exceeds a fraction if and only if it exceeds the
largest float64 number that is not above it, so that tables of these decide exactly.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput
from bounds.numerics import round_down
from certify.smoothing.drawing.bits import Source
from certify.smoothing.drawing.distributions import Distribution, require_grid
from certify.smoothing.drawing.integer_noise import IntegerLaw, grid_integers
from certify.smoothing.noises.base import Noise, radii

LARGEST_RADIUS = 500  # largest radius of discrete noise that is computed


class CountingNoise(Noise):
    """A noise that certifies numbers of changes, as float64."""

    norm = 0.0

    @property
    @abstractmethod
    def thresholds(self) -> Tensor:
        """The probability to exceed for a radius of 0, 1, ..., rounded down; (R,) ascending float64, on the CPU."""

    def radius(self, p_lower: Tensor, p_upper: Tensor | None = None) -> Tensor:
        """As in :meth:`Noise.radius`, a whole number."""
        return super().radius(p_lower, p_upper).ceil()  # takes back the rounding down of a whole number

    def probability_needed(self, radius: float | Tensor) -> Tensor:
        """As in :meth:`Noise.probability_needed`, exactly the smallest; half a change counts as a whole one."""
        return self._probability(radii(radius))

    def _radius(self, p: Tensor) -> Tensor:
        return (torch.searchsorted(self.thresholds.to(p.device), p) - 1).double()  # thresholds below p, without the 0th

    def _probability(self, radius: Tensor) -> Tensor:
        table = self.thresholds.to(radius.device)
        needed = torch.nextafter(table, torch.ones_like(table))
        place = radius.ceil().clamp(max=len(table))
        return torch.cat([needed, torch.ones_like(needed[:1])])[place.long()]


def _floor(numerator: int, denominator: int) -> float:
    """The largest float64 number that is at most a fraction in [1/2, 1]."""
    return ((numerator << 53) // denominator) / 2**53


@dataclass(frozen=True)
class Ablation(CountingNoise):
    r"""Randomized ablation: the model sees ``keep`` pixels, chosen at random, and certifies a number of changed ones.

    A pixel is all channels at one place. If r of d pixels change, the model sees none of them with the
    probability :math:`u = \binom{d-r}{k} / \binom{d}{k}`. So the probability of a class changes by :math:`1 - u` at
    most, and the label stays as long as :math:`p_A - p_B > 2 (1 - u)`.

    The model sees x and 1 - x in twice as many channels, and 0 in all of them for a pixel that is not kept. It must
    have been trained on such inputs.

    Args:
        keep: pixels that are kept, the number k.
        pixels: pixels of an input (C, \*spatial), the product of its spatial sizes: the number d.

    Raises:
        InvalidInput: keep or pixels below 1, keep above pixels; later, inputs with another number of pixels, or with
            values outside [0, 1].

    References:
        Levine, Feizi (2020), Robustness certificates for sparse adversarial attacks by randomized ablation,
        arXiv:1911.09272, Theorem 1.

    >>> Ablation(keep=75, pixels=1024).radius(torch.tensor([0.5, 0.99], dtype=torch.float64))
    tensor([0., 8.], dtype=torch.float64)
    """

    keep: int
    pixels: int

    def __post_init__(self) -> None:
        checks.at_least("pixels", self.pixels, 1)
        checks.at_most("keep", checks.at_least("keep", self.keep, 1), self.pixels)

    def __str__(self) -> str:
        return f"ablation(keep={self.keep})"

    @property
    def domain(self) -> str:
        """Perturbed inputs that a certificate is about, for records."""
        return "inputs in [0, 1]"

    @property
    def distribution(self) -> Distribution:
        """Distribution that ablated inputs are drawn from."""
        return KeptPixels(self.keep, self.pixels)

    def check(self, x: Tensor) -> None:
        """Raise InvalidInput unless the inputs have as many pixels, with values in [0, 1]."""
        self.distribution.check(x)

    @property
    def thresholds(self) -> Tensor:
        """The probability to exceed for a radius of 0, 1, ..., rounded down."""
        return _ablation_thresholds(self.keep, self.pixels)

    def _radius_between(self, p_lower: Tensor, p_upper: Tensor) -> Tensor:
        # p_A - p_B > 2 (1 - u) is what the rule for one probability says of 1/2 + (p_A - p_B) / 2.
        p = round_down(0.5 + 0.5 * round_down(p_lower - p_upper, 2.0**-53), 2.0**-53)
        return self._radius(torch.maximum(p, p_lower)).clamp(min=0.0)


@lru_cache(maxsize=32)
def _ablation_thresholds(keep: int, pixels: int) -> Tensor:
    table, unseen, all_ = [], math.comb(pixels, keep), math.comb(pixels, keep)
    for r in range(pixels + 1):
        if 2 * unseen <= all_:  # even probability 1 is too small
            break
        table.append(_floor(3 * all_ - 2 * unseen, 2 * all_))
        unseen = unseen * (pixels - r - keep) // (pixels - r)  # without remainder
    return torch.tensor(table, dtype=torch.float64, device="cpu")


@dataclass(frozen=True)
class KeptPixels(Distribution):
    """Inputs with a random subset of their pixels kept. All subsets of one size are equally likely."""

    keep: int
    pixels: int

    sampling = "exact"

    def check(self, x: Tensor) -> None:
        """Raise InvalidInput unless the inputs have as many pixels, with values in [0, 1]."""
        checks.inputs(x, 0.0, 1.0)
        found = math.prod(x.shape[2:])
        if found != self.pixels:
            raise InvalidInput(
                f"x must have shape (N, C, *spatial) with {self.pixels} pixels, got {tuple(x.shape)} with {found}: "
                f"give that number, or x.unsqueeze(1) where every entry is a pixel"
            )

    def encode(self, x: Tensor) -> Tensor:
        """The values and their complements, in twice as many channels."""
        x = super().encode(x).abs()  # no zero has a sign, which would betray what was not kept
        return torch.cat([x, 1 - x], dim=1)

    def clean(self, x: Tensor) -> Tensor:
        """Inputs with all pixels kept."""
        return self.encode(x).to(x.dtype)

    def raw(self, encoded: Tensor, draws: int) -> Tensor:
        """A buffer for masks."""
        return encoded.new_empty(draws, *encoded.shape[2:])

    def draw_(self, raw: Tensor, generator: torch.Generator) -> Tensor:
        """Fill with 1 for pixels that are kept and 0 for others. The pixels with the largest random keys are kept."""
        keys = torch.empty(len(raw), self.pixels, dtype=torch.int64, device=raw.device).random_(generator=generator)
        raw.zero_().view(len(raw), self.pixels).scatter_(1, keys.topk(self.keep, sorted=False).indices, 1.0)
        return raw

    def perturb_(self, out: Tensor, encoded: Tensor, raw: Tensor) -> Tensor:
        """Set all channels of a pixel to 0 unless it is kept."""
        return torch.mul(encoded.unsqueeze(1), raw.unsqueeze(1), out=out)

    def error(self, entries: int) -> float:
        """Probability that two of the 63-bit keys are equal. Subsets are equally likely where all keys differ."""
        return math.comb(self.pixels, 2) * 2.0**-63

    def on_grid(self, steps: int) -> Distribution:
        """This distribution, which does not compute with values of pixels."""
        return self


@dataclass(frozen=True)
class DiscreteNoise(CountingNoise):
    r"""Noise on a grid of values: each entry stays, or takes any of the other values with equal probability.

    The radius is the largest number r of changed entries, up to 500, at which the label still leads for the worst
    classifier with the same probabilities (Neyman and Pearson). Only the number of changed entries matters, not
    their values. Each contributes :math:`\pm \ln(\kappa / \beta)` or 0 to the logarithm of the likelihood ratio,
    with the probabilities :math:`\kappa`, :math:`\beta = (1 - \kappa) / K` and :math:`(K - 1) \beta`, where K is the
    number of other values.

    Args:
        keep_probability: the probability :math:`\kappa` that an entry stays, above 1 / levels. A float counts as the
            binary fraction that it is; a :class:`fractions.Fraction` says 1/5 exactly.
        levels: values of an entry, the multiples of 1 / (levels - 1) in [0, 1]; K + 1.

    Raises:
        InvalidInput: levels below 2, keep_probability outside (1 / levels, 1); later, inputs off the grid.

    References:
        Lee et al. (2019), Tight certificates of adversarial robustness for randomly smoothed classifiers,
        arXiv:1906.04948, section 4; thresholds from the changed entries alone are our own.

    >>> DiscreteNoise(keep_probability=0.8, levels=2).radius(torch.tensor([0.5, 0.99], dtype=torch.float64))
    tensor([0., 2.], dtype=torch.float64)
    """

    keep_probability: float | Fraction
    levels: int = 256

    def __post_init__(self) -> None:
        checks.at_least("levels", self.levels, 2)
        checks.probability("keep_probability", self.keep_probability)  # type: ignore[arg-type]  # float() takes fractions
        if Fraction(self.keep_probability) * self.levels <= 1:
            raise InvalidInput(f"keep_probability must exceed 1 / levels, got {self.keep_probability}")

    def __str__(self) -> str:
        return f"discrete(keep_probability={self.keep_probability}, levels={self.levels})"

    @property
    def domain(self) -> str:
        """Perturbed inputs that a certificate is about, for records."""
        return f"multiples of 1/{self.levels - 1} in [0, 1]"

    @property
    def distribution(self) -> Distribution:
        """Distribution that noisy inputs are drawn from."""
        return ReplacedValues(float(self.keep_probability), self.levels)

    def check(self, x: Tensor) -> None:
        """Raise InvalidInput unless the inputs are on the grid."""
        self.distribution.check(x)

    @property
    def thresholds(self) -> Tensor:
        """The probability to exceed for a radius of 0, 1, ..., rounded down, up to the largest below 1."""
        return _discrete_thresholds(Fraction(self.keep_probability), self.levels - 1)

    def _radius_between(self, p_lower: Tensor, p_upper: Tensor) -> Tensor:
        """Largest r at which the least value of p_A exceeds the largest value of p_B, in exact arithmetic, row by row.

        The largest value of p_B is one minus the least value of 1 - p_B.
        """
        values = (p.flatten().tolist() for p in (p_lower, p_upper))
        pairs = [(Fraction(a), 1 - Fraction(b)) for a, b in zip(*values, strict=True)]
        radius, open_ = [0.0] * len(pairs), list(range(len(pairs)))
        for r, masses in enumerate(_evidence_masses(Fraction(self.keep_probability), self.levels - 1)):
            open_ = [row for row in open_ if sum(_least_probability(masses, p) for p in pairs[row]) > 1]
            if not open_ or r == len(self.thresholds):
                break
            for row in open_:
                radius[row] = float(r)
        return torch.tensor(radius, dtype=torch.float64, device=p_lower.device).view_as(p_lower)


def _evidence_masses(keep: Fraction, others: int) -> Iterator[list[int]]:
    """For r = 0, 1, ... changed entries, integers in proportion to the probabilities of evidence -r, ..., r.

    These are the probabilities at the unchanged input. At the changed input they are the same in reverse order.
    Evidence of s means a likelihood ratio of ``(keep / beta)**s``.
    """
    other = keep.denominator - keep.numerator
    weights = (other, (others - 1) * other, others * keep.numerator)  # of -1, 0, 1
    masses = [1]
    while True:
        yield masses
        wide = [0, 0, *masses, 0, 0]
        masses = [sum(w * wide[i + 2 - j] for j, w in enumerate(weights)) for i in range(len(masses) + 2)]


def _matching(first: list[int], second: list[int], amount: Fraction) -> tuple[int, int]:
    """Share of ``second`` in the last cells that hold ``amount`` of ``first``: numerator and denominator."""
    total, done, scale = sum(first), 0, amount.denominator
    left = amount.numerator * total
    for a, b in zip(reversed(first), reversed(second), strict=True):
        if a * scale >= left:  # a part of this cell
            return done * a * scale + b * left, a * scale * total
        left, done = left - a * scale, done + b
    raise AssertionError("amounts never exceed 1")


def _least_probability(masses: list[int], p: Fraction) -> Fraction:
    """Least probability that a class of probability ``p`` can have at the changed input."""
    return Fraction(*_matching(masses, masses[::-1], p))


@lru_cache(maxsize=32)
def _discrete_thresholds(keep: Fraction, others: int) -> Tensor:
    table: list[float] = []
    for masses in _evidence_masses(keep, others):
        # Cells of largest likelihood ratio first, until the changed input has 1/2 in them.
        threshold = _floor(*_matching(masses[::-1], masses, Fraction(1, 2)))
        if threshold >= 1 - 2.0**-53 or len(table) > LARGEST_RADIUS:
            break
        table.append(threshold)
    return torch.tensor(table, dtype=torch.float64, device="cpu")


@dataclass(frozen=True)
class ReplacedValues(Distribution):
    """Values that are each replaced by another one with probability ``1 - keep_probability``."""

    keep_probability: float
    levels: int

    in_place = True

    @property
    def sampling(self) -> str:  # type: ignore[override]  # a constant of the class elsewhere
        """The grid that values are drawn on."""
        return f"integers on the grid 1/{self.levels - 1}"

    def check(self, x: Tensor) -> None:
        """Raise InvalidInput unless the inputs are multiples of 1 / (levels - 1) in [0, 1]."""
        checks.inputs(x, 0.0, 1.0)
        require_grid(x, self.levels - 1, "round it, or set levels")

    def encode(self, x: Tensor) -> Tensor:
        """The integers behind the inputs."""
        return grid_integers(x, self.levels - 1).to(torch.promote_types(x.dtype, torch.float32))

    def draw_(self, raw: Tensor, generator: torch.Generator) -> Tensor:
        """Fill with integers to add modulo ``levels``; 0 keeps the value."""
        return self.draw_blocks_(raw, [Source(generator)])

    def draw_blocks_(self, raw: Tensor, sources: Sequence[Source]) -> Tensor:
        """Fill with integers, which are looked up for all blocks at once."""
        return _offsets(self, raw.device).draw_blocks_(raw, sources)

    def perturb_(self, out: Tensor, encoded: Tensor, raw: Tensor) -> Tensor:
        """Add integers modulo ``levels`` and divide once."""
        return torch.add(encoded.unsqueeze(1), raw, out=out).remainder_(self.levels).div_(self.levels - 1)

    def error(self, entries: int) -> float:
        """Every entry contributes the error of its law."""
        return entries * _offsets(self, torch.device("cpu")).error

    def on_grid(self, steps: int) -> Distribution | None:
        """This distribution if its grid has as many steps, else None."""
        return self if steps == self.levels - 1 else None


@lru_cache(maxsize=32)
def _offsets(noise: ReplacedValues, device: torch.device) -> IntegerLaw:
    """The law of the integer to add; its masses are rounded by 2**-52 altogether."""
    others = noise.levels - 1
    masses = np.full(noise.levels, (1 - noise.keep_probability) / others)
    masses[0] = noise.keep_probability
    return IntegerLaw.of(masses, 0, 2.0**-52, device)
