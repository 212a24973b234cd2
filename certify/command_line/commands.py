"""The commands: each parses, calls the library, and maps the outcome to an exit code.

Torch is imported inside commands only, so that help is quick.
"""

import shlex
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cyclopts

from certify.command_line.comparing import compare_runs, export_run, show_groups
from certify.command_line.distributing import (
    Placement,
    device_of,
    directory_of,
    engine_for,
    shard_of,
    shard_verdict,
)
from certify.command_line.process import CONTRADICTION, FINE, INTERRUPTED, MISSED, raise_when_interrupted
from certify.command_line.proving import check_proof_file
from certify.command_line.runs import load_run
from certify.command_line.verifying import supports, verify_query

if TYPE_CHECKING:
    from certify.configuration.config import Config
    from certify.distribution import Shard
    from certify.evaluation.evaluation import Evaluation, Progress

app = cyclopts.App(
    name="certify",
    help="Certify the robustness of trained PyTorch classifiers, next to the attacks that test them.",
    version=lambda: version("certify-bounds"),
    suppress_keyboard_interrupt=False,
    result_action="return_value",
)
app.command(verify_query, name="verify")
app.command(check_proof_file, name="check-proof")
app.command(supports)
app.command(compare_runs, name="compare")
app.command(export_run, name="export")
app.command(show_groups, name="groups")


@app.command
def demo(
    *, output: Path | None = None, network: Literal["plain", "noise", "pgd", "ibp"] = "ibp", inputs: int = 50
) -> int:
    """Certify and attack an embedded network on embedded images, offline.

    Args:
        output: Run directory; runs/ and a time stamp if not given.
        network: How the embedded network was trained.
        inputs: Number of images, from 1 to 1000.
    """
    from bounds import checks
    from certify.configuration.config import Config
    from certify.configuration.keys import DataSource, ModelSource

    checks.at_most("inputs", checks.at_least("inputs", inputs, 1), 1000)
    config = Config(
        model=ModelSource(network=network),
        data=DataSource(count=inputs),
    )
    return _run(config, output)


@app.command
def run(
    config: Path, *, output: Path | None = None, shard: str | None = None, placement: Placement | None = None
) -> int:
    """Run the methods that a TOML file asks for.

    Args:
        config: The TOML file.
        output: Run directory; runs/ and a time stamp if not given. A run that is there is continued if it was
            made under the same manifest.
        shard: Only one of several equal parts, such as 2/8, for certify merge. If not given, an array of SLURM
            (SLURM_ARRAY_TASK_ID) or torchrun (RANK, WORLD_SIZE) says which, and each part has a folder inside output.
        placement: Where the work is done.
    """
    from certify.configuration.config import read_config

    return _run(read_config(config), output, shard, placement)


@app.command
def resume(directory: Path, *, placement: Placement | None = None) -> int:
    """Continue a run that was interrupted; nothing that is finished is computed again.

    Args:
        directory: The run directory.
        placement: Where the work is done.
    """
    from certify.configuration.config import config_of_manifest
    from certify.evaluation.run_directory import RunDirectory

    manifest = RunDirectory.read(directory).manifest
    return _run(config_of_manifest(manifest), directory, manifest.get("shard") or "1/1", placement)


@app.command(name="merge")
def merge_runs(output: Path, /, *directories: Path, partial: bool = False) -> int:
    """Put the runs of all shards together, as one process would have written them.

    Args:
        output: The new run directory.
        directories: Run directories of shards, in any order, or folders that hold them.
        partial: Accept that units are missing; certify resume computes them.
    """
    from certify.evaluation.merging import merge

    evaluation = merge(output, directories, partial=partial)
    _write_report(evaluation, output)
    return _verdict(evaluation)


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
def check(directory: Path) -> int:
    """Look for contradictions, missed thresholds and unfinished work in a run.

    Args:
        directory: The run directory.
    """
    return _verdict(load_run(directory))


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
    from certify.command_line.doctor import asked, diagnose

    for line in diagnose(asked(config, model, build, data), output):
        print(line)
    return FINE


def _run(config: "Config", output: Path | None, shard: str | None = "1/1", placement: Placement | None = None) -> int:
    directory, part = output or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S"), shard_of(shard)
    directory = directory_of(directory, shard, part)
    try:
        return _certify(config, directory, part, placement or Placement())
    except KeyboardInterrupt:
        stored = (directory / "manifest.json").exists()
        hint = f"finished units are stored; continue with `certify resume {shlex.quote(str(directory))}`"
        print(f"interrupted: {hint if stored else 'nothing is stored yet'}", file=sys.stderr)
        return INTERRUPTED


def _certify(config: "Config", directory: Path, shard: "Shard", placement: Placement) -> int:
    from certify.configuration.groups import load_groups
    from certify.configuration.sources import load_data, load_model, stated_normalisation
    from certify.evaluation.evaluation import evaluate

    engine = engine_for(config, placement)
    model = load_model(config.model, device_of(config))
    data = load_data(config.data, model)
    for note in filter(None, [stated_normalisation(model), *data.notes]):
        print(f"note: {note}", file=sys.stderr)
    raise_when_interrupted()  # all is loaded, and finished units deserve a word
    print(f"certifying {len(data.x)} inputs into {directory}", file=sys.stderr)
    evaluation = evaluate(
        model,
        data.x,
        data.y,
        norms=config.norm_orders(),
        methods=config.chosen_methods(),
        low=data.low,
        high=data.high,
        seed=config.seed,
        batch_size=config.batch_size,
        output=directory,
        source=config.source(),
        progress=_progress(),
        groups=load_groups(config, data.place),
        shard=shard,
        engine=engine,
    )
    if not shard.whole:
        return shard_verdict(evaluation, shard, directory)
    _write_report(evaluation, directory)
    return _verdict(evaluation)


def _progress() -> "Progress":
    """A bar with rate and time left on a terminal, plain lines elsewhere."""
    from tqdm import tqdm

    if not sys.stderr.isatty():
        return lambda unit, done, total: print(f"[{done}/{total}] {unit}", file=sys.stderr, flush=True)
    bar = tqdm(unit="unit", dynamic_ncols=True)

    def advance(unit: str, done: int, total: int) -> None:
        bar.total = total
        bar.set_description_str(unit, refresh=False)
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return advance


def _write_report(evaluation: "Evaluation", directory: Path) -> None:
    from bounds.errors import InvalidConfiguration
    from certify.report import curve_figure
    from certify.report.sentences import no_curves

    written = [directory / "report.html", directory / "curves.png", directory / "records.jsonl"]
    evaluation.to_html(written[0])
    curves = evaluation.curves()
    try:
        if curves:
            curve_figure(curves, evaluation.clean_accuracy()).savefig(written[1], dpi=150)
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


def _verdict(evaluation: "Evaluation") -> int:
    contradictions = evaluation.check()
    for contradiction in contradictions:
        print(f"contradiction: {contradiction}")
    missed = evaluation.missed_requirements()
    for sentence in missed:
        print(f"missed: {sentence}")
    unfinished = _print_unfinished(evaluation)
    if contradictions:
        return CONTRADICTION
    if comparisons := evaluation.comparisons():
        sentence = "no certified radius exceeds the distance of an adversarial example of the same classifier and norm"
        print(f"{sentence} ({comparisons} comparisons)")
    else:
        print("nothing to compare: no certificate has an adversarial example of its input, classifier and norm")
    return MISSED if missed or unfinished else FINE


def _print_unfinished(evaluation: "Evaluation") -> bool:
    """Whether units of the run are missing; if so, a line says how many."""
    units = evaluation.unfinished()
    if units is not None:
        print(f"unfinished: {units[0]} of {units[1]} units")
    return units is not None
