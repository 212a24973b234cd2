r"""Center smoothing: certificates for outputs that are compared by a distance, such as images, boxes or embeddings.

Write r(z, x) for the smallest radius of a ball about the point z that holds at least half of what a model returns
under Gaussian noise at x. The smoothed model returns, for every x, a point whose r(., x) is small: at most 2 gamma
times that of any point. The center of the smallest such ball qualifies, and so does the best of the outputs; any
of them will do.

**Why its output moves little.** Let a ball of radius R about a point c hold, at every input x' within the perturbation,
more than half of the outputs. Then some point has r(., x') <= R, so the smoothed output z at x' has a ball of radius
2 gamma R with at least half. Two such balls have an output in common, whence the distance of c and z is at most
gamma (R + 2 gamma R). (The best of the outputs qualifies because the smallest ball holds an output, and every point
of that ball is within 2 gamma of its radius from this output.)

**Why the ball holds more than half everywhere.** By the Neyman-Pearson lemma an event of probability
:math:`\Phi(r / \sigma)` or more at x has at least 1/2 at every input within r; rounding up makes it more than 1/2. The
distances from c of n draws at x are independent, since c comes from other draws. Their order statistic R of the right
rank reaches the quantile of that order but for probability alpha, by an exact binomial tail. This is the only
place where chance enters, so that alpha is not split.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.circumstances import in_deployed_precision
from bounds.errors import InvalidInput
from bounds.numerics import per_row, round_up
from certify.smoothing.classifiers.noisy_model import Grid
from certify.smoothing.drawing.votes import Sampling, Stage, draw_run_seed
from certify.smoothing.noises.base import Gaussian
from certify.smoothing.outputs.base import (
    GaussianOutputs,
    OutputCertificate,
    gather_outputs,
    shifted_probability,
    upper_rank,
)

Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False, kw_only=True)
class CenterCertificate(OutputCertificate):
    """Balls that hold the output of a smoothed model for all inputs within a radius.

    Attributes:
        label: (N, *O), the center of each ball; :attr:`center` is another name of it.
        output_radius: (N,) float64, in units of the distance: the smoothed output at every input within ``radius``
            is at most this far from the center; inf where the row abstains.
        ball_radius: (N,) float64, of the ball about the center that holds more than half of what the model returns
            under noise at every such input; inf where the row abstains.
        abstained: (N,) bool, True where nothing is certified: too few draws, or distances that are not finite.
        n0: draws per input that choose the center.
        gamma: factor of the relaxed triangle inequality.
    """

    output_radius: Tensor
    ball_radius: Tensor
    abstained: Tensor
    n0: int
    gamma: float

    @property
    def center(self) -> Tensor:
        """(N, *O), the center of each ball, in the dtype of the model."""
        return self.label


class CenterSmoothing:
    """The smoothed model that returns the center of a small ball with half of what a model returns under noise.

    Args:
        model: maps (N, *D) to one tensor (N, *O), deterministic and row by row; normalisation belongs inside it.
        distance: maps outputs (B, *O) and (B, *O) to their distances (B,): at least 0, symmetric, and with
            ``d(a, c) <= gamma * (d(a, b) + d(b, c))``, none of which is checked. Distances that are NaN or below 0
            count as infinite. Certificates take its values as they are, rounding errors included; it gets outputs in
            half precision as numbers in single precision.
        noise: Gaussian, in units of the input.
        gamma: factor of the relaxed triangle inequality, at least 1: 1 for a metric, 2 for its square.
        batch_size: rows of a forward pass; it affects memory and speed only.
        noise_group: number of consecutive inputs that share their noise draws.
        grid: as for :class:`certify.SmoothedClassifier`; the model is then that behind a rounding to the grid.

    Raises:
        InvalidInput: noise that is not Gaussian, gamma below 1, batch_size or noise_group below 1, a grid too fine.

    References:
        Kumar, Goldstein (2021), Center smoothing: certified robustness for networks with structured outputs,
        arXiv:2102.09701. They estimate by Hoeffding's inequality what binomial tails give exactly here.
    """

    def __init__(
        self,
        model: nn.Module,
        distance: Distance,
        noise: Gaussian,
        *,
        gamma: float = 1.0,
        batch_size: int = 1000,
        noise_group: int = 1,
        grid: Grid = "auto",
    ) -> None:
        self.outputs = GaussianOutputs(model, noise, batch_size=batch_size, noise_group=noise_group, grid=grid)
        self.distance = distance
        self.gamma = checks.positive("gamma", gamma)
        if self.gamma < 1:
            raise InvalidInput(f"gamma must be at least 1, which is that of a metric, got {gamma!r}")

    @in_deployed_precision
    def certify(
        self,
        x: Tensor,
        radius: float,
        n: int = 10_000,
        n0: int = 200,
        candidates: int = 30,
        alpha: float = 1e-3,
        *,
        generator: torch.Generator | None = None,
        first_index: int = 0,
    ) -> CenterCertificate:
        """Ball that holds the smoothed output for every input within ``radius`` in l_2.

        For each row, the statement "at every input within ``radius``, the smoothed output is within ``output_radius``
        of ``center``" is false with probability at most ``alpha``. The inputs themselves are among these, so that it
        also bounds how far ``center`` is from the smoothed output there. Any center is valid, and a good one makes
        the ball small: it is the one of some draws with the smallest median distance to all ``n0`` of them.

        Args:
            x: (N, *D), floating and finite.
            radius: bound of the perturbation, in units of the input; at least 0.
            n: noise draws per input for the estimate. Below ``log(alpha) / log(Phi(radius / sigma))`` every row
                abstains.
            n0: separate draws per input that choose the center; their outputs are kept meanwhile.
            candidates: number of these that are tried as centers, each against all of them.
            alpha: failure probability, per row.
            generator: supplies the run seed (one draw from it).
            first_index: index of row 0 in its data set.

        Raises:
            InvalidInput: a bad argument, a distance that does not give one number per row.
            InvalidModel: an output that is no tensor with one row per input; see :func:`certify.models.probe`.
        """
        radius = checks.nonnegative("radius", radius)
        n, n0, candidates = (
            checks.at_least(name, value, 1) for name, value in (("n", n), ("n0", n0), ("candidates", candidates))
        )
        checks.probability("alpha", alpha)
        sampling = self.outputs.sampling(x, max(n, n0), draw_run_seed(generator), first_index)
        example = self.outputs.example(sampling)
        noise = self.outputs.noise
        rank = upper_rank(shifted_probability(0.0, radius / noise.sigma, sampling.error), n, alpha)
        center = example.new_empty(len(x), *example.shape[1:])
        ball = x.new_full((len(x),), torch.inf, dtype=torch.float64)
        for rows, part in self.outputs.parts(sampling, n0):
            shape = (rows.stop - rows.start, n0, *example.shape[1:])
            values = gather_outputs(part, Stage.SELECTION, example.new_empty(shape))
            center[rows] = self._center(values, min(candidates, n0))
        if rank <= n:
            for rows, part in self.outputs.parts(sampling, n):
                ball[rows] = self._distances(part, center[rows], n).kthvalue(rank, dim=1).values
        return CenterCertificate(
            label=center,
            output_radius=torch.where(ball == 0, 0.0, round_up(self.gamma * (1 + 2 * self.gamma) * ball)),
            ball_radius=ball,
            abstained=~ball.isfinite(),
            n0=n0,
            gamma=self.gamma,
            radius=radius,
            norm=noise.norm,
            alpha=alpha,
            n=n,
            **self.outputs.provenance(sampling, "center of "),
        )

    def _center(self, values: Tensor, candidates: int) -> Tensor:
        """Centers (M, *O): among the first draws of (M, n0, *O), the one with the smallest median distance to all."""
        others = values.flatten(0, 1)
        best = values[:, 0]
        smallest = torch.full((len(values),), torch.inf, dtype=torch.float64, device=values.device)
        for i in range(candidates):
            candidate = values[:, i]
            repeated = candidate.unsqueeze(1).expand_as(values).flatten(0, 1)
            median = self._measured(repeated, others).view(values.shape[:2]).median(dim=1).values
            better = per_row(median < smallest, candidate)
            best = torch.where(better, candidate, best)
            smallest = torch.minimum(median, smallest)
        return best

    def _distances(self, part: Sampling, center: Tensor, n: int) -> Tensor:
        """Distances (M, n) of n draws from the centers (M, *O)."""
        distances = torch.empty(len(center), n, dtype=torch.float64, device=center.device)

        def measure(output: Tensor, row: Tensor, draw: Tensor) -> None:
            distances[row, draw] = self._measured(center[row], output)

        part.run(n, Stage.ESTIMATION, measure)
        return distances

    def _measured(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances (B,) float64; infinite where they are NaN or negative."""
        if first.is_floating_point():
            first, second = (y.to(torch.promote_types(y.dtype, torch.float32)) for y in (first, second))
        distances = self.distance(first, second)
        if not isinstance(distances, Tensor) or distances.shape != (len(first),):
            shown = tuple(distances.shape) if isinstance(distances, Tensor) else type(distances).__name__
            raise InvalidInput(f"distance must return one number per row, shape ({len(first)},), got {shown}")
        return torch.where(distances >= 0, distances.double(), torch.inf)
