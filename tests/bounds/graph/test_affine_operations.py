"""Affine operations of every kind, each as a network of its own: bounds are the exact hull, by the Jacobian matrix.

Behind a rectifier they are no longer exact, but enclose what is sampled at corners and inside.
"""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from oracles.affine_operations import CASES, FLAT, INDEX, Case, Made
from oracles.halfspace import generator
from oracles.networks import randomized
from torch import Tensor, nn

from bounds import (
    Graph,
    Interval,
    LpBall,
    UnsupportedLayer,
    capture,
    crown,
    crown_ibp,
    fast_lin,
    forward_linear,
    ibp,
)
from bounds.decompositions.composed import empty
from bounds.operations.affine import AFFINE

BATCH = 3
METHODS = {"ibp": ibp, "crown_ibp": crown_ibp, "fast_lin": fast_lin, "crown": crown, "forward_linear": forward_linear}


# Through several operations in turn, intervals lose what they do not know of common causes.
LOOSE_INTERVALS = {
    *(
        "operations in place",
        "index_add",
        "scatter_add",
        "scatter_reduce",
        "trapezoid",
        "addmv",
        "addbmm of a constant",
    ),
    *("addcmul of constants", "addcdiv of constants", "division by an integer", "other names", "rfft and back", "ifft"),
    *("fft2", "rfft with a filter", "Fourier neural operator", "conv1d reflect", "conv2d reflect", "conv2d replicate"),
    *("conv3d replicate", "bilinear layer with a constant", "F.bilinear"),
}
QUICK = {"gather", "einsum with an ellipsis", "rfft with a filter"}
NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]


def made(name: str, *, bent: bool) -> tuple[nn.Module, Tensor]:
    model = randomized(Made(CASES[name], bent=bent), seed=1).double().eval()
    return model, torch.randn(BATCH, *CASES[name].shape, generator=generator(2), dtype=torch.float64)


def jacobian(model: nn.Module, x: Tensor) -> Tensor:
    """The matrix (N, K, D) of each row."""
    rows = [torch.autograd.functional.jacobian(lambda row: model(row[None])[0], row).flatten(1) for row in x]
    return torch.stack(rows)


def evaluated(graph: Graph, x: Tensor) -> Tensor:
    """The output of a captured network, node by node."""
    values: dict[str, Tensor] = {}
    for name, node in graph.bind(x).items():
        values[name] = node.function(*(values[parent] for parent in node.parents)) if node.parents else x
        if node.operation == "input":
            values[name] = x.reshape(node.value.shape)
    return values["output"].reshape(len(x), -1)


def same(found: Interval, middle: Tensor, reach: Tensor, tolerance: float = 1e-9) -> None:
    """Bounds are ``middle -+ reach``, but for rounding to the safe side."""
    for outside in (middle - reach - found.lower, found.upper - middle - reach):
        assert (outside >= -1e-12).all()
        assert (outside <= tolerance).all()


@pytest.mark.parametrize("name", NAMES)
def test_bounds_of_an_affine_operation_are_its_hull(name: str):
    model, x = made(name, bent=False)
    graph = capture(model, x)
    matrix = jacobian(model, x)
    with torch.no_grad():
        y = model(x)
        assert (evaluated(graph, 3 * x - 1) - model(3 * x - 1)).abs().max() <= 1e-9
    ball = LpBall(x, 0.3 * torch.tensor([1.0, 0.5, 0.1]).double(), low=None, high=None)
    reach = matrix.abs().sum(2) * ball.radii[:, None]
    for method, bound in METHODS.items():
        if method == "ibp" and name in LOOSE_INTERVALS:
            found = bound(graph, ball)
            assert ((found.lower <= y - reach + 1e-12) & (y + reach - 1e-12 <= found.upper)).all()
        else:
            same(bound(graph, ball), y, reach)
    disc = LpBall(x, 0.3, norm=2, low=None, high=None)
    same(crown(graph, disc), y, 0.3 * matrix.norm(dim=2))


@pytest.mark.parametrize("name", NAMES)
def test_an_affine_operation_behind_a_rectifier_is_enclosed(name: str):
    model, x = made(name, bent=True)
    graph = capture(model, x)
    radius = torch.tensor([0.02, 0.6], dtype=x.dtype).repeat_interleave(BATCH)  # of both sizes at once
    ball = LpBall(torch.cat([x, x]), radius, low=None, high=None)
    step = torch.rand(40, *ball.center.shape, generator=generator(3), dtype=x.dtype) * 2 - 1
    step[:30] = step[:30].sign()
    moves = step * radius.view(-1, *[1] * (x.ndim - 1))
    with torch.no_grad():
        y = torch.stack([model(ball.center + move) for move in moves])
    for bound in METHODS.values():
        found = bound(graph, ball)
        assert ((found.lower <= y + 1e-12) & (y - 1e-12 <= found.upper)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param("aten.grid_sampler.default", marks=pytest.mark.slow), "aten.matmul.default"]
)
def test_a_spread_that_forgets_the_signs_of_weights_is_seen(name: str):
    """Mutant: weights below 0 cancel the others instead of adding up with them."""
    model, x = made("bicubic" if "matmul" in name else "grid_sample bicubic zeros False", bent=False)
    forgetful = replace(AFFINE[name], spread=AFFINE["aten.sum.default"].spread)
    ball = LpBall(x, 0.3, low=None, high=None)
    with torch.no_grad():
        y = model(x)
    reach = 0.3 * jacobian(model, x).abs().sum(2)
    same(ibp(model, ball), y, reach)
    with pytest.raises(AssertionError):
        same(ibp(model, ball, table={**AFFINE, name: forgetful}), y, reach)


@pytest.mark.slow
def test_an_input_that_the_network_changes_comes_back_as_it_was():
    x = torch.randn(2, 5, generator=generator(7), dtype=torch.float64)
    before, ball = x.clone(), LpBall(x, 0.3, low=None, high=None)
    model = Made(Case(lambda x: x.mul_(2)[:, :3].add_(1), FLAT), bent=False)
    for bound in METHODS.values():
        same(bound(model, ball), 2 * x[:, :3] + 1, torch.full((2, 3), 0.6, dtype=torch.float64))
    assert torch.equal(x, before)


REFUSED = {
    "gather by a place that depends on data": lambda x: x.gather(1, x.argmax(1, keepdim=True)),
    "max unpool of pooled places": lambda x: F.max_unpool2d(
        *F.max_pool2d(x[:, None, None], (1, 2), return_indices=True), (1, 2)
    ),
    "data as a grid": lambda x: F.grid_sample(x.view(-1, 1, 1, 5), x[:, :2].view(-1, 1, 1, 2), align_corners=False),
    "product of two complex data": lambda x: (torch.fft.rfft(x) * torch.fft.rfft(x.flip(1))).real,
    "angle of a complex number": lambda x: torch.fft.rfft(x).angle(),
    "largest of what is scattered": lambda x: x.scatter_reduce(1, INDEX.expand(x.shape[0], -1), x[:, 1:], "amax"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.slow
def test_operations_without_a_rule_are_refused(name: str):
    model = Made(Case(REFUSED[name], FLAT), bent=False)
    with pytest.raises(UnsupportedLayer):
        ibp(model, LpBall(torch.randn(2, 5, generator=generator(6)), 0.1, low=None, high=None))


def test_memory_that_nothing_was_written_to_counts_as_unknown():
    x = torch.zeros(2, 5)
    assert empty(x, [2, 3]).isnan().all()
    found = crown(Made(Case(lambda x: torch.empty_like(x).copy_(x), FLAT), bent=False), LpBall(x, 0.1))
    assert (found.upper - found.lower).max() <= 0.2001


def test_errors_count_how_often_an_entry_is_picked():
    """The transpose adds up as many coefficients as there are copies of an entry, however many others there are."""
    graph = capture(Made(Case(lambda x: x[:, [0] * 90], (100,)), bent=False), torch.zeros(2, 100))
    (node,) = (node for node in graph.bind(torch.zeros(2, 100)).values() if node.operation == "aten.index.Tensor")
    terms = AFFINE[node.operation].transposed_terms
    assert terms(node, (torch.zeros(2, 100),)) >= 90
