"""Crossings of the boundary along random lines, and the size of random noise that changes a prediction."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.gradients import all_logits
from bounds.models import frozen
from bounds.numerics import per_row
from bounds.statistics.proportions import clopper_pearson_lower, clopper_pearson_upper

CAP = 30.0  # in units of sqrt(D / m), how far lines and subspaces are followed unless a limit is given


@dataclass(frozen=True, eq=False, kw_only=True)
class Crossings:
    """First changes of a prediction along random lines through the inputs, followed both ways.

    Attributes:
        label: (N,) int64, the predicted class of each input.
        distance: (N, M) float64, l_2 distance to a point with another prediction, no more than a bisection behind the
            change; infinite where the line was followed to the limit without one (right-censored).
        cosine: (N, M) float64, of each line with a given direction, its absolute value; None without one.
        limit: (N,) float64, how far lines were followed.
        evaluations: forward passes of single points.
    """

    label: Tensor
    distance: Tensor
    cosine: Tensor | None
    limit: Tensor
    evaluations: int

    @property
    def censored(self) -> Tensor:
        """(N, M) bool, where no change was seen."""
        return self.distance.isinf()


@isolated
def random_crossings(
    model: nn.Module,
    x: Tensor,
    *,
    directions: int,
    limit: float | Tensor,
    along: Tensor | None = None,
    grid: int = 150,
    bisections: int = 40,
    batch_size: int = 1000,
    generator: torch.Generator | None = None,
) -> Crossings:
    """Distances to the first change of the prediction along uniformly random lines, both ways, for any network.

    Places on a line are tried on a grid whose steps grow with the distance, and the first change is bisected. What lies
    between two neighbouring places can be missed: distances may be too large where a class fills a thin slice, and are
    never too small. Points are not clipped to a box. For piecewise-linear networks, :func:`traced_crossings` misses
    nothing.

    Args:
        model: maps (N, *D) to logits (N, K).
        x: (N, *D), floating and finite.
        directions: M, lines through each input.
        limit: l_2 distance up to which lines are followed, in units of the input: a number, or (N,).
        along: (N, *D) directions with which the cosine of each line is recorded, of any length above 0.
        grid: places on each side of a line.
        bisections: halvings of the step in which the prediction changes.
        batch_size: points of a forward pass, which bounds the memory as well.
        generator: source of the directions.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: the model returns no (N, K) logits, or such that are not finite at an input.
    """
    limits = checked_rays(x, directions, limit, along, batch_size)
    checks.at_least("grid", grid, 1)
    checks.at_least("bisections", bisections, 0)
    generator = checks.generator(generator, x.device)
    shares = (torch.arange(1, grid + 1, dtype=torch.float64, device=x.device) / grid) ** 2
    rays = torch.arange(len(x) * directions, device=x.device)
    distance = torch.full((len(rays),), math.inf, dtype=torch.float64, device=x.device)
    cosine = None if along is None else torch.zeros_like(distance)
    with frozen(model), torch.no_grad():
        label = predicted_labels(model, x, batch_size)
        march = _March(model, x.detach(), label, limits, shares, batch_size)
        for part in rays.split(batch_size // 2) if len(rays) else ():
            rows = part // directions
            lines = unit_directions(x[rows], generator)
            distance[part] = march.first_changes(rows, lines, bisections)
            if along is not None and cosine is not None:
                cosine[part] = absolute_cosine(lines, along[rows])
    shape = len(x), directions
    return Crossings(
        label=label,
        distance=distance.view(shape),
        cosine=None if cosine is None else cosine.view(shape),
        limit=limits,
        evaluations=march.evaluations,
    )


AHEAD = 8  # scales that are tried between two questions of the host


class _March:
    """Follows lines outward until the prediction changes, all of a batch at once."""

    def __init__(
        self, model: nn.Module, x: Tensor, label: Tensor, limits: Tensor, shares: Tensor, batch_size: int
    ) -> None:
        self.model, self.x, self.label = model, x, label
        self.limits, self.shares = limits, shares
        self.batch_size = batch_size
        self.evaluations = 0
        self.buffer = x.new_empty(max(batch_size, 2), *x.shape[1:])

    def changed(self, origins: Tensor, label: Tensor, lines: Tensor, places: Tensor) -> Tensor:
        """(R, C) bool, whether the prediction at origin + place * line is another one; lines (R, *D), places (R, C)."""
        count, columns = places.shape
        shape = origins.shape[1:]
        points = torch.addcmul(
            origins.view(count, 1, -1),
            places.to(origins.dtype)[:, :, None],
            lines.view(count, 1, -1),
            out=self.buffer[: count * columns].view(count, columns, -1),
        )
        self.evaluations += count * columns
        logits = self.model(points.view(count * columns, *shape))
        return beaten(logits, label.repeat_interleave(columns)).view(count, columns)

    def first_changes(self, rows: Tensor, lines: Tensor, bisections: int) -> Tensor:
        """Distance (R,) of the first change on each line, infinite where there is none."""
        distance = self.limits.new_full((len(rows),), math.inf)
        ray, side, step = self._brackets(rows, lines)
        ends = torch.cat([self.shares.new_zeros(1), self.shares])
        for chosen in torch.arange(len(ray), device=rows.device).split(self.batch_size) if len(ray) else ():
            ray_, step_, row = ray[chosen], step[chosen], rows[ray[chosen]]
            sign = 1 - 2 * side[chosen].to(lines.dtype)
            low, high = ends[step_] * self.limits[row], ends[step_ + 1] * self.limits[row]
            origins, label = self.x[row], self.label[row]
            line = lines[ray_] * per_row(sign, lines)
            for _ in range(bisections):
                middle = (low + high) / 2
                passed = self.changed(origins, label, line, middle[:, None])[:, 0]
                low, high = torch.where(passed, low, middle), torch.where(passed, middle, high)
            distance.scatter_reduce_(0, ray_, high, "amin")
        return distance

    def _brackets(self, rows: Tensor, lines: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For each line with a change: its index, the side, and the step of the grid in which it comes first.

        Where both sides change in one step, both are named. How many lines are left is read once per forward pass.
        """
        left, column = torch.arange(len(rows), device=rows.device), 0
        found = [(left[:0], left[:0], left[:0])]
        origins, label, reach = self.x[rows], self.label[rows], self.limits[rows, None]
        while column < len(self.shares) and len(left):
            part = self.shares[column : column + max(1, self.batch_size // (2 * len(left)))] * reach
            changed = self.changed(origins, label, lines, torch.cat([part, -part], 1)).view(len(left), 2, -1)
            either = changed.any(1)
            first = either.to(torch.uint8).argmax(1)
            here = changed.gather(2, first.view(-1, 1, 1).expand(-1, 2, 1)).squeeze(2)
            which, side = here.nonzero(as_tuple=True)
            found.append((left[which], side, column + first[which]))
            if len(which):
                open_ = ~here.any(1)
                left, lines, origins, label, reach = (t[open_] for t in (left, lines, origins, label, reach))
            column += part.shape[1]
        ray, side, step = (torch.cat(parts) for parts in zip(*found, strict=True))
        return ray, side, step


# ------------------------------------------------------------------------------------------- noise of l_p and Gaussian


@dataclass(frozen=True, eq=False, kw_only=True)
class NoiseRadius:
    """Size of random noise that changes the prediction with a given probability, one row per input.

    Attributes:
        label: (N,) int64, the predicted class of each input.
        radius: (N,) float64, the first scale at which at least the share epsilon of the draws changes the prediction;
            infinite where none up to the limit does (right-censored).
        lower: (N,) float64, a scale up to which the share is not significantly as large as epsilon.
        upper: (N,) float64, the first scale at which it is significantly as large; infinite where none is.
        epsilon: the probability.
        norm: order of the norm of the ball that noise is uniform in, or None for Gaussian noise.
    """

    label: Tensor
    radius: Tensor
    lower: Tensor
    upper: Tensor
    epsilon: float
    norm: float | None


@isolated
def noise_radius(
    model: nn.Module,
    x: Tensor,
    *,
    norm: float | None,
    epsilon: float,
    limit: float | Tensor,
    draws: int = 1000,
    alpha: float = 0.05,
    grid: int = 40,
    bisections: int = 20,
    batch_size: int = 1000,
    generator: torch.Generator | None = None,
) -> NoiseRadius:
    """The least scale at which random noise changes the prediction with probability ``epsilon``.

    The same draws are used at every scale. ``lower`` and ``upper`` come from exact binomial bounds: at one scale that
    was fixed beforehand, each is wrong with probability at most alpha / 2.

    Args:
        model: maps (N, *D) to logits (N, K).
        x: (N, *D), floating and finite.
        norm: noise is uniform in the unit ball of this norm, at least 1; None for independent normal entries of
            variance 1 / D. Scales multiply it, in units of the input.
        epsilon: probability of a change.
        limit: largest scale tried: a number, or (N,).
        draws: noise vectors for each input.
        alpha: of the interval.
        grid: scales tried before bisection.
        bisections: halvings of the step in which the share passes.
        batch_size: points of a forward pass.
        generator: source of the noise.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: the model returns no (N, K) logits, or such that are not finite at an input.

    References:
        Franceschi, Fawzi, Fawzi (2018), Robustness of classifiers to uniform l_p and Gaussian noise, arXiv:1802.07971.
    """
    limits = checked_rays(x, draws, limit, None, batch_size, least=1)
    generator = checks.generator(generator, x.device)
    checks.probability("epsilon", epsilon)
    checks.probability("alpha", alpha)
    checks.at_least("grid", grid, 1)
    checks.at_least("bisections", bisections, 0)
    if norm is not None:
        checks.norm(norm)
    counts = torch.arange(draws + 1, device=x.device)
    certain = clopper_pearson_lower(counts, draws, alpha=alpha / 2) >= epsilon
    possible = clopper_pearson_upper(counts, draws, alpha=alpha / 2) >= epsilon
    # Draws that have to change the prediction: as many as the share, significantly as many, not significantly fewer.
    needed = [math.ceil(epsilon * draws), draws + 1 - int(certain.sum()), draws + 1 - int(possible.sum())]
    shares = (torch.arange(grid + 1, dtype=torch.float64, device=x.device) / grid) ** 2
    found = x.new_full((3, len(x)), math.inf, dtype=torch.float64)
    with frozen(model), torch.no_grad():
        label = predicted_labels(model, x, batch_size)
        march = _March(model, x.detach(), label, limits, shares, batch_size)
        for i in range(len(x)):  # the noise of one input is what is held
            noise = _noise(x[i].expand(draws, *x.shape[1:]), norm, generator)
            rows = torch.full((draws,), i, device=x.device)
            found[:, i] = _first_scales(march, rows, noise, needed, bisections)
    radius, upper, lower = found
    return NoiseRadius(label=label, radius=radius, lower=lower, upper=upper, epsilon=epsilon, norm=norm)


def _first_scales(march: _March, rows: Tensor, noise: Tensor, needed: list[int], bisections: int) -> Tensor:
    """The first scales at which at least so many draws change the prediction of one input, one for each number."""

    def changed(scale: Tensor) -> Tensor:
        parts = zip(rows.split(march.batch_size), noise.split(march.batch_size), strict=True)
        counts = [
            march.changed(march.x[row], march.label[row], part, scale.expand(len(row), 1)).sum() for row, part in parts
        ]
        return torch.stack(counts).sum()

    scales = march.shares * march.limits[rows[0]]
    counts = [torch.zeros_like(rows[0])]  # of draws without length
    for part in scales[1:].split(AHEAD):
        counts += [changed(scale) for scale in part]
        if bool(torch.stack(counts).max() >= max(needed)):
            break
    enough = torch.stack(counts)[:, None] >= torch.tensor(needed, device=rows.device)
    found = scales.new_full((len(needed),), math.inf)
    for i, least in enumerate(needed):
        if not bool(enough[:, i].any()):
            continue
        first = enough[:, i].to(torch.uint8).argmax()
        low, high = scales[first - 1], scales[first]
        for _ in range(bisections):
            middle = (low + high) / 2
            passed = changed(middle) >= least
            low, high = torch.where(passed, low, middle), torch.where(passed, middle, high)
        found[i] = high
    return found


def _noise(like: Tensor, norm: float | None, generator: torch.Generator | None) -> Tensor:
    """Draws shaped like the rows: uniform in the unit ball of the norm, or normal with variance 1 / D.

    With entries of a density in proportion to exp(-|z|^p) and E exponential, z / (sum |z|^p + E)^(1/p) is uniform.
    """
    if norm is None:
        return torch.empty_like(like).normal_(generator=generator) / math.sqrt(like[0].numel())
    if norm == math.inf:
        return torch.empty_like(like).uniform_(-1, 1, generator=generator)
    dtype = torch.promote_types(like.dtype, torch.float32)  # gamma variables are not drawn in half precision
    shape = torch.full_like(like, 1 / norm, dtype=dtype, memory_format=torch.contiguous_format)
    power = torch._standard_gamma(shape, generator=generator)
    signs = torch.empty_like(power).uniform_(-1, 1, generator=generator)
    rest = power.new_empty(len(power)).exponential_(generator=generator)
    total = power.flatten(1).sum(1) + rest
    size: Tensor = (power / per_row(total, power)).pow(1 / norm)
    return size.copysign(signs).to(like.dtype)


# --------------------------------------------------------------------------------------------------------------- parts


def unit_directions(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniformly random directions of length 1, one for each row, shaped (R, *D) like the rows."""
    drawn = torch.empty_like(like, memory_format=torch.contiguous_format)
    drawn.normal_(generator=generator)
    length: Tensor = drawn.flatten(1).norm(dim=1)
    return drawn / per_row(length, like)


def absolute_cosine(lines: Tensor, along: Tensor) -> Tensor:
    """|cosine| of the angle between rows, (R,) float64."""
    first, second = lines.flatten(1).double(), along.flatten(1).double()
    cosine: Tensor = (first * second).sum(1).abs() / (first.norm(dim=1) * second.norm(dim=1))
    return cosine


def beaten(logits: Tensor, labels: Tensor) -> Tensor:
    """(R,) bool: another class has a larger logit than the label; never where a logit is not a number."""
    return logits.amax(1) > logits.gather(1, labels[:, None]).squeeze(1)


def predicted_labels(model: nn.Module, x: Tensor, batch_size: int) -> Tensor:
    """The predicted class of each input, (N,) int64.

    Raises:
        InvalidModel: no (N, K) logits of at least two classes, or such that are not finite.
    """
    return all_logits(model, x.detach(), batch_size).argmax(1)


def default_limit(x: Tensor, least: Tensor) -> Tensor:
    """30 sqrt(D) times the least distance, (N,) float64: a flat boundary lies beyond it on 3% of all lines."""
    return CAP * math.sqrt(math.prod(x.shape[1:])) * least.double()


def checked_rays(
    x: Tensor, directions: int, limit: float | Tensor, along: Tensor | None, batch_size: int, *, least: int = 2
) -> Tensor:
    """The limits, (N,) float64, after a look at all arguments; lines take two points a batch, one for each side."""
    checks.inputs(x)
    checks.at_least("directions", directions, 1)
    checks.at_least("batch_size", batch_size, least)
    if not isinstance(limit, Tensor):
        limit = checks.positive("limit", limit)
    limits = torch.as_tensor(limit, dtype=torch.float64, device=x.device)
    if limits.shape not in ((), (len(x),)):
        raise InvalidInput(f"limit must be a number or of shape ({len(x)},), got {tuple(limits.shape)}")
    if not ((limits > 0) & limits.isfinite()).all():
        raise InvalidInput("limit must be finite and above 0: pass a distance in units of the input")
    if along is not None:
        if checks.tensor("along", along).shape != x.shape:
            raise InvalidInput(f"along must be shaped like x, {tuple(x.shape)}, got {tuple(along.shape)}")
        if not (along.flatten(1).double().norm(dim=1) > 0).all():
            raise InvalidInput("along must hold directions of a length above 0")
    return limits.expand(len(x)).contiguous()
