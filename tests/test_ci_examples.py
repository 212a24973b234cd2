"""Files for pipelines: they are what they claim to be, their scripts run, and exit codes are those of the gate."""

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from oracles.commands import certify

from certify.configuration.config import read_config

CI = Path(__file__).parents[1] / "examples/ci"
SHIM = """#!/bin/sh
printf '%s\\n' "$(printf "'%s' " "$@")" >>"$LOG"
exit "$CODE"
"""


def read(name: str) -> dict[Any, Any]:
    yaml = pytest.importorskip("yaml")
    found = yaml.safe_load((CI / name).read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def steps(name: str) -> list[dict[str, Any]]:
    found = read(name)
    if "runs" in found:
        return found["runs"]["steps"]
    return [step for job in found["jobs"].values() for step in job["steps"]]


def script(name: str) -> dict[str, Any]:
    return next(step for step in steps("action.yml") if step.get("name") == name)


def run(step: dict[str, Any], folder: Path, code: int, **inputs: str) -> tuple[int, list[list[str]]]:
    """Exit code of a step's script, and the commands that it gave to a program that ends with ``code``."""
    (folder / "bin").mkdir(exist_ok=True)
    shim, log = folder / "bin/certify", folder / "log"
    shim.write_text(SHIM)
    shim.chmod(0o755)
    log.write_text("")
    given = {key: inputs[re.search(r"inputs\.([\w-]+)", value)[1]] for key, value in step["env"].items()}
    environment = {**os.environ, **given, "CODE": str(code), "LOG": str(log)}
    environment["PATH"] = f"{folder / 'bin'}:{os.environ['PATH']}"
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]  # as the runner starts it
    done = subprocess.run(command, cwd=folder, env=environment, check=False)
    return done.returncode, [shlex.split(line) for line in log.read_text().splitlines()]


@pytest.mark.parametrize("name", ["action.yml", "robustness-gate.yml"])
def test_steps_are_those_of_a_workflow(name: str):
    """Each uses an action or runs a script, in which nothing is pasted that somebody else may have written."""
    for step in steps(name):
        assert ("uses" in step) != ("run" in step)
        if "run" in step:
            assert step["shell"] == "bash"
            assert "${{" not in step["run"]
            subprocess.run(["bash", "-n", "-c", step["run"]], check=True)


def test_inputs_of_the_action_are_declared_and_used():
    action, text = read("action.yml"), (CI / "action.yml").read_text()
    assert action["runs"]["using"] == "composite"
    assert set(re.findall(r"\$\{\{ inputs\.([\w-]+) \}\}", text)) == set(action["inputs"])
    assert all(one["description"] and ("default" in one or one["required"]) for one in action["inputs"].values())
    workflow = read("robustness-gate.yml")
    (used,) = [
        step["with"]
        for step in steps("robustness-gate.yml")
        if step["uses" if "uses" in step else "run"].startswith("./")
    ]
    assert set(used) <= set(action["inputs"])
    assert set(workflow[True]) == {"pull_request", "push"}  # YAML 1.1 reads the key "on" as true


def test_exit_codes_are_kept(tmp_path: Path):
    inputs = {"config": "gate.toml", "output": "my run", "against": "", "level": "0.9"}
    for code, expected in ((0, 0), (1, 0), (2, 2), (3, 3)):
        left, commands = run(script("Certify"), tmp_path, code, **inputs)
        assert (left, commands) == (expected, [["run", "gate.toml", "--output", "my run"]])
    for code in (0, 1, 2, 3):
        left, commands = run(script("Judge"), tmp_path, code, **inputs)
        assert left == code
        assert commands[-1] == ["check", "my run", "--format", "github"]
    _, commands = run(script("Judge"), tmp_path, 0, **{**inputs, "against": "before"})
    assert commands[-1] == ["check", "my run", "--against", "before", "--level", "0.9", "--format", "github"]


@pytest.mark.slow
def test_commands_of_all_files_run(tmp_path: Path):
    """The scripts' own commands, on five images."""
    config = (
        (CI / "gate.toml").read_text().replace("count = 100", "count = 5").replace("at_least = 0.5", "at_least = 0")
    )
    (tmp_path / "gate.toml").write_text(config)
    inputs = {"config": "gate.toml", "output": "certify-run", "against": "certify-run", "level": "0.95"}
    commands = [each for name in ("Certify", "Judge") for each in run(script(name), tmp_path, 0, **inputs)[1]]
    lines = read("gitlab-ci.yml")["robustness-gate"]["script"]
    commands += [shlex.split(line.partition(" ||")[0])[1:] for line in lines if line.startswith("certify ")]
    assert len(commands) == 5
    for command in commands:
        told = certify(*command, cwd=tmp_path)
    assert "met: ibp in l∞ at radius 0.05" in told
    (hook,) = read("pre-commit-config.yaml")["repos"][0]["hooks"]
    assert shlex.split(hook["entry"])[:2] == ["certify", "run"]


def test_the_configuration_is_read():
    """And says what its comments say: a bound of 95 %, and a count."""
    proved, broken = read_config(CI / "gate.toml").require
    assert (proved.judge, proved.about, proved.level) == ("bound", "population", 0.95)
    assert broken.judge == "estimate"
