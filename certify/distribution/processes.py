"""Workers that are processes of this machine, several on one device or one on each."""

import contextlib
import multiprocessing
import pickle
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import nn

from bounds import checks
from bounds.errors import InvalidInput, WorkerLost
from certify.distribution.engines import ATTEMPTS, MEMORY, Engine, Function, Pool, failure, outcome, value_of
from certify.distribution.parcels import Parcel


class Processes(Engine):
    """Processes of this machine.

    As everywhere in Python, a script that starts processes must have ``if __name__ == "__main__":`` around what it
    does. Each process computes with as many threads as this one, so set ``OMP_NUM_THREADS`` to the number of cores
    divided by that of workers.

    Args:
        workers: processes, or processes on each device.
        devices: names of devices. None for the device of the inputs.
        make_model: see :class:`Engine`.

    Raises:
        InvalidInput: workers below 1, no device.
    """

    def __init__(
        self,
        workers: int = 1,
        *,
        devices: Sequence[str] | None = None,
        make_model: Callable[[str], nn.Module] | None = None,
    ) -> None:
        self.make_model = make_model
        self.workers = checks.at_least("workers", workers, 1)
        if devices is not None and not (devices and all(isinstance(name, str) for name in devices)):
            raise InvalidInput(f'devices must name at least one device, such as ["cuda:0", "cuda:1"], got {devices!r}')
        self.devices = None if devices is None else list(devices)

    def __repr__(self) -> str:
        return f"Processes({self.workers}, devices={self.devices})"

    @contextlib.contextmanager
    def pool(self, shared: object, device: torch.device) -> Iterator[Pool]:
        """Processes that hold ``shared``; they end with the context."""
        names = [str(device)] if self.devices is None else self.devices
        pool = ProcessPool(Parcel.of(shared), names * self.workers)
        try:
            pool.start()
            yield pool
        finally:
            pool.end()


@dataclass(frozen=True, eq=False)
class _Worker:
    """A process, the end of the pipe to it, and its device."""

    process: BaseProcess
    connection: Connection
    device: str


class ProcessPool(Pool):
    """Processes, one for each of the devices named."""

    def __init__(self, parcel: Parcel, devices: Sequence[str]) -> None:
        self.workers = len(devices)
        self.parcel = pickle.dumps(parcel)
        self.devices = devices
        self._free: list[_Worker] = []
        self._busy: dict[object, tuple[_Worker, int, bytes]] = {}  # by connection

    def start(self) -> None:
        """Start all processes at once, and send each what is shared."""
        self._free = [_started(device) for device in self.devices]
        for worker in self._free:
            self._equip(worker)

    def end(self) -> None:
        """End all processes."""
        workers = self._free + [worker for worker, _, _ in self._busy.values()]
        self._free, self._busy = [], {}
        for worker in workers:
            worker.process.kill()  # it may be in the middle of an item that nobody waits for any more
        for worker in workers:
            worker.process.join()
            worker.connection.close()

    def unordered(self, function: Function, items: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        """See :class:`Pool`."""
        attempts: dict[int, int] = {}
        for place, item in enumerate(items):
            if not self._free:
                yield self._next(attempts)
            self._send(place, pickle.dumps((place, function, item)), attempts)
        while self._busy:
            yield self._next(attempts)

    def _next(self, attempts: dict[int, int]) -> tuple[int, Any]:
        """Wait until one of the items under way is done; its place and value."""
        while True:
            done = wait([worker.connection for worker, _, _ in self._busy.values()])
            worker, place, task = self._busy.pop(done[0])
            try:
                content = worker.connection.recv_bytes()
            except (EOFError, OSError):
                self._replace(worker)
                self._send(place, task, attempts)
                continue
            self._free.append(worker)
            return place, value_of(content)

    def _send(self, place: int, task: bytes, attempts: dict[int, int]) -> None:
        while True:
            attempts[place] = attempts.get(place, 0) + 1
            if attempts[place] > ATTEMPTS:
                raise WorkerLost(f"piece of work {place} ended its worker {ATTEMPTS} times and is given up: {MEMORY}")
            worker = self._free.pop()
            try:
                worker.connection.send_bytes(task)
            except OSError:
                self._replace(worker)
                continue
            self._busy[worker.connection] = worker, place, task
            return

    def _replace(self, worker: _Worker) -> None:
        """Start a process for one that is dead."""
        worker.process.kill()
        worker.process.join()
        worker.connection.close()
        fresh = _started(worker.device)
        self._free.append(fresh)
        self._equip(fresh)

    def _equip(self, worker: _Worker) -> None:
        with contextlib.suppress(OSError):  # if it is dead already, the first item will show that
            worker.connection.send_bytes(self.parcel)


def _started(device: str) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, device), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours, device)


def work(connection: Connection, device: str) -> None:
    """Do what comes through a pipe until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other side ends this process
    with contextlib.suppress(EOFError, OSError):
        parcel: Parcel = pickle.loads(connection.recv_bytes())
        broken: Exception | None = None
        try:
            shared = parcel.unpacked(torch.device(device))
        except Exception as error:  # whatever a foreign class raises; each item gets it as its outcome
            broken = error
        while True:
            task = connection.recv_bytes()
            if broken is None:
                _, function, item = pickle.loads(task)
                connection.send_bytes(outcome(function, shared, item))
            else:
                connection.send_bytes(failure(broken))
