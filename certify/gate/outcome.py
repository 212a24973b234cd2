"""Outcome of a gate: contradictions, thresholds, falls since an earlier run and unfinished work, and the exit code."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from certify.comparison.regressions import Change, regressions
from certify.configuration.config import Baseline
from certify.evaluation.evaluation import Evaluation
from certify.evaluation.storage.run_directory import RunDirectory
from certify.evaluation.summaries.comparisons import Contradiction
from certify.methods.checked import converted
from certify.requirements import JudgedRequirement

EXIT_CODES = {"passed": 0, "missed": 1, "contradiction": 3}


@dataclass(frozen=True, kw_only=True)
class GateOutcome:
    """Everything that a run is held to, with what was found.

    Attributes:
        run: name of the run, such as its directory.
        contradictions: certificates above the distance of an adversarial example.
        requirements: thresholds of its configuration.
        changes: certified accuracies against those of an earlier run.
        against: name of that run; None where there is none.
        unfinished: units done and in all; None where the run is complete.
        comparisons: certificates that were compared with an adversarial example.
        left_out: sentences about work that was not done, and why; they fail nothing.
        refutations: sentences about what the records of the run refute by themselves.
    """

    run: str
    contradictions: Sequence[Contradiction]
    requirements: Sequence[JudgedRequirement]
    changes: Sequence[Change]
    against: str | None
    unfinished: tuple[int, int] | None
    comparisons: int
    left_out: Sequence[str] = ()
    refutations: Sequence[str] = ()

    @property
    def verdict(self) -> str:
        """``"contradiction"``, also by its records; ``"missed"`` for a threshold, a fall, work; else ``"passed"``."""
        if self.contradictions or self.refutations:
            return "contradiction"
        met = all(one.met for one in self.requirements) and not any(change.fell for change in self.changes)
        return "passed" if met and self.unfinished is None else "missed"

    @property
    def exit_code(self) -> int:
        """The code with which a command ends."""
        return EXIT_CODES[self.verdict]


def gate_outcome(
    evaluation: Evaluation, run: Path | str, baseline: Baseline | None = None, refutations: Sequence[str] = ()
) -> GateOutcome:
    """The outcome for an evaluation.

    Args:
        evaluation: the run that is judged.
        run: its name.
        baseline: the earlier run that it is compared with, and how; None for none.
        refutations: of its records, see :func:`certify.auditing.audit.refutations`.

    Raises:
        InvalidConfiguration: there is no earlier run at that place.
        InvalidInput: both cannot be compared.
    """
    changes: list[Change] = []
    if baseline is not None:
        changes = regressions(
            evaluation,
            Evaluation.load(baseline.run),
            radii=baseline.radius,
            about=baseline.about,
            level=baseline.level,
            names=(str(run), baseline.run),
        )
    return GateOutcome(
        run=str(run),
        contradictions=evaluation.check(),
        requirements=evaluation.requirements(),
        changes=changes,
        against=None if baseline is None else baseline.run,
        unfinished=evaluation.unfinished(),
        comparisons=evaluation.comparisons(),
        left_out=evaluation.left_out(),
        refutations=refutations,
    )


def baseline_of(manifest: Mapping[str, Any]) -> Baseline | None:
    """The earlier run that the configuration of a run names, if it names one.

    Raises:
        InvalidConfiguration: the manifest is damaged.
    """
    stated = manifest.get("source", {}).get("against")
    return None if stated is None else converted("[against]", stated, Baseline)


def require_baseline(baseline: Baseline | None) -> None:
    """Refuse a missing earlier run before any work is done.

    Raises:
        InvalidConfiguration: there is no run.
    """
    if baseline is not None:
        RunDirectory.read(baseline.run)
