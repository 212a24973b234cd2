"""Rows of tables with few changed features: minima, hulls and members against all rows, listed one by one."""

from fractions import Fraction

import pytest
import torch
from oracles.feature_tables import FEATURES, ROWS, listed_rows, network
from oracles.halfspace import generator
from torch import Tensor

import bounds
from bounds.errors import InvalidInput
from bounds.sets.choices import STAYS

FROZEN = torch.zeros(3, 9, dtype=torch.bool)
FROZEN[0, 2] = FROZEN[1, 2] = FROZEN[2, 5] = True  # a category that may not come, one that stays, a level


def tables(changes: int, frozen: Tensor | None = None, dtype: torch.dtype = torch.float64) -> bounds.FeatureChanges:
    return bounds.FeatureChanges(ROWS.to(dtype), FEATURES, changes, frozen)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("frozen", [None, FROZEN], ids=["free", "frozen"])
@pytest.mark.parametrize("changes", range(6))
def test_minima_hulls_and_members_are_those_of_all_rows(changes: int, frozen: Tensor | None, dtype: torch.dtype):
    region = tables(changes, frozen, dtype)
    a = torch.randn(3, 7, 9, generator=generator(1), dtype=dtype)
    for one in (region, region.double()):
        least, hull = bounds.linear_minimum(a, one), one.hull()
        for row in range(3):
            points = listed_rows(ROWS[row], FEATURES, changes, None if frozen is None else frozen[row])
            exact = (a[row].double() @ points.T).amin(1)
            assert (least[row].double() <= exact).all()
            assert torch.allclose(
                least[row].double(), exact, rtol=1e-12, atol=5e-3 if dtype == torch.float32 else 1e-12
            )
            assert torch.allclose(hull.lower[row].double(), points.amin(0), rtol=0, atol=1e-6)
            assert (hull.lower[row] <= points.amin(0)).all()
            assert (hull.upper[row] >= points.amax(0)).all()
            assert torch.allclose(hull.upper[row].double(), points.amax(0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("changes", [0, 1, 2, 4])
def test_it_holds_the_rows_with_so_many_changes_and_no_others(changes: int):
    region = tables(changes, FROZEN)
    for row in range(3):
        free = listed_rows(ROWS[row], FEATURES, 5)
        allowed = {tuple(point) for point in listed_rows(ROWS[row], FEATURES, changes, FROZEN[row]).tolist()}
        others = torch.cat([free, free + torch.eye(9, dtype=torch.float64)[8], (free * 0.9 + 0.3)])
        here = region.rows(torch.full((len(others),), row)).contains(others)
        assert here.tolist() == [tuple(point) in allowed for point in others.tolist()]
        assert here.sum() == len(allowed)


def test_a_number_may_take_what_lies_within_its_range():
    region = tables(1)
    inside, outside = ROWS.clone(), ROWS.clone()
    inside[:, 7] = torch.tensor([0.3, 0.8, 0.375])
    outside[:, 7] = torch.tensor([0.76, 0.7, 0.4])
    assert region.contains(inside).all()
    assert not region.contains(outside).any()


def test_points_and_moves_lead_to_what_the_minimum_rests_on():
    region = tables(3)
    a = torch.randn(3, 20, 9, generator=generator(2), dtype=torch.float64)
    fall, choice = region.lowest(a)
    every = region.rows(torch.arange(3).repeat_interleave(20))
    points = every.points(choice.flatten(0, 1))
    assert every.contains(points).all()
    assert torch.allclose(points.view(3, 20, 9), ROWS[:, None] + region.moves(choice), atol=1e-15)
    assert torch.allclose((a * (ROWS[:, None] - points.view(3, 20, 9))).sum(2), fall)
    assert torch.equal(every.changed(points), (choice.flatten(0, 1) != STAYS).sum(1))
    assert torch.equal(region.points(torch.full((3, 5), STAYS)), ROWS)


def test_each_row_may_have_a_number_of_changes_of_its_own():
    changes = torch.tensor([0, 2, 5])
    region = bounds.FeatureChanges(ROWS, FEATURES, changes)
    a = torch.randn(3, 4, 9, generator=generator(3), dtype=torch.float64)
    found = bounds.linear_minimum(a, region)
    for row, count in enumerate(changes.tolist()):
        assert torch.equal(
            found[row], bounds.linear_minimum(a[row : row + 1], tables(count).rows(torch.tensor([row])))[0]
        )


def test_minima_of_wide_groups_in_float32_are_below_exact_ones():
    count, width = 30, 20
    x = torch.eye(width)[torch.arange(count) % width].flatten()[None]
    region = bounds.CategoricalGroups(x, torch.arange(count * width).view(count, width).tolist(), 9)
    a = torch.randn(1, 8, count * width, generator=generator(4)) * 1000 + 1e4
    for row, least in zip(a[0].tolist(), bounds.linear_minimum(a, region)[0].tolist(), strict=True):
        falls = []
        for group in range(count):
            own = [Fraction(value) for value in row[group * width : (group + 1) * width]]
            falls.append(own[group % width] - min(own))
        start = sum(Fraction(row[group * width + group % width]) for group in range(count))
        exact = start - sum(sorted(falls, reverse=True)[:9])
        assert Fraction(least) <= exact
        assert least > float(exact) - 2000  # of sums of 10**6


def test_minima_of_functions_that_are_wider_than_the_rows_are_below_exact_ones():
    """Differences of float32 values are no float32 numbers."""
    x = 3 * torch.rand(40, 4, generator=generator(6))
    features = [bounds.Levels(column, [0.1, 0.7, 2.9]) for column in range(4)]
    a = torch.randn(40, 1, 4, dtype=torch.float64, generator=generator(7))
    least = bounds.linear_minimum(a, bounds.FeatureChanges(x, features, 2))[:, 0].tolist()
    levels = [Fraction(level) for level in torch.tensor([0.1, 0.7, 2.9]).tolist()]
    for row, function, bound in zip(x.tolist(), a[:, 0].tolist(), least, strict=True):
        terms = [(Fraction(slope), Fraction(value)) for slope, value in zip(function, row, strict=True)]
        falls = [max(slope * (value - level) for level in levels) for slope, value in terms]
        two = sum(sorted((max(fall, Fraction(0)) for fall in falls), reverse=True)[:2])
        exact = sum(slope * value for slope, value in terms) - two
        assert exact - Fraction(1, 10**12) < Fraction(bound) <= exact


def test_groups_alone_are_features_of_one_kind():
    x = ROWS[:, :3].repeat(1, 2)
    groups = [[0, 1, 2], [3, 4, 5]]
    a = torch.randn(3, 4, 6, generator=generator(5), dtype=torch.float64)
    features = [bounds.Category(group) for group in groups]
    found = bounds.linear_minimum(a, bounds.CategoricalGroups(x, groups, 1))
    assert torch.equal(found, bounds.linear_minimum(a, bounds.FeatureChanges(x, features, 1)))


def test_gradients_are_those_of_the_lowest_rows():
    a = torch.randn(3, 4, 9, generator=generator(6), dtype=torch.float64, requires_grad=True)
    region = tables(2)
    (slopes,) = torch.autograd.grad(bounds.linear_minimum(a, region).sum(), a)
    assert torch.allclose(slopes, ROWS[:, None] + region.moves(region.lowest(a.detach())[1]))


KINDS = ["linear", "deep", "expanding", "smooth", "residual"]
CASES = [("linear", "crown"), ("deep", "fast_lin")]
SLOW = [(kind, method) for kind in KINDS for method in ("ibp", "crown", "alpha_crown") if (kind, method) not in CASES]


@pytest.mark.parametrize(("kind", "method"), [*CASES, *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW)])
def test_no_row_is_below_the_margins(kind: str, method: str):
    model = network(kind, 9).double()
    labels = torch.tensor([0, 1, 2])
    graph = bounds.capture(model, ROWS)
    for changes in (1, 2, 5):
        margins = bounds.margin_bounds(graph, tables(changes), labels, method, steps=3).detach()
        for row in range(3):
            logits = model(listed_rows(ROWS[row], FEATURES, changes)).detach()
            least = (logits[:, row : row + 1] - logits).amin(0)
            assert (margins[row] <= least).all()
            if kind == "linear" and method == "crown":
                assert torch.allclose(margins[row], least, atol=1e-10)


def test_the_first_layer_counts_changes_also_for_intervals():
    """Intervals of the hull would let all features change at once."""
    model = network("linear", 9).double()
    one, all_of_them = (bounds.ibp(model, tables(changes)) for changes in (1, 5))
    boxed = bounds.ibp(model, bounds.Box(tables(1).hull().lower, tables(1).hull().upper))
    assert (one.upper - one.lower < all_of_them.upper - all_of_them.lower).all()
    assert (all_of_them.upper - all_of_them.lower <= boxed.upper - boxed.lower + 1e-9).all()


WRONG = {
    "two categories": (lambda x: bounds.CategoricalGroups(torch.ones(1, 3), [[0, 1, 2]], 1), "row 0 does not"),
    "no category": (lambda x: bounds.CategoricalGroups(torch.zeros(1, 3), [[0, 1, 2]], 1), "dropped=True"),
    "one column twice": (lambda x: bounds.CategoricalGroups(x, [[0, 1, 2], [2, 3]], 1), "[0-9]"),
    "no such column": (lambda x: bounds.FeatureChanges(x, [bounds.Numeric(9, 0, 1)], 1), "below 9"),
    "negative changes": (lambda x: bounds.FeatureChanges(x, FEATURES, -1), "at least 0"),
    "half a change": (lambda x: bounds.FeatureChanges(x, FEATURES, torch.ones(3)), "integers"),
    "no feature": (lambda x: bounds.FeatureChanges(x, [], 1), "at least one"),
    "another object": (lambda x: bounds.FeatureChanges(x, [[0, 1, 2]], 1), "bounds.Category"),
    "out of range": (lambda x: bounds.FeatureChanges(x, [bounds.Numeric(8, 0, 1)], 1), "widen the range"),
    "a direction": (lambda x: bounds.FeatureChanges(x, [bounds.Levels(8, [1], "left")], 1), "direction must be one"),
    "no level": (lambda x: bounds.FeatureChanges(x, [bounds.Levels(8, [])], 1), "values of Levels"),
    "integers": (lambda x: bounds.FeatureChanges(x.long(), FEATURES, 1), "floating"),
    "a mask of numbers": (lambda x: bounds.FeatureChanges(x, FEATURES, 1, torch.ones(9)), "boolean"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_table_is_refused(name: str):
    make, message = WRONG[name]
    with pytest.raises(InvalidInput, match=message):
        make(ROWS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_reach_holds_exactly_where_it_nearly_cancels_the_number(dtype: torch.dtype):
    x = 0.01 + torch.rand(50, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    for reach in (0.1, 0.7278943657875061, *(x[:9, 0].double() + 1e-9).tolist(), *(x[:9, 0].double() - 1e-9).tolist()):
        box = bounds.FeatureChanges(x, [bounds.Numeric(0, -9.0, 9.0, reach=reach)], 1).hull()
        ends = zip(*(each[:, 0].tolist() for each in (x, box.lower, box.upper)), strict=True)
        for here, low, high in ends:
            assert Fraction(low) <= Fraction(here) - Fraction(reach)
            assert Fraction(high) >= Fraction(here) + Fraction(reach)
