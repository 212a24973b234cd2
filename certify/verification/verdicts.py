"""Verified, falsified or unknown: one radius, by attack and by bounds from cheap to tight."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bounds import Graph, checks, margin_bounds
from bounds.checks import Limit
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.linear.methods import METHODS
from bounds.memory import MEMORY
from certify.attacks import minimal_perturbation
from certify.models import frozen, predictions, probe
from certify.results import Record
from certify.verification.radius import bounded_form, least_margin, norm_of_set, outer_box, perturbations

LADDER = ("ibp", "crown_ibp", "crown", "alpha_crown")  # what each row climbs until it is verified
ATTACKED = (0.0, 1.0, 2.0, math.inf)  # norms for which there is an attack


@dataclass(frozen=True, eq=False, kw_only=True)
class Verdict(Record):
    """What is known of each input and its perturbations up to a radius.

    Attributes:
        label: (N,) int64, the predicted class; -1 where a logit is not finite.
        verified: (N,) bool, True where the model is proved to predict the given label for all of them.
        falsified: (N,) bool, True where one of them, or the input itself, was found to get another label.
        margin: (N,) float64, the best proved lower bound on the least margin; above 0 where verified, minus infinity
            where no bound was asked for.
        adversarial: (N, *D), the input found; the clean input where none was.
        distance: (N,) float64, of ``adversarial``, run through the model once more; infinite where none was found.
        decided_by: for each row, ``"clean"``, ``"attack"``, the bounding method, or ``""`` where it is unknown.
        epsilon: (N,) float64, the radius.
        norm: order of the norm; 0 for the number of changed entries.
        sound: the arithmetic that ``verified`` is about, see :func:`bounds.crown`.
        subject: the classifier it speaks of.
    """

    verified: Tensor
    falsified: Tensor
    margin: Tensor
    adversarial: Tensor
    distance: Tensor
    decided_by: tuple[str, ...]
    epsilon: Tensor
    norm: float
    sound: str
    subject: str = "base"

    @property
    def unknown(self) -> Tensor:
        """(N,) bool, True where neither a proof nor an adversarial example was found."""
        return ~(self.verified | self.falsified)


@isolated
def verify(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    norm: float,
    epsilon: float | Tensor,
    method: str = "alpha_crown",
    low: Limit = 0.0,
    high: Limit = 1.0,
    frozen_features: Tensor | None = None,
    attack: bool = True,
    steps: int = 20,
    sound: str = "rounding",
    batch_size: int = 64,
    memory: int = MEMORY,
    generator: torch.Generator | None = None,
) -> Verdict:
    """Whether the model predicts the given label for all inputs of the ball and the box.

    Each input is first run as it is, then attacked, then bounded by ``"ibp"``, ``"crown_ibp"``, ``"crown"`` and
    ``"alpha_crown"`` up to ``method``; what is decided goes no further. A row is verified only by a proof, in float64
    whatever the model's dtype, and falsified only by an input that the model was run on once more.

    Args:
        model: any network that ``torch.export`` follows.
        x: (N, *D), floating, finite, inside the box.
        labels: (N,) correct classes.
        norm: order of the norm, from 1 to ``math.inf``; or 0 for the number of changed entries.
        epsilon: the radius, a number or (N,) with one for each input, in units of the input; one integer for norm 0.
        method: the last bounding method to try; ``"fast_lin"`` is tried alone.
        low: lower side of the box: a number, a tensor that broadcasts to one input, or None.
        high: upper side of the box, likewise.
        frozen_features: bool, broadcasts to one input; True where no perturbation may change it.
        attack: whether to look for adversarial examples, in l0, l1, l2 and l-infinity.
        steps: of ascent for ``"alpha_crown"``.
        sound: ``"rounding"``, ``"real"`` or ``"deployed"``, see :func:`bounds.crown`.
        batch_size: inputs bounded at once.
        memory: bytes that the coefficients of linear bounds may take.
        generator: source of the attack's random starts.

    Returns:
        A verdict for each input.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.
        UnsupportedLayer: the bounds know no rule for an operation.
    """
    checks.inputs(x, low, high)
    checks.one_of("method", method, METHODS)
    batch_size = checks.at_least("batch_size", batch_size, 1)
    checks.frozen_features(frozen_features, x)
    order = norm_of_set(norm, low, high)
    radius = _radii(epsilon, x, order)
    x = x.detach()
    with frozen(model):
        num_classes = probe(model, x, batch_size=min(batch_size, len(x))) if len(x) else 2
        labels = checks.labels(labels, len(x), num_classes).to(x.device)
        predicted = predictions(model, x, batch_size) if len(x) else labels
        state = _State(x, predicted, labels)
        if attack and order in ATTACKED and bool(state.open.any()):
            rows = state.open.nonzero().squeeze(1)
            found = minimal_perturbation(
                model,
                x[rows],
                labels[rows],
                norm=order,
                low=low,
                high=high,
                frozen_features=frozen_features,
                batch_size=batch_size,
                generator=generator,
            )
            state.falsify(rows, found.adversarial, found.distance, found.found & (found.distance <= radius[rows]))
        methods = LADDER[: LADDER.index(method) + 1] if method in LADDER else (method,)
        limits = (*outer_box(x, low, high), frozen_features)
        bounded: nn.Module | Graph = model
        with torch.no_grad():
            for current in methods:
                if not bool(state.open.any()):
                    break
                if not isinstance(bounded, Graph):  # captured once
                    bounded = bounded_form(model, x, current, order, sound)
                for rows in state.open.nonzero().squeeze(1).split(batch_size):
                    ball = perturbations(x[rows], radius[rows], order, limits)
                    margins = margin_bounds(
                        bounded, ball, labels[rows], current, steps=steps, sound=sound, memory=memory
                    )
                    state.bound(rows, least_margin(margins, labels[rows]), current)
    return state.verdict(radius, order, sound)


def _radii(epsilon: float | Tensor, x: Tensor, order: float) -> Tensor:
    """One radius for each row, float64."""
    if order == 0:
        checks.at_least("epsilon", epsilon, 0)  # type: ignore[arg-type]  # what is no integer is refused
    radius = torch.as_tensor(epsilon, dtype=torch.float64, device=x.device)
    if radius.ndim > 1:
        raise InvalidInput(
            f"epsilon must be a number or of shape ({len(x)},), got {tuple(radius.shape)}: for a radius per feature "
            f"use bounds.margin_bounds over bounds.Box(x - radius, x + radius)"
        )
    if radius.ndim > 0:
        checks.rows("epsilon", radius, len(x))
    radius = radius.expand(len(x))
    if not bool(((radius >= 0) & radius.isfinite()).all()):
        checks.nonnegative("epsilon", float(radius.nan_to_num(nan=-1.0, posinf=-1.0).min()))
    return radius


class _State:
    """What is known of each row so far."""

    def __init__(self, x: Tensor, predicted: Tensor, labels: Tensor) -> None:
        wrong = predicted != labels
        self.predicted = predicted
        self.verified = torch.zeros_like(wrong)
        self.falsified = wrong
        self.margin = torch.full(wrong.shape, -math.inf, dtype=torch.float64, device=x.device)
        self.adversarial = x.clone()
        self.distance = torch.where(wrong, 0.0, self.margin.neg())
        self.decided_by = ["clean" if bad else "" for bad in wrong.tolist()]

    @property
    def open(self) -> Tensor:
        """Rows that are not decided."""
        return ~(self.verified | self.falsified)

    def falsify(self, rows: Tensor, adversarial: Tensor, distance: Tensor, hit: Tensor) -> None:
        """Rows for which an input within the radius was found."""
        chosen = rows[hit]
        self.falsified[chosen] = True
        self.adversarial[chosen] = adversarial[hit]
        self.distance[chosen] = distance[hit]
        self._decided(chosen, "attack")

    def bound(self, rows: Tensor, margin: Tensor, method: str) -> None:
        """Proved margins of some rows."""
        self.margin[rows] = torch.fmax(self.margin[rows], margin.double())
        chosen = rows[margin > 0]  # False for NaN
        self.verified[chosen] = True
        self._decided(chosen, method)

    def _decided(self, rows: Tensor, how: str) -> None:
        for row in rows.tolist():
            self.decided_by[row] = how

    def verdict(self, epsilon: Tensor, norm: float, sound: str) -> Verdict:
        """The result."""
        return Verdict(
            label=self.predicted,
            verified=self.verified,
            falsified=self.falsified,
            margin=self.margin,
            adversarial=self.adversarial,
            distance=self.distance,
            decided_by=tuple(self.decided_by),
            epsilon=epsilon,
            norm=norm,
            sound=sound,
        )
