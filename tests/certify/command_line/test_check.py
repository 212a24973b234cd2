"""The gate on the command line: formats, files, earlier runs, and what is refused."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from oracles.commands import certify, refusal
from oracles.compared import NOT, attacked, evaluation, proved

from certify.evaluation.evaluation import Evaluation

REQUIRE = {"method": "ibp", "norm": "2", "radius": 0.1, "at_least": 0.5}


def saved(path: Path, values: list[float], *, distance: float = 9.0, **source: object) -> None:
    made = evaluation(proved(values), attacked([distance] * len(values)))
    Evaluation({**made.manifest, "source": source}, made.records).save(path)


@pytest.fixture(autouse=True)
def records_are_believed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records here are made up, and would be refuted: the audit of records has tests of its own."""
    if "refuted" not in request.node.name:
        monkeypatch.setattr("certify.auditing.audit.refutations", lambda path: [])


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    saved(tmp_path / "before", [0.5] * 12)
    saved(tmp_path / "fine", [0.5] * 12, require=[REQUIRE])
    saved(tmp_path / "missed", [0.5] * 2 + [NOT] * 10, require=[REQUIRE])
    saved(tmp_path / "fallen", [0.5] * 2 + [NOT] * 10)
    saved(tmp_path / "wrong", [0.5] * 12, distance=0.4)
    return tmp_path


def test_exit_codes(runs: Path):
    assert "met: ibp in l2 at radius 0.1" in certify("check", "fine", cwd=runs)
    assert "missed: ibp in l2 at radius 0.1" in certify("check", "missed", cwd=runs, expect=1)
    assert "contradiction: input 0: ibp certifies 0.5" in certify("check", "wrong", cwd=runs, expect=3)
    certify("check", "fallen", cwd=runs)
    assert "fell: l2" in certify("check", "fallen", "--against", "before", cwd=runs, expect=1)
    assert "not fallen: l2" in certify("check", "before", "--against", "fallen", cwd=runs)


def test_what_the_records_of_a_run_refute_themselves_is_refuted(runs: Path):
    assert "refuted: attack/2/0-12: it names no tensors" in certify("check", "fine", cwd=runs, expect=3)
    found = json.loads(certify("check", "fine", "--format", "json", cwd=runs, expect=3))
    assert found["verdict"] == "contradiction"
    assert found["refutations"] == ["attack/2/0-12: it names no tensors"]


def test_the_chosen_format_is_all_that_is_printed(runs: Path):
    found = json.loads(certify("check", "missed", "--format", "json", cwd=runs, expect=1))
    assert found["requirements"][0]["met"] is False
    told = certify("check", "missed", "--format", "junit", cwd=runs, expect=1)
    assert ElementTree.fromstring(told.encode()).tag == "testsuites"
    assert certify("check", "missed", "--format", "github", cwd=runs, expect=1).startswith("::error ")
    assert "--format" in refusal("check", "fine", "--format", "yaml", cwd=runs)


def test_a_file_takes_the_format_and_the_screen_the_text(runs: Path):
    told = certify("check", "missed", "--format", "json", "--output", "new/gate.json", cwd=runs, expect=1)
    assert told.startswith("missed: ")
    assert json.loads((runs / "new/gate.json").read_text())["exit_code"] == 1
    line = refusal("check", "missed", "--format", "json", "--output", "before", cwd=runs)
    assert "before cannot be written" in line


def test_an_earlier_run_of_the_configuration_is_compared_too(runs: Path):
    against = {"run": str(runs / "before"), "radius": [0.2], "level": 0.999}
    saved(runs / "stated", [0.5] * 4 + [NOT] * 8, against=against)
    told = certify("check", "stated", cwd=runs)
    assert "radius 0.2 (" not in told
    assert "not fallen: l2, the models themselves, proved, radius 0.2" in told
    assert "a fall up to 0.001" in told
    told = certify("check", "stated", "--level", "0.9", "--radius", "0.2", "0.3", cwd=runs, expect=1)
    assert told.count("fell: ") == 2
    assert "any fall counts" in certify("check", "stated", "--about", "these inputs", cwd=runs, expect=1)
    assert "(0 lost, 2 gained)" in certify("check", "stated", "--against", "fallen", cwd=runs)


def test_what_cannot_be_judged_is_refused_in_one_line(runs: Path):
    saved(runs / "more", [0.5] * 13)
    for arguments, parts in (
        (["--against", "more"], ["'fine' cannot be compared with 'more'", "other places of the data set"]),
        (["--against", "none"], ["none holds no run"]),
        (["--level", "0.9"], ["--level must come with an earlier run", "--against RUN"]),
        (
            ["--against", "before", "--level", "95"],
            ["--level must lie strictly between 0 and 1", "got 95", "write 95 % as 0.95"],
        ),
        (["--against", "before", "--radius", "-1"], ["-1"]),
    ):
        line = refusal("check", "fine", *arguments, cwd=runs)
        assert [part for part in parts if part not in line] == [], line


def test_a_missing_earlier_run_is_told_before_any_work(tmp_path: Path):
    config = '[model]\nnetwork = "ibp"\n[data]\ncount = 2\n[methods.ibp]\n[against]\nrun = "before"\n'
    (tmp_path / "config.toml").write_text(config)
    assert "before holds no run" in refusal("run", "config.toml", "--output", "out", cwd=tmp_path)
    assert not (tmp_path / "out").exists()
    for line, parts in {
        'runs = "before"': [
            "[against] must have known keys only, got 'runs' (did you mean run?): known are run, radius"
        ],
        'about = "all"': ['[against] about must be one of "population", "these inputs", got \'all\''],
        "level = 1": ["[against] level must be a number above 0 and below 1, got 1: the default is 0.95"],
        "radius = 0.1": ["[against] radius must be a list, each entry a number of at least 0, got 0.1"],
    }.items():
        (tmp_path / "config.toml").write_text(config + line + "\n")
        told = refusal("run", "config.toml", cwd=tmp_path)
        assert [part for part in parts if part not in told] == [], told


@pytest.mark.slow
def test_a_run_against_itself_has_not_fallen(tmp_path: Path):
    """From a configuration, on both ends: a path starts from its folder, and a change of it continues the run."""
    config = 'norms = ["inf"]\n[model]\nnetwork = "ibp"\n[data]\ncount = 2\n[methods.ibp]\n'
    (tmp_path / "config.toml").write_text(config)
    certify("run", "config.toml", "--output", "before", cwd=tmp_path)
    (tmp_path / "config.toml").write_text(config + '[against]\nrun = "before"\nradius = [0.05]\n')
    told = certify("run", tmp_path / "config.toml", "--output", tmp_path / "out", cwd=tmp_path.parent)
    assert "not fallen: l∞, the models themselves, proved, radius 0.05 (12.75/255)" in told
    assert "not fallen" in certify("resume", "out", cwd=tmp_path)
