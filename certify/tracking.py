"""Runs of experiment trackers that follow an evaluation, by its callback."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from bounds.errors import InvalidInput
from certify.evaluation.callbacks import FinishedUnit
from certify.evaluation.evaluation import Evaluation
from certify.exports.shares import file_name

if TYPE_CHECKING:
    from types import ModuleType

LONGEST = 500  # signs of a parameter that every version of MLflow takes


class MLflow:
    """Log an evaluation to MLflow: pass it as ``callback``, then log the result.

    Goes to the active run, or to the one that MLflow starts. Needs the package ``mlflow``::

        tracker = certify.tracking.MLflow()
        evaluation = certify.evaluate(model, x, y, callback=tracker)
        tracker.log(evaluation)

    After every finished unit, ``certified/METHOD/NORM`` is the share of the inputs so far that are certified at a
    radius above 0, ``robust/METHOD/NORM`` that for which no adversarial example was found, and ``seconds/METHOD/NORM``
    the time; ``done`` is the share of the work. The step is the number of units done.

    Raises:
        InvalidInput: the package is missing.
    """

    def __init__(self) -> None:
        self._mlflow = _imported()
        self._counts: dict[str, tuple[int, int]] = {}
        self._seconds: dict[str, float] = {}

    def __call__(self, unit: FinishedUnit) -> None:
        """Log one finished unit."""
        place = f"{_word(unit.method)}/{file_name(unit.norm)}"
        metrics = {"done": unit.done / unit.units}
        status = {"certificate": ("certified", "certified"), "witness": ("robust", "not found")}.get(unit.kind)
        if status is not None:
            name = f"{status[0]}/{place}"
            good, seen = self._counts.get(name, (0, 0))
            good += sum(row["status"] == status[1] for row in unit.rows)
            self._counts[name] = good, seen + len(unit.rows)
            metrics[name] = good / self._counts[name][1]
        self._seconds[place] = self._seconds.get(place, 0.0) + unit.seconds
        metrics[f"seconds/{place}"] = self._seconds[place]
        self._mlflow.log_metrics(metrics, step=unit.done)

    def log(self, evaluation: Evaluation, *, page: bool = True) -> None:
        """Log the configuration as parameters, the results as metrics, and the page and tables as artifacts.

        Args:
            evaluation: what ``evaluate`` returned.
            page: whether to log the page and the tables, too.
        """
        self._mlflow.log_params(_parameters(evaluation.manifest))
        metrics = {"clean_accuracy": evaluation.clean_accuracy(), "contradictions": float(len(evaluation.check()))}
        for line in evaluation.lines():
            metrics[f"median/{_word(line.method)}/{file_name(line.norm)}"] = line.median()
        self._mlflow.log_metrics({name: value for name, value in metrics.items() if math.isfinite(value)})
        if page:
            with TemporaryDirectory() as folder:
                evaluation.to_html(Path(folder) / "report.html")
                evaluation.export(folder, ("csv", "markdown"))
                self._mlflow.log_artifacts(folder, artifact_path="certify")


def _imported() -> "ModuleType":
    try:
        import mlflow
    except ImportError as error:
        raise InvalidInput("MLflow needs the package mlflow: pip install 'certify-bounds[mlflow]'") from error
    module: ModuleType = mlflow
    return module


def _parameters(manifest: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """The manifest as flat names and texts, without what is no setting."""
    found: dict[str, str] = {}
    for key, value in manifest.items():
        if prefix or key in ("seed", "configuration", "weights_sha256", "data_sha256"):
            name = f"{prefix}{_word(str(key))}"
            found |= _parameters(value, f"{name}.") if isinstance(value, Mapping) else {name: str(value)[:LONGEST]}
    return found


def _word(name: str) -> str:
    """A name of the signs that MLflow takes."""
    return re.sub(r"[^\w. -]", "_", name, flags=re.ASCII)
