"""Boxes are clipped by what cannot be: no input whose outputs lie in an unsafe set is ever cut off."""

import math
from collections.abc import Sequence

import pytest
import torch
from oracles.halfspace import generator
from oracles.searches import Case, box, problem, rectifiers
from torch import Tensor, nn

from bounds import capture
from bounds.search.input_splits import Boxes, _bounded, _clipped, split_inputs
from bounds.search.problem import Problem


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def uniform(seed: int, count: int, lower: Tensor, upper: Tensor) -> Tensor:
    """Points (count, F) of a box (F,), many of them on its faces."""
    share = torch.rand(count, len(lower), generator=generator(seed), dtype=torch.float64) * 1.4 - 0.2
    return (lower + (upper - lower) * share.clamp(0, 1)).clamp(lower, upper)


def cut_off(found: Boxes, x: Tensor) -> int:
    """Points (M, F) that lie in none of the boxes."""
    inside = ((found.lower <= x[:, None]) & (x[:, None] <= found.upper)).all(2).any(1)
    return int((~inside).sum())


def met(given: Problem, model: nn.Module, x: Tensor) -> Tensor:
    """Points whose outputs lie in one of the sets."""
    with torch.no_grad():
        y = model(x)
    return ((y @ given.rows.transpose(1, 2)).transpose(0, 1) <= given.offsets).all(2).any(1)


# ----------------------------------------------------------------------------------------------------- linear functions


@pytest.mark.parametrize("sets", [1, 3])
def test_half_spaces_are_cut_off_and_nothing_else(sets: int):
    """Linear functions are their own bounds; the box that is left is the smallest one."""
    count, inputs, inequalities = 40, 3, 2
    lower = drawn(1, count, inputs)
    upper = lower + drawn(2, count, inputs).abs()
    slopes = drawn(3, count, sets, inequalities, inputs) * (drawn(4, count, sets, inequalities, inputs) > -1)
    middle = (slopes * ((lower + upper) / 2)[:, None, None]).sum(3)
    offsets = middle - (slopes.abs() * (upper - lower)[:, None, None]).sum(3) * 0.1
    least = torch.where(slopes > 0, lower[:, None, None], upper[:, None, None]).mul(slopes).sum(3) - offsets
    low, high = _clipped(lower, upper, least, slopes)
    assert ((low >= lower) & (high <= upper)).all()
    cut = kept = 0
    for i in range(count):
        x = uniform(5 + i, 2000, lower[i], upper[i])
        holds = ((slopes[i] @ x.T) <= offsets[i][..., None]).all(1).any(0)
        inside = ((low[i] <= x) & (x <= high[i])).all(1)
        assert (inside | ~holds).all()
        cut, kept = cut + int((~inside).sum()), kept + int(holds.sum())
    assert kept > 5000
    assert cut > 5000


def test_ends_of_a_clipped_box_are_where_an_inequality_ends():
    """Over the unit square, x + 2 y <= 1 leaves y <= 1/2, and -x <= -3/4 leaves x >= 3/4."""
    lower, upper = torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    slopes = torch.tensor([[[[1.0, 2.0], [-1.0, 0.0]]]], dtype=torch.float64)
    least = torch.tensor([[[-1.0, -1.0 + 0.75]]], dtype=torch.float64)
    low, high = _clipped(lower, upper, least, slopes)
    assert torch.allclose(low, torch.tensor([[0.75, 0.0]], dtype=torch.float64), atol=1e-12)
    assert torch.allclose(high, torch.tensor([[1.0, 0.5]], dtype=torch.float64), atol=1e-12)
    assert (low <= torch.tensor([0.75, 0.0])).all()
    assert (high >= torch.tensor([1.0, 0.5])).all()


def test_sets_that_no_bound_excludes_keep_what_they_need():
    """An excluded set needs nothing; of two others the box holds both; without a slope or a bound, all is kept."""
    lower, upper = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)

    def ends(least: list[float], slopes: list[float]) -> list[float]:
        sets = torch.tensor(slopes, dtype=torch.float64).view(1, -1, 1, 1)
        low, high = _clipped(lower, upper, torch.tensor(least, dtype=torch.float64).view(1, -1, 1), sets)
        return [low.item(), high.item()]

    assert ends([-0.25], [1.0]) == pytest.approx([0.0, 0.25])
    assert ends([-0.25], [-1.0]) == pytest.approx([0.75, 1.0])
    assert ends([-0.25, -0.5], [1.0, 1.0]) == pytest.approx([0.0, 0.5])
    assert ends([-0.25, -0.25], [1.0, -1.0]) == pytest.approx([0.0, 1.0])
    assert ends([-0.25, 0.5], [1.0, -1.0]) == pytest.approx([0.0, 0.25])
    assert ends([-0.25], [0.0]) == [0.0, 1.0]
    assert ends([0.0], [0.0]) == [0.0, 1.0]
    assert ends([-math.inf], [1.0]) == [0.0, 1.0]
    assert ends([math.nan], [1.0]) == [0.0, 1.0]
    low, high = ends([0.5], [1.0])
    assert low > high
    assert ends([0.0], [1.0])[1] >= 0.0  # the end itself remains


# ------------------------------------------------------------------------------------------------------------- networks


def random_problem(seed: int, sizes: Sequence[int], slope: float = 0.0) -> tuple[nn.Sequential, Problem]:
    model, graph = rectifiers(seed, slope)
    x = uniform(seed, 1, -torch.ones(2).double(), torch.ones(2).double())
    with torch.no_grad():
        y = model(x)[0]
    cases: list[Case] = []
    for i, size in enumerate(sizes):
        rows = drawn(10 * seed + i, size, 2)
        cases.append((rows, rows @ y + 0.05))  # met around x
    return model, problem(model, graph, box((-1.0, 1.0), (-1.0, 1.0)), cases)


@pytest.mark.parametrize("sizes", [(2,), (3, 4)], ids=str)
@pytest.mark.parametrize("seed", [0, 3])
def test_no_input_that_meets_a_set_is_cut_off(seed: int, sizes: Sequence[int]):
    """Boxes of all sizes are tried, and some of them become smaller."""
    model, given = random_problem(seed, sizes)
    center = drawn(seed, 30, 2).clamp(-0.8, 0.8)
    radius = torch.logspace(-2, 0, 30, dtype=torch.float64)[:, None]
    lower, upper = (center - radius).clamp(min=-1), (center + radius).clamp(max=1)
    seen = smaller = 0
    for i in range(30):
        with torch.no_grad():
            found, _ = _bounded(given, lower[i : i + 1], upper[i : i + 1])
        x = uniform(i, 3000, lower[i], upper[i])
        x = x[met(given, model, x)]
        assert cut_off(found, x) == 0
        seen += len(x)
        smaller += int(((found.upper - found.lower) < (upper - lower)[i : i + 1]).any())
    assert seen > 300
    assert smaller > 3


def test_a_bound_without_slopes_does_not_clip():
    """ReLU over [-1/2, 1] lies above x: for relu(x) <= 0.2 nothing but x > 0.2 may go.

    By intervals the least value is 0, which with the slope 1 of the other bound would leave x < -0.3 alone.
    """
    model = nn.Sequential(nn.Linear(1, 1, dtype=torch.float64), nn.ReLU(), nn.Linear(1, 1, dtype=torch.float64)).eval()
    for layer in (model[0], model[2]):
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
    graph = capture(model, torch.zeros(1, 1, dtype=torch.float64))
    rows = torch.ones(1, 1, dtype=torch.float64)
    given = problem(model, graph, box((-0.5, 1.0)), [(rows, torch.tensor([0.2], dtype=torch.float64))])
    with torch.no_grad():
        found, corners = _bounded(given, given.box.lower, given.box.upper)
        assert corners is not None
        assert corners.item() == -0.5
        silent = Problem(**{**vars(given), "check": lambda candidates: None, "deadline": given.deadline - 19.95})
        assert split_inputs(silent).status == "timeout"
    assert found.lower.item() == -0.5
    assert found.upper.item() == pytest.approx(0.2)
    assert cut_off(found, torch.linspace(-0.5, 0.2, 50, dtype=torch.float64)[:, None]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 20))
def test_no_input_of_many_networks_is_cut_off(seed: int):
    model, given = random_problem(seed, (1, 2, 3), 0.2 * (seed % 2))
    for i in range(60):
        center = drawn(100 * seed + i, 1, 2).clamp(-0.9, 0.9)
        lower, upper = (center - 1.5 ** (-i / 4)).clamp(min=-1), (center + 1.5 ** (-i / 4)).clamp(max=1)
        with torch.no_grad():
            found, _ = _bounded(given, lower, upper)
        x = uniform(i, 20_000, lower[0], upper[0])
        assert cut_off(found, x[met(given, model, x)]) == 0
