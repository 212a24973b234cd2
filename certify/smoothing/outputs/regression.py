r"""Percentile smoothing: certified intervals for models that return numbers.

The smoothed regressor returns, for every entry of the output, the p-quantile of what the model returns under Gaussian
noise, :math:`h_p(x) = \inf \{ y : P(f(x + \epsilon) \le y) \ge p \}`; the median for p = 1/2. A few noisy
outputs can move a mean without limit, but not a quantile: within an l_2 distance r it stays between the quantiles of
:math:`\Phi(\Phi^{-1}(p) \mp r / \sigma)` at x, and order statistics of draws at x bound these.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from scipy import special
from torch import Tensor, nn

from bounds import checks
from bounds.circumstances import in_deployed_precision
from certify.smoothing.classifiers.noisy_model import Grid
from certify.smoothing.drawing.votes import Stage, draw_run_seed
from certify.smoothing.noises.base import Gaussian
from certify.smoothing.outputs.base import (
    GaussianOutputs,
    OutputCertificate,
    gather_outputs,
    shifted_probability,
    upper_rank,
)

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, kw_only=True)
class PercentileCertificate(OutputCertificate):
    """Intervals that hold the output of a smoothed regressor for all inputs within a radius.

    Attributes:
        label: (N, *O) float64, the sample quantile; :attr:`estimate` is another name of it.
        lower: (N, *O) float64, at most the smoothed output at every input within ``radius``; -inf where the draws
            support no bound.
        upper: (N, *O) float64, at least the smoothed output at every input within ``radius``; or inf.
        invalid: (N, *O) int64, draws that are NaN. They count as -inf for ``lower`` and as inf for ``upper``, so that
            the interval holds whatever stands for them.
        quantile: the p of the quantile that the smoothed regressor returns.
    """

    lower: Tensor
    upper: Tensor
    invalid: Tensor
    quantile: float

    @property
    def estimate(self) -> Tensor:
        """(N, *O) float64, the sample quantile, in the interval; draws that are NaN count as inf."""
        return self.label

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per input: columns lower_i, label_i, upper_i, invalid_i for the i-th entry of its output, and more.

        Numbers for all rows are repeated.
        """
        import pandas as pd

        columns: dict[str, object] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                entries = value.reshape(len(self), math.prod(value.shape[1:])).T
                columns |= {f"{field.name}_{i}": entry.cpu().numpy() for i, entry in enumerate(entries)}
            else:
                columns[field.name] = value
        return pd.DataFrame(columns, index=pd.RangeIndex(len(self), name="row"))


class SmoothedRegressor:
    """The regressor that returns a quantile of the outputs of a model under Gaussian noise.

    Args:
        model: maps (N, *D) to one tensor (N, *O), deterministic and row by row; normalisation belongs inside it.
        noise: Gaussian, in units of the input.
        batch_size: rows of a forward pass; it affects memory and speed only.
        noise_group: number of consecutive inputs that share their noise draws.
        grid: as for :class:`certify.SmoothedClassifier`; the regressor is then that behind a rounding to the grid.

    Raises:
        InvalidInput: noise that is not Gaussian, batch_size or noise_group below 1, a grid too fine for the noise.

    References:
        Chiang, Curry, Abdelkader, Kumar, Dickerson, Goldstein (2020), Detection as regression: certified object
        detection by median smoothing, arXiv:2007.03730.
    """

    def __init__(
        self,
        model: nn.Module,
        noise: Gaussian,
        *,
        batch_size: int = 1000,
        noise_group: int = 1,
        grid: Grid = "auto",
    ) -> None:
        self.outputs = GaussianOutputs(model, noise, batch_size=batch_size, noise_group=noise_group, grid=grid)

    @in_deployed_precision
    def certify(
        self,
        x: Tensor,
        radius: float,
        quantile: float = 0.5,
        n: int = 10_000,
        alpha: float = 1e-3,
        *,
        generator: torch.Generator | None = None,
        first_index: int = 0,
    ) -> PercentileCertificate:
        """Interval that holds the smoothed output, entry by entry, for every input within ``radius`` in l_2.

        For each row, the statement that all entries of the smoothed output lie in ``[lower, upper]`` at all inputs
        within ``radius`` is false with probability at most ``alpha``. Each side of each of m entries has
        ``alpha / (2 m)``; more entries need more draws, by a logarithmic factor only.

        All n outputs of an input are kept until they are sorted: about 16 bytes for each of their entries, times the
        number of inputs that share their noise or fill a batch. The number of all inputs does not matter.

        Args:
            x: (N, *D), floating and finite.
            radius: bound of the perturbation, in units of the input; at least 0.
            quantile: the p of the quantile that the smoothed regressor returns, 1/2 for the median.
            n: noise draws per input.
            alpha: failure probability, per row.
            generator: supplies the run seed (one draw from it).
            first_index: index of row 0 in its data set.

        Raises:
            InvalidInput: a bad argument.
            InvalidModel: an output that is no tensor with one row per input; see :func:`certify.models.probe`.

        References:
            Chiang et al. (2020), arXiv:2007.03730, Lemma 1. The ranks are those of exact binomial confidence
            bounds of a quantile.
        """
        radius, n = checks.nonnegative("radius", radius), checks.at_least("n", n, 1)
        quantile, alpha = checks.probability("quantile", quantile), checks.probability("alpha", alpha)
        sampling = self.outputs.sampling(x, n, draw_run_seed(generator), first_index)
        example = self.outputs.example(sampling)
        noise, entries = self.outputs.noise, example.shape[1:]
        share = alpha / (2 * max(1, math.prod(entries)))
        low, high = percentile_ranks(quantile, radius / noise.sigma, n, share, sampling.error)
        lower, estimate, upper = x.new_empty(3, len(x), *entries, dtype=torch.float64)
        invalid = x.new_empty(len(x), *entries, dtype=torch.int64)
        for rows, part in self.outputs.parts(sampling, n):
            values = gather_outputs(part, Stage.ESTIMATION, example.new_empty(rows.stop - rows.start, n, *entries))
            ascending = values.sort(dim=1).values  # NaN stands last, where inf does
            invalid[rows] = nan = ascending.isnan().sum(1)
            lower[rows] = _order_statistic(ascending, low - nan)  # moved to the front, where -inf stands
            estimate[rows] = _order_statistic(ascending, torch.full_like(nan, math.ceil(n * quantile)))
            upper[rows] = _order_statistic(ascending, torch.full_like(nan, high))
        return PercentileCertificate(
            label=estimate,
            lower=lower,
            upper=upper,
            invalid=invalid,
            quantile=quantile,
            radius=radius,
            norm=noise.norm,
            alpha=alpha,
            n=n,
            **self.outputs.provenance(sampling, f"quantile(p={quantile}) of "),
        )


def percentile_ranks(quantile: float, shift: float, n: int, alpha: float, error: float = 0.0) -> tuple[int, int]:
    """Ranks, counted from 1, of the order statistics that hold the quantile within a shift between them.

    Each side fails with probability at most ``alpha``, exactly computed from binomial tails.

    Args:
        quantile: the p of the quantile.
        shift: bound of the perturbation over sigma.
        n: draws.
        alpha: failure probability of each side.
        error: total variation distance between the noise as drawn and as it should be.

    Returns:
        The lower rank, 0 where there is none, and the upper one, n + 1 where there is none.

    >>> percentile_ranks(0.5, 0.36 / 0.25, n=2000, alpha=5e-6)
    (101, 1900)
    """
    z = float(special.ndtri(quantile))
    # The lower side is the upper one of the negative output, whose quantile is that of 1 - p.
    below, above = (upper_rank(shifted_probability(side, shift, error), n, alpha) for side in (-z, z))
    return n + 1 - below, above


def _order_statistic(ascending: Tensor, rank: Tensor) -> Tensor:
    """Values (M, *O), as float64, of the given ranks (M, *O) from 1 to n; -inf and inf for ranks beyond."""
    n = ascending.shape[1]
    value = ascending.gather(1, rank.clamp(1, n).unsqueeze(1) - 1).squeeze(1).double()
    value = torch.where((rank > n) | value.isnan(), torch.inf, value)
    return torch.where(rank < 1, -torch.inf, value)
