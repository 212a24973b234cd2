"""A run on disk: what was asked for, and one line for every finished unit of work.

``manifest.json`` holds what determines the results. ``records.jsonl`` grows by one flushed line per unit;
``tensors/`` holds what does not fit a line. A killed run continues where it stopped, under the same manifest only.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from safetensors.torch import load_file, save_file
from torch import Tensor

from bounds.errors import InvalidConfiguration, ManifestMismatch

# Recorded for the reader; a run may be continued although they changed.
INFORMATIVE = frozenset({"created", "hostname", "platform", "python"})


class RunDirectory:
    """Append-only store of one run. Use :meth:`open` to start or continue, :meth:`read` to look."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: Path | str, manifest: Mapping[str, Any]) -> "RunDirectory":
        """Start a run in ``path``, or continue the one that is there.

        Raises:
            ManifestMismatch: the run there was made under another manifest; the message says what differs.
            InvalidConfiguration: the directory cannot be written, or holds something else.
        """
        path = Path(path)
        wanted: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(dict(manifest)))
        if (path / "manifest.json").exists():
            run = cls.read(path)
            differences = _differences(run.manifest, wanted)
            if differences:
                raise ManifestMismatch(f"{path} holds a run made under another manifest: {'; '.join(differences)}")
            run._drop_unfinished_line()
            return run
        try:
            if path.exists() and any(path.iterdir()):
                raise InvalidConfiguration(f"output directory {path} is not empty and holds no run: choose another")
            (path / "tensors").mkdir(parents=True, exist_ok=True)
            text = msgspec.json.format(msgspec.json.encode(wanted), indent=2)
            _write_whole(path / "manifest.json", text)
        except OSError as error:
            raise InvalidConfiguration(f"output directory {path} cannot be written: {error.strerror}") from error
        return cls(path, wanted)

    @classmethod
    def read(cls, path: Path | str) -> "RunDirectory":
        """The run in ``path``, for looking at it.

        Raises:
            InvalidConfiguration: there is no readable manifest.
        """
        path = Path(path)
        try:
            manifest = msgspec.json.decode((path / "manifest.json").read_bytes())
        except (OSError, msgspec.DecodeError) as error:
            raise InvalidConfiguration(f"{path} holds no run: manifest.json is missing or unreadable") from error
        return cls(path, manifest)

    def append(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
        """Store one finished unit; on return it survives a kill. ``record["unit"]`` names it."""
        if tensors:
            target = self._tensor_path(record["unit"])
            partial = target.with_suffix(".partial")
            save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, partial)
            partial.replace(target)
        with (self.path / "records.jsonl").open("ab") as file:
            file.write(msgspec.json.encode(dict(record)) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def records(self) -> dict[str, dict[str, Any]]:
        """All finished units by name. An unfinished last line, left by a kill, does not count.

        Raises:
            InvalidConfiguration: a line in the middle is damaged.
        """
        found: dict[str, dict[str, Any]] = {}
        for number, line in enumerate(self._finished_lines(), start=1):
            try:
                record = msgspec.json.decode(line)
                found.setdefault(record["unit"], record)
            except (msgspec.DecodeError, KeyError, TypeError) as error:
                raise InvalidConfiguration(f"{self.path}/records.jsonl: line {number} is damaged") from error
        return found

    def tensors(self, unit: str) -> dict[str, Tensor]:
        """The tensors stored with a unit; empty if there are none."""
        path = self._tensor_path(unit)
        return load_file(path) if path.exists() else {}

    def _tensor_path(self, unit: str) -> Path:
        return self.path / "tensors" / f"{unit.replace('/', '_')}.safetensors"

    def _finished_lines(self) -> list[bytes]:
        try:
            content = (self.path / "records.jsonl").read_bytes()
        except FileNotFoundError:
            return []
        return content[: content.rfind(b"\n") + 1].splitlines()

    def _drop_unfinished_line(self) -> None:
        with contextlib.suppress(FileNotFoundError), (self.path / "records.jsonl").open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def _write_whole(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def _differences(stored: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in sorted(stored.keys() | wanted.keys()):
        here, there = stored.get(key), wanted.get(key)
        if here == there or (not prefix and key in INFORMATIVE):
            continue
        if isinstance(here, dict) and isinstance(there, dict):
            found += _differences(here, there, f"{prefix}{key}.")
        else:
            found.append(f"{prefix}{key} was {here!r}, now {there!r}")
    return found
