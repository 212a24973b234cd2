"""A run on disk: what was asked for, and one line for every finished unit of work.

``manifest.json`` holds what determines the results. ``records.jsonl`` grows by one flushed line per unit;
``tensors/`` holds what does not fit a line. A killed run continues where it stopped, under the same manifest only.
"""

import contextlib
import hashlib
import os
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from bounds.errors import InvalidConfiguration, ManifestMismatch
from certify.evaluation.stored import Manifest, StoredRecord
from certify.evaluation.syncing import fsync

# What may change when a run is continued: told to the reader, or, as where weights and data lie, of no influence
# since their hashes are compared; thresholds judge results and do not determine them. The number of threads is not
# among these: it changes the order of sums, and with it the last bits and now and then a count.
INFORMATIVE = frozenset({"created", "hostname", "platform", "python", "source.require", "source.data.file"})
INFORMATIVE |= {"source.model.build", "source.model.exported", "source.model.onnx", "source.model.weights"}

_OURS_BEFORE_THE_MANIFEST = {"lock", "manifest.json.partial"}


class RunDirectory:
    """Append-only store of one run. Use :meth:`open` to start or continue, :meth:`read` to look.

    Only one process may have a run open; it gives the run free on :meth:`close` or when it ends.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self._digests: dict[str, str] | None = None  # of the tensor files, by unit; None before reading
        self._unlock: Callable[[], object] | None = None

    @classmethod
    def open(cls, path: Path | str, manifest: Mapping[str, Any]) -> "RunDirectory":
        """Start a run in ``path``, or continue the one that is there.

        Raises:
            ManifestMismatch: the run there was made under another manifest; the message says what differs.
            InvalidConfiguration: the directory cannot be written, is in use by another process, or holds
                something else.
        """
        path = Path(path)
        wanted: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(dict(manifest)))
        with reported(f"output directory {path} cannot be written"):
            present = set(os.listdir(path)) if path.exists() else set()
            if "manifest.json" not in present and present - _OURS_BEFORE_THE_MANIFEST:
                raise InvalidConfiguration(f"output directory {path} is not empty and holds no run: choose another")
            path.mkdir(parents=True, exist_ok=True)
            run = cls(path, wanted)
            run._unlock = weakref.finalize(run, os.close, _locked(path))
            try:
                run._begin_or_continue()
            except BaseException:
                run.close()  # not only when the last traceback is gone
                raise
        return run

    @classmethod
    def read(cls, path: Path | str) -> "RunDirectory":
        """The run in ``path``, for looking at it.

        Raises:
            InvalidConfiguration: there is no readable manifest.
        """
        path = Path(path)
        try:
            manifest = msgspec.json.decode((path / "manifest.json").read_bytes())
        except (OSError, ValueError) as error:
            raise InvalidConfiguration(f"{path} holds no run: manifest.json is missing or unreadable") from error
        try:
            msgspec.convert(manifest, Manifest)
        except msgspec.ValidationError as error:
            raise InvalidConfiguration(f"{path}/manifest.json is damaged: {error}") from error
        return cls(path, manifest)

    def close(self) -> None:
        """Let other processes open the run; nothing may be appended afterwards."""
        if self._unlock is not None:
            self._unlock()

    def append(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
        """Store one finished unit; on return it survives a kill. ``record["unit"]`` names it."""
        unit, written = record["unit"], dict(record)
        with reported(f"{self.path} cannot be written"):
            if tensors:
                target = self._tensor_path(unit)
                target.parent.mkdir(exist_ok=True)
                partial = target.with_suffix(".partial")
                save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, partial)
                written["tensors_sha256"] = hashlib.sha256(partial.read_bytes()).hexdigest()
                partial.replace(target)
            with (self.path / "records.jsonl").open("ab") as file:
                file.write(msgspec.json.encode(written) + b"\n")
                file.flush()
                fsync(file.fileno())
        if tensors and self._digests is not None:
            self._digests[unit] = written["tensors_sha256"]

    def records(self) -> dict[str, dict[str, Any]]:
        """All finished units by name, as they were appended. An unfinished last line, left by a kill, does not count.

        Raises:
            InvalidConfiguration: a line in the middle is damaged.
        """
        found: dict[str, dict[str, Any]] = {}
        self._digests = {}
        for number, line in enumerate(self._finished_lines(), start=1):
            try:
                record = msgspec.json.decode(line)
                checked = msgspec.convert(record, StoredRecord)
            except (ValueError, RecursionError) as error:
                raise InvalidConfiguration(f"{self.path}/records.jsonl: line {number} is damaged: {error}") from error
            digest = record.pop("tensors_sha256", None)
            if checked.unit not in found:
                found[checked.unit] = record
                self._digests |= {} if digest is None else {checked.unit: digest}
        return found

    def tensors(self, unit: str) -> dict[str, Tensor]:
        """The tensors stored with a unit; empty if there are none.

        Raises:
            InvalidConfiguration: their file is missing, or is not the one that was stored.
        """
        if self._digests is None:
            self.records()
        digest = (self._digests or {}).get(unit)
        if digest is None:
            return {}
        path = self._tensor_path(unit)
        with reported(f"{path} cannot be read"):
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != digest:
                raise InvalidConfiguration(f"{path} is not the file that the run stored: its SHA-256 differs")
            return load(content)

    def digest(self, unit: str) -> str | None:
        """SHA-256 of the file of tensors that a unit stored; None if it has none."""
        if self._digests is None:
            self.records()
        return (self._digests or {}).get(unit)

    def differences(self, other: "RunDirectory") -> list[str]:
        """Keys that another manifest has otherwise though they determine results, each in a phrase."""
        return list(_differences(self.manifest, other.manifest))

    def _begin_or_continue(self) -> None:
        if (self.path / "manifest.json").exists():
            stored = RunDirectory.read(self.path).manifest
            differences = list(_differences(stored, self.manifest))
            if differences:
                raise ManifestMismatch(f"{self.path} holds a run made under another manifest: {'; '.join(differences)}")
            self._drop_unfinished_line()
            # Thresholds and places are those of today: `certify check` and `certify resume` read them here.
            renewed = {**stored, "source": self.manifest["source"]}
            changed, self.manifest = renewed != stored, renewed
        else:
            changed = True
        if changed:
            text = msgspec.json.format(msgspec.json.encode(self.manifest), indent=2)
            _write_whole(self.path / "manifest.json", text)
        (self.path / "tensors").mkdir(exist_ok=True)

    def _tensor_path(self, unit: str) -> Path:
        return self.path / "tensors" / f"{unit.replace('/', '_')}.safetensors"

    def _finished_lines(self) -> list[bytes]:
        path = self.path / "records.jsonl"
        with reported(f"{path} cannot be read"):
            content = path.read_bytes() if path.exists() else b""
        return content[: content.rfind(b"\n") + 1].splitlines()

    def _drop_unfinished_line(self) -> None:
        with contextlib.suppress(FileNotFoundError), (self.path / "records.jsonl").open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


@contextlib.contextmanager
def reported(what: str) -> Iterator[None]:
    """Trouble with the disk, or with a file on it, as the one error that callers expect."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidConfiguration(f"{what}: {reason}") from error


def _locked(path: Path) -> int:
    """An open file that keeps other processes out of the run until it is closed.

    The lock belongs to the process (``lockf``, not ``flock``), so that a run whose traceback is still around in a
    notebook can be opened again there.
    """
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError | PermissionError):
                raise InvalidConfiguration(f"{path} is in use by another process: wait until it ends") from error
            raise
    return descriptor


def _write_whole(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def _differences(stored: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in sorted(stored.keys() | wanted.keys()):
        name, here, there = f"{prefix}{key}", stored.get(key), wanted.get(key)
        if here == there or name in INFORMATIVE:
            continue
        if isinstance(here, dict) and isinstance(there, dict):
            yield from _differences(here, there, f"{name}.")
        else:
            remedy = f" (set OMP_NUM_THREADS={here})" if name == "threads" else ""
            yield f"{name} was {here!r}, now {there!r}{remedy}"
