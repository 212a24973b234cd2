"""Bounds over boxes of weights against corners, samples, exact fractions, and mutants that forget a part."""

from fractions import Fraction
from itertools import pairwise, product

import pytest
import torch
from oracles.devices import elsewhere
from oracles.halfspace import generator
from torch import Tensor, nn

import bounds
from bounds import InvalidInput, LpBall, UnsupportedLayer, WeightBox, with_weight_box
from bounds.graph import uncertain

METHODS = ("ibp", "crown_ibp", "fast_lin", "crown", "alpha_crown")


def bound(method: str, graph: bounds.Graph, ball: bounds.PerturbationSet) -> bounds.Interval:
    return {name: getattr(bounds, name) for name in (*METHODS, "forward_linear")}[method](graph, ball)


def drawn(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with seeded weights, in evaluation mode."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator(seed)) * 0.4)
            seed += 1
    return model.eval()


class Residual(nn.Module):
    """A convolution around which the input is added, pooled, and a layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(8, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.max_pool2d(torch.relu(self.first(x)) + x, 2).flatten(1)
        return self.last(torch.tanh(self.again(torch.relu(self.again(h)))))


NETWORKS = {
    "dense": lambda: drawn(nn.Sequential(nn.Flatten(), nn.Linear(32, 7), nn.ReLU(), nn.Linear(7, 3))),
    "smooth": lambda: drawn(nn.Sequential(nn.Flatten(), nn.Linear(32, 6), nn.GELU(), nn.Linear(6, 3), nn.Sigmoid())),
    "convolutions": lambda: drawn(
        nn.Sequential(
            *(nn.Conv2d(2, 4, 3, stride=2, groups=2), nn.ReLU(), nn.ConvTranspose2d(4, 3, 2, stride=2)),
            *(nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)),
        )
    ),
    "residual": lambda: drawn(Residual()),
}
X = torch.rand(2, 2, 4, 4, generator=generator(1))


def networks(model: nn.Module, box: WeightBox, x: Tensor, epsilon: float) -> Tensor:
    """Logits (draws, N, K) of networks of the box at points of the ball, most of them where some output is extreme."""
    named = {name: value.double() for name, value in model.state_dict().items()}
    middle = {name: value.requires_grad_() for name, value in box.centers().items()}
    point = x.double().requires_grad_()
    output = torch.func.functional_call(model, named | middle, point)
    source, found = generator(7), []
    for row, k, side in product(range(len(x)), range(output.shape[1]), (-1.0, 1.0, 0.0)):
        gradients = torch.autograd.grad(side * output[row, k], [point, *middle.values()], retain_graph=True)
        moves = [part.sign() if side else torch.rand(part.shape, generator=source) * 2 - 1 for part in gradients]
        chosen = {
            name: torch.where(move > 0, box.upper[name], box.lower[name]) if side else center
            for (name, center), move in zip(middle.items(), moves[1:], strict=True)
        }
        found.append(torch.func.functional_call(model, named | chosen, point + epsilon * moves[0]))
    return torch.stack(found).detach()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "method"),
    [
        *[("dense", "ibp"), ("residual", "ibp"), ("smooth", "crown_ibp"), ("dense", "fast_lin")],
        *[("convolutions", "crown"), ("residual", "crown"), ("dense", "alpha_crown"), ("smooth", "forward_linear")],
    ],
)
def test_no_network_of_the_box_leaves_the_bounds(name: str, method: str):
    model = NETWORKS[name]()
    box, epsilon = WeightBox.around(model, 0.02), 0.005
    found = bound(method, with_weight_box(model, X, box), LpBall(X.double(), epsilon, low=None, high=None))
    outputs = networks(model, box, X, epsilon)
    assert (outputs >= found.lower).all()
    assert (outputs <= found.upper).all()
    exact = bound(method, bounds.capture(model, X), LpBall(X.double(), epsilon, low=None, high=None))
    assert ((outputs < exact.lower) | (outputs > exact.upper)).any()  # the mutant: errors are left out


def test_one_linear_layer_is_exact_over_corners():
    model = drawn(nn.Sequential(nn.Linear(3, 2)))
    radius = {"0.weight": torch.rand(2, 3, generator=generator(3)) / 5, "0.bias": torch.rand(2, generator=generator(4))}
    box, x = WeightBox.around(model, radius), torch.tensor([[0.3, -0.7, 0.0]], dtype=torch.float64)
    signs = torch.tensor(list(product((-1.0, 1.0), repeat=4)), dtype=torch.float64)
    weight, bias = (model.state_dict()[name].double() for name in ("0.weight", "0.bias"))
    corners = torch.stack(
        [(weight + sign[:3] * radius["0.weight"]) @ x[0] + bias + sign[3] * radius["0.bias"] for sign in signs]
    )
    graph = with_weight_box(model, x, box)
    for method in ("ibp", "crown"):
        found = bound(method, graph, LpBall(x, 0.0, low=None, high=None))
        assert torch.allclose(found.lower[0], corners.amin(0), rtol=1e-12, atol=1e-14)
        assert torch.allclose(found.upper[0], corners.amax(0), rtol=1e-12, atol=1e-14)
        assert (found.lower[0] <= corners.amin(0)).all()


@pytest.mark.slow
def test_bounds_hold_in_exact_fractions():
    """A chain of one neuron each, whose range over weights and input is at corners: products of positive numbers."""
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    with torch.no_grad():
        for weight, value in zip(model.parameters(), (0.7, 0.1, 1.3, -0.2), strict=True):
            weight.fill_(value)
    box, x = WeightBox.around(model, 0.1), torch.tensor([[0.6]], dtype=torch.float64)
    ends = {name: (Fraction(float(box.lower[name])), Fraction(float(box.upper[name]))) for name in box.lower}
    ball = LpBall(x, 0.25, low=None, high=None)
    hull = ball.hull()
    low, high = (
        ends["2.weight"][i] * (ends["0.weight"][i] * Fraction(float(end)) + ends["0.bias"][i]) + ends["2.bias"][i]
        for i, end in enumerate((hull.lower, hull.upper))
    )
    for method in METHODS:
        found = bound(method, with_weight_box(model, x, box), ball)
        assert Fraction(float(found.lower)) <= low
        assert Fraction(float(found.upper)) >= high
    tight = bounds.ibp(with_weight_box(model, x, box), ball)
    assert float(tight.upper) - float(high) < 0.02  # 1.4 * 0.8 + ..: sup |h| of the middle counts the error twice


@pytest.mark.slow
def test_a_box_without_width_is_the_network():
    model = NETWORKS["residual"]()
    ball = LpBall(X.double(), 0.02)
    for method in ("ibp", "crown"):
        one, other = (
            bound(method, graph, ball)
            for graph in (with_weight_box(model, X, WeightBox.around(model, 0.0)), bounds.capture(model, X))
        )
        assert torch.allclose(one.lower, other.lower, rtol=1e-10, atol=1e-12)
        assert torch.allclose(one.upper, other.upper, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_nested_boxes_give_nested_bounds_and_tighter_methods_stay_tighter():
    model, ball = NETWORKS["convolutions"](), LpBall(X.double(), 0.02)
    small, large = (
        [bound(method, with_weight_box(model, X, WeightBox.around(model, size)), ball) for method in METHODS]
        for size in (0.01, 0.02)
    )
    for one, other in zip(small, large, strict=True):
        assert (other.lower < one.lower).all()
        assert (other.upper > one.upper).all()
    for found in (small, large):
        for loose, tight in pairwise(found):
            assert (tight.lower >= loose.lower - 1e-9).all()


def test_a_box_beside_the_weights_is_about_that_box():
    """The middle is not the model: the mutant that keeps its weights misses the range."""
    model, x = drawn(nn.Sequential(nn.Linear(3, 2))), torch.ones(1, 3, dtype=torch.float64)
    shifted = {name: weight.double() + 1 for name, weight in model.state_dict().items()}
    found = bounds.ibp(with_weight_box(model, x, WeightBox(shifted, shifted)), LpBall(x, 0.0, low=None, high=None))
    assert torch.allclose(found.lower, model.double()(x) + 4, atol=1e-9)


def test_radii_hold_both_ends():
    lower = {"w": torch.randn(1000, generator=generator(5), dtype=torch.float64) * 1e3}
    upper = {"w": lower["w"] + torch.rand(1000, generator=generator(6), dtype=torch.float64) * 1e-13}
    box = WeightBox(lower, upper)
    (center,), (radius,) = box.centers().values(), box.radii().values()
    for c, r, low, high in zip(*(t.tolist() for t in (center, radius, lower["w"], upper["w"])), strict=True):
        assert Fraction(c) - Fraction(r) <= Fraction(low)
        assert Fraction(c) + Fraction(r) >= Fraction(high)
    around = WeightBox.around(nn.Linear(3, 1), {"weight": 1e-9})
    assert (around.upper["weight"] > around.lower["weight"]).all()


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.slow
def test_weights_that_go_elsewhere_are_refused():
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3)).eval()
    box = WeightBox.around(model, {"1.weight": 0.1})
    with pytest.raises(UnsupportedLayer, match=r"1\.weight has an error and must be the weight or bias of a linear"):
        with_weight_box(model, X, box)
    exact = WeightBox.around(model, {"1.weight": 0.0, "0.weight": 0.1})
    bounds.crown(with_weight_box(model, X, exact), LpBall(X, 0.1))


class Token(nn.Module):
    """A layer of a constant: no layer of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.layer = nn.Parameter(torch.ones(1, 4)), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(self.token)


def test_a_layer_of_a_constant_is_refused():
    x = torch.zeros(1, 4)
    graph = with_weight_box(Token(), x, WeightBox.around(Token(), 0.1))
    with pytest.raises(UnsupportedLayer, match="must go into a layer of the input"):
        bounds.ibp(graph, LpBall(x, 0.1))


class Transposed(nn.Module):
    """Two layers that hold one matrix in memory, the second its transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.other.weight = nn.Parameter(self.one.weight.data.t())

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.one(x))


def test_a_transpose_in_the_same_memory_is_another_weight():
    model = drawn(Transposed())
    x = torch.rand(2, 3, generator=generator(2))
    graph = with_weight_box(model, x, WeightBox.around(model, {"one.weight": 1e-4}))
    found, logits = bounds.ibp(graph, LpBall(x, 0.0)), model(x)
    assert ((found.lower <= logits) & (logits <= found.upper)).all()


@pytest.mark.slow
def test_everything_that_speaks_of_one_network_refuses_the_box():
    model = NETWORKS["dense"]()
    graph, ball = with_weight_box(model, X, WeightBox.around(model, 0.01)), LpBall(X.double(), 0.1)
    refused = (
        lambda: graph.bind(X),
        graph.module,
        lambda: bounds.lipschitz_bound(graph, 2, x=X),
        lambda: bounds.lp_bounds(graph, ball),
        lambda: bounds.milp_bounds(graph, ball),
        lambda: bounds.crown(graph, ball, sound="real"),
        lambda: bounds.crown(graph, ball, sound="deployed"),
        lambda: bounds.explain(graph, X),
        lambda: bounds.lipschitz_bound(graph, 2, method="local", ball=ball),
    )
    for call in refused:
        with pytest.raises(InvalidInput, match="box"):
            call()


def test_bad_boxes():
    model = NETWORKS["dense"]()
    weight = {"1.weight": model.state_dict()["1.weight"].double()}
    for lower, upper, message in (
        (weight, {}, "must have the same names"),
        ({"1.weight": weight["1.weight"] + 1}, weight, "must be finite, of the shape of"),
        ({"1.weight": weight["1.weight"] * torch.nan}, weight, "must be finite, of the shape of"),
    ):
        with pytest.raises(InvalidInput, match=message):
            WeightBox(lower, upper)
    with pytest.raises(InvalidInput, match="the box must name weights of the network"):
        with_weight_box(model, X, WeightBox({"2.weight": torch.ones(1)}, {"2.weight": torch.ones(1)}))
    with pytest.raises(InvalidInput, match=r"the box must have the shape \(7, 32\)"):
        with_weight_box(model, X, WeightBox({"1.weight": torch.ones(1)}, {"1.weight": torch.ones(1)}))
    for errors in (-1.0, {"1.weight": torch.inf}, {"5": 1.0}):
        with pytest.raises(InvalidInput, match="error"):
            WeightBox.around(model, errors)
    computed = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    with pytest.raises(InvalidInput, match="errors must be by names where weights are computed from others"):
        WeightBox.around(computed, 0.1)


@pytest.mark.slow
def test_on_another_device():
    model, ball = NETWORKS["convolutions"](), LpBall(X, 0.1)
    with elsewhere():
        bounds.crown(with_weight_box(model, X, WeightBox.around(model, 0.01)), ball)


# ------------------------------------------------------------------------------------- layers that quantise their input


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated")
def test_the_error_of_quantised_inputs_is_never_too_small():
    """PyTorch's own kernel, over scales: what it does to the input of a layer stays within the step."""
    from torch.ao.nn.quantized.dynamic import Linear

    layer = nn.Linear(64, 64)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(64))
        layer.bias.zero_()
    layer.qconfig = torch.ao.quantization.default_dynamic_qconfig
    quantised = Linear.from_float(layer)
    weight = quantised.weight().dequantize().double()
    worst = 0.0
    for seed, scale in enumerate((1e-42, 1e-30, 1e-6, 1e-3, 1.0, 30.0, 1e6)):
        source = generator(seed)
        x = (torch.rand(1, 64, generator=source) - torch.rand(1, generator=source)) * scale
        step = uncertain._largest_step(x.double(), x.double())
        error = (quantised(x).double() - x.double() @ weight.T).abs()
        assert (error <= step @ weight.abs().T + 1e-5 * scale).all()
        worst = max(worst, float((error / (step @ weight.abs().T)).max()))
    assert worst > 0.6  # of a bound that is not merely large
