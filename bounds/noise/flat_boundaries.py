"""Flat boundaries in the place of those of a model: what random lines and subspaces would then find at each input."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy import special
from torch import Tensor, nn

from bounds.models import frozen
from bounds.noise.boundary import nearest_boundary
from bounds.noise.crossings import predicted_labels
from bounds.noise.ratio_law import MulticlassRatioLaw, RatioLaw

DRAWS = 10_000  # of a law without a closed form
CANDIDATES = 5  # least distances between a lower and an upper bound that are tried
FARTHEST = 100.0  # quotient of the two up to which they are


class FlatBoundaries:
    """Planes around each input, and the laws of distances within random subspaces.

    Attributes:
        features: D.
        tangents: for each input the unit normals (J, D) and the distances (J,); empty where a single plane counts.
    """

    def __init__(self, features: int, tangents: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.features = features
        self.tangents = tangents

    def law(self, dimension: int, generator: torch.Generator | None) -> "FlatLaw":
        """The law of each input in subspaces of that dimension."""
        draws = [
            MulticlassRatioLaw(normals, distances, self.features, dimension).sample(DRAWS, generator)
            for normals, distances in self.tangents
        ]
        return FlatLaw(RatioLaw(self.features, dimension), torch.stack(draws) if draws else None)


class FlatLaw:
    """The law of the ratio at each input: in closed form for one plane, by a large sample for several."""

    def __init__(self, single: RatioLaw, draws: Tensor | None) -> None:
        self.single = single
        self.draws = draws

    def inverse_square_mean(self) -> float:
        """Mean of ratio^-2 over inputs."""
        return self.single.inverse_square_mean if self.draws is None else float(self.draws.pow(-2).mean())

    def capped_log_mean(self, cap: Tensor) -> Tensor:
        """Mean of log min(ratio, cap) at each input, (N,) float64."""
        if self.draws is None:
            return self.single.capped_log_mean(cap)
        return self.draws.to(cap.device).clamp(max=cap[:, None]).log().mean(1)

    def median_interval(self, count: int, alpha: float) -> tuple[float, float]:
        """In which the median of so many independent ratios lies with probability 1 - alpha."""
        middle = count // 2
        ends = special.betaincinv(middle + 1, count - middle, [alpha / 2, 1 - alpha / 2])  # of the order statistic
        if self.draws is None:
            low, high = self.single.quantile(torch.from_numpy(ends)).tolist()
        else:
            low, high = np.quantile(self.draws.cpu().numpy(), ends)
        return float(low), float(high)

    def p_values(
        self, distance: Tensor, limit: Tensor, least: tuple[Tensor, Tensor], generator: torch.Generator | None
    ) -> Tensor:
        """Kolmogorov-Smirnov p-value of the distances (N, M) at each input, censored beyond ``limit`` (N,).

        The largest over least distances between two bounds (N,) each, since any of them may be the right one.
        """
        lower, upper = least
        found = [
            max(self._p_value(row, reach, i, generator) for reach, row in _scaled(distance[i], limit[i], low, high))
            for i, (low, high) in enumerate(zip(lower.tolist(), upper.tolist(), strict=True))
        ]
        return torch.tensor(found, dtype=torch.float64, device=distance.device)

    def _p_value(self, ratio: Tensor, cap: Tensor, row: int, generator: torch.Generator | None) -> float:
        from scipy import stats

        if self.draws is None:
            reached = self.single.cdf(cap)
            device = ratio.device if generator is None else generator.device
            share = torch.rand(len(ratio), generator=generator, dtype=torch.float64, device=device).to(ratio.device)
            # What is censored is uniform beyond the cap, if the law holds up to it.
            level = torch.where(ratio.isinf(), reached + (1 - reached) * share, self.single.cdf(ratio))
            return float(stats.kstest(level.cpu().numpy(), "uniform").pvalue)
        seen, drawn = (values.cpu().clamp(max=float(cap)).numpy() for values in (ratio, self.draws[row]))
        return float(stats.ks_2samp(seen, drawn, method="asymp").pvalue)


def flat_boundaries(model: nn.Module, x: Tensor, upper: Tensor, *, batch_size: int) -> FlatBoundaries:
    """The planes tangent to the boundaries of a model where the nearest point of each other class was found.

    Args:
        model: maps (N, *D) to logits (N, K).
        x: (N, *D).
        upper: (N,) distance to the nearest point behind any boundary, which that of the nearest plane is set to.
        batch_size: inputs searched together.
    """
    with frozen(model), torch.no_grad():
        label = predicted_labels(model, x, batch_size)
        classes = model(x[:1]).shape[1]
    if classes == 2:
        return FlatBoundaries(x[0].numel(), [])
    # All classes of all inputs are searched together, since most of the time of a small pass is overhead.
    target = (label[:, None] + torch.arange(1, classes, device=x.device)) % classes  # (N, K - 1)
    found = nearest_boundary(model, x.repeat_interleave(classes - 1, 0), target=target.flatten(), batch_size=batch_size)
    tangents = []
    for i, reached in enumerate(found.found.view_as(target)):
        moves = found.perturbation.view(*target.shape, -1)[i, reached].double()
        distances = found.distance.view_as(target)[i, reached]
        distances = distances.clamp(min=upper[i]).scatter(0, distances.argmin(0, keepdim=True), upper[i])
        tangents.append((moves / moves.norm(dim=1, keepdim=True), distances))
    return FlatBoundaries(x[0].numel(), tangents)


def _scaled(distance: Tensor, limit: Tensor, low: float, high: float) -> list[tuple[Tensor, Tensor]]:
    """The cap and the ratios for least distances from ``low`` to ``high``."""
    count = 1 if low == high else CANDIDATES
    candidates = np.geomspace(max(low, high / FARTHEST), high, count)
    return [(limit / least, distance / least) for least in candidates.tolist()]
