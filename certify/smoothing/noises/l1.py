"""Noises for l_1 perturbations: uniform noise for inputs in a box, and splitting noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bounds import checks
from bounds.errors import InvalidInput
from bounds.numerics import accumulated_error, round_down, round_up
from certify.smoothing.derandomized.splitting import split
from certify.smoothing.drawing.bits import Source
from certify.smoothing.drawing.distributions import Distribution, lie_on_grid
from certify.smoothing.drawing.integer_noise import IntegerLaw, grid_integers
from certify.smoothing.drawing.lookup import uniform_
from certify.smoothing.noises.base import OverlapNoise, Uniform


@dataclass(frozen=True)
class UniformInBox(OverlapNoise):
    r"""Uniform noise on [-w, w] in every entry, for inputs and perturbed inputs in a box, ``low <= x <= high``.

    The smoothed classifier is that of :class:`Uniform`; its radii at an input are larger, as no entry moves out of
    the box. They hold for perturbed inputs inside the box only. :meth:`radius` and :meth:`probability_needed`, which
    know no input, are those of :class:`Uniform`.

    Boxes of noise around two inputs overlap with the probability :math:`\prod_i (1 - |\delta_i| / 2w)_+`. Of all
    perturbations of one length, the one that moves a few entries to the far side of the box has the smallest: the
    logarithm of a factor is concave in :math:`|\delta_i|`.

    Args:
        half_width: the number w, in units of the input.
        low: smallest value of an entry.
        high: largest value of an entry.

    Raises:
        InvalidInput: half_width is not a finite number above 0, low is not below high; later, inputs outside the box.

    References:
        Voracek, Hein (2023), Improving l1-certified robustness via randomized smoothing by leveraging box
        constraints, ICML.

    >>> x, p = torch.tensor([[0.5, 0.5, 0.5]]), torch.tensor([0.9], dtype=torch.float64)
    >>> UniformInBox(half_width=1.0).radius_at(x, p), Uniform(half_width=1.0).radius(p)
    (tensor([0.9000], dtype=torch.float64), tensor([0.8000], dtype=torch.float64))
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers = all(isinstance(side, int | float) for side in (self.low, self.high))
        if not (numbers and -math.inf < self.low < self.high < math.inf):
            raise InvalidInput(f"low must be below high, both finite, got [{self.low}, {self.high}]")

    def __str__(self) -> str:
        return str(Uniform(self.half_width))

    @property
    def domain(self) -> str:
        """Perturbed inputs that a certificate is about, for records."""
        return f"inputs in [{self.low:g}, {self.high:g}]"

    @property
    def distribution(self) -> Distribution:
        """Distribution that noisy inputs are drawn from."""
        return Uniform(self.half_width).distribution

    def check(self, x: Tensor) -> None:
        """Raise InvalidInput unless the inputs lie in the box."""
        checks.inputs(x, self.low, self.high)

    def radius_at(self, x: Tensor, p_lower: Tensor, p_upper: Tensor | None = None) -> Tensor:
        """Radius, (N,), within which the label of each input (N, *D) cannot change inside the box.

        At least :meth:`radius`. Where the label stays in all of the box, a larger radius than the largest distance
        inside is not looked for.
        """
        plain = self.radius(p_lower, p_upper)
        moved, overlap = self._farthest(x)
        # The smallest overlap that lets the label stay is that of the plain radius; larger is stricter.
        needed = round_up(1 - plain / self._width).unsqueeze(1)
        # The overlap crosses it after i whole entries and a part of the next. For every other i the sum is smaller.
        part = round_down(self._width * round_down(1 - round_up(needed / overlap)))
        reached = round_down(moved + part).amax(1)
        return torch.where(plain > 0, torch.maximum(plain, torch.minimum(reached, moved[:, -1])), plain)

    def probability_needed_at(self, x: Tensor, radius: float) -> Tensor:
        """Smallest probability, (N,), that certifies ``radius`` for each of the inputs (N, *D), rounded up.

        A radius that reaches out of the box on all sides counts as the largest distance inside.
        """
        plain = self.probability_needed(torch.tensor(radius, dtype=torch.float64, device=x.device))
        moved, overlap = self._farthest(x)
        part = round_up(round_up(radius - moved) / self._width)
        left = torch.where(overlap > 0, round_down(overlap * round_down(1 - part)), 0.0).amax(1)
        if math.prod(x.shape[1:]) < moved.shape[1]:  # all entries together
            left = torch.maximum(left, overlap[:, -1])
        return torch.minimum(round_up(1.5 - left), plain).clamp(max=1.0)

    @property
    def _width(self) -> float:
        return 2 * self.half_width

    def _farthest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Distance and overlap after the 0, 1, ... most movable entries went as far as they can, both rounded down.

        (N, m + 1) each. Every entry can move by half the box, so that after m of them the overlap is at most 1/2,
        which no label survives, or all of them have moved. For this the way of an entry counts as slightly longer
        than it is.
        """
        v = x.flatten(1).double()
        entries = self._entries(v.shape[1])
        way = round_up(torch.maximum(v - self.low, self.high - v).topk(entries, dim=1).values)
        factor = round_down(1 - round_up(way / self._width)).clamp(min=0.0)
        error = accumulated_error(entries, torch.float64)
        moved = round_down(way.cumsum(1), error).clamp(min=0.0)
        overlap = round_down(factor.cumprod(1), error).clamp(min=0.0)
        return functional.pad(moved, (1, 0), value=0.0), functional.pad(overlap, (1, 0), value=1.0)

    def _entries(self, dimension: int) -> int:
        """Number of entries after which the overlap is at most 1/2, or all."""
        share = (self.high - self.low) / (2 * self._width)
        return min(dimension, math.ceil(math.log(2) / -math.log1p(-share)) + 1) if share < 0.5 else 1


@dataclass(frozen=True)
class SplittingNoise(OverlapNoise):
    r"""Splitting noise, which certifies the l_1 radius :math:`2 w (p - 1/2)` for inputs in [0, 1].

    Each entry is shown only as the interval between two cuts in which it lies. The cuts are :math:`2w` apart, at a
    place drawn for each entry, see :func:`certify.smoothing.derandomized.splitting.split`.

    Proof. The model sees a difference between x and :math:`x + \delta` only if a cut falls between :math:`x_i` and
    :math:`x_i + \delta_i` for some i. Cuts are :math:`2w` apart at a uniform place, so that one does with probability
    :math:`\min(1, |\delta_i| / 2w)`; by the union bound, the probability of every class changes by at most
    :math:`\|\delta\|_1 / 2w`. On a grid with :math:`L = 2w \cdot steps` steps from cut to cut, cuts lie in the
    middle of steps, at one of L places with equal probability. Between grid points that are m steps apart lie m of
    them, so that a cut falls between with probability :math:`\min(1, m / L)`, which is the same number.

    Args:
        half_width: the number w, half the distance between two cuts, in units of the input.

    Raises:
        InvalidInput: half_width is not a finite number above 0; later, inputs outside [0, 1].

    References:
        Levine, Feizi (2021), Improved, deterministic smoothing for l1 certified robustness, arXiv:2103.10834,
        Theorem 2.

    >>> SplittingNoise(half_width=1.0).radius(torch.tensor([0.4, 0.9], dtype=torch.float64))
    tensor([0.0000, 0.8000], dtype=torch.float64)
    """

    def __str__(self) -> str:
        return f"splitting(half_width={self.half_width})"

    @property
    def domain(self) -> str:
        """Perturbed inputs that a certificate is about, for records."""
        return "inputs in [0, 1]"

    @property
    def distribution(self) -> Distribution:
        """Distribution that noisy inputs are drawn from."""
        return RandomCuts(self.half_width)

    def check(self, x: Tensor) -> None:
        """Raise InvalidInput unless the inputs lie in [0, 1]."""
        self.distribution.check(x)


@dataclass(frozen=True)
class RandomCuts(Distribution):
    """Splitting noise with a cut at a uniformly distributed place for every entry."""

    half_width: float

    in_place = True

    def check(self, x: Tensor) -> None:
        """Raise InvalidInput unless the inputs lie in [0, 1]."""
        checks.inputs(x, 0.0, 1.0)

    def draw_(self, raw: Tensor, generator: torch.Generator) -> Tensor:
        """Fill with the place of a cut."""
        return raw.uniform_(0.0, 2 * self.half_width, generator=generator)

    def draw_blocks_(self, raw: Tensor, sources: Sequence[Source]) -> Tensor:
        """Fill each block; in single precision on the host from 32 bits, of which torch uses 24."""
        if raw.device.type != "cpu" or raw.dtype != torch.float32:
            return super().draw_blocks_(raw, sources)
        return uniform_(raw, 0.0, 2 * self.half_width, sources)

    def perturb_(self, out: Tensor, encoded: Tensor, raw: Tensor) -> Tensor:
        """Write the midpoint between the two cuts around every entry."""
        return out.copy_(split(encoded.unsqueeze(1), raw, self.half_width))

    def on_grid(self, steps: int) -> Distribution | None:
        """Cuts in the middle of grid steps; None unless a whole number of steps fits between two cuts.

        Whole up to four units of rounding of half_width, which the rounding of the radius covers.
        """
        levels = round(2 * self.half_width * steps)
        fits = levels >= 1 and abs(2 * self.half_width * steps - levels) <= 4 * 2.0**-53 * levels
        return RandomCutsOnGrid(levels, steps) if fits else None


class RandomCutsOnGrid(Distribution):
    """Splitting noise for inputs on a grid, computed in integers.

    Args:
        levels: grid steps from cut to cut.
        steps: steps of the grid per unit of the input.

    Raises:
        InvalidInput: levels or steps below 1; later, inputs outside [0, 1] or off the grid.
    """

    in_place = True

    def __init__(self, levels: int, steps: int) -> None:
        self.levels = checks.at_least("levels", levels, 1)
        self.steps = checks.at_least("steps", steps, 1)
        self.sampling = f"integers on the grid 1/{steps}"  # type: ignore[misc]  # a constant of the class elsewhere
        checks.at_most("levels and steps", max(levels, steps), 2**20)  # so that single precision holds sums of both

    @property
    def suffix(self) -> str:
        """Cuts in the middle of steps make another classifier, so its name says so."""
        return f", grid={self.steps}"

    def check(self, x: Tensor) -> None:
        """Raise InvalidInput unless the inputs lie on the grid and in [0, 1]."""
        checks.inputs(x, 0.0, 1.0)
        if not lie_on_grid(x, self.steps):
            raise InvalidInput(f"x must lie on the grid 1/{self.steps}, but does not: pass grid=None, or round it")

    def encode(self, x: Tensor) -> Tensor:
        """The integers behind the inputs."""
        return grid_integers(x, self.steps).to(torch.promote_types(x.dtype, torch.float32))

    def draw_(self, raw: Tensor, generator: torch.Generator) -> Tensor:
        """Fill with the grid point below a cut."""
        return self.draw_blocks_(raw, [Source(generator)])

    def draw_blocks_(self, raw: Tensor, sources: Sequence[Source]) -> Tensor:
        """Fill with integers, which are looked up for all blocks at once."""
        return _equal(self.levels, raw.device).draw_blocks_(raw, sources)

    def perturb_(self, out: Tensor, encoded: Tensor, raw: Tensor) -> Tensor:
        """Write the midpoint between the two cuts around every entry, in integers and halves until one division."""
        interval = ((encoded.unsqueeze(1) - raw) / self.levels).ceil_()  # no rounding error reaches an integer
        upper = interval.mul_(self.levels).add_(raw + 0.5)
        lower = upper - self.levels
        return torch.add(lower.clamp_(min=0.0), upper.clamp_(max=float(self.steps)), out=out).div_(2 * self.steps)

    def error(self, entries: int) -> float:
        """Every entry contributes the error of its law."""
        return entries * _equal(self.levels, torch.device("cpu")).error


@lru_cache(maxsize=32)
def _equal(levels: int, device: torch.device) -> IntegerLaw:
    """The law of integers below ``levels`` with equal probabilities; their masses are rounded by 2**-53 at most."""
    return IntegerLaw.of(np.full(levels, 1 / levels), 0, 2.0**-53, device)
