"""The nearest point found on the decision boundary of a model, in all directions or within a subspace."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.models import frozen
from bounds.noise.boundary_search import BoundaryProblem, search_boundary
from bounds.noise.crossings import predicted_labels
from bounds.numerics import per_row


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


@isolated
def nearest_boundary(
    model: nn.Module,
    x: Tensor,
    *,
    basis: Tensor | None = None,
    target: int | Tensor | None = None,
    steps: int = 20,
    batch_size: int = 256,
) -> BoundaryPoints:
    """The nearest boundary point that a search by gradients finds, in l_2 and without a box.

    An upper bound on the distance to the boundary, like every attack, and exact where boundaries are flat: onto
    linearised boundaries, then by descents from several starts that cross regions of misleading gradients.

    Args:
        model: maps (N, *D) to logits (N, K), differentiable.
        x: (N, *D), floating and finite.
        basis: (m, *D) orthonormal perturbations, or (N, m, *D) with a basis for each input: the search stays within the
            subspace. None for all directions.
        target: a class, or (N,): only where it wins over the predicted one counts. None for any class.
        steps: length of the search; about 30 gradients are taken for each, and two for every other class.
        batch_size: inputs searched together.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: the model returns no (N, K) logits, or such that are not finite at an input.

    References:
        Moosavi-Dezfooli, Fawzi, Frossard (2016), DeepFool, arXiv:1511.04599; Croce, Hein (2020), arXiv:1907.02044, for
        steps that begin at the input; Rony et al. (2019), arXiv:1811.09600, for balls whose radius follows.
    """
    checks.inputs(x)
    checks.at_least("steps", steps, 1)
    checks.at_least("batch_size", batch_size, 1)
    if basis is not None and checks.tensor("basis", basis).shape[-x.ndim + 1 :] != x.shape[1:]:
        raise InvalidInput(f"basis must hold perturbations of shape {tuple(x.shape[1:])}, got {tuple(basis.shape)}")
    with frozen(model), torch.enable_grad():
        with torch.no_grad():
            label = predicted_labels(model, x, batch_size)
        aims = None if target is None else _aims(target, label, model, x)
        if aims is not None and (aims == label).any():
            raise InvalidInput("target must be another class than the predicted one")
        results = []
        for part in torch.arange(len(x), device=x.device).split(batch_size) if len(x) else ():
            own = basis[part] if basis is not None and basis.ndim > x.ndim else basis
            aim = None if aims is None else aims[part]
            problem = BoundaryProblem(model=model, x=x[part].detach(), label=label[part], basis=own, target=aim)
            results.append(search_boundary(problem, steps))
    if not results:
        return BoundaryPoints(label=label, distance=x.new_zeros(0).double(), perturbation=x.clone(), other=label)
    perturbation, distance, other = (torch.cat(kind) for kind in zip(*results, strict=True))
    found = distance.isfinite()
    return BoundaryPoints(
        label=label,
        distance=distance,
        perturbation=torch.where(per_row(found, x), perturbation, 0.0),
        other=torch.where(found, other, label),
    )


def _aims(target: int | Tensor, label: Tensor, model: nn.Module, x: Tensor) -> Tensor:
    """Target classes (N,), after checking them."""
    if not isinstance(target, Tensor):
        target = torch.full_like(label, checks.at_least("target", target, 0))
    with torch.no_grad():
        classes = model(x[:1]).shape[1] if len(x) else 2
    return checks.labels(target.expand(len(x)) if target.ndim == 0 else target, len(x), classes).to(x.device)


def random_basis(like: Tensor, count: int, dimension: int, generator: torch.Generator | None = None) -> Tensor:
    """Orthonormal bases (count, m, *D) of uniformly random subspaces, for inputs shaped (..., *D) like ``like[0]``."""
    features = like[0].numel()
    checks.at_most("dimension", checks.at_least("dimension", dimension, 1), features)
    generator = checks.generator(generator, like.device)
    dtype = torch.promote_types(like.dtype, torch.float32)  # there is no such factorisation in half precision
    drawn = torch.empty(count, features, dimension, dtype=dtype, device=like.device).normal_(generator=generator)
    basis: Tensor = torch.linalg.qr(drawn).Q.to(like.dtype)
    return basis.mT.reshape(count, dimension, *like.shape[1:])
