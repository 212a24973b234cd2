"""Sizes of folders, functions and test files, and names: everything can be overlooked, and a name means one thing."""

import ast
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter

import pytest
from oracles.modules import IMPORTS, MODULES, PACKAGES, ROOT

LARGEST_FOLDER, LONGEST_CHAIN, LONGEST_FUNCTION, MOST_PARAMETERS = 15, 12, 50, 8
LONGEST_FILE = 400  # of tests
Function = ast.FunctionDef | ast.AsyncFunctionDef
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
NO_FIRST_LINE = ("The same", "Likewise", "Of ", "What ", "How ", "Where ", "Which ", "Those ")

# Names that two modules of one floor give to different things, and may: the name, and why.
SHARED_NAMES: dict[str, str] = {
    "clamp": "composed of rectifiers where its sides are data, a relaxation where they are numbers",
    "Scale": "a transformation of images, and a linear map in a proof",
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
    folders = {path.parent for path in MODULES.values()}
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


def test_files_of_tests_are_read_in_one_sitting():
    files = sorted((ROOT / "tests").rglob("*.py"))
    lengths = {str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert len(lengths) > 100
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


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
    said = [(name, ast.get_docstring(node, clean=False) or "") for name, node in own if isinstance(node, kinds)]
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
