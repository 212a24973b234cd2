"""The file of the clean inputs of a run: each stands there once, whatever the number of methods and norms.

``inputs.safetensors`` has room for all inputs of the run; those that no unit stored yet are holes, which take no space
on the disk. The tensors of a unit name their inputs by place and hash, so that the hash of the unit's own file, which
its line states, vouches for them too.
"""

import hashlib
import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec
import torch
from safetensors.torch import load_file
from torch import Tensor

from bounds.errors import InvalidConfiguration
from certify.evaluation.storage.durable import sync, sync_folder

NAME = "inputs.safetensors"
CLEAN, PLACE, DIGEST = "clean", "clean.place", "clean.sha256"
LEAST = 128  # bytes of an input above which its place and hash take less
TYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}

Tensors = Mapping[str, Tensor]


class InputFile:
    """Clean inputs of a run, by their places in it.

    Args:
        folder: the run directory.
        configuration: of its manifest, with the number of inputs and the index of the first.
    """

    def __init__(self, folder: Path, configuration: Mapping[str, Any]) -> None:
        self.path = folder / NAME
        self._first: int = configuration.get("first_index", 0)
        self._count: int = configuration.get("inputs", 0)
        self._known: dict[int, bytes] | None = None  # hashes of stored inputs by place; None before looking

    def put(
        self, record: Mapping[str, Any], tensors: Tensors, earlier: Callable[[], Iterable[Tensors]]
    ) -> dict[str, Tensor]:
        """Store the clean inputs of a unit, and return its tensors with their places and hashes instead.

        Where they have no place of their own, as in records that were made by hand, they stay with the unit.

        Args:
            record: of the unit.
            tensors: of the unit.
            earlier: gives the tensors that units stored before, as they stand in their files.
        """
        clean, places = tensors.get(CLEAN), [row["index"] - self._first for row in record["rows"]]
        if clean is None or not self._fits(clean, places):
            return dict(tensors)
        rows = clean.detach().cpu().contiguous()
        contents = [_bytes_of(row) for row in rows]
        digests = [hashlib.sha256(content).digest() for content in contents]
        known = self._stored_before(earlier)
        if any(known.get(place, digest) != digest for place, digest in zip(places, digests, strict=True)):
            return dict(tensors)
        new = [(place, content) for place, content in zip(places, contents, strict=True) if place not in known]
        if new:
            self._write(rows, new)
            known.update(zip(places, digests, strict=True))
        others = {name: value for name, value in tensors.items() if name != CLEAN}
        hashes = torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8).view(-1, 32)
        return others | {PLACE: torch.tensor(places, dtype=torch.int64, device="cpu"), DIGEST: hashes}

    def restored(self, tensors: Tensors) -> dict[str, Tensor]:
        """Tensors of a unit with their clean inputs, which are read from the disk when they are looked at.

        Raises:
            InvalidConfiguration: the file does not hold the inputs that the unit stored.
        """
        if PLACE not in tensors:
            return dict(tensors)
        if not self.holds(tensors):
            raise InvalidConfiguration(
                f"{self.path} does not hold the inputs that the run stored: their SHA-256 differ"
            )
        places, whole = tensors[PLACE].tolist(), load_file(self.path)[CLEAN]
        follow = places == list(range(places[0], places[0] + len(places)))
        clean = whole[places[0] : places[0] + len(places)] if follow else whole[places]
        return {CLEAN: clean} | {name: value for name, value in tensors.items() if name not in (PLACE, DIGEST)}

    def holds(self, tensors: Tensors) -> bool:
        """Whether the inputs that the tensors of a unit name are there, as they were stored."""
        if PLACE not in tensors:
            return True
        try:
            layout = _Layout.read(self.path)
            with self.path.open("rb") as file:
                for place, digest in zip(tensors[PLACE].tolist(), tensors[DIGEST].tolist(), strict=True):
                    file.seek(layout.start + place * layout.size)
                    content = file.read(layout.size) if 0 <= place < layout.shape[0] else b""
                    if hashlib.sha256(content).digest() != bytes(digest):
                        return False
        except (OSError, ValueError, KeyError, TypeError, struct.error):
            return False
        return True

    def _fits(self, clean: Tensor, places: Sequence[int]) -> bool:
        """Whether inputs may stand in the file: large ones, one for each place, and like those that are there."""
        size = clean[:1].numel() * clean.element_size()
        inside = len(set(places)) == len(places) == len(clean) and all(0 <= place < self._count for place in places)
        if not inside or clean.dtype not in TYPES or size <= LEAST:
            return False
        return not self.path.exists() or _Layout.read(self.path) == _Layout.of(clean, self._count)

    def _stored_before(self, earlier: Callable[[], Iterable[Tensors]]) -> dict[int, bytes]:
        if self._known is None:
            self._known = {}
            for tensors in earlier():
                if PLACE in tensors:
                    self._known |= dict(zip(tensors[PLACE].tolist(), map(bytes, tensors[DIGEST].tolist()), strict=True))
        return self._known

    def _write(self, clean: Tensor, rows: Sequence[tuple[int, bytes]]) -> None:
        layout = _Layout.of(clean, self._count)
        if not self.path.exists():
            partial = self.path.with_name(self.path.name + ".partial")
            with partial.open("wb") as file:
                file.write(layout.header)
                file.truncate(layout.start + self._count * layout.size)
            sync(partial)
            partial.replace(self.path)
            sync_folder(self.path.parent)
        with self.path.open("rb+") as file:
            for place, content in rows:
                file.seek(layout.start + place * layout.size)
                file.write(content)
        sync(self.path)


class _Layout(NamedTuple):
    """Type and shape (N, *D) of all inputs, as the header of a file of safetensors states them."""

    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, clean: Tensor, count: int) -> Self:
        return cls(TYPES[clean.dtype], (count, *clean.shape[1:]))

    @classmethod
    def read(cls, path: Path) -> Self:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            stated = msgspec.json.decode(file.read(length))[CLEAN]
        return cls(stated["dtype"], tuple(stated["shape"]))

    @property
    def size(self) -> int:
        """Bytes of an input."""
        return math.prod(self.shape[1:]) * int(self.dtype.lstrip("BF")) // 8

    @property
    def header(self) -> bytes:
        stated = {"dtype": self.dtype, "shape": self.shape, "data_offsets": (0, self.shape[0] * self.size)}
        text = msgspec.json.encode({CLEAN: stated})
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text

    @property
    def start(self) -> int:
        """Place of the first input in the file."""
        return len(self.header)


def _bytes_of(row: Tensor) -> bytes:
    return row.reshape(-1).view(torch.uint8).numpy().tobytes()
