"""Forward linear bounds and explanations: recorded widths, closed forms, sampling, and a mutant that goes red."""

import math
from fractions import Fraction

import pytest
import torch
from oracles.halfspace import generator
from oracles.networks import escapes
from torch import Tensor, nn

from bounds import Box, InvalidInput, LpBall, capture, crown, explain, forward_linear, ibp
from bounds.linear.forward import _Propagation


def model_of(activation: nn.Module) -> nn.Sequential:
    layers = (nn.Linear(3, 7), activation, nn.Linear(7, 5), activation, nn.Linear(5, 2))
    model = nn.Sequential(*layers).double().requires_grad_(False)
    for weight in model.parameters():
        weight.normal_(0, 0.7, generator=generator(weight.numel()))
    return model


@pytest.mark.parametrize("norm", [1, 2, math.inf])
@pytest.mark.parametrize(
    "name",
    ["ReLU", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("GELU", "LeakyReLU", "Tanh", "Softplus"))],
)
def test_outputs_lie_inside_and_widths_between_crown_and_intervals(name: str, norm: float):
    model = model_of(getattr(nn, name)())
    x = torch.randn(4, 3, generator=generator(1), dtype=torch.float64)
    graph = capture(model, x)
    radii = torch.tensor([0.02, 0.02, 0.02, 0.02, 0.1, 0.5, 0.0, 1.0], dtype=torch.float64)
    ball = LpBall(torch.cat([x, x]), radii, norm, None, None)
    found, loose = forward_linear(graph, ball), ibp(graph, ball)
    assert escapes(model, ball, found, 3000) == 0
    assert (found.lower >= loose.lower - 1e-9).all()
    assert (found.upper <= loose.upper + 1e-9).all()
    tight = crown(graph, LpBall(x, 0.02, norm, None, None))
    assert (found.upper - found.lower)[:4].mean() < 1.3 * (tight.upper - tight.lower).mean()


@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_affine_networks_are_exact(norm: float):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double().requires_grad_(False)
    x = torch.randn(2, 3, generator=generator(2), dtype=torch.float64)
    found = forward_linear(model, LpBall(x, 0.3, norm, None, None))
    matrix = model[1].weight @ model[0].weight
    dual = math.inf if norm == 1 else 1.0 if norm == math.inf else 2.0
    reach = 0.3 * torch.linalg.vector_norm(matrix, dual, dim=1)
    torch.testing.assert_close(found.upper, model(x) + reach, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.lower, model(x) - reach, rtol=1e-10, atol=1e-10)


def test_products_and_maxima_go_forward_too():
    class Mixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x[:, 0] * x[:, 1], x.amax(1), (x * x.flip(1)).sum(1)], 1)

    x = torch.randn(4, 3, generator=generator(3), dtype=torch.float64)
    ball = LpBall(x, 0.4, math.inf, None, None)
    found = forward_linear(Mixed(), ball)
    assert escapes(Mixed(), ball, found, 3000) == 0


def test_sides_that_are_not_exchanged_are_seen(monkeypatch: pytest.MonkeyPatch):
    """The mutant: negative slopes that keep the sides."""
    model = nn.Sequential(nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 2)).double().requires_grad_(False)
    x = torch.randn(4, 3, generator=generator(1), dtype=torch.float64)
    ball = LpBall(x, 0.5, math.inf, None, None)
    whole = _Propagation._forms

    def swapped(self: _Propagation, node: object) -> object:
        forms = whole(self, node)
        return forms._replace(below=forms.above, above=forms.above) if node.name == "output" else forms

    monkeypatch.setattr(_Propagation, "_forms", swapped)
    found = forward_linear(model, ball)
    assert escapes(model, ball, found, 3000) > 0


def test_the_bias_rounds_once_and_not_in_every_column():
    """A column is multiplied by the size of its input, and what rounding lost of it next to a bias would be too."""
    layer = nn.Linear(1, 1, dtype=torch.float64)
    layer.weight.data.fill_(1e-12 / 3), layer.bias.data.fill_(-0.7)
    far = torch.full((1, 1), 4e11, dtype=torch.float64)
    found = forward_linear(nn.Sequential(layer, nn.Flatten()).requires_grad_(False), Box(-far, far))
    reach, bias = Fraction(float(layer.weight)) * Fraction(4e11), Fraction(-0.7)
    assert bias - reach - Fraction(1, 10**9) < Fraction(float(found.lower)) <= bias - reach
    assert bias + reach + Fraction(1, 10**9) > Fraction(float(found.upper)) >= bias + reach


def test_too_little_memory_is_refused():
    with pytest.raises(InvalidInput, match=r"memory must be at least \d+ for forward bounds of 3 input entries"):
        forward_linear(model_of(nn.ReLU()), LpBall(torch.zeros(2, 3).double(), 0.1, low=None, high=None), memory=100)


def test_every_operation_is_explained_with_rule_place_and_remedy():
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.lgamma() + 2 * x.relu()

    explanation = explain(Odd(), torch.rand(1, 3))
    rules = {part.operation: part.rule for part in explanation.operations}
    assert rules["aten.relu.default"] == "ReLURelaxation"
    assert rules["aten.mul.Tensor"] == rules["aten.add.Tensor"] == "affine"
    assert rules["aten.lgamma.default"] == ""
    assert not explanation.supported
    (missing,) = explanation.missing
    assert "test_forward.py" in missing.origin
    assert "functions=bounds.FUNCTIONS | " in missing.remedy
    assert "NO RULE" in str(explanation)
    assert explain(model_of(nn.Tanh()), torch.rand(1, 3)).supported
