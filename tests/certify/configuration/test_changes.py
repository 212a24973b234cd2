"""Changes of a configuration file: read, refused in one line, run, resumed, checked and audited."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles.changed_rows import network, rows
from safetensors.torch import save_file

import certify
from bounds import Levels
from bounds.errors import InvalidConfiguration
from certify.cli import _exit_code
from certify.configuration.config import config_of_manifest, read_config
from certify.evaluation.evaluation import Evaluation

START = """
[model]
build = "models:network"
weights = "weights.safetensors"
[data]
file = "data.npz"
low = -1
high = 2
[methods.change_bounds]
[methods.counterfactual]
beam = 4
"""
GROUPS = """
[[changes]]
at_most = 2
groups = [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
"""
FEATURES = """
[[changes]]
at_most = 1
features = [
  { kind = "category", columns = [0, 1, 2] },
  { kind = "levels", column = 12, values = [0, 0.5, 1], direction = "up" },
]
frozen = [2]
"""
FIRST = certify.ChangedFeatures([[0, 1, 2], [3, 4, 5], [6, 7, 8]], at_most=2)
SECOND = certify.ChangedFeatures([[0, 1, 2], Levels(12, [0, 0.5, 1], direction="up")], at_most=1, frozen=[2])


def required(at_least: float) -> str:
    return f"""
[[require]]
method = "change_bounds"
norm = "{FIRST}"
radius = 1
at_least = {at_least}
about = "these inputs"
"""


def written(folder: Path, *parts: str) -> Path:
    model, x = network(), rows()
    save_file(model.state_dict(), folder / "weights.safetensors")
    np.savez(folder / "data.npz", inputs=x.numpy(), labels=model(x).argmax(1).numpy())
    (folder / "models.py").write_text(
        "from torch import nn\n\n\ndef network():\n"
        "    return nn.Sequential(nn.Linear(15, 8), nn.ReLU(), nn.Linear(8, 2))\n"
    )
    (folder / "config.toml").write_text("".join(parts))
    return folder / "config.toml"


def test_changes_stand_in_the_place_of_norms(tmp_path: Path):
    words = {"embedding": torch.eye(3), "synonyms": torch.tensor([[1], [0], [-1]])}
    save_file(words, tmp_path / "words.safetensors")
    text = '\n[[changes]]\nat_most = 1\nwords = "words.safetensors"\n'
    config = read_config(written(tmp_path, START, GROUPS, FEATURES, GROUPS, text, required(0.5)))
    assert config.changes == [FIRST, SECOND, certify.ChangedWords(tuple(words.values()), at_most=1)]
    assert config.norm_orders() == []
    without = read_config(written(tmp_path, START.partition("[methods")[0], GROUPS))
    assert {"ibp", "change_bounds", "random_changes"} <= {one.name for one in without.chosen_methods()}


WRONG = {
    "one table": (GROUPS.replace("[[ch", "[ch").replace("es]]", "es]"), r"must be tables \[\[changes\]\]"),
    "no group": (GROUPS.replace("[3, 4, 5]", "3"), "columns of a feature must be several"),
    "another number": (GROUPS.replace("2\ng", "1\ng") + required(0.5), "must be one in which this run has change_b"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_one_line(case: str, tmp_path: Path):
    text, message = WRONG[case]
    with pytest.raises(InvalidConfiguration, match=message) as error:
        read_config(written(tmp_path, START, text))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_run_is_made_resumed_checked_compared_and_audited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, START, GROUPS, FEATURES, required(0.1))
    assert _exit_code(["run", "config.toml", "--output", "run"]) == 0
    run = Evaluation.load("run")
    assert {row["norm"] for row in run.rows()} == {FIRST, SECOND}
    assert config_of_manifest(run.manifest).changes == [FIRST, SECOND]
    lines = (tmp_path / "run" / "records.jsonl").read_text()
    assert _exit_code(["resume", "run"]) == 0
    assert (tmp_path / "run" / "records.jsonl").read_text() == lines
    assert _exit_code(["check", "run", "--format", "junit"]) == 0
    assert _exit_code(["check", "run", "--against", "run"]) == 0
    assert _exit_code(["compare", "one=run", "two=run", "--output", "both"]) == 0
    assert _exit_code(["audit", "run"]) == 0
    written(tmp_path, START, GROUPS, FEATURES, required(1.0))
    assert _exit_code(["run", "config.toml", "--output", "strict"]) == 1
    (tmp_path / "run" / "records.jsonl").write_text(
        "".join(json.dumps(reached(json.loads(line))) + "\n" for line in lines.splitlines())
    )
    assert _exit_code(["check", "run"]) == 3


def reached(record: dict) -> dict:
    """The record, with a certificate of as many changes as a counterfactual was found with."""
    for row in record["rows"]:
        if record["method"] == "change_bounds" and row["certified_radius"] < 2 and record["norm"] == FIRST:
            row |= {"certified_radius": 2.0, "status": "certified"}
    return record
