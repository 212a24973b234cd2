"""Modules of the project, and what they import."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("bounds", "certify")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def statements(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports anywhere below a node, also inside functions, but not those for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):  # which holds none, and most of the nodes
            continue
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
