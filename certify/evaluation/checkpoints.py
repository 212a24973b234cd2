"""Votes of units of smoothing that are under way, stored now and then, so that a kill loses half a minute of them.

``under_way/`` in a run directory has a file for each unit that takes longer than that, with the votes counted so far.
Draws are cut where the buffer of noisy inputs is empty, so that every forward pass has the rows that it has without a
kill, and votes are the same to the last one. A file belongs to one manifest, and to calls with the same inputs; it goes
when its unit is finished. One that is damaged counts for nothing.
"""

import contextlib
import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from certify.evaluation.storage import chain
from certify.evaluation.storage.durable import sync_folder, write_whole
from certify.evaluation.storage.run_directory import RunDirectory, reported
from certify.evaluation.units import Unit
from certify.methods import Smoothing
from certify.smoothing.drawing.division import NOISE_BLOCK, Piece, counted_by, cuts_of
from certify.smoothing.drawing.votes import Sampling, Stage

LOGGER = logging.getLogger("certify")
FOLDER = "under_way"
SECONDS = 30.0  # of counting that a kill may lose
PIECES = 8  # between two times that votes are stored, at least


class _Call(msgspec.Struct):
    """A call that counts votes: what it is asked, the piece to go on with, and the votes so far by row."""

    key: str
    row: int
    part: int
    votes: list[list[int]]


class _Content(msgspec.Struct):
    """A file: the unit, the run, seconds spent, and calls in their order."""

    unit: str
    run: str
    seconds: float
    calls: list[_Call]
    sha256: str = ""

    def digest(self) -> str:
        """Hash of all but itself."""
        return chain.digest({name: value for name, value in msgspec.to_builtins(self).items() if name != "sha256"})


class Checkpoints:
    """Votes that are under way in a run.

    Args:
        run: its directory; None for a run that stores nothing.
        finished: names of units that need no votes any more.
    """

    def __init__(self, run: RunDirectory | None, finished: Sequence[str] = ()) -> None:
        self._run = run
        self._counting: dict[str, _Counting] = {}
        self._parts: dict[str, int] = {}  # that a piece has, by method
        for name in finished if run is not None and (run.path / FOLDER).exists() else ():
            self.drop(name)

    @contextlib.contextmanager
    def of(self, unit: Unit) -> Iterator[float]:
        """Store votes that are counted in the body; yields the seconds that a killed run had spent on them."""
        if self._run is None or not isinstance(unit.method, Smoothing):
            yield 0.0
            return
        before = 0.0
        if unit.name not in self._counting:
            path = path_of(self._run, unit.name)
            content = stored_votes(self._run, path)
            self._counting[unit.name] = _Counting(path, content, self._parts.get(unit.method.name, 1))
            before = content.seconds
        counting = self._counting[unit.name]
        with counted_by(counting):
            yield before
        self._parts[unit.method.name] = counting.at_once

    def drop(self, name: str) -> None:
        """Forget the votes of a unit, which is stored or cannot be done."""
        self._counting.pop(name, None)
        if self._run is not None:
            path = path_of(self._run, name)
            if path.exists():
                path.unlink()
                sync_folder(path.parent)


def path_of(run: RunDirectory, name: str) -> Path:
    """The file of a unit that is under way."""
    return run.path / FOLDER / f"{name.replace('/', '_')}.json"


def stored_votes(run: RunDirectory, path: Path) -> _Content:
    """The content of a file of votes, or an empty one where there is none that belongs to the run."""
    nothing = _Content("", chain.start_of(run.manifest, run.informative), 0.0, [])
    if not path.exists():
        return nothing
    if fault := fault_of(run, path):
        LOGGER.warning("%s is not used: %s", path, fault)
        return nothing
    return msgspec.json.decode(path.read_bytes(), type=_Content)


def fault_of(run: RunDirectory, path: Path) -> str:
    """Why a file of votes cannot be used; empty if it can."""
    try:
        content = msgspec.json.decode(path.read_bytes(), type=_Content)
    except (OSError, ValueError, RecursionError) as error:
        return f"it cannot be read ({error})"
    if content.digest() != content.sha256:
        return "it was changed: it does not have the hash that it states"
    if content.run != chain.start_of(run.manifest, run.informative):
        return "it belongs to a run under another manifest"
    return ""


@dataclass
class _Counting:
    """Counts the votes of one unit, and stores them when it is time.

    Attributes:
        path: of the file.
        content: of it.
        at_once: parts of a row that are drawn before the clock is looked at.
    """

    path: Path
    content: _Content
    at_once: int = 1

    def __post_init__(self) -> None:
        self.content.unit = self.path.stem
        self._stored = self._looked = time.monotonic()

    def __call__(self, sampling: Sampling, num_classes: int, draws: int, stage: Stage, first_block: int) -> Tensor:
        """Votes (N, K + 1) of a call, of which those of an earlier run are not drawn again."""
        rows = list(range(len(sampling.x))) if sampling.chosen is None else sampling.chosen.tolist()
        key = _key(sampling, rows, (num_classes, draws, int(stage), first_block))
        call = next((one for one in self.content.calls if one.key == key), None)
        if call is None:
            call = _Call(key, 0, 0, [[0] * (num_classes + 1) for _ in rows])
            self.content.calls.append(call)
        with counted_by(None):
            for piece, row, part in self._pieces(call, sampling, len(rows), draws):
                drawn = _of_piece(sampling, rows, piece)
                block = first_block + piece.first // NOISE_BLOCK
                counted = drawn.votes(num_classes, piece.draws, stage, first_block=block).tolist()
                for place, more in zip(range(piece.rows.start, piece.rows.stop), counted, strict=True):
                    call.votes[place] = [old + new for old, new in zip(call.votes[place], more, strict=True)]
                call.row, call.part = row, part
                self._look()
        votes = torch.tensor(call.votes, dtype=torch.int64, device="cpu").view(len(rows), num_classes + 1)
        return votes.to(sampling.x.device)

    def _pieces(self, call: _Call, sampling: Sampling, rows: int, draws: int) -> Iterator[tuple[Piece, int, int]]:
        """Pieces that are still to be counted, each with the row and the part of it where the next one begins."""
        cuts = cuts_of(rows, draws, sampling.batch_size) if sampling.noise_group == 1 else None
        if cuts is None:
            if call.row < rows or not rows:
                yield Piece(slice(0, rows), 0, draws), rows, 0
            return
        while call.row < rows:
            row, part = call.row, call.part
            if part == 0 and sampling.chosen is None and (several := self.at_once // cuts.parts) > 1:
                stop = min(row + several, rows)
                yield Piece(slice(row, stop), 0, draws), stop, 0
                continue
            end = min(part + self.at_once, cuts.parts)
            last = draws if end == cuts.parts else end * cuts.step
            piece = Piece(slice(row, row + 1), part * cuts.step, last - part * cuts.step)
            yield piece, row + (end == cuts.parts), end % cuts.parts

    def _look(self) -> None:
        """Look at the clock: pieces become longer or shorter, and votes are stored when it is time."""
        now = time.monotonic()
        took, self._looked = now - self._looked, now
        if took < SECONDS / PIECES / 2:
            self.at_once *= 2
        elif took > SECONDS / PIECES:
            self.at_once = max(1, self.at_once // 2)
        if now - self._stored >= SECONDS:
            self.content.seconds += now - self._stored
            self.content.sha256 = self.content.digest()
            with reported(f"{self.path} cannot be written"):
                self.path.parent.mkdir(exist_ok=True)
                write_whole(self.path, msgspec.json.encode(self.content))
            self._stored = self._looked = time.monotonic()


def _of_piece(sampling: Sampling, rows: Sequence[int], piece: Piece) -> Sampling:
    if piece.rows == slice(0, len(rows)):
        return sampling
    if sampling.chosen is not None:
        return sampling.rows(sampling.chosen[piece.rows])
    return replace(sampling, x=sampling.x[piece.rows], indices=sampling.indices[piece.rows])


def _key(sampling: Sampling, rows: Sequence[int], asked: tuple[int, ...]) -> str:
    """Hash of all that determines the votes of a call besides the model."""
    noise = sampling.distribution
    settled: tuple[Any, ...] = (sampling.seed, sampling.batch_size, sampling.noise_group, noise.sampling, noise.suffix)
    digest = hashlib.sha256(repr((*asked, *settled, [sampling.indices[row] for row in rows])).encode())
    for row in rows:
        digest.update(sampling.x[row].cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
