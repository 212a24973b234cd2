"""Linear bounds of captured networks: recorded bounds, closed forms, sampling, laws, and mutants that go red."""

import importlib.util
import math
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles.devices import elsewhere
from oracles.halfspace import generator
from oracles.networks import Branching, dense, escapes, points
from oracles.selection import some
from torch import Tensor, nn

from bounds import (
    Box,
    Interval,
    InvalidInput,
    LpBall,
    SparseBall,
    UnsupportedLayer,
    alpha_crown,
    capture,
    crown,
    crown_ibp,
    forward_linear,
    ibp,
    margin_bounds,
)
from bounds.linear.ladder import margin_rows
from bounds.linear.network import Network
from bounds.linear.refined import RefinedNetwork
from bounds.relaxations.relu import ReLURelaxation
from certify import attacks, certified_radius, reference

NETWORKS = (
    *("mlp_relu", "mlp_relu_deep", "mlp_leaky", "mlp_sigmoid", "mlp_tanh", "mlp_gelu"),
    *("cnn_relu", "cnn_bn_avgpool", "cnn_maxpool", "resnet_add", "resmlp_tanh"),
)
QUICK = [name for name in NETWORKS if name not in ("mlp_gelu", "resmlp_tanh", "cnn_bn_avgpool", "mlp_sigmoid")]
RADII = {math.inf: (0.02, 0.1), 2: (0.05, 0.25), 1: (0.1, 0.5)}
METHODS = {"CROWN": crown, "IBP+backward": crown_ibp}


@pytest.fixture(scope="module")
def recorded(shared_data: Path) -> Callable[[str], tuple[nn.Module, Tensor, dict[str, np.ndarray]]]:
    """Load a recorded network by name: the network, its input, and the recorded arrays."""
    folder = shared_data / "bounds"
    spec = importlib.util.spec_from_file_location("recorded_networks", folder / "nets.py")
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)

    def load(name: str) -> tuple[nn.Module, Tensor, dict[str, np.ndarray]]:
        arrays = dict(np.load(folder / f"{name}.npz"))
        model, _ = reader.build(name)
        model.load_state_dict({k[2:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("w/")})
        model.requires_grad_(False)
        return model, torch.from_numpy(arrays["x"]), arrays

    return load


@pytest.mark.parametrize("name", some(NETWORKS, QUICK))
def test_recorded_bounds(recorded, name: str):
    """Every attained value lies inside; in l-infinity, widths are at most those recorded."""
    model, x, arrays = recorded(name)
    graph, count = capture(model, x), len(x)
    slack = 2e-3 if name in ("mlp_gelu", "mlp_sigmoid", "mlp_tanh", "resmlp_tanh") else 1e-6
    for (norm, radii), (method, bound) in product(RADII.items(), METHODS.items()):
        each = torch.tensor(radii, dtype=x.dtype).repeat_interleave(count)  # both radii at once
        both = bound(graph, LpBall(torch.cat([x, x]), each, norm=norm, low=None, high=None))
        for radius, lower, upper in zip(radii, both.lower.split(count), both.upper.split(count), strict=True):
            start = f"{'inf' if norm == math.inf else norm}/{radius}"
            assert (lower.numpy() <= arrays[f"{start}/attack_lb"] + 1e-9).all()
            assert (upper.numpy() >= arrays[f"{start}/attack_ub"] - 1e-9).all()
            width = arrays[f"{start}/{method}/ub"] - arrays[f"{start}/{method}/lb"]
            ours = (upper - lower).numpy()
            # Elsewhere a recorded kernel's norm is not exact, and tighter intervals may flip a slope.
            if norm == math.inf or name in ("mlp_relu", "mlp_sigmoid", "mlp_tanh"):
                assert ours.mean() <= width.mean() * (1 + slack) + 1e-9, (start, method)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_recorded_optimized_bounds(recorded, name: str):
    """Every attained value lies inside, in no norm a bound is looser than by CROWN, and widths are within 2 %."""
    model, x, arrays = recorded(name)
    graph = capture(model, x)
    for norm, radii in RADII.items():
        for radius in radii:
            ball = LpBall(x, radius, norm=norm, low=None, high=None)
            start = f"{'inf' if norm == math.inf else norm}/{radius}"
            found, usual = alpha_crown(graph, ball, 40), crown(graph, ball)
            assert (found.lower.numpy() <= arrays[f"{start}/attack_lb"] + 1e-9).all()
            assert (found.upper.numpy() >= arrays[f"{start}/attack_ub"] - 1e-9).all()
            assert (found.lower >= usual.lower - 1e-9).all()
            assert (found.upper <= usual.upper + 1e-9).all()
            method = "CROWN-Optimized" if f"{start}/CROWN-Optimized/lb" in arrays else "CROWN-Optimized-float32"
            width = arrays[f"{start}/{method}/ub"] - arrays[f"{start}/{method}/lb"]
            assert (found.upper - found.lower).mean() <= 1.02 * width.mean()


@pytest.mark.slow
def test_a_chain_of_forty_skips_is_walked_once():
    """Every skip used to double the walk that asks whether a function stands before a node."""

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(3, 3, dtype=torch.float64) for _ in range(40))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = x + 0.05 * layer(x)
            return x.relu()

    model = Chain()
    ball = LpBall(torch.rand(2, 3, generator=generator(1), dtype=torch.float64), 0.1)
    assert escapes(model, ball, crown(model, ball)) == 0


SCALAR = {
    "relu": nn.ReLU(),
    "leaky": nn.LeakyReLU(0.2),
    "elu": nn.ELU(0.7),
    "selu": nn.SELU(),
    "celu": nn.CELU(0.5),
    "relu6": nn.ReLU6(),
    "hardtanh": nn.Hardtanh(-0.5, 0.7),
    "hardsigmoid": nn.Hardsigmoid(),
    "hardswish": nn.Hardswish(),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "softplus": nn.Softplus(2.0),
    "silu": nn.SiLU(),
    "mish": nn.Mish(),
    "gelu": nn.GELU(),
    "gelu tanh": nn.GELU("tanh"),
}


@pytest.mark.slow
def test_a_branching_network_is_bounded():
    torch.manual_seed(0)
    model = Branching().double().eval()
    x = torch.rand(3, 2, 5, 3, generator=generator(1), dtype=torch.float64)[[0, 1, 0, 1, 2]]
    radii = torch.tensor([0.05, 0.025, 0.4, 0.2, 0.0], dtype=torch.float64)
    graph = capture(model, x)
    for norm, bound in product((1, 2, math.inf), (crown, crown_ibp)):
        ball = LpBall(x, radii, norm=norm)
        interval = bound(graph, ball)
        assert escapes(model, ball, interval) == 0
        torch.testing.assert_close(interval.upper[4], model(x)[4], rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCALAR)
def test_networks_of_every_activation_are_bounded(name: str):
    model = dense(SCALAR[name], 3, 6, 6, 2)
    x = torch.randn(4, 3, generator=generator(2), dtype=torch.float64)
    graph = capture(model, x)
    for radius in (0.05, 1.0):
        ball = LpBall(x, radius, low=None, high=None)
        tight, loose = crown(graph, ball), crown_ibp(graph, ball)
        assert escapes(model, ball, tight) == 0
        assert escapes(model, ball, loose) == 0
        width = (tight.upper - tight.lower).mean()
        reached = model(points(ball, 400).flatten(0, 1)).view(400, 4, 2)
        # Close to linear in a small ball, where nothing else can hide a line that is off.
        assert radius > 0.5 or width < 1.6 * (reached.amax(0) - reached.amin(0)).mean()


@pytest.mark.parametrize("norm", [1, 1.5, 2, math.inf])
def test_affine_networks_are_bounded_exactly(norm: float):
    """Closed form: the value at the centre, and the radius times the dual norm of each row."""
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 4)
    ).double()
    x = torch.randn(2, 1, 8, 8, generator=generator(3), dtype=torch.float64)
    interval = crown(model, LpBall(x, 0.3, norm=norm, low=None, high=None))
    matrix = torch.func.jacrev(lambda z: model(z[None])[0])(x[0]).flatten(1)
    dual = math.inf if norm == 1 else 1.0 if norm == math.inf else norm / (norm - 1)
    reach = 0.3 * torch.linalg.vector_norm(matrix, dual, dim=1)
    torch.testing.assert_close(interval.lower, model(x) - reach, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(interval.upper, model(x) + reach, rtol=1e-9, atol=1e-9)


def test_margins_are_folded_and_hold_on_a_dense_grid():
    model = dense(nn.ReLU(), 2, 8, 8, 3, seed=5)
    x = torch.tensor([[0.3, 0.4], [0.7, 0.2]], dtype=torch.float64)
    labels = model(x).argmax(1)
    ball = LpBall(x, 0.1)
    for method in ("crown_ibp", "crown"):
        margins = margin_bounds(model, ball, labels, method)
        assert (margins.gather(1, labels[:, None]) == 0).all()
        axis = torch.linspace(-0.1, 0.1, 81, dtype=torch.float64)
        for i in range(2):
            y = model(x[i] + torch.cartesian_prod(axis, axis))
            exact = (y[:, labels[i], None] - y).amin(0)
            assert (margins[i] <= exact + 1e-12).all()
            assert (margins[i] >= exact - 0.5).all()
    # By one backward pass; where methods are combined, each end of an interval may come of another one.
    margins, interval = margin_bounds(model, ball, labels, "crown_ibp"), crown_ibp(model, ball)
    apart = interval.lower.gather(1, labels[:, None]) - interval.upper
    assert (margins >= apart - 1e-12).all()
    assert (margins > apart + 1e-3).any()


def test_bounds_are_nested_and_never_looser_than_intervals():
    model = dense(nn.ReLU(), 4, 10, 10, 3, seed=9)
    x = torch.rand(5, 4, generator=generator(4), dtype=torch.float64)
    graph, previous = capture(model, x), None
    for radius in (0.3, 0.2, 0.1, 0.01):
        ball = LpBall(x, radius)
        tight, straight = crown(graph, ball), ibp(model, ball)
        assert (tight.lower >= straight.lower - 1e-9).all()
        assert (tight.upper <= straight.upper + 1e-9).all()
        if previous is not None:
            assert ((tight.upper - tight.lower).mean(0) <= (previous.upper - previous.lower).mean(0)).all()
        previous = tight


@pytest.mark.slow
def test_margins_are_never_looser_than_those_of_intervals():
    """Networks trained with intervals are those where linear bounds alone lose to them."""
    model, x, y = reference.load("ibp", 30)
    ball = LpBall(x.double(), 0.1)
    straight, tight = (margin_bounds(model, ball, y, method) for method in ("ibp", "crown"))
    assert (tight >= straight - 1e-9).all()
    network = Network(model, ball)
    backward = RefinedNetwork(network).functions(margin_rows(network, y))
    assert (backward < straight - 0.1).any()  # or nothing was at stake


def test_boxes_with_frozen_features_and_few_changes():
    """Exactly, for a small network: corners of the box, and every choice of one changed entry on a grid."""
    model = dense(nn.ReLU(), 3, 8, 2, seed=3)
    x = torch.rand(2, 3, generator=generator(5), dtype=torch.float64)
    width = torch.tensor([0.2, 0.0, 0.1], dtype=torch.float64)
    box = Box(x - width, x + width)
    interval = crown(model, box)
    step = torch.rand(4000, 1, 3, generator=generator(6), dtype=torch.float64) * 2 - 1
    y = model((x + step * width).flatten(0, 1)).view(4000, 2, 2)
    assert ((y >= interval.lower) & (y <= interval.upper)).all()
    wide = crown(model, LpBall(x, 0.2, low=None, high=None))
    assert ((wide.upper - wide.lower) > 1.2 * (interval.upper - interval.lower)).all()  # a frozen feature pays
    one, two = (crown(model, SparseBall(x, changes)) for changes in (1, 2))
    for entry in range(3):
        changed = x.expand(101, 2, 3).clone()
        changed[:, :, entry] = torch.linspace(0, 1, 101, dtype=torch.float64)[:, None]
        y = model(changed.flatten(0, 1)).view(101, 2, 2)
        assert ((y >= one.lower) & (y <= one.upper)).all()
    assert (two.upper - two.lower > one.upper - one.lower).all()


def test_a_wrong_line_is_seen(monkeypatch: pytest.MonkeyPatch):
    """The mutant: an upper line that is 3 % too flat. Sampling must find outputs outside."""
    model = dense(nn.ReLU(), 3, 6, 6, 2)
    ball = LpBall(torch.randn(4, 3, generator=generator(2), dtype=torch.float64), 0.3, low=None, high=None)
    assert escapes(model, ball, crown(model, ball), 2000) == 0
    whole = ReLURelaxation._upper_line

    def flat(self: ReLURelaxation, x: Interval) -> tuple[Tensor, Tensor]:
        slope, intercept = whole(self, x)
        return 0.9 * slope, 0.9 * intercept

    monkeypatch.setattr(ReLURelaxation, "_upper_line", flat)
    assert escapes(model, ball, crown(model, ball), 2000) > 0


def test_rounding_is_part_of_the_bound():
    """In single precision and at radius 0, the exact output lies inside; without the rounding terms it does not."""
    model = dense(nn.ReLU(), 200, 200, 200, 50).float()
    x = torch.randn(8, 200, generator=generator(6))
    exact = model.double()(x.double())
    model.float()
    ball = Box(x, x)

    def outside(sound: str) -> int:
        found = crown(model, ball, sound=sound)
        return int(((found.lower.double() > exact) | (found.upper.double() < exact)).sum())

    assert outside("rounding") == 0
    assert outside("real") > 0


@pytest.mark.slow
def test_certified_radii_lie_between_intervals_and_attacks():
    model, x, y = reference.load("pgd", 2)
    witness = attacks.minimal_perturbation(model, x, y, norm=math.inf, generator=generator())
    loose = certified_radius(model, x, y, norm=math.inf, method="ibp")
    tight = certified_radius(model, x, y, norm=math.inf, method="crown", tolerance=0.2)
    assert (tight.radius <= witness.distance).all()
    assert (tight.radius > 1.5 * loose.radius).all()
    assert tight.method == "crown"


def test_where_a_function_is_not_defined_nothing_is_claimed():
    class Logarithm(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x.log(), x.exp()], 1)

    x = torch.tensor([[0.5, 0.05]], dtype=torch.float64)
    interval = crown(Logarithm(), LpBall(x, 0.1, low=None, high=None))
    assert interval.lower[0, 1] == -math.inf
    assert interval.lower[0, 0].item() == pytest.approx(math.log(0.4))
    assert interval.upper[0, 2].item() == pytest.approx(math.exp(0.6))


@pytest.mark.slow
def test_the_model_comes_back_as_it_was_and_weights_stay_its_own():
    model = Branching().train()
    x = torch.rand(2, 2, 5, 3)
    graph = capture(model, x)
    assert all(module.training for module in model.modules())
    before = crown(graph, LpBall(x, 0.01))
    with torch.no_grad():
        model.last.bias += 1
    after = crown(graph, LpBall(x, 0.01))
    torch.testing.assert_close(after.lower, before.lower + 1, rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_written_through_data_are_seen(dtype: torch.dtype):
    """Versions of tensors do not count such writes: bounds once stayed those of the weights before."""
    model, x = dense(nn.ReLU(), 3, 6, 2).float(), torch.rand(2, 3, generator=generator(2), dtype=dtype)
    graph, ball = capture(model, x), LpBall(x, 0.1)
    with torch.no_grad():
        before = crown(graph, ball)
        model[0].weight.data.mul_(3.0)
        after, fresh = crown(graph, ball), crown(capture(model, x), ball)
    assert torch.equal(after.lower, fresh.lower)
    assert not torch.equal(after.lower, before.lower)


@pytest.mark.parametrize("norm", [2, math.inf])
def test_bounds_follow_the_device_of_the_input(norm: float):
    model = dense(nn.ReLU(), 3, 6, 6, 2)
    ball = LpBall(torch.rand(2, 3, generator=generator(2), dtype=torch.float64), 0.1, norm=norm)
    graph = capture(model, ball.center)
    expected = crown(graph, ball)
    with elsewhere():
        found = crown(graph, ball)
    assert torch.equal(found.lower, expected.lower)


@pytest.mark.parametrize("method", [crown, crown_ibp, alpha_crown, ibp, forward_linear])
def test_an_empty_batch_is_refused(method: Callable):
    """Its shapes say nothing about those of the nodes; ``torch`` would name an operation of the network."""
    model, x = dense(nn.ReLU(), 3, 4, 2), torch.rand(2, 3, dtype=torch.float64)
    for source in (model, capture(model, x)) if method is not ibp else (capture(model, x),):
        with pytest.raises(InvalidInput, match="x must hold at least one input"):
            method(source, LpBall(x[:0], 0.1))


@pytest.mark.slow
def test_what_has_no_rule_is_refused_with_its_place():
    class Unknown(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.lgamma()

    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    class Rounds(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.int() * 1.5

    class Mixes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - x.mean(0)).relu()

    ball = LpBall(torch.rand(2, 3), 0.1)
    with pytest.raises(UnsupportedLayer, match="has no rule for linear bounds"):
        crown(Rounds(), ball)  # a cast to integers is not affine, though it may look like a copy
    with pytest.raises(UnsupportedLayer, match=r"aten\.mean\.dim works along the dimension of inputs"):
        crown(Mixes(), ball)
    with pytest.raises(UnsupportedLayer, match=r"aten\.lgamma\.default of 1 data inputs has no rule.*test_methods\.py"):
        crown(Unknown(), ball)
    with pytest.raises(UnsupportedLayer, match=r"torch\.export does not capture the model"):
        crown(Branches(), ball)
    with pytest.raises(
        InvalidInput, match="method must be one of ibp, crown_ibp, fast_lin, crown, alpha_crown, got 'best'"
    ):
        margin_bounds(dense(nn.ReLU(), 3, 2), ball, torch.tensor([0, 1]), "best")
