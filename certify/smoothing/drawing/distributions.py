"""Distributions that noisy inputs are drawn from. Radii are in :mod:`certify.smoothing.noises.base`."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from scipy import special
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput
from bounds.numerics import SPECIAL_FUNCTION_ERROR
from bounds.statistics.proportions import FloatArray
from certify.smoothing.drawing.bits import Source
from certify.smoothing.drawing.integer_noise import IntegerLaw, grid_integers
from certify.smoothing.drawing.lookup import in_threads, uniform_
from certify.smoothing.drawing.staircase import Staircase
from certify.stored_inputs import Rows

EIGHT_BIT = 255  # steps of 8-bit images in [0, 1]
LARGEST_INTEGER = 2**17  # of noise; sums with inputs of up to 2**23 stay exact in single precision
LARGEST_INPUT = 2**23
TOGETHER = 2**14  # entries of inputs that are looked at together: of each there are nine copies in float64


class Distribution(ABC):
    """A randomization of inputs.

    Raw randomness does not depend on inputs, so that many inputs can share it; :meth:`perturb_` combines the two.
    Everything before the model is computed in at least single precision.

    Attributes:
        sampling: how noisy inputs are made. ``"floating point"`` adds floating-point numbers, for which a theorem
            about real numbers holds up to rounding errors only. The others have no such gap.
        in_place: whether raw draws have the form of noisy inputs, so that :meth:`perturb_` may write one input's over
            them, ``out`` being ``raw``.
    """

    sampling: ClassVar[str] = "floating point"
    in_place: ClassVar[bool] = False

    @abstractmethod
    def draw_(self, raw: Tensor, generator: torch.Generator) -> Tensor:
        """Fill a buffer of raw randomness, one row per draw, and return it."""

    def draw_blocks_(self, raw: Tensor, sources: Sequence[Source]) -> Tensor:
        """Fill a buffer of as many blocks of equal size, each from its own source, by :meth:`draw_` where it can."""
        for block, source in zip(raw.chunk(len(sources)), sources, strict=True):
            self.draw_(block, source.generator)
        return raw

    @abstractmethod
    def perturb_(self, out: Tensor, encoded: Tensor, raw: Tensor) -> Tensor:
        """Write encoded inputs (n, *E) under each of S raw draws to ``out`` (n, S, *O) and return it."""

    @property
    def suffix(self) -> str:
        """Addition to the name of a smoothed classifier."""
        return ""

    def check(self, x: Tensor) -> None:  # noqa: B027  # most take any input
        """Raise InvalidInput where these inputs (N, *D) cannot be randomized."""

    def encode(self, x: Tensor) -> Tensor:
        """Inputs (N, *D) in the form (N, *E) that :meth:`perturb_` takes."""
        return x.to(torch.promote_types(x.dtype, torch.float32))

    def clean(self, x: Tensor) -> Tensor:
        """Inputs (N, *O) as the model sees them where nothing is changed."""
        return x

    def raw(self, encoded: Tensor, draws: int) -> Tensor:
        """An empty buffer for the raw randomness of so many draws."""
        return encoded.new_empty(draws, *encoded.shape[1:])

    def error(self, entries: int) -> float:
        """Bound of the total variation distance to the distribution that certificates assume, of a whole input."""
        return 0.0

    def on_grid(self, steps: int) -> "Distribution | None":
        """Counterpart for inputs that are multiples of ``1 / steps``, free of rounding; None if there is none."""
        return None

    def sample(self, x: Tensor, draws: int = 1, *, generator: torch.Generator | None = None) -> Tensor:
        """Noisy copies (N, draws, *O) of inputs (N, *D); all inputs meet the same draws.

        Raises:
            InvalidInput: inputs that cannot be randomized, ``draws`` below 1.
        """
        self.check(checks.inputs(x))
        encoded = self.encode(x.detach())
        generator = checks.generator(generator, x.device)
        if generator is None:
            generator = torch.Generator(x.device).manual_seed(checks.drawn_seed(None))
        raw = self.draw_(self.raw(encoded, checks.at_least("draws", draws, 1)), generator)
        out = encoded.new_empty(len(x), draws, *self.clean(x[:1]).shape[1:])
        return self.perturb_(out, encoded, raw).to(x.dtype)


class Additive(Distribution):
    """Independent, identical, symmetric noise added to every entry."""

    in_place = True

    def perturb_(self, out: Tensor, encoded: Tensor, raw: Tensor) -> Tensor:
        """Add every draw to every input."""
        return torch.add(encoded.unsqueeze(1), raw, out=out)

    @abstractmethod
    def upper_tail(self, t: FloatArray) -> FloatArray:
        """Probability that the noise of one entry exceeds ``t`` >= 0, exact within ``SPECIAL_FUNCTION_ERROR``."""

    @property
    @abstractmethod
    def reach(self) -> float:
        """A bound that the noise of one entry exceeds with probability 2**-64 at most."""

    def on_grid(self, steps: int) -> Distribution | None:
        """Noise rounded to the grid, drawn and added as integers; None if it is too wide for that."""
        return OnGrid(self, steps) if self.reach * steps <= LARGEST_INTEGER else None


@dataclass(frozen=True)
class NormalEntries(Additive):
    """Normal noise with the given standard deviation."""

    sigma: float

    def draw_(self, raw: Tensor, generator: torch.Generator) -> Tensor:
        """Fill with draws."""
        return raw.normal_(0.0, self.sigma, generator=generator)

    def draw_blocks_(self, raw: Tensor, sources: Sequence[Source]) -> Tensor:
        """Fill each block; on the host in as many threads as torch has, since ``normal_`` uses one."""
        in_threads(self.draw_, raw.chunk(len(sources)), [source.generator for source in sources])
        return raw

    def upper_tail(self, t: FloatArray) -> FloatArray:
        """The normal tail."""
        return special.ndtr(-t / self.sigma)

    @property
    def reach(self) -> float:
        """9.2 standard deviations: 2 * Phi(-9.2) is 3.6e-20."""
        return 9.2 * self.sigma


@dataclass(frozen=True)
class LaplaceEntries(Additive):
    """Laplace noise with the given scale."""

    scale: float

    def draw_(self, raw: Tensor, generator: torch.Generator) -> Tensor:
        """Fill with draws."""
        # The difference of two exponential draws: no logarithm of zero, no tail cut by the grid of uniform numbers.
        other = torch.empty_like(raw).exponential_(1 / self.scale, generator=generator)
        return raw.exponential_(1 / self.scale, generator=generator).sub_(other)

    def upper_tail(self, t: FloatArray) -> FloatArray:
        """The exponential tail."""
        return 0.5 * np.exp(-t / self.scale)

    def density(self, t: FloatArray) -> FloatArray:
        """The density at ``t`` >= 0."""
        return np.exp(-t / self.scale) / (2 * self.scale)

    def draw_blocks_(self, raw: Tensor, sources: Sequence[Source]) -> Tensor:
        """Fill each block; in single precision on the host from a table, in an eighth of the time of torch."""
        if raw.device.type != "cpu" or raw.dtype != torch.float32:
            return super().draw_blocks_(raw, sources)
        return _staircase(self).draw_blocks_(raw, sources)

    @property
    def reach(self) -> float:
        """The two tails beyond it together have probability 2**-64."""
        return 64 * math.log(2) * self.scale


@dataclass(frozen=True)
class UniformEntries(Additive):
    """Uniform noise on [-half_width, half_width]."""

    half_width: float

    def draw_(self, raw: Tensor, generator: torch.Generator) -> Tensor:
        """Fill with draws."""
        return raw.uniform_(-self.half_width, self.half_width, generator=generator)

    def draw_blocks_(self, raw: Tensor, sources: Sequence[Source]) -> Tensor:
        """Fill each block; in single precision on the host from 32 bits, of which torch uses 24."""
        if raw.device.type != "cpu" or raw.dtype != torch.float32:
            return super().draw_blocks_(raw, sources)
        return uniform_(raw, -self.half_width, self.half_width, sources)

    def upper_tail(self, t: FloatArray) -> FloatArray:
        """The linear tail."""
        return 0.5 * (1 - t / self.half_width).clip(min=0.0)

    @property
    def reach(self) -> float:
        """The noise never exceeds its half width."""
        return self.half_width


class OnGrid(Distribution):
    """Additive noise, rounded to multiples of ``1 / steps``, for inputs that are such multiples.

    Args:
        noise: distribution of the noise before rounding.
        steps: steps of the grid per unit of the input, 255 for 8-bit images in [0, 1].

    Raises:
        InvalidInput: steps below 1.
    """

    in_place = True

    def __init__(self, noise: Additive, steps: int) -> None:
        self.noise = noise
        self.steps = checks.at_least("steps", steps, 1)
        self.sampling = f"integers on the grid 1/{steps}"  # type: ignore[misc]  # a constant of the class elsewhere

    @property
    def suffix(self) -> str:
        """Rounding to the grid is part of the classifier, so its name says so."""
        return f", grid={self.steps}"

    def check(self, x: Tensor) -> None:
        """Raise InvalidInput unless the inputs lie on the grid."""
        require_grid(x, self.steps, "pass grid=None")

    def encode(self, x: Tensor) -> Tensor:
        """The integers behind the inputs."""
        return grid_integers(x, self.steps).to(torch.promote_types(x.dtype, torch.float32))

    def draw_(self, raw: Tensor, generator: torch.Generator) -> Tensor:
        """Fill with integers."""
        return self.draw_blocks_(raw, [Source(generator)])

    def draw_blocks_(self, raw: Tensor, sources: Sequence[Source]) -> Tensor:
        """Fill with integers, which are looked up for all blocks at once."""
        return _rounded_law(self.noise, self.steps, raw.device).draw_blocks_(raw, sources)

    def perturb_(self, out: Tensor, encoded: Tensor, raw: Tensor) -> Tensor:
        """Add integers, which is exact, and scale once: the result depends on nothing but the sum."""
        return torch.add(encoded.unsqueeze(1), raw, out=out).mul_(1 / self.steps)  # half the time of a division

    def error(self, entries: int) -> float:
        """Every entry contributes the error of its law."""
        return entries * _rounded_law(self.noise, self.steps, torch.device("cpu")).error


@lru_cache(maxsize=32)
def _staircase(noise: LaplaceEntries) -> Staircase:
    """The table of a noise."""
    return Staircase.of(noise.upper_tail, noise.density, noise.reach)


@lru_cache(maxsize=32)
def _rounded_law(noise: Additive, steps: int, device: torch.device) -> IntegerLaw:
    """The law of ``round(steps * noise)``."""
    reach = int(np.ceil(noise.reach * steps))
    tails = noise.upper_tail((np.arange(reach + 1) + 0.5) / steps)  # above 1/2, 3/2, ... steps
    half = np.append(-np.diff(tails), tails[-1])  # 1, 2, ..., and the tail beyond, added to the last cell
    masses = np.concatenate([half[::-1], [1 - 2 * tails[0]], half])
    # Each tail has a relative error of its own and that of its argument, which is a few times as large at most. The
    # tail beyond the last cell is below 2**-63.
    error = 8 * SPECIAL_FUNCTION_ERROR * float(tails.sum()) + 2.0**-63
    return IntegerLaw.of(masses, -len(half), error, device)


def on_grid(distribution: Distribution, grid: int | str | None, x: Tensor) -> Distribution:
    """The distribution to use on the inputs (N, *D): that of the grid asked for, see :class:`SmoothedClassifier`."""
    if grid is None:
        return distribution
    integers = distribution.on_grid(EIGHT_BIT if isinstance(grid, str) else grid)
    if integers is None or (isinstance(grid, str) and not lie_on_grid(x)):
        return distribution
    return integers


def lie_on_grid(x: Rows, steps: int = EIGHT_BIT) -> bool:
    """Whether all entries are multiples of ``1 / steps``, up to the rounding of their dtype."""
    rows = x.split(max(1, TOGETHER // max(1, x.shape[1:].numel())))
    parts = (part for some in rows for part in some.reshape(-1).split(TOGETHER))
    return all(bool((grid_integers(part, steps).abs() <= LARGEST_INPUT).all()) for part in parts)


def require_grid(x: Tensor, steps: int, remedy: str) -> None:
    """Raise InvalidInput where a row of (N, *D) does not lie on the grid, with what to do about it."""
    if not lie_on_grid(x, steps):
        row = next(i for i in range(len(x)) if not lie_on_grid(x[i : i + 1], steps))
        raise InvalidInput(f"x must lie on the grid 1/{steps}, but row {row} does not: {remedy}")
