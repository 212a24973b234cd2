"""Robust accuracy at a fixed budget, by the standard portfolio of attacks."""

import torch
from torch import Tensor, nn

from bounds import PerturbationSet, checks
from bounds.checks import Limit
from bounds.errors import InvalidInput
from certify.attacks.common.threat import BoundedThreat, SetThreat, Settings, check_alone
from certify.attacks.fixed_budget.auto_pgd import MOST_TARGETS, targeted, untargeted
from certify.attacks.fixed_budget.driver import run
from certify.attacks.fixed_budget.from_outside import from_outside
from certify.attacks.fixed_budget.in_sets import in_sets
from certify.attacks.fixed_budget.without_gradients import without_gradients
from certify.results import AttackedAccuracy


def robust_accuracy(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    norm: float | None = None,
    epsilon: float | Tensor | None = None,
    low: Limit = 0.0,
    high: Limit = 1.0,
    steps: int = 100,
    frozen_features: Tensor | None = None,
    perturbation: PerturbationSet | None = None,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
    first_index: int = 0,
    timeout: float | None = None,
) -> AttackedAccuracy:
    """Accuracy under the standard attacks at a budget: an upper bound on the robust accuracy.

    Auto-PGD on the cross-entropy; then the nearest adversarial inputs that a minimum-norm search finds, drawn into the
    ball; then Auto-PGD on the margins of up to nine other classes, one after the other. Each attack sees only the rows
    that still stand. Every adversarial input is run through the model once more, lies in the box,
    and is within epsilon as float64 measures it, rounded up. That nothing is found proves nothing; where gradients may
    be masked, ask :func:`certify.attacks.gradient_masking` as well.

    Rows whose gradients say nothing, since they are 0, not finite, or foretell no change even of a small step at x, are
    attacked without gradients too: with rounding, signs and detached values passed straight through, and by the square
    attack. ``blind`` names them. A network with a transformation whose derivative is known better is attacked best
    behind :class:`bounds.StandIn`. Rows draw from streams of their own; results depend on the batch only as far as the
    model's rounding does, and where rows without any success borrow an input of another class from their batch.

    In sets of one's own, steps toward the point at which the linearised margin of a class is largest take the place of
    these attacks; where gradients say nothing, random points do. An adversarial input lies in the set as its
    :meth:`bounds.PerturbationSet.contains` tells; norm and epsilon of the result are NaN, and distances are in
    l-infinity.

    Args:
        model: maps (N, *D) to logits (N, K), K >= 2, differentiable.
        x: (N, *D), floating, finite, inside the box.
        labels: (N,) correct classes.
        norm: 1, 2 or ``math.inf``; None with ``perturbation``, as epsilon and frozen_features.
        epsilon: largest norm of a perturbation, in units of the input: a number, or (N,) with one per row.
        low: lower side of the box: a number, a tensor that broadcasts to one input, (N, ...) with one per row, or None.
        high: upper side of the box, likewise.
        steps: gradient steps of each attack and target.
        frozen_features: bool tensor that broadcasts to one input or (N, ...), True for the entries that may not move.
        perturbation: for sets of one's own, instead of a norm, a budget and a box: N sets in float64, each of which
            holds its input, with their ``rows`` and ``contains``.
        batch_size: inputs attacked at once.
        generator: source of a seed; each row draws random starts from a stream of its own.
        first_index: index of row 0 in its data set, which together with the seed tells the streams apart.
        timeout: seconds after which the attacks end with what they have found, None for no limit. ``unfinished`` names
            the rows that were not attacked to the end; they depend on the speed of the machine.

    Returns:
        One row per input; misclassified inputs are not robust and have distance 0.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.

    References:
        Croce, Hein (2020), Reliable evaluation of adversarial robustness, arXiv:2003.01690.
        Croce, Hein (2021), Mind the box, arXiv:2103.01208, for l_1.
    """
    checks.at_least("steps", steps, 1)
    settings = Settings(batch_size, generator, first_index=first_index, timeout=timeout)
    if perturbation is not None:
        check_alone(norm, frozen_features, epsilon)
        return run("robust_accuracy", in_sets(steps), model, x, labels, SetThreat(sets=perturbation), settings)
    if norm is None or epsilon is None:
        missing = "norm" if norm is None else "epsilon"
        raise InvalidInput(
            f"{missing} must be given, got None: pass norm and epsilon, or perturbation= for your own sets"
        )
    threat = BoundedThreat(norm, low, high, frozen_features, epsilon=epsilon)
    portfolio = {
        "apgd(cross_entropy)": untargeted("cross_entropy", steps, restarts=1),
        "from_outside": from_outside(steps, restarts=3),
        "targeted_apgd": targeted(MOST_TARGETS, steps),
        **without_gradients(steps),
    }
    return run("robust_accuracy", portfolio, model, x, labels, threat, settings)
