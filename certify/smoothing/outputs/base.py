"""Models with any output under noise, and the order statistics that bound their outputs."""

import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from scipy import special
from torch import Tensor, nn

from bounds.errors import InvalidInput, InvalidModel
from bounds.numerics import BETA_FUNCTION_ERROR
from certify.models import frozen, probe
from certify.results import Drawn
from certify.smoothing.classifiers.noisy_model import Grid, NoisyModel
from certify.smoothing.drawing.votes import Sampling, Stage, noise_groups, precision
from certify.smoothing.noises.base import Gaussian

SHIFT_ERROR = 1e-11  # relative, of a shifted normal probability, most of it from rounding the argument


@dataclass(frozen=True, eq=False, kw_only=True)
class OutputCertificate(Drawn):
    """Base of statements about a smoothed model whose output is no class, one row per input.

    Attributes:
        label: (N, *O), estimate of the output of the smoothed model.
        radius: bound of the perturbation, in units of the input.
        norm: order of the norm of perturbations.
        alpha: probability, per row, that the statement is wrong.
        n: draws per input.
    """

    radius: float
    norm: float
    alpha: float
    n: int

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """A copy on ``device``. Dtypes stay, whatever ``dtype`` is: rounding could make bounds wrong."""
        return super().to(device)


class NoisyOutputs(NoisyModel):
    """A model with any output under noise, the common base of smoothed models that return no class.

    Args:
        model: maps (N, *D) to one tensor (N, *O), deterministic and row by row.
        noise: any noise.
        batch_size: rows of a forward pass.
        noise_group: this many consecutive inputs share their noise draws.
        grid: as for :class:`certify.SmoothedClassifier`.

    Raises:
        InvalidInput: a bad argument.
    """

    def look(self, model: nn.Module, seen: Tensor, batch_size: int) -> None:
        """Check a frozen model on inputs as it sees them; its output is any tensor with one row per input."""
        probe(_Flat(model), seen, batch_size=batch_size)

    def example(self, sampling: Sampling) -> Tensor:
        """The output (1, *O) for the first input, or (0, *O) if there is none."""
        with frozen(self.model) as model, torch.no_grad():
            first: Tensor = model(sampling.distribution.clean(sampling.x[:1]).to(precision(model, sampling.x)).clone())
        return first

    def parts(self, sampling: Sampling, draws: int) -> Iterator[tuple[slice, Sampling]]:
        """The sampling in parts of few inputs, as many as fill a batch or share their noise, each with its rows."""
        inputs = self.noise_group * max(1, self.batch_size // (draws * self.noise_group))
        for _, rows in noise_groups(sampling.indices, inputs):
            yield rows, sampling.rows(torch.arange(rows.start, rows.stop, device=sampling.x.device))


class GaussianOutputs(NoisyOutputs):
    """A model with any output under Gaussian noise, the base of percentile smoothing and center smoothing.

    Raises:
        InvalidInput: noise that is not Gaussian; another bad argument.
    """

    noise: Gaussian

    def __init__(self, model: nn.Module, noise: Gaussian, *, batch_size: int, noise_group: int, grid: Grid) -> None:
        if not isinstance(noise, Gaussian):
            raise InvalidInput(f"noise must be Gaussian, which the theorem is about, got {noise}")
        super().__init__(model, noise, batch_size=batch_size, noise_group=noise_group, grid=grid)


class _Flat(nn.Module):
    """The outputs as two or more columns of floating-point numbers, the form in which models are looked at."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        output = self.model(x)
        if not isinstance(output, Tensor) or output.is_complex() or output.shape[:1] != x.shape[:1]:
            shown = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise InvalidModel(f"expected one real tensor with a row per input, got {shown} for {len(x)} inputs")
        columns = output.reshape(len(x), -1)
        columns = columns if columns.is_floating_point() else columns.double()
        return torch.cat([columns, columns], 1) if columns.shape[1] == 1 else columns


def gather_outputs(part: Sampling, stage: Stage, values: Tensor) -> Tensor:
    """Fill ``values``, (M, n, *O), with the outputs for M inputs under n draws each, and return it."""

    def keep(output: Tensor, row: Tensor, draw: Tensor) -> None:
        values[row, draw] = output

    part.run(values.shape[1], stage, keep)
    return values


def shifted_probability(quantile: float, shift: float, error: float) -> float:
    """``Phi(quantile + shift) + error``, rounded up.

    An event that has at least this probability at one input, as the noise is drawn, has at least probability
    ``Phi(quantile)`` at every input within ``shift`` standard deviations of the noise.

    Args:
        quantile: normal quantile of a probability.
        shift: bound of the perturbation over sigma.
        error: total variation distance between the noise as drawn and as it should be.
    """
    return min(1.0, float(special.ndtr(quantile + shift)) * (1 + SHIFT_ERROR) + error * (1 + 2.0**-50))


def upper_rank(p: float, n: int, alpha: float) -> int:
    """Smallest rank, counted from 1, whose order statistic of n draws reaches the p-quantile; n + 1 if none does.

    The k-th smallest draw lies below the p-quantile only if k draws or more do, which each does with probability p at
    most. This returns the smallest k for which that has at most probability ``alpha``.

    >>> upper_rank(0.5, 100, alpha=0.025), upper_rank(0.5, 4, alpha=0.025)
    (61, 5)
    """

    def reaches(k: int) -> bool:
        return float(special.betainc(k, n - k + 1, p)) * (1 + BETA_FUNCTION_ERROR) <= alpha

    return 1 + bisect.bisect_left(range(1, n + 1), True, key=reaches)
