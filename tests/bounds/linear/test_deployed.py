"""Bounds of a float32 network as it runs: cancellation that real arithmetic does not see, any order of summation."""

from collections.abc import Callable

import pytest
import torch
from oracles.halfspace import generator
from oracles.selection import some
from torch import Tensor, nn

from bounds import (
    Interval,
    InvalidInput,
    LpBall,
    Normalize,
    UnsupportedLayer,
    alpha_crown,
    capture,
    crown,
    crown_ibp,
    fast_lin,
    ibp,
)
from bounds.linear.network import Network

METHODS: dict[str, Callable[..., Interval]] = {
    "ibp": ibp,
    "crown_ibp": crown_ibp,
    "fast_lin": fast_lin,
    "crown": crown,
    "alpha_crown": lambda *args, **options: alpha_crown(*args, steps=2, **options),
}
HUGE = 2.0**25  # at which float32 counts in fours


def affine(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))
    return layer


def absorbing() -> nn.Module:
    """``(x + 2^25) - 2^25``, in two layers."""
    return nn.Sequential(affine([[1.0]], [HUGE]), nn.ReLU(), affine([[1.0]], [-HUGE]))


def ordered() -> nn.Module:
    """``x + 2^25 - 2^25``, in one sum whose order decides."""
    return nn.Sequential(affine([[1.0], [0.0], [0.0]], [0.0, 1.0, 1.0]), affine([[1.0, HUGE, -HUGE]], [0.0]))


@pytest.mark.parametrize("build", [absorbing, ordered])
def test_what_float32_absorbs_is_not_certified(build: Callable[[], nn.Module]):
    """In real arithmetic the network is the identity, at least 0.4 on [0.5, 1]; in float32 it can be 0."""
    ball = LpBall(torch.full((1, 1), 0.75, dtype=torch.float64), 0.25)
    graph = capture(build(), ball.center)
    for bound in METHODS.values():
        for sound in ("real", "rounding"):
            found = bound(graph, ball, sound=sound)
            assert found.lower.item() >= 0.4
            assert found.upper.item() <= 1.1
        found = bound(graph, ball, sound="deployed")
        assert found.lower.item() <= 0.0
        assert found.upper.item() >= 1.0


def test_float32_does_absorb():
    """The counterexample runs."""
    assert absorbing()(torch.tensor([[0.75]])).item() == 0.0


def permuted(model: nn.Sequential, seed: int) -> nn.Sequential:
    """The network in real arithmetic, with hidden neurons or channels in another order: sums in another order."""
    order, layers = None, []
    for layer in model:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            weight = layer.weight.detach() if order is None else layer.weight.detach()[:, order]
            last = layer is model[-1]
            order = torch.arange(len(weight)) if last else torch.randperm(len(weight), generator=generator(seed))
            copy = type(layer).__new__(type(layer))
            copy.__dict__.update(layer.__dict__)
            copy._parameters = {"weight": nn.Parameter(weight[order]), "bias": nn.Parameter(layer.bias.detach()[order])}
            layers.append(copy)
        elif isinstance(layer, nn.Flatten):
            order = torch.arange(4 * len(order)).view(-1, 4)[order].flatten()  # maps of 2 x 2
            layers.append(layer)
        else:
            layers.append(layer)
    return nn.Sequential(*layers)


def network(kind: str, seed: int) -> tuple[nn.Sequential, Tensor]:
    """Random, float32, with outputs in which large terms cancel."""
    activation = {"relu": nn.ReLU(), "tanh": nn.Tanh(), "gelu": nn.GELU(), "leaky": nn.LeakyReLU(0.1)}[kind.split()[1]]
    if kind.startswith("dense"):
        model = nn.Sequential(nn.Linear(9, 50), activation, nn.Linear(50, 40), activation, nn.Linear(40, 5))
        x = torch.rand(7, 9, generator=generator(seed))
    else:
        convolutions = nn.Conv2d(2, 6, 3, stride=2, padding=1), activation, nn.Conv2d(6, 5, 2, stride=2), activation
        model = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(20, 3))
        x = torch.rand(7, 2, 8, 8, generator=generator(seed))
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 1.0, generator=generator(seed))
    return model.requires_grad_(False), x


def outside(model: nn.Sequential, x: Tensor, radius: float, found: Interval, seed: int) -> int:
    """Float32 outputs beyond the bounds: of permuted networks, of points of the ball, in batches and alone."""
    count = 0
    moves = torch.rand(6, *x.shape, generator=generator(seed)) * 2 - 1
    moves[0], moves[1] = 0, moves[1].sign()
    for i, move in enumerate(moves):
        point = x + 0.99 * radius * move
        assert ((point.double() - x.double()).abs() <= radius).all()
        for run in (model, permuted(model, i), permuted(model, i + 10)):
            together = run(point).double()
            turned = run(point.flip(0)).double().flip(0)
            alone = torch.cat([run(row) for row in point.split(1)]).double()
            for y in (together, turned, alone):
                count += int((~((found.lower <= y) & (y <= found.upper))).sum())
    return count


SLOW_KINDS = ["dense tanh", "dense gelu", "conv relu"]
KINDS = ["dense relu", "conv leaky", *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW_KINDS)]


@pytest.mark.parametrize("kind", KINDS)
def test_float32_outputs_lie_within_the_bounds(kind: str):
    for seed in range(2):
        model, x = network(kind, seed)
        graph = capture(model, x)
        for radius in (0.0, 0.01):
            ball = LpBall(x.double(), radius, low=None, high=None)
            for method in ("ibp", "crown"):
                found = METHODS[method](graph, ball, sound="deployed")
                assert outside(model, x, radius, found, seed) == 0
                bare = METHODS[method](graph, ball)
                assert (found.lower <= bare.lower + 1e-12).all()
                assert (found.upper >= bare.upper - 1e-12).all()
                if radius == 0 and method == "crown":  # and says something
                    assert (found.upper - found.lower).max() < 1e-3 * found.upper.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_without_the_errors_of_float32_are_seen_to_fail(kind: str, monkeypatch: pytest.MonkeyPatch):
    """Mutants: bounds of real arithmetic, and deployed ones without their error terms."""
    model, x = network(kind, 0)
    graph, ball = capture(model, x), LpBall(x.double(), 0.0, low=None, high=None)
    assert outside(model, x, 0.0, crown(graph, ball), 0) > 0
    monkeypatch.setattr(Network, "deployed_error", lambda self, name, found=None: 0.0 * self.nodes[name].value)
    assert outside(model, x, 0.0, crown(graph, ball, sound="deployed"), 0) > 0


ACTIVATIONS = [
    *(nn.Sigmoid(), nn.ReLU(), nn.LeakyReLU(0.013), nn.ELU(0.7), nn.SELU(), nn.CELU(0.3), nn.ReLU6()),
    *(nn.Hardtanh(-0.3, 0.7), nn.Hardsigmoid(), nn.Hardswish(), nn.Tanh(), nn.Softplus(), nn.SiLU(), nn.Mish()),
    *(nn.GELU(), nn.GELU("tanh"), nn.PReLU(init=0.21)),
]


@pytest.mark.parametrize("activation", some(ACTIVATIONS, ACTIVATIONS[:1]), ids=lambda module: type(module).__name__)
def test_functions_in_float32_lie_within_the_bounds(activation: nn.Module):
    """At single numbers, from tiny to large, of both signs."""
    x = torch.cat([torch.linspace(-30, 30, 4001), torch.logspace(-20, 1.5, 500), -torch.logspace(-20, 1.5, 500)])
    found = ibp(activation, LpBall(x.double().view(1, -1), 0.0, low=None, high=None), sound="deployed")
    with torch.no_grad():
        for y in (activation(x), activation(x[:-1].flip(0)).flip(0)):  # in vectors and their remainders
            y = y.double()
            assert (found.lower[0, : len(y)] <= y).all()
            assert (y <= found.upper[0, : len(y)]).all()
    assert (found.upper - found.lower).max() < 1e-3


def test_what_has_no_bound_as_it_runs_is_refused():
    ball = LpBall(torch.rand(2, 3, generator=generator(0), dtype=torch.float64), 0.1)
    with pytest.raises(UnsupportedLayer, match=r"softmax.* rounds in float32 is not known"):
        crown(nn.Sequential(nn.Linear(3, 3), nn.Softmax(1)), ball, sound="deployed")
    with pytest.raises(InvalidInput, match=r"float32 network, but 0\.weight is torch\.float64: convert"):
        crown(nn.Sequential(nn.Linear(3, 3)).double(), ball, sound="deployed")


class Folding(nn.Module):
    """Its weight is the result of a sum that absorbs it in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.75, 0.75, 0.75]))

    def forward(self, x: Tensor) -> Tensor:
        return x * ((self.weight + HUGE) - HUGE)


def test_weights_that_are_computed_on_the_way_are_refused():
    """Bounds used the sum in float64, 0.75, where the network multiplies by 0; views of weights are no sums."""
    ball = LpBall(torch.rand(2, 3, generator=generator(0), dtype=torch.float64), 0.1)
    with pytest.raises(
        UnsupportedLayer, match=r"aten\.sub\.Tensor, loses its digits to cancellation in torch\.float32"
    ):
        crown(Folding(), ball, sound="deployed")
    assert crown(Folding(), ball).lower.isfinite().all()
    maps = LpBall(torch.rand(2, 1, 3, 2, generator=generator(1), dtype=torch.float64), 0.1)
    assert crown(Normalize([0.3], [0.5]), maps, sound="deployed").lower.isfinite().all()


def normalised(seed: int) -> nn.Module:
    """Batch, weight and spectral normalisation, with means that are large against what is left of them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parametrised = nn.utils.parametrizations
        model = nn.Sequential(
            parametrised.weight_norm(nn.Conv2d(1, 4, 2)),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            parametrised.spectral_norm(nn.Linear(16, 5)),
            nn.BatchNorm1d(5),
        )
        for layer in (model[1], model[5]):
            layer.running_mean.normal_(0, 30.0)
            layer.running_var.uniform_(1e-3, 2.0)
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    return model.eval().requires_grad_(False)


def in_other_order(layer: nn.Module, x: Tensor, *, folded: bool) -> Tensor:
    """A batch normalisation as one or another device computes it in float32."""
    shape = (-1, *[1] * (x.ndim - 2))
    rate = 1 / (layer.running_var + layer.eps).sqrt()
    mean, weight, bias = (part.view(shape) for part in (layer.running_mean, layer.weight, layer.bias))
    if folded:
        scale = weight * rate.view(shape)
        return x * scale + (bias - mean * scale)
    return (x - mean) * rate.view(shape) * weight + bias


@pytest.mark.slow
def test_normalised_networks_in_float32_lie_within_their_bounds():
    """In each order of operations, and as PyTorch runs them; bounds of real arithmetic are seen to fail."""
    inside = 0
    for seed in range(2):
        model, x = normalised(seed), torch.rand(6, 1, 3, 3, generator=generator(seed))
        graph, ball = capture(model, x), LpBall(x.double(), 0.0, low=None, high=None)
        found, bare = crown(graph, ball, sound="deployed"), crown(graph, ball)
        answers = [model(x)]
        for folded in (True, False):
            h = x
            for layer in model:
                is_norm = isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)
                h = in_other_order(layer, h, folded=folded) if is_norm else layer(h)
            answers.append(h)
        for answer in answers:
            assert ((found.lower <= answer.double()) & (answer.double() <= found.upper)).all()
            inside += int(((bare.lower <= answer.double()) & (answer.double() <= bare.upper)).all())
        assert (found.upper - found.lower).max() < 0.02 * found.upper.abs().max()
    assert inside == 0


def test_a_single_product_is_rounded_by_half_a_unit():
    """The error comes near its bound if an output has one term: a tenth of it is seen to be too little."""
    model, x = nn.Linear(1, 1, bias=False), torch.rand(300, 1, generator=generator())
    nn.init.uniform_(model.weight, generator=generator(1))
    found = crown(model, LpBall(x.double(), 0.0, low=None, high=None), sound="deployed")
    answer = model(x).double()
    assert ((found.lower <= answer) & (answer <= found.upper)).all()
    exact = x.double() * model.weight.T.double()
    assert ((answer - exact).abs() > 0.1 * (found.upper - exact)).any()
