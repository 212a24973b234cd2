"""Rows that were edited so that no formula is broken: what was found is taken back, draws are not told, keys are gone.

All lines are linked anew, as somebody does who knows how.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles.audited_runs import tampered
from torch import nn

import certify
from bounds.errors import InvalidConfiguration
from certify.auditing.smoothed.votes import VOTES
from certify.auditing.structure import INPUTS, STATUSES
from certify.auditing.witnesses import CLASSES, DISTANCES
from certify.methods import IntervalBounds, MinimalPerturbation, QuantisedCopy, SmoothedAttack, Smoothing, Verify

Edit = Callable[[dict[str, Any]], None]
X = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def rounded(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: (256 * weight).round() / 256 for name, weight in model.state_dict().items()}


MODEL = network()
Y = MODEL(X).argmax(1)
Y[3] = (Y[3] + 1) % 3  # a wrong one


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("edited") / "run"
    quick = MinimalPerturbation(steps=10, restarts=1)
    smoothed = SmoothedAttack(sigma=0.1, n=100, draws=4, steps=3, restarts=1)
    methods = [
        *(Smoothing(sigma=0.1, n=100, n0=10), IntervalBounds(), quick, smoothed, Verify(epsilon=0.3)),
        QuantisedCopy(copy=rounded(MODEL)),
    ]
    certify.evaluate(MODEL, X, Y, norms=2, methods=methods, output=path, cross_sections=0)
    return path


@pytest.fixture
def edited(run: Path, tmp_path: Path) -> Callable[[str, Edit], Path]:
    """A copy of the run in which the record of a method was edited, and all lines linked anew."""

    def edit(method: str, change: Edit) -> Path:
        return tampered(
            run, tmp_path / "run", lambda lines, _: change(next(line for line in lines if line["method"] == method))
        )

    return edit


def audited(path: Path) -> certify.AuditReport:
    return certify.audit(path, MODEL, X, Y, sample=1.0, copies={"quantised_copy": rounded(MODEL)})


def taken_back(record: dict[str, Any]) -> None:
    row = next(row for row in record["rows"] if row["status"] == "found")
    row["status"] = "not found"
    for key in ("attack_distance", "distances", "adversarial_label"):
        row.pop(key)


def undecided(record: dict[str, Any]) -> None:
    row = next(row for row in record["rows"] if row.get("verdict") == "falsified" and row["status"] != "misclassified")
    row["verdict"], row["decided_by"] = "unknown", ""
    row.pop("distances")


def in_row(**values: object) -> Edit:
    return lambda record: record["rows"][0].update(values)


def in_wrong_row(**values: object) -> Edit:
    return lambda record: record["rows"][3].update(values)


def right_class(record: dict[str, Any]) -> None:
    row = next(row for row in record["rows"] if row["status"] == "found")
    row["adversarial_label"] = row["label"]


REFUTED: dict[str, tuple[str, Edit, str]] = {
    "an example is taken back": ("attack", taken_back, DISTANCES),
    "a falsified verdict is taken back": ("verify", undecided, DISTANCES),
    "an example of the right class": ("attack", right_class, CLASSES),
    "it does not say how it drew": ("smoothing", lambda record: record.update(drawing={}), VOTES),
    "it does not say what drawing is off by": (
        "smoothing",
        lambda record: record["drawing"].pop("sampling_error"),
        VOTES,
    ),
    "a wrong input counts as left out": ("ibp", in_wrong_row(status="left out"), STATUSES),
    "an input that a copy did not prove counts as left out": (
        "quantised_copy",
        in_wrong_row(status="left out"),
        STATUSES,
    ),
    "a class that the model has not": ("ibp", in_row(prediction=3), INPUTS),
    "a class of a copy that the model has not": ("quantised_copy", in_row(prediction=3), INPUTS),
    "a class of a smoothed classifier that the model has not": ("smoothed_attack", in_wrong_row(prediction=3), INPUTS),
    "an example of a class that the model has not": ("attack", in_row(adversarial_label=3), INPUTS),
    "a label that the model has not": ("attack", in_row(label=3), INPUTS),
    "an index twice": ("ibp", in_row(index=1), INPUTS),
    "an index twice of a copy": ("quantised_copy", in_row(index=1), INPUTS),
}


@pytest.mark.slow
def test_the_run_itself_holds(run: Path):
    report = audited(run)
    assert report.holds, str(report)
    statuses = {
        (record["method"], row["status"])
        for record in map(json.loads, (run / "records.jsonl").read_text().splitlines())
        for row in record["rows"]
    }
    assert {("attack", "found"), ("smoothed_attack", "misclassified"), ("ibp", "misclassified")} <= statuses


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUTED)
def test_an_edited_row_is_refuted(name: str, edited: Callable[[str, Edit], Path]):
    method, change, check = REFUTED[name]
    report = audited(edited(method, change))
    assert check in {finding.check for finding in report.refuted}, str(report)


@pytest.mark.parametrize("method", ["ibp", "smoothing", "quantised_copy", "verify"])
@pytest.mark.parametrize("key", ["prediction", "certified_radius", "alpha"])
def test_a_row_without_its_result_is_refused(method: str, key: str, edited: Callable[[str, Edit], Path]):
    path = edited(method, lambda record: record["rows"][0].pop(key))
    with pytest.raises(InvalidConfiguration, match="is damaged: "):
        certify.audit(path, records_only=True)
