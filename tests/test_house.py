"""The rooms of the house: which way imports point, what is public, what lies at the top level."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from oracles.modules import IMPORTS, MODULES, PACKAGES, ROOT, imported

import certify

TOP_LEVEL = {"certify", "bounds", "tests", "examples", "pyproject.toml", "README.md", "CITATION.cff", "LICENSE"}
TOP_LEVEL |= {"CHANGELOG.md", ".ci", ".github", "docs", "CONTRIBUTING.md", ".gitignore", ".pre-commit-config.yaml"}


def own_roots(name: str, imports: set[str]) -> set[str]:
    """Packages around a module that it imports itself."""
    return {other for other in imports if name.startswith(f"{other}.")}


def cycle(imports: Mapping[str, set[str]]) -> list[str] | None:
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1]
    return None


# ----------------------------------------------------------------------------------------------------------- imports


def test_the_reader_sees_imports_as_python_does():
    """The twin of the tests below: it has to find every way to import, or they could not fail."""
    modules = dict.fromkeys(["certify", "certify.a", "certify.b", "certify.report", "certify.report.page", "bounds"])
    source = """
import certify.b, torch
from certify import a, Nothing
from . import b
from .report.page import render
def later():
    from bounds import LpBall
if TYPE_CHECKING:
    from certify.report import Page
else:
    import certify.report.page
"""
    everything = {"certify", "certify.a", "certify.b", "certify.report.page", "bounds"}
    assert imported(source, "certify.a", modules) == everything
    assert imported("from .page import render", "certify.report", modules) == {"certify.report.page"}
    assert imported("from ..a import x", "certify.report.page", modules) == {"certify.a"}
    assert own_roots("certify.report.page", {"certify", "certify.report", "certify.a"}) == {"certify", "certify.report"}
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) is not None
    assert cycle({"a": {"b", "c"}, "b": {"c"}}) is None
    assert len(MODULES) > 25
    assert sum(len(names) for names in IMPORTS.values()) > 60


def test_the_lower_floor_does_not_know_the_upper_one():
    for name, imports in IMPORTS.items():
        if name.split(".")[0] == "bounds":
            assert {other.split(".")[0] for other in imports} <= {"bounds"}, name


def test_nothing_imports_in_a_circle():
    assert cycle(IMPORTS) is None


def test_no_module_imports_a_package_that_it_lies_in():
    found = {name: own_roots(name, imports) for name, imports in IMPORTS.items()}
    assert {name: roots for name, roots in found.items() if roots} == {}


# Rooms from the ground up: a room may import its own modules and what stands above it in this list. Where several share
# a line, none of them knows the others.
DIRECTION = {
    "bounds": [
        {"errors", "memory"},
        {"checks", "circumstances", "models"},
        {"adam", "directions", "numerics", "gradients", "layers", "noise_theorems", "rows"},
        {"sets", "statistics"},
        {"relaxations", "estimates", "separation", "transformations", "vnnlib"},
        {"operations", "decompositions"},
        {"graph"},
        {"engines"},
        {"linear", "noise", "onnx"},
        {"search", "second_opinion"},
        {"solvers", "geometry"},
        {"lipschitz", "transport"},
    ],
    "certify": [
        {"stored_inputs"},
        {
            "durations",
            "sizes",
            "models",
            "results",
            "importing",
            "loaders",
            "programs",
            "proofs",
            "reference",
            "verified_training",
        },
        {"curves"},
        {"distribution", "corruptions", "promises", "sets"},
        {"smoothing", "report", "semantic", "changes", "poisoning"},
        {"attacks", "exports", "requirements"},
        {"confidence", "training", "verification"},
        {"generalisation", "methods", "surveys"},
        {"configuration", "evaluation"},
        {"auditing", "comparison", "tracking"},
        {"gate", "testing"},
        {"command_line"},
        {"cli"},
        {"__main__"},
    ],
    "certify.smoothing": [
        {"drawing", "training"},
        {"derandomized"},
        {"noises"},
        {"classifiers", "data_sets"},
        {"outputs"},
    ],
    "certify.proofs": [
        {"errors"},
        {"networks"},
        {"properties", "balls"},
        {"bounding"},
        {"leaves"},
        {"trees"},
        {"files"},
        {"checking"},
        {"cutting", "splitting", "radii"},
    ],
    "certify.auditing": [
        {"exact", "tally"},
        {"distances", "structure"},
        {"certificates", "material", "smoothed"},
        {"sets"},
        {"changes", "transformations", "witnesses"},
        {"audit"},
    ],
    "certify.attacks": [{"common"}, {"search"}, {"minimum_norm", "fixed_budget"}, {"studies"}],
}


def wrong_turns(floor: str, order: list[set[str]], imports: Mapping[str, set[str]]) -> set[tuple[str, str]]:
    """Imports that do not lead from a room to one below it."""
    height = {room: level for level, rooms in enumerate(order) for room in rooms}

    def rooms_of(name: str) -> list[str]:
        return name.removeprefix(f"{floor}.").split(".")[:1] if name.startswith(f"{floor}.") else []

    pairs = {(name, other) for name, others in imports.items() for other in others}
    return {
        (name, other)
        for name, other in pairs
        for room in rooms_of(name)
        for lower in rooms_of(other)
        if room != lower and height[lower] >= height[room]
    }


@pytest.mark.parametrize("floor", DIRECTION)
def test_rooms_import_in_one_direction(floor: str):
    assert wrong_turns(floor, DIRECTION[floor], IMPORTS) == set()


def test_a_wrong_turn_is_seen():
    order = [{"sets"}, {"graph"}, {"linear", "noise"}]
    right = {
        "bounds.linear.methods": {"bounds.graph.captured", "bounds.linear.alpha", "torch"},
        "bounds": {"bounds.sets"},
    }
    assert wrong_turns("bounds", order, right) == set()
    for name, other in (("bounds.sets.balls", "bounds.linear.alpha"), ("bounds.noise.law", "bounds.linear.alpha")):
        assert wrong_turns("bounds", order, {name: {other}}) == {(name, other)}


def test_results_stand_below_everything_else_of_their_floor():
    rooms = {name: others for name, others in IMPORTS.items() if name.startswith("certify.results")}
    found = {other for others in rooms.values() for other in others if other.startswith("certify")}
    assert len(rooms) > 3
    assert found <= set(rooms)


# ------------------------------------------------------------------------------------------------------ public names

EXPORTING = [
    "bounds",
    "certify.attacks",
    "certify.report",
    "certify.smoothing",
    "certify.surveys",
    "certify.training",
    "certify.corruptions",
]


def in_order(names: list[str]) -> list[str]:
    """Constants, then classes, then the rest, each by name."""
    return sorted(names, key=lambda name: (0 if name.isupper() else 1 if name[0].isupper() else 2, name))


def imported_names(name: str) -> set[str]:
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module.startswith(PACKAGES))
    return {alias.asname or alias.name for node in nodes for alias in node.names}


@pytest.mark.parametrize("name", EXPORTING)
def test_public_names_are_complete_sorted_and_there(name: str):
    package = importlib.import_module(name)
    assert set(package.__all__) == {public for public in imported_names(name) if not public.startswith("_")}
    assert package.__all__ == in_order(package.__all__)
    for public in package.__all__:
        assert getattr(package, public) is not None


def test_lazy_names_are_complete_sorted_and_there():
    """Type checkers see the names that the table holds and that are announced."""
    assert certify.__all__ == in_order(certify.__all__)
    assert set(certify.__all__) == imported_names("certify")
    assert set(certify._HOMES) <= set(certify.__all__)
    assert list(certify._HOMES) == in_order(list(certify._HOMES))
    for public in certify.__all__:
        value = getattr(certify, public)
        if public in certify._HOMES:
            assert value is getattr(importlib.import_module(certify._HOMES[public]), public)
            assert value.__module__ == certify._HOMES[public]
        else:
            assert value is importlib.import_module(f"certify.{public}")
    assert set(dir(certify)) >= {*certify.__all__, "__version__"}


def test_unknown_names_are_refused_as_usual():
    with pytest.raises(AttributeError, match="module 'certify' has no attribute 'nonsense'"):
        _ = certify.nonsense
    assert not hasattr(certify, "_nonsense")


def test_importing_certify_does_not_import_torch():
    """Else every ``certify --help`` would wait for it."""
    code = "import sys, certify; dir(certify); certify.__version__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


@pytest.mark.slow
def test_importing_bounds_does_not_import_what_few_functions_need():
    heavy = [
        "onnx",
        "scipy.stats",
        "scipy.sparse.linalg",
        "scipy.optimize",
        "statsmodels",
        "cvxpy",
        "matplotlib",
        "pandas",
    ]
    code = f"import sys, bounds; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_typed(package: str):
    assert (ROOT / package / "py.typed").is_file()


# --------------------------------------------------------------------------------------------------------- top level


def git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")


def test_the_top_level_holds_nothing_else():
    if Path(git("rev-parse", "--show-toplevel").strip()).resolve() != ROOT.resolve():
        pytest.skip("not a git checkout of its own")
    assert {file.split("/")[0] for file in git("ls-files", "-z").split("\0") if file} <= TOP_LEVEL


def test_torch_has_a_floor_and_no_cap_and_torchvision_is_not_asked_for():
    """A cap would hold back users; torchvision would exchange their build of torch."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    extras = [name for names in project["optional-dependencies"].values() for name in names]
    (torch,) = (name for name in [*project["dependencies"], *extras] if re.match(r"torch\b(?!-)", name))
    assert re.fullmatch(r"torch *>= *[0-9.]+", torch)
    assert "torchvision" not in text


def test_the_citation_names_this_version():
    citation = ROOT / "CITATION.cff"
    if not citation.exists():
        pytest.skip("no CITATION.cff")
    stated = re.findall(r"^version: *\"?([^\"\n]+)\"?$", citation.read_text(encoding="utf-8"), re.MULTILINE)
    assert stated == [certify.__version__]


@pytest.mark.parametrize("package", [False, True])
def test_a_file_that_hides_the_lower_floor_is_named(tmp_path: Path, package: bool):
    """A script beside a ``bounds.py`` of its own ended in an error that named neither."""
    own = tmp_path / "bounds" / "__init__.py" if package else tmp_path / "bounds.py"
    own.parent.mkdir(exist_ok=True)
    own.write_text("")
    script = tmp_path / "script.py"
    script.write_text(f"import sys\nsys.path.append({str(ROOT)!r})\nfrom certify import verify\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"ImportError: {own} hides the package 'bounds' that certify needs: rename it" in done.stderr
