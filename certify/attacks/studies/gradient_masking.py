"""Whether gradients lead attacks astray, which makes a model look robust that is not."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.sets.norms import length
from certify.attacks.common.threat import BoundedThreat, Settings
from certify.attacks.fixed_budget.auto_pgd import MOST_TARGETS, targeted, untargeted
from certify.attacks.fixed_budget.driver import Attack, run
from certify.attacks.fixed_budget.from_outside import from_outside
from certify.attacks.fixed_budget.gradient_sign import pgd_steps
from certify.attacks.fixed_budget.losses import cross_entropy
from certify.attacks.fixed_budget.square import square_steps
from certify.attacks.fixed_budget.state import FixedBudgetState
from certify.results import AttackedAccuracy, Record

TOLERATED = 0.02  # share of the rows that may show a symptom by chance
SYMPTOMS = ("zero_gradient", "nonfinite_gradient", "black_box_only", "from_outside_only", "stalled", "unbreakable")
ROUNDING = 1e-4  # of the clean margin, which a loss may seem to rise by


@dataclass(frozen=True, eq=False, kw_only=True)
class GradientMaskingReport(Record):
    """Symptoms of masked gradients; where one is shown, accuracies under gradient attacks are not to be trusted.

    All rows that were classified correctly are examined; the others show no symptom. No symptom proves nothing.

    Attributes:
        label: (N,) int64, what the model predicts for the clean input.
        examined: (N,) bool, True where that is correct.
        zero_gradient: (N,) bool, the gradient of the cross-entropy at the clean input is 0 in every entry that may
            move.
        nonfinite_gradient: (N,) bool, a gradient of the cross-entropy or of a margin, at the clean input or on the way
            of an attack, was infinite or no number in an entry that may move.
        black_box_only: (N,) bool, the square attack broke what the standard attacks with gradients did not.
        from_outside_only: (N,) bool, neither broke what falls to a search that begins outside of the budget: gradients
            vanish or mislead within it.
        stalled: (N,) bool, many projected gradient steps on the cross-entropy did not lower the margin.
        unbreakable: (N,) bool, the standard attacks failed at the unbounded budget as well.
        clean_margin: (N,) float64, lead of the label at the clean input, in units of the logits.
        reached_margin: (N,) float64, the lowest that those steps reached.
        unbounded_epsilon: (N,) float64, the unbounded budget.
        norm: order of the norm.
        tolerated: share of the examined rows that may show a symptom before it counts.
    """

    examined: Tensor
    zero_gradient: Tensor
    nonfinite_gradient: Tensor
    black_box_only: Tensor
    from_outside_only: Tensor
    stalled: Tensor
    unbreakable: Tensor
    clean_margin: Tensor
    reached_margin: Tensor
    unbounded_epsilon: Tensor
    norm: float
    tolerated: float = TOLERATED

    @property
    def shares(self) -> dict[str, float]:
        """Share of the examined rows with each symptom; NaN if none was examined."""
        return {name: float(getattr(self, name)[self.examined].double().mean()) for name in SYMPTOMS}

    @property
    def flags(self) -> tuple[str, ...]:
        """The symptoms shown by more rows than tolerated, one name each; empty if gradients seem sound."""
        return tuple(name for name, share in self.shares.items() if share > self.tolerated)


@isolated
def gradient_masking(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    norm: float,
    epsilon: float | Tensor,
    low: Limit = 0.0,
    high: Limit = 1.0,
    frozen_features: Tensor | None = None,
    unbounded: float | None = None,
    steps: int = 50,
    queries: int = 1000,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> GradientMaskingReport:
    """Symptoms of masked gradients, for each input.

    Six symptoms are looked for: gradients that are 0; gradients that are not finite; a black-box attack that succeeds
    where those with gradients fail; adversarial inputs that are met only from outside of the budget; a loss that many
    steps do not lower; inputs that stand at a budget at which nothing should.

    Args:
        model: maps (N, *D) to logits (N, K); need not be differentiable.
        x: as in :func:`certify.attacks.robust_accuracy`.
        labels: likewise.
        norm: 1, 2 or ``math.inf``.
        epsilon: the budget of the attacks that are compared, above 0.
        low: as in :func:`certify.attacks.robust_accuracy`.
        high: likewise.
        frozen_features: likewise.
        unbounded: a budget at which every input should fall; None for the distance to the farthest corner of the
            box, which must then have both sides.
        steps: gradient steps of each attack.
        queries: forward passes of the square attack for each input.
        batch_size: inputs attacked at once.
        generator: source of random starts and windows.

    Raises:
        InvalidInput: a bad argument; no ``unbounded`` and no box.
        InvalidModel: see :func:`certify.models.probe`.

    References:
        Athalye, Carlini, Wagner (2018), Obfuscated gradients give a false sense of security, section 3.1,
        arXiv:1802.00420. Carlini et al. (2019), On evaluating adversarial robustness, arXiv:1902.06705.
    """
    checks.at_least("steps", steps, 1)
    checks.at_least("queries", queries, 1)
    near = BoundedThreat(norm, low, high, frozen_features, epsilon=epsilon)
    near.check(x)
    if not (near.budgets(x) > 0).all():
        raise InvalidInput("epsilon must be above 0 in every row: without a budget there is nothing to compare")
    far = replace(near, epsilon=_farthest(x, near) if unbounded is None else unbounded)
    standard: dict[str, Attack] = {
        "apgd": untargeted("cross_entropy", steps, restarts=1),
        "targeted_apgd": targeted(MOST_TARGETS, steps),
    }

    def attacked(threat: BoundedThreat, attacks: Mapping[str, Attack]) -> AttackedAccuracy:
        return run("gradient_masking", attacks, model, x, labels, threat, Settings(batch_size, generator))

    clean = attacked(near, {"look": _look})
    stepped = attacked(near, {"iterative_fgsm": partial(pgd_steps, steps=steps)})
    square: Attack = partial(square_steps, queries=queries)
    others = {"square": square, "from_outside": from_outside(steps, restarts=3)}
    broken = attacked(near, {**standard, **others})
    return GradientMaskingReport(
        label=clean.label,
        examined=~clean.misclassified,
        zero_gradient=_showing("zero_gradient", clean),
        nonfinite_gradient=_showing("nonfinite_gradient", clean, stepped, broken),
        black_box_only=_fell_to("square", broken),
        from_outside_only=_fell_to("from_outside", broken),
        stalled=stepped.robust & (stepped.margin >= clean.margin - ROUNDING * clean.margin.abs()),
        unbreakable=attacked(far, standard).robust,
        clean_margin=clean.margin,
        reached_margin=stepped.margin,
        unbounded_epsilon=far.budgets(x),
        norm=float(norm),
    )


def _fell_to(name: str, result: AttackedAccuracy) -> Tensor:
    """(N,) bool: rows that one of the attacks broke."""
    return torch.tensor([winner == name for winner in result.attack], dtype=torch.bool, device=result.label.device)


def _showing(name: str, *results: AttackedAccuracy) -> Tensor:
    """(N,) bool: rows whose gradients showed a symptom in one of the results."""
    shown = [[name in row for row in result.symptoms or ()] for result in results]
    return torch.tensor(shown, dtype=torch.bool, device=results[0].label.device).view(len(shown), -1).any(0)


def _look(state: FixedBudgetState) -> None:
    """Only the gradient at the inputs."""
    state.loss_and_gradient(state.x, state.untargeted(cross_entropy))


def _farthest(x: Tensor, threat: BoundedThreat) -> Tensor:
    """Distance of each input to the farthest corner of the box, (N,) float64."""
    if threat.low is None or threat.high is None:
        raise InvalidInput("a box with an open side has no farthest corner: state a budget with unbounded=")
    lower, upper = threat.sides(x)
    return length(torch.maximum(x.double() - lower.double(), upper.double() - x.double()), threat.norm)
