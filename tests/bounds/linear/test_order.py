"""Methods in their order: what costs more is at least as tight, and bounds of an input rest on it alone."""

from collections.abc import Callable
from itertools import pairwise, product

import pytest
import torch
from oracles.families import NETWORKS, SETS, inputs, network
from oracles.networks import dense
from oracles.selection import some
from torch import Tensor, nn

from bounds import (
    Graph,
    Interval,
    LpBall,
    PerturbationSet,
    alpha_crown,
    capture,
    crown,
    crown_ibp,
    fast_lin,
    forward_linear,
    ibp,
    margin_bounds,
)
from bounds.linear.ladder import refinements, rungs
from bounds.linear.network import Network

RADII = torch.tensor([0.15, 0.01, 0.04])
# Every method follows those that it contains; a row of a captured network is bounded alike by all of them.
LADDERS = (("ibp", "forward_linear"), ("ibp", "crown_ibp", "fast_lin", "crown", "alpha_crown", "alpha_crown in full"))
METHODS: dict[str, Callable[[Graph, PerturbationSet], Interval]] = {
    "ibp": ibp,
    "forward_linear": forward_linear,
    "crown_ibp": crown_ibp,
    "fast_lin": fast_lin,
    "crown": crown,
    "alpha_crown": lambda graph, ball: alpha_crown(graph, ball, 10, intermediate=False),
    "alpha_crown in full": lambda graph, ball: alpha_crown(graph, ball, 10),
}
EACH = list(zip(NETWORKS, [*SETS, *SETS], strict=False))  # every network and every set
QUICK = [("dense", "linf"), ("tanh", "linf")]


def case(
    kind: str, name: str, dtype: torch.dtype = torch.float64, seed: int = 1
) -> tuple[nn.Module, Graph, PerturbationSet]:
    """A network in some precision, captured, with three sets around images."""
    model, x = network(kind, seed).to(dtype), inputs(3, seed + 1, dtype)
    return model, capture(model, x), SETS[name](x, RADII.to(dtype))


def out_of_order(bounds: dict[str, Interval], ladder: tuple[str, ...]) -> list[str]:
    """Methods that are looser than a cheaper one, by more than the rounding of another way to add up."""
    found = []
    for loose, tight in pairwise(ladder):
        one, other = bounds[loose], bounds[tight]
        slack = 1e-9 * (one.upper - one.lower).nan_to_num(0.0, 0.0, 0.0) if loose == "ibp" else 0.0
        if not ((other.lower >= one.lower - slack) & (other.upper <= one.upper + slack)).all():
            found.append(f"{tight} is looser than {loose}")
    return found


@pytest.mark.parametrize(
    ("kind", "name", "dtype"),
    [
        *some(
            [(*both, dtype) for both in EACH for dtype in (torch.float64, torch.float32)],
            [("dense", "linf", torch.float64)],
        ),
        *(
            pytest.param(*both, torch.float64, marks=pytest.mark.combinations)
            for both in product(NETWORKS, SETS)
            if both not in EACH
        ),
    ],
)
def test_what_costs_more_is_at_least_as_tight(kind: str, name: str, dtype: torch.dtype):
    """The backward pass alone fell behind intervals, and CROWN behind Fast-Lin by a tenth of its width."""
    _, graph, ball = case(kind, name, dtype)
    bounds = {method: bound(graph, ball) for method, bound in METHODS.items()}
    found = [part for ladder in LADDERS for part in out_of_order(bounds, ladder)]
    assert not found, f"{kind} network, {name}: {', '.join(found)}"


@pytest.mark.parametrize(("kind", "name"), some(EACH, QUICK))
def test_margins_of_a_method_are_at_least_those_of_every_cheaper_one(kind: str, name: str):
    model, graph, ball = case(kind, name)
    label = model(ball.center).argmax(1)
    methods = ("ibp", "crown_ibp", "fast_lin", "crown", "alpha_crown")
    margins = [margin_bounds(graph, ball, label, method, steps=2) for method in methods]
    for (loose, one), (tight, other) in pairwise(zip(methods, margins, strict=True)):
        assert (other >= one).all(), f"{kind} network, {name}: {tight} is looser than {loose}"


@pytest.mark.parametrize("sound", ["real", "rounding", "deployed"])
@pytest.mark.parametrize("kind", some(["dense", "residual", "deep"], ["dense"]))
def test_the_order_holds_in_every_arithmetic(kind: str, sound: str):
    _, graph, ball = case(kind, "linf", torch.float32)
    methods: tuple[Callable[..., Interval], ...] = (crown_ibp, fast_lin, crown, alpha_crown)
    for loose, tight in pairwise(method(graph, ball, sound=sound) for method in methods):
        assert ((tight.lower >= loose.lower) & (tight.upper <= loose.upper)).all()


@pytest.mark.slow
def test_the_order_holds_in_a_deep_network():
    x = torch.rand(3, 40, dtype=torch.float64)
    model = dense(nn.ReLU(), 40, *[200] * 8, 10, seed=2).requires_grad_(False)
    ball = SETS["linf"](x.view(3, 1, 5, 8), torch.tensor([0.01, 0.003, 0.001]).double())
    graph = capture(nn.Sequential(nn.Flatten(), model), ball.center)
    bounds = {method: bound(graph, ball) for method, bound in METHODS.items() if "alpha" not in method}
    assert not [part for ladder in (("ibp", "forward_linear"), LADDERS[1][:4]) for part in out_of_order(bounds, ladder)]
    width = [float((bounds[method].upper - bounds[method].lower).mean()) for method in LADDERS[1][:4]]
    assert width[3] < width[2] < width[0]  # or nothing was at stake


def alone(bound: Callable[[Graph, PerturbationSet], Interval], graph: Graph, ball: PerturbationSet) -> Interval:
    """Bounds of every set without company."""
    parts = [bound(graph, ball.rows(torch.tensor([place]))) for place in range(len(ball.center))]
    return Interval(torch.cat([part.lower for part in parts]), torch.cat([part.upper for part in parts]))


def gap(one: Tensor, other: Tensor, width: Tensor) -> float:
    return float(((one - other).nan_to_num() / (width + 1e-9)).abs().max())


@pytest.mark.parametrize(("kind", "name"), some(EACH, QUICK))
def test_bounds_of_an_input_rest_on_it_alone(kind: str, name: str):
    """Neurons were bounded wherever they were unstable for any input of the batch, and their intervals kept."""
    _, graph, ball = case(kind, name)
    for method, bound in METHODS.items():
        together, apart = bound(graph, ball), alone(bound, graph, ball)
        width = (together.upper - together.lower).nan_to_num(1.0)
        # An ascent amplifies rounding, most where it moves several parameters of a function.
        tolerance = (1e-6 if kind == "dense" else 5e-3) if "alpha" in method else 1e-9
        difference = max(gap(together.lower, apart.lower, width), gap(together.upper, apart.upper, width))
        assert difference < tolerance, f"{method} of a {kind} network, {name}: {difference:.1e} of the width"


def test_intervals_of_neurons_rest_on_their_input_alone():
    """A small ball leaves neurons stable that a large one in the same batch needs bounds of."""
    torch.manual_seed(4)
    layers = [part for _ in range(3) for part in (nn.Linear(6, 6), nn.ReLU())]
    graph = capture(nn.Sequential(*layers, nn.Linear(6, 3)).double().requires_grad_(False), torch.zeros(1, 6).double())
    x, radius = torch.randn(3, 6, dtype=torch.float64), torch.tensor([0.3, 0.05, 0.1], dtype=torch.float64)

    def intervals(rows: list[int]) -> dict[str, Tensor]:
        network = Network(graph, LpBall(x[rows], radius[rows], low=None, high=None), sound="real")
        *_, last = refinements(network, rungs(network, "crown"))
        return {name: torch.stack([each.lower, each.upper]) for name, each in last.refine().intervals.items()}

    together = intervals([0, 1, 2])
    for place in range(3):
        for name, ends in intervals([place]).items():
            torch.testing.assert_close(ends[:, 0], together[name][:, place], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", some(["dense", "convolutional", "residual"], ["dense"]))
def test_margins_of_an_input_rest_on_it_alone(kind: str):
    """Inputs that CROWN settles were ascended in the company of others, and not alone."""
    model, graph, ball = case(kind, "linf")
    label = model(ball.center).argmax(1)
    together = margin_bounds(graph, ball, label, "alpha_crown", steps=10)
    settled = (together > 0).sum(1) == together.shape[1] - 1
    assert 0 < int(settled.sum()) < len(settled)  # or nothing was at stake
    for place in range(len(label)):
        rows = torch.tensor([place])
        apart = margin_bounds(graph, ball.rows(rows), label[rows], "alpha_crown", steps=10)
        torch.testing.assert_close(apart[0], together[place], rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", some(["dense", "deep", "tanh"], ["deep"]))
@pytest.mark.slow
def test_bounds_of_neurons_are_ascended_where_it_is_asked_for(kind: str):
    """In full is tighter by far more than rounding; margins that outputs alone prove are not ascended further."""
    model, graph, ball = case(kind, "linf")
    outputs, full = (alpha_crown(graph, ball, 10, intermediate=both) for both in (False, True))
    assert (full.upper - full.lower).sum() < 0.995 * (outputs.upper - outputs.lower).sum()
    label = model(ball.center).argmax(1)
    one, other = (
        margin_bounds(graph, ball, label, "alpha_crown", steps=10, intermediate=both) for both in (False, True)
    )
    proved = (one > 0).sum(1) == 2
    assert torch.equal(one[proved], other[proved])
    assert (other[~proved] > one[~proved] + 1e-3).any()
