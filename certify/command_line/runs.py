"""Runs that commands look at, and directories of new ones."""

import contextlib
from collections.abc import Iterator
from datetime import datetime
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


@contextlib.contextmanager
def output_directory(asked: Path | None) -> Iterator[Path]:
    """The directory of a run: the one asked for, or a new one below ``runs`` that no other run has taken.

    It is made at once, so that two runs that start in one second have different ones; if nothing comes into it, it goes
    again.
    """
    if asked is not None:
        yield asked
        return
    from certify.evaluation.storage.run_directory import reported

    stamp, number = datetime.now().strftime("%Y%m%d-%H%M%S"), 1
    directory = Path("runs") / stamp
    with reported(f"output directory {directory} cannot be written"):
        while True:
            try:
                directory.mkdir(parents=True)
                break
            except FileExistsError:
                number += 1
                directory = Path("runs") / f"{stamp}-{number}"
    try:
        yield directory
    finally:
        with contextlib.suppress(OSError):  # it is not empty
            directory.rmdir()
