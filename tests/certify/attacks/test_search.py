"""The search of the minimum-norm attacks: steps, projections, sleeping neurons, exchanged entries, regions."""

import math
from collections.abc import Callable

import pytest
import torch
from oracles.halfspace import generator
from oracles.linear import problem
from oracles.selection import some
from oracles.sparse_distances import within_box
from scipy.optimize import linprog
from torch import Tensor, nn

from bounds.sets import norms as geometry
from certify import attacks
from certify.attacks.common.formats import Format
from certify.attacks.common.streams import Streams
from certify.attacks.search.entry_exchange import exchange_entries
from certify.attacks.search.state import MinimumNormState
from certify.attacks.search.surrogate_gradients import jittered, leaky, wide_gradient
from certify.attacks.search.trust_region import tighten

NORMS = (0, 1, 2, math.inf)


# -------------------------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize("norm", [1, math.inf])
def test_steps_onto_a_plane_against_a_linear_program(norm: float):
    source = generator(3)
    gradient = torch.randn(20, 6, generator=source, dtype=torch.float64)
    up, down = torch.rand(2, 20, 6, generator=source, dtype=torch.float64)
    level = torch.randn(20, generator=source, dtype=torch.float64)
    step = geometry.onto_hyperplane(gradient, level, up, down, norm)
    assert ((step <= up) & (step >= -down)).all()
    eye = torch.eye(6, dtype=torch.float64)
    width = 6 if norm == 1 else 1
    size = -eye if norm == 1 else -torch.ones(6, 1, dtype=torch.float64)
    limits = torch.cat([torch.cat([eye, size], 1), torch.cat([-eye, size], 1)])
    met = 0
    for row in range(20):
        solved = linprog(
            [0] * 6 + [1] * width,
            A_ub=limits.numpy(),
            b_ub=[0] * 12,
            A_eq=[[*gradient[row].tolist(), *[0] * width]],
            b_eq=[float(level[row])],
            bounds=[*zip((-down[row]).tolist(), up[row].tolist(), strict=True), *[(0, None)] * width],
        )
        if solved.success:
            met += 1
            assert float(step[row].norm(norm)) == pytest.approx(solved.fun, rel=1e-9)
            assert float((gradient[row] * step[row]).sum()) == pytest.approx(float(level[row]), rel=1e-9)
    assert met >= 15


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_open_box_does_not_drown_the_step(norm: float, dtype: torch.dtype):
    """Catches a step computed back from the side of the box, which is as far as floating point goes."""
    gradient = torch.randn(9, 5, generator=generator(), dtype=torch.float64).to(dtype)
    level = torch.linspace(0.1, 2, 9, dtype=dtype)
    open_side = torch.full_like(gradient, math.inf)
    step = geometry.onto_hyperplane(gradient, level, open_side, open_side, norm)
    torch.testing.assert_close((gradient * step).sum(1), level)
    dual = {0: None, 1: math.inf, 2: 2, math.inf: 1}[norm]
    expected = torch.ones(9, dtype=dtype) if dual is None else level / gradient.norm(dual, dim=1)
    torch.testing.assert_close(geometry.length(step, norm), expected)


def test_projection_onto_an_l1_ball_in_a_box_is_the_nearest_of_many_points():
    """Optimality: no point of the ball and the box makes an acute angle with what is left over."""
    source = generator(5)
    delta, room = (
        torch.randn(30, 6, generator=source, dtype=torch.float64),
        torch.rand(30, 6, generator=source).double(),
    )
    radius = torch.linspace(0.05, 4, 30, dtype=torch.float64)
    nearest = geometry.project_l1_in_box(delta, radius, room)
    assert (nearest.abs() <= room).all()
    assert (nearest.abs().sum(1) <= radius * (1 + 1e-12)).all()
    assert (nearest.abs().sum(1) < room.minimum(delta.abs()).sum(1) - 1e-9).any()
    for _ in range(500):
        other = (torch.randn(30, 6, generator=source, dtype=torch.float64).abs() * room).minimum(room)
        other = other * (radius / other.sum(1)).clamp(max=1)[:, None] * delta.sign()
        assert (((delta - nearest) * (other - nearest)).sum(1) <= 1e-12).all()


def test_projection_onto_l0_keeps_the_largest_entries():
    delta = torch.tensor([[3.0, -5.0, 1.0, 0.0], [1.0, 2.0, 3.0, 4.0]])
    kept = geometry.project(delta, torch.tensor([2.5, 1.0]), 0)
    assert torch.equal(kept, torch.tensor([[3.0, -5.0, 0.0, 0.0], [0.0, 0.0, 0.0, 4.0]]))


# ---------------------------------------------------------------------------------------------------------- search


class Latch(nn.Module):
    """One hidden entry decides, near its upper side alone; all others have slopes, and none goes far enough."""

    def forward(self, x: Tensor) -> Tensor:
        lead = 1 - x[:, :30].sum(1) / 10 - 100 * (x[:, 37] - 0.95).clamp(min=0)
        return torch.stack([lead, torch.zeros_like(lead)], 1)


@pytest.mark.slow
def test_the_one_entry_that_no_slope_shows_is_found():
    """The descents alone change many entries where the portfolio, which tries each, changes one."""
    x, y = torch.full((2, 40), 0.01, dtype=torch.float64), torch.zeros(2, dtype=torch.long)
    options = {"norm": 0, "steps": 10, "restarts": 1}
    assert (attacks.minimal_perturbation(Latch(), x, y, **options, generator=generator()).distance > 1).all()
    best = attacks.minimal_perturbation(Latch(), x, y, method="best", **options, generator=generator())
    assert best.distance.tolist() == [1, 1]
    assert best.winner == ("single entries",) * 2


class Asleep(nn.Sequential):
    """The label leads by 0.9, less the mean of one half of the entries, less 10 times that of the others above 0.3."""

    def __init__(self, size: int) -> None:
        super().__init__(nn.Linear(2 * size, 2), nn.ReLU(), nn.Linear(2, 2))
        with torch.no_grad():
            self[0].weight.copy_(torch.eye(2).repeat_interleave(size, 1) / size)
            self[0].bias.copy_(torch.tensor([0.0, -0.3]))
            self[2].weight.copy_(torch.tensor([[-1.0, -10.0], [0.0, 0.0]]))
            self[2].bias.copy_(torch.tensor([0.9, 0.0]))
        self.double()


ASLEEP = [(1, 0.39 * 100), (2, 3.9 / math.sqrt(101) * 10), (math.inf, 3.9 / 11)]


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "exact"), some(ASLEEP, ASLEEP[1:2]), ids=str)
def test_a_neuron_that_is_off_is_woken(norm: float, exact: float):
    """No slope at x and no random point shows the second half; with both on, the boundary is a + 10 b = 3.9."""
    x, y = torch.zeros(2, 200, dtype=torch.float64), torch.zeros(2, dtype=torch.long)
    witness = attacks.minimal_perturbation(Asleep(100), x, y, norm=norm, low=-1.0, generator=generator())
    torch.testing.assert_close(witness.distance, torch.full_like(witness.distance, exact), rtol=1e-3, atol=0)


def test_leaks_change_gradients_alone_and_only_for_the_time_being():
    model, x = Asleep(1), torch.tensor([[0.5, 0.1]], dtype=torch.float64, requires_grad=True)

    def value_and_slopes() -> tuple[Tensor, list[float]]:
        logits = model(x)
        return logits.detach(), torch.autograd.grad(logits[0, 0], x)[0][0].tolist()

    plain, slopes = value_and_slopes()
    with leaky():
        same, leaking = value_and_slopes()
    assert torch.equal(plain, same)
    assert slopes == [-1.0, 0.0]
    assert leaking == pytest.approx([-1.0, -1.0])
    assert value_and_slopes()[1] == slopes


@pytest.mark.parametrize(
    "relu",
    [nn.ReLU(), nn.functional.relu, torch.relu, Tensor.relu, lambda x: nn.ReLU()(input=x)],
    ids=["module", "functional", "function", "method", "keyword"],
)
def test_all_ways_to_write_a_relu_have_other_slopes(relu: Callable):
    for dtype in (torch.bfloat16, torch.float64):
        x = torch.tensor([[-1.0, 2.0]], dtype=dtype, requires_grad=True)
        for context, off in ((leaky(), {0.1}), (jittered(Streams.of(generator(), 1, torch.device("cpu"))), {0.0, 1.0})):
            with context:
                values = relu(x)
            assert values.dtype == dtype
            assert torch.equal(values, x.relu())
            (slopes,) = torch.autograd.grad(values.sum(), x)
            assert any(float(slopes[0, 0]) == pytest.approx(slope, rel=1e-2) for slope in off)


def test_relus_in_place_keep_their_meaning():
    """Values that they wrote may be read elsewhere."""
    x = torch.tensor([[-1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    with leaky():
        copy = x.clone()
        nn.functional.relu(copy, inplace=True)
        values = copy + nn.ReLU(inplace=True)(x * 1)
    assert values.tolist() == [[0.0, 4.0]]
    (slopes,) = torch.autograd.grad(values.sum(), x)
    assert slopes.tolist() == [[0.0, 2.0]]


def test_entries_are_judged_by_what_they_do():
    """Catches a choice by slopes: the twenty steepest entries lead nowhere, any two of the others suffice."""

    class Bent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            steep = (3 * x[:, :20]).clamp(max=0.06).sum(1)
            lead = 1.9 - steep - x[:, 20:].sum(1)
            return torch.stack([lead, torch.zeros_like(lead)], 1)

    x, y = torch.zeros(3, 40, dtype=torch.float64), torch.zeros(3, dtype=torch.long)
    state = MinimumNormState(Bent(), x, y, 0.0, x, x + 1, 2, Streams.of(generator(), len(x), x.device), Format(x.dtype))
    with torch.no_grad():
        exchange_entries(state, None, state.x, 12)
    assert state.distance.tolist() == [2, 2, 2]


@pytest.mark.slow
@pytest.mark.parametrize("norm", [0.0, 1.0])
def test_entries_that_hold_a_place_for_nothing_are_exchanged(norm: float):
    """From a success that is longer than need be, with which the shortest one shares no entry."""
    model = nn.Linear(12, 2, dtype=torch.float64).requires_grad_(False)
    model.weight.copy_(torch.tensor([[1.0] * 6 + [4.0] * 2 + [0.0] * 4, [0.0] * 12]))
    model.bias.copy_(torch.tensor([-3.0, 0.0]))
    x, y = torch.zeros(4, 12, dtype=torch.float64), torch.ones(4, dtype=torch.long)
    state = MinimumNormState(model, x, y, norm, x, x + 1, 2, Streams.of(generator(), len(x), x.device), Format(x.dtype))
    start = torch.tensor([1.0] * 6 + [0.0] * 6, dtype=torch.float64).expand(4, 12)
    with torch.no_grad():
        state.logits(start)
        exchange_entries(state, None, start, 60)
    assert (state.distance <= {0: 1, 1: 0.85}[norm]).all()
    assert (state.distance >= {0: 1, 1: 0.75}[norm]).all()


@pytest.mark.slow
@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_steps_within_a_shrinking_region_end_at_the_boundary(norm: float):
    """On a linear model, whose wide gradients are its gradients, in a box that cuts some entries off."""
    model, x, y = problem((7,), 2, 5)
    state = MinimumNormState(
        model,
        x,
        y,
        norm,
        torch.zeros_like(x),
        torch.ones_like(x),
        2,
        Streams.of(generator(), len(x), x.device),
        Format(x.dtype),
    )
    with torch.no_grad():
        narrow, wide = (slopes(state, x, None) for slopes in (MinimumNormState.margin_and_gradient, wide_gradient))
        torch.testing.assert_close(narrow, wide)
        tighten(state, None, x, 60, reach=(1.0, 1e-4), wide=True)
    exact = within_box(model, x, 0, 1, norm) if norm == 1 else model.distance_in_box(x, norm, 0, 1)
    assert (state.distance >= exact * (1 - 1e-9)).all()
    torch.testing.assert_close(state.distance, exact, rtol=2e-3, atol=0)


def test_random_regions_are_near_ones():
    """A neuron counts as on with the probability that noise as large as its input leaves it so: Phi(1) = 0.8413."""
    model, x = nn.Sequential(nn.ReLU()), torch.tensor([[2.0], [-0.5]]).repeat(20_000, 1).requires_grad_()
    with jittered(Streams.of(generator(), 1, torch.device("cpu"))):
        values = model(x)
    assert torch.equal(values, x.relu())
    (slopes,) = torch.autograd.grad(values.sum(), x)
    assert set(slopes.unique().tolist()) == {0.0, 1.0}
    share = slopes.view(-1, 2).mean(0)
    torch.testing.assert_close(share, torch.tensor([0.8413, 0.1587]), rtol=0, atol=0.015)  # about six deviations
