"""Audit of few changes: its own lists agree with others, a whole run is confirmed, each tampered row is refuted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles.audited_runs import Lines, tampered
from oracles.changed_rows import FEATURES, FEW, network, rows, texts
from oracles.feature_tables import FEATURES as RANGED
from oracles.feature_tables import ROWS, listed_rows
from torch import nn

import bounds
import certify
from bounds.errors import InvalidInput
from certify.auditing.audit import FILES, audit
from certify.auditing.certificates.proofs import PROOFS, Reprover
from certify.auditing.certificates.rerunning import AGAIN
from certify.auditing.changes import judge
from certify.auditing.changes.judge import COUNTED, LISTED
from certify.auditing.changes.listing import changeable_parts, changes_of, combinations_of, count_of, points_of
from certify.auditing.changes.region import ChangedRegion
from certify.auditing.sets import DRAWS, RANGES, Evidence
from certify.auditing.structure import CONTRADICTIONS
from certify.auditing.tally import AuditReport
from certify.methods import Problem

MODEL, X = network(), rows()
Y = MODEL(X).argmax(1)
FREE = {"low": None, "high": None}
EPS = torch.finfo(torch.float32).eps


def keys(points: torch.Tensor) -> set[tuple[float, ...]]:
    return {tuple(row) for row in points.flatten(1).tolist()}


@pytest.mark.parametrize("frozen", [(), (0, 12, 13)])
@pytest.mark.parametrize("most", [0, 1, 2, 5])
def test_its_list_is_that_of_all_changed_rows(most: int, frozen: tuple[int, ...]):
    for x, features in ((rows(), FEATURES), (ROWS, RANGED[:4])):
        still = [place for place in frozen if place < x.shape[1]]
        mask = torch.zeros(x.shape[1], dtype=torch.bool)
        mask[still] = True
        for row in x:
            parts = changeable_parts(certify.ChangedFeatures(features, 1, still), row)
            made = points_of(row, list(combinations_of(parts, most)))
            assert keys(made) == keys(listed_rows(row, features, most, mask))
            assert len(made) == count_of(parts, most)
            assert all(changes_of(parts, row, point, 0.0) <= most for point in made)


def test_words_are_listed_and_recounted():
    _, over, x, _ = texts()
    region = over.around(x)
    for place, text in enumerate(x):
        parts = changeable_parts(over, text)
        made = points_of(text, list(combinations_of(parts, 3)))
        here = region.within(3).rows(torch.full((len(made),), place))
        assert here.contains(made.double()).all()
        assert len(keys(made)) == len(made) == count_of(parts, 3)
        assert [changes_of(parts, text, point, 0.0) for point in made] == here.changed(made).tolist()
        assert changes_of(parts, text, text + 1, 0.0) is None


def test_what_is_no_change_of_the_set_does_not_count():
    row = ROWS[0]
    parts = changeable_parts(certify.ChangedFeatures(RANGED, 2), row)
    point = row.clone()
    point[7] = 0.7
    assert changes_of(parts, row, point, EPS) == 1
    point[7] = 0.751  # beyond its reach of 0.25 from 0.5
    assert changes_of(parts, row, point, EPS) is None
    for column, value in ((8, 0.0), (0, 0.0), (1, 1.0), (5, 2.5), (6, 4.0)):  # no feature, none, two, no level, upward
        point = row.clone()
        point[column] = value
        assert changes_of(parts, row, point, EPS) is None


def test_a_number_that_is_frozen_at_an_end_of_its_range_does_not_move():
    row = ROWS[1]
    assert row[7] == 1.0
    parts = changeable_parts(certify.ChangedFeatures(RANGED, 2, frozen=[7]), row)
    assert parts[-1].moves == []
    point = row.clone()
    point[7] = 0.9
    assert changes_of(parts, row, point, EPS) is None


class Lost(nn.Module):
    """Class 0, but no number as soon as the first entry is 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = torch.where(x[:, 0] == 0, torch.nan, 1.0)
        return torch.stack([first, torch.zeros_like(first)], 1)


def test_inputs_without_a_class_confirm_nothing():
    row = torch.tensor([1.0, 0.0, 0.0])
    parts = changeable_parts(certify.ChangedFeatures([[0, 1, 2]], 1), row)
    y = torch.tensor([0])
    problem = Problem(model=Lost(), x=row[None], y=y, low=None, high=None, num_classes=2, seed=0, batch_size=2)
    asked = Evidence(problem, lambda x, label: [0.0], Reprover(problem.model, problem.x, 0, (None, None)), 0)
    assert len(judge._wrong(row, combinations_of(parts, 1), 0, asked)) == 2


def test_its_least_values_are_those_of_all_changed_rows():
    generator = torch.Generator().manual_seed(4)
    for x, features in ((rows().double(), FEATURES), (ROWS, RANGED)):
        functions = torch.randn(20, x.shape[1], generator=generator, dtype=torch.float64)
        for row in x:
            for most in (0, 1, 2, 5):
                region = ChangedRegion.of(row, changeable_parts(certify.ChangedFeatures(features, 5), row), most)
                exact = (listed_rows(row, features, most) @ functions.T).amin(0)
                least, terms = region.least(functions)
                assert torch.allclose(least, exact, rtol=1e-12, atol=1e-12)
                assert (terms >= (functions.abs() @ row.abs()) + (least - functions @ row).abs() - 1e-9).all()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audited") / "run"
    certify.evaluate(MODEL, X, Y, norms=(), changes=FEW, output=path, **FREE)
    return path


def judged(path: Path, *, records_only: bool = False) -> AuditReport:
    given = {"records_only": True} if records_only else {"model": MODEL, "inputs": X, "labels": Y}
    return audit(path, sample=1.0, **given)


def rows_of(lines: Lines, method: str) -> list[dict[str, Any]]:
    return next(line["rows"] for line in lines if line["method"] == method)


def found(lines: Lines) -> dict[str, Any]:
    return next(row for row in rows_of(lines, "counterfactual") if row.get("attack_distance") == 3)


def certified(lines: Lines) -> dict[str, Any]:
    return rows_of(lines, "change_bounds")[found(lines)["index"]]


def as_many_as_its_counterfactual(lines: Lines, _: object) -> None:
    certified(lines)["certified_radius"] = 3.0


def raised(lines: Lines, _: object) -> None:
    """A radius at which there is a counterfactual, which nobody has any more."""
    certified(lines)["certified_radius"] = 3.0
    row = found(lines)
    for key in ("attack_distance", "adversarial_label", "distances"):
        row.pop(key)
    row["status"] = "not found"


def no_number_of_changes(lines: Lines, _: object) -> None:
    certified(lines)["certified_radius"] = 1.5


def beyond_the_set(lines: Lines, _: object) -> None:
    next(row for row in rows_of(lines, "change_bounds") if row["verified"])["certified_radius"] = 4.0


def called_verified(lines: Lines, _: object) -> None:
    certified(lines)["verified"] = True


def lowered(lines: Lines, _: object) -> None:
    certified(lines)["certified_radius"] = 1.0


def farther(lines: Lines, manifest: dict[str, Any]) -> None:
    row = next(row for row in rows_of(lines, "counterfactual") if row.get("attack_distance") == 2)
    row |= {"attack_distance": 3.0, "distances": {str(FEW): 3.0}}


def two_distances(lines: Lines, _: object) -> None:
    found(lines)["distances"] = {str(FEW): 4.0}


def more_draws_right(lines: Lines, _: object) -> None:
    next(row for row in rows_of(lines, "random_changes") if row["draws_right"] < 99)["draws_right"] += 1


def narrower(_: Lines, manifest: dict[str, Any]) -> None:
    manifest["configuration"]["changes"][0]["at_most"] = 2


EDITS = {
    as_many_as_its_counterfactual: {CONTRADICTIONS, LISTED, AGAIN},
    raised: {LISTED, AGAIN},
    no_number_of_changes: {RANGES, AGAIN},
    beyond_the_set: {RANGES, AGAIN},
    called_verified: {RANGES},
    lowered: {AGAIN},
    farther: {COUNTED},
    two_distances: {COUNTED},
    more_draws_right: {DRAWS},
    narrower: {FILES},
}


@pytest.mark.slow
def test_a_whole_run_is_confirmed(run: Path):
    report = judged(run)
    assert report.holds, str(report)
    assert {COUNTED, LISTED, DRAWS, AGAIN, CONTRADICTIONS} <= set(report.confirmed)
    assert not [finding for finding in report.unjudged if finding.check in (LISTED, PROOFS)]
    alone = judged(run, records_only=True)
    assert alone.holds
    assert alone.confirmed[COUNTED] == report.confirmed[COUNTED] >= 3


@pytest.mark.slow
@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_a_tampered_row_is_refuted(edit: Callable[[Lines, dict[str, Any]], None], run: Path, tmp_path: Path):
    report = judged(tampered(run, tmp_path / "run", edit))
    assert {finding.check for finding in report.refuted} >= EDITS[edit], str(report)


@pytest.mark.slow
def test_sets_that_are_too_large_to_list_are_proved_or_left(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(judge, "MOST_POINTS", 5)
    report = judged(run)
    assert report.holds, str(report)
    assert sum(count for check, count in report.confirmed.items() if check.startswith(PROOFS)) > 0
    report = judged(tampered(run, tmp_path / "run", raised))
    assert not any(finding.check.startswith(PROOFS) for finding in report.refuted)
    assert LISTED in {finding.check for finding in report.refuted} or report.unjudged


@pytest.mark.slow
def test_ranges_are_proved_by_bounds_of_its_own(tmp_path: Path):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Linear(16, 2)).double()
    labels = model(ROWS).argmax(1)
    over = certify.ChangedFeatures([*RANGED[:4], bounds.Numeric(7, 0.0, 1.0, reach=0.25)], at_most=2)
    certify.evaluate(model, ROWS, labels, norms=(), changes=over, output=tmp_path / "run", **FREE)
    report = audit(tmp_path / "run", model, ROWS, labels, sample=1.0)
    assert report.holds, str(report)
    assert any(check.startswith(PROOFS) for check in report.confirmed)


@pytest.mark.slow
def test_words_are_handed_in(tmp_path: Path):
    model, over, x, _ = texts()
    labels = model(x).argmax(1)
    certify.evaluate(model, x, labels, norms=(), changes=over, output=tmp_path / "run", **FREE)
    given = {"model": model, "inputs": x, "labels": labels, "sample": 1.0}
    report = audit(tmp_path / "run", changes=[over], **given)
    assert report.holds, str(report)
    assert report.confirmed[LISTED] > 0
    report = audit(tmp_path / "run", **given)
    assert report.holds, str(report)
    assert any("no more than their digest" in finding.reason for finding in report.unjudged)
    with pytest.raises(InvalidInput, match="changes must be sets of the run"):
        audit(tmp_path / "run", changes=[FEW], **given)
