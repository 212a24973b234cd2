"""Losses for certified training against closed forms, dense grids of small balls, and finite differences."""

import functools
import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from oracles.devices import elsewhere
from oracles.halfspace import generator
from oracles.networks import dense, grid
from oracles.unbounded import LogGamma
from torch import Tensor, nn

import certify.verified_training
from bounds import Graph, InvalidInput, LpBall, UnsupportedLayer, capture, margin_bounds
from certify import reference
from certify.verified_training import (
    crown_ibp_loss,
    epsilon_schedule,
    fused_crown_ibp_loss,
    ibp_loss,
    kappa_schedule,
    robust_loss,
    worst_case_logits,
)

Loss = Callable[..., Tensor]
LOSSES = {
    "ibp": (ibp_loss, {}),
    "crown_ibp": (crown_ibp_loss, {"beta": 1.0}),
    "crown_ibp, mixed": (crown_ibp_loss, {"beta": 0.4}),
    "fused": (fused_crown_ibp_loss, {"beta": 1.0}),
    "fused, mixed": (fused_crown_ibp_loss, {"beta": 0.4}),
}
each_loss = pytest.mark.parametrize("name", LOSSES)
RADIUS = 0.15


@functools.cache
def network(activation: type[nn.Module], *sizes: int, seed: int = 0) -> nn.Sequential:
    """One that no test changes, so that it is captured once."""
    return dense(activation(), *sizes, seed=seed)


@functools.cache
def captured(model: nn.Module, *shape: int) -> Graph:
    """Once for each model, since it takes long."""
    weight = next(model.parameters())
    return capture(model, torch.zeros(1, *shape, dtype=weight.dtype))


def loss_of(name: str, model: nn.Module, ball: LpBall, y: Tensor, **changes: object) -> Tensor:
    loss, options = LOSSES[name]
    defaults = {"kappa": 0.0, "graph": captured(model, *ball.center.shape[1:])}
    return loss(model, ball, y, **defaults | options | changes)


def batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Five points of the plane with labels of three classes."""
    return torch.rand(5, 2, generator=generator(1), dtype=dtype), torch.tensor([0, 1, 2, 1, 0])


def sampled(model: nn.Module, ball: LpBall, y: Tensor, steps: int = 31) -> Tensor:
    """Mean of the largest cross-entropy found for each input on a dense grid of its ball, corners included."""
    worst = []
    for i, label in enumerate(y):
        points = grid(LpBall(ball.center[i : i + 1], ball.radii[i : i + 1], ball.norm, ball.low, ball.high), steps)
        with torch.no_grad():
            worst.append(F.cross_entropy(model(points), label.expand(len(points)), reduction="none").max())
    return torch.stack(worst).mean()


# ------------------------------------------------------------------------------------------------------- closed forms


def test_robust_loss_by_hand():
    margins = torch.tensor([[math.nan, 2.0, -1.0], [0.5, 1.0, 3.0]], dtype=torch.float64)
    y = torch.tensor([0, 1], dtype=torch.int32)
    logits = torch.tensor([[0.0, -2.0, 1.0], [-0.5, 0.0, -3.0]], dtype=torch.float64)
    assert torch.equal(worst_case_logits(margins, y), logits)
    expected = math.log(1 + math.exp(-2) + math.exp(1)) + math.log(1 + math.exp(-0.5) + math.exp(-3))
    assert robust_loss(margins, y).item() == pytest.approx(expected / 2, rel=1e-14)


def test_losses_of_a_linear_model_are_known():
    """Intervals and linear bounds are exact for each difference; the secants are summed at the worst corner."""
    model, (x, y) = network(nn.ReLU, 2, 3), batch()
    ball, clean = LpBall(x, RADIUS, low=None, high=None), F.cross_entropy(model(x), y).item()
    weight, bias = (part.detach() for part in model[0].parameters())
    separate, joint = [], []
    for point, label in zip(x, y, strict=True):
        rows = weight - weight[label]
        v, reach = rows @ point + bias - bias[label], RADIUS * rows.abs().sum(1)
        low, high = v - reach, v + reach
        separate.append(high.exp().sum().log())
        slope = torch.where(reach > 0, (high.exp() - low.exp()) / (high - low), 0.0)
        corners = point + RADIUS * torch.tensor(list(product((-1.0, 1.0), repeat=2)), dtype=torch.float64)
        values = corners @ rows.T + bias - bias[label]
        joint.append((high.exp() + slope * (values - high)).sum(1).max().log())
    expected = {"ibp": separate, "crown_ibp": separate, "crown_ibp, mixed": separate, "fused": joint}
    for name, each in expected.items():
        worst = torch.stack(each).mean().item()
        assert loss_of(name, model, ball, y).item() == pytest.approx(worst, rel=1e-10)
        assert loss_of(name, model, ball, y, kappa=0.3).item() == pytest.approx(0.3 * clean + 0.7 * worst, rel=1e-10)
        assert loss_of(name, model, ball, y, kappa=1.0).item() == pytest.approx(clean, rel=1e-12)
    mixed = [0.4 * one.exp() + 0.6 * other.exp() for one, other in zip(joint, separate, strict=True)]
    assert loss_of("fused, mixed", model, ball, y).item() == pytest.approx(torch.stack(mixed).log().mean().item())
    assert sum(joint) < sum(separate) - 0.01  # what one row for all classes gains: they share their worst corner


def test_margins_are_those_of_the_bounds():
    model, (x, y) = network(nn.Tanh, 2, 6, 3), batch()
    ball = LpBall(x, RADIUS)
    linear, intervals = (margin_bounds(model, ball, y, method) for method in ("crown_ibp", "ibp"))
    for beta in (1.0, 0.4, 0.0):
        loss, expected = loss_of("crown_ibp", model, ball, y, beta=beta), beta * linear + (1 - beta) * intervals
        torch.testing.assert_close(loss, robust_loss(expected, y), rtol=1e-10, atol=0)
    intervals_alone = loss_of("ibp", model, ball, y)
    torch.testing.assert_close(loss_of("fused", model, ball, y, beta=0.0), intervals_alone, rtol=1e-10, atol=0)
    torch.testing.assert_close(ibp_loss(model, ball, y, kappa=0), intervals_alone, rtol=1e-10, atol=0)


@each_loss
def test_without_a_radius_all_losses_are_the_clean_one(name: str):
    model, (x, y) = network(nn.ReLU, 2, 6, 6, 3), batch()
    loss = loss_of(name, model, LpBall(x, 0.0), y, kappa=0.5)
    torch.testing.assert_close(loss, F.cross_entropy(model(x), y), rtol=1e-10, atol=0)


# ------------------------------------------------------------------------------------------------------- upper bounds


@each_loss
@pytest.mark.parametrize(("activation", "norm"), [(nn.ReLU, math.inf), (nn.Tanh, 2.0)], ids=["relu", "tanh"])
def test_no_input_of_the_ball_has_a_larger_loss(name: str, activation: type[nn.Module], norm: float):
    (x, y), h = batch(), 1e-9
    models = [network(activation, 2, 5, 5, 3, seed=seed) for seed in (0, 10)]
    balls = [LpBall(x, radius, norm) for radius in (0.01, 0.4)]
    for model, ball in product(models, balls):
        worst = sampled(model, ball, y)
        assert loss_of(name, model, ball, y) >= worst - h
        assert loss_of(name, model, LpBall(x, 0.0), y) < worst - h  # a set that is too small is found out
    assert loss_of(name, models[0], balls[0], y) < sampled(models[0], balls[0], y) * 1.05  # and little is given away


@pytest.mark.parametrize("norm", [2.0, math.inf])
def test_smaller_sets_are_found_out_where_bounds_are_exact(norm: float):
    """The mutant of the test above for sets of nearly the right size."""
    model, (x, y) = network(nn.ReLU, 2, 3), batch()
    for name in ("ibp", "crown_ibp", "fused"):
        assert loss_of(name, model, LpBall(x, 0.7 * RADIUS, norm), y) < sampled(model, LpBall(x, RADIUS, norm), y)


def test_lines_below_the_exponential_are_found_out(monkeypatch: pytest.MonkeyPatch):
    """The mutant of the fused loss: tangents in the middle of intervals instead of secants."""

    def tangents(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        middle = (lower + upper) / 2
        return middle.exp(), middle.exp() * (1 - middle)

    x, y = batch()
    cases = [(network(nn.ReLU, 2, 3, seed=seed), LpBall(x, 0.4)) for seed in range(3)]
    assert all(loss_of("fused", model, ball, y) >= sampled(model, ball, y) - 1e-9 for model, ball in cases)
    monkeypatch.setattr(certify.verified_training, "_lines_above_exp", tangents)
    assert all(loss_of("fused", model, ball, y) < sampled(model, ball, y) for model, ball in cases)


def test_lines_lie_above_the_exponential_at_every_scale():
    for lower, width in product((-800.0, -90.0, -3.0, -1e-3), (0.0, 1e-12, 1e-6, 1e-3, 0.1, 5.0, 90.0)):
        ends = torch.tensor([lower, min(lower + width, 0.0)], dtype=torch.float64)
        slope, intercept = certify.verified_training._lines_above_exp(*ends)
        points = torch.linspace(*ends.tolist(), 1001, dtype=torch.float64)
        above = slope * points + intercept
        assert (above >= points.exp() * (1 - 1e-12) - 1e-15).all()
        assert torch.allclose(above[[0, -1]], ends.exp(), rtol=1e-9, atol=1e-13)


def test_no_corner_of_a_convolutional_network_has_a_larger_loss():
    model, x, y = reference.load("ibp", 6)
    signs = torch.randint(0, 2, (50, *x.shape), generator=generator(2)) * 2 - 1.0
    directed = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(model(directed), y), directed)
    corners = (x + 0.1 * torch.cat([signs, slope.sign()[None]])).clamp(0, 1)
    with torch.no_grad():
        clean, *found = (F.cross_entropy(model(points), y) for points in (x, *corners))
    assert clean + 0.05 < max(found)
    for name in LOSSES:
        assert max(found) <= loss_of(name, model, LpBall(x, 0.1), y) < max(found) + 0.3


def test_linear_bounds_are_closer_than_intervals():
    model, (x, y) = network(nn.ReLU, 2, 12, 12, 12, 3), batch()
    for radius in (0.02, RADIUS):
        losses = {name: loss_of(name, model, LpBall(x, radius), y).item() for name in LOSSES}
        assert losses["crown_ibp"] < losses["crown_ibp, mixed"] < losses["ibp"]
        assert losses["fused"] < losses["fused, mixed"] < losses["ibp"]


# ---------------------------------------------------------------------------------------------------------- gradients


@each_loss
@pytest.mark.parametrize(
    ("activation", "norm"),
    [(nn.ReLU, math.inf), pytest.param(nn.Tanh, 2.0, marks=pytest.mark.slow)],
    ids=["relu", "tanh"],
)
def test_gradients_are_finite_differences(name: str, activation: type[nn.Module], norm: float):
    model, (x, y) = network(activation, 2, 3, 3), batch()
    ball = LpBall(x, RADIUS, norm)
    gradients = torch.autograd.grad(loss_of(name, model, ball, y, kappa=0.3), tuple(model.parameters()))
    for weight, gradient in zip(model.parameters(), gradients, strict=True):
        flat, gradient = weight.data.view(-1), gradient.view(-1)
        for i in range(len(flat)):
            value, ends = flat[i].item(), []
            for step in (1e-6, -1e-6):
                flat[i] = value + step
                with torch.no_grad():
                    ends.append(loss_of(name, model, ball, y, kappa=0.3).item())
            flat[i] = value
            assert gradient[i].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3, 1e8])
@pytest.mark.parametrize("radius", [0.0, RADIUS])
def test_extreme_logits_leave_losses_and_gradients_finite(scale: float, radius: float):
    model, (x, y) = dense(nn.ReLU(), 2, 6, 3).float(), batch(torch.float32)
    with torch.no_grad():
        model[-1].weight.mul_(scale)
        model[-1].bias.zero_()
    for name, labels in product(LOSSES, (y, model(x).argmax(1))):
        loss = loss_of(name, model, LpBall(x, radius), labels, kappa=0.5)
        gradients = torch.autograd.grad(loss, tuple(model.parameters()))
        assert loss.isfinite()
        assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", ["ibp", "fused, mixed"])
def test_a_graph_captured_once_follows_the_training(name: str):
    model, (x, y) = dense(nn.ReLU(), 2, 6, 3), batch()
    ball = LpBall(x, RADIUS)
    before = loss_of(name, model, ball, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before.backward()
    optimizer.step()
    after = loss_of(name, model, ball, y)
    assert after < before
    assert torch.equal(after, loss_of(name, model, ball, y, graph=capture(model, x)))


@pytest.mark.slow
def test_only_the_clean_part_sees_the_mode_of_the_caller():
    model, (x, y) = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)).double(), batch()
    ball = LpBall(x, RADIUS)
    for count, name in enumerate(LOSSES, start=1):
        loss_of(name, model.train(), ball, y)
        assert model.training
        assert model[1].num_batches_tracked == count
        assert loss_of(name, model.eval(), ball, y) >= sampled(model, ball, y, 21) - 1e-9
        assert model[1].num_batches_tracked == count


@each_loss
def test_losses_follow_the_device_of_their_input(name: str):
    model, (x, y) = network(nn.ReLU, 2, 6, 3), batch()
    ball = LpBall(x, RADIUS)
    expected = loss_of(name, model, ball, y)
    with elsewhere():
        assert torch.equal(loss_of(name, model, ball, y), expected)


# ----------------------------------------------------------------------------------------------------------- training


def blobs(count: int) -> tuple[Tensor, Tensor]:
    """Three squares of side 0.12 in the unit square, at a distance above 0.4 from each other in l-infinity."""
    centers = torch.tensor([[0.2, 0.2], [0.8, 0.2], [0.5, 0.8]], dtype=torch.float64)
    y = torch.arange(count) % 3
    return centers[y] + 0.12 * (torch.rand(count, 2, generator=generator(8), dtype=torch.float64) - 0.5), y


def verified(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of points that intervals prove at radius 0.15."""
    with torch.no_grad():
        margins = margin_bounds(model, LpBall(x, 0.15), y)
    return (margins.scatter(1, y[:, None], 1.0) > 0).all(1).double().mean().item()


def trained(loss: Callable[[nn.Module, float], Tensor], steps: int = 120) -> nn.Sequential:
    model = dense(nn.ReLU(), 2, 24, 24, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(steps):
        optimizer.zero_grad()
        loss(model, step / steps).backward()
        optimizer.step()
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ibp", "crown_ibp", "fused"])
def test_training_raises_what_is_proved(name: str):
    x, y = blobs(60)
    ramp, largest = {"start": 0.0, "end": 0.7}, 0.16

    def loss(model: nn.Module, progress: float) -> Tensor:
        radius = epsilon_schedule(progress, epsilon=largest, **ramp)
        beta = {} if name == "ibp" else {"beta": 1 - radius / largest}
        return loss_of(name, model, LpBall(x, radius), y, kappa=kappa_schedule(progress, **ramp), **beta)

    assert verified(network(nn.ReLU, 2, 24, 24, 3), x, y) < 0.05
    assert verified(trained(loss), x, y) > 0.95


def test_plain_training_proves_little():
    """The twin of the test above: without a certified loss, the same steps do not get there."""
    x, y = blobs(60)
    model = trained(lambda model, _: F.cross_entropy(model(x), y))
    assert (model(x).argmax(1) == y).all()
    assert verified(model, x, y) < 0.8


# ---------------------------------------------------------------------------------------------------------- arguments


@each_loss
def test_bad_arguments_of_losses_are_named(name: str):
    model, (x, y) = network(nn.ReLU, 2, 3), batch()
    ball = LpBall(x, RADIUS)
    for kappa in (-0.1, 1.1, math.nan):
        with pytest.raises(InvalidInput, match="kappa must be"):
            loss_of(name, model, ball, y, kappa=kappa)
    with pytest.raises(InvalidInput, match="class indices, not one-hot rows"):
        loss_of(name, model, ball, F.one_hot(y))
    with pytest.raises(InvalidInput, match="class indices from 0 to 2, got 3"):
        loss_of(name, model, ball, y + 1)
    with pytest.raises(UnsupportedLayer):
        loss_of(name, network(LogGamma, 2, 4, 3), ball, y)
    if "beta" in LOSSES[name][1]:
        with pytest.raises(InvalidInput, match="beta must be at most 1"):
            loss_of(name, model, ball, y, beta=1.5)


def test_bad_margins_are_named():
    y = torch.tensor([0, 1])
    for margins in (torch.zeros(2), torch.zeros(2, 3, dtype=torch.int64)):
        with pytest.raises(InvalidInput, match="margins must be floating, of shape"):
            robust_loss(margins, y)
    with pytest.raises(InvalidInput, match="labels must have shape"):
        robust_loss(torch.zeros(3, 3), y)
