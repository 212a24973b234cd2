"""The commands: each parses, calls the library, and maps the outcome to an exit code.

Torch is imported inside commands only, so that help is quick.
"""

import io
import shlex
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cyclopts

from certify.command_line.auditing import audit_run, repair_run
from certify.command_line.checking import check_run
from certify.command_line.comparing import compare_directories, compare_runs, export_run, show_groups
from certify.command_line.distributing import (
    Placement,
    device_of,
    directory_of,
    engine_for,
    shard_of,
    shard_verdict,
)
from certify.command_line.process import FINE, INTERRUPTED, raise_when_interrupted
from certify.command_line.properties.proving import check_proof_file
from certify.command_line.properties.verifying import supports, verify_query
from certify.command_line.runs import load_run, output_directory
from certify.command_line.telling import teller

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from certify.configuration.config import Baseline, Config
    from certify.configuration.data.labelled import LabelledInputs
    from certify.distribution import Shard
    from certify.evaluation.budget.costs import CostEstimate
    from certify.evaluation.evaluation import Evaluation

Network = Literal["plain", "noise", "pgd", "ibp"]

app = cyclopts.App(
    name="certify",
    help="Certify the robustness of trained PyTorch classifiers, next to the attacks that test them.",
    version=lambda: version("certify-bounds"),
    suppress_keyboard_interrupt=False,
    result_action="return_value",
)
app.command(check_run, name="check")
app.command(verify_query, name="verify")
app.command(check_proof_file, name="check-proof")
app.command(supports)
app.command(compare_runs, name="compare")
app.command(export_run, name="export")
app.command(show_groups, name="groups")
app.command(audit_run, name="audit")
app.command(repair_run, name="repair")


@app.command
def demo(*, output: Path | None = None, network: Network | None = None, inputs: int = 50) -> int:
    """Certify and attack the embedded networks on embedded images, and compare them, offline.

    Args:
        output: Folder of the runs, or of the one run if a network is named; runs/ and a time stamp if not given.
        network: How the one network to look at was trained; all four are compared if not given.
        inputs: Number of images, from 1 to 1000.
    """
    from bounds import checks
    from certify import reference

    checks.at_most("inputs", checks.at_least("inputs", inputs, 1), 1000)
    if network is not None:
        return _run(_of_embedded(network, inputs), output, foretell=False)
    with output_directory(output) as folder:
        runs = {name: folder / name for name in reference.NETWORKS}
        for name, directory in runs.items():
            end = _run(_of_embedded(name, inputs), directory, foretell=False)
            if end != FINE:
                return end
        return compare_directories(runs, folder)


def _of_embedded(network: str, inputs: int) -> "Config":
    from certify.configuration.config import Config
    from certify.configuration.keys import DataSource, ModelSource
    from certify.methods import IntervalBounds, LinearBounds, MinimalPerturbation, Smoothing

    methods = [Smoothing(), IntervalBounds(), LinearBounds(tolerance=1e-3), MinimalPerturbation()]
    return Config(model=ModelSource(network=network), data=DataSource(count=inputs), methods=methods)


@app.command
def run(
    config: Path,
    *,
    output: Path | None = None,
    preset: Literal["quick", "standard", "thorough"] | None = None,
    budget: str | None = None,
    memory: str | None = None,
    dry_run: bool = False,
    shard: str | None = None,
    placement: Placement | None = None,
) -> int:
    """Run the methods that a TOML file asks for.

    Args:
        config: The TOML file.
        output: Run directory; runs/ and a time stamp if not given. A run that is there is continued if it was
            made under the same manifest.
        preset: Methods of every kind, in place of the file's preset.
        budget: Time for everything but the page, such as 90s, 30m or 1h30m, in place of the file's.
        memory: What the work may take besides the model, such as 4GB, in place of the file's.
        dry_run: Only measure on a few inputs what the run would take.
        shard: Only one of several equal parts, such as 2/8, for certify merge. If not given, an array of SLURM
            (SLURM_ARRAY_TASK_ID) or torchrun (RANK, WORLD_SIZE) says which, and each part has a folder inside output.
        placement: Where the work is done.
    """
    from certify.configuration.config import read_config

    asked = _changed(read_config(config), preset=preset, budget=budget, memory=memory)
    return _run(asked, output, shard, placement, dry_run=dry_run)


@app.command
def resume(directory: Path, *, budget: str | None = None, placement: Placement | None = None) -> int:
    """Continue a run that was interrupted, or that left something out; nothing that is finished is computed again.

    Args:
        directory: The run directory.
        budget: Time for everything but the page, in place of that of the run, which is given once more.
        placement: Where the work is done.
    """
    from certify.configuration.config import config_of_manifest
    from certify.evaluation.storage.run_directory import RunDirectory

    manifest = RunDirectory.read(directory).manifest
    asked = _changed(config_of_manifest(manifest), budget=budget)
    return _run(asked, directory, manifest.get("shard") or "1/1", placement)


@app.command(name="merge")
def merge_runs(output: Path, /, *directories: Path, partial: bool = False) -> int:
    """Put the runs of all shards together, as one process would have written them.

    Args:
        output: The new run directory.
        directories: Run directories of shards, in any order, or folders that hold them.
        partial: Accept that units are missing; certify resume computes them.
    """
    from certify.evaluation.merging import merge
    from certify.gate.outcome import baseline_of

    evaluation = merge(output, directories, partial=partial)
    if not partial and (code := _with_cross_sections(evaluation, output)) is not None:
        return code
    _write_report(evaluation, output)
    return _verdict(evaluation, output, baseline_of(evaluation.manifest))


def _with_cross_sections(evaluation: "Evaluation", directory: Path) -> int | None:
    """Finish a merged run as one process would have, with its cross sections; None where it needs none, or cannot."""
    from bounds.errors import BoundsError
    from certify.configuration.config import config_of_manifest
    from certify.evaluation.summaries.cross_sections import inputs_with_planes

    try:
        config = config_of_manifest(evaluation.manifest)
        if not inputs_with_planes(evaluation.records, evaluation.tensors, config.cross_sections):
            return None
        return _run(config, directory, foretell=False)
    except (BoundsError, OSError, ImportError, RuntimeError) as error:
        remedy = f"`certify resume {shlex.quote(str(directory))}` draws them where model and data are"
        print(f"note: no cross sections: {' '.join(str(error).split())}: {remedy}", file=sys.stderr)
        return None


@app.command
def report(directory: Path) -> int:
    """Write report.html and curves.png of a run again, from its records.

    Args:
        directory: The run directory.
    """
    evaluation = load_run(directory)
    _write_report(evaluation, directory)
    _print_unfinished(evaluation)
    return FINE


@app.command
def doctor(
    config: Path | None = None,
    *,
    model: str | None = None,
    build: str | None = None,
    data: Path | None = None,
    output: Path | None = None,
) -> int:
    """Show the environment, look for what is wrong with a model and data, and write a configuration for them.

    Args:
        config: A TOML file as for run.
        model: Instead of a file: weights (.pt, .pth, .safetensors), a model (.onnx, .pt2), or a name such as
            timm:resnet18.
        build: The function that makes the network of the weights, as module:function.
        data: Arrays (.npz, .npy), a table (.csv, .parquet), or a folder with a folder of images for each class.
        output: File for the configuration; it is printed if not given.
    """
    from certify.command_line.diagnosis.doctor import asked, diagnose

    for line in diagnose(asked(config, model, build, data), output):
        print(line)
    return FINE


def _changed(config: "Config", **keys: str | None) -> "Config":
    """The configuration with what the command line says in its place."""
    import msgspec

    return msgspec.structs.replace(config, **{key: value for key, value in keys.items() if value is not None})


def _run(
    config: "Config",
    output: Path | None,
    shard: str | None = "1/1",
    placement: Placement | None = None,
    *,
    dry_run: bool = False,
    foretell: bool = True,
) -> int:
    from certify.evaluation.storage.run_directory import lines_read_once

    part = shard_of(shard)
    with output_directory(output) as made:
        directory = directory_of(made, shard, part)
        try:
            with lines_read_once():
                return _certify(config, directory, part, placement or Placement(), dry_run=dry_run, foretell=foretell)
        except KeyboardInterrupt:
            stored = (directory / "manifest.json").exists()
            hint = f"finished units are stored; continue with `certify resume {shlex.quote(str(directory))}`"
            print(f"interrupted: {hint if stored else 'nothing is stored yet'}", file=sys.stderr)
            return INTERRUPTED


def _certify(
    config: "Config", directory: Path, shard: "Shard", placement: Placement, *, dry_run: bool, foretell: bool
) -> int:
    from certify.configuration.frozen_columns import methods_for
    from certify.configuration.groups import load_groups
    from certify.configuration.sources import load_data, load_model, stated_normalisation
    from certify.durations import seconds_of
    from certify.evaluation.evaluating import evaluate
    from certify.gate.outcome import require_baseline

    started = time.perf_counter()
    require_baseline(config.against)
    engine = engine_for(config, placement)
    model = load_model(config.model, device_of(config))
    data = load_data(config.data, model, held=_held(config))
    methods, kept = methods_for(config, data)
    for note in filter(None, [stated_normalisation(model), *data.notes, kept]):
        print(f"note: {note}", file=sys.stderr)
    raise_when_interrupted()  # all is loaded, and finished units deserve a word
    asked: dict[str, Any] = {
        **{"norms": config.norm_orders(), "methods": methods, **config.sets_by_key()},
        **{"low": data.low, "high": data.high},
        **{"seed": config.seed, "batch_size": config.batch_size, "output": directory},
        "memory": config.memory,
    }
    budget = None if config.budget is None else seconds_of("budget", config.budget)
    costs = _costs(model, data, asked, budget, dry_run=dry_run) if dry_run or (foretell and shard.whole) else None
    if dry_run:
        return FINE
    print(f"certifying {len(data.x)} inputs into {directory}", file=sys.stderr)
    evaluation = evaluate(
        model,
        data.x,
        data.y,
        **asked,
        source=config.source(),
        callback=teller(),
        groups=load_groups(config, data.place),
        classes=data.classes,
        budget=None if budget is None else max(budget - (time.perf_counter() - started), 1e-3),
        costs=costs,
        features=data.features,
        cross_sections=config.cross_sections,
        shard=shard,
        engine=engine,
    )
    if not shard.whole:
        return shard_verdict(evaluation, shard, directory)
    _write_report(evaluation, directory)
    return _verdict(evaluation, directory, config.against)


def _held(config: "Config") -> float:
    """Bytes of inputs that are held in memory, at most; more are read as they are needed."""
    from certify.configuration.data.inputs import HELD, OF_INPUTS
    from certify.sizes import bytes_of

    return HELD if config.memory is None else min(HELD, OF_INPUTS * bytes_of("memory", config.memory))


def _costs(
    model: "nn.Module", data: "LabelledInputs", asked: "Mapping[str, Any]", budget: float | None, *, dry_run: bool
) -> "CostEstimate | None":
    """Costs of the run, which are printed; None where a budget is too short to measure it first."""
    from certify.evaluation.budget.probe import LEAST_BUDGET, estimate_cost
    from certify.evaluation.evaluation import Evaluation

    if (asked["output"] / "manifest.json").exists():
        Evaluation.load(asked["output"])  # a damaged run is refused before anything is measured
    if not dry_run and budget is not None and budget < LEAST_BUDGET:
        return None
    costs = estimate_cost(model, data.x, data.y, **asked, budget=None if dry_run else budget)
    if dry_run or costs.costs:
        print(costs, file=sys.stdout if dry_run else sys.stderr)
    return costs


def _write_report(evaluation: "Evaluation", directory: Path) -> None:
    from bounds.errors import InvalidConfiguration
    from certify.evaluation.storage.durable import write_whole
    from certify.report import curve_figure
    from certify.report.sentences import no_curves

    written = [directory / "report.html", directory / "curves.png", directory / "records.jsonl"]
    evaluation.to_html(written[0])
    curves = evaluation.curves()
    try:
        if curves:
            drawn = io.BytesIO()
            curve_figure(curves, evaluation.clean_accuracy()).savefig(drawn, dpi=150)
            write_whole(written[1], drawn.getvalue())
        else:
            print(f"no curves: {no_curves(evaluation.summary())}")
            written.remove(directory / "curves.png")
    except OSError as error:
        raise InvalidConfiguration(f"{error.filename or directory} cannot be written: {error.strerror}") from error
    _print_summary(evaluation)
    print(f"wrote {', '.join(map(str, written))}")


def _print_summary(evaluation: "Evaluation") -> None:
    import pandas as pd

    from certify.report.columns import COLUMNS, printed
    from certify.report.sentences import doubts
    from certify.report.words import NOTHING

    lines = evaluation.lines()
    columns = printed(COLUMNS, lines, "table")
    shown = pd.DataFrame({column.name: [column.text(line) for line in lines] for column in columns})
    print(shown.replace(NOTHING, "-").to_string(index=False))
    for sentence in doubts(evaluation.summary()):
        print(f"note: {sentence}")
    if (groups := evaluation.stated_groups()) is not None:
        print(f"by group:\n{groups}")


def _verdict(evaluation: "Evaluation", directory: Path, baseline: "Baseline | None") -> int:
    from certify.gate.formats import as_text
    from certify.gate.outcome import gate_outcome

    outcome = gate_outcome(evaluation, directory, baseline)
    print(as_text(outcome), end="")
    return outcome.exit_code


def _print_unfinished(evaluation: "Evaluation") -> None:
    if (units := evaluation.unfinished()) is not None:
        print(f"unfinished: {units[0]} of {units[1]} units")
