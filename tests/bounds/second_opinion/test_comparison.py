"""Both engines next to each other: what a point refutes is flagged, whichever engine it is from, and nothing else."""

import copy
import math
import sys

import pytest
import torch
from oracles import stand_in_engine
from oracles.halfspace import generator
from oracles.networks import dense
from oracles.stand_in_engine import stand_in
from torch import Tensor, nn

import bounds
from bounds import Box, InvalidInput, LpBall, SparseBall, compare_engines
from bounds.engines.library import library
from bounds.models import frozen
from bounds.second_opinion.points import PointSearch

X = torch.rand(3, 4, generator=generator(1), dtype=torch.float64)
MODEL = dense(nn.ReLU(), 4, 6, 3)
LINEAR = dense(nn.ReLU(), 4, 3)  # of which bounds are exact, so that any smaller one is refuted
BALL = LpBall(X, 0.1)
LABELS = torch.tensor([0, 2, 1])


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    """Put a module in the place of auto_LiRPA; an honest one until told otherwise."""

    def put(*args: object, **kwargs: object) -> None:
        monkeypatch.setitem(sys.modules, "auto_LiRPA", stand_in(*args, **kwargs))

    put()
    return put


def compared(model: nn.Module, *args: object, **kwargs: object) -> bounds.EngineComparison:
    return compare_engines(model, *args, generator=generator(0), **{"methods": ["ibp", "crown"], **kwargs})


# ------------------------------------------------------------------------------------------------------------- engines


def test_honest_engines_are_not_refuted():
    found = compared(MODEL, BALL)
    assert found.refuted == []
    assert found.version == "0.7.1"
    assert found.missing == ""
    for each in found.bounds:
        assert each.lower.shape == each.upper.shape == each.refuted.shape == (3, 3)
        assert (each.lower <= found.least + 1e-12).all()
        assert (found.largest <= each.upper + 1e-12).all()
        assert each.seconds > 0
        assert each.width == pytest.approx(float((each.upper - each.lower).mean()))
    assert torch.equal(found.of("own", "ibp").lower, bounds.ibp(MODEL, BALL, sound="real").lower)
    assert torch.equal(found.of("own", "crown").lower, bounds.crown(MODEL, BALL, sound="real").lower)
    assert found.width_ratio("ibp") == pytest.approx(1.0, abs=1e-12)  # the stand-in knows intervals alone
    assert found.width_ratio("crown") > 1.01


@pytest.mark.parametrize("labels", [None, LABELS])
@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_a_bound_that_lies_is_flagged(engine, labels: Tensor | None, norm: float):
    engine(stand_in_engine.LyingModule)
    found = compared(LINEAR, LpBall(X, 0.1, norm=norm, low=None, high=None), labels)
    assert {each.engine for each in found.refuted} == {"auto_lirpa"}
    assert {each.method for each in found.refuted} == {"ibp", "crown"}
    for method in ("ibp", "crown"):
        other, own = found.of("auto_lirpa", method), found.of("own", "crown")
        off_label = torch.ones(3, 3, dtype=torch.bool)
        if labels is not None:
            off_label.scatter_(1, labels[:, None], False)
        assert torch.equal(other.refuted, off_label)
        gap = found.least - own.lower if labels is not None else (own.upper - own.lower) / 4
        assert other.excess > 0
        if labels is None:
            assert other.excess == pytest.approx(float(gap.max()), rel=1e-6)
    assert "auto_lirpa ibp refuted at" in repr(found)


def test_a_bound_that_lies_on_one_side_is_flagged(engine):
    engine(stand_in_engine.LyingAboveModule)
    found = compared(LINEAR, BALL, methods=["crown"])
    assert [(each.engine, each.count_refuted) for each in found.refuted] == [("auto_lirpa", 9)]
    assert compared(LINEAR, BALL, LABELS).refuted == []  # margins have lower bounds alone


class Narrow(Box):
    """A box that says of itself that it is half as wide as it is."""

    def hull(self) -> bounds.Interval:
        return bounds.Interval((self.lower + self.center) / 2, (self.upper + self.center) / 2)

    def largest_gain(self, slopes: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
        return (slopes * reach).sum(-1), 2 * reach

    def rows(self, index: Tensor) -> "Narrow":
        return Narrow(self.lower[index], self.upper[index])

    def double(self) -> "Narrow":
        return self


def test_a_bound_of_ours_that_does_not_hold_is_flagged_too():
    found = compared(LINEAR, Narrow(X - 0.1, X + 0.1), methods=["crown"])
    assert found.of("own", "crown").count_refuted == 9
    assert "own crown refuted at 9" in repr(found)


def test_rounding_is_no_refutation(engine):
    """Bounds of a linear network in a set of almost no size, of outputs that almost cancel."""
    engine(stand_in_engine.RoundedModule)
    model = copy.deepcopy(LINEAR)
    with torch.no_grad():
        model[0].bias.copy_(-1e3 * model[0].weight.sum(1))
    for radius in (0.0, 1e-9, 1e-3):
        assert compared(model, LpBall(1e3 + X, radius, low=None, high=None)).refuted == []


def test_who_refuses_says_why_and_the_other_is_shown(engine):
    engine(stand_in_engine.UnknownModule)
    found = compared(MODEL, BALL)
    other = found.of("auto_lirpa", "crown")
    assert "onnx::Erf" in other.refusal
    assert other.lower is None
    assert math.isnan(other.width)
    assert found.of("own", "crown").refusal == ""
    assert "auto_lirpa refused ibp, crown" in repr(found)
    assert "nan" not in repr(found)
    assert "serves LpBall and Box" in compared(MODEL, SparseBall(X, 1)).of("auto_lirpa", "ibp").refusal
    fast = compared(MODEL, BALL, methods=["fast_lin"])
    assert "knows the methods ibp, crown_ibp" in fast.of("auto_lirpa", "fast_lin").refusal
    assert fast.of("own", "fast_lin").width > 0


class Nowhere(nn.Module):
    """No rule of ours bounds it."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.airy_ai(x)


def test_what_we_refuse_is_told_as_well():
    found = compared(nn.Sequential(MODEL, Nowhere()), BALL, methods=["crown"])
    assert "airy_ai" in found.of("own", "crown").refusal
    assert "own refused crown" in repr(found)
    assert found.of("auto_lirpa", "crown").count_refuted > 0  # the stand-in passes over it, which points show


def test_without_the_other_engine_ours_is_held_against_points(monkeypatch):
    monkeypatch.setitem(sys.modules, "auto_LiRPA", None)
    found = compared(MODEL, BALL)
    assert found.version == ""
    assert "needs auto_LiRPA 0.6 or newer, but none is installed" in found.missing
    assert found.of("auto_lirpa", "ibp").refusal == found.missing
    assert found.of("own", "ibp").count_refuted == 0
    assert "our bounds alone, since auto_LiRPA is missing" in repr(found)
    assert compared(LINEAR, Narrow(X - 0.1, X + 0.1), methods=["crown"]).refuted


# ------------------------------------------------------------------------------------------------------------- records


def test_records_are_one_line_and_two_tables():
    found = compared(MODEL, BALL, methods=["ibp", "crown", "ibp"])
    table = found.to_dataframe()
    assert list(table["method"]) == ["ibp", "crown"]
    for engine in ("own", "auto_lirpa"):
        assert (table[f"{engine}_refuted"] == 0).all()
        assert (table[f"{engine}_width"] > 0).all()
    assert repr(found).count("\n") == 0
    assert repr(found).startswith("<EngineComparison of 9 outputs, auto_LiRPA 0.7.1: no bound refuted; widths in units")
    entries = found.entries()
    assert len(entries) == 18
    row = entries.iloc[9 + 3 + 2]
    assert (row["method"], row["row"], row["output"]) == ("crown", 1, 2)
    assert row["own_lower"] == float(found.of("own", "crown").lower[1, 2])
    assert row["own_lower"] <= row["least"] <= row["largest"] <= row["auto_lirpa_upper"]
    margins = compared(MODEL, BALL, LABELS)
    assert margins.largest is None
    assert "own_upper" not in margins.entries()
    assert repr(margins).startswith("<EngineComparison of 9 margins")


def test_the_model_and_the_numbers_of_the_caller_stay():
    model = copy.deepcopy(MODEL).float().train()
    weights = copy.deepcopy(model.state_dict())
    found = compared(model, LpBall(X.float(), 0.1))
    assert found.least.dtype == torch.float64
    assert model.training
    assert all(weight.requires_grad for weight in model.parameters())
    assert all(torch.equal(part, weights[name]) for name, part in model.state_dict().items())
    again = compared(bounds.capture(model.eval(), X.float()), LpBall(X.float(), 0.1))
    assert torch.equal(found.least, again.least)
    assert torch.equal(found.of("own", "crown").lower, again.of("own", "crown").lower)


def test_bad_arguments_are_refused():
    for arguments, rule in (
        ({"methods": ["ibp", "exact"]}, "methods must be one of ibp, .*, got 'exact'"),
        ({"methods": "crown"}, "methods must be a sequence"),
        ({"samples": -1}, "samples must be an integer of at least 0, got -1"),
        ({"steps": 1.5}, "steps must be an integer of at least 0, got 1.5"),
        ({"labels": torch.tensor([0, 1])}, r"labels must have shape \(3,\)"),
    ):
        with pytest.raises(InvalidInput, match=rule):
            compare_engines(MODEL, BALL, **arguments)
    with pytest.raises(InvalidInput, match="the set must be an LpBall"):
        compare_engines(MODEL, X)


# -------------------------------------------------------------------------------------------------------------- points

REGIONS = {
    "linf": LpBall(X, 0.1, low=None, high=None),
    "linf in a box": LpBall(X, 0.5),
    "l2": LpBall(X, 0.3, norm=2, low=None, high=None),
    "l2 in a box": LpBall(X, 0.6, norm=2),
    "l1": LpBall(X, 0.3, norm=1, low=None, high=None),
    "l3": LpBall(X, 0.3, norm=3, low=None, high=None),
    "box": Box(X - 0.1, X + 0.2),
    "sparse": SparseBall(X, 2),
}


@pytest.mark.parametrize("name", REGIONS)
def test_descents_meet_the_minimum_of_linear_functions(name: str):
    """The minimum in closed form is never undercut, so that all points lie in the set; and it is met."""
    region, model = REGIONS[name], copy.deepcopy(LINEAR)
    rows = torch.randn(3, 5, 3, generator=generator(2), dtype=torch.float64)
    with frozen(model):
        search = PointSearch(model, region, rows)
        least = search.least(0, generator(0))
        drawn = search._least(search._drawn(50, generator(0)))
    slopes = torch.einsum("ntk,kf->ntf", rows, model[0].weight)
    exact = bounds.linear_minimum(slopes, region) + torch.einsum("ntk,k->nt", rows, model[0].bias)
    middle = torch.einsum("ntk,nk->nt", rows, model(region.center).detach())
    reach = middle - exact
    for found in (least, drawn):
        assert (found >= exact).all()
    assert (least - exact <= 1e-6 * reach).all()
    assert (drawn < middle).all()
    assert ((middle - drawn) >= 0.2 * reach).all()


def test_points_that_are_not_in_the_set_for_certain_do_not_count():
    search = PointSearch(LINEAR, REGIONS["l2"], torch.eye(3, dtype=torch.float64).expand(3, 3, 3))
    assert (search._least(X[:, None] + 1) == math.inf).all()
    assert search._least(X[:, None]).isfinite().all()


def test_networks_for_one_input_at_a_time_are_searched():
    with frozen(MODEL):
        rows = torch.eye(3, dtype=torch.float64).expand(3, 3, 3)
        together, alone = (
            PointSearch(MODEL, BALL, rows, one_by_one=single).least(3, generator(0)) for single in (False, True)
        )
    assert torch.allclose(together, alone)


def test_the_real_library_is_refuted_where_it_is_wrong(monkeypatch):
    """CROWN of x ** 2 in version 0.7.1 has an upper line below the parabola."""
    monkeypatch.delitem(sys.modules, "auto_LiRPA")
    try:
        version = library().__version__
    except InvalidInput as error:
        pytest.skip(str(error))
    if version != "0.7.1":
        pytest.skip(f"version {version}")

    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x**2

    found = compared(nn.Sequential(dense(nn.ReLU(), 4, 6), Square(), dense(nn.ReLU(), 6, 3)), BALL)
    assert [(each.engine, each.method) for each in found.refuted] == [("auto_lirpa", "crown")]
