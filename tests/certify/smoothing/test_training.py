"""Training losses against slow restatements with the same draws, closed forms of a half-space, finite differences."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import torch
import torch.nn.functional as F
from oracles.devices import elsewhere
from oracles.halfspace import Halfspace, generator
from torch import nn

from bounds import InvalidInput, InvalidModel
from certify import reference
from certify.smoothing.training import (
    consistency_loss,
    gaussian_augmentation_loss,
    macer_loss,
    smoothadv_loss,
    smoothed_pgd,
)

SIGMA = 0.4
LOSSES = {
    "gaussian": (gaussian_augmentation_loss, {"draws": 3}),
    "smoothadv": (smoothadv_loss, {"epsilon": 0.5, "draws": 3, "steps": 4}),
    "consistency": (consistency_loss, {"weight": 7.0, "entropy_weight": 0.3, "draws": 3}),
    "macer": (macer_loss, {"weight": 5.0, "gamma": 1.5, "beta": 2.0, "draws": 6}),
}
each_loss = pytest.mark.parametrize("name", LOSSES)


def network(dtype: torch.dtype = torch.float64, norm: type[nn.Module] = nn.Identity) -> nn.Sequential:
    """Three classes over inputs (2, 3)."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), norm(5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(2 * torch.randn(weight.shape, generator=generator(3), dtype=torch.float64))
    return model


def batch(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(7, 2, 3, generator=generator(1), dtype=dtype), torch.tensor([0, 1, 2, 1, 0, 2, 2])


def draw(x: torch.Tensor, draws: int, seed: int = 0) -> torch.Tensor:
    return SIGMA * torch.randn(draws, *x.shape, generator=generator(seed), dtype=x.dtype)


def loss_of(name: str, model: nn.Module, x: torch.Tensor, y: torch.Tensor, **changes: object) -> torch.Tensor:
    loss, options = LOSSES[name]
    return loss(model, x, y, **options | {"sigma": SIGMA, "generator": generator()} | changes)


def log_probabilities(model: nn.Module, x: torch.Tensor, noise: torch.Tensor, beta: float = 1.0) -> np.ndarray:
    """(m, N, K), one input under one draw at a time."""
    with torch.no_grad():
        return np.array(
            [
                [
                    scipy.special.log_softmax(beta * model((row + d)[None])[0].numpy())
                    for row, d in zip(x, one, strict=True)
                ]
                for one in noise
            ]
        )


def by_hand(name: str, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """The loss, term by term as its docstring says."""
    options = LOSSES[name][1]
    noise = draw(x, options["draws"])
    if name == "smoothadv":
        x = smoothed_pgd(model, x, y, noise=noise, epsilon=0.5, steps=4)
    logs, total = log_probabilities(model, x, noise), 0.0
    sharp = np.exp(log_probabilities(model, x, noise, options.get("beta", 1.0))).mean(0)
    for n, label in enumerate(y.tolist()):
        each = [np.exp(logs[i, n]) for i in range(len(noise))]
        mean = sum(each) / len(each)
        if name == "macer":
            total -= math.log(mean[label])
            other = max(p for k, p in enumerate(sharp[n]) if k != label)
            xi = scipy.stats.norm.ppf(sharp[n, label]) - scipy.stats.norm.ppf(other)
            if sharp[n, label] > other and xi < options["gamma"]:
                total += options["weight"] * SIGMA / 2 * (options["gamma"] - xi)
            continue
        total += sum(-math.log(p[label]) for p in each) / len(each)
        if name == "consistency":
            total += options["weight"] * sum(scipy.stats.entropy(mean, p) for p in each) / len(each)
            total += options["entropy_weight"] * scipy.stats.entropy(mean)
    return total / len(y)


@each_loss
def test_losses_are_what_their_docstrings_say(name: str):
    model, (x, y) = network(), batch()
    expected = by_hand(name, model, x, y)
    assert loss_of(name, model, x, y).item() == pytest.approx(expected, rel=1e-10)
    assert loss_of(name, model.float(), x.float(), y).isfinite()
    assert abs(loss_of(name, network(), x, y.flip(0)).item() - expected) > 0.01  # other labels, another loss


def test_the_batch_has_right_and_wrong_rows_on_both_sides_of_the_hinge():
    """Else the restatement of macer above would pass over a branch."""
    model, (x, y) = network(), batch()
    p = np.exp(log_probabilities(model, x, draw(x, 6), 2.0)).mean(0)
    right = p.argmax(1) == y.numpy()
    ordered = np.sort(p, axis=1)
    xi = scipy.stats.norm.ppf(ordered[:, -1]) - scipy.stats.norm.ppf(ordered[:, -2])
    assert not right.all()
    assert (right & (xi < LOSSES["macer"][1]["gamma"])).any()
    assert (right & (xi > LOSSES["macer"][1]["gamma"])).any()


@pytest.mark.parametrize("name", ["gaussian", "consistency", "macer"])
def test_gradients_are_finite_differences(name: str):
    model, (x, y) = network(), batch()
    loss_of(name, model, x, y).backward()
    for weight in model.parameters():
        flat, gradient = weight.data.view(-1), weight.grad.view(-1)
        for i in range(len(flat)):
            value, ends = flat[i].item(), []
            for step in (1e-5, -1e-5):
                flat[i] = value + step
                ends.append(loss_of(name, model, x, y).item())
            flat[i] = value
            assert gradient[i].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-7)


def test_gradient_of_smoothadv_takes_the_adversarial_inputs_as_constants():
    model, (x, y) = network(), batch()
    noise = draw(x, 3)
    adversarial = smoothed_pgd(model, x, y, noise=noise, epsilon=0.5, steps=4)
    loss = sum(F.cross_entropy(model(adversarial + one), y) for one in noise) / len(noise)
    expected = torch.autograd.grad(loss, tuple(model.parameters()))
    loss_of("smoothadv", model, x.requires_grad_(), y).backward()
    assert x.grad is None
    for weight, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-9, atol=1e-12)


def test_special_cases_are_augmentation():
    model, (x, y) = network(), batch()
    augmented = {draws: loss_of("gaussian", model, x, y, draws=draws).item() for draws in (1, 3)}
    assert loss_of("smoothadv", model, x, y, epsilon=0.0).item() == pytest.approx(augmented[3], rel=1e-14)
    assert loss_of("consistency", model, x, y, weight=0, entropy_weight=0).item() == pytest.approx(
        augmented[3], rel=1e-14
    )
    alone = {"draws": 1, "entropy_weight": 0.0}
    assert loss_of("consistency", model, x, y, **alone).item() == pytest.approx(augmented[1], rel=1e-12)
    assert loss_of("macer", model, x, y, weight=0, draws=1).item() == pytest.approx(augmented[1], rel=1e-12)


# ----------------------------------------------------------------------------------------- closed forms of half-spaces


def line() -> tuple[Halfspace, torch.Tensor, torch.Tensor]:
    """Class 1 right of 0.2; four points, the last one on the wrong side for its label."""
    x = torch.tensor([[0.3], [0.5], [0.8], [-0.1]], dtype=torch.float64)
    return Halfspace(torch.tensor([1.0], dtype=torch.float64), -0.2), x, torch.tensor([1, 1, 1, 1])


def test_augmentation_on_the_line_is_an_integral():
    """Within six standard errors: a false alarm in less than one of 10^8 runs."""
    model, x, y = line()
    z = x[:, 0].numpy() - 0.2
    density = scipy.stats.norm(0, SIGMA).pdf

    def moment(order: int) -> float:  # of the loss -log sigmoid(2 (z + t)), averaged over the four points
        return scipy.integrate.quad(lambda t: density(t) * (np.logaddexp(0, -2 * (z + t)) ** order).mean(), -4, 4)[0]

    expected, squares = moment(1), moment(2)
    error = 6 * math.sqrt(squares / (len(x) * 400_000))
    assert error < 0.005
    assert loss_of("gaussian", model, x, y, draws=400_000).item() == pytest.approx(expected, abs=error)


@pytest.mark.slow
def test_the_radius_in_macer_on_the_line_is_the_distance():
    """At a large beta, p is a share of draws: within six standard errors, false alarm below 10^-8."""
    model, x, y = line()
    distance, draws = model.distance(x)[:3], 400_000
    options = {"beta": 1e6, "gamma": 6.0, "draws": draws}
    hinge = loss_of("macer", model, x, y, weight=1.0, **options) - loss_of("macer", model, x, y, weight=0.0, **options)
    expected = (SIGMA * 6.0 / 2 - distance).sum() / 4  # the wrong row adds nothing
    z = distance / SIGMA
    p = scipy.stats.norm.cdf(z)
    errors = SIGMA * np.sqrt(p * (1 - p) / draws) / scipy.stats.norm.pdf(z)
    assert hinge.item() == pytest.approx(expected.item(), abs=6 * np.linalg.norm(errors) / 4)
    assert 6 * np.linalg.norm(errors) / 4 < 0.02 * expected


def test_the_attack_on_a_half_space_goes_straight_to_the_boundary():
    weight = torch.tensor([3.0, -4.0, 12.0], dtype=torch.float64)
    model, x = Halfspace(weight), torch.randn(5, 3, generator=generator(), dtype=torch.float64)
    y = torch.tensor([0, 1, 1, 0, 1])
    epsilon = torch.tensor([0.0, 0.1, 0.5, 1.0, 2.0], dtype=torch.float64)
    sides = (2 * y - 1)[:, None]
    for steps in (1, 3):
        adversarial = smoothed_pgd(model, x, y, noise=draw(x, 4), epsilon=epsilon, steps=steps)
        torch.testing.assert_close(adversarial, x - epsilon[:, None] * sides * weight / 13, rtol=1e-12, atol=1e-12)


def test_the_hinge_of_macer_ends_at_gamma_and_spares_wrong_rows():
    model, x = Halfspace(torch.tensor([50.0], dtype=torch.float64)), torch.full((3, 1), 1.2, dtype=torch.float64)
    right, wrong = torch.ones(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
    plain = {label: loss_of("macer", model, x, y, weight=0.0) for label, y in (("right", right), ("wrong", wrong))}
    assert torch.equal(
        loss_of("macer", model, x, right, weight=9.0, gamma=5.0), plain["right"]
    )  # the radius is 3 sigma
    assert torch.equal(loss_of("macer", model, x, wrong, weight=9.0, gamma=50.0), plain["wrong"])
    assert loss_of("macer", model, x, right, weight=9.0, gamma=50.0) > plain["right"] + 9 * SIGMA / 2


# ---------------------------------------------------------------------------------------------------------- the attack


def soft_loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor, noise: torch.Tensor) -> float:
    with torch.no_grad():
        p = torch.stack([model(x + one).double().softmax(1) for one in noise]).mean(0)
    return -p.gather(1, y[:, None]).log().mean().item()


def test_the_attack_is_projected_ascent_on_the_soft_smoothed_classifier():
    """Restated for one input at a time; ascent on the mean of the losses under noise would end elsewhere."""
    model, (x, y) = network(), batch()
    noise, epsilon, steps = draw(x, 3), 1.2, 4
    adversarial = smoothed_pgd(model, x, y, noise=noise, epsilon=epsilon, steps=steps, low=0.0, high=1.0)
    for n, label in enumerate(y):
        point = x[n]
        for _ in range(steps):
            moving = point.clone().requires_grad_()
            p = sum(model((moving + one)[None]).softmax(1)[0, label] for one in noise[:, n]) / len(noise)
            (gradient,) = torch.autograd.grad(-p.log(), moving)
            delta = (point + 2 * epsilon / steps * gradient / gradient.norm()).clamp(0, 1) - x[n]
            point = x[n] + delta * min(1.0, epsilon / delta.norm().item())
        torch.testing.assert_close(adversarial[n], point, rtol=1e-9, atol=1e-9)
    assert ((adversarial == 0) | (adversarial == 1)).any()  # the box took part


def test_the_attack_stays_inside_and_beats_random_directions():
    model, x, y = reference.load("noise", 60)
    noise = draw(x, 4)
    adversarial = smoothed_pgd(model, x, y, noise=noise, epsilon=0.8, steps=5, low=0.0, high=1.0)
    length = (adversarial - x).double().flatten(1).norm(dim=1)
    assert (length <= 0.8 * (1 + 1e-6)).all()
    assert (length > 0.7).sum() > 50  # and uses its room
    assert adversarial.min() == 0.0
    assert adversarial.max() == 1.0
    direction = torch.randn(x.shape, generator=generator(5))
    shifted = x + 0.8 * direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    before, after = soft_loss(model, x, y, noise), soft_loss(model, adversarial, y, noise)
    assert after > before + 0.3
    assert soft_loss(model, shifted, y, noise) < before + 0.1
    fresh = draw(x, 20, seed=9)  # an attack on the smoothed classifier, not on four draws
    assert soft_loss(model, adversarial, y, fresh) > soft_loss(model, x, y, fresh) + 0.2


def test_the_attack_takes_no_inputs_at_all():
    model, (x, y) = network(), batch()
    assert smoothed_pgd(model, x[:0], y[:0], noise=draw(x, 2)[:, :0], epsilon=0.5).shape == (0, 2, 3)


def test_more_steps_find_more():
    model, x, y = reference.load("noise", 60)
    noise = draw(x, 4)
    found = [soft_loss(model, smoothed_pgd(model, x, y, noise=noise, epsilon=1.5, steps=s), y, noise) for s in (1, 10)]
    assert found[1] > found[0]


@pytest.mark.parametrize("training", [True, False])
def test_the_attack_leaves_the_model_as_it_was(training: bool):
    model, (x, y) = network(norm=nn.BatchNorm1d).train(training), batch()
    model[1].bias.requires_grad_(False)
    for weight in model.parameters():
        weight.grad = torch.full_like(weight, 3.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    required = [weight.requires_grad for weight in model.parameters()]
    with torch.no_grad():  # gradients for the input are its own matter
        smoothed_pgd(model, x, y, noise=draw(x, 2), epsilon=0.5)
    assert all((weight.grad == 3).all() for weight in model.parameters())
    assert [weight.requires_grad for weight in model.parameters()] == required
    assert all(module.training == training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@each_loss
def test_losses_run_in_the_mode_of_the_caller_and_see_the_batch_once(name: str):
    model, (x, y) = network(norm=nn.BatchNorm1d), batch()
    loss_of(name, model.eval(), x, y).backward()
    assert model[2].num_batches_tracked == 0
    loss_of(name, model.train(), x, y).backward()
    assert model[2].num_batches_tracked == 1
    assert model.training


# ---------------------------------------------------------------------------------------------- numerics and arguments


@each_loss
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits_leave_losses_and_gradients_finite(name: str, scale: float, dtype: torch.dtype):
    """Softmax saturates, quantiles become infinite, all logits are equal: none of it may reach a weight."""
    model, (x, y) = nn.Sequential(nn.Flatten(), nn.Linear(6, 3, dtype=dtype)), batch(dtype)
    with torch.no_grad():
        model[1].weight.copy_(scale * torch.randn(3, 6, generator=generator(2)))
        model[1].bias.zero_()
    for changes in ({}, {"gamma": 100.0, "beta": 16.0}) if name == "macer" else ({},):
        for labels in (y, model(x).argmax(1)):
            model.zero_grad()
            loss = loss_of(name, model, x, labels, **changes)
            loss.backward()
            assert loss.isfinite()
            assert all(weight.grad.isfinite().all() for weight in model.parameters())


@each_loss
def test_half_precision_models_are_summed_in_single(name: str):
    model, (x, y) = network(torch.bfloat16), batch(torch.bfloat16)
    loss = loss_of(name, model, x, y)
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


@each_loss
def test_noise_comes_from_the_generator(name: str):
    model, (x, y) = network(), batch()
    state = torch.get_rng_state()
    assert torch.equal(loss_of(name, model, x, y), loss_of(name, model, x, y))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(loss_of(name, model, x, y), loss_of(name, model, x, y, generator=generator(1)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert torch.equal(loss_of(name, model, x, y, generator=None), loss_of(name, model, x, y))


@each_loss
def test_losses_follow_the_device_of_their_input(name: str):
    model, (x, y) = network(), batch()
    expected = loss_of(name, model, x, y)
    with elsewhere():
        assert torch.equal(loss_of(name, model, x, y, generator=generator()), expected)


def test_the_host_reads_nothing_between_steps():
    model, (x, y) = network(), batch()
    noise, reads = draw(x, 2), []
    for steps in (1, 20):
        with elsewhere() as mode:
            smoothed_pgd(model, x, y, noise=noise, epsilon=0.5, steps=steps, low=0.0, high=1.0)
        reads.append(mode.host_reads)
    assert reads[0] == reads[1] < 20


WRONG = [
    ("gaussian", {"sigma": 0.0}, "sigma must be a finite number above 0"),
    ("gaussian", {"draws": 0}, "draws must be an integer of at least 1"),
    ("gaussian", {"x": torch.rand(0, 2, 3)}, "number of inputs must be"),
    ("gaussian", {"x": torch.full((7, 2, 3), math.nan)}, "x must be finite"),
    ("smoothadv", {"epsilon": -0.1}, "radius must be at least 0"),
    ("smoothadv", {"steps": 0}, "steps must be an integer"),
    ("smoothadv", {"low": 0.5}, "x must lie in the declared range"),
    ("consistency", {"weight": -1.0}, "weight must be a finite number of at least 0"),
    ("consistency", {"entropy_weight": math.nan}, "entropy_weight must be a finite number of at least 0"),
    ("macer", {"weight": math.inf}, "weight must be a finite number of at least 0"),
    ("macer", {"gamma": 0.0}, "gamma must be"),
    ("macer", {"beta": -1.0}, "beta must be"),
]


@pytest.mark.parametrize(("name", "changes", "message"), WRONG)
def test_bad_arguments_are_named(name: str, changes: dict[str, object], message: str):
    x, y = batch()
    with pytest.raises(InvalidInput, match=message):
        loss_of(name, network(), **{"x": x, "y": y} | changes)


@each_loss
def test_labels_and_models_are_checked(name: str):
    model, (x, y) = network(), batch()
    with pytest.raises(InvalidInput, match="class indices, not one-hot rows"):
        loss_of(name, model, x, F.one_hot(y))
    with pytest.raises(InvalidInput, match="class indices from 0 to 2, got 3"):
        loss_of(name, model, x, y + 1)
    with pytest.raises(InvalidModel, match="must return logits"):
        loss_of(name, nn.Identity(), x, y)


def test_noise_of_another_shape_is_refused():
    model, (x, y) = network(), batch()
    for noise in (x, draw(x, 2)[:, :3], draw(x, 2)[:0]):
        with pytest.raises(InvalidInput, match=r"noise must have shape \(m, \*x.shape\)"):
            smoothed_pgd(model, x, y, noise=noise, epsilon=0.1)
