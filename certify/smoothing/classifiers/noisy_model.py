"""A model under noise: the common base of smoothed models, whatever they return."""

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.errors import InvalidInput
from certify.models import frozen
from certify.smoothing.drawing.bits import DRAWS_VERSION
from certify.smoothing.drawing.distributions import Distribution, on_grid
from certify.smoothing.drawing.votes import Sampling, precision, precision_name
from certify.smoothing.noises.base import Noise

# Smallest trial batch, large enough to show a model that asks for a fixed batch size. A larger one takes at most this
# part (one in 32) of all draws.
PROBED = 32

Grid = int | Literal["auto"] | None


class NoisyModel(ABC):
    """A model, its noise, and how the noise is drawn; the arguments are those of :class:`SmoothedClassifier`."""

    def __init__(self, model: nn.Module, noise: Noise, *, batch_size: int, noise_group: int, grid: Grid) -> None:
        if not isinstance(noise, Noise):
            raise InvalidInput(f"noise must be a noise such as Gaussian(sigma=0.25), got {noise!r}")
        if not (grid is None or isinstance(grid, str)):
            checks.at_least("grid", grid, 1)
        elif grid is not None:
            checks.one_of("grid", grid, ("auto",))
        self.model = model
        self.noise = noise
        self.batch_size = checks.at_least("batch_size", batch_size, 1)
        self.noise_group = checks.at_least("noise_group", noise_group, 1)
        self.grid = grid
        if not (grid is None or grid == "auto") and noise.distribution.on_grid(grid) is None:
            raise InvalidInput(f"grid must be None for {noise}, which cannot be drawn on a grid, got {grid!r}")

    @abstractmethod
    def look(self, model: nn.Module, seen: Tensor, batch_size: int) -> None:
        """Check a frozen model on inputs (B, *O) as it sees them, B >= 1, and on a batch of that size."""

    def subject(self, distribution: Distribution) -> str:
        """Name of this smoothed model in records, with noise drawn from ``distribution``."""
        return f"smoothed({self.noise}{distribution.suffix})"

    def sampling(self, x: Tensor, draws: int, seed: int, first_index: int = 0) -> Sampling:
        """Noise on the inputs (N, *D), after checking them and the model; ``draws`` at least per row.

        Raises:
            InvalidInput: a bad argument.
            InvalidModel: see :func:`certify.models.probe`.
        """
        checks.inputs(x)
        first_index = checks.at_least("first_index", first_index, 0)
        self.noise.check(x)
        reach = getattr(self.noise.distribution, "reach", None)  # of noise that is added
        if reach is not None:
            checks.warn_of_another_unit(x, str(self.noise), reach)
        distribution = on_grid(self.noise.distribution, self.grid, x)
        distribution.check(x)
        if len(x):
            with frozen(self.model) as model, torch.no_grad():
                seen = distribution.clean(x[:100]).to(precision(model, x))
                self.look(model, seen, min(self.batch_size, max(PROBED, len(x) * draws // PROBED)))
        return Sampling(
            model=self.model,
            x=x.detach(),
            distribution=distribution,
            seed=seed,
            indices=range(first_index, first_index + len(x)),
            batch_size=self.batch_size,
            noise_group=self.noise_group,
        )

    def provenance(self, sampling: Sampling, statistic: str = "") -> dict[str, Any]:
        """Fields of :class:`certify.results.Drawn`, for a statement about this model, or a ``statistic`` of it."""
        return {
            "subject": statistic + self.subject(sampling.distribution),
            "domain": self.noise.domain,
            "seed": sampling.seed,
            "first_index": sampling.indices.start,
            "noise_group": sampling.noise_group,
            "sampling": sampling.distribution.sampling,
            "precision": precision_name(sampling.model, sampling.x),
            "sampling_error": sampling.error,
            "draws_version": DRAWS_VERSION,
        }
