"""Losses of robust training against slow restatements with the same draws, and closed forms of linear models."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles.halfspace import generator
from oracles.robust_training import GIVEN, LOSSES, attack_by_hand, batch, linear, loss_of, network
from torch import Tensor, nn

from bounds import InvalidInput, InvalidModel, LpBall
from certify import TwoClasses, training
from certify.training import (
    adversarial_inputs,
    cure_loss,
    fast_loss,
    grad_align_penalty,
    input_gradient_loss,
    mtl_ibp_loss,
    pgd_loss,
    trades_loss,
)
from certify.training.adversarial import divergence

EPSILON = 0.2
each_norm = pytest.mark.parametrize("norm", [2.0, math.inf])
SLOW = {"mtl_ibp"}  # which captures the model
each_loss = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in LOSSES]
)


# ------------------------------------------------------------------------------------------- slow restatements


def cross_entropies(model: nn.Module, y: Tensor):
    return lambda points: F.cross_entropy(model(points), y, reduction="sum")


def clean(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return F.cross_entropy(model(x), y).item()


def slopes(model: nn.Module, x: Tensor, y: Tensor) -> list[np.ndarray]:
    """Gradients of the loss of one input at a time."""
    found = []
    for row, label in zip(x, y, strict=True):
        point = row[None].clone().requires_grad_()
        F.cross_entropy(model(point), label[None]).backward()
        found.append(point.grad.numpy().ravel())
    return found


@each_norm
@pytest.mark.parametrize("low", [None, 0.0])
def test_attacks_are_projected_ascent(norm: float, low: float | None):
    model, (x, y) = network(), batch()
    ball = LpBall(x, torch.linspace(0.05, 0.4, len(x), dtype=x.dtype), norm, low, None)
    found = adversarial_inputs(model, ball, y, steps=3, step_size=0.1, generator=generator(4))
    expected = attack_by_hand(
        ball, cross_entropies(model, y), 3, torch.full((len(x),), 0.1, dtype=x.dtype), generator(4)
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    default = attack_by_hand(ball, cross_entropies(model, y), 5, ball.radii / 2, generator(4))
    torch.testing.assert_close(adversarial_inputs(model, ball, y, steps=5, generator=generator(4)), default)
    assert pgd_loss(model, ball, y, steps=5, generator=generator(4)).item() == pytest.approx(clean(model, default, y))


@each_norm
def test_starts_are_uniform_in_the_ball(norm: float):
    """Means of a power of the length, within 5 standard errors of the law that it has."""
    rows, size = 4000, 3
    ball = LpBall(torch.full((rows, size), 0.5, dtype=torch.float64), 0.1, norm)
    points = adversarial_inputs(linear(size), ball, torch.zeros(rows, dtype=torch.int64), steps=1, step_size=1e-12)
    share = torch.linalg.vector_norm(points - 0.5, norm, dim=1) / 0.1
    assert share.max() <= 1 + 1e-9
    law = share**size  # uniform in [0, 1] for a uniform point of a ball in any norm
    assert abs(law.mean() - 0.5) < 5 / math.sqrt(12 * rows)
    assert abs((law < 0.25).double().mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / rows)


@each_norm
def test_fast_is_one_step(norm: float):
    model, (x, y) = network(), batch()
    ball = LpBall(x, EPSILON, norm)
    for given, size in ((None, 1.25 * EPSILON), (0.5, 0.5)):
        at = attack_by_hand(
            ball, cross_entropies(model, y), 1, torch.full((len(x),), size, dtype=x.dtype), generator(5)
        )
        found = fast_loss(model, ball, y, step_size=given, generator=generator(5)).item()
        assert found == pytest.approx(clean(model, at, y), rel=1e-10)


@each_norm
def test_trades_is_what_its_formula_says(norm: float):
    model, (x, y) = network(), batch()
    ball = LpBall(x, EPSILON, norm)
    p = model(x).softmax(1).detach()

    def change(points: Tensor) -> Tensor:
        return F.kl_div(model(points).log_softmax(1), p, reduction="sum")

    start = 1e-3 * torch.randn(x.shape, generator=generator(6), dtype=x.dtype)
    at = attack_by_hand(ball, change, 4, torch.full((len(x),), EPSILON * 2.5 / 4, dtype=x.dtype), None, start)
    q = model(at).softmax(1).detach()
    moved = sum(p[i, k] * math.log(p[i, k] / q[i, k]) for i in range(len(x)) for k in range(3)) / len(x)
    found = trades_loss(model, ball, y, weight=3.0, steps=4, generator=generator(6)).item()
    assert found == pytest.approx(clean(model, x, y) + 3 * float(moved), rel=1e-8)
    assert moved > 1e-3


def test_trades_has_the_gradient_of_both_predictions():
    model, (x, _) = network(), batch()
    at = x + 0.1 * torch.randn(x.shape, generator=generator(7), dtype=x.dtype)
    first, second = model(x).log_softmax(1), model(at).log_softmax(1)
    expected = torch.autograd.grad(F.kl_div(second, first, log_target=True, reduction="batchmean"), model[1].weight)
    found = torch.autograd.grad(divergence(model(x).log_softmax(1), model(at).log_softmax(1)).mean(), model[1].weight)
    torch.testing.assert_close(found, expected)


def test_gradient_alignment_is_one_minus_a_cosine():
    model, (x, y) = network(), batch()
    ball = LpBall(x, EPSILON)
    eta = (2 * torch.rand(x.shape, generator=generator(8), dtype=x.dtype) - 1) * EPSILON
    near = (x + eta).clamp(0, 1)
    angles = [
        1 - a @ b / math.sqrt(a @ a * (b @ b)) for a, b in zip(slopes(model, x, y), slopes(model, near, y), strict=True)
    ]
    found = grad_align_penalty(model, ball, y, generator=generator(8)).item()
    assert found == pytest.approx(np.mean(angles), rel=1e-9)
    assert 0.001 < found < 2


def test_rows_without_a_gradient_have_no_angle():
    model, (x, y) = network(), batch()
    model[1].bias.data[:] = 0

    class Dead(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where((torch.arange(len(x)) == 0)[:, None], 0.0 * x.flatten(1)[:, :3], model(x))

    ball = LpBall(x, EPSILON)
    penalty = grad_align_penalty(Dead(), ball, y, generator=generator(8))
    rest = LpBall(x, torch.tensor([0.0] + [EPSILON] * (len(x) - 1), dtype=x.dtype))
    expected = grad_align_penalty(model, rest, y, generator=generator(8)) * len(x) / (len(x) - 1)
    assert penalty.item() == pytest.approx(expected.item())
    penalty.backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)


def test_tiny_gradients_keep_their_angle():
    """In single precision, squares of the gradients of inputs that are right by far would be 0."""
    model, (x, y) = linear(4, classes=3).float(), (torch.rand(5, 4, generator=generator(1)), torch.tensor([0] * 5))
    model[1].bias.data = torch.tensor([60.0, 0.0, 0.0])
    ball = LpBall(x, EPSILON)
    exact = grad_align_penalty(model.double(), LpBall(x.double(), EPSILON), y, generator=generator(2)).item()
    found = grad_align_penalty(model.float(), ball, y, generator=generator(2)).item()
    assert exact > 1e-6
    assert found == pytest.approx(exact, rel=0.9)  # draws of another dtype; without care it is 0


def test_curvature_penalty_is_a_difference_of_gradients():
    model, (x, y) = network(), batch()
    here = slopes(model, x, y)
    move = torch.tensor(np.array([0.3 * np.sign(g) / math.sqrt(g.size) for g in here])).view_as(x)
    ahead = slopes(model, x + move, y)
    expected = np.mean([((a - b) ** 2).sum() for a, b in zip(ahead, here, strict=True)])
    found = cure_loss(model, x, y, weight=4.0, h=0.3).item()
    assert found == pytest.approx(clean(model, x, y) + 4 * expected, rel=1e-9)


@pytest.mark.parametrize(("norm", "dual"), [(math.inf, 1), (2.0, 2), (1.0, np.inf), (3.0, 1.5)])
@pytest.mark.parametrize("power", [1, 2])
def test_input_gradients_are_penalised_in_the_dual_norm(norm: float, dual: float, power: int):
    model, (x, y) = network(), batch()
    expected = np.mean([np.linalg.norm(g, dual) ** power for g in slopes(model, x, y)])
    found = input_gradient_loss(model, x, y, weight=0.7, norm=norm, power=power).item()
    assert found == pytest.approx(clean(model, x, y) + 0.7 * expected, rel=1e-9)


# ---------------------------------------------------------------------------------------------- closed forms


@each_norm
def test_attacks_on_a_linear_model_reach_the_worst_case(norm: float):
    model, x, y = linear(4), torch.rand(6, 4, generator=generator(2), dtype=torch.float64), torch.tensor([0, 1] * 3)
    ball = LpBall(x, EPSILON, norm, None, None)
    weight = (model[1].weight[1] - model[1].weight[0]).detach()
    reach = EPSILON * torch.linalg.vector_norm(weight, ball.dual_norm)
    margin = (2 * y - 1) * (x @ weight + (model[1].bias[1] - model[1].bias[0]).detach())
    worst = F.softplus(reach - margin).mean().item()
    for steps in (8, 40):  # in l_2 the path has to turn towards the gradient on the sphere
        found = pgd_loss(model, ball, y, steps=steps, step_size=10 * EPSILON, generator=generator()).item()
        assert found == pytest.approx(worst, rel=1e-3 if norm == 2 else 1e-12)
    if norm == math.inf:  # intervals are exact for a linear model, so every mixture is the worst case
        for alpha in (0.0, 0.3, 1.0):
            assert mtl_ibp_loss(model, ball, y, alpha=alpha, steps=3).item() == pytest.approx(worst, rel=1e-9)
    # No step size, no multi-step attack finds more.
    assert pgd_loss(model, ball, y, generator=generator()).item() <= worst + 1e-12


def test_penalties_of_a_linear_model_are_known():
    model, x, y = linear(4), torch.rand(6, 4, generator=generator(2), dtype=torch.float64), torch.tensor([0, 1] * 3)
    weight = (model[1].weight[1] - model[1].weight[0]).detach()
    margin = (2 * y - 1) * (x @ weight + (model[1].bias[1] - model[1].bias[0]).detach())
    base = F.softplus(-margin).mean().item()
    h, z = 0.5, weight.abs().sum() / 2  # each sign step changes the margin by -h |w|_1 / sqrt(4)
    change = torch.sigmoid(h * z - margin) - torch.sigmoid(-margin)
    expected = base + 2.0 * (change**2 * (weight @ weight)).mean().item()
    assert cure_loss(model, x, y, weight=2.0, h=h).item() == pytest.approx(expected, rel=1e-10)
    slope = (torch.sigmoid(-margin) * weight.abs().sum()).mean().item()
    found = input_gradient_loss(model, x, y, weight=0.3, norm=math.inf, power=1).item()
    assert found == pytest.approx(base + 0.3 * slope, rel=1e-10)
    assert grad_align_penalty(model, LpBall(x, EPSILON), y).item() == pytest.approx(0, abs=1e-12)


def test_mtl_ibp_lies_between_an_attack_and_a_bound():
    model, (x, y) = network(), batch()
    model[3] = nn.ReLU()
    del model[2]  # a chain of common layers need not be captured
    ball = LpBall(x, 0.05)
    attacked, bounded = (mtl_ibp_loss(model, ball, y, alpha=a, steps=4, generator=generator()) for a in (0.0, 1.0))
    expected = pgd_loss(model, ball, y, steps=4, generator=generator()).item()
    assert attacked.item() == pytest.approx(expected, rel=1e-12)
    assert bounded.item() == pytest.approx(training.ibp_loss(model.eval(), ball, y, kappa=0.0).item(), rel=1e-12)
    assert attacked < bounded - 1e-3
    mixed = mtl_ibp_loss(model, ball, y, alpha=0.3, steps=4, generator=generator())
    assert mixed.item() == pytest.approx(0.7 * attacked.item() + 0.3 * bounded.item(), rel=1e-12)


# ------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("name", ["grad_align_penalty", "cure", "input_gradient", "input_gradient, l_inf"])
def test_gradients_of_penalties_are_finite_differences(name: str):
    """Attacks are constants in a gradient, and are left out; the direction of CURE is one where it does not jump."""
    model, (x, y) = network(), batch()
    loss_of(name, model, x, y).backward()
    for weight in list(model.parameters())[-2:]:
        flat, gradient = weight.data.view(-1), weight.grad.view(-1)
        for i in range(0, len(flat), 2):
            value, ends = flat[i].item(), []
            for step in (1e-5, -1e-5):
                flat[i] = value + step
                ends.append(loss_of(name, model, x, y).item())
            flat[i] = value
            assert gradient[i].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", ["pgd", "fast"])
def test_adversarial_inputs_are_constants_in_the_gradient(name: str):
    model, (x, y) = network(), batch()
    x.requires_grad_()
    loss_of(name, model, x, y).backward()
    steps, size = (1, 1.25 * EPSILON) if name == "fast" else (10, EPSILON / 4)
    ball = LpBall(x.detach(), EPSILON)
    at = adversarial_inputs(model, ball, y, steps=steps, step_size=size, generator=generator())
    expected = torch.autograd.grad(F.cross_entropy(model(at), y), tuple(model.parameters()))
    torch.testing.assert_close(tuple(weight.grad for weight in model.parameters()), expected)
    assert x.grad is None


# ------------------------------------------------------------------------------------------------- circumstances


@each_loss
def test_the_model_comes_back_as_it_was(name: str):
    """Running statistics see the clean or attacked batch as often as it is trained on, and nothing else."""
    model, (x, y) = network(norm=nn.BatchNorm1d).train(), batch()
    model[2].eval()
    model[1].bias.requires_grad_(False)
    given = [torch.full_like(weight, 7.0) for weight in model.parameters()]
    for weight, gradient in zip(model.parameters(), given, strict=True):
        weight.grad = gradient.clone()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss_of(name, model, x, y)
    assert [module.training for module in model.modules()] == modes
    assert [weight.requires_grad for weight in model.parameters()] == [True, False, True, True, True, True]
    assert all(torch.equal(weight.grad, old) for weight, old in zip(model.parameters(), given, strict=True))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())  # the mode of [2] is kept
    model[2].train()
    loss_of(name, model, x, y)
    assert int(model[2].num_batches_tracked) == GIVEN.get(name, 1)


@each_loss
def test_losses_draw_from_their_generator_alone(name: str):
    model, (x, y) = network(), batch()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, again = (loss_of(name, model, x, y).item() for _ in range(2))
    assert first == again
    assert torch.equal(torch.get_rng_state(), state)


@each_loss
def test_layouts_and_dtypes_give_the_same_loss(name: str):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(80, 3))
    x, y = torch.rand(6, 3, 4, 5, generator=generator(1)), torch.tensor([0, 1, 2, 0, 1, 2])
    expected = loss_of(name, model, x, y).item()
    last = x.to(memory_format=torch.channels_last)
    assert loss_of(name, model, last, y).item() == pytest.approx(expected, rel=1e-5)
    half = loss_of(name, model.bfloat16(), x.bfloat16(), y)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(expected, rel=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        assert loss_of(name, model.float(), x, y).item() == pytest.approx(expected, rel=0.1)


class Attention(nn.Module):
    """Attention over the rows of an input (2, 3), with dropout behind."""

    def __init__(self) -> None:
        super().__init__()
        self.parts, self.last, self.drop = nn.Linear(3, 12), nn.Linear(4, 3), nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unsqueeze(1) for part in self.parts(x).chunk(3, 2))
        return self.last(self.drop(F.scaled_dot_product_attention(q, k, v).squeeze(1).mean(1)))


@pytest.mark.parametrize("name", sorted({*LOSSES} - SLOW))
def test_attention_is_differentiated_twice(name: str):
    torch.manual_seed(0)
    model, (x, y) = Attention().double().train(), batch()
    loss_of(name, model, x, y).backward()
    assert model.parts.weight.grad.isfinite().all()
    assert model.parts.weight.grad.abs().sum() > 0
    assert model.drop.training


@each_loss
def test_models_of_one_logit_are_named_with_a_remedy(name: str):
    model, (x, y) = network(), batch()
    model[-1] = nn.Linear(5, 1).double()
    with pytest.raises((InvalidModel, InvalidInput), match="TwoClasses"):
        loss_of(name, model, x, y % 2)
    assert loss_of(name, TwoClasses(model), x, y % 2).isfinite()
    with pytest.raises(InvalidInput, match="labels must be class indices"):
        loss_of(name, network(), x, y + 3)


@each_norm
def test_frozen_features_stay(norm: float):
    model, (x, y) = network(), batch()
    mask = torch.zeros(2, 3, dtype=torch.bool)
    mask[0] = True
    ball = LpBall(x, EPSILON, norm, frozen_features=mask)
    found = adversarial_inputs(model, ball, y)
    assert torch.equal(found[:, 0], x[:, 0])
    assert replace(ball, radius=EPSILON * (1 + 1e-9)).contains(found).all()
    assert (found[:, 1] != x[:, 1]).any()


def test_wrong_arguments_are_named():
    model, (x, y) = network(), batch()
    for ball in (LpBall(x, 0.1, 1), x):
        with pytest.raises(InvalidInput, match="ball must be a"):
            pgd_loss(model, ball, y)
    with pytest.raises(InvalidInput, match="at least one input"):
        pgd_loss(model, LpBall(x[:0], 0.1), y[:0])
    with pytest.raises(InvalidInput, match="power must be 1 or 2"):
        input_gradient_loss(model, x, y, weight=1.0, power=3)
    with pytest.raises(InvalidInput, match="alpha must be at most"):
        mtl_ibp_loss(model, LpBall(x, 0.1), y, alpha=1.5)
    with pytest.raises(InvalidInput, match="generator must be"):
        pgd_loss(model, LpBall(x, 0.1), y, generator=3)
