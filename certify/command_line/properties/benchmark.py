"""A folder of queries, as the verification competition VNN-COMP lays them out: run, stored, and continued."""

import csv
import math
import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import msgspec
import torch
from tqdm import tqdm

from bounds.errors import InvalidConfiguration
from bounds.memory import WAITING
from certify.command_line.properties.worker import Answer, Query, serve
from certify.verification.decision import SOUND, VERDICTS

GRACE = 0.02, 1.0  # share of the time, and seconds, after which the process of a query is ended


@dataclass(frozen=True)
class Instance:
    """A network with a property and a time limit, as the benchmark names them."""

    onnx: str
    vnnlib: str
    timeout: float


@dataclass(frozen=True)
class InstanceResult:
    """The verdict on an instance, and what led to it.

    Attributes:
        onnx: path of the network, as the benchmark names it.
        vnnlib: path of the property, likewise.
        verdict: see :class:`certify.Decision`.
        seconds: from the question to the answer, the start of a process not counted.
        domains: sub-problems that were bounded.
        decided_by: what decided it.
        reason: why nothing did.
        timeout: time limit in seconds.
        sound: arithmetic of proofs.
    """

    onnx: str
    vnnlib: str
    verdict: str
    seconds: float
    domains: int
    decided_by: str
    reason: str
    timeout: float
    sound: str

    @property
    def key(self) -> tuple[str, str, float, str]:
        """The question, with its settings."""
        return self.onnx, self.vnnlib, self.timeout, self.sound


class Benchmark:
    """Instances and the outcomes that are known of them.

    Args:
        instances: CSV file with a network, a property and seconds in each line.
        root: folder that its paths start from.
        output: directory of results, made if it is not there.
        sound: arithmetic of proofs.
        scale: factor for all time limits.
        waiting: bytes of sub-problems that wait.

    Raises:
        InvalidConfiguration: a file that cannot be read, a line that is no instance, a directory that cannot be made.

    Attributes:
        instances: in the order of the file, each once.
        expected: CSV file of known verdicts next to the instances, whether it is there or not.
        output: directory of results.
    """

    def __init__(
        self, instances: Path, root: Path, output: Path, sound: str, scale: float, waiting: int = WAITING
    ) -> None:
        self.instances = list(dict.fromkeys(_instances(instances, scale)))
        self.expected = instances.with_name("expected.csv")
        self.output = output
        self._root, self._sound, self._waiting = root, sound, waiting
        self._results = output / "results.csv"
        try:
            (output / "answers").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidConfiguration(f"{output} cannot be made: {error.strerror}") from error
        self._known = {outcome.key: outcome for outcome in _stored(self._results)}
        _write_rows(self._results, self._known.values())  # without a line that a kill has cut

    @property
    def outcomes(self) -> list[InstanceResult]:
        """InstanceResults of this benchmark that are known, in its order."""
        known = (self._known.get(self._key(instance)) for instance in self.instances)
        return [outcome for outcome in known if outcome is not None]

    def run(self) -> None:
        """Decide what is not known yet; every outcome is stored at once."""
        waiting = [instance for instance in self.instances if self._key(instance) not in self._known]
        done = len(self.instances) - len(waiting)
        if done:
            print(f"{done} of {len(self.instances)} instances are known already", file=sys.stderr)
        shown = sys.stderr.isatty()
        with closing(_Process()) as process, self._results.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(InstanceResult)], lineterminator="\n")
            bar = tqdm(waiting, initial=done, total=len(self.instances), unit="query", disable=not shown)
            for instance in bar:
                outcome, result = self._decided(process, instance)
                place = self.instances.index(instance)
                (self.output / "answers" / f"{place:05}.txt").write_text(result, encoding="utf-8")
                writer.writerow(asdict(outcome))
                file.flush()
                self._known[outcome.key] = outcome
                if not shown:
                    told = f"{instance.onnx} {instance.vnnlib}: {outcome.verdict}, {outcome.seconds:.2f} s"
                    print(f"[{place + 1}/{len(self.instances)}] {told}", file=sys.stderr, flush=True)

    def _key(self, instance: Instance) -> tuple[str, str, float, str]:
        return instance.onnx, instance.vnnlib, instance.timeout, self._sound

    def _decided(self, process: "_Process", instance: Instance) -> tuple[InstanceResult, str]:
        """The outcome of an instance, and its result in the format of VNN-COMP."""
        onnx, vnnlib = (str(_found(self._root / name)) for name in (instance.onnx, instance.vnnlib))
        query = Query(onnx=onnx, vnnlib=vnnlib, timeout=instance.timeout, sound=self._sound, waiting=self._waiting)
        answer, seconds = process.ask(query)
        outcome = InstanceResult(
            onnx=instance.onnx,
            vnnlib=instance.vnnlib,
            verdict=answer["verdict"],
            seconds=round(seconds, 3),
            domains=answer["domains"],
            decided_by=answer["decided_by"],
            reason=answer["reason"],
            timeout=instance.timeout,
            sound=self._sound,
        )
        return outcome, answer["result"]


class _Process:
    """The process that answers, started anew after it was ended or has ended by itself."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._running: tuple[BaseProcess, Connection] | None = None

    def ask(self, query: Query) -> tuple[Answer, float]:
        """The answer and the seconds that it took."""
        process, connection = self._running = self._running or self._started()
        share, seconds = GRACE
        began = time.monotonic()
        try:
            connection.send(query)
            if connection.poll(query["timeout"] * (1 + share) + seconds):
                found: Answer = connection.recv()
                return found, time.monotonic() - began
            verdict, reason = "timeout", "the process did not end by itself and was ended"
        except (EOFError, OSError):
            process.join()
            verdict, reason = "unknown", f"the process of the query ended with exit code {process.exitcode}"
        self.close()
        answer = Answer(verdict=verdict, domains=0, decided_by="", reason=reason, result=f"{verdict}\n")
        return answer, time.monotonic() - began

    def close(self) -> None:
        """End the process."""
        if self._running is not None:
            process, connection = self._running
            connection.close()
            process.kill()
            process.join()
            self._running = None

    def _started(self) -> tuple[BaseProcess, Connection]:
        """A process that has imported torch."""
        connection, other = self._context.Pipe()
        process = self._context.Process(target=serve, args=(other, torch.get_num_threads()), daemon=True)
        process.start()
        other.close()
        connection.recv()
        return process, connection


def _instances(path: Path, scale: float) -> Iterator[Instance]:
    """The lines of a file; a first line without a number of seconds is a header."""
    for number, cells in enumerate(_rows(path), 1):
        if not cells:
            continue
        try:
            onnx, vnnlib, seconds = (cell.strip() for cell in cells[:3])
            timeout = float(seconds) * scale
        except ValueError:
            if number == 1:
                continue
            raise InvalidConfiguration(
                f"line {number} of {path.name} must be a network, a property and seconds, got {','.join(cells)!r}"
            ) from None
        if not 0 < timeout < math.inf:
            raise InvalidConfiguration(f"line {number} of {path.name} has a time limit of {seconds} seconds")
        yield Instance(onnx, vnnlib, timeout)


def _rows(path: Path) -> list[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidConfiguration(f"{path} cannot be read: {reason}") from error


def _stored(path: Path) -> Iterator[InstanceResult]:
    """InstanceResults of an earlier run; a line that a kill has cut is left out."""
    if not path.exists():
        return
    names = [field.name for field in fields(InstanceResult)]
    header, *rows = _rows(path) or [names]
    if header != names:
        raise InvalidConfiguration(f"{path} holds no results of this command: choose another directory")
    for row in rows:
        values = dict(zip(names, row, strict=False))
        if len(row) == len(names) and values["verdict"] in VERDICTS and values["sound"] in SOUND:
            yield msgspec.convert(values, InstanceResult, strict=False)


def _write_rows(path: Path, outcomes: Iterable[InstanceResult]) -> None:
    """Write all outcomes, such that a kill leaves the old file or the new one."""
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(InstanceResult)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(outcome) for outcome in outcomes)
    partial.replace(path)


def _found(path: Path) -> Path:
    """The file, or its compressed form where only that is there."""
    compressed = path.with_name(f"{path.name}.gz")
    return compressed if not path.exists() and compressed.exists() else path
