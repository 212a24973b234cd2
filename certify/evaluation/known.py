"""A look into a run directory before it is opened."""

from pathlib import Path
from typing import NamedTuple

from certify.evaluation.arguments import Asked
from certify.evaluation.costs import Key
from certify.evaluation.left_out import is_left_out
from certify.evaluation.run_directory import RunDirectory
from certify.evaluation.units import units_of


class Known(NamedTuple):
    """A run that is there.

    Attributes:
        sizes: inputs of a unit by the name of the method.
        done: names of units that are finished, and were not left out.
    """

    sizes: dict[str, int]
    done: frozenset[str]


def known_run(output: Path | str | None) -> Known | None:
    """The run in a directory; None if there is none."""
    if output is None or not (Path(output) / "manifest.json").exists():
        return None
    run = RunDirectory.read(output)
    plan = run.manifest["configuration"].get("plan") or {}
    sizes = {name: int(part["rows_per_unit"]) for name, part in plan.items()}
    return Known(sizes, frozenset(name for name, record in run.records().items() if not is_left_out(record)))


def finished_pairs(task: Asked, output: Path | str | None) -> set[Key]:
    """Methods and norms that are finished in a run directory."""
    known = known_run(output)
    if known is None:
        return set()
    problem = task.problem
    units = units_of(task.choice.methods, task.norms, len(problem.x), problem.first_index, known.sizes)
    everything = {(unit.method.name, unit.norm) for unit in units}
    return everything - {(unit.method.name, unit.norm) for unit in units if unit.name not in known.done}
