"""Runs that are killed at random points, again and again, until they are done.

``python tests/oracles/kills.py 20 here shards`` kills runs of each kind 20 times, and prints behind units of which
methods; other kinds are ``processes`` (workers), ``ray`` (workers of Ray) and ``ray-driver``.
"""

import collections
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path

import numpy as np
import torch

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from oracles.commands import records
from oracles.workers import NETWORK

from certify import cli
from certify.distribution import processes, ray

CONFIG = """
batch_size = 100
[methods.crown]
[methods.smoothing]
n = 3000
[methods.attack]
steps = 5
restarts = 2
[model]
build = "net:make"
[data]
file = "data.npz"
"""
ENGINES = {"processes": ["--engine", "processes", "--workers", "2"], "ray": ["--engine", "ray", "--workers", "2"]}
ENGINES |= {"ray-driver": ENGINES["ray"]}


def project(folder: Path, inputs: int = 40) -> None:
    """A configuration with units of three kinds, each of some tenths of a second."""
    (folder / "net.py").write_text(NETWORK)
    x = np.random.default_rng(0).random((inputs, 6), dtype=np.float32)
    np.savez(folder / "data.npz", inputs=x, labels=np.arange(inputs) % 3)
    (folder / "config.toml").write_text(CONFIG)


def start(*arguments: object, cwd: Path) -> ForkProcess:
    """A command in a process that has imported everything already, so that most kills meet units and not imports."""
    process = get_context("fork").Process(target=command, args=(cwd, [str(argument) for argument in arguments]))
    process.start()
    return process


def command(folder: Path, arguments: list[str]) -> None:
    os.chdir(folder)
    processes.ATTEMPTS = ray.ATTEMPTS = 1000  # one unit may be hit more often than it would be tried
    torch.set_num_threads(1)
    with (folder / "told.txt").open("a") as told, contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
        code = cli._exit_code(arguments)
    os._exit(code)


def finish(process: ForkProcess) -> None:
    """Wait for a run, which must end well."""
    process.join(600)
    assert process.exitcode in (0, 1), process.exitcode


def children(pid: int) -> list[int]:
    """Workers of a run: all processes below it that are Python programs of ours."""
    found, left = [], [pid]
    while left:
        parent = left.pop()
        try:
            below = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        except OSError:
            below = []
        left += map(int, below)
        found += map(int, below)
    return [one for one in found if is_worker(one)]


def is_worker(pid: int) -> bool:
    """Whether a process is a worker that has begun to work on units of a run."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return command.startswith(b"ray::run_task") or b"spawn_main" in command


def finished_units(run: Path) -> int:
    file = run / "records.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


class Killed:
    """A run that is killed so many times, each after some more units; then it is continued to its end."""

    def __init__(self, folder: Path, run: str, arguments: list[str], chance: random.Random) -> None:
        self.folder, self.run, self.arguments, self.chance = folder, folder / run, arguments, chance
        self.hits: collections.Counter[str] = collections.Counter()

    def start(self) -> ForkProcess:
        return start("run", "config.toml", "--output", self.run, *self.arguments, cwd=self.folder)

    def moment(self, process: ForkProcess, more: int) -> bool:
        """Wait until some more units are done, and a random while; whether the run is still going on."""
        wanted = finished_units(self.run) + more
        while process.is_alive() and finished_units(self.run) < wanted:
            time.sleep(0.002)
        time.sleep(self.chance.random() * 0.2)
        return process.is_alive()

    def driver(self, kills: int) -> int:
        """Kill the run itself up to so many times, and continue it; the number of kills."""
        done = 0
        while done < kills:
            process = self.start()
            if not self.moment(process, self.chance.randrange(2)):
                finish(process)
                return done
            process.kill()
            process.join()
            self.note()
            done += 1
        finish(self.start())
        return done

    def workers(self, kills: int) -> int:
        """Kill workers of the run up to so many times while it goes on; the number of kills."""
        process, done = self.start(), 0
        assert process.pid is not None
        while done < kills and self.moment(process, 1):
            if victims := children(process.pid):
                os.kill(self.chance.choice(victims), 9)
                self.note()
                done += 1
        finish(process)
        return done

    def note(self) -> None:
        """Remember which method the last unit before a kill belongs to."""
        lines = records_of(self.run)
        method = lines[-1]["method"] if lines else "start"
        self.hits[method] += 1
        print(f"{self.run.name}: killed after {len(lines)} units, the last of {method}", flush=True)


def records_of(run: Path) -> list[dict]:
    """Records, without an unfinished last line."""
    file = run / "records.jsonl"
    content = file.read_bytes() if file.exists() else b""
    return [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]


def same(first: Path, second: Path) -> bool:
    """Whether two runs hold the same units, each once, with the same bits."""
    one, two = ({str(record["unit"]): record for record in records(run)} for run in (first, second))
    once = len(one) == len(records(first)) == len(records(second))
    return one == two and once and tensor_files(first) == tensor_files(second)


def tensor_files(run: Path) -> list[tuple[str, bytes]]:
    return sorted((file.name, file.read_bytes()) for file in (run / "tensors").glob("*.safetensors"))


def killed_runs(folder: Path, kind: str, kills: int, seed: int = 0) -> collections.Counter[str]:
    """Kill runs of a kind so many times in all, and compare each with one that nobody disturbed.

    Returns:
        The number of kills by the method whose unit had been finished last.
    """
    project(folder)
    chance, done, hits, number = random.Random(seed), 0, collections.Counter[str](), 0
    if not (folder / "whole").exists():
        finish(start("run", "config.toml", "--output", "whole", cwd=folder))
    while done < kills:
        number += 1
        name = f"{kind}-{number}"
        if kind == "shards":
            parts = [Killed(folder, f"{name}/{i}", ["--shard", f"{i}/3"], chance) for i in (1, 2, 3)]
            done += sum(part.driver(-(-(kills - done) // 3)) for part in parts)
            finish(start("merge", f"{name}-merged", name, cwd=folder))
            assert records(folder / f"{name}-merged") == records(folder / "whole")  # also in the same order
            name = f"{name}-merged"
        else:
            parts = [Killed(folder, name, ENGINES.get(kind, []), chance)]
            kill = parts[0].workers if kind in ("processes", "ray") else parts[0].driver
            done += kill(kills - done)
        assert same(folder / name, folder / "whole"), (kind, number)
        for part in parts:
            hits += part.hits
    return hits


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        for each in sys.argv[2:]:
            began = time.monotonic()
            counted = killed_runs(Path(made), each, int(sys.argv[1]))
            seconds = time.monotonic() - began
            print(f"{each}: {counted.total()} kills, {dict(counted)}, {seconds:.0f} s: same bits", flush=True)
