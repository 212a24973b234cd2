"""Laws of interval bounds: nested sets, rows that stand alone, single precision, gradients and devices."""

import math

import pytest
import torch
from oracles.devices import elsewhere
from oracles.halfspace import generator
from oracles.interval_networks import NORMS, ORDERS, ZOO, layers_of, network, random_ball
from oracles.selection import crossed
from torch import nn

from bounds import Interval, LpBall, ibp, margin_bounds

# ------------------------------------------------------------------------------------------------------------ laws


@crossed(("norm", NORMS), ("name", ZOO))
def test_radius_zero_is_the_forward_pass(name: str, norm: float):
    model, shape = network(name)
    center = random_ball(shape, norm).center
    interval, logits = ibp(model, LpBall(center, 0.0, norm, None, None)), model(center)
    # A standard deviation of 1e-3 magnifies the rounding of the input; below 2 all rounding is bounded backward.
    scale = 1e3 if name == "normalised" else 10.0 if norm < 2 else 1.0
    torch.testing.assert_close(interval.lower, logits, rtol=1e-12, atol=1e-12 * scale)
    torch.testing.assert_close(interval.upper, logits, rtol=1e-12, atol=1e-12 * scale)
    assert (interval.lower <= logits + 1e-13 * scale).all()


def contains(outer: Interval, inner: Interval) -> bool:
    slack = 1e-10 * (1 + outer.lower.abs().max() + outer.upper.abs().max())
    return bool((outer.lower <= inner.lower + slack).all() and (inner.upper <= outer.upper + slack).all())


@pytest.mark.slow
@crossed(("norm", NORMS), ("name", ZOO))
def test_nested_sets_have_nested_bounds(name: str, norm: float):
    model, shape = network(name)
    ball = random_ball(shape, norm)
    outer = ibp(model, ball)
    smaller = LpBall(ball.center, ball.radii / 3, norm, -1.0, 1.0)
    sides = (ball.center.amin(0) - 0.1).clamp(min=-1.0), (ball.center.amax(0) + 0.05).clamp(max=1.0)
    boxed = LpBall(ball.center, ball.radii, norm, *sides)
    open_ball = LpBall(ball.center, ball.radii, norm, None, None)
    assert contains(outer, ibp(model, smaller))
    assert contains(outer, ibp(model, boxed))
    assert contains(ibp(model, open_ball), outer)
    assert not contains(ibp(model, smaller), outer)
    for larger in (order for order in ORDERS if order > norm):  # l_1 lies in l_2 lies in l_infinity
        assert contains(ibp(model, LpBall(ball.center, ball.radii, larger, -1.0, 1.0)), outer)


@crossed(("norm", NORMS), ("name", ZOO))
def test_folded_margins_are_never_looser_than_differences_of_bounds(name: str, norm: float):
    model, shape = network(name)
    ball, labels = random_ball(shape, norm), torch.tensor([2, 0, 1])
    logits = ibp(model, ball)
    differences = logits.lower.gather(1, labels[:, None]) - logits.upper
    off = torch.ones_like(differences).scatter(1, labels[:, None], 0.0).bool()
    gain = (margin_bounds(model, ball, labels) - differences)[off]
    assert (gain >= -1e-11 * logits.upper.abs().max()).all()
    if isinstance(list(layers_of(model))[-1], nn.Linear):
        assert (gain > 0).any()
    elif norm >= 2:  # layer by layer there is nothing to fold into
        assert (gain < 1e-11).all()


@pytest.mark.parametrize("name", ["mlp", "strided"])
def test_rows_do_not_influence_each_other(name: str):
    """Catches a radius, label or weight row given to the wrong input."""
    model, shape = network(name)
    labels = torch.tensor([2, 0, 1])
    for norm in (2.0, math.inf):
        ball = random_ball(shape, norm)
        interval, margins = ibp(model, ball), margin_bounds(model, ball, labels)
        for row in range(3):
            alone = LpBall(ball.center[row : row + 1], float(ball.radii[row]), norm, -1.0, 1.0)
            torch.testing.assert_close(ibp(model, alone).lower[0], interval.lower[row], rtol=1e-12, atol=1e-12)
            single = margin_bounds(model, alone, labels[row : row + 1])[0]
            torch.testing.assert_close(single, margins[row], rtol=1e-12, atol=1e-12)


@crossed(("name", ZOO), ("norm", [2.0, math.inf]))
def test_empty_batch(name: str, norm: float):
    model, shape = network(name)
    ball = LpBall(torch.zeros(0, *shape, dtype=torch.float64), 0.1, norm)
    assert ibp(model, ball).upper.shape == model(ball.center).shape
    assert len(margin_bounds(model, ball, torch.zeros(0, dtype=torch.int64))) == 0


def test_training_mode_changes_nothing_and_stays():
    model, shape = network("nested")
    ball = random_ball(shape, 2.0)
    evaluated = ibp(model, ball)
    model.train()
    assert torch.equal(ibp(model, ball).lower, evaluated.lower)
    assert all(module.training for module in model.modules())


# ------------------------------------------------------------------------------------------- float32 and gradients


@crossed(("norm", NORMS), ("name", ZOO))
def test_float32_bounds_enclose_float64_bounds_and_are_close(name: str, norm: float):
    model, shape = network(name)
    model = model.float()  # the same numbers for both
    ball = random_ball(shape, norm)
    single = LpBall(ball.center.float(), ball.radii.float(), norm, -1.0, 1.0)
    double = LpBall(single.center.double(), single.radii.double(), norm, -1.0, 1.0)
    rough, fine = ibp(model, single), ibp(model, double)
    assert rough.lower.dtype == torch.float32
    assert fine.lower.dtype == torch.float64
    inner = (fine.upper - fine.lower) * 1e-9  # the float64 bounds are rounded outward themselves
    assert (rough.lower.double() <= fine.lower + inner).all()
    assert (rough.upper.double() >= fine.upper - inner).all()
    torch.testing.assert_close(rough.lower.double(), fine.lower, rtol=1e-3, atol=2e-2 if name == "normalised" else 1e-3)


@crossed(("norm", NORMS), ("name", ["affine", "shared relu", "strided", "nested"]))
def test_gradients_reach_every_weight_and_are_finite(name: str, norm: float):
    """The root of a sum of squares has no gradient at 0: one pruned output made all gradients of l_2 bounds NaN."""
    model, shape = network(name)
    model = model.float()
    first = next(layer for layer in layers_of(model) if isinstance(layer, nn.Linear | nn.Conv2d))
    with torch.no_grad():
        first.weight[0] = 0.0
    ball = random_ball(shape, norm)
    ball = LpBall(ball.center.float(), ball.radii.float(), norm, -1.0, 1.0)
    labels = torch.tensor([0, 1, 2])
    loss = ibp(model, ball).upper.square().sum() - margin_bounds(model, ball, labels).sum()
    loss.backward()
    for weight in model.parameters():
        assert weight.grad.isfinite().all()
        assert weight.grad.abs().sum() > 0


def test_gradient_of_the_bound_is_its_slope():
    """Catches a detached radius: the weights would be trained as if there were no perturbation."""
    model, shape = network("mlp")
    ball = random_ball(shape, 2.0)
    weight = model[0].weight
    (gradient,) = torch.autograd.grad(ibp(model, ball).upper.sum(), weight)
    step = 1e-6 * torch.randn(weight.shape, generator=generator(5), dtype=torch.float64)
    with torch.no_grad():
        base = weight.clone()
        weight.copy_(base + step)
        ahead = ibp(model, ball).upper.sum()
        weight.copy_(base - step)
        behind = ibp(model, ball).upper.sum()
    torch.testing.assert_close((ahead - behind) / 2, (gradient * step).sum(), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("norm", [2.0, math.inf])
def test_bounds_follow_the_device_of_the_ball(norm: float):
    model, shape = network("nested")
    ball, labels = random_ball(shape, norm), torch.tensor([0, 1, 2])
    with elsewhere():
        assert ibp(model, ball).lower.device.type == "cpu"
        assert margin_bounds(model, ball, labels).device.type == "cpu"
