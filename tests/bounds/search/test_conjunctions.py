"""Sets of several inequalities, several sets, ties, and what is no problem at all."""

import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from oracles.halfspace import generator
from oracles.polygons import cells, meets, minimum
from oracles.searches import ALONE, SEARCHES, Case, Check, box, by_neurons, problem, rectifiers, refined
from torch import Tensor, nn

from bounds import Graph, LpBall, capture
from bounds.errors import InvalidInput
from bounds.search.branch_and_bound import search
from bounds.search.neuron_splits import split_neurons
from bounds.search.problem import Problem
from bounds.search.split_bounds import SplitBounds
from bounds.sets.balls import Box

SQUARE = box((-1.0, 1.0), (-0.8, 1.0))
CALLS = {name: SEARCHES[name] for name in ("inputs", "neurons")}


def case(rows: Sequence[Sequence[float]], offsets: Sequence[float]) -> Case:
    return torch.tensor(rows, dtype=torch.float64), torch.tensor(offsets, dtype=torch.float64)


def layers(*numbers: tuple[Sequence[Sequence[float]], Sequence[float]]) -> tuple[nn.Sequential, Graph]:
    """Linear layers of given weights and biases, with rectifiers between them."""
    body: list[nn.Module] = []
    for weight, bias in numbers:
        layer = nn.Linear(len(weight[0]), len(weight), dtype=torch.float64)
        layer.weight.data, layer.bias.data = torch.tensor(weight).double(), torch.tensor(bias).double()
        body += [layer, nn.ReLU()]
    model = nn.Sequential(*body[:-1]).eval()
    return model, capture(model, torch.zeros(1, len(numbers[0][0][0]), dtype=torch.float64))


def silent(given: Problem) -> Problem:
    """A problem whose check confirms nothing."""
    return Problem(**{**vars(given), "check": lambda candidates: None})


# --------------------------------------------------------------------------------------------------------- conjunctions


BENT = layers(([[1.0], [-1.0]], [0.0, 0.0]), ([[1.0, 1.0], [-1.0, -1.0]], [0.0, 1.0]))  # |x| and 1 - |x|


TOGETHER = ([[1.0, 0.0], [0.0, 1.0]], [0.4, 0.5])
WIDE = ([[1.0, 0.0], [0.0, 1.0]], [0.4, 0.75])


@pytest.mark.parametrize("way", CALLS)
def test_inequalities_that_never_hold_together(way: str):
    """Each holds somewhere, |x| <= 0.4 and 1 - |x| <= 0.5: none fails in all of the box."""
    model, graph = BENT
    rows, offsets = case(*TOGETHER)
    assert CALLS[way](problem(model, graph, box((-1.0, 1.0)), [(rows, offsets)])).status == "proved"
    for i in range(2):
        only = (rows[i : i + 1], offsets[i : i + 1])
        assert CALLS[way](problem(model, graph, box((-1.0, 1.0)), [only])).status == "counterexample"


@pytest.mark.parametrize("way", CALLS)
def test_inequalities_that_hold_together_in_a_few_places(way: str):
    """|x| <= 0.4 and 1 - |x| <= 0.75, for 0.25 <= |x| <= 0.4."""
    model, graph = BENT
    assert CALLS[way](problem(model, graph, box((-1.0, 1.0)), [case(*WIDE)])).status == "counterexample"


def test_weights_are_found_that_prove_an_intersection_empty():
    """With 1 to 10, where nothing has to be split; alike, they prove nothing."""
    model, graph = layers(([[1.0], [-1.0]], [0.0, 0.0]), ([[1.0, -1.0], [1.0, -1.0]], [0.0, 0.0]))  # x, twice
    given = problem(model, graph, box((0.0, 1.0)), [case([[10.0, 0.0], [0.0, -1.0]], [4.0, -0.6])])
    bounds = SplitBounds(given, refined(given))
    start, _ = bounds.bounded(bounds.roots(), 0)
    found, _ = bounds.bounded(bounds.roots(), 80)
    assert start.bound < -1
    assert 0 < found.bound <= 0.2  # x - 0.4 and 0.6 - x, ten to one, are 2/11
    assert by_neurons(given).status == "proved"


def test_weights_are_shares():
    """Two inequalities fail by 1 and by 3 everywhere: in equal shares, the distance is 2."""
    model, graph = BENT
    given = problem(model, graph, box((0.25, 0.5)), [case([[0.0, 0.0], [0.0, 0.0]], [-1.0, -3.0])])
    bounds = SplitBounds(given, refined(given))
    found, _ = bounds.bounded(bounds.roots(), 0)
    assert found.bound.item() == pytest.approx(2.0, abs=1e-12)


def random_sets(seed: int, sizes: Sequence[int], push: float) -> list[Case]:
    draw = generator(seed)
    return [
        (torch.randn(size, 2, generator=draw, dtype=torch.float64), torch.randn(size, generator=draw).double() - push)
        for size in sizes
    ]


def against_polygons(seed: int, sizes: Sequence[int], push: float, way: str) -> str:
    """The answer of a search, which must be that of polygons unless it is close."""
    model, graph = rectifiers(seed)
    sets = random_sets(seed, sizes, push)
    found = CALLS[way](problem(model, graph, SQUARE, sets))
    exact = cells(model, SQUARE.lower, SQUARE.upper)
    if found.status == "proved":
        assert not any(meets(exact, rows, offsets - 1e-9) for rows, offsets in sets)
    if found.status == "counterexample":
        assert found.counterexample is not None
        assert Check(model, sets)(found.counterexample) is not None
        assert any(meets(exact, rows, offsets + 1e-9) for rows, offsets in sets)
    close = any(meets(exact, r, b + 1e-3) != meets(exact, r, b - 1e-3) for r, b in sets)
    assert close or found.status in {"proved", "counterexample"}
    return found.status


@pytest.mark.parametrize("way", CALLS)
def test_sets_of_several_sizes_are_as_polygons_say(way: str):
    found = [against_polygons(seed, (1, 3, 2), 1.8, way) for seed in (0, 3)]
    assert {"proved", "counterexample"} <= set(found)


@pytest.mark.combinations
@pytest.mark.parametrize("way", CALLS)
@pytest.mark.parametrize("sizes", [(1,), (2,), (4,), (1, 2), (3, 1, 4, 1, 5)], ids=str)
def test_many_sets_are_as_polygons_say(sizes: Sequence[int], way: str):
    found = [against_polygons(seed, sizes, push, way) for seed in range(12) for push in (0.0, 1.0, 2.0)]
    assert min(found.count("proved"), found.count("counterexample")) > 1


@pytest.mark.parametrize("way", SEARCHES)
def test_the_set_that_is_left_is_the_one_that_is_searched(way: str):
    """Bounds prove the first and the last at once: the counterexample of the middle one remains."""
    model, graph = rectifiers(0)
    far, near = case([[1.0, 0.0]], [-50.0]), case([[1.0, 0.0], [0.0, 1.0]], [50.0, 50.0])
    for sets in ([far, near, far], [near, far], [far, far, near]):
        assert SEARCHES[way](problem(model, graph, SQUARE, sets)).status == "counterexample"
    assert SEARCHES[way](problem(model, graph, SQUARE, [far, far])).status == "proved"


@pytest.mark.slow
@pytest.mark.parametrize("way", CALLS)
def test_no_part_is_lost_where_one_is_taken_at_a_time(way: str, monkeypatch: pytest.MonkeyPatch):
    """A set that is met everywhere waits while another looks worse, which is proved; it is not forgotten.

    Boxes that hold all sets wait as well: the one with the least output.
    """
    for module in ("input_splits", "neuron_splits"):
        monkeypatch.setattr(f"bounds.search.{module}.AT_ONCE", 1)
    model, graph = rectifiers(3)
    least = minimum(cells(model, SQUARE.lower, SQUARE.upper), ALONE[0])
    safe, met = (ALONE, torch.tensor([least - 0.01]).double()), case([[0.0, 0.0]], [1e-6])
    assert CALLS[way](silent(problem(model, graph, SQUARE, [safe]))).status == "proved"
    for sets in ([safe, met], [met, safe]):
        given = problem(model, graph, SQUARE, sets, seconds={"inputs": 0.1, "neurons": 9.0}[way])
        assert CALLS[way](silent(given)).status in {"timeout", "unknown"}  # neurons come to an end
    for seed in (1, 4) if way == "inputs" else ():
        model, graph = rectifiers(seed)
        least = minimum(cells(model, SQUARE.lower, SQUARE.upper), ALONE[0])
        given = problem(model, graph, SQUARE, [(ALONE, torch.tensor([least + 1e-4]).double())], seconds=0.1)
        assert CALLS[way](silent(given)).status in {"timeout", "unknown"}


def test_inputs_along_which_a_bound_is_flat_are_cut_as_well():
    """relu(x - 1/2) + |z|: z is cut to 1e-17, and x stays 2 wide, at whose upper end no corner is a counterexample."""
    weights = ([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], [-0.5, 0.0, 0.0])
    model, graph = layers(weights, ([[1.0, 1.0, 1.0]], [0.0]))
    given = problem(model, graph, box((-0.9, 1.0), (-0.8, 1.0)), [case([[1.0]], [0.01])], seconds=0.2)
    assert SEARCHES["inputs"](given).status == "counterexample"


# ----------------------------------------------------------------------------------------------------------------- ties


DIFFERENCE = layers(([[1.0], [-1.0]], [0.0, 0.0]), ([[1.0, 1.0], [1.0, -1.0]], [0.0, 0.0]))  # |x| and x
TIES = {
    "a corner": (box((0.0, 1.0)), [case([[1.0, 0.0]], [0.0])]),
    "a kink": (box((-1.0, 1.0)), [case([[1.0, 0.0]], [0.0])]),
    "a kink off the middle": (box((-1.0, 0.7)), [case([[1.0, 0.0]], [0.0])]),
    "everywhere": (box((0.0, 1.0)), [case([[1.0, -1.0]], [0.0])]),
    "both sides of an inequality": (box((-1.0, 1.0)), [case([[0.0, 1.0], [0.0, -1.0]], [0.5, -0.5])]),
    "of one of two sets": (box((-1.0, 1.0)), [case([[1.0, 0.0]], [-1.0]), case([[0.0, 1.0]], [-1.0])]),
    "no row at all": (box((-1.0, 1.0)), [case([[0.0, 0.0]], [0.0])]),
}


QUICK = ("a corner", "both sides of an inequality", "no row at all")


@pytest.mark.parametrize("sound", ["rounding", "real"])
@pytest.mark.parametrize("tie", [*QUICK, *(pytest.param(t, marks=pytest.mark.slow) for t in TIES if t not in QUICK)])
def test_a_tie_is_never_proved(tie: str, sound: str):
    """The inequality holds with equality, which is a counterexample whether one is told of it or not."""
    where, sets = TIES[tie]
    model, graph = DIFFERENCE
    for way in SEARCHES.values():
        found = way(silent(problem(model, graph, where, sets, sound=sound, seconds=0.02)))
        assert found.status in {"timeout", "unknown"}
        assert found.reason


def test_a_tie_at_a_corner_is_a_counterexample():
    where, sets = TIES["a corner"]
    assert SEARCHES["inputs"](problem(*DIFFERENCE, where, sets)).status == "counterexample"
    strictly = [case([[1.0, 0.0]], [-1e-9])]
    assert SEARCHES["inputs"](problem(*DIFFERENCE, where, strictly)).status == "proved"


def test_nothing_is_proved_where_nothing_is_known():
    """Outputs that overflow have infinite or undefined bounds."""
    model, graph = layers(([[1e200], [-1e200]], [0.0, 0.0]), ([[1e200, 1e200], [1e200, -1e200]], [0.0, 0.0]))
    for way in SEARCHES.values():
        given = problem(model, graph, box((-1.0, 1.0)), [case([[1.0, 0.5]], [0.0])], seconds=0.03)
        assert way(silent(given)).status in {"timeout", "unknown"}


# ------------------------------------------------------------------------------------------------------ what is refused


def refused(where: object, cases: object, words: str) -> None:
    graph = DIFFERENCE[1]
    with pytest.raises(InvalidInput, match=words) as told:
        search(graph, where, cases, deadline=time.monotonic() + 1, check=lambda candidates: None)
    assert "\n" not in str(told.value)


RIGHT = case([[1.0, 0.0]], [0.0])


@pytest.mark.parametrize(
    ("cases", "words"),
    [
        ([], "at least one pair"),
        ([case([[1.0, 0.0, 0.0]], [0.0])], r"\(1, 3\)"),
        ([RIGHT, case([[1.0, 0.0]], [0.0, 1.0])], r"\(2,\)"),
        ([(torch.zeros(0, 2), torch.zeros(0))], r"\(0, 2\)"),
        ([RIGHT, (torch.zeros(2), torch.zeros(2))], r"\(2,\)"),
    ],
)
def test_cases_of_other_shapes_are_refused(cases: list[Case], words: str):
    refused(box((-1.0, 1.0)), cases, words)


@pytest.mark.parametrize(
    "cases", [[(torch.zeros(1, 2), torch.tensor(0.0))], [(torch.zeros(1, 2), 0.0)], [(torch.zeros(1, 2),)]]
)
def test_cases_that_are_no_pairs_of_a_matrix_and_a_vector_are_refused(cases: list[tuple[Tensor, ...]]):
    refused(box((-1.0, 1.0)), cases, "b")


def test_other_sets_and_several_boxes_are_refused():
    refused(box((-1.0, 1.0), (0.0, 1.0)).double(), [RIGHT], "shape|input|accept")
    sides = torch.ones(3, 1, dtype=torch.float64)
    refused(Box(-sides, sides), [RIGHT], "one bounds.Box")
    refused(LpBall(torch.zeros(1, 1), 1.0), [RIGHT], "one bounds.Box")


# --------------------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("way", SEARCHES)
def test_a_search_that_is_late_ends_at_once(way: str):
    """Seed 1 takes 31 boxes or 83 domains."""
    model, graph = rectifiers(1)
    given = problem(model, graph, SQUARE, [case([[1.0, 0.0]], [1.15])], seconds=-1.0)
    start = time.monotonic()
    found = SEARCHES[way](silent(given))
    assert time.monotonic() - start < 1.0
    assert (found.status, found.counterexample) == ("timeout", None)
    assert found.domains <= 2
    assert found.reason.endswith("left")


def test_what_does_not_fit_ends_a_search():
    model, graph = rectifiers(1)
    given = silent(problem(model, graph, SQUARE, [case([[1.0, 0.0]], [1.15])]))
    with torch.no_grad():
        found = split_neurons(replace(given, waiting=1), refined(given))
    assert (found.status, found.domains) == ("unknown", 1)
    assert "fit" in found.reason
    found = SEARCHES["inputs"](replace(given, waiting=1))
    assert (found.status, found.domains) == ("unknown", 1)
    assert "fit" in found.reason
    assert SEARCHES["inputs"](replace(given, waiting=2**20)).status == "proved"


def test_little_memory_for_coefficients_changes_nothing():
    model, graph = rectifiers(3)
    cases, results = [case([[1.0, 0.0]], [-2.2])], []
    for memory in (1, 2**30):
        check = Check(model, cases)
        results.append(search(graph, SQUARE, cases, deadline=time.monotonic() + 9, check=check, memory=memory))
    assert results[0].status == results[1].status == "proved"
    assert results[0].domains == results[1].domains


def test_a_box_of_one_point():
    """There is nothing to cut: it is proved, refuted, or unknown."""
    model, graph = rectifiers(0)
    x = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    value = model(x)[0, 0].item()
    statuses = []
    for move in (-1e-6, 1e-6):
        sets = [case([[1.0, 0.0]], [value + move])]
        for way in SEARCHES.values():
            statuses.append(way(problem(model, graph, Box(x, x), sets)).status)
    assert statuses == ["proved"] * 3 + ["counterexample"] * 3
    tied = silent(problem(model, graph, Box(x, x), [case([[1.0, 0.0]], [value])]))
    assert SEARCHES["inputs"](tied).status == "unknown"
