"""The attack of Carlini and Wagner in l_2: a penalty instead of a constraint, and a search for its weight."""

import math

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.adam import Moments, seen
from bounds.checks import Limit
from bounds.numerics import per_row
from bounds.sets.norms import length
from certify.attacks.common.streams import undrawn
from certify.attacks.common.threat import Settings, Threat
from certify.attacks.search.driver import run
from certify.attacks.search.polish import polish
from certify.attacks.search.state import MinimumNormState
from certify.results import Witness

GROWTH = 10.0  # factor of the constant as long as no constant has succeeded
EDGE = 1 - 1e-6  # share of the box on which the change of variables starts, since its sides are infinitely far


def carlini_wagner(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    norm: float = 2,
    low: Limit = 0.0,
    high: Limit = 1.0,
    frozen_features: Tensor | None = None,
    steps: int = 200,
    searches: int = 6,
    rate: float = 0.05,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> Witness:
    """The nearest misclassified input that the attack finds for each row: an upper bound on the distance.

    Minimises the squared l_2 distance plus a constant times the margin by which the label leads, with Adam, in a
    variable whose hyperbolic tangent spans the box (an entry with an open side moves freely). The constant of each
    row is searched for by bisection, from the one at which a linear classifier would balance the two terms.
    Checks and result are those of :func:`minimal_perturbation`.

    Args:
        model: see :func:`minimal_perturbation`.
        x: likewise.
        labels: likewise.
        norm: 2.
        low: see :func:`minimal_perturbation`.
        high: likewise.
        frozen_features: likewise.
        steps: steps of Adam for each constant.
        searches: constants tried.
        rate: step size in the new variable.
        batch_size: see :func:`minimal_perturbation`.
        generator: not needed, since nothing is drawn; there because all attacks are called alike.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.

    References:
        Carlini, Wagner (2017), Towards evaluating the robustness of neural networks, Sections V and VI,
        arXiv:1608.04644.
    """
    checks.at_least("steps", steps, 1)
    checks.at_least("searches", searches, 1)
    checks.positive("rate", rate)

    def attack(state: MinimumNormState) -> None:
        carlini_wagner_steps(state, steps, searches, rate)
        polish(state)

    threat, settings = Threat(norm, low, high, frozen_features), Settings(batch_size, undrawn(generator))
    return run("carlini_wagner", {"carlini_wagner": attack}, model, x, labels, threat, settings)


def carlini_wagner_steps(state: MinimumNormState, steps: int, searches: int, rate: float) -> None:
    """Bisection on the constant of each row: smaller after a success, larger after a failure."""
    margin, gradient = state.margin_and_gradient(state.x, None)
    slope = length(gradient, 2).clamp(min=torch.finfo(gradient.dtype).tiny)
    constant = (-2 * margin / slope / slope).nan_to_num(1.0, 1.0, 1.0)  # the multiplier of a linear classifier
    lower, upper = torch.zeros_like(constant), torch.full_like(constant, math.inf)
    for _ in range(searches):
        success = _minimise(state, constant, steps, rate)
        lower, upper = torch.where(success, lower, constant), torch.where(success, constant, upper)
        constant = torch.where(upper.isinf(), GROWTH * constant, (lower + upper) / 2)


def _minimise(state: MinimumNormState, constant: Tensor, steps: int, rate: float) -> Tensor:
    """Adam on distance and weighted margin; whether it met a misclassified point, (N,)."""
    low, high = state.sides()
    middle, half = (low + high) / 2, (high - low) / 2
    bounded = state.low.isfinite() & state.high.isfinite()
    share = ((state.x - middle) / half).nan_to_num(0.0, 0.0, 0.0).clamp(-EDGE, EDGE)
    variable = torch.where(bounded, torch.atanh(share), share)
    moments = Moments.of(variable)
    success = torch.zeros_like(constant, dtype=torch.bool)
    for step in range(1, steps + 1):
        bend = torch.where(bounded, torch.tanh(variable), variable)
        points = state.inside(middle + half * bend)
        margin, gradient = state.margin_and_gradient(points, None)
        success |= margin > 0
        pull = 2 * (points - state.x) - per_row(constant * (margin <= 0), points) * gradient
        slope = pull * half * torch.where(bounded, 1 - bend * bend, 1.0)
        mean, scale = moments.take(slope, step)
        variable = variable - rate / seen(step) * mean / scale.clamp(min=torch.finfo(slope.dtype).tiny)
    return success
