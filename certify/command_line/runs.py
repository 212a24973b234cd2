"""Runs that commands look at."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from certify.evaluation.evaluation import Evaluation


def load_run(directory: Path) -> "Evaluation":
    """The evaluation in a run directory, with at least one finished unit.

    Raises:
        InvalidConfiguration: there is no run, it is damaged, or nothing is finished.
    """
    from bounds.errors import InvalidConfiguration
    from certify.evaluation.evaluation import Evaluation

    evaluation = Evaluation.load(directory)
    if not evaluation.records:
        raise InvalidConfiguration(f"{directory} holds no finished unit yet: continue it with `certify resume`")
    return evaluation
