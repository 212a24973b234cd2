"""Uniform noise for l_inf perturbations, by the overlap of two boxes."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bounds import checks
from bounds.numerics import round_down
from certify.smoothing.drawing.distributions import Distribution
from certify.smoothing.noises.base import Noise, Uniform, require_entries


@dataclass(frozen=True)
class UniformLInf(Noise):
    r"""Uniform noise on [-w, w] in every entry, which certifies the l_inf radius :math:`2w (1 - (3/2 - p)^{1/d})`.

    The smoothed classifier is that of :class:`Uniform`. The boxes of noise around x and :math:`x + \delta` overlap
    with the probability :math:`\prod_i (1 - |\delta_i| / 2w)_+`, at least :math:`o = (1 - \|\delta\|_\infty / 2w)^d`.
    Within the overlap the noise is the same, so that the probability of a class changes by :math:`1 - o` at most, and
    the label stays as long as :math:`p_A - p_B > 2 (1 - o)`. No noise does essentially better: the radius falls like
    1 / d, or like :math:`1 / \sqrt d` for Gaussian noise.

    Args:
        half_width: the number w, in units of the input.
        dimension: entries of an input, the number d.

    Raises:
        InvalidInput: half_width is not a finite number above 0, dimension below 1; later, inputs with another number
            of entries.

    References:
        Lee et al. (2019), arXiv:1906.04948; Kumar et al. (2020), arXiv:2002.03239, for the limits.

    >>> UniformLInf(half_width=1.0, dimension=2).radius(torch.tensor([0.4, 0.9], dtype=torch.float64))
    tensor([0.0000, 0.4508], dtype=torch.float64)
    """

    half_width: float
    dimension: int

    norm = math.inf

    def __post_init__(self) -> None:
        checks.positive("half_width", self.half_width)
        checks.at_least("dimension", self.dimension, 1)

    def __str__(self) -> str:
        return str(Uniform(self.half_width))

    @property
    def distribution(self) -> Distribution:
        """Distribution that noisy inputs are drawn from."""
        return Uniform(self.half_width).distribution

    def check(self, x: Tensor) -> None:
        """Raise InvalidInput unless the inputs have ``dimension`` entries."""
        require_entries(x, self.dimension)

    def _radius(self, p: Tensor) -> Tensor:
        return self._at_overlap_loss(p - 0.5)

    def _radius_between(self, p_lower: Tensor, p_upper: Tensor) -> Tensor:
        return round_down(self._at_overlap_loss(0.5 * round_down(p_lower - p_upper)))

    def _probability(self, radius: Tensor) -> Tensor:
        share = (radius / (2 * self.half_width)).clamp(max=1.0)
        return 0.5 - torch.expm1(self.dimension * torch.log1p(-share))

    def _at_overlap_loss(self, loss: Tensor) -> Tensor:
        """The shift of all entries whose overlap is ``1 - loss``; ``loss`` is at most 1/2."""
        return -2 * self.half_width * torch.expm1(torch.log1p(-loss) / self.dimension)
