"""Engines: values, errors and deaths of workers; evaluations have the records of one process, bit for bit."""

import math
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import workers
from oracles.commands import certify as command
from oracles.commands import records
from torch import nn

import certify
from bounds.errors import InvalidInput, WorkerLost
from certify.distribution import Engine, Pool, Processes, Ray
from certify.distribution.engines import outcome, value_of
from certify.distribution.parcels import Parcel
from certify.distribution.ray import device_of_task
from certify.evaluation import benches
from certify.methods import IntervalBounds, LinearBounds, MinimalPerturbation, Smoothing

NAMES = ["processes", pytest.param("ray", marks=pytest.mark.filterwarnings("ignore"))]


def engine_named(name: str) -> Engine:
    if name == "ray":
        pytest.importorskip("ray")
        return Ray(workers=2)
    return Processes(2)


@pytest.fixture(scope="module", params=NAMES)
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    shared = torch.arange(3, dtype=torch.float64)
    with engine_named(request.param).pool(shared, torch.device("cpu")) as pool:
        yield pool


@pytest.mark.slow
class TestPools:
    def test_every_item_is_done_once_by_several_workers(self, pool: Pool):
        assert pool.workers == 2
        found = dict(pool.unordered(workers.scaled, range(20)))
        assert list(sorted(found)) == list(range(20))
        for place, (value, _) in found.items():
            assert value.tolist() == [0.0, place, 2.0 * place]

    def test_items_are_taken_as_workers_come_free(self, pool: Pool):
        taken = []

        def items() -> Iterator[float]:
            for place in range(12):
                taken.append(place)
                yield 0.0

        for done, _ in enumerate(pool.unordered(workers.slow, items()), start=1):
            assert len(taken) <= done + 4

    def test_errors_are_raised_as_they_are(self, pool: Pool):
        with pytest.raises(InvalidInput, match="epsilon is wrong"):
            list(pool.unordered(workers.failing, [InvalidInput("epsilon is wrong")]))
        with pytest.raises(RuntimeError, match="Unsendable: item 3"):
            list(pool.unordered(workers.unsendable, [0]))
        assert dict(pool.unordered(workers.failing, [5])) == {0: 5}

    def test_an_item_whose_worker_is_killed_goes_to_another(self, pool: Pool, tmp_path: Path):
        folders = [tmp_path / name for name in "ab"]
        for folder in folders:
            folder.mkdir()
        found = dict(pool.unordered(workers.dying, [(str(folder), 1) for folder in folders]))
        assert found == {0: 2, 1: 2}

    def test_an_item_that_kills_every_worker_is_given_up(self, pool: Pool, tmp_path: Path):
        with pytest.raises(WorkerLost, match="piece of work 0"):
            list(pool.unordered(workers.dying, [(str(tmp_path), 99)]))
        assert len(list(tmp_path.iterdir())) == 4

    def test_workers_compute_under_the_modes_of_this_process(self, pool: Pool):
        here = workers.modes(None, None)
        assert dict(pool.unordered(workers.modes, [0])) == {0: here}
        assert here[0] == 1


@pytest.mark.slow
def test_workers_end_with_their_pool_and_take_over_modes():
    torch.set_default_dtype(torch.float64)
    try:
        with Processes(1, devices=["cpu"]).pool(None, torch.device("cpu")) as pool:
            found = dict(pool.unordered(workers.modes, [0]))
            processes = [worker.process for worker in pool._free]  # type: ignore[attr-defined]
    finally:
        torch.set_default_dtype(torch.float32)
    assert found[0][1] == torch.float64
    assert len(processes) == 1
    assert all(process.exitcode is not None for process in processes)


METHODS = [IntervalBounds(), LinearBounds(), Smoothing(n=300), MinimalPerturbation(steps=2, restarts=1)]


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def of(evaluation: certify.Evaluation) -> tuple[list[Any], dict[str, dict[str, list[Any]]]]:
    """Records and tensors without times."""
    kept = [{key: value for key, value in one.items() if key != "seconds"} for one in evaluation.records]
    tensors = {
        unit: {name: value.tolist() for name, value in each.items()}
        for unit, each in evaluation.tensors.items()
        if each
    }
    return kept, tensors


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_evaluation_has_the_records_of_one_process(name: str, tmp_path: Path):
    """First with few units, so that draws are shared out; then with many; then continued after a part was lost."""
    model, x = small_model(), torch.rand(45, 4, generator=torch.Generator().manual_seed(2))
    settings: dict[str, Any] = {"norms": (2, math.inf), "low": torch.zeros(4), "groups": [0, 1, 2] * 15, "seed": 5}
    settings |= {"batch_size": 100}
    y = model(x).argmax(1)
    engine = engine_named(name)
    whole = certify.evaluate(model, x, y, methods=METHODS, **settings)
    told: list[tuple[str, int, int]] = []
    found = certify.evaluate(
        *(model, x, y),
        methods=METHODS,
        engine=engine,
        output=tmp_path / "out",
        progress=lambda *one: told.append(one),
        **settings,
    )
    assert of(found) == of(whole)
    assert [one[1:] for one in told] == [(done, len(whole.records)) for done in range(1, len(whole.records) + 1)]
    assert {one[0] for one in told} == {record["unit"] for record in whole.records}
    file = tmp_path / "out" / "records.jsonl"
    kept = file.read_text().splitlines(keepends=True)[::2]
    file.write_text("".join(kept))
    again = certify.evaluate(model, x, y, methods=METHODS, engine=engine, output=tmp_path / "out", **settings)
    assert of(again) == of(whole)
    assert file.read_text().startswith("".join(kept))


class Beyond(IntervalBounds, frozen=True):
    """A method that looks at all inputs, as methods of one's own may."""

    name: str = "beyond"

    def run(self, problem: certify.methods.Problem, rows: slice, norm: float) -> Any:
        assert len(problem.x) == 45
        return super().run(problem, rows, norm)


@pytest.mark.slow
def test_what_cannot_be_sent_is_named():
    x = torch.rand(45, 4)
    model = small_model()
    model.register_forward_hook(lambda *_: None)
    with pytest.raises(InvalidInput, match="cannot be sent to a worker"):
        certify.evaluate(model, x, methods=[IntervalBounds()], engine=Processes(1))


@pytest.mark.slow
def test_a_method_of_ones_own_sees_all_inputs(tmp_path: Path):
    x, model = torch.rand(45, 4), small_model()
    found = certify.evaluate(model, x, methods=[Beyond()], norms=2, engine=Processes(1))
    assert of(found) == of(certify.evaluate(model, x, methods=[Beyond()], norms=2))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A configuration with a network in a module of its own."""
    (tmp_path / "net.py").write_text(workers.NETWORK)
    x = np.random.default_rng(0).random((30, 6), dtype=np.float32)
    np.savez(tmp_path / "data.npz", inputs=x, labels=np.zeros(30, dtype=np.int64))
    methods = (
        "[methods.ibp]\n[methods.crown]\n[methods.smoothing]\nn = 300\n[methods.attack]\nsteps = 2\nrestarts = 1\n"
    )
    (tmp_path / "config.toml").write_text(f'{methods}[model]\nbuild = "net:make"\n[data]\nfile = "data.npz"\n')
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_commands_send_networks_of_ones_own_module(name: str, project: Path):
    if name == "ray":
        pytest.importorskip("ray")
    command("run", "config.toml", "--output", "whole", cwd=project)
    command("run", "config.toml", "--output", "many", "--engine", name, "--workers", "2", cwd=project)

    def by_unit(run: str) -> dict[str, Any]:
        return {record["unit"]: record for record in records(project / run)}

    assert by_unit("many") == by_unit("whole")


@pytest.mark.slow
def test_workers_make_anew_what_cannot_be_sent(project: Path):
    """A program of ``torch.export`` holds functions that pickle refuses."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    batch = torch.export.Dim("batch")
    torch.export.save(
        torch.export.export(model, (torch.rand(3, 6),), dynamic_shapes=({0: batch},)), project / "net.pt2"
    )
    text = (project / "config.toml").read_text().replace('build = "net:make"', 'exported = "net.pt2"')
    (project / "config.toml").write_text(text.replace("[methods.crown]\n", ""))
    command("run", "config.toml", "--output", "whole", cwd=project)
    command("run", "config.toml", "--output", "many", "--engine", "processes", cwd=project)
    assert sorted(map(str, records(project / "many"))) == sorted(map(str, records(project / "whole")))


# ------------------------------------------------------------------------------------------------- without any worker


class Backwards(Engine):
    """Does all items in this process, the last one first, with what is shared sent as it would be."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    @contextmanager
    def pool(self, shared: object, device: torch.device) -> Iterator[Pool]:
        pool = BackwardsPool()
        pool.workers, pool.shared = self.workers, Parcel.of(shared).unpacked(device)
        yield pool


class BackwardsPool(Pool):
    shared: object

    def unordered(self, function: Callable[[Any, Any], Any], items: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        for place, item in reversed(list(enumerate(items))):
            yield place, value_of(outcome(function, self.shared, pickle.loads(pickle.dumps(item))))


@pytest.mark.parametrize("workers", [1, 9])
def test_units_done_elsewhere_are_those_of_one_process(workers: int):
    """With more workers than a quarter of the units, the draws of each are shared out."""
    model, x = small_model(), torch.rand(25, 4, generator=torch.Generator().manual_seed(2))
    y = torch.arange(25) % 3
    settings: dict[str, Any] = {"norms": 2, "methods": METHODS[::2], "low": torch.zeros(4), "batch_size": 100}
    settings |= {"seed": 3, "first_index": 7, "groups": "label"}
    whole = certify.evaluate(model, x, y, **settings)
    told: list[str] = []
    found = certify.evaluate(
        model, x, y, engine=Backwards(workers), progress=lambda *one: told.append(one[0]), **settings
    )
    assert of(found) == of(whole)
    assert sorted(told) == sorted(record["unit"] for record in whole.records)
    assert (told == [record["unit"] for record in whole.records]) == (workers == 9)  # units one after the other


@pytest.mark.parametrize("more", [{"tolerance": 0.05}, {"noise_group": 4}, {"bound": "selected"}], ids=str)
def test_draws_are_shared_out_whatever_the_bound(more: dict[str, Any]):
    """With more workers than inputs, so that the draws of each are cut."""
    model, x = small_model(), torch.rand(9, 4, generator=torch.Generator().manual_seed(2))
    settings: dict[str, Any] = {"methods": [Smoothing(n=1500, **more)], "norms": 2, "batch_size": 200}
    found = certify.evaluate(model, x, engine=Backwards(25), **settings)
    assert of(found) == of(certify.evaluate(model, x, **settings))


def test_a_worker_that_differs_from_the_manifest_is_refused(monkeypatch: pytest.MonkeyPatch):
    settings: dict[str, Any] = {"methods": [IntervalBounds()], "norms": 2, "engine": Backwards(1)}
    model, x = small_model(), torch.rand(3, 4)
    other = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    monkeypatch.setattr(benches, "can_be_sent", lambda value: False)
    settings["engine"].make_model = lambda device: model
    monkeypatch.setattr(Parcel, "unpacked", lambda self, device: pickled[-1])
    pickled: list[Any] = []
    monkeypatch.setattr(
        Parcel, "of", classmethod(lambda cls, shared: (pickled.append(shared), cls(b"", (), (), {}))[1])
    )
    certify.evaluate(model, x, **settings)
    settings["engine"].make_model = lambda device: other
    with pytest.raises(InvalidInput, match="a worker has weights_sha256"):
        certify.evaluate(model, x, **settings)


def test_unknown_engines_are_refused():
    for given in ("spark", 3):
        with pytest.raises(InvalidInput, match="engine must be one of here, processes, ray"):
            certify.evaluate(small_model(), torch.rand(2, 4), engine=given, methods=[IntervalBounds()])  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="workers"):
        Processes(0)
    with pytest.raises(InvalidInput, match="devices must name at least one device"):
        Processes(devices=[])


def test_without_ray_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InvalidInput, match=r"install certify-bounds\[ray\]"):
        Ray()


def test_tasks_use_the_gpu_that_they_are_given():
    assert [device_of_task("cuda", [index]) for index in (0, 3)] == ["cuda:0", "cuda:3"]


@pytest.mark.slow
def test_distribution_does_not_import_ray():
    code = "import sys, certify.distribution; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
