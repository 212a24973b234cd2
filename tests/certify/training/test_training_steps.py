"""FREE and YOPO against their algorithms written out with plain gradient descent; schedules; early stopping."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from oracles.halfspace import generator
from oracles.robust_training import batch, network
from torch import Tensor, nn

from bounds import InvalidInput, InvalidModel, LpBall
from certify.training import (
    EarlyStopping,
    crown_ibp_schedule,
    epsilon_schedule,
    free_step,
    kappa_schedule,
    yopo_step,
)

EPSILON, RATE = 0.2, 0.3


def descended(model: nn.Sequential, gradients: list[Tensor]) -> None:
    with torch.no_grad():
        for weight, gradient in zip(model.parameters(), gradients, strict=True):
            weight -= RATE * gradient


def pulled(x: Tensor, delta: Tensor) -> Tensor:
    return (x + delta.clamp(-EPSILON, EPSILON)).clamp(0, 1) - x


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=RATE)


def test_free_is_its_algorithm():
    model, (x, y) = network(), batch()
    other, delta, losses = copy.deepcopy(model), pulled(x, torch.full_like(x, 0.05)), []
    start = torch.full_like(x, 0.05)
    for _ in range(3):
        points = (x + delta).requires_grad_()
        loss = F.cross_entropy(other(points), y)
        slope, *gradients = torch.autograd.grad(loss, [points, *other.parameters()])
        delta = pulled(x, delta + EPSILON * slope.sign())
        descended(other, gradients)
        losses.append(loss.item())
    found = free_step(model, sgd(model), LpBall(x, EPSILON), y, replays=3, delta=start)
    torch.testing.assert_close(found.delta, delta)
    torch.testing.assert_close(list(model.parameters()), list(other.parameters()))
    assert found.loss.item() == pytest.approx(sum(losses) / 3)
    assert torch.equal(start, torch.full_like(x, 0.05))
    assert losses[0] != pytest.approx(losses[2], rel=0.01)


def test_yopo_is_its_algorithm():
    model, (x, y) = network(), batch()
    other, size, losses = copy.deepcopy(model), 0.06, []
    delta = pulled(x, (2 * torch.rand(x.shape, generator=generator(2), dtype=x.dtype) - 1) * EPSILON)
    sums = [torch.zeros_like(weight) for weight in other.parameters()]
    for _ in range(2):
        hidden = other[:2](x + delta)
        loss = F.cross_entropy(other[2:](hidden), y)
        p, *gradients = torch.autograd.grad(loss, [hidden, *other.parameters()])
        sums = [old + new / 2 for old, new in zip(sums, gradients, strict=True)]
        losses.append(loss.item())
        for _ in range(3):  # through the one linear layer of `first`: p @ W
            delta = pulled(x, delta + size * (p @ other[1].weight).view_as(x).sign())
    descended(other, sums)
    optimizer = sgd(model)
    options = {"outer": 2, "inner": 3, "step_size": size, "generator": generator(2)}
    found = yopo_step(model[:2], model[2:], optimizer, LpBall(x, EPSILON), y, **options)
    torch.testing.assert_close(found.delta, delta)
    torch.testing.assert_close(list(model.parameters()), list(other.parameters()))
    assert found.loss.item() == pytest.approx(sum(losses) / 2)


def step_of(name: str, model: nn.Module, x: Tensor, y: Tensor):
    if name == "free":
        return free_step(model, sgd(model), LpBall(x, EPSILON), y, replays=2)
    return yopo_step(model[:2], model[2:], sgd(model), LpBall(x, EPSILON), y, outer=2, inner=2, generator=generator())


@pytest.mark.parametrize("name", ["free", "yopo"])
def test_steps_leave_gradients_and_modes_as_found(name: str):
    model, (x, y) = network(norm=nn.BatchNorm1d).train(), batch()
    model[1].bias.requires_grad_(False)
    bias, weight = model[1].bias.clone(), model[4].weight.detach().clone()
    for each in model.parameters():
        each.grad = torch.full_like(each, 1e6)  # would throw every weight far away
    step_of(name, model, x, y)
    assert all(bool((each.grad == 1e6).all()) for each in model.parameters())
    assert torch.equal(model[1].bias, bias)
    assert 0 < (model[4].weight - weight).abs().max() < 10
    assert all(module.training for module in model.modules())
    assert int(model[2].num_batches_tracked) == 2
    with torch.no_grad():
        step_of(name, model, x, y)


@pytest.mark.parametrize("name", ["free", "yopo"])
def test_steps_take_half_precision_and_name_what_is_wrong(name: str):
    model, (x, y) = network(), batch()
    found = step_of(name, model.bfloat16(), x.bfloat16(), y)
    assert found.delta.dtype == found.loss.dtype == torch.float32
    with pytest.raises(InvalidInput, match="labels must be class indices"):
        step_of(name, network(), x, y + 3)
    model = network()
    model[-1] = nn.Linear(5, 1).double()
    with pytest.raises(InvalidModel, match="TwoClasses"):
        step_of(name, model, x, y)


def test_steps_refuse_what_does_not_fit():
    model, (x, y) = network(), batch()
    with pytest.raises(InvalidInput, match=r"delta must have shape"):
        free_step(model, sgd(model), LpBall(x, EPSILON), y, delta=torch.zeros(3, 2, 3))
    with pytest.raises(InvalidInput, match="optimizer must be a torch"):
        free_step(model, model.parameters(), LpBall(x, EPSILON), y)


def test_training_with_steps_finds_robust_weights():
    """Two classes that differ in one strong entry and many weak ones, which the budget turns around."""
    source = generator(5)
    y = torch.randint(2, (400,), generator=source)
    sign = (2 * y - 1).double()[:, None]
    x = torch.cat([0.4 * sign, 0.1 * sign + 0.02 * torch.randn(400, 20, generator=source)], 1)
    accuracy = {}
    for name in ("clean", "free"):
        torch.manual_seed(0)
        model = nn.Linear(21, 2).double()
        optimizer, ball = torch.optim.SGD(model.parameters(), lr=1.0), LpBall(x, EPSILON, low=None, high=None)
        for _ in range(25):
            radius = ball if name == "free" else LpBall(x, 0.0, low=None, high=None)
            free_step(model, optimizer, radius, y, replays=4)
        weight = model.weight[1] - model.weight[0]
        margin = sign[:, 0] * (x @ weight + model.bias[1] - model.bias[0]) - EPSILON * weight.abs().sum()
        accuracy[name] = float((margin > 0).double().mean())
    assert accuracy["free"] > 0.95
    assert accuracy["clean"] < 0.5


# ------------------------------------------------------------------------------------- schedules, early stopping


def test_the_schedule_of_crown_ibp_joins_its_parts():
    for step in (-1.0, 0.0, 2.0, 3.3, 7.0, 10.0, 12.0):
        found = crown_ibp_schedule(step, start=2, end=10, epsilon=0.3, last=0.0)
        assert found.epsilon == epsilon_schedule(step, start=2, end=10, epsilon=0.3)
        assert found.kappa == kappa_schedule(step, start=2, end=10, last=0.0)
        assert found.beta == pytest.approx(1 - found.epsilon / 0.3)
    assert crown_ibp_schedule(2, start=2, end=10, epsilon=0.3) == (0.0, 1.0, 1.0)
    with pytest.raises(InvalidInput, match="epsilon must be a finite number above 0"):
        crown_ibp_schedule(2, start=2, end=10, epsilon=0.0)


def test_early_stopping_keeps_the_first_best_epoch():
    model, stopping = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), EarlyStopping(patience=2)
    with pytest.raises(InvalidInput, match="holds no weights yet"):
        stopping.restore(model)
    stops = []
    for epoch, accuracy in enumerate([0.3, math.nan, 0.5, 0.5, torch.tensor(0.4)]):
        with torch.no_grad():
            model[0].weight.fill_(epoch)
            model[1].running_mean.fill_(epoch)
        stops.append(stopping.update(model, accuracy))
    assert stops == [False, False, False, False, True]
    assert (stopping.best, stopping.best_epoch, stopping.epochs) == (0.5, 2, 5)
    stopping.restore(model)
    assert bool((model[0].weight == 2).all())
    assert bool((model[1].running_mean == 2).all())
    assert not any(EarlyStopping().update(model, value) for value in (1.0, 0.5, 0.2, 0.1))
    with pytest.raises(InvalidInput, match="patience must be an integer of at least 1"):
        EarlyStopping(patience=0)
