"""The search behind :func:`bounds.nearest_boundary`: tangent planes, and descents in balls whose radius follows."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bounds.noise.crossings import beaten
from bounds.noise.descent import Terrain, descend
from bounds.numerics import per_row

MOST_CLASSES = 9  # whose boundaries are linearised at a point, at most
AIMED_AT = 2  # likeliest classes that get a descent of their own
OVERSHOOT = 1.02
COARSE, FINE = 12, 40  # bisections on the way, and at the end
LAST = 2  # steps onto planes that are bisected finely
LONGER = 2  # steps of a descent for each onto planes
STEP = {math.inf: (0.5, 0.02), 2.0: (0.2, 0.02)}  # length of a step in units of the radius, likewise


@dataclass(frozen=True, eq=False, kw_only=True)
class BoundaryProblem:
    """Inputs, the boundary that is looked for, and the subspace in which it is."""

    model: nn.Module
    x: Tensor  # (N, *D)
    label: Tensor  # (N,)
    basis: Tensor | None
    target: Tensor | None  # (N,)

    def behind(self, logits: Tensor) -> Tensor:
        """(N,) bool: such logits are behind the boundary; never where one is not a number."""
        if self.target is None:
            return beaten(logits, self.label)
        ahead: Tensor = logits.gather(1, self.target[:, None]) > logits.gather(1, self.label[:, None])
        return ahead.squeeze(1)

    def passed(self, move: Tensor) -> Tensor:
        """(N,) bool: the inputs are behind the boundary once they are moved."""
        return self.behind(self.model(self.x + move))

    def bisected(self, move: Tensor, times: int) -> Tensor:
        """The shortest share of each move found that is behind the boundary, as the whole of it is."""
        low = torch.zeros_like(self.label, dtype=self.x.dtype)
        high = torch.ones_like(low)
        for _ in range(times):
            middle = (low + high) / 2
            passed = self.passed(per_row(middle, move) * move)
            low, high = torch.where(passed, low, middle), torch.where(passed, middle, high)
        return per_row(high, move) * move

    def margins(self, move: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
        """The points, the margins (N, J) of the likeliest other classes over the label there, and who is behind."""
        points = (self.x + move).detach().requires_grad_()
        with torch.enable_grad():
            logits = self.model(points.clone())
            if self.target is not None:
                aims = self.target[:, None]
            else:
                others = logits.detach().scatter(1, self.label[:, None], -math.inf)
                aims = others.topk(min(most, logits.shape[1] - 1), dim=1).indices
            margins = logits.gather(1, aims) - logits.gather(1, self.label[:, None])
        return points, margins, self.behind(logits.detach())

    def gradient(self, margin: Tensor, points: Tensor) -> Tensor:
        """Gradient of each margin with respect to its point, within the subspace."""
        (gradient,) = torch.autograd.grad(margin.sum(), points, retain_graph=True)
        return self.within(gradient.nan_to_num(0.0, 0.0, 0.0))

    def within(self, directions: Tensor) -> Tensor:
        """Projections onto the subspace."""
        if self.basis is None:
            return directions
        flat, vectors = directions.flatten(1), self.basis.flatten(-directions.ndim + 1)
        if vectors.ndim == 2:
            return (flat @ vectors.T @ vectors).view_as(directions)
        # Rows times matrices: a matrix times columns, as matmul sees it, takes seven times as long on a CPU.
        return torch.bmm(torch.bmm(flat[:, None], vectors.mT), vectors).view_as(directions)


@dataclass(eq=False)
class Nearest:
    """The shortest move behind the boundary so far, 0 where there is none, and its length, then infinite."""

    move: Tensor  # (N, *D)
    length: Tensor  # (N,) float64

    def offer(self, move: Tensor, passed: Tensor) -> Tensor:
        """Keep what is shorter; (N,) bool, where it is."""
        length = move.flatten(1).double().norm(dim=1)
        shorter: Tensor = passed & (length < self.length)
        self.move = torch.where(per_row(shorter, move), move, self.move)
        self.length = torch.where(shorter, length, self.length)
        return shorter


def search_boundary(problem: BoundaryProblem, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest moves found behind the boundary, their lengths, infinite where there is none, and the classes there.

    Onto tangent planes from the inputs, which is exact where boundaries are flat; then descents from the inputs, also
    towards single classes, from the other side of them, and from what is nearest so far; at last onto planes again.
    """
    nothing = torch.zeros_like(problem.x)
    nearest = Nearest(nothing, torch.full_like(problem.label, math.inf, dtype=torch.float64))
    _onto_planes(problem, nearest, steps)
    for aimed in (problem, *_towards_single_classes(problem)):
        _descend_twice(aimed, nearest, nothing, LONGER * steps)
    for sign in (-1, 1):
        _descend_twice(problem, nearest, sign * nearest.move, LONGER * steps)
    _onto_planes(problem, nearest, steps)
    _onto_planes(problem, nearest, LAST, FINE)
    with torch.no_grad():
        move = problem.bisected(nearest.move, FINE)
        found = nearest.length.isfinite() & problem.passed(move)
        other = problem.model(problem.x + move).argmax(1)
    return move, torch.where(found, move.flatten(1).double().norm(dim=1), math.inf), other


def _towards_single_classes(problem: BoundaryProblem) -> list[BoundaryProblem]:
    if problem.target is not None:
        return []
    with torch.no_grad():
        others = problem.model(problem.x).scatter(1, problem.label[:, None], -math.inf)
    likeliest = others.topk(min(AIMED_AT, others.shape[1] - 1), dim=1).indices
    return [replace(problem, target=target) for target in likeliest.T]


def _onto_planes(problem: BoundaryProblem, nearest: Nearest, steps: int, bisections: int = COARSE) -> None:
    """Steps that begin where the last one ended, until the boundary is passed.

    Then from the boundary towards the foot of the perpendicular onto its tangent plane, by a part that is halved where
    that leads no nearer.
    """
    move, part = nearest.move, torch.ones_like(problem.label, dtype=problem.x.dtype)
    for _ in range(steps):
        onward, foot = _steps_to_plane(problem, move)
        with torch.no_grad():
            known = nearest.length.isfinite()
            turned = nearest.move + per_row(part, move) * (foot - nearest.move)
            trial = OVERSHOOT * torch.where(per_row(known, move), turned, move + onward)
            shorter = nearest.offer(problem.bisected(trial, bisections), problem.passed(trial))
            part = torch.where(shorter | ~known, (2 * part).clamp(max=1.0), part / 2)
            move = torch.where(per_row(nearest.length.isfinite(), move), nearest.move, trial)


def _steps_to_plane(problem: BoundaryProblem, move: Tensor) -> tuple[Tensor, Tensor]:
    """The shortest steps to a boundary linearised at ``x + move``, from there and from x, (N, *D) each.

    Among the boundaries to the likeliest classes, that which is nearest to where the step begins.
    """
    points, margins, _ = problem.margins(move, MOST_CLASSES)
    steps = [torch.zeros_like(move), torch.zeros_like(move)]
    least = [torch.full_like(problem.label, math.inf, dtype=move.dtype)] * 2
    for margin in margins.unbind(1):
        gradient = problem.gradient(margin, points)
        length = _size(gradient, 2.0)
        unit = gradient / per_row(length, move)
        gap = -margin.detach() / length
        for which, level in enumerate((gap, gap + (unit * move).flatten(1).sum(1))):
            closer = level.abs() < least[which]
            least[which] = torch.where(closer, level.abs(), least[which])
            steps[which] = torch.where(per_row(closer, move), unit * per_row(level, move), steps[which])
    return steps[0], steps[1]


def _descend_twice(problem: BoundaryProblem, nearest: Nearest, start: Tensor, steps: int) -> None:
    """A descent in l_infinity and one in l_2 from where it ends, half of which begins with large entries made larger.

    Networks trained against l_infinity attacks have regions where gradients are small and point to where the boundary
    is not; steps of equal size in all entries cross them, steps along the gradient do not. Minima in l_2, in turn, are
    not in the corners where such steps end, and often sparse.
    """
    move = descend(_Subspace(problem, nearest, math.inf), start, steps)
    move = descend(_Subspace(problem, nearest, 2.0), move, steps)
    squared = move * move.abs()
    sharp = problem.within(squared * per_row(_size(move, 2.0) / _size(squared, 2.0), move))
    descend(_Subspace(problem, nearest, 2.0), sharp, steps)


class _Subspace(Terrain):
    """The moves of a subspace, which may be the whole space, without a box; balls in l_infinity or l_2."""

    def __init__(self, problem: BoundaryProblem, nearest: Nearest, norm: float) -> None:
        self.problem, self.nearest, self.norm, self.rates = problem, nearest, norm, STEP[norm]

    def margin_and_gradient(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """At the input that is moved so; who is behind the boundary offers the move."""
        points, margins, passed = self.problem.margins(places, 1)
        gradient = self.problem.gradient(margins[:, 0], points)
        self.nearest.offer(places, passed)
        return margins[:, 0].detach(), gradient

    def size(self, places: Tensor) -> Tensor:
        return _size(places, self.norm)

    def first_radius(self, places: Tensor, margin: Tensor, gradient: Tensor) -> Tensor:
        slope = _size(gradient, 1 if self.norm == math.inf else 2)
        return self.size(places) + torch.where(gradient.flatten(1).any(1), -margin.clamp(max=0) / slope, 0.0)

    def step(self, places: Tensor, gradient: Tensor, radius: Tensor, nearest: Tensor) -> Tensor:
        if self.norm == math.inf:
            return per_row(radius, places) * self.problem.within(gradient.sign())
        return per_row(radius / _size(gradient, 2.0), places) * gradient

    def into_ball(self, places: Tensor, radius: Tensor) -> Tensor:
        """Made shorter within the subspace."""
        if self.norm == math.inf:
            limit = per_row(radius, places)
            return self.problem.within(places.clamp(-limit, limit))
        return places * per_row((radius / self.size(places)).clamp(max=1.0), places)


def _size(move: Tensor, norm: float) -> Tensor:
    """Norm of each row, (N,), above 0."""
    size: Tensor = move.flatten(1).norm(dim=1, p=norm)
    return size.clamp(min=torch.finfo(move.dtype).tiny)
