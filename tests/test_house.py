"""The rooms of the house: which way imports point, what is public, what lies at the top level."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import certify

ROOT = Path(__file__).parents[1]
PACKAGES = ("bounds", "certify")
TOP_LEVEL = {"certify", "bounds", "tests", "examples", "pyproject.toml", "README.md", "CITATION.cff", "LICENSE"}
TOP_LEVEL |= {"CHANGELOG.md", ".ci", ".github", "docs", "CONTRIBUTING.md", ".gitignore", ".pre-commit-config.yaml"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def statements(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports anywhere below a node, also inside functions, but not those for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from statements(other)
        elif isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        else:
            yield from statements(child)


def imported(source: str, name: str, modules: Mapping[str, object]) -> set[str]:
    """Modules of the house that a module imports. ``from a import b`` means ``a.b`` where that is a module."""
    found = set()
    is_package = any(other.startswith(f"{name}.") for other in modules)
    for statement in statements(ast.parse(source)):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
            continue
        base = statement.module or ""
        if statement.level:
            parents = name.split(".")[: len(name.split(".")) - statement.level + is_package]
            base = ".".join([*parents, *([base] if base else [])])
        for alias in statement.names:
            found.add(f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base)
    return found & set(modules)


IMPORTS = {name: imported(path.read_text(encoding="utf-8"), name, MODULES) for name, path in MODULES.items()}


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
        {"numerics", "gradients", "layers", "noise_theorems", "rows"},
        {"sets", "statistics", "transport"},
        {"relaxations", "estimates"},
        {"operations", "decompositions"},
        {"graph"},
        {"linear", "noise"},
        {"solvers", "geometry"},
        {"lipschitz"},
    ],
    "certify.smoothing": [
        {"drawing", "training"},
        {"derandomized"},
        {"noises"},
        {"classifiers", "data_sets"},
        {"outputs"},
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
    assert {other for other in IMPORTS["certify.results"] if other.startswith("certify")} == set()


# -------------------------------------------------------------------------------------------------------------- sizes

LARGEST_FOLDER, LONGEST_CHAIN, LONGEST_FUNCTION, MOST_PARAMETERS = 15, 12, 50, 8
Function = ast.FunctionDef | ast.AsyncFunctionDef
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
NO_FIRST_LINE = ("The same", "Likewise", "Of ", "What ", "How ", "Where ", "Which ", "Those ")

# Names that two modules of one floor give to different things, and may: the name, and why.
SHARED_NAMES: dict[str, str] = {
    "clamp": "composed of rectifiers where its sides are data, a relaxation where they are numbers",
    "norm": "an argument to be checked, and an operation of torch",
    "positive": "an argument to be checked, and an operation of torch",
    "run": "a command, and an attack",
}


def functions(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    """All functions, with the names of classes and functions around them."""

    def below(node: ast.AST, path: str) -> Iterator[tuple[str, Function]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function | ast.ClassDef):
                inner = f"{path}.{child.name}".lstrip(".")
                if isinstance(child, Function):
                    yield inner, child
                yield from below(child, inner)
            else:
                yield from below(child, path)

    yield from below(tree, "")


def is_private(module: str, path: str) -> bool:
    """Whether a function is one of a class or module that is not to be used from outside, or inside of another."""
    parts = [*module.split("."), *path.split(".")]
    return any(part.startswith("_") and not part.endswith("__") for part in parts)


def lines_of(function: Function) -> int:
    """Without the docstring."""
    first = function.body[0]
    said = first.end_lineno - first.lineno + 1 if ast.get_docstring(function) else 0
    return function.end_lineno - function.lineno + 1 - said


def parameters(function: Function) -> int:
    given = function.args
    names = [part.arg for part in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def longest_chain(imports: Mapping[str, set[str]]) -> list[str]:
    """The modules of the longest way along imports."""
    best: dict[str, list[str]] = {}
    for name in TopologicalSorter(imports).static_order():
        below = (best[other] for other in imports.get(name, ()))
        best[name] = [name, *max(below, key=len, default=[])]
    return max(best.values(), key=len)


def test_folders_can_be_overlooked():
    folders = {path.parent for name, path in MODULES.items() if name.startswith("bounds.")}
    counts = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in folders}
    assert {folder: count for folder, count in counts.items() if count > LARGEST_FOLDER} == {}


def test_no_way_along_imports_is_long():
    """From room to room; inside of a room, modules are read together."""
    rooms: dict[str, set[str]] = {}
    for name, found in IMPORTS.items():
        if name.startswith("bounds"):
            here = name.split(".")[:2]
            there = {".".join(other.split(".")[:2]) for other in found}
            rooms.setdefault(".".join(here), set()).update(there - {".".join(here)})
    chain = longest_chain(rooms)
    assert len(chain) <= LONGEST_CHAIN, " -> ".join(chain)


def test_functions_fit_on_a_screen_and_only_public_ones_have_many_parameters():
    found = [(name, path, each) for name, tree in TREES.items() for path, each in functions(tree)]
    private = [(name, path, each) for name, path, each in found if is_private(name, path)]
    assert [f"{name}.{path}" for name, path, each in private if lines_of(each) > LONGEST_FUNCTION] == []
    many = {f"{name}.{path}" for name, path, each in private if parameters(each) > MOST_PARAMETERS}
    assert many <= {"bounds.decompositions.recurrent._unrolled.run"}  # whose parameters are those of the operation


@pytest.mark.parametrize("package", PACKAGES)
def test_first_lines_of_docstrings_stand_alone(package: str):
    own = [(name, node) for name, tree in TREES.items() if name.startswith(package) for node in ast.walk(tree)]
    kinds = ast.Module | ast.ClassDef | Function
    said = [(name, ast.get_docstring(node) or "") for name, node in own if isinstance(node, kinds)]
    assert [(name, text.split("\n")[0]) for name, text in said if text.startswith(NO_FIRST_LINE)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_name_means_one_thing(package: str):
    homes: dict[str, list[str]] = {}
    for name, tree in TREES.items():
        defined = {node.name for node in tree.body if isinstance(node, Function | ast.ClassDef)}
        for each in defined if name.split(".")[0] == package else ():
            homes.setdefault(each, []).append(name)
    twice = {name: where for name, where in homes.items() if len(where) > 1 and not name.startswith("_")}
    assert {name: where for name, where in twice.items() if name not in SHARED_NAMES} == {}


def test_what_is_too_large_is_seen():
    body = "\n".join(["        x = 1"] * 51)
    tree = ast.parse(f'class A:\n    def _f(self, a):\n        """Say.\n\n        More.\n        """\n{body}\n')
    ((path, function),) = functions(tree)
    assert (path, lines_of(function), parameters(function)) == ("A._f", 52, 1)
    assert is_private("bounds.rows", path)
    assert not is_private("bounds.rows", "A.__init__")
    assert longest_chain({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == ["a", "b", "c"]


# ------------------------------------------------------------------------------------------------------ public names

EXPORTING = ["bounds", "certify.attacks", "certify.report", "certify.smoothing"]


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
    """What type checkers see, what the table holds and what is announced are the same names."""
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


def test_importing_bounds_does_not_import_what_few_functions_need():
    heavy = ["scipy.stats", "scipy.sparse.linalg", "scipy.optimize", "statsmodels", "cvxpy", "matplotlib", "pandas"]
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
