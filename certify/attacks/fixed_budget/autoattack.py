"""AutoAttack, from the package pyautoattack: a second implementation next to the attacks of this package."""

import math
from importlib import import_module

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from certify.attacks.common.passes import examine
from certify.attacks.common.projections import pull_within
from certify.attacks.common.threat import BoundedThreat, Settings
from certify.attacks.fixed_budget.driver import verdict
from certify.attacks.fixed_budget.state import Outcome
from certify.models import frozen
from certify.results import AttackedAccuracy

NORMS = {1: "L1", 2: "L2", math.inf: "Linf"}
FEWEST_CLASSES = 10  # it aims at nine others, and fails for fewer


class _Counting(nn.Module):
    """The model, counting the rows that go through it and back."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forward_rows, self.backward_rows = model, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forward_rows += len(x)
        logits: Tensor = self.model(x)
        # It differentiates logits that may not depend on x at all: adds 0, whose derivative is 0.
        logits = logits + 0 * x.flatten(1).sum(1, keepdim=True)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.backward_rows += len(gradient)


@isolated
def autoattack(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    norm: float,
    epsilon: float,
    low: Limit = 0.0,
    high: Limit = 1.0,
    frozen_features: Tensor | None = None,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> AttackedAccuracy:
    """Accuracy under the standard version of AutoAttack, run by the package pyautoattack and re-checked here.

    Its limits are refused, since it fails on them or gives wrong numbers without a word: at least ten classes, images
    (N, C, H, W) in float32 within [0, 1], one budget, no ``frozen_features``. It does not say what found an input, nor
    how many passes each input took: passes are counted in sum and stated as the mean over the inputs attacked, rounded
    up.

    Arguments, result and errors otherwise as in :func:`certify.attacks.robust_accuracy`; ``generator`` supplies a
    seed, and ``margin`` and ``blind`` are not measured.

    Raises:
        ImportError: pyautoattack is not installed.

    References:
        Croce, Hein (2020), arXiv:2003.01690; Croce, Hein (2021), arXiv:2103.01208, for l_1.
    """
    threat = BoundedThreat(norm, low, high, frozen_features, epsilon=epsilon)
    threat.check(x)
    checks.positive("epsilon", epsilon)
    checks.at_least("batch_size", batch_size, 1)
    _require_supported(x, threat)
    attack_class = _imported()
    x = x.detach()
    outcome = Outcome.blank(x)
    outcome.blind[:] = False
    settings = Settings(batch_size, generator)
    with frozen(model), torch.no_grad():
        model, num_classes, labels, clean = examine(model, x, labels, batch_size)
        if num_classes < FEWEST_CLASSES and len(x):
            raise InvalidInput(
                f"autoattack needs at least {FEWEST_CLASSES} classes, got {num_classes}: use robust_accuracy instead"
            )
        rows, counting = (clean == labels).nonzero().squeeze(1), _Counting(model)
        if len(rows):
            points = _attacked(attack_class, counting, x[rows], labels[rows], threat, settings)
            outcome.adversarial[rows] = pull_within(points, x[rows], threat.budgets(x[rows]), norm)
            outcome.forward[rows] = -(-counting.forward_rows // len(rows))
            outcome.backward[rows] = -(-counting.backward_rows // len(rows))
        names = ["autoattack"] * len(x)
        return verdict(
            "autoattack", model, x, labels, clean, threat=threat, outcome=outcome, winner=names, settings=settings
        )


def _attacked(
    attack_class: type, model: nn.Module, x: Tensor, labels: Tensor, threat: BoundedThreat, settings: Settings
) -> Tensor:
    """Points at which the standard version ends, (N, *D)."""
    generator, norm, epsilon = settings.generator, NORMS[threat.norm], float(threat.epsilon)
    draw = torch.randint(2**31 - 1, (1,), device=generator.device if generator else "cpu", generator=generator)
    with torch.random.fork_rng():  # it seeds the global generator
        attack = attack_class(model, norm=norm, eps=epsilon, seed=int(draw), device=x.device, version="standard")
        points: Tensor = attack.run_standard_evaluation(x, labels, batch_size=settings.batch_size)[0]
    return points


def _require_supported(x: Tensor, threat: BoundedThreat) -> None:
    """One message for everything that AutoAttack cannot do."""
    low, high = threat.low, threat.high
    wrong = []
    if x.ndim != 4:
        wrong.append(f"inputs of shape {tuple(x.shape)}")
    if x.dtype != torch.float32:
        wrong.append(f"inputs in {x.dtype}")
    if isinstance(low, Tensor) or isinstance(high, Tensor) or (low, high) != (0, 1):
        wrong.append(f"the box [{checks.describe(low)}, {checks.describe(high)}]")
    if threat.frozen_features is not None:
        wrong.append("frozen features")
    if wrong:
        raise InvalidInput(
            f"autoattack takes images (N, C, H, W) in torch.float32 within the box [0, 1] and moves all of them, "
            f"got {' and '.join(wrong)}: "
            f"use robust_accuracy instead"
        )


def _imported() -> type:
    """The class AutoAttack."""
    try:
        found: type = import_module("pyautoattack").AutoAttack
    except ImportError as error:
        raise ImportError(
            "autoattack needs the package pyautoattack: pip install 'certify-bounds[autoattack]'"
        ) from error
    return found
