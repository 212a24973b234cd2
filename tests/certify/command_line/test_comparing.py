"""The commands that look at finished runs: compare, export, groups."""

import re
from pathlib import Path

import pytest
from oracles.commands import certify, refusal
from oracles.compared import NOT, attacked, evaluation, proved

WEAK, STRONG = [0.1] * 20 + [NOT] * 20, [0.1] * 5 + [0.5] * 30 + [NOT] * 5


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three runs: two that can be compared, and one on other inputs."""
    for name, radii, data in (("weak", WEAK, "ab"), ("strong", STRONG, "ab"), ("elsewhere", WEAK, "cd")):
        evaluation(proved(radii), attacked([0.6] * 40), data=data * 32, inputs=40).save(tmp_path / name)
    return tmp_path


def test_compare_prints_accuracies_and_differences(runs: Path):
    told = certify("compare", "weak", "strong", "--radius", "0.1", "0.3", cwd=runs)
    assert "weak, strong on the same 40 inputs; accuracies in %" in told
    assert re.search(r"the models themselves +proved +weak +50\.0 +0\.0\n", told)
    assert re.search(r"the models themselves +proved +strong +87\.5\* +75\.0\*\n", told)
    assert re.search(r"weak against strong: -75\.0 points \(-\d+\.\d to -\d+\.\d; proved, l2, radius 0\.3\)", told)
    assert "of 4 paired differences are significant after correction (Holm)" in told


@pytest.mark.slow
def test_compare_writes_what_is_asked_for(runs: Path):
    told = certify("compare", "a=weak", "b=strong", "--output", "out", "--format", "csv,svg", cwd=runs)
    assert "a, b on the same 40 inputs" in told
    names = {path.name for path in (runs / "out").iterdir()}
    assert names == {"accuracy_l2.csv", "differences.csv", "curves_l2.svg", "trade_off_l2.svg", "comparison.html"}


def test_compare_by_method_names_the_methods(runs: Path):
    assert "weak, ibp against strong, ibp" in certify("compare", "weak", "strong", "--by", "method", cwd=runs)


def test_compare_refuses_in_one_line(runs: Path):
    assert "'elsewhere' cannot be compared with 'weak': other inputs" in refusal(
        "compare", "weak", "elsewhere", cwd=runs
    )
    assert "at least two evaluations, got 1" in refusal("compare", "weak", cwd=runs)
    assert "got 'weak' twice: write NAME=DIR" in refusal("compare", "weak", "weak", cwd=runs)
    assert "nowhere holds no run" in refusal("compare", "weak", "nowhere", cwd=runs)
    assert "formats must be some of" in refusal("compare", "weak", "strong", "--format", "xls", cwd=runs)


def test_a_refuted_certificate_is_told_with_the_comparison(runs: Path):
    refuted = evaluation(proved([0.7, *STRONG[1:]]), attacked([0.6] * 40), data="ab" * 32, inputs=40)
    refuted.save(runs / "refuted")
    told = certify("compare", "weak", "refuted", cwd=runs, expect=3)
    assert "contradiction: refuted: input 0: ibp certifies 0.7 of the base classifier in l2" in told


def test_runs_of_one_name_are_told_apart_by_their_paths(runs: Path):
    (runs / "more").mkdir()
    (runs / "strong").rename(runs / "more" / "weak")
    assert "weak, more/weak on the same 40 inputs" in certify("compare", "weak", "more/weak", cwd=runs)


def test_export_writes_into_the_run_or_elsewhere(runs: Path):
    told = certify("export", "weak", "--format", "csv,markdown", cwd=runs)
    assert "wrote weak/export/rows.csv" in told
    certify("export", "weak", "--format", "json", "--output", "there", cwd=runs)
    assert (runs / "there" / "export.json").is_file()
    assert "formats must be some of" in refusal("export", "weak", "--format", "docx", cwd=runs)


@pytest.mark.slow
def test_a_run_by_class_tells_its_groups_and_can_be_resumed(tmp_path: Path):
    (tmp_path / "config.toml").write_text(
        'groups = "label"\nnorms = ["inf"]\n[model]\nnetwork = "ibp"\n[data]\ncount = 12\n[methods.ibp]\n'
    )
    told = certify("run", "config.toml", "--output", "run", cwd=tmp_path)
    assert "by group:\nibp in l∞ at radius" in told
    assert "by group:" in certify("resume", "run", cwd=tmp_path)
    assert "Groups of inputs" in (tmp_path / "run" / "report.html").read_text()


def test_groups_are_shown_by_label_or_column(runs: Path):
    told = certify("groups", "strong", "--radius", "0.2", cwd=runs)
    assert "ibp in l2 at radius 0.2: worst group" in told
    assert len(re.findall(r"^ +l2 +ibp +certified, proved", told, re.MULTILINE)) == 3
    assert "got 'site'" in refusal("groups", "strong", "--by", "site", cwd=runs)
