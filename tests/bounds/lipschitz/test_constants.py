"""Lipschitz bounds against enumeration of activation patterns, singular values, a second solver and their order."""

import itertools
import math

import numpy as np
import pytest
import torch
from oracles.selection import some
from scipy.optimize import linprog
from torch import Tensor, nn

from bounds import (
    Box,
    GroupSort,
    InvalidInput,
    LpBall,
    SparseBall,
    clever,
    lipschitz_bound,
    lipschitz_radius,
    margin_lipschitz,
)
from bounds.graph.capturing import capture
from bounds.linear.network import Network
from bounds.lipschitz.layer_chain import chain_of
from bounds.lipschitz.multipliers import programme_bound, proved
from bounds.lipschitz.operator_norms import exact, spectral_norm

RADIUS = 0.6
SLACK = 1 + 1e-9


def network(sizes: list[int], activation: type[nn.Module] = nn.ReLU, seed: int = 0) -> nn.Sequential:
    layers: list[nn.Module] = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1]).double()


def region(model: nn.Sequential, count: int = 1) -> LpBall:
    width = model[0].in_features
    center = torch.linspace(-0.4, 0.5, count * width, dtype=torch.float64).view(count, width)
    return LpBall(center, RADIUS, math.inf, None, None)


def cells(model: nn.Sequential, ball: LpBall | None) -> list[np.ndarray]:
    """Jacobians (K, F) of a network of rectifiers on every cell that meets the interior of a box, or of the space."""
    weights = [layer.weight.detach().numpy() for layer in model[::2]]
    biases = [layer.bias.detach().numpy() for layer in model[::2]]
    center = np.zeros(weights[0].shape[1]) if ball is None else ball.center[0].numpy()
    limits = [(None, None) if ball is None else (c - RADIUS, c + RADIUS) for c in center]
    found = []

    def descend(k: int, matrix: np.ndarray, offset: np.ndarray, rows: list, right: list) -> None:
        if k == len(weights) - 1:
            found.append(weights[-1] @ matrix)
            return
        before, start = weights[k] @ matrix, weights[k] @ offset + biases[k]
        for signs in itertools.product((1.0, -1.0), repeat=len(before)):
            side = np.array(signs)
            more = [*rows, -side[:, None] * before], [*right, side * start]
            faces = np.hstack([np.vstack(more[0]), np.ones((sum(map(len, more[0])), 1))])
            cost = [0.0] * len(center) + [-1.0]
            solved = linprog(cost, faces, np.concatenate(more[1]), bounds=[*limits, (None, 1.0)])
            if solved.status == 0 and -solved.fun > 1e-9:
                on = side > 0
                descend(k + 1, on[:, None] * before, on * start, *more)

    descend(0, np.eye(len(center)), np.zeros(len(center)), [], [])
    return found


SMALL = network([2, 5, 4, 3], seed=4)
GRAPH = capture(SMALL, torch.zeros(1, 2, dtype=torch.float64))
X = torch.zeros(1, 2)


@pytest.fixture(scope="module")
def jacobians() -> dict[str, list[np.ndarray]]:
    return {"box": cells(SMALL, region(SMALL)), "everywhere": cells(SMALL, None)}


# ----------------------------------------------------------------------------------------------------------- the order


@pytest.mark.slow
@pytest.mark.parametrize("norm", [*(pytest.param(order, marks=pytest.mark.slow) for order in (1, math.inf)), 2])
def test_sampled_at_most_exact_at_most_every_bound_at_most_the_product(norm, jacobians):
    ball, labels = region(SMALL), torch.tensor([1])
    dual = {1: math.inf, 2: 2, math.inf: 1}[norm]
    exact_constants = [max(np.linalg.norm(j[1] - j[k], dual) for j in jacobians["box"]) for k in range(3)]
    found = {
        method: margin_lipschitz(GRAPH, norm, labels, method, ball)[0]
        for method in ("product", "fast_lip", "recurjac", "local", "eclipse", "sdp")
    }
    for method, bound in found.items():
        assert bound[1] == 0
        for k in (0, 2):
            assert exact_constants[k] <= bound[k] * SLACK, method
            if method in ("fast_lip", "recurjac", "local") or norm == 2:
                assert bound[k] <= found["product"][k] * SLACK, method
    assert (found["recurjac"] <= found["fast_lip"] * SLACK).all()
    assert (found["local"] <= found["recurjac"] * SLACK).all()
    assert (found["sdp"] <= found["eclipse"] * SLACK).all()
    assert (found["local"][[0, 2]] < 3 * torch.tensor(exact_constants)[[0, 2]]).all()  # and they say something
    sampled = clever(Fixed(SMALL, 1), ball.center, norm=norm, radius=RADIUS, num_batches=20, batch_size=50, resamples=0)
    for value, k in zip(sampled.ascended[0].tolist(), sampled.targets[0].tolist(), strict=True):
        assert value <= exact_constants[k] * SLACK


class Fixed(nn.Module):
    """A network that predicts a given class, with the gradients of the original."""

    def __init__(self, model: nn.Module, label: int) -> None:
        super().__init__()
        self.model, self.label = model, label

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) + 100 * nn.functional.one_hot(torch.tensor(self.label), 3)


@pytest.mark.slow
def test_all_outputs_together_and_all_inputs(jacobians):
    exact_constant = max(np.linalg.norm(j, 2) for j in jacobians["everywhere"])
    found = {m: float(lipschitz_bound(GRAPH, 2, m, x=X)) for m in ("product", "fast_lip", "recurjac", "eclipse", "sdp")}
    assert all(exact_constant <= bound * SLACK for bound in found.values())
    assert found["sdp"] <= found["eclipse"] * SLACK
    assert max(found.values()) == found["product"]
    assert found["sdp"] < 1.6 * exact_constant
    local = max(np.linalg.norm(j, 2) for j in jacobians["box"])
    for method in ("fast_lip", "recurjac", "local", "sdp"):
        inside = float(lipschitz_bound(GRAPH, 2, method, region(SMALL)))
        assert local <= inside * SLACK
        assert inside <= found.get(method, math.inf) * SLACK  # a ball sharpens
    for norm in (1, math.inf):
        exact_constant = max(np.linalg.norm(j, norm) for j in jacobians["everywhere"])
        assert exact_constant <= float(lipschitz_bound(GRAPH, norm, "recurjac", x=X)) * SLACK
        assert exact_constant <= float(lipschitz_bound(GRAPH, norm, x=X)) * SLACK


@pytest.mark.slow
def test_an_unsound_neighbour_is_caught(jacobians):
    """The mutants: half the bound, and the product of norms by two steps of power iteration."""
    exact_constant = max(np.linalg.norm(j[1] - j[2], 2) for j in jacobians["box"])
    bound = float(margin_lipschitz(SMALL, 2, torch.tensor([1]), "local", region(SMALL))[0, 2])
    assert exact_constant <= bound
    assert exact_constant > bound / 2
    matrix = torch.diag(torch.tensor([1.0, 1.1, 1.2], dtype=torch.float64))
    vector = torch.tensor([1.0, 0.1, 0.1], dtype=torch.float64)
    for _ in range(2):
        vector = matrix.T @ (matrix @ vector)
        vector = vector / vector.norm()
    assert float((matrix @ vector).norm()) < 1.2 <= spectral_norm(exact(matrix))


@pytest.mark.slow
@pytest.mark.parametrize(
    "activation",
    [nn.SiLU, *(pytest.param(each, marks=pytest.mark.slow) for each in (nn.Tanh, nn.GELU, nn.LeakyReLU, nn.Softplus))],
)
def test_smooth_networks_stay_below_their_bounds(activation):
    model = network([3, 6, 5, 3], activation, seed=1)
    ball = region(model)
    points = ball.center + RADIUS * (2 * torch.rand(20_000, 3, dtype=torch.float64) - 1)
    slopes = torch.func.vmap(torch.func.jacrev(lambda x: model(x)))(points).detach()
    for method in ("fast_lip", "recurjac", "eclipse", "sdp"):
        bound = float(lipschitz_bound(model, 2, method, ball))
        assert float(torch.linalg.matrix_norm(slopes, 2).max()) <= bound
        assert bound <= 4 * float(torch.linalg.matrix_norm(slopes, 2).max())


@pytest.mark.parametrize(
    "method", some(["product", "eclipse", "fast_lip", "recurjac", "local"], ["fast_lip", "recurjac"])
)
@pytest.mark.slow
def test_boxes_and_changes_of_few_entries_are_served(method: str):
    """A box of one size is a ball; slopes in an uneven one are sampled; few changed entries are no convex set.

    Between two inputs with a changed entry each lie inputs with two: difference quotients see them.
    """
    model = network([3, 6, 5, 3], seed=1)
    ball = region(model)
    box = Box(ball.center - RADIUS, ball.center + RADIUS)
    expected = lipschitz_bound(model, 2, method, LpBall(ball.center, RADIUS, low=None, high=None))
    torch.testing.assert_close(lipschitz_bound(model, 2, method, box), expected, rtol=1e-6, atol=0)
    uneven = Box(ball.center - 1, ball.center + RADIUS * torch.tensor([0.0, 1.0, 30.0]))
    draw = torch.Generator().manual_seed(3)
    points = uneven.lower + (uneven.upper - uneven.lower) * torch.rand(5_000, 3, generator=draw, dtype=torch.float64)
    slopes = torch.func.vmap(torch.func.jacrev(lambda x: model(x)))(points).detach()
    assert float(torch.linalg.matrix_norm(slopes, 2).max()) <= float(lipschitz_bound(model, 2, method, uneven))
    sparse = SparseBall(torch.full((1, 3), 0.5, dtype=torch.float64), 1)
    one, other = (sparse.center.repeat(2_000, 1) for _ in range(2))
    for part in (one, other):
        place = torch.randint(0, 3, (2_000, 1), generator=draw)
        part.scatter_(1, place, torch.rand(2_000, 1, generator=draw, dtype=torch.float64))
    moved = (model(one) - model(other)).norm(dim=1).detach() / (one - other).norm(dim=1)
    assert float(moved.nan_to_num(0).max()) <= float(lipschitz_bound(model, 2, method, sparse))
    margins = margin_lipschitz(model, 2, torch.tensor([1]), method, box)
    assert margins.shape == (1, 3)


# ---------------------------------------------------------------------------------------------------------- multipliers


@pytest.mark.slow
def test_two_solvers_agree_and_neither_is_trusted():
    model = network([4, 9, 7, 2], seed=5)
    one, other = (float(lipschitz_bound(model, 2, "sdp", solver=solver)) for solver in ("CLARABEL", "SCS"))
    assert one == pytest.approx(other, rel=1e-3)
    graph = capture(model, torch.zeros(1, 4, dtype=torch.float64))
    chain = chain_of(Network(graph, LpBall(torch.zeros(1, 4, dtype=torch.float64), 0.0, low=None, high=None)))
    slopes = chain.slopes(Network(graph, LpBall(torch.zeros(1, 4, dtype=torch.float64), 0.0)), None)
    truth = programme_bound(chain, slopes, "sdp")
    reach = [1.0, 3.0, 9.0, 30.0]
    liar = [torch.full((9,), 0.3).double(), torch.full((7,), 0.2).double()]
    assert proved(chain, slopes, liar, 1e-6, reach) > truth / SLACK  # whatever is claimed, what counts is checked
    assert proved(chain, slopes, [part * math.nan for part in liar], 1e-6, reach) == math.inf


def test_slopes_below_0_are_where_the_published_closed_form_is_wrong():
    """For slopes in [-1/2, 1] it has 2 m = 1/2 as the constant of the function, which has 1."""
    model = nn.Sequential(nn.Linear(1, 1), nn.LeakyReLU(-0.5), nn.Linear(1, 1)).double()
    with torch.no_grad():
        for layer in model[::2]:
            layer.weight.fill_(1.0)
    low, high = -0.5, 1.0
    published = 2 * (low + high) / 2
    found = float(lipschitz_bound(model, 2, "eclipse"))
    assert published < 1 <= found
    assert found == pytest.approx(1.0, rel=1e-3)


def test_there_is_no_network_mode():
    for name in ("network", "lipsdp-network", "layer"):
        with pytest.raises(InvalidInput, match="method must be one of"):
            lipschitz_bound(SMALL, 2, name)


# -------------------------------------------------------------------------------------------- Lipschitz by construction


def orthogonal(size: int, seed: int) -> nn.Linear:
    layer = nn.Linear(size, size).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.weight.copy_(torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q)
    return layer


def test_o6_orthogonal_layers_with_sorting_have_their_certificate():
    model = nn.Sequential(orthogonal(8, 0), GroupSort(), orthogonal(8, 1), GroupSort(4), orthogonal(8, 2))
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert 1 <= float(lipschitz_bound(model)) <= 1 + 1e-9
    logits = model(x).detach()
    label = logits.argmax(1)
    constants = margin_lipschitz(model, 2, label)
    others = torch.ones_like(constants).scatter(1, label[:, None], 0.0) > 0
    torch.testing.assert_close(constants[others], torch.full_like(constants[others], math.sqrt(2)), rtol=1e-9, atol=0)
    margins = logits.gather(1, label[:, None]) - logits
    radius = lipschitz_radius(margins, constants)
    runner_up = logits.topk(2, dim=1).values
    torch.testing.assert_close(radius, (runner_up[:, 0] - runner_up[:, 1]) / math.sqrt(2), rtol=1e-8, atol=0)
    found = clever(model, x, norm=2, radius=50.0, num_batches=10, batch_size=20, generator=torch.Generator())
    torch.testing.assert_close(found.score, radius, rtol=1e-8, atol=0)
    torch.testing.assert_close(GroupSort(4)(x), x.unflatten(1, (2, 4)).sort(2).values.flatten(1), rtol=0, atol=0)
    with pytest.raises(InvalidInput, match="multiple of 3"):
        GroupSort(3)(x)


def test_radii_are_0_without_a_margin_or_a_constant():
    margins = torch.tensor([[0.0, 1.0, 2.0], [0.0, -1.0, 2.0], [0.0, 1.0, 2.0], [0.0, math.nan, 2.0]]).double()
    constants = torch.tensor([[0.0, 2.0, 8.0], [0.0, 2.0, 8.0], [0.0, math.inf, 8.0], [0.0, 1.0, 1.0]]).double()
    found = lipschitz_radius(margins, constants)
    assert found[0] == pytest.approx(0.25)
    assert found[0] <= 0.25
    assert found[1:].tolist() == [0.0, 0.0, 0.0]


def test_a_class_that_is_tied_everywhere_leaves_no_radius():
    """Its margin and its constant are 0, like those of the label itself."""
    zero, margins = torch.zeros(1, 3).double(), torch.tensor([[0.0, 0.0, 2.0]]).double()
    assert lipschitz_radius(margins, zero + torch.tensor([0.0, 0.0, 1.0])).tolist() == [0.0]
    assert lipschitz_radius(zero, zero).tolist() == [0.0]


@pytest.mark.parametrize("method", ["fast_lip", "recurjac", "local"])
def test_the_jacobian_of_an_affine_network_is_known(method: str):
    """Linear bounds of it used to be refused, as it depends on no input."""
    weight = torch.tensor([[3.0, 0.0], [0.0, 4.0]]).double()
    model = nn.Linear(2, 2).double()
    with torch.no_grad():
        model.weight.copy_(weight)
    ball = LpBall(torch.zeros(2, 2).double(), 0.5, 1, None, None)
    found = lipschitz_bound(model, 1, method, ball=ball)
    assert (found >= 4).all()
    torch.testing.assert_close(found, torch.full_like(found, 4.0), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "local"}, "must have a ball"),
        ({"norm": 1, "method": "sdp"}, "serves norm=2 alone"),
        ({"norm": 0.5}, "norm must be"),
        ({"solver": "MOSEK"}, "solver must be one of"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        lipschitz_bound(SMALL, **arguments)
