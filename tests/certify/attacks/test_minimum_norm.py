"""All minimum-norm attacks: exact on linear classifiers, near the exact distance of tiny networks, honest otherwise."""

import itertools
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from oracles.halfspace import generator
from oracles.linear import LinearClassifier, problem
from oracles.piecewise import exact_distance
from oracles.selection import crossed, some
from scipy.optimize import linprog
from torch import Tensor, nn

from bounds import InvalidInput
from certify import attacks, certified_radius, reference
from certify.attacks.common import norms as geometry
from certify.attacks.common.formats import Format
from certify.attacks.common.streams import Streams
from certify.attacks.search.entry_exchange import exchange_entries
from certify.attacks.search.state import MinimumNormState
from certify.attacks.search.surrogate_gradients import jittered, leaky, wide_gradient
from certify.attacks.search.trust_region import tighten

SERVED: dict[Callable, tuple[float, ...]] = {
    getattr(attacks, name): norms for name, norms in attacks.MINIMUM_NORM.items()
}
PAIRS = [(attack, norm) for attack, norms in SERVED.items() for norm in norms]
BY_GRADIENTS = [(attack, norm) for attack, norm in PAIRS if attack is not attacks.boundary_walk and norm > 0]
NORMS = (0, 1, 2, math.inf)
best_of_all = partial(attacks.minimal_perturbation, method="best")
BEST = [(best_of_all, norm) for norm in NORMS]
OFTEN = [(attack, norms[0]) for attack, norms in SERVED.items()]  # each attack in one norm
OFTEN += [(attacks.minimal_perturbation, math.inf), (best_of_all, 2)]


def named(value: object) -> str:
    return "best" if value is best_of_all else getattr(value, "__name__", str(value))


def short(attack: Callable, steps: int) -> dict[str, int]:
    """Fewer steps for the attacks that descend or walk; the others stop by themselves or need what they take."""
    return {"steps": steps} if attack in (attacks.minimal_perturbation, attacks.fast_adaptive_boundary) else {}


# ---------------------------------------------------------------------------------------------------- closed forms


@crossed((("attack", "norm"), BY_GRADIENTS), ("classes", [2, 3, 10]), ids=named)
def test_distance_of_a_linear_classifier(attack: Callable, norm: float, classes: int):
    model, x, y = problem((3, 5), classes, 4)
    exact = model.distance(x, norm)
    for low, high in ((None, None), (-10.0, torch.full((3, 5), 10.0, dtype=x.dtype))):
        witness = attack(model, x, y, norm=norm, low=low, high=high, generator=generator(), **short(attack, 30))
        assert witness.found.all()
        assert (witness.distance >= exact * (1 - 1e-9)).all()
        if attack is not attacks.sparsefool or classes == 2:  # the class that it aims at is the nearest in l_2
            assert (witness.distance <= exact * (1 + 1e-4)).all()


def within_box(model: LinearClassifier, x: Tensor, low: float, high: float, norm: float) -> Tensor:
    """Exact distances in l_0 and l_1: entries are used up in the order of what they gain."""
    gaps, normals = model.gaps(x)
    flat = x.flatten(1).double()
    exact = torch.full((len(x),), math.inf, dtype=torch.float64)
    for row, k in itertools.product(range(len(x)), range(gaps.shape[1])):
        slope, gap = -normals[row, k], float(gaps[row, k])
        if not slope.any():
            continue
        room = torch.where(slope > 0, high - flat[row], flat[row] - low)
        if norm == 0:
            gains = (slope.abs() * room).sort(descending=True).values.cumsum(0)
            size = float((gains < gap).sum() + 1) if gains[-1] > gap else math.inf
        else:
            both = torch.cat([slope, -slope])
            sides = [(0, side) for side in torch.cat([high - flat[row], flat[row] - low]).tolist()]
            solved = linprog([1.0] * len(both), A_ub=[(-both).tolist()], b_ub=[-gap], bounds=sides)
            size = solved.fun if solved.success else math.inf
        exact[row] = min(exact[row], size)
    return exact


@pytest.mark.parametrize(
    ("attack", "norm"), some([pair for pair in PAIRS if pair[0] is not attacks.boundary_walk], OFTEN), ids=named
)
def test_distance_within_a_tight_box(attack: Callable, norm: float):
    """Catches steps that ignore the box: clipped afterwards, they do not meet the boundary, or meet it far away."""
    model, x, _ = problem((3, 5), 2, 7)
    low, high = 0.35, 0.65
    x = x.clamp(low, high)
    y = model(x).argmax(1)
    exact = within_box(model, x, low, high, norm) if norm <= 1 else model.distance_in_box(x, norm, low, high)
    reachable = exact.isfinite()
    assert reachable.sum() >= 5
    witness = attack(model, x, y, norm=norm, low=low, high=high, generator=generator())
    assert torch.equal(witness.found, reachable)
    assert ((witness.adversarial >= low) & (witness.adversarial <= high)).all()
    if norm == 0:
        assert torch.equal(witness.distance, exact)
    else:
        assert (witness.distance >= exact * (1 - 1e-6))[reachable].all()
        # The tanh of Carlini and Wagner reaches the sides of the box only in the limit.
        slack = 1e-2 if attack is attacks.carlini_wagner else 1e-4
        assert (witness.distance <= exact * (1 + slack))[reachable].all()


@crossed(("attack", [attacks.minimal_perturbation, attacks.sparsefool]), ("classes", [2, 3, 10]), ids=named)
def test_number_of_entries_of_a_linear_classifier(attack: Callable, classes: int):
    model, x, _ = problem((3, 5), classes, 7)
    x = x.clamp(0.4, 0.6)
    y = model(x).argmax(1)
    exact = within_box(model, x, 0.4, 0.6, 0)
    witness = attack(model, x, y, norm=0, low=0.4, high=0.6, generator=generator())
    assert (exact > 1).any()
    if attack is attacks.sparsefool and classes > 2:  # the class that it aims at is the nearest in l_2
        assert (witness.distance >= exact).all()
    else:
        assert torch.equal(witness.distance, exact)


@pytest.mark.parametrize("norm", some([1, 2, math.inf], [2]))
def test_labels_alone_lead_near_the_boundary(norm: float):
    """Catches a normal that is estimated with the wrong sign: no step would ever come nearer than the first point."""
    model, x, y = problem((3, 5), 3, 7)
    witness = attacks.boundary_walk(model, x, y, norm=norm, generator=generator())
    ratio = witness.distance / model.distance(x, norm)
    assert (ratio >= 1 - 1e-9).all()
    assert ratio.median() < 1.02
    assert witness.backward_passes == 0


def tiny_networks(count: int, hidden: int) -> list[tuple[nn.Sequential, Tensor, Tensor]]:
    """Networks of four inputs and one hidden layer, with three inputs each."""
    found = []
    for seed in range(count):
        source = generator(seed)
        model = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3)).double()
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_(torch.randn(weight.shape, generator=source, dtype=torch.float64))
            model[0].bias.sub_(model[0].weight.sum(1) / 2)  # kinks near the centre of the box
            x = torch.rand(3, 4, generator=source, dtype=torch.float64)
            found.append((model, x, model(x).argmax(1)))
    return found


def ratios_to_exact(norm: float, count: int, hidden: int, steps: int) -> Tensor:
    ratios = []
    for model, x, y in tiny_networks(count, hidden):
        exact = torch.tensor([exact_distance(model, row, norm) for row in x], dtype=torch.float64)
        witness = attacks.minimal_perturbation(
            model, x, y, norm=norm, method="best", steps=steps, restarts=3, generator=generator()
        )
        assert torch.equal(witness.found, exact.isfinite())
        ratios.append((witness.distance / exact)[witness.found])
    return torch.cat(ratios)


@pytest.mark.parametrize("norm", some([1, 2, math.inf], [2]))
def test_tiny_networks_against_every_activation_pattern(norm: float):
    """No witness is nearer than exact; the portfolio is within 1% of it almost always."""
    ratios = ratios_to_exact(norm, 2, 5, 20)
    assert len(ratios) >= 3
    assert (ratios >= 1 - 1e-6).all()
    assert (ratios <= 1.01).double().mean() >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_many_tiny_networks_against_every_activation_pattern(norm: float):
    ratios = ratios_to_exact(norm, 15, 6, 30)
    assert len(ratios) >= 30
    assert (ratios >= 1 - 1e-6).all()
    assert (ratios <= 1.01).double().mean() >= 0.95


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


# --------------------------------------------------------------------------------------------------------- honesty


@pytest.mark.slow
@pytest.mark.parametrize(("attack", "norm"), PAIRS, ids=named)
def test_witnesses_on_a_trained_network(attack: Callable, norm: float):
    """Misclassified, in the box, frozen where asked, at the distance stated, and never nearer than what is proved."""
    model, x, y = reference.load("plain", 6)
    y = torch.where(torch.arange(6) == 2, (y + 1) % 10, y)  # one row that is wrong as it is
    mask = torch.zeros(1, 28, 28, dtype=torch.bool)
    mask[:, :, :9] = True
    options = {"steps": 10} if attack is not attacks.superdeepfool else {"rounds": 2}
    witness = attack(model, x, y, norm=norm, frozen_features=mask, generator=generator(), **options)
    moved = witness.adversarial != x
    assert not (moved & mask).any()
    assert (witness.distance[2], witness.winner[2], bool(witness.found[2])) == (0, "", True)
    assert witness.found.double().mean() > 0.8
    hit = witness.found
    assert (model(witness.adversarial).argmax(1) != y)[hit].all()
    assert ((witness.adversarial >= 0) & (witness.adversarial <= 1)).all()
    stated = torch.linalg.vector_norm((witness.adversarial.double() - x.double()).flatten(1), norm, dim=1)
    assert ((stated <= witness.distance) & (witness.distance <= stated * (1 + 1e-12)))[hit].all()  # rounded up
    assert witness.distance[~hit].isinf().all()
    assert torch.equal(witness.adversarial[~hit], x[~hit])
    if norm >= 2:
        assert (certified_radius(model, x, y, norm=norm).radius <= witness.distance).all()


class Constant(nn.Module):
    """Always class 1, with a gradient that points somewhere."""

    def forward(self, x: Tensor) -> Tensor:
        small = x.flatten(1).sum(1, keepdim=True).tanh()
        return torch.cat([small, small + 10, small * 0], 1)


@pytest.mark.parametrize(("attack", "norm"), some([*PAIRS, *BEST], OFTEN), ids=named)
def test_nothing_found_is_reported_as_nothing_found(attack: Callable, norm: float):
    x = torch.rand(3, 6, generator=generator())
    options = {"rounds": 2} if attack is attacks.superdeepfool else {"steps": 4}
    witness = attack(Constant(), x, torch.ones(3, dtype=torch.long), norm=norm, generator=generator(), **options)
    assert not witness.found.any()
    assert witness.distance.isinf().all()
    assert torch.equal(witness.adversarial, x)
    assert witness.winner == ("", "", "")


class Labels(nn.Module):
    """Votes without any gradient, as of a model that returns classes only."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.one_hot(self.model(x).argmax(1), 3).to(x.dtype)


def test_a_model_without_gradients_is_attacked_by_its_labels():
    model, x, y = problem((7,), 3, 5)
    witness = attacks.boundary_walk(Labels(model), x, y, norm=2, steps=10, probes=30, generator=generator())
    assert witness.found.all()
    assert (witness.distance / model.distance(x, 2)).median() < 1.1


class Counting(nn.Module):
    """Counts the rows that go through a model, forward and backward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forward_rows, self.backward_rows = model, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forward_rows += len(x)
        if x.requires_grad:
            x.register_hook(self._count)
        return self.model(x)

    def _count(self, gradient: Tensor) -> None:
        self.backward_rows += len(gradient)


@pytest.mark.parametrize(("attack", "norm"), some([*PAIRS, *BEST], OFTEN), ids=named)
def test_passes_are_counted(attack: Callable, norm: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("certify.attacks.common.passes.probe", lambda *_, **__: 3)
    model, x, y = problem((3, 5), 3, 4)
    counting = Counting(model)
    options = {"rounds": 2} if attack is attacks.superdeepfool else {"steps": 4}
    witness = attack(counting, x, y, norm=norm, generator=generator(), **options)
    assert counting.forward_rows == 4 * witness.queries == witness.queries_per_row.sum()
    assert counting.backward_rows == 4 * witness.backward_passes == witness.backward_passes_per_row.sum()


def test_passes_are_counted_for_each_row(monkeypatch: pytest.MonkeyPatch):
    """Rows that are wrong as they are, and batches of which one is done sooner: each row has its own number."""
    monkeypatch.setattr("certify.attacks.common.passes.probe", lambda *_, **__: 2)
    model, x, y = problem((3, 5), 2, 4)
    bent = nn.Sequential(model, _Bent())
    y[1] = 1 - y[1]
    bent = Counting(bent)
    witness = attacks.deepfool(bent, x, y, norm=2, batch_size=1, generator=generator())
    assert bent.forward_rows == witness.queries_per_row.sum()
    assert bent.backward_rows == witness.backward_passes_per_row.sum()
    assert (witness.queries_per_row[1], witness.backward_passes_per_row[1]) == (2, 0)
    assert len(set(witness.queries_per_row.tolist())) > 2
    assert witness.queries == witness.queries_per_row.max()
    assert witness.backward_passes == witness.backward_passes_per_row.max()


class _Bent(nn.Module):
    """Margins so steep that linearisations fall short of the boundary, the more so the farther it is."""

    def forward(self, logits: Tensor) -> Tensor:
        return (logits - logits.flip(1)).sinh()


class Latch(nn.Module):
    """One hidden entry decides, near its upper side alone; all others have slopes, and none goes far enough."""

    def forward(self, x: Tensor) -> Tensor:
        lead = 1 - x[:, :30].sum(1) / 10 - 100 * (x[:, 37] - 0.95).clamp(min=0)
        return torch.stack([lead, torch.zeros_like(lead)], 1)


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
    """What they wrote may be read elsewhere."""
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


@pytest.mark.slow
def test_the_best_of_a_portfolio_is_at_least_as_near_and_names_its_winner():
    model, x, y = reference.load("pgd", 3)
    options = {"norm": 1, "steps": 10, "restarts": 2}
    single = attacks.minimal_perturbation(model, x, y, **options, generator=generator())
    best = attacks.minimal_perturbation(model, x, y, method="best", **options, generator=generator())
    assert (best.distance <= single.distance).all()
    assert set(single.winner) <= {"descents", ""}
    searched = best.distance > 0
    assert all((name != "") == bool(flag) for name, flag in zip(best.winner, searched, strict=True))
    assert list(best.to_dataframe()["winner"]) == list(best.winner)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": 3}, "norm must be 0, 1, 2 or math.inf, got 3"),
        ({"norm": True}, "norm must be 0, 1, 2 or math.inf, got True"),
        ({"method": "nonsense"}, "method must be one of descents, best, got 'nonsense'"),
        ({"frozen_features": torch.zeros(7)}, "frozen_features must be a boolean tensor, got torch.float32"),
        ({"frozen_features": torch.zeros(6, dtype=torch.bool)}, r"must broadcast to one input, of shape \(7,\), got"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
    ],
)
def test_bad_input_gives_one_clear_line(change: dict, message: str):
    model, x, y = problem((7,), 3, 1)
    with pytest.raises(InvalidInput, match=message):
        attacks.minimal_perturbation(model, **{"x": x, "labels": y, "norm": 2, **change})


@pytest.mark.parametrize(("attack", "norm"), PAIRS, ids=named)
def test_every_attack_refuses_norms_that_it_does_not_serve(attack: Callable, norm: float):
    model, x, y = problem((7,), 3, 1)
    for other in {0, 1, 2, 3, math.inf} - set(SERVED[attack]):
        with pytest.raises(InvalidInput, match="norm must be"):
            attack(model, x, y, norm=other)
    assert len(attack(model, x[:0], y[:0], norm=norm)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["toy_mnist_2_20", "marabou_mnist_2x10"])
def test_witnesses_against_exact_radii_of_published_networks(published: Callable, shared_data: Path, name: str):
    """Radii by mixed-integer programs: no witness is nearer, and 95% are within 1%."""
    stored = json.loads((shared_data / "networks" / "verdicts" / f"exact_radius_{name}.json").read_text())
    rows = [row for row in stored["rows"] if 0 < row["radius"] < stored["cap"]][:60]
    model, x, _ = published(name, 1 + max(row["idx"] for row in rows))
    x, y = x[[row["idx"] for row in rows]], torch.tensor([row["label"] for row in rows])
    exact = torch.tensor([row["radius"] for row in rows], dtype=torch.float64)
    witness = attacks.minimal_perturbation(model, x, y, norm=math.inf, method="best", generator=generator())
    ratio = witness.distance / exact
    assert (ratio >= 1 - 1e-3).all()  # radii are rounded, and logits are of single precision
    assert ratio.log().mean().exp() <= 1.002
    assert (ratio <= 1.01).double().mean() >= 0.95
