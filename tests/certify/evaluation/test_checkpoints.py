"""Votes of a unit that is under way survive kills, and are the same to the last one."""

import json
import os
import random
import sys
import time
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest
import torch
from oracles.commands import records
from torch import Tensor, nn

import certify
from certify.evaluation import checkpoints
from certify.evaluation.storage.chain import LINKS
from certify.evaluation.storage.repair import repair
from certify.methods import Smoothing
from certify.smoothing.drawing.division import NOISE_BLOCK, cuts_of
from certify.smoothing.drawing.votes import Sampling, Stage

Killed = KeyboardInterrupt  # which no code of ours takes for an error


class Network(nn.Module):
    """Logits that no two inputs share, and a kill at a forward pass of choice."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(6, 3)
        self.passes, self.kill_at = -1, -2

    def forward(self, x):
        self.passes += self.passes >= 0
        if self.passes == self.kill_at:
            raise Killed
        return self.last(x.flatten(1))


@pytest.fixture
def network(monkeypatch) -> Network:
    """Passes are counted from the first votes of a run on."""
    torch.manual_seed(0)
    made, key = Network().eval(), checkpoints._key

    def began(*arguments):
        made.passes = max(made.passes, 0)
        return key(*arguments)

    monkeypatch.setattr(checkpoints, "_key", began)
    return made


def run(network: Network, output: Path | None, batch_size: int = 100, **settings: object) -> certify.Evaluation:
    x = torch.rand(3, 6, generator=torch.Generator().manual_seed(1))
    methods = [Smoothing(sigma=0.5, **{"n": 1000, "n0": 50} | settings)]
    network.passes = -1
    y = torch.zeros(3).long()
    return certify.evaluate(network, x, y, norms=2, methods=methods, batch_size=batch_size, output=output)


def stated(evaluation: certify.Evaluation) -> list[dict]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in evaluation.records]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch_size", "settings"),
    [
        *[(100, {}), (7, {"n": 230}), (30, {"n": 215}), (250, {"n": 1050})],
        *[(100, {"tolerance": 0.01}), (100, {"noise_group": 3})],
    ],
)
def test_a_run_killed_at_random_passes_states_the_same(batch_size, settings, network, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    whole = run(network, None, batch_size, **settings)
    chance, spent = random.Random(0), 0
    for attempt in range(40):
        network.kill_at = (
            chance.randrange(2, 12 if batch_size > 7 else 60) if attempt < 1 or "noise_group" not in settings else -2
        )
        try:
            found = run(network, tmp_path / "run", batch_size, **settings)
        except Killed:
            spent += 1
            continue
        break
    assert spent >= (1 if "noise_group" in settings else 3)
    assert stated(found) == stated(whole)
    assert not list((tmp_path / "run/under_way").iterdir())
    assert certify.audit(tmp_path / "run", records_only=True).refuted == ()


@pytest.mark.parametrize("batch_size", [1, 7, 30, 99, 100, 150, 199, 250])
@pytest.mark.parametrize("draws", [1, 99, 100, 130, 245, 400])
@pytest.mark.parametrize("rows", [1, 3])
def test_cuts_leave_every_forward_pass_as_it_is(batch_size, draws, rows):
    """By the sizes of all passes: of a whole call, and of its parts one after the other."""
    sizes: list[int] = []
    model = nn.Identity().eval()
    model.register_forward_hook(lambda module, given, output: sizes.append(len(output)))
    x = torch.zeros(rows, 2)
    noise = certify.smoothing.Gaussian(1.0).distribution
    shared = {"model": model, "distribution": noise, "seed": 0, "batch_size": batch_size}
    sampling = Sampling(x=x, indices=range(rows), **shared)
    sampling.votes(2, draws, Stage.ESTIMATION)
    whole, cuts = sizes.copy(), cuts_of(rows, draws, batch_size)
    if cuts is None:
        assert rows > 1
        return
    sizes.clear()
    for row in range(rows):
        own = Sampling(x=x[row : row + 1], indices=range(row, row + 1), **shared)
        ends = [part * cuts.step for part in range(cuts.parts)] + [draws]
        for first, stop in pairwise(ends):
            own.votes(2, stop - first, Stage.ESTIMATION, first_block=first // NOISE_BLOCK)
    assert sizes == whole


def test_small_runs_store_nothing_extra(network, tmp_path):
    run(network, tmp_path / "run")
    assert not (tmp_path / "run/under_way").exists()


@pytest.fixture
def under_way(network, tmp_path, monkeypatch) -> tuple[Path, Path]:
    """A killed run, and the file of its votes."""
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    network.kill_at = 20
    with pytest.raises(Killed):
        run(network, tmp_path / "run")
    (file,) = (tmp_path / "run/under_way").iterdir()
    return tmp_path / "run", file


def changed(file: Path) -> None:
    """More votes for class 0 than were counted."""
    content = json.loads(file.read_text())
    content["calls"][-1]["votes"][0][0] += 50
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("damage", [changed, lambda file: file.write_bytes(file.read_bytes()[:100])])
def test_damaged_votes_count_for_nothing(damage, under_way, network, tmp_path):
    folder, file = under_way
    network.kill_at = -2
    whole = run(network, None)
    damage(file)
    assert stated(run(network, folder)) == stated(whole)


def test_votes_of_another_run_count_for_nothing(under_way, network, tmp_path):
    """A run of other weights: calls are told apart by inputs and draws, and the run alone tells the model."""
    _, file = under_way
    network.kill_at = -2
    with torch.no_grad():
        network.last.weight.neg_()
    whole = run(network, None)
    manifest = run(network, tmp_path / "first").manifest
    certify.RunDirectory.open(tmp_path / "second", manifest).close()
    (tmp_path / "second/under_way").mkdir()
    (tmp_path / "second/under_way" / file.name).write_bytes(file.read_bytes())
    assert stated(run(network, tmp_path / "second")) == stated(whole)


def test_repair_sets_damaged_votes_aside_and_keeps_the_others(under_way, network):
    folder, file = under_way
    assert repair(folder) == ["nothing is damaged"]
    changed(file)
    (told,) = repair(folder)
    assert told == (
        f"under_way/{file.name} is set aside: it was changed: it does not have the hash that it states: its votes are "
        "counted anew"
    )
    assert [one.name for one in file.parent.iterdir()] == [f"{file.name}.damaged"]


class Unhurried(nn.Module):
    """A network whose passes take a millisecond more, so that a kill meets its run on any machine."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.001)
        return self.network(x)


def certify_one_input(folder: Path) -> None:
    """In a process of its own: 100,000 draws of one input, stored every 20 ms."""
    torch.set_num_threads(1)
    checkpoints.SECONDS = 0.02
    torch.manual_seed(0)
    model, x = Unhurried(nn.Linear(6, 3)).eval(), torch.rand(1, 6, generator=torch.Generator().manual_seed(1))
    y = torch.zeros(1).long()
    certify.evaluate(model, x, y, norms=2, methods=[Smoothing(n=100_000)], output=folder, batch_size=200)
    os._exit(0)


def started(folder: Path) -> ForkProcess:
    process = get_context("fork").Process(target=certify_one_input, args=(folder,))
    process.start()
    return process


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_kills_in_the_middle_of_100000_draws_of_one_input_lose_nothing(tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    started(whole).join()
    chance, reached = random.Random(0), []
    for _ in range(5):
        process, files = started(folder), folder / "under_way"
        while process.is_alive() and not (files.exists() and list(files.glob("*.json"))):
            time.sleep(0.002)
        time.sleep(chance.random() * 0.1)
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
        stored = [json.loads(file.read_text())["calls"][-1]["votes"] for file in files.glob("*.json")]
        reached += [sum(votes[0]) for votes in stored]
    started(folder).join()
    assert reached == sorted(reached)
    assert any(100 < count < 100_000 for count in reached)
    left, right = (
        [{key: value for key, value in record.items() if key not in ("seconds", *LINKS)} for record in records(one)]
        for one in (whole, folder)
    )
    assert left == right
    assert not list(files.iterdir())
