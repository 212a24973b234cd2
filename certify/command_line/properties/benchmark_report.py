"""The outcomes of a benchmark: a table by network, verdicts that contradict known ones, and a cactus plot."""

import csv
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bounds.errors import InvalidConfiguration
from certify.command_line.properties.benchmark import Benchmark, InstanceResult
from certify.verification.decision import VERDICTS

DECIDED = ("sat", "unsat")
COLUMNS = ("network", "instances", "solved", *VERDICTS, "wrong", "median seconds")


def write_report(benchmark: Benchmark) -> list[InstanceResult]:
    """Print the table, write it with the plot, and return the outcomes that contradict known verdicts."""
    outcomes = benchmark.outcomes
    known = known_verdicts(benchmark.expected)
    wrong = [outcome for outcome in outcomes if is_wrong(outcome, known)]
    lines = table(outcomes, wrong)
    try:
        with (benchmark.output / "summary.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *lines])
        cactus(outcomes).savefig(benchmark.output / "cactus.png", dpi=150)
    except OSError as error:
        raise InvalidConfiguration(f"{benchmark.output} cannot be written: {error.strerror}") from error
    widths = [max(len(str(line[place])) for line in [COLUMNS, *lines]) for place in range(len(COLUMNS))]
    for line in [COLUMNS, *lines]:
        print("  ".join(str(cell).ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    for outcome in wrong:
        expected = known[outcome.onnx, outcome.vnnlib]
        print(f"contradiction: {outcome.onnx} {outcome.vnnlib} is {outcome.verdict}, known to be {expected}")
    written = ("results.csv", "summary.csv", "cactus.png", "answers")
    print(f"wrote {', '.join(str(benchmark.output / name) for name in written)}")
    return wrong


def known_verdicts(path: Path) -> dict[tuple[str, str], str]:
    """Known verdicts by network and property, of a file with columns onnx, vnnlib and final; others are left out."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if not {"onnx", "vnnlib", "final"} <= set(rows.fieldnames or ()):
            raise InvalidConfiguration(f"{path} must have the columns onnx, vnnlib and final")
        return {(row["onnx"], row["vnnlib"]): row["final"] for row in rows if row["final"] in DECIDED}


def is_wrong(outcome: InstanceResult, known: dict[tuple[str, str], str]) -> bool:
    """Whether an outcome contradicts what is known."""
    expected = known.get((outcome.onnx, outcome.vnnlib))
    return expected is not None and outcome.verdict in DECIDED and outcome.verdict != expected


def table(outcomes: Sequence[InstanceResult], wrong: Sequence[InstanceResult]) -> list[tuple[str | int, ...]]:
    """A line for each network, and one for all."""
    networks = list(dict.fromkeys(outcome.onnx for outcome in outcomes))
    groups = [(name, [outcome for outcome in outcomes if outcome.onnx == name]) for name in networks]
    lines: list[tuple[str | int, ...]] = []
    for name, some in [*groups, ("all", list(outcomes))]:
        counts = [sum(outcome.verdict == verdict for outcome in some) for verdict in VERDICTS]
        times = [outcome.seconds for outcome in some if outcome.verdict in DECIDED]
        middle = f"{median(times):.2f}" if times else ""
        solved = sum(outcome.verdict in DECIDED for outcome in some)
        lines.append((name, len(some), solved, *counts, sum(outcome in wrong for outcome in some), middle))
    return lines


def cactus(outcomes: Sequence[InstanceResult]) -> Figure:
    """A plot of the number of instances that are decided within a time, of each verdict and of both."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    kinds = (("sat or unsat", DECIDED, "#30363d"), ("unsat", ("unsat",), "#0072b2"), ("sat", ("sat",), "#d55e00"))
    for label, verdicts, colour in kinds:
        times = sorted(max(outcome.seconds, 1e-3) for outcome in outcomes if outcome.verdict in verdicts)
        axes.plot(range(1, len(times) + 1), times, marker=".", label=f"{label} ({len(times)})", color=colour)
    axes.set_yscale("log")
    axes.set_xlabel("instances decided")
    axes.set_ylabel("seconds for each of them, at most")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="#d8dee4")
    axes.legend(frameon=False)
    return figure
