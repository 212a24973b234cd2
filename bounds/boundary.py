"""The nearest point found on the decision boundary of a model, in all directions or within a subspace."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.errors import InvalidInput
from bounds.frozen import frozen
from bounds.noise import beaten, predicted_labels

MOST_CLASSES = 9  # whose boundaries are aimed at, at most
OVERSHOOT = 1.02
SPHERES = 3  # steps on spheres for each onto planes
START = 2  # of the distance that is known, the first sphere is one part
COARSE, FINE = 12, 40  # bisections within a descent, and at its end


@dataclass(frozen=True, eq=False, kw_only=True)
class BoundaryPoints:
    """Points with another prediction, just behind the boundary, one row per input.

    Attributes:
        label: (N,) int64, the predicted class of each input.
        distance: (N,) float64, l_2 distance to the point; infinite where none was found. An upper bound.
        perturbation: (N, *D), the point minus the input; 0 where none was found.
        other: (N,) int64, the class predicted there; ``label`` where none was found.
    """

    label: Tensor
    distance: Tensor
    perturbation: Tensor
    other: Tensor

    @property
    def found(self) -> Tensor:
        """(N,) bool."""
        return self.distance.isfinite()


def nearest_boundary(
    model: nn.Module,
    x: Tensor,
    *,
    basis: Tensor | None = None,
    target: int | Tensor | None = None,
    steps: int = 20,
    batch_size: int = 256,
) -> BoundaryPoints:
    """The nearest boundary point that projections onto linearised boundaries find, in l_2 and without a box.

    An upper bound on the distance to the boundary, like every attack, and exact where boundaries are flat.

    Args:
        model: maps (N, *D) to logits (N, K), differentiable.
        x: (N, *D), floating and finite.
        basis: (m, *D) orthonormal perturbations, or (N, m, *D) with a basis for each input: the search stays within the
            subspace. None for all directions.
        target: a class, or (N,): only where it wins over the predicted one counts. None for any class.
        steps: linearisations; in all, five gradients are taken for each.
        batch_size: inputs searched together.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: the model returns no (N, K) logits, or such that are not finite at an input.

    References:
        Moosavi-Dezfooli, Fawzi, Frossard (2016), DeepFool, arXiv:1511.04599; Croce, Hein (2020), arXiv:1907.02044, for
        steps that begin at the input.
    """
    checks.inputs(x)
    checks.at_least("steps", steps, 1)
    checks.at_least("batch_size", batch_size, 1)
    if basis is not None and basis.shape[-x.ndim + 1 :] != x.shape[1:]:
        raise InvalidInput(f"basis must hold perturbations of shape {tuple(x.shape[1:])}, got {tuple(basis.shape)}")
    with frozen(model):
        with torch.no_grad():
            label = predicted_labels(model, x, batch_size)
        aims = None if target is None else torch.as_tensor(target, device=x.device).expand(len(x))
        if aims is not None and (aims == label).any():
            raise InvalidInput("target must be another class than the predicted one")
        parts = []
        for rows in torch.arange(len(x), device=x.device).split(batch_size) if len(x) else ():
            own = basis[rows] if basis is not None and basis.ndim > x.ndim else basis
            aim = None if aims is None else aims[rows]
            problem = _Problem(model=model, x=x[rows].detach(), label=label[rows], basis=own, target=aim)
            parts.append(_search(problem, steps))
    if not parts:
        return BoundaryPoints(label=label, distance=x.new_zeros(0).double(), perturbation=x.clone(), other=label)
    perturbation, distance, other = (torch.cat(part) for part in zip(*parts, strict=True))
    found = distance.isfinite()
    return BoundaryPoints(
        label=label,
        distance=distance,
        perturbation=torch.where(_rows(found, x), perturbation, 0.0),
        other=torch.where(found, other, label),
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class _Problem:
    """Inputs, the boundary that is looked for, and the subspace in which it is."""

    model: nn.Module
    x: Tensor
    label: Tensor
    basis: Tensor | None
    target: Tensor | None

    def passed(self, points: Tensor) -> Tensor:
        """(N,) bool: the points are behind the boundary; never where a logit is not a number."""
        logits = self.model(points)
        if self.target is None:
            return beaten(logits, self.label)
        ahead: Tensor = logits.gather(1, self.target[:, None]) > logits.gather(1, self.label[:, None])
        return ahead.squeeze(1)

    def bisected(self, move: Tensor, times: int) -> Tensor:
        """The shortest share of each move found that is behind the boundary, as the whole of it is."""
        low = torch.zeros_like(self.label, dtype=self.x.dtype)
        high = torch.ones_like(low)
        for _ in range(times):
            middle = (low + high) / 2
            passed = self.passed(self.x + _rows(middle, move) * move)
            low, high = torch.where(passed, low, middle), torch.where(passed, middle, high)
        return _rows(high, move) * move

    def steps_to_plane(self, move: Tensor, most: int = MOST_CLASSES) -> tuple[Tensor, Tensor]:
        """The shortest steps to a boundary linearised at ``x + move``, from there and from x, (N, *D) each.

        Among the boundaries to the likeliest classes, that which is nearest to where the step begins.
        """
        point = (self.x + move).detach().requires_grad_()
        with torch.enable_grad():
            logits = self.model(point.clone())
            margins = logits - logits.gather(1, self.label[:, None])
        if self.target is not None:
            aims = self.target[:, None]
        else:
            ranked = logits.detach().scatter(1, self.label[:, None], -math.inf)
            aims = ranked.topk(min(most, logits.shape[1] - 1), dim=1).indices
        steps = [torch.zeros_like(move), torch.zeros_like(move)]
        least = [torch.full_like(self.label, math.inf, dtype=move.dtype)] * 2
        for aim in aims.T:
            margin = margins.gather(1, aim[:, None]).squeeze(1)
            (gradient,) = torch.autograd.grad(margin.sum(), point, retain_graph=True)
            gradient = _onto(gradient.nan_to_num(0.0, 0.0, 0.0), self.basis)
            length = gradient.flatten(1).norm(dim=1).clamp(min=torch.finfo(move.dtype).tiny)
            unit = gradient / _rows(length, move)
            gap = -margin.detach() / length
            for which, level in enumerate((gap, gap + (unit * move).flatten(1).sum(1))):
                closer = level.abs() < least[which]
                least[which] = torch.where(closer, level.abs(), least[which])
                steps[which] = torch.where(_rows(closer, move), unit * _rows(level, move), steps[which])
        return steps[0], steps[1]


def _search(problem: _Problem, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest moves found behind the boundary, their lengths, infinite where there is none, and the classes there.

    Onto tangent planes from the input, then around it on spheres whose radius follows what is found, since gradients at
    an input itself can mislead, then onto tangent planes again.
    """
    best = torch.zeros_like(problem.x)
    least = torch.full_like(problem.label, math.inf, dtype=torch.float64)
    best, least, scale = _onto_planes(problem, best, least, steps)
    best, least = _around(problem, best, least, scale, SPHERES * steps)
    best, least, _ = _onto_planes(problem, best, least, steps)
    with torch.no_grad():
        best = problem.bisected(best, FINE)
        found = least.isfinite() & problem.passed(problem.x + best)
        other = problem.model(problem.x + best).argmax(1)
    return best, torch.where(found, _length(best), math.inf), other


def _onto_planes(problem: _Problem, best: Tensor, least: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Steps that begin where the last one ended, until the boundary is passed; the length of the first one as well.

    Then from the boundary towards the foot of the perpendicular onto its tangent plane, by a part that is halved where
    that leads no nearer.
    """
    move, part = best, torch.ones_like(problem.label, dtype=best.dtype)
    first = least
    for step in range(steps):
        onward, foot = problem.steps_to_plane(move)
        first = _length(onward) if step == 0 else first
        with torch.no_grad():
            known = least.isfinite()
            turned = best + _rows(part, best) * (foot - best)
            trial = OVERSHOOT * torch.where(_rows(known, best), turned, move + onward)
            near = problem.bisected(trial, COARSE)
            nearer = problem.passed(problem.x + trial) & (_length(near) < least)
            best = torch.where(_rows(nearer, best), near, best)
            least = torch.where(nearer, _length(near), least)
            part = torch.where(nearer | ~known, (2 * part).clamp(max=1.0), part / 2)
            move = torch.where(_rows(least.isfinite(), best), best, trial)
    return best, least, first


def _around(problem: _Problem, best: Tensor, least: Tensor, scale: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Gradient steps on spheres that shrink where the boundary is passed and grow where it is not.

    References:
        Rony et al. (2019), Decoupling direction and norm, arXiv:1811.09600.
    """
    radius = torch.where(least.isfinite(), least, scale).to(best.dtype) / START
    move = torch.zeros_like(best)
    for step in range(steps):
        size = radius * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
        onward, _ = problem.steps_to_plane(move, most=1)
        with torch.no_grad():
            unit = onward / _rows(_length(onward).to(best.dtype).clamp(min=torch.finfo(best.dtype).tiny), best)
            sign = torch.where(problem.passed(problem.x + move), -1.0, 1.0).to(best.dtype)
            move = move + _rows(sign * size, best) * unit
            move = move * _rows(radius / _length(move).to(best.dtype).clamp(min=torch.finfo(best.dtype).tiny), best)
            passed = problem.passed(problem.x + move)
            nearer = passed & (_length(move) < least)
            best = torch.where(_rows(nearer, best), move, best)
            least = torch.where(nearer, _length(move), least)
            radius = torch.where(passed, 0.95 * radius, 1.05 * radius)
    return best, least


def _rows(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


def _length(move: Tensor) -> Tensor:
    length: Tensor = move.flatten(1).double().norm(dim=1)
    return length


def _onto(gradient: Tensor, basis: Tensor | None) -> Tensor:
    """Projection of rows onto the span of the basis."""
    if basis is None:
        return gradient
    flat, vectors = gradient.flatten(1), basis.flatten(-gradient.ndim + 1)
    if vectors.ndim == 2:
        return (flat @ vectors.T @ vectors).view_as(gradient)
    return ((vectors @ flat[:, :, None]).mT @ vectors).view_as(gradient)


def random_basis(like: Tensor, count: int, dimension: int, generator: torch.Generator | None = None) -> Tensor:
    """Orthonormal bases (count, m, *D) of uniformly random subspaces, for inputs shaped (..., *D) like ``like[0]``."""
    features = like[0].numel()
    checks.at_most("dimension", checks.at_least("dimension", dimension, 1), features)
    drawn = torch.empty(count, features, dimension, dtype=like.dtype, device=like.device).normal_(generator=generator)
    basis: Tensor = torch.linalg.qr(drawn).Q
    return basis.mT.reshape(count, dimension, *like.shape[1:])
