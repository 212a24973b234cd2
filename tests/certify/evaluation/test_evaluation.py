"""evaluate(): one table of what is proved and what was broken, its check, its resumption."""

import contextlib
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from oracles.models import Random
from oracles.unbounded import LogGamma
from torch import Tensor, nn

from bounds import InvalidInput, ManifestMismatch
from certify import Evaluation, evaluate, models, reference
from certify.evaluation import evaluating
from certify.methods import (
    CompleteSearch,
    IntervalBounds,
    LinearBounds,
    LinearBoundsBehindIntervals,
    MinimalPerturbation,
    OptimisedLinearBounds,
    Smoothing,
    methods_of,
)

QUICK = [Smoothing(n=200, n0=20), IntervalBounds(), MinimalPerturbation(steps=10, restarts=2)]


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluate(*reference.load("ibp", 25), methods=QUICK, seed=3)


def without_times(evaluation: Evaluation) -> list[dict]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in evaluation.records]


@pytest.mark.slow
def test_linear_bounds_are_a_method_beside_the_others(tmp_path):
    model, x, y = reference.load("pgd", 2)
    proofs = [
        LinearBoundsBehindIntervals(tolerance=0.2),
        LinearBounds(tolerance=0.2),
        OptimisedLinearBounds(tolerance=0.2),
    ]
    chosen = [IntervalBounds(), *proofs, MinimalPerturbation(steps=20)]
    evaluation = evaluate(model, x, y, norms=(math.inf,), methods=chosen)
    radius = evaluation.to_dataframe().pivot_table(index="index", columns="method", values="certified_radius")
    assert (radius.crown > 1.5 * radius.ibp).all()
    assert (radius.crown_ibp >= 0.8 * radius.ibp).all()
    assert (radius.alpha_crown >= 0.8 * radius.crown).all()
    assert not evaluation.check()
    evaluation.to_html(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text().lower()
    assert "linear bounds and interval bounds are proofs about the model" in text


@pytest.mark.slow
def test_complete_search_is_a_method_beside_the_others():
    model, x, y = reference.load("ibp", 2)
    chosen = [LinearBounds(), CompleteSearch(timeout=1.0), MinimalPerturbation(steps=20)]
    evaluation = evaluate(model, x, y, norms=(2, math.inf), methods=chosen)
    table = evaluation.to_dataframe()
    assert set(table[table.method == "complete"].norm) == {2.0, math.inf}
    radius = table[table.norm == math.inf].pivot_table(index="index", columns="method", values="certified_radius")
    assert (radius.complete >= 0.98 * radius.crown).all()
    assert not evaluation.check()
    assert methods_of("complete") == [CompleteSearch()]


@pytest.mark.slow
def test_one_row_per_input_norm_and_method(evaluation: Evaluation):
    table = evaluation.to_dataframe()
    rows = table.groupby(["norm", "method"]).size().to_dict()
    assert rows == {(2.0, "smoothing"): 25, (2.0, "ibp"): 25, (math.inf, "ibp"): 25} | {
        (norm, "attack"): 25 for norm in (2.0, math.inf)
    }
    assert set(table.columns) >= {"label", "prediction", "subject", "certified_radius", "attack_distance", "status"}
    smoothed = table[table.method == "smoothing"]
    assert set(smoothed.subject) == {"smoothed(gaussian(sigma=0.25), grid=255)"}
    assert set(table[table.method != "smoothing"].subject) == {"base"}
    assert [sum(counts) for counts in smoothed["counts"]] == [200] * 25


@pytest.mark.slow
def test_attacks_count_changed_entries_and_sum_changes(tmp_path: Path):
    model, x, y = reference.load("plain", 3)
    chosen = [IntervalBounds(), MinimalPerturbation(steps=5, restarts=1)]
    evaluation = evaluate(model, x, y, norms=(0, 1, 2), methods=chosen)
    table = evaluation.to_dataframe()
    assert table.groupby(["norm", "method"]).size().to_dict() == {
        (norm, method): 3 for norm in (0, 1, 2) for method in ("attack", "ibp")
    }
    assert not evaluation.check()
    changed = table[(table.norm == 0) & (table.status == "found")]
    assert (changed.attack_distance % 1 == 0).all()
    assert (changed.attack_distance >= 1).all()
    for row in changed.itertuples():
        assert row.distances["0"] == row.attack_distance
        # No entry moves by more than 1; distances are rounded up.
        assert row.distances["1"] <= row.attack_distance * (1 + 1e-12)
    assert evaluation.check() == []
    evaluation.to_html(tmp_path / "page.html")
    assert ">l0<" in (tmp_path / "page.html").read_text()


@pytest.mark.slow
def test_the_portfolio_of_attacks_is_a_setting():
    model, x, y = reference.load("pgd", 3)
    single, best = (
        evaluate(model, x, y, norms=(math.inf,), methods=[MinimalPerturbation(method=method, steps=4, restarts=1)])
        for method in ("descents", "best")
    )
    near, nearer = (run.to_dataframe().attack_distance for run in (single, best))
    assert (nearer <= near).all()
    assert (nearer < near).any()
    with pytest.raises(InvalidInput, match=r"MinimalPerturbation method must be one of .*, got 'magic'"):
        MinimalPerturbation(method="magic")


def test_certificates_and_witnesses_never_share_a_row(evaluation: Evaluation):
    table = evaluation.to_dataframe()
    assert (table.certified_radius.isna() ^ table.attack_distance.isna()).all()


def test_proved_radii_lie_below_the_distances_found(evaluation: Evaluation):
    assert evaluation.check() == []
    table = evaluation.to_dataframe()
    pairs = table[table.subject == "base"].pivot_table(
        index=["index", "norm"], values=["certified_radius", "attack_distance"]
    )
    assert (pairs.certified_radius <= pairs.attack_distance).all()
    assert (pairs.certified_radius > 0).mean() > 0.5  # or nothing was compared


def test_a_contradiction_is_found(evaluation: Evaluation):
    """The mutant: one certificate of the model above the distance of its adversarial example."""
    records = json.loads(json.dumps(evaluation.records))
    record = next(record for record in records if record["unit"].startswith("ibp/inf"))
    row = next(row for row in record["rows"] if row["status"] == "certified")
    row["certified_radius"] = 0.5
    (found,) = Evaluation(evaluation.manifest, records, evaluation.tensors).check()
    assert (found.index, found.norm, found.subject, found.radius) == (row["index"], math.inf, "base", 0.5)
    assert f"input {row['index']}: ibp certifies 0.5 (127.5/255) of the base classifier in l∞" in str(found)


def test_a_witness_counts_in_every_norm(evaluation: Evaluation):
    """A point found in l-infinity lies at some l2 distance too, and refutes l2 certificates beyond it."""
    records = [json.loads(json.dumps(record)) for record in evaluation.records if record["unit"] != "attack/2/0-25"]
    row = next(row for record in records if record["unit"].startswith("ibp/2") for row in record["rows"])
    row["certified_radius"], row["status"] = 20.0, "certified"
    (found,) = Evaluation(evaluation.manifest, records).check()
    assert (found.index, found.norm) == (row["index"], 2.0)


def test_an_unfinished_run_says_so(evaluation: Evaluation, tmp_path):
    part = Evaluation(evaluation.manifest, evaluation.records[:2], {})
    assert evaluation.unfinished() is None
    assert part.unfinished() == (2, len(evaluation.records))
    part.to_html(tmp_path / "page.html")
    assert f"2 of {len(evaluation.records)} units" in (tmp_path / "page.html").read_text()


class _Flipped(nn.Module):
    """Its code differs from that of the model inside; its weights do not."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)
        self.sign = sign

    def forward(self, x: Tensor) -> Tensor:
        return self.sign * self.inner(x)


def test_a_model_whose_code_changed_does_not_continue_a_run(tmp_path):
    torch.manual_seed(0)
    model, x = _Flipped(1.0), torch.rand(5, 4)
    y = model(x).argmax(1)
    evaluate(model, x, y, methods=[Smoothing(n=10)], norms=[2], output=tmp_path)
    model.sign = -1.0
    with pytest.raises(ManifestMismatch, match="answers_sha256 was"):
        evaluate(model, x, y, methods=[Smoothing(n=10)], norms=[2], output=tmp_path)


def test_buffers_that_are_not_saved_count_as_weights(tmp_path):
    model = nn.Sequential(nn.Linear(4, 3))
    model.register_buffer("temperature", torch.ones(1), persistent=False)
    x = torch.rand(5, 4)
    y = model(x).argmax(1)
    evaluate(model, x, y, methods=[Smoothing(n=10)], norms=[2], output=tmp_path)
    model.temperature += 1
    with pytest.raises(ManifestMismatch, match="weights_sha256 was"):
        evaluate(model, x, y, methods=[Smoothing(n=10)], norms=[2], output=tmp_path)


def test_norms_are_run_once_and_never_dropped():
    model, x, y = reference.load("ibp", 3)
    assert len(evaluate(model, x, y, norms=[2, 2.0], methods=[IntervalBounds()]).to_dataframe()) == 3
    with pytest.raises(InvalidInput, match=r"none of the methods \(ibp\) serves the norm 3"):
        evaluate(model, x, y, norms=[2, 3], methods=[IntervalBounds()])


def test_a_smoothed_certificate_is_not_compared_with_an_attack_on_the_model(evaluation: Evaluation):
    records = json.loads(json.dumps(evaluation.records))
    for record in records:
        if record["method"] == "smoothing":
            for row in record["rows"]:
                row["certified_radius"] = 100.0
    assert Evaluation(evaluation.manifest, records).check() == []


def test_curves_agree_with_the_rows(evaluation: Evaluation):
    table = evaluation.to_dataframe()
    curves = {(curve.method, curve.norm): curve for curve in evaluation.curves()}
    assert len(curves) == 5
    for (method, norm), curve in curves.items():
        rows = table[(table.method == method) & (table.norm == norm)]
        right = (rows.prediction == rows.label) & (rows.status != "abstained")
        for radius in (0.0, 0.02, 0.1):
            if method == "attack":
                share = (right & (rows.attack_distance > radius)).mean()
            else:
                share = (right & (rows.certified_radius >= radius)).mean()
            assert float(curve.at(radius)) == pytest.approx(share)
    model, x, y = reference.load("ibp", 25)
    assert evaluation.clean_accuracy() == float((model(x).argmax(1) == y).double().mean())


def test_summary_counts(evaluation: Evaluation):
    summary = evaluation.summary().set_index(["norm", "method"])
    table = evaluation.to_dataframe()
    assert summary.loc[("l∞", "attack"), "broken"] == (table[table.norm == math.inf].status == "found").sum()
    assert summary.loc[("l2", "smoothing"), "promise"] == "lower bound with probability 0.999"
    assert summary.loc[("l∞", "ibp"), "promise"] == "lower bound, proved"


def test_saved_and_loaded_it_is_the_same(evaluation: Evaluation, tmp_path):
    evaluation.save(tmp_path / "run")
    evaluation.save(tmp_path / "run")  # a second time adds nothing
    loaded = Evaluation.load(tmp_path / "run")
    assert without_times(loaded) == without_times(evaluation)
    assert torch.equal(
        loaded.tensors["attack/inf/0-25"]["adversarial"], evaluation.tensors["attack/inf/0-25"]["adversarial"]
    )


@pytest.mark.slow
def test_a_run_that_stops_anywhere_goes_on_to_the_same_records(evaluation: Evaluation, tmp_path):
    """Every prefix of the records, as a kill leaves it, is continued to the result of an undisturbed run."""
    evaluation.save(tmp_path / "whole")
    lines = (tmp_path / "whole/records.jsonl").read_bytes().splitlines(keepends=True)
    for finished in (1, len(lines)):
        part = tmp_path / f"part{finished}"
        shutil.copytree(tmp_path / "whole", part)
        (part / "records.jsonl").write_bytes(b"".join(lines[:finished]) + lines[finished % len(lines)][:30])
        resumed = evaluate(*reference.load("ibp", 25), methods=QUICK, seed=3, output=part)
        assert without_times(resumed) == without_times(evaluation)
        assert (part / "records.jsonl").read_bytes().splitlines(keepends=True)[:finished] == lines[:finished]


def test_names_of_classes_are_kept_and_determine_nothing(tmp_path):
    model, x, y = reference.load("ibp", 3)
    first = evaluate(model, x, y, methods="ibp", output=tmp_path, classes=reference.CLASSES)
    again = evaluate(model, x, y, methods="ibp", output=tmp_path)  # not refused: the same run
    assert again.records == first.records
    assert Evaluation.load(tmp_path).manifest["classes"] == list(reference.CLASSES)
    assert again.page().classes == list(reference.CLASSES)
    assert again.page(classes=["a"]).classes == ["a"]


def test_another_model_or_data_or_seed_does_not_continue_a_run(tmp_path):
    model, x, y = reference.load("ibp", 3)
    methods = [IntervalBounds()]
    evaluate(model, x, y, methods=methods, output=tmp_path)
    with pytest.raises(ManifestMismatch, match="seed was 0, now 1"):
        evaluate(model, x, y, methods=methods, output=tmp_path, seed=1)
    with pytest.raises(ManifestMismatch, match="data_sha256 was"):
        evaluate(model, x * 0.5, y, methods=methods, output=tmp_path)
    with pytest.raises(ManifestMismatch, match="weights_sha256 was"):
        evaluate(reference.load("pgd", 1).model, x, y, methods=methods, output=tmp_path)
    with pytest.raises(ManifestMismatch, match=r"configuration\.methods\.ibp\.tolerance was 0\.001, now 0\.01"):
        evaluate(model, x, y, methods=[IntervalBounds(tolerance=0.01)], output=tmp_path)


@pytest.mark.slow
def test_an_unsupported_model_loses_one_method_and_not_the_others():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), LogGamma(), nn.Linear(8, 2))
    x = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    y = model(x).argmax(1)
    evaluation = evaluate(model, x, y, methods=QUICK)
    table = evaluation.to_dataframe()
    assert set(table[table.method == "ibp"].status) == {"unsupported"}
    assert "has no rule for linear bounds" in table[table.method == "ibp"].reason.iloc[0]
    assert len(table[table.method == "attack"]) == 6
    assert {curve.method for curve in evaluation.curves()} == {"smoothing", "attack"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.full((2, 4), 1.5)}, r"x must lie in the declared range \[0, 1\], got values from 1.5 to 1.5"),
        ({"x": torch.full((2, 4), math.nan)}, "row 0 holds NaN"),
        ({"x": torch.rand(2, 5)}, r"does not accept x of shape \(5, 5\)"),
        ({"labels": torch.tensor([0, 3])}, "labels must be class indices from 0 to 2, got 3 in row 1"),
        ({"labels": torch.eye(3)[:2]}, "pass class indices, not one-hot rows"),
        ({"labels": torch.tensor([0.0, 1.0])}, r"labels must be integers, got torch.float32"),
        ({"model": Random(3)}, r"the model draws random numbers, aten\.rand"),
        (
            {"methods": "all"},
            "methods must be one of quick, standard, thorough, smoothing, ibp, .*, or a list of these, got 'all'",
        ),
        ({"methods": ["ibp", "magic"]}, "methods must be one of .*, got 'magic'"),
        ({"methods": [3]}, "methods must be one of .*, got 3"),
        ({"methods": 3}, "methods must be one of .*, got 3"),
        ({"methods": None}, "methods must be one of .*, got None"),
        ({"methods": []}, "methods must name at least one, got"),
        ({"norms": []}, r"norms must name at least one norm, got none: pass norms=\(2, math.inf\)"),
        ({"norms": None}, "norm must be at least 1 .math.inf included., got None"),
        ({"norms": "inf"}, "norm must be at least 1 .math.inf included., got 'inf'"),
        ({"first_index": -1}, "first_index must be an integer of at least 0, got -1"),
        ({"on_grid": "yes"}, "on_grid must be True, False or None, got 'yes'"),
        ({"on_grid": True}, "on_grid=True says that all inputs are multiples of 1/255, but x has others"),
        ({"batch_size": "many"}, "batch_size must be an integer of at least 1, got 'many'"),
        ({"seed": 2**63}, "seed must be at most"),
        ({"methods": [Smoothing(), Smoothing(n=5)]}, "methods must have different names"),
        ({"methods": [Smoothing()], "norms": [math.inf]}, "none of the methods \\(smoothing\\) serves the norm inf"),
        ({"norms": [0.5]}, "norm must be at least 1"),
        ({"seed": -1}, "seed must be an integer of at least 0"),
    ],
)
def test_bad_input_gives_one_clear_exception(change: dict, message: str):
    arguments = {"model": nn.Linear(4, 3), "x": torch.rand(2, 4), "labels": torch.tensor([0, 1]), **change}
    with pytest.raises(InvalidInput, match=message) as caught:
        evaluate(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_model_is_probed_once(monkeypatch: pytest.MonkeyPatch):
    """Each unit of each method probed it anew: five rows, a few times over."""
    looked = []
    original = models._probed
    monkeypatch.setattr(models, "_probed", lambda model, *rest: looked.append(model) or original(model, *rest))
    model, x, y = reference.load("ibp", 25)
    passes = []
    hook = model.register_forward_hook(lambda module, given, output: passes.append(module))
    chosen = [IntervalBounds(), MinimalPerturbation(steps=2, restarts=1)]
    table = evaluate(model, x, y, methods=chosen).to_dataframe()
    together, few = len(looked), len(passes)
    looked.clear()
    passes.clear()
    monkeypatch.setattr(evaluating, "probed_once", contextlib.nullcontext)
    again = evaluate(model, x, y, methods=chosen).to_dataframe()
    many = len(passes)
    assert (together, len(looked)) == (1, 5)
    models.probe(model, x, batch_size=25)
    hook.remove()
    assert many - few == 4 * (len(passes) - many) > 0
    assert table.drop(columns="seconds").equals(again.drop(columns="seconds"))
    with pytest.raises(InvalidInput):  # nothing is remembered from one evaluation to the next
        evaluate(Random(3), x, y)
