"""Certified radii against exact distances: never above, and close where the bound can be exact."""

import itertools
import json
import math
from fractions import Fraction

import mpmath
import pytest
import torch
from oracles.halfspace import generator
from oracles.margins import Linear, dual, inputs
from oracles.selection import crossed, some
from torch import Tensor, nn

from bounds import Normalize
from certify import certified_radius, lipschitz_certificate, verify

NORMS = (1.0, 2.0, math.inf)
CLASSES = (2, 3, 10)
TOLERANCE = 1e-3
SHAPES = [(7,), (2, 3, 5)]


def changed(model: nn.Module, points: Tensor, labels: Tensor) -> Tensor:
    return model(points).argmax(1) != labels


# ------------------------------------------------------------------------------------------------ linear classifiers


@crossed(("classes", CLASSES), ("shape", SHAPES), ("norm", [2.0, 3.0, math.inf]))
def test_radius_of_a_linear_classifier_is_its_distance(norm: float, shape: tuple[int, ...], classes: int):
    """Catches a radius above the truth, a needless factor sqrt(D), and a method that certifies nothing."""
    model, x = Linear(shape, classes), inputs(shape)
    labels = model(x).argmax(1)
    exact = model.distance(x, labels, norm)
    for side in (None, 1e6) if classes == 3 else (None,):  # an open box, and one too wide to matter
        low = None if side is None else -side
        radius = certified_radius(model, x, labels, norm=norm, low=low, high=side, tolerance=TOLERANCE).radius
        assert (radius <= exact).all()
        assert (radius >= (1 - 2 * TOLERANCE) * exact).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_radius_in_l1_is_sound_and_no_worse_than_that_of_the_balls_around(shape: tuple[int, ...]):
    model, x = Linear(shape), inputs(shape)
    labels = model(x).argmax(1)
    radius = certified_radius(model, x, labels, norm=1, low=None, high=None).radius
    assert (radius <= model.distance(x, labels, 1.0)).all()
    assert (radius >= (1 - 2 * TOLERANCE) * model.distance(x, labels, 2.0)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_radius_is_below_the_exact_distance_to_the_last_digit(norm: float):
    """Bisection driven to neighbouring numbers, against 60 digits: catches any rounding to the wrong side.

    It also has to come to an end: a tolerance below the spacing of numbers went on for ever.
    """
    model, x = Linear((7,), 10), inputs((7,))
    labels = model(x).argmax(1)
    radius = certified_radius(model, x, labels, norm=norm, low=None, high=None, tolerance=1e-30).radius
    weight = [[Fraction(w) for w in row] for row in model[1].weight.tolist()]
    bias = [Fraction(b) for b in model[1].bias.tolist()]
    with mpmath.workdps(60):
        for point, label, found in zip(x.tolist(), labels.tolist(), radius.tolist(), strict=True):
            distances = []
            for k in set(range(10)) - {label}:
                row = [a - b for a, b in zip(weight[label], weight[k], strict=True)]
                gap = sum((w * Fraction(v) for w, v in zip(row, point, strict=True)), bias[label] - bias[k])
                size = mpmath.norm([mpmath.mpf(w.numerator) / w.denominator for w in row], dual(norm))
                distances.append(mpmath.mpf(gap.numerator) / gap.denominator / size)
            assert mpmath.mpf(found) <= min(distances)
            if norm != 1:
                assert mpmath.mpf(found) >= min(distances) * (1 - mpmath.mpf(10) ** -10)


@pytest.mark.parametrize("norm", [2.0, math.inf])
def test_one_percent_more_is_refuted_by_an_attack(norm: float):
    """The twin of the soundness tests: a certificate one percent too large is caught by one step."""
    model, x = Linear((2, 3, 5)), inputs((2, 3, 5))
    labels = model(x).argmax(1)
    radius = certified_radius(model, x, labels, norm=norm, low=None, high=None, tolerance=TOLERANCE).radius
    assert not changed(model, model.step(x, labels, norm, radius * (1 - 1e-9)), labels).any()
    assert changed(model, model.step(x, labels, norm, 1.01 * radius), labels).all()


@pytest.mark.parametrize("count", [0, 1, 4])
@pytest.mark.parametrize(
    "batch_size", [pytest.param(1, marks=pytest.mark.slow), 3, pytest.param(256, marks=pytest.mark.slow)]
)
def test_batches_change_nothing(count: int, batch_size: int):
    model = Linear((2, 3, 5))
    x = inputs((2, 3, 5), count)
    labels = model(x).argmax(1)
    found = certified_radius(model, x, labels, norm=2, low=None, high=None, batch_size=batch_size)
    assert len(found) == count
    assert found.label.tolist() == labels.tolist()
    assert found.radius.dtype == torch.float64
    assert found.radius.shape == found.abstained.shape == (count,)
    for row in range(count):
        alone = certified_radius(model, x[row : row + 1], labels[row : row + 1], norm=2, low=None, high=None)
        torch.testing.assert_close(alone.radius[0], found.radius[row], rtol=TOLERANCE, atol=0.0)


def test_the_certificate_names_what_it_speaks_of():
    model, x = Linear((7,)), inputs((7,))
    found = certified_radius(model, x, model(x).argmax(1), norm=math.inf)
    assert (found.norm, found.alpha, found.subject, found.method) == (math.inf, 0.0, "base", "crown")
    assert found.sound == "rounding"
    assert certified_radius(model, x, model(x).argmax(1), norm=2, sound="real").sound == "real"
    assert not found.abstained.any()


def test_wrong_predictions_get_radius_zero():
    """Catches a radius of the predicted class handed out for a label that is wrong."""
    model, x = Linear((7,)), inputs((7,))
    predicted = model(x).argmax(1)
    labels = predicted.clone()
    labels[::2] = (labels[::2] + 1) % 3
    found = certified_radius(model, x, labels, norm=2, low=None, high=None)
    assert (found.radius[::2] == 0).all()
    assert (found.radius[1::2] > 0).all()
    assert torch.equal(found.label, predicted)


def test_a_tie_is_no_proof():
    model = Linear((7,), 3)
    with torch.no_grad():
        model[1].weight[1] = model[1].weight[0]
        model[1].bias[:] = torch.tensor([0.0, 0.0, -100.0])
    x = inputs((7,))
    assert (model(x).argmax(1) == 0).all()
    assert (certified_radius(model, x, torch.zeros(7, dtype=torch.int64), norm=2).radius == 0).all()


# ---------------------------------------------------------------------------------------------------------- the box


def test_a_ball_that_fills_the_box_ends_at_its_farthest_corner():
    """No point of the box is misclassified, as all corners show; catches a search that never ends or stops short."""
    shape = (6,)
    model, x = Linear(shape), inputs(shape)
    with torch.no_grad():
        model[1].bias[1] += 100
    labels = torch.ones(7, dtype=torch.int64)
    corners = torch.tensor(list(itertools.product((0.0, 1.0), repeat=6)), dtype=torch.float64)
    assert not changed(model, corners, torch.ones(64, dtype=torch.int64)).any()
    for norm in NORMS:
        radius = certified_radius(model, x, labels, norm=norm).radius
        farthest = (corners - x[:, None]).norm(p=norm, dim=2).amax(1)
        torch.testing.assert_close(radius, farthest, rtol=1e-12, atol=0.0)


def boxed_distance(model: Linear, x: Tensor, labels: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """l_infinity distance to the boundary inside a box: each margin falls piecewise linearly; bisection on it."""
    margins, rows = model.gaps(x, labels)
    room = torch.where(rows > 0, (x - low).flatten(1)[:, None], (high - x).flatten(1)[:, None])
    below, above = torch.zeros(len(x)).double(), torch.full((len(x),), 10.0).double()
    for _ in range(100):
        middle = (below + above) / 2
        left = margins - (rows.abs() * torch.minimum(room, middle[:, None, None])).sum(2)
        safe = (left > 0).all(1)
        below, above = torch.where(safe, middle, below), torch.where(safe, above, middle)
    return below


@pytest.mark.parametrize("seed", range(3))
def test_distances_inside_a_box_of_its_own_per_feature(seed: int):
    """Catches a box that is ignored, or one side taken for the other."""
    shape = (2, 3)
    model, x = Linear(shape, 4, seed), inputs(shape)
    labels = model(x).argmax(1)
    low = x.amin(0) - 0.3 * torch.rand(shape, generator=generator(seed), dtype=torch.float64)
    high = x.amax(0) + 0.1 * torch.rand(shape, generator=generator(seed), dtype=torch.float64)
    radius = certified_radius(model, x, labels, norm=math.inf, low=low, high=high).radius
    exact = boxed_distance(model, x, labels, low, high)
    reach = torch.maximum(x - low, high - x).flatten(1).amax(1)
    expected = torch.minimum(exact, reach)
    assert (radius <= expected * (1 + 1e-12)).all()
    assert (radius >= (1 - 2 * TOLERANCE) * expected).all()
    assert (exact > 1.001 * model.distance(x, labels, math.inf)).any()  # the box does matter


def test_a_frozen_feature_does_not_count():
    model, x = Linear((7,)), inputs((7,), 3)
    labels = model(x).argmax(1)
    wide = torch.full((7,), 50.0, dtype=torch.float64)
    for row in range(3):
        low, high = -wide.clone(), wide.clone()
        low[2] = high[2] = x[row, 2]
        one = x[row : row + 1], labels[row : row + 1]
        margins, rows = model.gaps(*one)
        rows[:, :, 2] = 0
        exact = (margins / rows.abs().sum(2)).amin(1)
        radius = certified_radius(model, *one, norm=math.inf, low=low, high=high).radius
        assert (radius <= exact).all()
        assert (radius >= (1 - 2 * TOLERANCE) * exact).all()


@pytest.mark.parametrize("norm", some(NORMS, [math.inf]))
@pytest.mark.slow
def test_a_smaller_box_never_shortens_the_radius(norm: float):
    """Up to the end of the smaller box, where every radius ends."""
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(generator=generator(len(weight)))
    x = inputs((5,))
    labels = model(x).argmax(1)
    sides = [(None, None), (0.0, None), (0.0, 1.0), (x.amin(0) - 0.01, x.amax(0) + 0.01), (x.amin(0), x.amax(0))]
    previous = torch.zeros(7, dtype=torch.float64)
    for low, high in sides:
        radius = certified_radius(model, x, labels, norm=norm, low=low, high=high, tolerance=1e-6).radius
        reach = math.inf
        if low is not None and high is not None:
            reach = torch.maximum(x - low, high - x).norm(p=norm, dim=1)
            assert (radius <= reach * (1 + 1e-12)).all()
        assert (radius >= torch.minimum(previous, torch.as_tensor(reach)) * (1 - 1e-5)).all()
        previous = radius
    assert (previous > 0).all()


def test_inputs_on_the_edge_of_a_box_in_their_own_dtype():
    """0.6 in float32 lies above 0.6: such inputs passed one check and failed the next, in float64."""
    x = torch.full((2, 7), 0.6)
    model = Linear((7,)).float()
    found = certified_radius(model, x, model(x).argmax(1), norm=2, low=-0.1, high=0.6)
    assert (found.radius > 0).all()
    per_feature = torch.full((7,), 0.6)
    again = certified_radius(model, x, model(x).argmax(1), norm=2, low=-0.1, high=per_feature)
    torch.testing.assert_close(again.radius, found.radius, rtol=TOLERANCE, atol=0.0)


def test_a_box_of_one_point():
    model, x = Linear((7,)), inputs((7,), 1)
    found = certified_radius(model, x, model(x).argmax(1), norm=2, low=x[0], high=x[0])
    assert found.radius.tolist() == [0.0]


# ---------------------------------------------------------------------------------------------------- deep networks


@pytest.mark.parametrize("norm", some([1.0, 2.0, 3.0, math.inf], [1.0]))
@pytest.mark.slow
def test_no_point_of_a_dense_grid_inside_the_radius_changes_the_prediction(norm: float):
    """In the plane a grid sees everything; units are those of the input in front of the normalisation."""
    model = nn.Sequential(
        Normalize((0.3, 0.6), (0.2, 0.4)), nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)
    ).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 1.5 / math.sqrt(weight[0].numel()), generator=generator(len(weight)))
    x = inputs((2,))
    labels = model(x).argmax(1)
    radius = certified_radius(model, x, labels, norm=norm, low=None, high=None).radius
    assert (radius > 1e-3).all()
    ticks = torch.linspace(-1, 1, 201, dtype=torch.float64)
    grid = torch.cartesian_prod(ticks, ticks)
    disc = grid[grid.norm(p=norm, dim=1) <= 1]
    refuted = []
    for point, label, size in zip(x, labels, radius, strict=True):
        assert (model(point + size * disc).argmax(1) == label).all()
        refuted.append(bool((model(point + 30 * size * disc).argmax(1) != label).any()))
    assert any(refuted)  # the grid does see other classes farther out


@pytest.mark.parametrize("name", ["toy_mnist_2_20", "marabou_mnist_2x10"])
def test_radii_of_trained_networks_never_exceed_the_exact_ones(shared_data, published, name: str):
    """Exact l_infinity distances inside [0, 1] by mixed-integer programming (HiGHS, gap 1e-7)."""
    file = shared_data / "networks" / "verdicts" / f"exact_radius_{name}.json"
    rows = json.loads(file.read_text())["rows"]
    model, x, y = published(name, max(row["idx"] for row in rows) + 1)
    chosen = [row["idx"] for row in rows]
    radius = certified_radius(model, x[chosen], y[chosen], norm=math.inf).radius.tolist()
    solved = 0
    for row, found in zip(rows, radius, strict=True):
        if row["pred"] != row["label"]:
            assert found == 0
        elif "check_dist" in row:  # the distance of a point that was run through the network
            assert 0 < found <= row["check_dist"] * (1 + 1e-6)
            solved += 1
    assert solved >= 15


# ------------------------------------------------------------------------------------------------------------- dtypes


class Unit(nn.Module):
    """A network without weights, whose function rests on the dtype of its inputs: x1 / sqrt(mean square + unit)."""

    def forward(self, x: Tensor) -> Tensor:
        share = x[:, 0] * (x.square().mean(1) + torch.finfo(x.dtype).eps) ** -0.5
        return torch.stack([share - 0.4, 0.4 - share], 1)


@pytest.mark.parametrize("method", ["crown", pytest.param("complete", marks=pytest.mark.slow)])
def test_a_network_without_weights_is_that_of_the_dtype_of_its_inputs(method: str):
    """In float64 it would have another unit, and twice the radius."""
    model, x = Unit(), torch.tensor([[3e-4, 1e-4]])
    options = {"norm": math.inf, "low": None, "high": None}
    radius = float(certified_radius(model, x, method=method, **options).radius)
    corner = x + torch.tensor([[-radius, radius]])
    assert radius > 5e-5
    assert int(model(corner).argmax(1)) == 0
    assert not bool(verify(model, x, epsilon=1.6e-4, method="crown", attack=False, **options).verified)


class Steeper(nn.Module):
    """A network of ReLUs, three times as steep in float64."""

    def forward(self, x: Tensor) -> Tensor:
        total = torch.relu(3.0 * x if x.dtype == torch.float64 else x).sum(1)
        return torch.stack([total, 1 - total], 1)


@pytest.mark.parametrize("method", ["product", "eclipse", "fast_lip", "recurjac"])
def test_lipschitz_constants_without_weights_are_those_of_the_dtype_of_the_inputs(method: str):
    """The boundary is where the sum of both entries is 1/2."""
    x = torch.tensor([[0.6, 0.3]])
    radius = float(lipschitz_certificate(Steeper(), x, norm=2, method=method).radius)
    exact = (float(x.double().sum()) - 0.5) / math.sqrt(2)
    assert 0.5 * exact < radius <= exact * (1 + 1e-6)
