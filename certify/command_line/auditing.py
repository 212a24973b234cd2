"""The commands that look at a run with suspicion, and that mend one."""

import json
import sys
from pathlib import Path
from typing import Literal

from certify.command_line.process import CONTRADICTION, FINE


def audit_run(
    directory: Path,
    *,
    model: Path | None = None,
    sample: float = 0.1,
    seed: int = 0,
    records_only: bool = False,
    format: Literal["text", "json"] = "text",
) -> int:
    """Derive anew what a run states, by independent and exact code; exit code 3 if something is refuted.

    Model and data are those that the run names.

    Args:
        directory: The run directory.
        model: A file of weights, or an .onnx or .pt2 file, in place of the one that the run names.
        sample: Share of the units that are drawn and run again, and of the proofs in larger networks.
        seed: Of the choice of the sample.
        records_only: Leave model and data alone.
        format: Of the output.
    """
    from certify.auditing.audit import audit

    report = audit(directory, model, sample=sample, seed=seed, records_only=records_only)
    print(json.dumps(report.to_dict(), indent=2) if format == "json" else report)
    if format == "text":
        words = "nothing is refuted" if report.holds else f"{len(report.refuted)} statements are refuted"
        print(f"{words} ({report.seconds:.1f} s)")
    return FINE if report.holds else CONTRADICTION


def repair_run(directory: Path) -> int:
    """Drop damaged lines of a run, and lines whose tensors are lost; a copy is kept, and resume computes them again.

    Args:
        directory: The run directory.
    """
    from certify.evaluation.storage.repair import repair

    for sentence in repair(directory):
        print(sentence, file=sys.stderr)
    return FINE
