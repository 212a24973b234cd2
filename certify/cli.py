"""The command line. Each command parses, calls the library, and maps the outcome to an exit code.

Exit codes: 0 fine; 1 a stated threshold was missed; 2 wrong usage or bad input; 3 a certified radius exceeds the
distance of a re-checked adversarial example. Torch is imported inside commands only, so that help is quick.
"""

import sys
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cyclopts

if TYPE_CHECKING:
    from certify.config import Config
    from certify.evaluation import Evaluation, Progress

FINE, MISSED, BAD_INPUT, CONTRADICTION = 0, 1, 2, 3

app = cyclopts.App(
    name="certify",
    help="Certify the robustness of trained PyTorch classifiers, beside the attacks that test them.",
    version=lambda: version("certify-bounds"),
    suppress_keyboard_interrupt=False,
    result_action="return_value",
)


@app.command
def demo(
    *, output: Path | None = None, network: Literal["plain", "noise", "pgd", "ibp"] = "ibp", inputs: int = 50
) -> int:
    """Certify and attack an embedded network on embedded images, offline.

    Args:
        output: Run directory; runs/ and a time stamp if not given.
        network: How the embedded network was trained.
        inputs: Number of images, at most 1000.
    """
    from certify.config import Config, DataSource, MethodTables, ModelSource
    from certify.methods import IntervalBounds, MinimalPerturbation, Smoothing

    config = Config(
        model=ModelSource(network=network),
        data=DataSource(count=inputs),
        methods=MethodTables(smoothing=Smoothing(), ibp=IntervalBounds(), attack=MinimalPerturbation()),
    )
    return _run(config, output)


@app.command
def run(config: Path, *, output: Path | None = None) -> int:
    """Run the methods that a TOML file asks for.

    Args:
        config: The TOML file.
        output: Run directory; runs/ and a time stamp if not given. A run that is there is continued if it was
            made under the same manifest.
    """
    from certify.config import read_config

    return _run(read_config(config), output)


@app.command
def resume(directory: Path) -> int:
    """Continue a run that was interrupted; nothing that is finished is computed again.

    Args:
        directory: The run directory.
    """
    from certify.config import config_of_manifest
    from certify.runs import RunDirectory

    return _run(config_of_manifest(RunDirectory.read(directory).manifest), directory)


@app.command
def report(directory: Path) -> int:
    """Write report.html and curves.png of a run again, from its records.

    Args:
        directory: The run directory.
    """
    _write_report(_load(directory), directory)
    return FINE


@app.command
def check(directory: Path) -> int:
    """Look for contradictions and missed thresholds in a run.

    Args:
        directory: The run directory.
    """
    return _verdict(_load(directory))


@app.command
def doctor(config: Path | None = None) -> int:
    """Show the environment, and whether a configuration's model and data can be certified.

    Args:
        config: A TOML file as for run.
    """
    from certify.doctor import diagnose

    for line in diagnose(config):
        print(line)
    return FINE


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command ``certify``."""
    sys.exit(_exit_code(arguments))


def _exit_code(arguments: Sequence[str] | None) -> int:
    try:
        outcome = app(arguments, exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        return _refuse(error)
    except KeyboardInterrupt:
        print("interrupted: what is finished is stored; continue with `certify resume DIR`", file=sys.stderr)
        return 130
    except Exception as error:
        from bounds.errors import BoundsError

        if not isinstance(error, BoundsError):
            raise
        return _refuse(error)
    return outcome if isinstance(outcome, int) else FINE


def _refuse(error: Exception) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return BAD_INPUT


def _run(config: "Config", output: Path | None) -> int:
    from certify.config import norm_order
    from certify.evaluation import evaluate
    from certify.sources import load_data, load_model

    model = load_model(config.model, config.device)
    x, y = load_data(config.data, model)
    directory = output or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")
    print(f"certifying {len(x)} inputs into {directory}", file=sys.stderr)
    evaluation = evaluate(
        model,
        x,
        y,
        norms=[norm_order(norm) for norm in config.norms],
        methods=config.chosen_methods(),
        low=config.data.low,
        high=config.data.high,
        seed=config.seed,
        batch_size=config.batch_size,
        output=directory,
        source=config.source(),
        progress=_progress(),
    )
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


def _load(directory: Path) -> "Evaluation":
    from bounds.errors import InvalidConfiguration
    from certify.evaluation import Evaluation

    evaluation = Evaluation.load(directory)
    if not evaluation.records:
        raise InvalidConfiguration(f"{directory} holds no finished unit yet: continue it with `certify resume`")
    return evaluation


def _write_report(evaluation: "Evaluation", directory: Path) -> None:
    from certify.report import curve_figure, rounded_down, rounded_up

    evaluation.to_html(directory / "report.html")
    curve_figure(evaluation.curves(), evaluation.clean_accuracy()).savefig(directory / "curves.png", dpi=150)
    table = evaluation.summary()
    # A printed bound is still a bound: radii are rounded down, distances up.
    table["median"] = [
        (rounded_down if certifies else rounded_up)(median)
        for certifies, median in zip(table["certified"].notna(), table["median"], strict=True)
    ]
    print(table.to_string(index=False, na_rep="-", float_format="{:.1f}".format))
    print(f"wrote {directory / 'report.html'}, {directory / 'curves.png'}, {directory / 'records.jsonl'}")


def _verdict(evaluation: "Evaluation") -> int:
    contradictions = evaluation.check()
    for contradiction in contradictions:
        print(f"contradiction: {contradiction}")
    missed = evaluation.missed_requirements()
    for sentence in missed:
        print(f"missed: {sentence}")
    if contradictions:
        return CONTRADICTION
    print("no certified radius exceeds the distance of an adversarial example of the same classifier and norm")
    return MISSED if missed else FINE
