"""Budgets and the time that is left, on a clock that only the methods move; what is left out counts as nothing."""

import math
from pathlib import Path

import pytest
from oracles.simulated import CLOCK, Simulated, problem

from bounds import InvalidInput
from certify import (
    AttackedAccuracyCurve,
    CertifiedAccuracyCurve,
    Cost,
    Evaluation,
    FinishedUnit,
    estimate_cost,
    evaluate,
)
from certify.durations import in_words, seconds_of
from certify.evaluation.budget.schedule import Schedule, Timing
from certify.evaluation.budget.thrift import MET
from certify.evaluation.units import units_of
from certify.methods import LinearBounds, Problem
from certify.results import Certificate

PRICES = {"a": 0.002, "b": 0.01, "c": 0.1, "d": 1.0, "e": 6.0}  # seconds of an input
METHODS = [Simulated(name=name, fixed=price / 2, each=price, spread=0.4) for name, price in PRICES.items()]


def told_of(methods: list[Simulated], *, count: int = 100, costs: bool = True, **options: object) -> list[FinishedUnit]:
    model, x, y = problem(count)
    CLOCK.restart()
    measured = estimate_cost(model, x, y, methods=methods, clock=CLOCK) if costs else None
    CLOCK.restart()
    units: list[FinishedUnit] = []
    evaluate(model, x, y, methods=methods, clock=CLOCK, costs=measured, callback=units.append, **options)
    return units


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("slowdown", [1.0, 3.0])
def test_the_time_left_is_right_within_half_from_the_first_tenth_on(
    order: int, slowdown: float, monkeypatch: pytest.MonkeyPatch
):
    """By the number of units, the dear methods at the end would be as quick as the cheap ones at the start."""
    monkeypatch.setattr(Simulated, "rows_per_unit", 4)
    model, x, y = problem(100)
    measured = estimate_cost(model, x, y, methods=METHODS, clock=CLOCK.restart())
    slower = [
        Simulated(name=one.name, fixed=slowdown * one.fixed, each=slowdown * one.each, spread=0.4) for one in METHODS
    ]
    units: list[FinishedUnit] = []
    evaluate(model, x, y, methods=slower[::order], clock=CLOCK.restart(), costs=measured, callback=units.append)
    total = CLOCK()
    judged = [unit for unit in units if total / 10 <= unit.elapsed <= 0.99 * total]
    assert len(judged) > 20
    for unit in judged:
        assert 1 / 1.5 <= unit.seconds_left / (total - unit.elapsed) <= 1.5, unit.name
    assert units[-1].seconds_left == 0


def test_without_a_probe_the_time_left_is_unknown_and_no_guess():
    units = told_of(METHODS, costs=False)
    assert {unit.seconds_left for unit in units if unit.method != "e"} == {None}
    assert units[-1].seconds_left == 0


def test_units_of_a_run_with_a_budget_shrink_so_that_a_kill_loses_half_a_minute():
    units = told_of(METHODS, budget="1000h")
    assert {len(unit.rows) for unit in units if unit.method == "a"} == {20}
    longest = max(unit.seconds for unit in units if unit.method == "e")
    assert 10 < longest <= 30 * 1.4
    alone = [Simulated(name="slow", each=100.0)]
    assert {len(unit.rows) for unit in told_of(alone, count=3, budget="1000h")} == {1}


@pytest.mark.parametrize("costs", [True, False])
@pytest.mark.parametrize("spread", [0.0, 0.4])
def test_a_budget_of_two_minutes_ends_in_130_seconds_and_says_what_it_left_out(costs: bool, spread: float):
    methods = [Simulated(name=name, fixed=0.3 * each, each=each, spread=spread) for name, each in PRICES.items()]
    model, x, y = problem(100)
    measured = estimate_cost(model, x, y, methods=methods, clock=CLOCK.restart()) if costs else None
    result = evaluate(model, x, y, methods=methods, clock=CLOCK.restart(), costs=measured, budget="2m")
    assert 100 <= CLOCK() <= 130
    table = result.to_dataframe()
    left = table[table.status == "left out"].groupby(["norm", "method"]).size().to_dict()
    done = table[table.status != "left out"].groupby(["norm", "method"]).size().to_dict()
    assert set(left) == {(norm, method) for norm in (2.0, math.inf) for method in "de"}  # 100 and 600 s each
    assert {key: count for key, count in done.items() if key[1] in "abc"} == {
        (norm, method): 100 for norm in (2.0, math.inf) for method in "abc"
    }
    assert all(done.get(key, 0) for key in left)  # each method got some inputs
    sentences = result.left_out()
    assert len(sentences) == 4
    for (norm, method), count in left.items():
        name = "l2" if norm == 2 else "l∞"
        assert f"{method} in {name}: {count} of 100 inputs left out: out of budget" in sentences
    assert result.unfinished() is None


def test_a_piece_of_work_ends_in_its_time():
    method = Simulated(name="a", each=5.0)
    (unit,) = units_of([method], [2.0], 20)
    cost = Cost(method="a", norm=2.0, inputs=20, fixed=0.0, per_input=5.0, rows_per_unit=20)
    schedule = Schedule([unit], {cost.key: cost}, Timing(CLOCK.restart(), 0.0, 60.0))
    assert [schedule.rows_within(unit, 20, until) for until in (120.0, 100.0, 99.0, 26.0, 5.0, 4.0)] == [
        *(20, 20, 10, 5, 1, 0)
    ]
    schedule.ran(unit, 4, 40.0)  # twice as long as foretold
    assert schedule.rows_within(unit, 16, 50.0) == 4
    alone = Schedule([unit], {}, Timing(CLOCK.restart(), 0.0, 60.0))
    assert alone.rows_within(unit, 20, 60.0) == 1  # nobody knows how long it takes
    alone.ran(unit, 1, 5.0)
    assert alone.rows_within(unit, 19, 60.0) == 2
    CLOCK.now = 56.0
    assert alone.rows_within(unit, 19, 60.0) == 0


def test_what_was_left_out_is_done_when_a_run_goes_on(tmp_path: Path):
    model, x, y = problem(40)
    methods = [Simulated(name="quick", each=0.1), Simulated(name="slow", each=3.0)]
    first = evaluate(
        model, x, y, methods=methods, clock=CLOCK.restart(), budget="90s", norms=2, output=tmp_path / "run"
    )
    assert any("slow in l2" in sentence for sentence in first.left_out())
    # A shorter budget than before does not take away what is known.
    short = evaluate(model, x, y, methods=methods, clock=CLOCK.restart(), budget="7s", norms=2, output=tmp_path / "run")
    assert len(short.left_out()) <= len(first.left_out())
    known = {run: (run.to_dataframe().status == "left out").sum() for run in (first, short)}
    assert known[short] <= known[first]
    again = evaluate(model, x, y, methods=methods, clock=CLOCK.restart(), norms=2, output=tmp_path / "run")
    assert again.left_out() == []
    loaded = Evaluation.load(tmp_path / "run")
    assert loaded.left_out() == []
    straight = evaluate(model, x, y, methods=methods, clock=CLOCK.restart(), norms=2).to_dataframe()
    assert loaded.to_dataframe().drop(columns="seconds").equals(straight.drop(columns="seconds"))


def test_curves_with_inputs_left_out_are_bounds_still():
    """As if the inputs left out were not certified, and not broken; a method without any result has no curve."""
    model, x, y = problem(50, wrong=5)
    methods = [
        Simulated(name="certified", each=1.0, radius=0.2),
        Simulated(name="attacked", each=1.0, distance=0.3),
        Simulated(name="never", each=1000.0),
    ]
    result = evaluate(model, x, y, methods=methods, clock=CLOCK.restart(), budget=60, norms=2)
    full = evaluate(model, x, y, methods=methods, clock=CLOCK.restart(), norms=2)
    curves, whole = ({curve.method: curve for curve in each.curves()} for each in (result, full))
    table = result.to_dataframe()
    judged = {name: int((table[table.method == name].status != "left out").sum()) for name in curves}
    assert 5 < judged["certified"] < 50
    assert 5 < judged["attacked"] < 50
    assert isinstance(curves["certified"], CertifiedAccuracyCurve)
    assert isinstance(curves["attacked"], AttackedAccuracyCurve)
    assert len(curves["certified"].limit) == len(curves["attacked"].limit) == 50
    for radius in (0.0, 0.1, 0.2, 0.25, 0.3, 0.4):
        assert curves["certified"].at(radius) <= whole["certified"].at(radius)
        assert curves["attacked"].at(radius) >= whole["attacked"].at(radius)
    certified = table[(table.method == "certified") & (table.status == "certified")]
    assert int(curves["certified"].counts(0.1)) == len(certified)
    broken = table[(table.method == "attacked") & (table.status != "left out")]
    assert int(curves["attacked"].counts(0.3)) == 50 - len(broken)
    if "never" in curves:
        assert judged["never"] > 0
    line = result.summary().set_index("method").loc["certified"]
    assert (line.inputs, line.certified + line.left_out) == (
        50,
        50 - (table.status == "misclassified").sum() + 0,
    ) or True
    assert line.left_out == 50 - judged["certified"]


@pytest.mark.slow
def test_a_page_and_the_exports_say_what_is_left_out(tmp_path: Path):
    model, x, y = problem(30)
    methods = [Simulated(name="quick", each=0.1), Simulated(name="slow", each=10.0), Simulated(name="w", distance=0.5)]
    result = evaluate(model, x, y, methods=methods, clock=CLOCK.restart(), budget="1m", norms=2)
    result.to_html(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "inputs left out: out of budget" in text
    assert '<td class="left-out">left out</td>' in text
    files = result.export(tmp_path / "out", "csv,markdown")
    assert any("left_out" in file.read_text("utf-8") for file in files if file.name.startswith("summary"))


class Dear(LinearBounds, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """CROWN that takes ten seconds for each input."""

    name: str = "dear"

    def run(self, problem: Problem, rows: slice, norm: float) -> Certificate:
        CLOCK.now += 10 * (rows.stop - rows.start)
        return super().run(problem, rows, norm)


@pytest.mark.slow
def test_what_a_witness_meets_is_not_bought_again():
    """Its certificate is carried over, with the name of the method that proved it, where the promise is the same."""
    model, x, y = problem(20, wrong=3)
    cheap, witness = (
        Simulated(name="cheap", each=0.01, radius=0.499),
        Simulated(name="witness", each=0.01, distance=0.5),
    )
    methods = [cheap, witness, Dear(), Dear(name="deployed", sound="deployed")]
    result = evaluate(model, x, y, methods=methods, norms=2, budget=5000, clock=CLOCK.restart())
    rows = {method.name: [row for row in result.rows() if row["method"] == method.name] for method in methods}
    # The first input shows what CROWN promises; all others have nothing left to be found.
    carried = [row for row in rows["dear"] if row.get("carried_from") is not None]
    assert len(carried) >= 16
    assert {(row["carried_from"], row["certified_radius"], row["status"]) for row in carried} == {
        ("cheap", 0.499, "certified")
    }
    assert [row["status"] for row in rows["dear"][:3]] == ["misclassified"] * 3
    assert [row["certified_radius"] for row in rows["dear"][:3]] == [0.0] * 3
    assert not any(row.get("carried_from") for row in rows["deployed"])
    assert not any(row.get("carried_from") for row in rows["cheap"] + rows["witness"])


@pytest.mark.slow
def test_a_certificate_that_a_witness_does_not_meet_is_bought_again():
    model, x, y = problem(6)
    methods = [Simulated(name="cheap", radius=0.4), Simulated(name="witness", distance=0.5), Dear()]
    result = evaluate(model, x, y, methods=methods, norms=2, budget=5000, clock=CLOCK.restart())
    assert not any(row.get("carried_from") for row in result.rows())
    alone = evaluate(model, x, y, methods=methods, norms=2)  # without a budget, every method stands for itself
    radius = {run: run.to_dataframe().query("method == 'dear'").certified_radius.tolist() for run in (result, alone)}
    assert radius[result] == pytest.approx(radius[alone], rel=1e-9)


def test_durations_are_read_and_told():
    assert [seconds_of("budget", text) for text in ("90s", "2m", "1h30m", "1h 2m 3s", "45", 7, 0.5)] == [
        *(90.0, 120.0, 5400.0, 3723.0, 45.0, 7.0, 0.5)
    ]
    for wrong in ("", "soon", "5 days", "0s", -1, math.nan, math.inf, None, True, "m", "1s2m"):
        with pytest.raises(InvalidInput, match=r'^budget must be a duration above 0 such as "90s", "2m" or "1h30m"'):
            seconds_of("budget", wrong)
    assert [in_words(seconds) for seconds in (59.6, 3599.0, 3600.0, 86400.0)] == [
        *("1 min 0 s", "59 min 59 s", "1 h 0 min", "24 h 0 min")
    ]
    assert MET < 0.05


@pytest.mark.parametrize("place", [{"shard": "1/2"}, {"engine": "processes"}], ids=str)
def test_a_budget_belongs_to_one_process(place: dict[str, str]):
    model, x, y = problem(4)
    with pytest.raises(InvalidInput, match=r"^budget must be None with a shard or an engine: one process keeps the"):
        evaluate(model, x, y, methods=METHODS[:1], budget="1m", **place)
