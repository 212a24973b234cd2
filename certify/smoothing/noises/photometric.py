r"""Noise on contrast and brightness, which certifies ranges of these parameters.

The model sees :math:`e^k (x + b)` with normal k and b. Of an image that was changed to :math:`c x + \beta` it sees
:math:`e^{k + \ln c} (x + (b + \beta) / c)`: the law of k is shifted by :math:`\ln c`, and that of b is scaled by
:math:`1 / c` and shifted by :math:`\beta / c`, which is :math:`\beta / \sigma_b` of its standard deviations.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput
from bounds.numerics import per_row, round_down, round_up
from certify.smoothing.drawing.distributions import Distribution
from certify.smoothing.noises.base import Noise

LARGEST = 9.0  # in standard deviations: no float64 probability below 1 certifies more
HALVINGS = 56  # of the range of radii
ROUNDOFF = 2.0**-46  # of probabilities below, which few functions give, and of their arguments


@dataclass(frozen=True)
class PhotometricNoise(Noise):
    r"""Random contrast and brightness, which certify ranges of both: a smoothed label for all images ``c * x + beta``.

    With a radius r, the label holds for :math:`(\ln c / \sigma_c)^2 + (\beta / \sigma_b)^2 \le r^2`. With brightness
    alone the radius is the largest :math:`|\beta|`, with contrast alone the largest :math:`|\ln c|`, and both are
    exact. With both it is in standard deviations; :meth:`distance` gives that of a range.

    An image that is clipped after its change is another one: clipping does not commute with noise. Without limits, the
    statement is about images that are not clipped. With limits, radii end where the first pixel reaches one of them.

    Args:
        contrast: standard deviation of the logarithm of the factor, at least 0.
        brightness: standard deviation of the offset, in units of the input, at least 0; one of both is above 0.
        low: lower limit of pixels, to which changed images are clipped; None if they are not.
        high: upper limit.

    Raises:
        InvalidInput: a standard deviation below 0, or both 0; later, inputs outside of the limits, or with no room
            between them.

    References:
        Li et al. (2021), TSS: transformation-specific smoothing for robustness certification, arXiv:2002.12398,
        on transformations that noise resolves. The bound for both parameters is derived in this module.

    >>> PhotometricNoise(brightness=0.5).radius(torch.tensor([0.4, 0.9], dtype=torch.float64))
    tensor([0.0000, 0.6408], dtype=torch.float64)
    """

    contrast: float = 0.0
    brightness: float = 0.0
    low: float | None = None
    high: float | None = None

    norm = math.nan  # radii are of parameters

    def __post_init__(self) -> None:
        for name, sigma in (("contrast", self.contrast), ("brightness", self.brightness)):
            checks.nonnegative(name, sigma)
        if self.contrast == self.brightness == 0:
            raise InvalidInput("brightness must be above 0 where contrast is 0: give at least one standard deviation")

    def __str__(self) -> str:
        return f"photometric(contrast={self.contrast}, brightness={self.brightness})"

    @property
    def domain(self) -> str:
        """Changed inputs that a certificate is about, for records."""
        free = self.low is self.high is None
        return "changes of contrast and brightness" + (", not clipped" if free else f" in [{self.low}, {self.high}]")

    @property
    def distribution(self) -> Distribution:
        """Distribution that noisy inputs are drawn from."""
        return PhotometricChanges(self.contrast, self.brightness)

    @property
    def unit(self) -> float:
        """One standard deviation, in units of the radius."""
        return 1.0 if self.contrast and self.brightness else self.contrast or self.brightness

    def distance(self, contrast: tuple[float, float] = (1, 1), brightness: tuple[float, float] = (0, 0)) -> float:
        """The radius that a range of factors and a range of offsets need; infinite for what this noise never does.

        Raises:
            InvalidInput: a factor that is not above 0.

        >>> round(PhotometricNoise(contrast=0.1, brightness=0.1).distance((1.0, 1.0), (-0.3, 0.3)), 6)
        3.0
        """
        if min(contrast) <= 0:
            raise InvalidInput(f"contrast must be a range of factors above 0, got {contrast}: raise its lower end")
        log, offset = max(abs(math.log(c)) for c in contrast), max(map(abs, brightness))
        if (log and not self.contrast) or (offset and not self.brightness):
            return math.inf
        shares = log / (self.contrast or 1.0), offset / (self.brightness or 1.0)
        return math.hypot(*shares) * self.unit * (1 + 2.0**-50)

    def check(self, x: Tensor) -> None:
        """Raise InvalidInput for inputs outside of the limits, or where these leave no room for any of the inputs."""
        for name, limit, outside in (("low", self.low, torch.lt), ("high", self.high, torch.gt)):
            if limit is None:
                continue
            wrong = outside(x.detach(), torch.tensor(limit, dtype=x.dtype, device=x.device)).flatten(1).any(1)
            if bool(wrong.any()):
                first = x[int(wrong.nonzero()[0])]
                worst = float(first.min() if name == "low" else first.max())
                raise InvalidInput(
                    f"x must lie between low={self.low} and high={self.high}, to which changed images are clipped, got "
                    f"{worst:g} in row {int(wrong.nonzero()[0])}: clip it, or pass low=None, high=None"
                )
        if len(x) and not (self._room(x) > 0).any():
            raise InvalidInput(
                f"x must keep a distance from low={self.low} and high={self.high}, to which changed images are "
                f"clipped, since clipping does not commute with noise: pass low=None, high=None for images that are not"
            )

    def radius_at(self, x: Tensor, p_lower: Tensor, p_upper: Tensor | None = None) -> Tensor:
        """The radius, up to where the first pixel of each input reaches a limit."""
        return torch.minimum(self.radius(p_lower, p_upper), self._room(x).to(p_lower.device))

    def probability_needed_at(self, x: Tensor, radius: float) -> Tensor:
        """The probability that a radius needs; 1 where a pixel reaches a limit before."""
        return torch.where(self._room(x) >= radius, super().probability_needed_at(x, radius), 1.0)

    def _room(self, x: Tensor) -> Tensor:
        """Radius (N,) within which no pixel of the inputs (N, *D) leaves the limits."""
        entries = x.detach().flatten(1).double()
        sides = [(entries.amax(1), self.high)] if self.high is not None else []
        sides += [(-entries.amin(1), -self.low)] if self.low is not None else []
        if not sides:
            return torch.full_like(entries[:, 0], torch.inf)

        def inside(r: Tensor) -> Tensor:
            factor, offset = torch.exp(r * self.contrast), r * self.brightness
            # A pixel that is negative, or whose opposite is looked at, moves most with the smallest factor.
            moved = [(torch.maximum(end * factor, end / factor) + offset, limit) for end, limit in sides]
            return torch.stack([value + value.abs() * ROUNDOFF <= limit for value, limit in moved]).all(0)

        return _largest(inside, entries[:, 0]) * (self.unit * (1 - ROUNDOFF))

    def _least(self, p: Tensor, r: Tensor) -> Tensor:
        """Least probability of what has the probability p, once the law of b is as much wider or narrower as r allows.

        By Neyman and Pearson: the worst event of a law that becomes narrower is its two tails, of one that becomes
        wider its centre.
        """
        scale = torch.exp(-r * self.contrast) if self.contrast and self.brightness else torch.ones_like(r)
        tails, centre = (-torch.special.ndtri(q / 2) / math.sqrt(2) for q in (p, 1 - p))
        narrower, wider = torch.special.erfc(tails / scale), 1 - torch.special.erfc(centre * scale)
        least: Tensor = torch.minimum(torch.minimum(narrower, wider) - ROUNDOFF, p).clamp(min=0.0)
        return least

    def _radius(self, p: Tensor) -> Tensor:
        return self._between(p, p)

    def _radius_between(self, p_lower: Tensor, p_upper: Tensor) -> Tensor:
        return round_down(self._between(p_lower, 1 - p_upper - ROUNDOFF))

    def _between(self, p: Tensor, not_other: Tensor) -> Tensor:
        """Radius up to which a class of probability p leads another one, where that is not drawn with ``not_other``."""
        if not (self.contrast and self.brightness):
            exact: Tensor = self.unit * (torch.special.ndtri(p) + torch.special.ndtri(not_other)) / 2
            return exact

        def leads(r: Tensor) -> Tensor:
            gap: Tensor = torch.special.ndtri(self._least(p, r)) + torch.special.ndtri(self._least(not_other, r))
            return gap * (1 - ROUNDOFF) >= 2 * r

        return _largest(leads, p)

    def _probability(self, radius: Tensor) -> Tensor:
        r = radius / self.unit
        below: Tensor = 0.5 * torch.special.erfc(-r / math.sqrt(2))  # the normal law at r
        if not (self.contrast and self.brightness):
            return below
        scale = torch.exp(-r * self.contrast)
        narrower = torch.special.erfc(-scale * torch.special.ndtri(below / 2) / math.sqrt(2))
        wider = 1 - torch.special.erfc(
            -torch.special.ndtri(torch.special.erfc(r / math.sqrt(2)) / 4) / scale / math.sqrt(2)
        )
        return round_up(torch.maximum(narrower, wider) + 2 * ROUNDOFF)


def _largest(holds: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """The largest radius up to :data:`LARGEST` for which a statement holds that fails from some radius on."""
    low, high = torch.zeros_like(like), torch.full_like(like, LARGEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        fits = holds(middle)
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return low


@dataclass(frozen=True)
class PhotometricChanges(Distribution):
    """Inputs with a random offset, then with a random factor."""

    contrast: float
    brightness: float

    def raw(self, encoded: Tensor, draws: int) -> Tensor:
        """A buffer for two normal numbers a draw."""
        return encoded.new_empty(draws, 2)

    def draw_(self, raw: Tensor, generator: torch.Generator) -> Tensor:
        """Fill with standard normal numbers."""
        return raw.normal_(generator=generator)

    def perturb_(self, out: Tensor, encoded: Tensor, raw: Tensor) -> Tensor:
        """Add the offset of every draw to every input, and multiply with its factor."""
        inputs = encoded.unsqueeze(1)
        factor, offset = (per_row(part, inputs[0]) for part in ((raw[:, 0] * self.contrast).exp(), raw[:, 1]))
        return torch.add(inputs, offset, alpha=self.brightness, out=out).mul_(factor)
