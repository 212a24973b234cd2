"""The callback of an evaluation, and the tracker that follows one by it."""

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bounds import InvalidInput
from certify import FinishedUnit, evaluate
from certify.methods import IntervalBounds, MinimalPerturbation
from certify.tracking import LONGEST, MLflow, _parameters

METHODS = [IntervalBounds(), MinimalPerturbation(steps=2, restarts=1)]


def problem() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    x = torch.rand(8, 4, generator=torch.Generator().manual_seed(1))
    return model, x, model(x).argmax(1)


def test_every_finished_unit_is_told_once_it_is_stored(tmp_path: Path):
    told: list[FinishedUnit] = []

    def remember(unit: FinishedUnit) -> None:
        lines = (tmp_path / "run" / "records.jsonl").read_text().splitlines()
        assert sum(f'"unit":"{unit.name}"' in line for line in lines) == 1
        told.append(unit)

    run = evaluate(*problem(), methods=METHODS, output=tmp_path / "run", callback=remember)
    assert [unit.name for unit in told] == [record["unit"] for record in run.records]
    assert [unit.done for unit in told] == list(range(1, len(told) + 1))
    assert {unit.units for unit in told} == {len(told)} == {4}
    assert {(unit.method, unit.norm, unit.kind) for unit in told} == {
        *[("ibp", norm, "certificate") for norm in (2.0, math.inf)],
        *[("attack", norm, "witness") for norm in (2.0, math.inf)],
    }
    assert all(len(unit.rows) == 8 and unit.seconds > 0 and not unit.restored for unit in told)
    again: list[FinishedUnit] = []
    evaluate(*problem(), methods=METHODS, output=tmp_path / "run", callback=again.append)
    assert [(unit.name, unit.restored) for unit in again] == [(unit.name, True) for unit in told]


def test_an_error_of_a_callback_loses_nothing(tmp_path: Path):
    def stop(unit: FinishedUnit) -> None:
        raise RuntimeError(f"enough after {unit.done}")

    with pytest.raises(RuntimeError, match="enough after 1"):
        evaluate(*problem(), methods=METHODS, output=tmp_path / "run", callback=stop)
    told: list[FinishedUnit] = []
    evaluate(*problem(), methods=METHODS, output=tmp_path / "run", callback=told.append)
    assert [unit.restored for unit in told] == [True, False, False, False]


class StandIn(SimpleNamespace):
    """Functions of MLflow that are called, with the rules of its names."""

    def __init__(self) -> None:
        super().__init__(metrics=[], parameters={}, artifacts=[])

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-. /")
            assert math.isfinite(value)
            self.metrics.append((name, value, step))

    def log_params(self, parameters: dict[str, str]) -> None:
        assert all(len(value) <= LONGEST for value in parameters.values())
        self.parameters |= parameters

    def log_artifacts(self, folder: str, artifact_path: str | None = None) -> None:
        self.artifacts += [(artifact_path, path.name) for path in Path(folder).iterdir()]


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "mlflow", stand_in)
    return stand_in


@pytest.mark.slow
def test_mlflow_follows_an_evaluation(mlflow: StandIn):
    tracker = MLflow()
    named = [IntervalBounds(name="ibp, mine ∞"), *METHODS[1:]]
    run = evaluate(*problem(), methods=named, callback=tracker)
    last = {name: value for name, value, _ in mlflow.metrics}
    table = run.to_dataframe()
    certified = table[(table.method == "ibp, mine ∞") & (table.norm == 2)].status.eq("certified").mean()
    assert last["certified/ibp_ mine _/l2"] == certified
    attacked = table[(table.method == "attack") & (table.norm == math.inf)]
    assert last["robust/attack/linf"] == attacked.status.eq("not found").mean()
    assert last["done"] == 1
    assert [step for name, _, step in mlflow.metrics if name == "done"] == [1, 2, 3, 4]
    tracker.log(run)
    assert mlflow.parameters["seed"] == "0"
    assert mlflow.parameters["configuration.inputs"] == "8"
    names = {name for _, name in mlflow.artifacts}
    assert names >= {"report.html", "rows.csv", "summary.md"}
    assert {place for place, _ in mlflow.artifacts} == {"certify"}
    assert ("clean_accuracy", 1.0, None) in mlflow.metrics


def test_parameters_are_flat_and_short():
    found = _parameters({"seed": 1, "platform": "x", "configuration": {"methods": {"a b": {"n": 3}}, "l": "y" * 9000}})
    assert found == {"seed": "1", "configuration.methods.a b.n": "3", "configuration.l": "y" * LONGEST}


def test_without_mlflow_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InvalidInput, match=r"pip install 'certify-bounds\[mlflow\]'"):
        MLflow()
