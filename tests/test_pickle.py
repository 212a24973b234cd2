"""Nothing that comes from a file is unpickled: pickle stays between processes that started each other."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What the workers of this very process are sent, and send back.
BETWEEN_PROCESSES = {f"certify/distribution/{name}.py" for name in ("engines", "parcels", "processes", "ray")}
UNPICKLERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve"}


def calls(tree: ast.AST, name: str) -> list[ast.Call]:
    """Calls of ``np.load`` and the like."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == name]


def keywords(call: ast.Call) -> dict[str, str]:
    return {each.arg or "": ast.unparse(each.value) for each in call.keywords}


def unpickling(trees: dict[str, ast.AST]) -> set[str]:
    """Files in which something is read that may run code."""
    found = set()
    for name, tree in trees.items():
        imported = {
            alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
        }
        imported |= {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        loads = any(keywords(call).get("allow_pickle", "False") != "False" for call in calls(tree, "np.load"))
        tensors = any(keywords(call).get("weights_only") != "True" for call in calls(tree, "torch.load"))
        frames = any(calls(tree, f"pd.read_{kind}") for kind in ("pickle", "hdf"))
        if imported & UNPICKLERS or loads or tensors or frames:
            found.add(name)
    return found


@pytest.mark.slow
def test_only_what_goes_between_processes_is_pickled():
    files = (path for package in ("bounds", "certify") for path in (ROOT / package).rglob("*.py"))
    trees = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in files}
    assert unpickling(trees) == BETWEEN_PROCESSES


def test_each_way_to_unpickle_is_seen():
    ways = ("import pickle", "from dill import loads", "torch.load(f)", "torch.load(f, weights_only=False)",
            "np.load(f, allow_pickle=True)", "pd.read_pickle(f)")  # fmt: skip
    assert unpickling({way: ast.parse(way) for way in ways}) == set(ways)
    harmless = ("np.load(f)", "np.load(f, allow_pickle=False)", "torch.load(f, weights_only=True)")
    assert unpickling({way: ast.parse(way) for way in harmless}) == set()
