"""Changed features and words in the place of norms: all changed inputs, resumed and divided runs, tables and page."""

import json
import math
from pathlib import Path

import pytest
import torch
from oracles.changed_rows import FEATURES, FEW, fewest, network, rows, texts

import certify
from bounds.sets.orders import NamedSet
from certify.evaluation.evaluation import Evaluation
from certify.methods import ChangeBounds, CounterfactualAttack, RandomChanges
from certify.report import norm_name

MODEL, X = network(), rows()
Y = MODEL(X).argmax(1)
Y[0] = 1 - Y[0]  # a row that is misclassified
GROUPS = certify.ChangedFeatures(FEATURES[:3], at_most=1)
METHODS = (ChangeBounds(), CounterfactualAttack(), RandomChanges(draws=20))
FREE = {"low": None, "high": None}


def evaluated(**more: object) -> Evaluation:
    return certify.evaluate(MODEL, X, Y, norms=(), changes=[FEW, GROUPS], methods=METHODS, **FREE, **more)


@pytest.fixture(scope="module")
def run() -> Evaluation:
    return evaluated()


def of(run: Evaluation, method: str, name: str) -> list[dict]:
    return [row for row in run.rows() if (row["method"], row["norm"]) == (method, name)]


def lasting(run: Evaluation) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in run.rows()]


@pytest.mark.slow
def test_certified_and_attacked_meet_at_what_all_changed_rows_say(run: Evaluation):
    """The set is small: the search runs all of it, and the proof cuts down to single rows."""
    for over, features in ((FEW, FEATURES), (GROUPS, FEATURES[:3])):
        exact = [fewest(MODEL, row, int(label), features, over.at_most) for row, label in zip(X, Y, strict=True)]
        assert exact[0] == 0
        attacked = of(run, "counterfactual", over)
        assert [row["attack_distance"] for row in attacked] == exact
        proved = of(run, "change_bounds", over)
        assert [row["certified_radius"] for row in proved] == [min(max(far - 1, 0), over.at_most) for far in exact]
        assert [row["verified"] for row in proved] == [math.isinf(far) for far in exact]
        assert [row["status"] == "misclassified" for row in proved] == [far == 0 for far in exact]
        for row, far in zip(of(run, "random_changes", over), exact, strict=True):
            assert row["draws_right"] == 20 or far <= over.at_most
            assert row["status"] == "misclassified" or (row["status"] == "changed") == (row["draws_right"] < 20)
    assert {1, 2, 3} <= {row["attack_distance"] for row in of(run, "counterfactual", FEW)}
    assert run.check() == []
    assert run.comparisons() > 0


@pytest.mark.slow
def test_a_proof_that_reaches_a_counterfactual_is_a_contradiction(run: Evaluation):
    """Numbers of changes are exact: a proof of as many as a counterfactual has is wrong, and one of fewer is not."""
    records = json.loads(json.dumps(list(run.records)))
    bounds_ = next(each for each in records if each["unit"].startswith(f"change_bounds/{FEW}/"))
    place = next(i for i, row in enumerate(of(run, "counterfactual", FEW)) if row["attack_distance"] == 3)
    assert bounds_["rows"][place]["certified_radius"] == 2
    bounds_["rows"][place]["certified_radius"] = 3.0
    (said,) = Evaluation(run.manifest, records).check()
    assert norm_name(FEW) in str(said)
    assert "certifies 3.0" in str(said)


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_and_shards_give_the_whole(run: Evaluation, tmp_path: Path):
    def stop(unit: certify.FinishedUnit) -> None:
        if unit.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluated(output=tmp_path / "run", callback=stop)
    assert lasting(evaluated(output=tmp_path / "run")) == lasting(run)
    loaded = Evaluation.load(tmp_path / "run")
    assert lasting(loaded) == lasting(run)
    pairs = zip(loaded.set_curves().items(), run.set_curves().items(), strict=True)
    assert all(one == two and a.to_dataframe().equals(b.to_dataframe()) for (one, a), (two, b) in pairs)
    for shard in ("1/2", "2/2"):
        evaluated(output=tmp_path / shard.replace("/", "_"), shard=shard)
    assert lasting(certify.merge(tmp_path / "merged", [tmp_path / "1_2", tmp_path / "2_2"])) == lasting(run)


@pytest.mark.slow
def test_curves_tables_and_page(run: Evaluation, tmp_path: Path):
    curves = run.set_curves()[NamedSet(FEW)]
    table = curves.to_dataframe()
    assert table.radius.tolist() == [0, 1, 2, 3]
    exact = [fewest(MODEL, row, int(label)) for row, label in zip(X, Y, strict=True)]
    assert table.certified.tolist() == [sum(far > changes for far in exact) / 6 for changes in range(4)]
    assert table.attacked.tolist() == table.certified.tolist()
    drawn = run.tensors[f"random_changes/{FEW}/0-6"]
    assert table.random[2] == float(drawn["right"][drawn["distance"] <= 2].double().mean())
    assert "accuracy up to 3 (changes): at least" in curves.sentences()[0]
    assert run.transformation_curves() == {}
    run.to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert f">{norm_name(FEW)}</h" in page
    assert 'href="#changes"' in page
    assert "radius (changes)" in page
    files = run.export(tmp_path / "export", ["csv", "markdown", "json"])
    assert any("at_most_3_of_5_features" in file.name for file in files)
    both = certify.compare({"one": run, "two": run})
    assert str(FEW) in {str(norm) for norm in both.to_dataframe().norm}


@pytest.mark.slow
def test_all_methods_join_where_none_is_named_and_words_change_too():
    model, over, x, _ = texts()
    labels = model(x).argmax(1)
    run = certify.evaluate(model, x, labels, norms=(), changes=over, **FREE)
    assert {row["method"] for row in run.rows() if row["norm"] == over} == {
        "change_bounds",
        "counterfactual",
        "random_changes",
    }
    region = over.around(x)
    embedding = over.words.found()[0]
    direct = certify.certified_no_counterfactual(model, x, region, labels)
    assert [row["certified_radius"] for row in of(run, "change_bounds", over)] == direct.radius.tolist()
    for place, row in enumerate(of(run, "counterfactual", over)):
        every = [
            embedding[[a, b, c]]
            for a in others(x, place, 0, over)
            for b in others(x, place, 1, over)
            for c in others(x, place, 2, over)
        ]
        flips = [
            int((one != x[place]).any(1).sum()) for one in every if int(model(one[None]).argmax(1)) != labels[place]
        ]
        assert row["attack_distance"] == min([count for count in flips if count <= 2], default=math.inf)


def others(x: torch.Tensor, row: int, place: int, over: certify.ChangedWords) -> list[int]:
    token = int(over.words.tokens(x)[row, place])
    return [token, *(one for one in over.words.found()[1][token].tolist() if one >= 0)]


@pytest.mark.slow
def test_costs_memory_and_norms_beside_changes(tmp_path: Path):
    costs = certify.estimate_cost(MODEL, X, Y, norms=(), changes=GROUPS, methods=METHODS, **FREE)
    assert [cost.norm for cost in costs.costs] == [GROUPS] * 3
    small = certify.evaluate(MODEL, X, Y, norms=(), changes=GROUPS, methods=METHODS, memory="1GB", **FREE)
    whole = [row for row in lasting(evaluated()) if row["norm"] == GROUPS]
    assert lasting(small) == whole
    mixed = certify.evaluate(MODEL, X, Y, norms=math.inf, changes=GROUPS, methods="ibp", output=tmp_path / "run")
    assert {row["norm"] for row in mixed.rows()} == {math.inf, GROUPS}
    rowwise = {row["method"]: set(row.get("distances") or {}) for row in mixed.rows() if row.get("distances")}
    assert rowwise == {"counterfactual": {str(GROUPS)}}
