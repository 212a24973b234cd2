"""Search by a mixed-integer programme, against all activation patterns and hidden counterexamples."""

import math
import time

import pytest
import torch
from oracles.activation_patterns import exact_minimum
from oracles.networks import dense
from torch import Tensor, nn

from bounds import Box, capture, milp_bounds
from bounds.search.problem import SearchResult
from bounds.solvers import mixed_integer
from bounds.solvers.milp import BranchAndBound
from bounds.solvers.mixed_integer import encoded, is_small, search_by_programmes

BOX = Box(torch.tensor([[-0.5, -0.2]]).double(), torch.tensor([[1.1, 1.4]]).double())


def network(slope: float = 0.0) -> nn.Sequential:
    return dense(nn.LeakyReLU(slope) if slope else nn.ReLU(), 2, 4, 3, 2, seed=1).requires_grad_(False)


def found(
    model: nn.Module, cases: list[tuple[Tensor, Tensor]], box: Box = BOX, deadline: float = math.inf
) -> SearchResult:
    """The search, which is shown every point that the programmes see."""
    graph = capture(model, box.center)
    assert is_small(graph, box)
    encoding = encoded(graph, box)
    assert encoding is not None

    def check(points: Tensor) -> Tensor | None:
        y = model(points)
        unsafe = [(y @ rows.T <= offsets).all(1) for rows, offsets in cases]
        places = torch.stack(unsafe).any(0).nonzero()[:, 0]
        return points[places[:1]] if len(places) else None

    return search_by_programmes(graph, encoding, cases, deadline=deadline, check=check)


@pytest.mark.parametrize("slope", [0.0, 0.2])
@pytest.mark.slow
def test_every_activation_pattern(slope: float):
    """Just below the exact minimum all is proved, just above it an input is found."""
    model, row = network(slope), torch.tensor([[1.0, -1.0]]).double()
    least = exact_minimum(model, row[0], BOX.lower[0], BOX.upper[0], None)
    assert found(model, [(row, torch.tensor([least - 1e-6]).double())]).status == "proved"
    broken = found(model, [(row, torch.tensor([least + 1e-6]).double())])
    assert broken.status == "counterexample"
    assert broken.counterexample is not None
    assert float((model(broken.counterexample) @ row.T)[0, 0]) <= least + 1e-6


def test_conjunctions_are_weighed_together():
    """Each inequality alone can be met; both at once only above the least of the largest, found on a dense grid."""
    model = network()
    rows = torch.tensor([[1.0, -1.0], [-0.7, 1.0]]).double()
    axes = [
        torch.linspace(float(a), float(b), 401, dtype=torch.float64)
        for a, b in zip(BOX.lower[0], BOX.upper[0], strict=True)
    ]
    values = model(torch.cartesian_prod(*axes)) @ rows.T
    middle = values.amin(0)  # what each reaches alone
    least = float((values - middle).amax(1).min())
    assert least > 0.05
    assert found(model, [(rows, middle + 0.9 * least)]).status == "proved"
    assert found(model, [(rows, middle + least + 1e-3)]).status == "counterexample"
    both = [(rows, middle + 0.5 * least), (rows[:1], middle[:1] + 0.1)]  # the second case alone is unsafe
    assert found(model, both).status == "counterexample"


@pytest.mark.slow
def test_what_is_proved_is_proved_by_bounds(monkeypatch: pytest.MonkeyPatch):
    """The mutant: branches are dropped before their bound is above the target."""
    model, row = network(), torch.tensor([[1.0, -1.0]]).double()
    least = exact_minimum(model, row[0], BOX.lower[0], BOX.upper[0], None)
    case = (row, torch.tensor([least + 0.05]).double())
    encoding, graph = encoded(capture(model, BOX.center), BOX), capture(model, BOX.center)
    assert encoding is not None
    blind = {"deadline": math.inf, "check": lambda points: None}
    assert search_by_programmes(graph, encoding, [case], **blind).status == "unknown"
    whole = BranchAndBound.minimum

    def early(search: BranchAndBound, *arguments: object, target: float) -> tuple[float, float]:
        bound, reached = whole(search, *arguments, target=target - 1.0)
        return bound + 1.0, reached

    monkeypatch.setattr(BranchAndBound, "minimum", early)
    assert search_by_programmes(graph, encoding, [case], **blind).status == "proved"


@pytest.mark.slow
def test_planes_of_many_inputs_decide_what_triangles_do_not(monkeypatch: pytest.MonkeyPatch):
    """One layer behind 20 inputs: with cuts far fewer programmes, with the same answer."""
    model = dense(nn.ReLU(), 20, 24, 1, seed=3)
    center = torch.zeros(1, 20).double()
    box, row = Box(center - 0.5, center + 0.5), torch.ones(1, 1).double()
    case = (row, milp_bounds(model, box).outer.lower[0] - 0.1)
    quick = found(model, [case], box)
    monkeypatch.setattr(BranchAndBound, "_cut", lambda *arguments: False)
    slow = found(model, [case], box)
    assert quick.status == slow.status == "proved"
    assert quick.domains < slow.domains / 2
    assert found(model, [case], box, deadline=time.monotonic() - 1).status == "timeout"


def test_large_and_other_networks_are_left_alone(monkeypatch: pytest.MonkeyPatch):
    graph = capture(network(), BOX.center)
    monkeypatch.setattr(mixed_integer, "UNSTABLE", 3)
    assert encoded(graph, BOX) is None
    assert not is_small(capture(dense(nn.Tanh(), 2, 3, 2, seed=0), BOX.center), BOX)
    assert not is_small(capture(nn.Linear(2, 2).double(), BOX.center), BOX)
