"""One small call of every public function of training, and of what is said of several networks, by name."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from hostile.calls_of_bounds import Call, Case
from oracles.halfspace import generator
from torch import Tensor, nn

import certify
from certify import training

RADII = torch.linspace(0.0, 1.5, 6, dtype=torch.float64)


class Leaning(nn.Module):
    """Logits with something added to the first."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        return x + self.share * nn.functional.pad(x[:, :1] * 0 + 1, (0, x.shape[1] - 1))


def several(c: Case, count: int) -> list[nn.Module]:
    """Networks that differ, for statements about more than one."""
    return [nn.Sequential(c.model, Leaning(-2.5 * i)) for i in range(count)]


def generalised(c: Case) -> object:
    test_x = torch.cat([c.x, 1 - c.x, 0 * c.x])
    data = c.x, c.y, test_x, torch.zeros(len(test_x), dtype=torch.int64, device="cpu")
    found = certify.margin_generalisation(several(c, 5), *data, layers=["0"], permutations=19, generator=generator())
    return found.to_dataframe().to_dict("list")


def tracked(c: Case) -> object:
    options: dict[str, Any] = {"norm": math.inf, "epsilon": 0.05, "steps": 3, "method": "ibp"}
    return certify.track(several(c, 2), c.x, c.y, **options, generator=generator()).to_dataframe().to_dict("list")


def stepped(c: Case, step: Callable[..., training.TrainingStep]) -> object:
    """The weights after a step of training, whose gradients are on whatever surrounds it."""
    with torch.inference_mode(False):
        model = copy.deepcopy(c.model)
        for weight in model.parameters():
            weight.requires_grad_(True)
        try:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        except ValueError:  # torch itself has nothing to train in such a model
            return None
        done = step(model, optimizer)
    return done, [weight.detach() for weight in model.parameters()]


def freely(c: Case) -> object:
    return stepped(c, lambda model, optimizer: training.free_step(model, optimizer, c.ball, c.y, replays=2))


def once(c: Case) -> object:
    options: dict[str, Any] = {"outer": 2, "inner": 2, "generator": generator()}
    return stepped(
        c, lambda model, optimizer: training.yopo_step(nn.Identity(), model, optimizer, c.ball, c.y, **options)
    )


def stopped(c: Case) -> object:
    """The best of two epochs."""
    stopping = training.EarlyStopping(patience=1)
    return stopping.update(c.model, 0.5), stopping.update(c.model, 0.4), stopping.best, stopping.best_epoch


# Of the model in the precision that surrounds it.
DEPLOYED: dict[str, Call] = {
    "training.EarlyStopping": stopped,
    "training.acet_loss": lambda c: training.acet_loss(c.model, c.x, epsilon=0.05, steps=3, generator=generator()),
    "training.adversarial_inputs": lambda c: training.adversarial_inputs(
        c.model, c.ball, c.y, steps=3, generator=generator()
    ),
    "training.cure_loss": lambda c: training.cure_loss(c.model, c.x, c.y, weight=2.0, h=0.3),
    "training.fast_loss": lambda c: training.fast_loss(c.model, c.ball, c.y, generator=generator()),
    "training.free_step": freely,
    "training.grad_align_loss": lambda c: training.grad_align_loss(
        c.model, c.ball, c.y, weight=0.3, generator=generator()
    ),
    "training.grad_align_penalty": lambda c: training.grad_align_penalty(c.model, c.ball, c.y, generator=generator()),
    "training.input_gradient_loss": lambda c: training.input_gradient_loss(c.model, c.x, c.y, weight=0.3),
    "training.pgd_loss": lambda c: training.pgd_loss(c.model, c.ball, c.y, steps=3, generator=generator()),
    "training.trades_loss": lambda c: training.trades_loss(c.model, c.ball, c.y, steps=3, generator=generator()),
    "training.yopo_step": once,
}

OTHERS: dict[str, Call] = {
    "certify.margin_generalisation": generalised,
    "certify.track": tracked,
    "training.good_loss": lambda c: training.good_loss(c.model, c.ball),
    "training.mtl_ibp_loss": lambda c: training.mtl_ibp_loss(
        c.model, c.ball, c.y, alpha=0.3, steps=2, generator=generator()
    ),
}

PURE: dict[str, Call] = {
    "certify.gap_regression": lambda c: certify.gap_regression(
        torch.stack([RADII, RADII.square()], 1), RADII.exp(), permutations=19, generator=generator()
    ),
    "training.crown_ibp_schedule": lambda c: training.crown_ibp_schedule(3.0, start=1.0, end=9.0, epsilon=0.1),
}

# Names that stand for records: they compute nothing.
RECORDS = {"GapRegression", "MarginGeneralisation", "OverfittingTest", "TrackedTraining"}
RECORDS |= {"CrownIBPWeights", "TrainingStep"}
