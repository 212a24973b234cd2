"""Laws of attacks at a fixed budget: repeated, rescaled, on other devices, and with arguments that are refused."""

import math

import pytest
import torch
from oracles.devices import elsewhere
from oracles.fixed_budget import ALL, DETERMINISTIC, FEW, SINGLE, attack, check, exact_distance
from oracles.halfspace import generator
from oracles.linear import problem
from oracles.selection import crossed, some
from torch import Tensor, nn

from bounds import InvalidInput, clopper_pearson_interval
from certify import attacks, reference

NORMS = [1, 2, math.inf]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "ibp"])
@pytest.mark.parametrize(("norm", "epsilon"), [(1, 3.0), (2, 0.6), (math.inf, 0.04)])
def test_results_on_trained_networks(name: str, norm: float, epsilon: float):
    model, x, y = reference.load(name, 10)
    if name == "ibp" and norm == math.inf:
        epsilon = 0.12
    result = attacks.robust_accuracy(model, x, y, norm=norm, epsilon=epsilon, steps=5, generator=generator())
    check(result, model, x, y, 0, 1)
    assert 0 < result.found.sum() < 10


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(ALL) - DETERMINISTIC))
def test_the_same_generator_gives_the_same_result(name: str):
    model, x, y = reference.load("plain", 5)
    options = {"norm": 2, "epsilon": 0.5, **FEW[name]}
    one, two, other = (ALL[name](model, x, y, **options, generator=generator(seed)) for seed in (5, 5, 6))
    assert torch.equal(one.adversarial, two.adversarial)
    assert torch.equal(one.margin, two.margin)
    assert not torch.equal(one.margin, other.margin)


@pytest.mark.slow
def test_scaling_the_input_scales_the_budget():
    model, x, y = problem((7,), 3, 7)
    exact = model.distance(x, 2)

    class Divided(nn.Module):
        def forward(self, points: Tensor) -> Tensor:
            return model(points / 8)

    for share, found in ((0.999, False), (1.001, True)):
        options = {"norm": 2, "low": None, "high": None, "steps": 50, "generator": generator()}
        result = attacks.robust_accuracy(Divided(), 8 * x, y, epsilon=8 * share * exact, **options)
        assert (result.found == found).all()


@crossed(("norm", NORMS), ("name", ALL))
def test_inputs_of_any_memory_layout(name: str, norm: float):
    """Catches a view that a transposed or channels-last input does not allow."""
    model, x, y = problem((2, 5, 7), 3, 4)
    options = {"norm": norm, "epsilon": 6 * exact_distance(model, x, norm, (0.0, 1.0))}
    expected = attack(name, model, x, y, **options)
    for layout in (x.transpose(1, 3).contiguous().transpose(1, 3), x.contiguous(memory_format=torch.channels_last)):
        assert not layout.is_contiguous()
        assert torch.equal(attack(name, model, layout, y, **options).robust, expected.robust)


@pytest.mark.slow
def test_a_zero_budget_breaks_nothing():
    model, x, y = problem((7,), 3, 4)
    for name in ALL:
        for norm in NORMS:
            assert attack(name, model, x, y, norm=norm, epsilon=0.0).robust.all()


def test_the_model_and_the_inputs_come_back_as_they_were():
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2)).train()
    model[0].weight.requires_grad_(False)
    x = torch.rand(3, 4, generator=generator())
    before = x.clone()
    attacks.robust_accuracy(model, x, torch.zeros(3, dtype=torch.long), norm=2, epsilon=0.1, steps=3)
    assert torch.equal(x, before)
    assert x.grad is None
    assert all(module.training for module in model.modules())
    assert [weight.requires_grad for weight in model.parameters()] == [False, True, True, True]
    assert all(weight.grad is None for weight in model.parameters())


def test_no_input_gives_an_empty_result():
    model, x, y = problem((7,), 3, 2)
    for name in ALL:
        result = attack(name, model, x[:0], y[:0], norm=2, epsilon=0.1)
        assert len(result) == 0
        assert result.adversarial.shape == (0, 7)
        assert math.isnan(result.accuracy)


def test_accuracy_interval_and_table():
    model, x, y = problem((7,), 3, 20)
    epsilon = model.distance(x, 2).median()
    result = attacks.robust_accuracy(model, x, y, norm=2, epsilon=epsilon, low=None, high=None, steps=20)
    count = result.robust.sum()
    assert 0 < count < 20
    assert result.accuracy == count / 20
    lower, upper = clopper_pearson_interval(count, 20, confidence=0.9)
    assert result.interval(0.1) == (float(lower), float(upper))
    table = result.to_dataframe()
    assert len(table) == 20
    assert table.robust.tolist() == result.robust.tolist()
    assert table.attack.tolist() == list(result.attack)
    assert {"epsilon", "forward_passes", "backward_passes", "norm", "method", "distance"} <= set(table.columns)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": 3}, "norm must be 1, 2 or math.inf, got 3"),
        ({"norm": True}, "norm must be 1, 2 or math.inf, got True"),
        ({"epsilon": -0.1}, "epsilon must be a finite number of at least 0, got -0.1"),
        ({"epsilon": math.nan}, "epsilon must be a finite number of at least 0, got nan"),
        ({"epsilon": torch.tensor([math.inf])}, "epsilon must be finite and at least 0 in every row"),
        ({"epsilon": torch.tensor([0.1, 0.2])}, r"epsilon must be a number or of shape \(1,\), got \(2,\)"),
        ({"frozen_features": torch.zeros(7)}, "frozen_features must be a boolean tensor, got torch.float32"),
        (
            {"frozen_features": torch.zeros(6, dtype=torch.bool)},
            r"frozen_features must broadcast to one input, of shape \(7,\), got \(6,\)",
        ),
        ({"frozen_features": torch.zeros(2, 7, dtype=torch.bool)}, "pass one mask for all inputs"),
        ({"x": torch.full((1, 7), 2.0, dtype=torch.float64)}, "x must lie in the declared range"),
        ({"labels": torch.tensor([3])}, "labels must be class indices from 0 to 2, got 3"),
        ({"steps": 0}, "steps must be an integer of at least 1"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
    ],
)
def test_bad_input_gives_one_clear_line(change: dict, message: str):
    model, x, y = problem((7,), 3, 1)
    arguments = {"x": x, "labels": y, "norm": 2, "epsilon": 0.1, **change}
    with pytest.raises(InvalidInput, match=message):
        attacks.robust_accuracy(model, **arguments)


def test_unknown_options_of_single_attacks():
    model, x, y = problem((7,), 3, 1)
    for function, option in (
        (attacks.pgd, "restarts"),
        (attacks.targeted_apgd, "targets"),
        (attacks.square, "queries"),
    ):
        with pytest.raises(InvalidInput, match=f"{option} must be an integer of at least 1"):
            function(model, x, y, norm=2, epsilon=0.1, **{option: 0})
    with pytest.raises(InvalidInput, match="loss must be one of cross_entropy, margin, dlr, got 'hinge'"):
        attacks.apgd(model, x, y, norm=2, epsilon=0.1, loss="hinge")


ON_A_DEVICE = [
    *zip(SINGLE, (1, 2, math.inf, 1, 2, 1, math.inf), strict=True),
    ("square", 2),
    ("robust_accuracy", 1),
]


@pytest.mark.parametrize(
    ("name", "norm"), some(ON_A_DEVICE, [pair for pair in ON_A_DEVICE if pair[0] not in ("square", "robust_accuracy")])
)
def test_every_tensor_is_made_on_the_device_of_the_input(name: str, norm: float):
    model, x, y = problem((3, 5), 3, 4, torch.float32)
    options = {"norm": norm, "epsilon": 0.05, "frozen_features": torch.arange(5) < 1}
    expected = attack(name, model, x, y, **options)
    sources = {} if name in DETERMINISTIC else {"generator": generator()}
    with elsewhere():
        result = ALL[name](model, x, y, **options, **sources, **FEW[name])
    assert torch.equal(result.adversarial, expected.adversarial)
    assert torch.equal(result.robust, expected.robust)
