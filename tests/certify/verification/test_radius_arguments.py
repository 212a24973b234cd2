"""Certified radii of unusual arguments: NaN, overflow, labels, dtypes, devices; the tensors given stay as they are."""

import math

import numpy as np
import pytest
import torch
from oracles.devices import elsewhere
from oracles.margins import Linear, inputs
from oracles.unbounded import LogGamma
from torch import nn

from bounds import InvalidInput, InvalidModel, UnsupportedLayer
from certify import certified_radius
from certify.results import Witness

NORMS = (1.0, 2.0, math.inf)


# ------------------------------------------------------------------------------------------------------- no numbers


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_no_numbers_never_certify(value: float):
    model, x = Linear((7,)), inputs((7,))
    labels = model(x).argmax(1)
    with torch.no_grad():
        model[1].weight[0, 0] = value
    with pytest.raises(InvalidModel, match="logits that are not finite"):
        certified_radius(model, x, labels, norm=2)


@pytest.mark.slow
def test_an_input_whose_logits_overflow_is_not_certified():
    """In real arithmetic the first class wins everywhere; in float32 the third input has logits NaN."""
    model = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.fill_(1e38)
        model[0].bias.zero_()
        model[1].weight.copy_(torch.tensor([[1.0, -1.0], [1.0, -1.0]]))
        model[1].bias.copy_(torch.tensor([1.0, -1.0]))
    x = torch.tensor([[0.1], [0.2], [1e3]])
    assert model(x)[2].isnan().all()
    found = certified_radius(model, x, torch.zeros(3, dtype=torch.int64), norm=2, method="ibp", low=None, high=None)
    assert (found.radius[:2] > 0).all()
    assert found.radius[2] == 0
    assert found.label.tolist() == [0, 0, -1]


@pytest.mark.slow
def test_labels_may_be_any_integers():
    model, x = Linear((7,)), inputs((7,))
    labels = model(x).argmax(1)
    expected = certified_radius(model, x, labels, norm=2).radius
    for dtype in (torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int32):
        assert torch.equal(certified_radius(model, x, labels.to(dtype), norm=2).radius, expected), dtype


def test_labels_in_a_column_do_not_count_every_pair_of_rows():
    """(N,) against (N, 1) broadcasts to (N, N)."""
    model, x = Linear((7,)), inputs((7,))
    labels = model(x).argmax(1)
    found = certified_radius(model, x, labels, norm=2)
    assert found.certified(labels, 0.0).all()
    with pytest.raises(InvalidInput, match=r"labels must have shape \(7,\), got \(7, 1\)"):
        found.certified(labels[:, None], 0.0)


def test_another_dtype_rounds_no_certificate_up():
    """Half of all numbers grow when they are rounded to float32."""
    model, x = Linear((7,)), inputs((7,))
    found = certified_radius(model, x, model(x).argmax(1), norm=2)
    assert (found.radius.float() > found.radius).any()
    assert torch.equal(found.to(dtype=torch.float32).radius, found.radius)
    distance = found.radius + 1
    witness = Witness(
        label=found.label, distance=distance, adversarial=x, found=~found.abstained, adversarial_label=found.label,
        norm=2.0, queries=1, method="none",
    )  # fmt: skip
    moved = witness.to(dtype=torch.float32)
    assert torch.equal(moved.distance, distance)
    assert moved.adversarial.dtype == torch.float32


def test_bounds_that_overflow_prove_nothing():
    """Infinite bounds become NaN behind the next layer; ``not (margin <= 0)`` would take NaN for a proof."""
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(3)), nn.Linear(1, 2)).double()
    with torch.no_grad():
        for layer in model:
            layer.weight.fill_(1e200)
            layer.bias.zero_()
        model[3].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        model[3].bias.copy_(torch.tensor([1.0, -1.0]))
    x = torch.zeros(2, 1, dtype=torch.float64)
    assert model(x).tolist() == [[1.0, -1.0]] * 2
    for norm in NORMS:
        found = certified_radius(model, x, torch.zeros(2, dtype=torch.int64), norm=norm, low=None, high=None)
        assert (found.radius == 0).all()  # the truth is 1e-600


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.full((2, 7), math.nan)}, "x must be finite"),
        ({"x": torch.full((2, 7), 1.5)}, "x must lie in the declared range"),
        ({"x": torch.zeros(2, 7, dtype=torch.int64)}, "x must be a floating-point tensor"),
        ({"labels": torch.tensor([0, 3])}, "labels must be class indices from 0 to 2, got 3 in row 1"),
        ({"labels": torch.tensor([0, -1])}, "labels must be class indices from 0 to 2, got -1 in row 1"),
        ({"labels": torch.zeros(2, 3, dtype=torch.int64)}, "pass class indices, not one-hot rows"),
        ({"labels": torch.tensor([0])}, "labels must have shape"),
        ({"labels": [0, 1]}, "labels must be a torch tensor, got list: use torch.as_tensor"),
        ({"labels": np.array([0, 1])}, "labels must be a torch tensor, got ndarray: use torch.as_tensor"),
        ({"labels": torch.tensor([0, 3], dtype=torch.uint16)}, "from 0 to 2, got 3 in row 1"),
        ({"x": np.full((2, 7), 0.5)}, "x must be a torch tensor, got ndarray: use torch.as_tensor"),
        ({"tolerance": "small"}, "tolerance must be a finite number above 0, got 'small'"),
        ({"batch_size": 100.0}, "batch_size must be an integer of at least 1, got 100.0"),
        ({"batch_size": "100"}, "batch_size must be an integer of at least 1, got '100'"),
        ({"batch_size": True}, "batch_size must be an integer of at least 1, got True"),
        ({"low": torch.zeros(2, 7)}, "low must broadcast to one input"),  # it was split with the rows, or not
        ({"low": 1.0, "high": 0.0}, "low must not exceed high"),
        ({"norm": 0.5}, "norm must be at least 1"),
        ({"norm": math.nan}, "norm must be at least 1"),
        ({"tolerance": 0.0}, "tolerance must be a finite number above 0"),
        ({"tolerance": math.nan}, "tolerance must be a finite number above 0"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
        ({"low": math.nan}, "x must lie in the declared range"),
        ({"method": "nonsense"}, "method must be one of"),
    ],
)
def test_bad_arguments_are_refused(change: dict, message: str):
    proper = {"x": torch.full((2, 7), 0.5), "labels": torch.tensor([0, 1]), "norm": 2.0}
    with pytest.raises(InvalidInput, match=message):
        certified_radius(Linear((7,)).float(), **proper | change)


# -------------------------------------------------------------------------------------------- the caller's belongings


@pytest.mark.parametrize("failing", [False, True])
def test_model_and_tensors_come_back_as_they_were(failing: bool):
    """Catches a model left in evaluation mode, frozen, widened or with gradients, also after an error."""
    model = nn.Sequential(nn.Linear(7, 8), nn.Sequential(nn.Dropout(0.5), nn.ReLU()), nn.Linear(8, 3))
    if failing:
        model.append(LogGamma())
    model.train()
    model[1][1].eval()
    model[0].bias.requires_grad_(False)
    x = inputs((7,)).float().requires_grad_()
    labels = model.eval()(x).argmax(1)
    model.train()
    model[1][1].eval()
    modes = [module.training for module in model.modules()]
    weights = [(weight, weight.detach().clone(), weight.requires_grad, weight.dtype) for weight in model.parameters()]
    before = x.detach().clone()
    if failing:
        with pytest.raises(UnsupportedLayer, match="has no rule for linear bounds"):
            certified_radius(model, x, labels, norm=2)
    else:
        radius = certified_radius(model, x, labels, norm=2).radius
        assert (radius > 0).any()
        assert not radius.requires_grad
    assert [module.training for module in model.modules()] == modes
    for now, (weight, value, required, dtype) in zip(model.parameters(), weights, strict=True):
        assert now is weight
        assert torch.equal(weight, value)
        assert (weight.requires_grad, weight.dtype, weight.grad) == (required, dtype, None)
    assert torch.equal(x.detach(), before)
    assert x.requires_grad
    assert x.grad is None


def test_certificates_follow_the_device_of_the_inputs():
    model = Linear((7,)).float()
    x = inputs((7,)).float()
    labels = model(x).argmax(1)
    with elsewhere():
        found = certified_radius(model, x, labels, norm=2, low=-0.5, high=1.5)
    assert found.radius.device.type == found.label.device.type == "cpu"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_proof_runs_in_float64_whatever_the_model(dtype: torch.dtype):
    """Catches bounds of a float32 model computed in float32, where slack would eat the radius of large inputs."""
    model = Linear((7,), 3).to(dtype)
    x = (1e4 + inputs((7,))).to(dtype)
    double = Linear((7,), 3)
    double.load_state_dict({name: value.double() for name, value in model.state_dict().items()})
    labels = model(x).argmax(1)
    exact = double.distance(x.double(), labels, 2.0)
    radius = certified_radius(model, x, labels, norm=2, low=None, high=None, tolerance=1e-9).radius
    assert (radius <= exact).all()
    assert (radius >= exact * (1 - 1e-8)).all()
