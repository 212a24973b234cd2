"""Transformations of a configuration file: read, refused in one line, run, resumed, checked and audited."""

import json
from pathlib import Path

import pytest

from bounds.errors import InvalidConfiguration
from certify.cli import _exit_code
from certify.configuration.config import config_of_manifest, read_config
from certify.evaluation.evaluation import Evaluation
from certify.semantic import Compose, Photometric, Rotation, TransformationSet

ROTATION = TransformationSet(Rotation((-3, 3)))
BOTH = TransformationSet(Compose(Rotation((-1, 1)), Photometric(contrast=(0.95, 1.05))), epsilon=0.001)
START = """
[model]
network = "ibp"
[data]
count = 2
[methods.transformation_bounds]
[methods.transformation_attack]
points = 5
"""
ONE = """
[[transformations]]
kind = "rotation"
degrees = [-3, 3]
"""
TWO = """
[[transformations]]
kind = "compose"
parts = [{ kind = "rotation", degrees = [-1, 1] }, { kind = "photometric", contrast = [0.95, 1.05] }]
epsilon = 0.001
"""
REQUIRED = """
[[require]]
method = "transformation_bounds"
norm = "rotation -3..3, degrees"
radius = 1
at_least = 0.1
about = "these inputs"
"""


def written(folder: Path, *parts: str) -> Path:
    (folder / "config.toml").write_text("".join(parts))
    return folder / "config.toml"


def test_transformations_stand_in_the_place_of_norms(tmp_path: Path):
    config = read_config(written(tmp_path, START, ONE, TWO, ONE, REQUIRED))
    assert config.transformations == [ROTATION, BOTH]
    assert config.transformations[1].epsilon == 0.001
    assert config.norm_orders() == []  # no method of the file serves one
    without = read_config(written(tmp_path, START.partition("[methods")[0], ONE))
    assert without.norm_orders() != []
    assert {"ibp", "transformation_bounds", "random_transformations"} <= {one.name for one in without.chosen_methods()}


@pytest.mark.slow
def test_norms_may_be_left_out_beside_transformations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "norms = []", START.replace("[methods", "[methods.ibp]\n[methods", 1), ONE)
    assert read_config(tmp_path / "config.toml").norm_orders() == []
    assert _exit_code(["run", "config.toml", "--output", "run"]) == 0
    lines = (tmp_path / "run" / "records.jsonl").read_text()
    assert {row["norm"] for row in Evaluation.load("run").rows()} == {str(ROTATION)}
    assert _exit_code(["resume", "run"]) == 0
    assert (tmp_path / "run" / "records.jsonl").read_text() == lines


WRONG = {
    "unknown kind": (ONE.replace("rotation", "rotate"), r"kind must be one of rotation"),
    "one table": (ONE.replace("[[", "[").replace("]]", "]"), r"must be tables \[\[transformations\]\]"),
    "wrong range": (ONE.replace("-3", "4"), "must be a range"),
    "another unit": (
        ONE + REQUIRED.replace("degrees", "pixels"),
        r"must be one in which this run has transformation_b",
    ),
    "another range": (ONE + REQUIRED.replace("-3..3", "-4..4"), r"rotation -3\.\.3, degrees, got rotation -4"),
    "nothing": ("", "norms must name at least one norm, got none"),
    "a norm": (ONE + REQUIRED.replace('"rotation -3..3, degrees"', "2"), "must be one in which this run has"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_one_line(case: str, tmp_path: Path):
    text, message = WRONG[case]
    with pytest.raises(InvalidConfiguration, match=message) as error:
        read_config(written(tmp_path, "norms = []" * (case == "nothing"), START, text))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_run_is_made_resumed_checked_and_audited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, START, ONE, REQUIRED)
    assert _exit_code(["run", "config.toml", "--output", "run"]) == 0
    run = Evaluation.load("run")
    assert {row["norm"] for row in run.rows()} == {str(ROTATION)}
    assert config_of_manifest(run.manifest).transformations == [ROTATION]
    assert "Rotation -3 to 3 (degrees)" in (tmp_path / "run" / "report.html").read_text()
    lines = (tmp_path / "run" / "records.jsonl").read_text()
    assert _exit_code(["resume", "run"]) == 0
    assert (tmp_path / "run" / "records.jsonl").read_text() == lines
    assert _exit_code(["check", "run", "--format", "junit"]) == 0
    assert _exit_code(["audit", "run"]) == 0
    (tmp_path / "run" / "records.jsonl").write_text(
        "".join(json.dumps(with_a_contradiction(json.loads(line))) + "\n" for line in lines.splitlines())
    )
    assert _exit_code(["check", "run"]) == 3


def with_a_contradiction(record: dict) -> dict:
    """The record, with a wrong image at 0.1 degrees of its first input."""
    if record["method"] == "transformation_attack":
        about = {"attack_distance": 0.1, "distances": {str(ROTATION): 0.1}, "parameters": [0.1], "adversarial_label": 0}
        record["rows"][0] |= {"status": "found", **about}
    return record
