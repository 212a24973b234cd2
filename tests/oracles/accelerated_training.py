"""Losses and steps of training, and what is said of several networks, as calls for the accelerator made of the CPU."""

import math
from collections.abc import Callable
from typing import Any

import torch
from oracles.halfspace import generator
from torch import Tensor, nn

import bounds
import certify
from certify import training

Place = Callable[[Any], Any]
X = torch.rand(3, 1, 8, 8, generator=generator(3))


def network(seed: int = -1) -> nn.Sequential:
    """Four classes, one of them more likely, another one for each seed."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 12), nn.ReLU(), nn.Linear(12, 4)
    )
    with torch.no_grad():
        model[5].bias[seed % 4] += 0.05 * (seed + 1)
    return model.eval()


Y = network()(X).argmax(1)


def ball(t: Place, norm: float = math.inf) -> bounds.LpBall:
    return bounds.LpBall(t(X), 0.02, norm=norm)


def slope(loss: Callable[[Place, nn.Module, int], Tensor]) -> Callable[[Place, int], Tensor]:
    """The gradient of the first weight, as training needs it."""

    def gradient(t: Place, k: int) -> Tensor:
        model = t(network())
        loss(t, model, k).backward()
        return next(model.parameters()).grad

    return gradient


def stepped(t: Place, step: Callable[..., Any]) -> Any:
    """The perturbation and the first weight after a step of training."""
    model = t(network())
    done = step(model, torch.optim.SGD(model.parameters(), lr=0.1))
    return done.delta, next(model.parameters()).detach()


def freely(t: Place, k: int) -> Any:
    return stepped(t, lambda model, optimizer: training.free_step(model, optimizer, ball(t), t(Y), replays=2 * k))


def once(t: Place, k: int) -> Any:
    options: dict[str, Any] = {"outer": 2, "inner": 2 * k, "generator": generator()}
    return stepped(
        t, lambda model, optimizer: training.yopo_step(model[:1], model[1:], optimizer, ball(t), t(Y), **options)
    )


def tracked(t: Place, k: int) -> Tensor:
    options: dict[str, Any] = {"norm": math.inf, "epsilon": 0.05, "method": None, "generator": generator()}
    return certify.track([t(network()), t(network(1))], t(X), t(Y), steps=3 * k, **options).attacked


def generalised(t: Place, k: int) -> Tensor:
    networks, options = [t(network(i)) for i in range(5)], {"permutations": 19 * k, "generator": generator()}
    return certify.margin_generalisation(networks, t(X), t(Y), t(1 - X), t(Y), **options).features


DRAWING: dict[str, Callable[[Place, int], Any]] = {
    "certify.training.pgd_loss": slope(
        lambda t, model, k: training.pgd_loss(model, ball(t), t(Y), steps=3 * k, generator=generator())
    ),
    "certify.training.trades_loss": slope(
        lambda t, model, k: training.trades_loss(model, ball(t), t(Y), steps=3 * k, generator=generator())
    ),
    "certify.training.grad_align_loss": slope(
        lambda t, model, k: training.grad_align_loss(model, ball(t, 2), t(Y), weight=0.3, generator=generator())
    ),
    "certify.training.mtl_ibp_loss": slope(
        lambda t, model, k: training.mtl_ibp_loss(model, ball(t), t(Y), alpha=0.3, steps=k, generator=generator())
    ),
    "certify.training.yopo_step": once,
    "certify.track": tracked,
}
CALLS: dict[str, Callable[[Place, int], Any]] = DRAWING | {
    "certify.training.cure_loss": slope(lambda t, model, k: training.cure_loss(model, t(X), t(Y), weight=1.0, h=0.3)),
    "certify.training.input_gradient_loss": slope(
        lambda t, model, k: training.input_gradient_loss(model, t(X), t(Y), weight=0.3)
    ),
    "certify.training.free_step": freely,
    "certify.margin_generalisation": generalised,
}
WAITS = {
    "certify.track": 150,  # two attacks on each of two networks
    "certify.margin_generalisation": 160,  # a probe of each of five networks
}
