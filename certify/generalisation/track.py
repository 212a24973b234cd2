"""Measuring every checkpoint of a training on the same inputs."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bounds import LpBall, checks
from bounds.checks import Limit
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.models import class_logits
from certify.attacks import fgsm, pgd
from certify.generalisation.checkpoints import Checkpoints, names_of, networks_of
from certify.generalisation.tracked import TrackedTraining
from certify.models import frozen, probed_once
from certify.verification.verdicts import verify


@isolated
def track(
    checkpoints: Checkpoints,
    x: Tensor,
    y: Tensor,
    *,
    norm: float,
    epsilon: float,
    model: nn.Module | None = None,
    training: tuple[Tensor, Tensor] | None = None,
    method: str | None = "crown_ibp",
    steps: int = 20,
    gap: float = 0.25,
    confidence: float = 0.95,
    low: Limit = 0.0,
    high: Limit = 1.0,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> TrackedTraining:
    """Clean, attacked and certified accuracy over a training, with tests of robust and catastrophic overfitting.

    Every checkpoint sees the same inputs and the same random starts, so that changes are measured in pairs. Attacked
    accuracy is an upper bound on robust accuracy, certified accuracy a lower one. The two tests speak of the population
    that the inputs were drawn from; choose checkpoints by other inputs than these.

    Args:
        checkpoints: at least two, in the order of training: networks or their ``state_dict()``, in a sequence or a
            mapping from names.
        x: (N, *D) inputs that were not trained on, floating, finite, inside the box.
        y: (N,) integer, the correct classes.
        norm: order of the norm: 1, 2 or ``math.inf``.
        epsilon: the radius, above 0, in units of the input.
        model: where checkpoints are weights, a network that takes them; it stays as it is.
        training: inputs (M, *D) and labels (M,) of the training, to tell robust overfitting from a training that fails
            as a whole; None for none.
        method: of proofs, see :func:`certify.verify`; None to prove nothing.
        steps: of the attack.
        gap: accuracy after one step minus accuracy after many above which overfitting is catastrophic.
        confidence: of all intervals and tests.
        low: lower side of the box, see :func:`certify.verify`.
        high: upper side of the box.
        batch_size: rows of a forward pass, at most.
        generator: draws the starts of the attack; torch's default if None.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.
        UnsupportedLayer: ``method`` has no rule for a layer; pass ``method=None``.
    """
    names, epsilon = names_of(checkpoints, 2), checks.positive("epsilon", epsilon)
    checks.probability("confidence", confidence)
    checks.probability("gap", gap)
    checks.not_empty(x)
    if training is not None and (not isinstance(training, tuple | list) or len(training) != 2):
        raise InvalidInput(f"training must be a pair (x, y), got {type(training).__name__}: pass (x, y) or None")
    seed = checks.drawn_seed(generator)
    asked = _Asked(norm, epsilon, low, high, steps, batch_size, seed)
    found: list[Mapping[str, Tensor]] = []
    for network in networks_of(checkpoints, model):
        with probed_once():  # each network anew: weights may have been loaded into the same one
            row = asked.accuracies(network, x, y) | asked.margins(network, x, y)
            if method is not None:
                row["certified"] = asked.proved(network, x, y, method)
            if training is not None:
                row["training_attacked"] = asked.accuracies(network, *training)["attacked"]
        found.append(row)
    stacked = {name: torch.stack([row[name] for row in found]) for name in found[0]}
    return TrackedTraining(
        names=names,
        certified=stacked.pop("certified", None),
        training_attacked=stacked.pop("training_attacked", None),
        norm=float(norm),
        epsilon=epsilon,
        method=method or "",
        gap=gap,
        confidence=confidence,
        **stacked,
    )


class _Asked:
    """Measurements that every checkpoint goes through alike."""

    def __init__(
        self, norm: float, epsilon: float, low: Limit, high: Limit, steps: int, batch_size: int, seed: int
    ) -> None:
        self.norm = norm
        self.ball: dict[str, Any] = {"norm": norm, "epsilon": epsilon, "low": low, "high": high}
        self.steps, self.batch_size, self.seed = steps, batch_size, seed

    def accuracies(self, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Inputs that are right as they are, after one step, and after one step and many."""
        one = fgsm(model, x, y, **self.ball, batch_size=self.batch_size)
        source = torch.Generator().manual_seed(self.seed)
        many = pgd(model, x, y, **self.ball, steps=self.steps, batch_size=self.batch_size, generator=source)
        return {"clean": ~one.misclassified, "fgsm": one.robust, "attacked": one.robust & many.robust}

    def proved(self, model: nn.Module, x: Tensor, y: Tensor, method: str) -> Tensor:
        """Inputs that are right and proved to be within the radius."""
        return verify(model, x, y, **self.ball, method=method, attack=False).verified

    def margins(self, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Linearised distances to the boundary, and norms of the gradient of the loss, (N,) each."""
        order = LpBall(x[:1], 0.0, self.norm, None, None).dual_norm
        rows = zip(x.detach().split(self.batch_size), y.split(self.batch_size), strict=True)
        with frozen(model):
            parts = [_linearised(model, points, label, order) for points, label in rows]
        distance, gradient = (torch.cat(each) for each in zip(*parts, strict=True))
        return {"distance": distance, "gradient": gradient}


def _linearised(model: nn.Module, points: Tensor, label: Tensor, order: float) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        points = points.clone().requires_grad_()
        logits = class_logits(model(points), len(points)).double()
        label = label.to(logits.device).long()[:, None]
        others = logits.scatter(1, label, -torch.inf).amax(1)
        margin = logits.gather(1, label).squeeze(1) - others
        loss = -logits.log_softmax(1).gather(1, label)
        slopes = [
            torch.autograd.grad(value.sum(), points, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
            for value in (margin, loss)
        ]
    steep, gradient = (torch.linalg.vector_norm(slope.double().flatten(1), order, dim=1) for slope in slopes)
    return margin.detach() / steep, gradient
