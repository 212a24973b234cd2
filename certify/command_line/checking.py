"""The command that judges a finished run: the gate of a pipeline.

Torch is imported inside commands only, so that help is quick.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from certify.command_line.runs import load_run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from certify.configuration.config import Baseline

Several = Parameter(consume_multiple=True, negative=())


def check_run(
    directory: Path,
    *,
    format: Literal["text", "json", "junit", "github"] = "text",
    output: Path | None = None,
    against: Path | None = None,
    radius: Annotated[tuple[float, ...], Several] = (),
    level: float | None = None,
    about: Literal["population", "these inputs"] | None = None,
) -> int:
    """Look for contradictions, missed thresholds, certified accuracy that fell, and what the records themselves refute.

    The exit code is 0 if there is nothing of that, 1 for a missed threshold, a fall or unfinished work, 2 for runs that
    cannot be read or compared, and 3 for a contradiction or a refutation.

    Args:
        directory: The run directory.
        format: Lines of text, one JSON object, JUnit XML, or annotations of a GitHub workflow.
        output: File to write that format to; the text is printed then.
        against: An earlier run on the same inputs, below which certified accuracy must not fall; that of [against] in
            the configuration, if not given.
        radius: Radii at which both are compared; those of the configuration, else round ones, if not given.
        level: Confidence of the test, over all radii and norms; 0.95, or as in the configuration.
        about: Whether a test has to show the fall in the population of the inputs, or any fall on these inputs counts.
    """
    from bounds import checks
    from certify.auditing.audit import refutations
    from certify.evaluation.storage.run_directory import reported
    from certify.gate.formats import FORMATS
    from certify.gate.outcome import gate_outcome

    evaluation = load_run(directory)
    if level is not None:
        checks.probability("--level", level)
    stated = {"radius": [checks.nonnegative("--radius", one) for one in radius] or None, "level": level, "about": about}
    baseline = _baseline(evaluation.manifest, against, {name: one for name, one in stated.items() if one is not None})
    outcome = gate_outcome(evaluation, directory, baseline, [str(one) for one in refutations(directory)])
    if output is not None:
        with reported(f"{output} cannot be written"):
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(FORMATS[format](outcome), encoding="utf-8")
    print(FORMATS[format if output is None else "text"](outcome), end="")
    return outcome.exit_code


def _baseline(manifest: "Mapping[str, Any]", run: Path | None, stated: "dict[str, Any]") -> "Baseline | None":
    """The earlier run of the command line, or of the configuration, with what the command line says of the test."""
    from bounds.errors import InvalidInput
    from certify.configuration.config import Baseline
    from certify.gate.outcome import baseline_of

    configured = baseline_of(manifest)
    if run is None and configured is None:
        if stated:
            options = ", ".join(f"--{name}" for name in stated)
            raise InvalidInput(f"{options} must come with an earlier run, got none: add --against RUN")
        return None
    settings = {} if configured is None else {name: getattr(configured, name) for name in configured.__struct_fields__}
    return Baseline(**settings | ({} if run is None else {"run": str(run)}) | stated)
