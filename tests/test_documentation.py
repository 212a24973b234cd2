"""The pages under ``docs/`` are true: their code runs, and the reference holds every public name."""

import importlib
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from certify import cli

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# file: (\S+)\n")
EXPORTING = [
    "bounds",
    "certify",
    "certify.smoothing",
    "certify.attacks",
    "certify.report",
    "certify.surveys",
    "certify.corruptions",
    "certify.training",
]


class Block(NamedTuple):
    """A block of code of a page."""

    language: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    yield from (Block(*found) for found in BLOCK.findall(page.read_text(encoding="utf-8")))


def with_code(page: Path) -> bool:
    return any(block.language == "python" or FILE.match(block.text) for block in blocks(page))


def run(page: Path, folder: Path) -> None:
    """Blocks in their order: files are written, Python runs in one namespace, commands go to the command line."""
    names: dict[str, object] = {"__name__": f"documentation.{page.stem}"}
    for language, text in blocks(page):
        if named := FILE.match(text):
            (folder / named[1]).write_text(text, encoding="utf-8")
        elif language == "python":
            exec(compile(text, str(page), "exec"), names)
        elif language == "console":
            for line in text.splitlines():
                if line.startswith("$ certify ") and "demo" not in line:
                    with pytest.raises(SystemExit) as left:
                        cli.main(shlex.split(line)[2:])
                    assert not left.value.code, line


def rows() -> list[object]:
    """Pages with code; those that take seconds are run with the slow tests."""
    slow = {"start", "noise_and_geometry", "attacks", "certify_your_network", "gate_in_ci", "clever_and_lipschitz"}
    slow |= {
        "how_long_will_it_take",
        "add_a_column",
        "audit_a_run",
        "compare_groups",
        "compare_models",
        "run_on_many_machines",
        "export_results",
        "add_an_attack",
        "add_an_activation",
        "add_a_method",
        "add_a_perturbation_set",
        "add_a_noise",
        "bounds",
        "verify_an_onnx_network",
        "votes_and_weights",
        "transformations",
        "training",
        "confidence",
        "surveys",
    }
    marks = {page: [pytest.mark.slow] if page.stem in slow else [] for page in PAGES if with_code(page)}
    return [pytest.param(page, marks=mark, id=page.stem) for page, mark in marks.items()]


@pytest.mark.parametrize("page", rows())
def test_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run(page, tmp_path)


def test_a_wrong_page_is_seen(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("```python\nassert 1 + 1 == 3\n```\n")
    assert with_code(page)
    with pytest.raises(AssertionError):
        run(page, tmp_path)


def test_the_reference_holds_every_public_name_once():
    text = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    entries = re.findall(r"^\.\. (?:auto\w+|py:data):: (\S+)$", text, re.MULTILINE)
    assert len(entries) == len(set(entries))
    documented = {id(_resolved(entry)) for entry in entries}
    for package in map(importlib.import_module, EXPORTING):
        public = {name: getattr(package, name) for name in package.__all__}
        things = {name: thing for name, thing in public.items() if not inspect.ismodule(thing)}
        assert not [name for name, thing in things.items() if id(thing) not in documented], package.__name__


def _resolved(entry: str) -> object:
    """The object that a dotted name stands for."""
    module, name = entry.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def test_links_between_pages_lead_somewhere():
    for page in [*PAGES, ROOT / "README.md"]:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_bytes()) <= 8192
