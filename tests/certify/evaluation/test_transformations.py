"""Transformations in the place of norms: closed forms, the direct calls, resumed and divided runs, tables and page."""

import json
import math
import pickle
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
import torch
from oracles.halfspace import Halfspace
from torch import Tensor

import certify
from bounds.errors import InvalidConfiguration, InvalidInput, ManifestMismatch
from bounds.sets.orders import NamedSet, order_key, order_of
from bounds.sets.uniform import stream_seed
from certify.evaluation.evaluation import Evaluation
from certify.methods import RandomTransformations, TransformationAttack, TransformationBounds
from certify.report import norm_name
from certify.semantic import (
    Blur,
    Compose,
    Photometric,
    Rotation,
    Scale,
    Shear,
    Transformation,
    TransformationSet,
    Translation,
    certify_transformation,
    random_transformations,
)
from certify.semantic.sets import set_of

WIDE, NARROW = Photometric(brightness=(-0.2, 0.1)), Photometric(brightness=(-0.05, 0.05))
NOISY = TransformationSet(WIDE, epsilon=0.01)
SETS = (WIDE, NARROW, NOISY)
METHODS = (TransformationBounds(), TransformationAttack(points=21), RandomTransformations(draws=10))
NAMES = tuple(str(one if isinstance(one, TransformationSet) else TransformationSet(one)) for one in SETS)
BRIGHT = Halfspace(torch.full((12,), 1 / 12, dtype=torch.float64), -0.4)  # class 1 where the mean is above 0.4
Y = torch.ones(4, dtype=torch.int64)


def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 0.4 + 0.2 * torch.rand(4, 1, 3, 4, generator=generator, dtype=torch.float64)


def evaluated(**more: object) -> Evaluation:
    return certify.evaluate(BRIGHT, images(), Y, norms=(), transformations=SETS, methods=METHODS, **more)


@pytest.fixture(scope="module")
def run() -> Evaluation:
    return evaluated()


def of(run: Evaluation, method: str, name: str) -> list[dict]:
    return [row for row in run.rows() if (row["method"], row["norm"]) == (method, name)]


def lasting(run: Evaluation) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in run.rows()]


@pytest.mark.slow
def test_rows_are_those_of_the_direct_calls(run: Evaluation):
    for over, name in zip(SETS, NAMES, strict=True):
        which, epsilon = (over.transformation, over.epsilon) if isinstance(over, TransformationSet) else (over, 0.0)
        proved = certify_transformation(BRIGHT, images(), Y, which, epsilon=epsilon)
        found = certify.attacks.transformation(BRIGHT, images(), Y, which, epsilon=epsilon, points=21)
        rows = of(run, "transformation_bounds", name)
        assert [row["certified_radius"] for row in rows] == proved.radius.tolist()
        assert [row["verified"] for row in rows] == proved.verified.tolist()
        rows = of(run, "transformation_attack", name)
        assert [row["attack_distance"] for row in rows] == found.distance.tolist()
        for row, values in zip(rows, found.parameters.tolist(), strict=True):
            assert row.get("parameters") == (values if row["status"] == "found" else None)
        for place, row in enumerate(of(run, "random_transformations", name)):
            generator = torch.Generator().manual_seed(stream_seed(0, place, 0) if place else 0)
            drawn = random_transformations(
                BRIGHT, images()[place : place + 1], Y[:1], which, draws=10, generator=generator
            )
            low, high = (float(end) for end in drawn.error_interval())
            assert (row["draws"], row["draws_right"]) == (10, int(drawn.correct))
            assert (row["error_lower"], row["error_upper"]) == (low, high)


@pytest.mark.slow
def test_radii_and_distances_enclose_the_closed_form(run: Evaluation):
    """A brightness of minus the mean's excess over 0.4 is the boundary; noise takes 0.01 of it."""
    excess = (images().flatten(1).mean(1) - 0.4).tolist()
    for name, noise, reach in zip(NAMES, (0.0, 0.0, 0.01), (0.2, 0.05, 0.2), strict=True):
        proved = [row["certified_radius"] for row in of(run, "transformation_bounds", name)]
        found = [row["attack_distance"] for row in of(run, "transformation_attack", name)]
        for radius, far, exact in zip(proved, found, excess, strict=True):
            assert min(0.8 * (exact - noise), reach) - 0.01 <= radius <= min(max(exact - noise, 0) + 1e-9, reach)
            assert far == math.inf if exact > reach else far >= exact - noise - 1e-9
    assert any(math.isfinite(row["attack_distance"]) for row in of(run, "transformation_attack", NAMES[0]))
    assert run.check() == []
    assert run.comparisons() > 0


@pytest.mark.slow
def test_a_proof_beyond_a_witness_is_a_contradiction(run: Evaluation):
    records = json.loads(json.dumps(list(run.records)))
    (bounds,) = (each for each in records if each["unit"].startswith(f"transformation_bounds/{NAMES[0]}/"))
    attack = of(run, "transformation_attack", NAMES[0])
    place = next(i for i, row in enumerate(attack) if row["status"] == "found")
    bounds["rows"][place]["certified_radius"] = attack[place]["attack_distance"] * 1.01
    (said,) = Evaluation(run.manifest, records).check()
    assert "Photometric brightness -0.2 to 0.1 (input units)" in str(said)


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_bit_for_bit(run: Evaluation, tmp_path: Path):
    def stop(unit: certify.FinishedUnit) -> None:
        if unit.done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluated(output=tmp_path / "run", callback=stop)
    assert Evaluation.load(tmp_path / "run").unfinished() == (4, 9)
    assert lasting(evaluated(output=tmp_path / "run")) == lasting(run)
    loaded = Evaluation.load(tmp_path / "run")
    assert lasting(loaded) == lasting(run)
    first, second = (each.transformation_curves() for each in (loaded, run))
    assert [each.to_dataframe().equals(second[name].to_dataframe()) for name, each in first.items()] == [True] * 3
    table = loaded.manifest["configuration"]["transformations"][1]
    with pytest.raises(ManifestMismatch):
        certify.evaluate(BRIGHT, images(), Y, norms=(), transformations=[set_of(table)], output=tmp_path / "run")


@pytest.mark.slow
def test_shards_and_parts_give_the_whole(run: Evaluation, tmp_path: Path):
    for shard in ("1/2", "2/2"):
        evaluated(output=tmp_path / shard.replace("/", "_"), shard=shard)
    merged = certify.merge(tmp_path / "merged", [tmp_path / "1_2", tmp_path / "2_2"])
    assert lasting(merged) == lasting(run)
    x, draws = images(), METHODS[2:]
    part = certify.evaluate(BRIGHT, x[2:], Y[2:], norms=(), transformations=WIDE, methods=draws, first_index=2)
    assert (
        lasting(part) == [row for row in lasting(run) if row["method"] == draws[0].name and row["norm"] == NAMES[0]][2:]
    )


@pytest.mark.slow
def test_curves_tables_and_words(run: Evaluation, tmp_path: Path):
    summary = run.summary()
    assert [name for name in dict.fromkeys(summary.norm)] == [norm_name(name) for name in sorted(NAMES)]
    assert all(curve.norm in NAMES and curve.norm.unit == "input units" for curve in run.curves())
    curves = run.transformation_curves()[NamedSet(NAMES[0])]
    table = curves.to_dataframe([0.0, 0.05, 0.2])
    assert (table.certified <= table.attacked).all()
    drawn = run.tensors[f"random_transformations/{NAMES[0]}/0-4"]
    near = drawn["distance"] <= 0.05
    assert table.random[1] == float(drawn["right"][near].double().mean())
    assert curves.reach == 0.2
    files = run.export(tmp_path / "export", ["csv", "markdown", "latex", "json"])
    assert any("photometric_brightness_-0.2..0.1" in file.name for file in files)


@pytest.mark.slow
def test_the_page_has_a_section_and_a_panel_for_each_transformation(tmp_path: Path):
    x, y = images(), Y
    rotation = Rotation((-3, 3))
    run = certify.evaluate(BRIGHT, x, y, norms=math.inf, methods="ibp", transformations=rotation)  # and all for it
    assert {row["method"] for row in run.rows()} > {"ibp", "transformation_bounds", "random_transformations"}
    run.to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert ">Rotation -3 to 3 (degrees)</h" in page
    assert "Accuracy up to 3 (degrees): at least" in page
    assert "radius (degrees)" in page
    assert "Rotation -3 to 3 (degrees), input units" not in page


@pytest.mark.slow
def test_what_a_budget_leaves_out_is_said(tmp_path: Path):
    ticks = count()
    run = evaluated(budget=30, clock=lambda: float(next(ticks)))
    assert any(row["status"] == "left out" for row in run.rows())
    assert run.left_out()
    run.transformation_curves()
    assert len(run.summary()) == 9


@pytest.mark.slow
def test_costs_and_memory_are_foretold():
    costs = certify.estimate_cost(BRIGHT, images(), Y, norms=(), transformations=WIDE, methods=METHODS)
    assert [cost.norm for cost in costs.costs] == [NAMES[0]] * 3
    assert all(cost.measured for cost in costs.costs)
    assert "Photometric" in str(costs)


@pytest.mark.parametrize(
    "which",
    [
        Rotation((-10, 10)),
        Rotation((-10, 10), padding="border"),
        Translation((-1, 1)),
        Translation((-1, 1), (0, 0.5)),
        Scale((0.9, 1.1)),
        Shear((-0.1, 0.1)),
        Blur((0, 1)),
        Blur((0, 1), padding="zeros"),
        Photometric(contrast=(0.8, 1.2), gamma=(0.9, 1.1)),
        Compose(Rotation((-2, 2)), Photometric(brightness=(-0.1, 0.1))),
    ],
    ids=repr,
)
def test_a_set_is_read_back_from_its_table_and_its_name_is_its_own(which: Transformation):
    for over in (TransformationSet(which), TransformationSet(which, epsilon=0.02, channels_last=True)):
        table = json.loads(json.dumps(over.table()))
        again = set_of(table)
        assert (again, again.table()) == (over, over.table())
        assert repr(again.transformation.parameters) == repr(which.parameters)
        sent = pickle.loads(pickle.dumps(over))
        assert (sent, sent.epsilon, sent.channels_last) == (over, over.epsilon, over.channels_last)
        assert order_of(order_key(over)) == over
        assert sorted([over, math.inf, NamedSet("a, degrees"), 2.0])[:2] == [2.0, math.inf]
        assert (over > math.inf, over < 1, over >= 2, over <= 2, over == math.inf) == (True, False, True, False, False)
    others = {
        str(TransformationSet(other)) for other in (Rotation((-10, 9)), Rotation((-10, 10.0000001)), Scale((1, 2)))
    }
    assert str(TransformationSet(which)) not in others


@dataclass(frozen=True)
class Turns(Rotation):
    """A transformation of somebody else, with a number among its fields."""

    times: object = 1


def test_fields_of_other_transformations_are_named_and_read_again():
    many = [TransformationSet(Turns((-1, 1), times=times)) for times in (1, 2, 2.5)]
    assert len(set(many)) == 3  # so that none takes the place of another
    assert [set_of(json.loads(json.dumps(each.table()))).transformation for each in many] == [
        each.transformation for each in many
    ]
    with pytest.raises(InvalidInput, match="times of a transformation of an evaluation"):
        TransformationSet(Turns((-1, 1), times={}))


WRONG = {
    "no kind": ({"degrees": [-1, 1]}, "kind must be one of rotation"),
    "unknown key": ({"kind": "rotation", "angle": [-1, 1]}, "under the keys degrees, padding"),
    "no range": ({"kind": "rotation", "degrees": 5}, "must be a range"),
    "three ends": ({"kind": "rotation", "degrees": [1, 2, 3]}, "must have ranges"),
    "abstract": ({"kind": "certify.semantic:Transformation"}, "kind must be one of rotation"),
    "wrong order": ({"kind": "rotation", "degrees": [5, -5]}, "must be a range"),
    "missing": ({"kind": "rotation"}, "degrees"),
    "padding": ({"kind": "rotation", "degrees": [-1, 1], "padding": "none"}, "padding"),
    "noise": ({"kind": "rotation", "degrees": [-1, 1], "epsilon": -1.0}, "epsilon"),
    "layout": ({"kind": "rotation", "degrees": [-1, 1], "channels_last": 1}, "channels_last must be true or false"),
    "no parts": ({"kind": "compose"}, "must have parts"),
    "no table": ("rotation", "must be a table"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_table_is_refused_in_one_line(case: str):
    table, message = WRONG[case]
    with pytest.raises(InvalidConfiguration, match=message) as error:
        set_of(table)
    assert "\n" not in str(error.value)


def test_wrong_arguments_are_refused():
    with pytest.raises(InvalidInput, match="transformations must be of"):
        certify.evaluate(BRIGHT, images(), Y, transformations=["rotation"])
    with pytest.raises(InvalidInput, match=r"none of the methods .* serves the norm 2"):
        certify.evaluate(BRIGHT, images(), Y, norms=2, transformations=WIDE, methods=METHODS)
    with pytest.raises(InvalidInput, match=r"none of the methods .* serves the norm 2"):
        certify.evaluate(BRIGHT, images(), Y, methods=METHODS)
    for text in ("rotation", "a/b, degrees", ", degrees", "a,\n degrees"):
        with pytest.raises(ValueError, match="with its unit"):
            order_of(text)
