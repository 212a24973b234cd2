"""A look into a run directory before it is opened."""

from pathlib import Path

from certify.evaluation.arguments import Asked
from certify.evaluation.budget.costs import Key
from certify.evaluation.left_out import is_left_out
from certify.evaluation.storage.run_directory import RunDirectory
from certify.evaluation.units import units_of


def known_sizes(output: Path | str | None) -> dict[str, int] | None:
    """Inputs of a unit by the name of the method, in the run in a directory; None if there is none."""
    run = _run_in(output)
    return None if run is None else _sizes(run)


def known_batches(output: Path | str | None, memory: int | None) -> dict[str, int] | None:
    """Rows of a forward pass by method, in the run in a directory that was made with that memory; else None."""
    run = None if memory is None else _run_in(output)
    stated = {} if run is None else run.manifest["configuration"]
    return stated.get("batch_sizes") if stated.get("memory") == memory else None


def finished_pairs(task: Asked, output: Path | str | None) -> set[Key]:
    """Methods and norms that are finished in a run directory."""
    run = _run_in(output)
    if run is None:
        return set()
    done = {name for name, record in run.records().items() if not is_left_out(record)}
    problem = task.problem
    units = units_of(task.choice.methods, task.norms, len(problem.x), problem.first_index, _sizes(run))
    everything = {(unit.method.name, unit.norm) for unit in units}
    return everything - {(unit.method.name, unit.norm) for unit in units if unit.name not in done}


def _run_in(output: Path | str | None) -> RunDirectory | None:
    if output is None or not (Path(output) / "manifest.json").exists():
        return None
    return RunDirectory.read(output)


def _sizes(run: RunDirectory) -> dict[str, int]:
    plan = run.manifest["configuration"].get("plan") or {}
    return {name: int(part["rows_per_unit"]) for name, part in plan.items()}
