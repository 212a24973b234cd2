"""The commands that look at finished runs: compare several, export one, its groups.

Torch is imported inside commands only, so that help is quick.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from certify.command_line.process import CONTRADICTION, FINE
from certify.command_line.runs import load_run

if TYPE_CHECKING:
    import pandas as pd

    from certify.comparison.comparison import Comparison

SHOWN = 12  # differences that are printed, at most; --output writes all
Several = Parameter(consume_multiple=True, negative=())


def compare_runs(
    *runs: str,
    output: Path | None = None,
    format: str = "csv,markdown,png,pdf",
    radius: Annotated[tuple[float, ...], Several] = (),
    by: Literal["model", "method"] = "model",
) -> int:
    """Compare models that were run on the same inputs: accuracy at radius, paired tests, curves in one figure.

    `certify compare runs/a runs/b`, or with names, `certify compare plain=runs/a robust=runs/b`.

    Args:
        runs: Run directories, two at least, each as DIR or NAME=DIR.
        output: Folder for tables, figures and the page comparison.html; without it, the tables are printed only.
        format: What to write there: some of csv, parquet, latex, markdown, json, pdf, svg and png, with commas.
        radius: Radii of the tables; round ones where curves fall, if not given.
        by: Whether the best of several methods counts for each input of a model, or each method stands alone.
    """
    from certify.comparison.comparison import compare
    from certify.exports.files import formats_of

    formats = formats_of(format)
    evaluations = {name: load_run(path) for name, path in _named(runs).items()}
    comparison = compare(evaluations, by=by)
    _print_comparison(comparison, list(radius) or None)
    if output is not None:
        written = comparison.export(output, formats, radii=list(radius) or None)
        comparison.to_html(output / "comparison.html")
        print(f"wrote {', '.join(map(str, [*written, output / 'comparison.html']))}")
    found = [f"{name}: {one}" for name, evaluation in evaluations.items() for one in evaluation.check()]
    for sentence in found:
        print(f"contradiction: {sentence}")
    return CONTRADICTION if found else FINE


def export_run(directory: Path, *, format: str = "csv,latex,markdown,pdf", output: Path | None = None) -> int:
    """Write tables and curves of a run for papers and other programs.

    Args:
        directory: The run directory.
        format: Some of csv, parquet, latex, markdown, json, pdf, svg and png, with commas between them.
        output: Folder for the files; export/ in the run directory if not given.
    """
    from certify.exports.files import formats_of

    formats = formats_of(format)
    written = load_run(directory).export(output or directory / "export", formats)
    print(f"wrote {', '.join(map(str, written))}")
    return FINE


def show_groups(directory: Path, *, by: str | None = None, radius: float | None = None) -> int:
    """Show certified and attacked accuracy by group of inputs, name the worst, and test whether groups differ.

    Args:
        directory: The run directory.
        by: Column of the table of rows, such as label or base_prediction; if not given, the groups of the run, or else
            its classes.
        radius: At which inputs are counted; a round one in each norm if not given.
    """
    groups = load_run(directory).by_group(by, radius=radius)
    print(groups.words().to_string(index=False))
    print(groups)
    return FINE


def _named(runs: tuple[str, ...]) -> dict[str, Path]:
    """Directories by the names of their models: stated ones, else the last part of the path, else all of it."""
    from bounds.errors import InvalidInput

    pairs = [run.rpartition("=") for run in runs]
    last = [name or Path(path).resolve().name for name, _, path in pairs]
    names = [
        name or (short if last.count(short) == 1 else path) for (name, _, path), short in zip(pairs, last, strict=True)
    ]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InvalidInput(f"runs must have different names, got {twice[0]!r} twice: write NAME=DIR")
    return {name: Path(path) for name, (_, _, path) in zip(names, pairs, strict=True)}


def _print_comparison(comparison: "Comparison", radii: list[float] | None) -> None:
    from certify.comparison.contenders import PROMISES
    from certify.report import norm_name

    print(f"{', '.join(comparison.names)} on the same {comparison.inputs} inputs; accuracies in %")
    for norm, sheet in zip(comparison.norms, comparison.sheets(radii), strict=False):
        if sheet.text is not None and sheet.bold is not None:
            print(f"\nwithin radii of {norm_name(norm)}:\n{_marked(sheet.text, sheet.bold).to_string(index=False)}")
    print("* best lower bound, or not told from it by McNemar's exact test (Holm)\n")
    tests = comparison.differences(radii)
    apart = tests[tests.p_holm <= 1 - comparison.confidence]
    proved = apart[apart.promise != PROMISES[2]].sort_values(
        "p_holm", kind="stable"
    )  # larger upper bounds prove nothing
    for row in proved.head(SHOWN).to_dict("records"):
        ends = f"{100 * row['lower']:+.1f} to {100 * row['upper']:+.1f}"
        where = f"{row['promise']}, {norm_name(row['norm'])}, radius {row['radius']:g}"
        print(f"{row['first']} against {row['second']}: {100 * row['difference']:+.1f} points ({ends}; {where})")
    print(f"{len(apart)} of {len(tests)} paired differences are significant after correction (Holm)")


def _marked(text: "pd.DataFrame", bold: "pd.DataFrame") -> "pd.DataFrame":
    marks = bold.map(lambda strong: "*" if strong is True else "")
    return text + marks.set_axis(text.columns, axis=1).set_axis(text.index)
