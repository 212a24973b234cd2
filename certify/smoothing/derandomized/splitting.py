"""Splitting noise against l_1 perturbations, derandomised: a smoothed classifier whose votes are counted exactly.

Splitting noise cuts the line at ``s + k * 2 * half_width`` for all integers k and tells the model only between which
two cuts an entry lies. Two inputs look alike unless a cut falls between them, which happens with a probability of at
most their l_1 distance over ``2 * half_width``, however the cuts of different entries depend on each other. So all of
them may move together, through as many positions as there are grid steps between two cuts.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from bounds import checks
from bounds.circumstances import in_deployed_precision
from bounds.errors import InvalidInput
from certify.results import Certificate
from certify.smoothing.derandomized.counting import count_all, lead
from certify.smoothing.drawing.integer_noise import grid_integers


def split(x: Tensor, s: Tensor, half_width: float) -> Tensor:
    r"""Midpoint of the interval between two neighbouring cuts that holds ``x``, clipped to [0, 1].

    The cuts are :math:`s + 2 k \lambda` for integers k, and the intervals contain their upper end. Values between
    the same two cuts give the same answer bit by bit. For a half-width of at least 1/2 this is
    ``(min(s, 1) + (x > s)) / 2``.

    Args:
        x: values in [0, 1].
        s: position of a cut in [0, 2 * half_width), broadcast against ``x``; uniformly distributed, it makes
            splitting noise.
        half_width: the number :math:`\lambda`, in units of the input.

    References:
        Levine, Feizi (2021), Improved, deterministic smoothing for l1 certified robustness, arXiv:2103.10834; the
        two cases that they define are this one formula.

    >>> split(torch.tensor([0.1, 0.4, 0.9]), torch.tensor(0.25), half_width=0.25)
    tensor([0.1250, 0.5000, 0.8750])
    """
    width = 2 * half_width
    interval = torch.ceil((x - s) / width)
    lower, upper = s + (interval - 1) * width, s + interval * width
    return (lower.clamp(min=0.0) + upper.clamp(max=1.0)) / 2


@dataclass(frozen=True, eq=False, kw_only=True)
class SplittingCertificate(Certificate):
    """Certificates of a derandomised smoothed classifier, for perturbations from grid point to grid point.

    Attributes:
        steps: (N,) int64, the radius in steps of the grid, exact. ``radius`` is the float64 nearest to
            ``steps / steps_per_unit``: what that quotient gives in Python and NumPy too, so that comparing with it
            includes equality. Rounding up cannot reach the next distance on the grid.
        counts: (N, K) int64, votes; the rows sum to ``levels - invalid``.
        invalid: (N,) int64, forward passes without a vote because a logit was NaN.
        levels: forward passes per input.
        steps_per_unit: the grid holds the multiples of one over this.
        seed: seed of the template of cuts, a part of the classifier.
    """

    steps: Tensor
    counts: Tensor
    invalid: Tensor
    levels: int
    steps_per_unit: int
    seed: int


class DerandomizedSplitting:
    """The classifier that returns the class a model most often gives over all positions of one template of cuts.

    In case o = 0, ..., levels - 1 the cut of entry i stands at ``((t_i + o) % levels + 1/2) / steps_per_unit``, in
    the middle of a grid step, and the model sees :func:`split` of the input. The template t is drawn once, by
    ``numpy.random.RandomState(seed).randint(levels)`` over the shape of an input, a stream that NumPy keeps as it is
    for all versions. With the seed it is a part of the classifier, equal for all inputs and in every run. Another
    seed gives another classifier; the guarantee does not depend on it.

    Args:
        model: maps (N, *D) to logits (N, K), deterministic and row by row; trained on inputs with splitting noise,
            ``split(x, 2 * half_width * torch.rand_like(x), half_width)``.
        levels: forward passes per input, and grid steps from cut to cut: ``int(2 * half_width * steps_per_unit)``.
            The largest radius is half of it, in steps.
        num_classes: K.
        seed: seed of the template, from 0 to 2^32 - 1.
        batch_size: rows of a forward pass; it affects memory and speed only.
        steps_per_unit: inputs hold multiples of one over this; 255 for images of 8 bits.

    Raises:
        InvalidInput: num_classes below 2; levels, batch_size or steps_per_unit below 1; a seed out of range.

    References:
        Levine, Feizi (2021), Improved, deterministic smoothing for l1 certified robustness, arXiv:2103.10834.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        levels: int,
        num_classes: int,
        seed: int,
        batch_size: int = 1000,
        steps_per_unit: int = 255,
    ) -> None:
        self.model = model
        self.levels = checks.at_least("levels", levels, 1)
        self.num_classes = checks.at_least("num_classes", num_classes, 2)
        self.seed = checks.at_least("seed", seed, 0)
        checks.at_most("seed", self.seed, 2**32 - 1)
        self.batch_size = checks.at_least("batch_size", batch_size, 1)
        self.steps_per_unit = checks.at_least("steps_per_unit", steps_per_unit, 1)

    @property
    def half_width(self) -> float:
        """Half the distance from cut to cut, in units of the input."""
        return self.levels / (2 * self.steps_per_unit)

    @property
    def subject(self) -> str:
        """Name of this classifier in records."""
        return f"smoothed(dssn(levels={self.levels}, steps_per_unit={self.steps_per_unit}, seed={self.seed}))"

    def template(self, x: Tensor) -> Tensor:
        """The template t for inputs shaped like the rows of ``x``: (*D) int64 on the device of ``x``."""
        drawn = np.random.RandomState(self.seed).randint(self.levels, size=x.shape[1:], dtype=np.int64)
        return torch.from_numpy(drawn).to(x.device)

    @in_deployed_precision
    def certify(self, x: Tensor) -> SplittingCertificate:
        """Radius in the l_1 norm within which the smoothed classifier keeps its label on the grid.

        The statement is certain, not only probable: the smoothed classifier returns ``label`` for every input on
        the same grid, in [0, 1], at a distance of ``steps`` grid steps or less. It says nothing of inputs between
        grid points, and speaks of the smoothed classifier, not of the model. Moving by m steps changes what the
        model sees in at most m cases. A case with a NaN logit has no vote. Like every other case it may turn
        into a vote for any class, so it takes part in this count.

        The proof takes the model as one function of its input. It does not cover the rounding errors by which logits
        differ between batch sizes.

        Args:
            x: (N, *D), floating, of multiples of ``1 / steps_per_unit`` in [0, 1] up to the rounding of its dtype.

        Returns:
            A certificate for norm 1 and with alpha 0; no row abstains.

        Raises:
            InvalidInput: x off the grid, or of a dtype too coarse for it.
            InvalidModel: see :func:`certify.models.probe`.
        """
        grid = self._on_grid(x)
        template = self.template(grid)

        def encode(rows: Tensor, offset: Tensor) -> Tensor:
            level = (template + offset.view(-1, *[1] * template.ndim)) % self.levels
            return split(rows, (level.to(rows.dtype) + 0.5) / self.steps_per_unit, self.half_width).to(x.dtype)

        votes = count_all(
            self.model, grid, encode, self.levels, num_classes=self.num_classes, batch_size=self.batch_size
        )
        counts = votes[:, :-1]
        label, margin = lead(counts)
        steps = margin // 2
        return SplittingCertificate(
            label=label,
            radius=steps.double() / self.steps_per_unit,
            abstained=torch.zeros_like(label, dtype=torch.bool),
            norm=1.0,
            alpha=0.0,
            subject=self.subject,
            method="dssn",
            steps=steps,
            counts=counts,
            invalid=votes[:, -1],
            levels=self.levels,
            steps_per_unit=self.steps_per_unit,
            seed=self.seed,
        )

    def _on_grid(self, x: Tensor) -> Tensor:
        """The grid points that ``x`` stands for, (N, *D), in single precision at least: cuts are half a step away."""
        steps, count = grid_integers(checks.inputs(x).detach(), self.steps_per_unit), self.steps_per_unit
        wrong = ~((steps >= 0) & (steps <= count)).flatten(1).all(1)
        if wrong.any():
            raise InvalidInput(
                f"x must hold multiples of 1/{count} from 0 to 1, in a dtype that tells them apart, but row "
                f"{int(wrong.nonzero()[0])} does not: scale it to [0, 1] and round it, (x * {count}).round() / {count}"
            )
        return steps.to(torch.promote_types(x.dtype, torch.float32)) / count
