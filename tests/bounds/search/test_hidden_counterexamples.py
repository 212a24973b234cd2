"""Counterexamples where no gradient leads: nothing ever proves that there are none; twins without them are proved."""

import time

import pytest
import torch
from oracles.halfspace import generator
from oracles.hidden_counterexamples import KINDS, PLANTED, SAFE, captured, hidden
from oracles.searches import SEARCHES, Check, by_inputs, by_neurons, problem, refined
from torch import Tensor

from bounds import LpBall, capture, margin_bounds
from bounds.linear.methods import METHODS
from bounds.linear.network import MODES
from bounds.search.branch_and_bound import search
from bounds.search.neuron_splits import split_neurons
from bounds.search.problem import Problem, SearchResult
from bounds.search.split_bounds import SplitBounds
from bounds.sets.balls import Box
from certify import verify

DTYPES = (torch.float32, torch.float64)
SLOWLY = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("residual", "convolution")]
ROWS = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
CASE = (ROWS, torch.zeros(1, dtype=torch.float64))


def whole(top: Tensor) -> Box:
    """All inputs between -1 and 1."""
    sides = torch.ones(top.shape, dtype=torch.float64)
    return Box(-sides, sides)


def given(kind: str, height: float, dtype: torch.dtype, *, sound: str = "rounding", seconds: float = 10.0) -> Problem:
    model, graph, top = captured(kind, height, dtype)
    return problem(model, graph, whole(top), [CASE], sound=sound, seconds=seconds)


def silenced(found: Problem, way: str) -> SearchResult:
    """A search that is never told of a counterexample: only a proof could end it too early."""
    if way == "neurons":
        with torch.no_grad():
            silent = Problem(**{**vars(found), "check": lambda candidates: None})
            return split_neurons(silent, refined(silent))
    return search(
        found.graph, found.box, [CASE], deadline=found.deadline, sound=found.sound, check=lambda candidates: None
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_says_what_it_should(kind: str):
    """The first output is flat at 1 but for a bump, whose top is 1 less its height; no gradient leads there."""
    for height, least in ((PLANTED, 1 - PLANTED), (SAFE, 1 - SAFE)):
        model, top = hidden(kind, height)
        x = whole(top).lower + 2 * torch.rand(20_000, *top.shape[1:], generator=generator(1), dtype=torch.float64)
        near = top + (x[:5000] * 0.02)
        x.requires_grad_()
        y = model(x)
        (slope,) = torch.autograd.grad(y[:, 0].sum(), x)
        assert (slope.flatten(1).abs().amax(1) < 1e-6).float().mean() > 0.98
        assert (y[:, 0] > 1 - 1e-9).float().mean() > 0.98
        assert model(top)[0, 0].item() == pytest.approx(least, abs=1e-6)
        assert (model(torch.cat([near, x]))[:, 0] >= least - 1e-6).all()
        assert (y[:, 1] == 0).all()


@pytest.mark.parametrize("kind", ["relu", "sigmoid", *SLOWLY])
def test_what_is_hidden_is_found_and_its_twin_is_proved(kind: str):
    found = by_inputs(given(kind, PLANTED, torch.float32))
    assert found.status == "counterexample"
    assert found.counterexample is not None
    assert Check(captured(kind, PLANTED, torch.float32)[0], [CASE])(found.counterexample) is not None
    assert by_inputs(given(kind, SAFE, torch.float32)).status == "proved"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["relu", *SLOWLY])
def test_nothing_proves_what_a_search_was_not_told(kind: str):
    assert silenced(given(kind, PLANTED, torch.float64, seconds=0.15), "both").status == "timeout"
    model, _, top = captured(kind, PLANTED, torch.float64)
    ball = LpBall(torch.zeros_like(top), 1.0, low=None, high=None)
    for method in METHODS:
        assert margin_bounds(model, ball, torch.tensor([0]), method, steps=2)[0, 1] <= -0.1


@pytest.mark.slow
def test_neurons_are_split_in_deployed_mode():
    """And rounding of functions belongs to what is behind them, also where a split makes their range smaller."""
    late = given("sigmoid", SAFE, torch.float32, sound="deployed", seconds=0.3)
    assert by_neurons(late).status in {"proved", "unknown", "timeout"}


def test_deployed_views_hold_what_float32_makes_of_functions():
    """Behind a sigmoid whose parent was split: its values are further away from the split than in real arithmetic."""
    found = given("sigmoid", SAFE, torch.float32, sound="deployed")
    with torch.no_grad():
        bounds = SplitBounds(found, refined(found))
        network, _ = bounds.view(bounds.roots().children(torch.tensor([0]), torch.tensor([0.0])))
    (below, above), split = network.intervals[bounds.spans[0].name].upper[:, 0], network.intervals[bounds.spans[0].name]
    assert 0.5 + 2.0**-26 < below < 0.5 + 1e-6
    assert 0.5 - 1e-6 < split.lower[1, 0] < 0.5 - 2.0**-26
    assert above > 0.9


@pytest.mark.combinations
@pytest.mark.parametrize("sound", MODES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_no_search_proves_what_is_wrong(kind: str, dtype: torch.dtype, sound: str):
    if sound == "deployed" and dtype == torch.float64:
        pytest.skip("deployed speaks of float32")
    for way in ("both", "neurons"):
        late = given(kind, PLANTED, dtype, sound=sound, seconds=2.0)
        assert silenced(late, way).status in {"timeout", "unknown"}
        assert SEARCHES[way](given(kind, PLANTED, dtype, sound=sound)).status != "proved"
        assert SEARCHES[way](given(kind, SAFE, dtype, sound=sound)).status != "counterexample"
    start = time.monotonic()
    assert SEARCHES["both"](given(kind, SAFE, dtype, sound=sound)).status == "proved"
    assert time.monotonic() - start < 5


@pytest.mark.combinations
@pytest.mark.parametrize("sound", MODES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_no_bound_and_no_verdict_proves_what_is_wrong(kind: str, dtype: torch.dtype, sound: str):
    """Over the whole box, and over small ones around the top."""
    if sound == "deployed" and dtype == torch.float64:
        pytest.skip("deployed speaks of float32")
    model, _, top = captured(kind, PLANTED, dtype)
    labels = torch.tensor([0])
    for x, radius in ((torch.zeros_like(top), 1.0), (top, 1e-3), (top + 0.001, 0.002)):
        for method in METHODS:
            bound = margin_bounds(model, LpBall(x, radius, low=None, high=None), labels, method, sound=sound)
            assert bound[0, 1] <= -0.1
            for attack in (True, False):
                verdict = verify(
                    model,
                    x,
                    labels,
                    norm=torch.inf,
                    epsilon=radius,
                    method=method,
                    sound=sound,
                    low=None,
                    high=None,
                    attack=attack,
                    generator=generator(3),
                )
                assert not verdict.verified.any()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["relu", "sigmoid", "residual"])
@pytest.mark.parametrize("inputs", [3, 4])
def test_more_inputs_and_narrower_bumps(kind: str, inputs: int):
    for height, right in ((PLANTED, "counterexample"), (SAFE, "proved")):
        for width in (2.0**-4, 2.0**-7):
            model, top = hidden(kind, height, inputs=inputs, width=width)
            found = by_inputs(problem(model, capture(model, top), whole(top), [CASE], seconds=60))
            assert found.status == right
