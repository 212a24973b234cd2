"""Audit of transformations: a whole run is confirmed, and each tampered row is refuted by what it says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles.audited_runs import Lines, tampered
from oracles.halfspace import Halfspace
from torch import Tensor, nn

import certify
from certify.auditing.audit import FILES, audit
from certify.auditing.certificates.proofs import PROOFS
from certify.auditing.certificates.rerunning import AGAIN
from certify.auditing.sets import DRAWS, RANGES
from certify.auditing.structure import STATUSES
from certify.auditing.tally import AuditReport
from certify.auditing.transformations.judge import IMAGES, PARAMETERS, TRIED, _within
from certify.methods import RandomTransformations, TransformationAttack, TransformationBounds
from certify.semantic import Photometric, Rotation, TransformationSet

BRIGHT = Halfspace(torch.full((12,), 1 / 12, dtype=torch.float64), -0.4)  # class 1 where the mean is above 0.4
Y = torch.ones(4, dtype=torch.int64)
WIDE, NOISY = Photometric(brightness=(-0.2, 0.1)), TransformationSet(Photometric(brightness=(-0.2, 0.2)), epsilon=0.01)
NAME = str(TransformationSet(WIDE))


def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 0.4 + 0.2 * torch.rand(4, 1, 3, 4, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audited") / "run"
    methods = [TransformationBounds(), TransformationAttack(points=21), RandomTransformations(draws=10)]
    sets = [WIDE, NOISY, Rotation((-2, 2))]
    certify.evaluate(BRIGHT, images(), Y, norms=(), transformations=sets, methods=methods, output=path)
    return path


def judged(path: Path, *, records_only: bool = False) -> AuditReport:
    given = {"records_only": True} if records_only else {"model": BRIGHT, "inputs": images(), "labels": Y}
    return audit(path, sample=1.0, **given)


def rows_of(lines: Lines, method: str, name: str = NAME) -> list[dict[str, Any]]:
    return next(line["rows"] for line in lines if (line["method"], line["norm"]) == (method, name))


def found(lines: Lines) -> dict[str, Any]:
    return next(row for row in rows_of(lines, "transformation_attack") if row["status"] == "found")


def certified(lines: Lines) -> dict[str, Any]:
    """The certificate of the input of which a wrong image was found."""
    return rows_of(lines, "transformation_bounds")[found(lines)["index"]]


def raised(lines: Lines, _: object) -> None:
    """A radius beyond the boundary, where nobody has an example any more."""
    index = found(lines)["index"]
    row, attack = certified(lines), found(lines)
    row["certified_radius"] = 0.2
    row.pop("parameters")
    for key in ("attack_distance", "adversarial_label", "distances", "parameters"):
        attack.pop(key)
    attack["status"] = "not found"
    assert row["index"] == index


def raised_a_little(lines: Lines, _: object) -> None:
    certified(lines)["certified_radius"] *= 1.0001


def beyond_the_range(lines: Lines, _: object) -> None:
    every = [row for line in lines for row in line["rows"]]
    next(row for row in every if row.get("verified"))["certified_radius"] = 3.0


def beyond_its_own_example(lines: Lines, _: object) -> None:
    row = certified(lines)
    row["parameters"][1] = -row["certified_radius"] / 2


def other_parameters(lines: Lines, _: object) -> None:
    found(lines)["parameters"][1] *= 0.99


def mirrored_parameters(lines: Lines, _: object) -> None:
    """Within the range and as far from the identity, but of another image."""
    row = next(row for row in rows_of(lines, "transformation_attack", str(NOISY)) if row["status"] == "found")
    row["parameters"][1] *= -1


def nearer(lines: Lines, _: object) -> None:
    row = found(lines)
    row["attack_distance"] *= 0.999
    row["distances"] = {NAME: row["attack_distance"]}


def two_distances(lines: Lines, _: object) -> None:
    found(lines)["distances"] = {NAME: found(lines)["attack_distance"] * 2}


def more_draws_right(lines: Lines, _: object) -> None:
    row = next(row for row in rows_of(lines, "random_transformations") if row["draws_right"] < 9)
    row["draws_right"] += 1


def narrower(_: Lines, manifest: dict[str, Any]) -> None:
    manifest["configuration"]["transformations"][0]["brightness"] = [-0.1, 0.1]


def renamed(lines: Lines, _: object) -> None:
    for line in lines:
        line["norm"] = line["norm"].replace("-0.2..0.1", "-0.9..0.9")


def surer_of_errors(lines: Lines, _: object) -> None:
    row = rows_of(lines, "random_transformations")[0]
    row["error_lower"] = row["error_upper"] = 1 - row["draws_right"] / row["draws"]


def called_verified(lines: Lines, _: object) -> None:
    certified(lines)["verified"] = True


def verified_with_open_pieces(lines: Lines, _: object) -> None:
    rows = [row for line in lines if line["kind"] == "certificate" for row in line["rows"]]
    next(row for row in rows if row["verified"])["open_pieces"] = 1


def of_the_float32_network(lines: Lines, _: object) -> None:
    next(line for line in lines if line["kind"] == "certificate")["promise"]["arithmetic"] = "deployed"


def of_another(subject: str) -> Callable[[Lines, object], None]:
    """A record whose classifier is none that its method speaks of, lest the model refutes it."""

    def edit(lines: Lines, _: object) -> None:
        line = next(line for line in lines if line["kind"] == "certificate")
        for part in (line["promise"], *line["rows"]):
            part["subject"] = subject

    return edit


EDITS = {
    of_another("quantised copy"): {STATUSES},
    of_another("smoothed(gaussian(sigma=0.25))"): {STATUSES},
    renamed: {FILES},
    surer_of_errors: {DRAWS},
    called_verified: {RANGES},
    verified_with_open_pieces: {RANGES},
    of_the_float32_network: {AGAIN},
    raised: {TRIED, AGAIN},
    raised_a_little: {AGAIN},
    beyond_the_range: {RANGES},
    beyond_its_own_example: {PARAMETERS},
    other_parameters: {PARAMETERS},
    mirrored_parameters: {IMAGES},
    nearer: {PARAMETERS},
    two_distances: {PARAMETERS},
    more_draws_right: {DRAWS},
    narrower: {FILES},
}


@pytest.mark.slow
def test_a_whole_run_is_confirmed(run: Path):
    report = judged(run)
    assert report.holds, str(report)
    assert {PARAMETERS, IMAGES, TRIED, DRAWS, AGAIN, f"{PROOFS} by intervals"} <= set(report.confirmed)
    assert not any(finding.check == PROOFS for finding in report.unjudged)
    assert report.confirmed[TRIED] == sum(
        row.get("certified_radius", 0) > 0
        for line in (run / "records.jsonl").read_text().splitlines()
        for row in json.loads(line)["rows"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_a_tampered_row_is_refuted(edit: Callable[[Lines, dict[str, Any]], None], run: Path, tmp_path: Path):
    report = judged(tampered(run, tmp_path / "run", edit))
    checks = {finding.check for finding in report.refuted}
    assert checks >= EDITS[edit], str(report)


@pytest.mark.slow
def test_parameters_are_judged_without_the_model(run: Path, tmp_path: Path):
    assert judged(run, records_only=True).holds
    report = judged(tampered(run, tmp_path / "run", other_parameters), records_only=True)
    assert {finding.check for finding in report.refuted} == {PARAMETERS, IMAGES}


@pytest.mark.slow
def test_a_range_without_the_identity_is_judged_within_its_radius_alone(tmp_path: Path):
    """All images from -0.2 to -0.19 are wrong, and each radius below that is one without images: it says nothing."""
    away = Photometric(brightness=(-0.2, -0.19))
    methods = [TransformationBounds(), TransformationAttack(points=5)]
    certify.evaluate(BRIGHT, images(), Y, norms=(), transformations=away, methods=methods, output=tmp_path / "run")
    assert judged(tmp_path / "run").holds

    def raised(lines: Lines, _: object) -> None:
        row = rows_of(lines, "transformation_bounds", str(TransformationSet(away)))[0]
        row |= {"certified_radius": 0.1, "status": "certified"}

    report = judged(tampered(tmp_path / "run", tmp_path / "other", raised))
    assert TRIED in {finding.check for finding in report.refuted}


def test_parameters_that_are_fixed_are_tried_whatever_rounding_says():
    """1 - abs(0.3 - 1) is above 0.3 in floating point."""
    over = TransformationSet(Photometric(contrast=(0.3, 0.3), brightness=(-0.1, 0.1)))
    points = _within(over, 1.0, torch.Generator().manual_seed(0))
    assert points.unique(dim=0)[:, 0].unique().tolist() == [0.3]
    assert (points[:, 1].min(), points[:, 1].max()) == (-0.1, 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_run_in_half_precision_is_confirmed(dtype: torch.dtype, tmp_path: Path):
    """Images and noise are rounded to it, and classes at the boundary turn in another precision."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2)).to(dtype)
    x = torch.rand(8, 1, 3, 4).to(dtype)
    given = {"model": model, "inputs": x, "labels": model(x).argmax(1)}
    noisy = TransformationSet(Photometric(brightness=(-0.5, 0.5)), epsilon=0.003)
    methods = TransformationAttack(points=5, steps=5)
    certify.evaluate(*given.values(), norms=(), transformations=noisy, methods=methods, output=tmp_path / "run")
    report = audit(tmp_path / "run", sample=1.0, **given)
    assert report.holds, str(report)
    assert report.confirmed[IMAGES] > 0
