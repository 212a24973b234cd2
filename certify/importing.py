"""Objects of a user's own module: an importable one, or a file next to the configuration."""

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType

from bounds.errors import InvalidConfiguration

_OWN = "_certify_build_"  # no other module is called so; one of the plain name may be in use


def in_folder(reference: str, folder: Path) -> str:
    """The reference ``module:name``, with the path of the module's file where that lies in the folder."""
    module, separator, name = reference.partition(":")
    return f"{folder / module}.py:{name}" if separator and (folder / f"{module}.py").exists() else reference


def imported(what: str, reference: str) -> object:
    """The object that ``module:name`` stands for; ``what`` is the key that asks for it, for messages.

    Raises:
        InvalidConfiguration: no such reference, or the module fails.
    """
    module_name, _, name = reference.rpartition(":")
    if not module_name:
        raise InvalidConfiguration(f'{what} must be module:name, got {reference!r}: write "my_module:name"')
    try:
        with importable(module_name):
            module = _module(module_name)
            if hasattr(module, name):
                return getattr(module, name)
    except (Exception, SystemExit) as error:  # whatever a foreign module raises
        missing = isinstance(error, ModuleNotFoundError) and error.name == module_name
        remedy = f": put {module_name}.py next to the configuration, or install it" if missing else ""
        raise InvalidConfiguration(f"{what} {reference!r} failed: {type(error).__name__}: {error}{remedy}") from error
    kinds = FunctionType | type
    own = [
        key for key, value in vars(module).items() if isinstance(value, kinds) and value.__module__ == module.__name__
    ]
    remedy = f"it defines {', '.join(own[:8])}" if own else "it defines no function"
    raise InvalidConfiguration(
        f"{what} {reference!r} must be there, but {module_name} has no attribute {name!r}: {remedy}"
    )


def reference_of(kind: type) -> str:
    """The reference under which :func:`imported` finds a class again."""
    module = sys.modules.get(kind.__module__)
    own = kind.__module__.startswith(_OWN) and module is not None and module.__file__ is not None
    return f"{module.__file__ if own and module else kind.__module__}:{kind.__qualname__}"


def _module(name: str) -> ModuleType:
    path = Path(name)
    if path.suffix != ".py":
        return importlib.import_module(name)
    own_name = f"{_OWN}{path.stem}"
    specification = importlib.util.spec_from_file_location(own_name, path)
    if specification is None or specification.loader is None:
        raise ImportError(f"{name} is no Python file")
    module = importlib.util.module_from_spec(specification)
    sys.modules[own_name] = module  # dataclasses and pickle look there
    specification.loader.exec_module(module)
    return module


def own_modules(content: bytes) -> tuple[str, ...]:
    """Files of the user's own modules in this process that a pickled object names."""
    own = [(name, module) for name, module in list(sys.modules.items()) if name.startswith(_OWN)]
    found = [module.__file__ for name, module in own if name.encode() in content]
    return tuple(file for file in found if file is not None)


def restored(files: Iterable[str]) -> None:
    """Import user's own modules, as another process has them, so that pickle finds their classes."""
    for file in files:
        with importable(file):
            _module(file)


@contextlib.contextmanager
def importable(name: str) -> Iterator[None]:
    """While a module is imported from its file, it may import its neighbours, as a script may."""
    before = list(sys.path)
    if Path(name).suffix == ".py":
        sys.path.insert(0, str(Path(name).parent))
    try:
        yield
    finally:
        sys.path[:] = before


def first_line(error: Exception) -> str:
    """The first line of a message from elsewhere, or the name of the error if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
