"""A run on disk: what was asked for, and one line for every finished unit of work.

``manifest.json`` holds what determines the results. ``records.jsonl`` grows by one flushed line per unit;
``tensors/`` holds what does not fit a line. A killed run continues where it stopped, under the same manifest only.

What is written survives a loss of power: tensors first, with their folder, then the line that names them. Lines are
held together by :mod:`certify.evaluation.storage.chain`.
"""

import contextlib
import hashlib
import os
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bounds.errors import InvalidConfiguration, ManifestMismatch
from certify.evaluation.left_out import standing
from certify.evaluation.storage import chain
from certify.evaluation.storage.continuing import INFORMATIVE, manifest_differences
from certify.evaluation.storage.durable import append_line, sync, sync_folder, write_whole
from certify.evaluation.storage.input_file import InputFile
from certify.evaluation.storage.stored import Manifest, StoredRecord

_OURS_BEFORE_THE_MANIFEST = {"lock", "manifest.json.partial", "manifest.json.damaged"}
_LINES: ContextVar[dict[tuple[object, ...], list[dict[str, Any]]] | None] = ContextVar("lines", default=None)
_opened: "weakref.WeakValueDictionary[str, RunDirectory]" = weakref.WeakValueDictionary()
_opening = threading.Lock()


class RunDirectory:
    """Append-only store of one run. Use :meth:`open` to start or continue, :meth:`read` to look.

    Only one process may have a run open; it gives the run free on :meth:`close` or when it ends. Within a process, the
    one that was opened last has the run: in a notebook, the traceback of an evaluation may keep an earlier one alive.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self._digests: dict[str, str] | None = None  # of the tensor files, by unit; None before reading
        self._last: str | None = None  # hash of the last line; None where lines have no chain
        self._unlock: weakref.finalize[[int], RunDirectory] | None = None
        self._inputs = InputFile(path, manifest["configuration"])

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
            run = cls(path, wanted)
            if "manifest.json" not in present and present - _OURS_BEFORE_THE_MANIFEST and not run._begins_the_lines():
                raise InvalidConfiguration(f"output directory {path} is not empty and holds no run: choose another")
            path.mkdir(parents=True, exist_ok=True)
            with _opening:
                run._take()
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
            reason = "there is no such folder: name the one that a run was written to"
            if (path / "manifest.json").exists():
                reason = f"manifest.json is unreadable: look at `certify repair {path}`"
            elif path.exists():
                reason = "manifest.json is missing: name the folder that a run was written to"
            raise InvalidConfiguration(f"{path} holds no run: {reason}") from error
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
        """Store one finished unit; on return it survives a kill and a loss of power. ``record["unit"]`` names it.

        The line is linked to the one before it. A record of another run, as of a part that is merged, leaves its links
        there.

        Raises:
            InvalidConfiguration: the run cannot be written, or was opened again since.
        """
        unit, written = record["unit"], chain.unlinked(record)
        if self._unlock is not None and not self._unlock.alive:
            raise InvalidConfiguration(f"{self.path} was closed, or opened again in this process: use the later one")
        with reported(f"{self.path} cannot be written"):
            if tensors:
                written["tensors_sha256"] = self._store(unit, self._inputs.put(record, tensors, self._tensors_of_all))
            if self._last is not None:
                written = chain.linked(written, self._last)
            append_line(self.path / "records.jsonl", msgspec.json.encode(written) + b"\n")
        self._last = written.get("sha256")
        if tensors and self._digests is not None:
            self._digests[unit] = written["tensors_sha256"]

    @property
    def informative(self) -> frozenset[str]:
        """Names in a manifest that do not determine results, with dots."""
        return INFORMATIVE

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep all others out of a run that was read, for as long as it is changed.

        Raises:
            InvalidConfiguration: it is open already.
        """
        with _opening:
            self._take()
        try:
            yield
        finally:
            self.close()

    def has_tensors(self, record: Mapping[str, Any]) -> bool:
        """Whether the tensors that a line names are there, as they were stored; also of a line that names none."""
        digest, path = record.get("tensors_sha256"), self._tensor_path(record["unit"])
        if digest is None:
            return True
        if not path.exists() or sha256_of(path) != digest:
            return False
        return self._inputs.holds(load_file(path))

    def lines(self) -> list[dict[str, Any]]:
        """All finished lines as they stand in the file, with their links.

        Raises:
            InvalidConfiguration: a line in the middle is damaged.
        """
        known, state = _LINES.get(), self._state()
        if known is not None and state in known:
            return [*known[state]]
        found = []
        for number, line in enumerate(self._finished_lines(), start=1):
            try:
                record = msgspec.json.decode(line)
                msgspec.convert(record, StoredRecord)
            except (ValueError, RecursionError) as error:
                remedy = f"drop it with `certify repair {self.path}`"
                raise InvalidConfiguration(
                    f"{self.path}/records.jsonl: line {number} is damaged: {error}: {remedy}"
                ) from error
            found.append(record)
        if known is not None:
            known[state] = [*found]
        return found

    def chain_faults(self, lines: list[dict[str, Any]] | None = None) -> list[tuple[str, str]] | None:
        """Units and what is wrong with their links; None for a run of an earlier version, which has no chain."""
        lines = self.lines() if lines is None else lines
        if lines and not any(chain.is_linked(line) for line in lines):
            return None
        repaired = [link for repair in self.manifest.get("repairs", []) for link in repair["links"]]
        return chain.faults(lines, chain.start_of(self.manifest, INFORMATIVE), repaired)

    def records(self) -> dict[str, dict[str, Any]]:
        """All finished units by name, as they were appended. An unfinished last line, left by a kill, does not count.

        Raises:
            InvalidConfiguration: a line in the middle is damaged.
        """
        found: dict[str, dict[str, Any]] = {}
        self._digests = {}
        for unit, line in standing(self.lines()).items():
            found[unit] = chain.unlinked(line)
            digest = found[unit].pop("tensors_sha256", None)
            self._digests |= {} if digest is None else {unit: digest}
        return found

    def tensors(self, unit: str, *, mapped: bool = False) -> dict[str, Tensor]:
        """The tensors stored with a unit; empty if there are none.

        Args:
            unit: its name.
            mapped: whether they are to stay on the disk, and be read from there as they are looked at.

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
            if sha256_of(path) != digest:
                raise InvalidConfiguration(f"{path} is not the file that the run stored: its SHA-256 differs")
            found = self._inputs.restored(load_file(path))
        return found if mapped else {name: value.clone() for name, value in found.items()}

    def digest(self, unit: str) -> str | None:
        """SHA-256 of the file of tensors that a unit stored; None if it has none."""
        if self._digests is None:
            self.records()
        return (self._digests or {}).get(unit)

    def size(self, unit: str) -> int:
        """Bytes of the file of tensors of a unit, without its clean inputs."""
        path = self._tensor_path(unit)
        return path.stat().st_size if path.exists() else 0

    def _tensors_of_all(self) -> Iterator[dict[str, Tensor]]:
        """The tensors of all units as they stand in their files."""
        if self._digests is None:
            self.records()
        paths = map(self._tensor_path, self._digests or {})
        return (load_file(path) for path in paths if path.exists())

    def differences(self, other: "RunDirectory") -> list[str]:
        """Keys that another manifest has otherwise though they determine results, each in a phrase."""
        return list(manifest_differences(self.manifest, other.manifest))

    def _begin_or_continue(self) -> None:
        if (self.path / "manifest.json").exists():
            stored = RunDirectory.read(self.path).manifest
            differences = list(manifest_differences(stored, self.manifest))
            if differences:
                raise ManifestMismatch(f"{self.path} holds a run made under another manifest: {'; '.join(differences)}")
            self._drop_unfinished_line()
            # Thresholds and places are those of today: `certify check` and `certify resume` read them here.
            renewed = {**stored, "source": self.manifest["source"]}
            changed, self.manifest = renewed != stored, renewed
        else:
            changed = True
        if changed:
            self.write_manifest()
        (self.path / "tensors").mkdir(exist_ok=True)
        sync_folder(self.path)
        lines = self._finished_lines()
        self._last = _hash_of(lines[-1]) if lines else chain.start_of(self.manifest, INFORMATIVE)

    def write_manifest(self) -> None:
        """Replace the manifest on disk by this one, whole or not at all."""
        text = msgspec.json.format(msgspec.json.encode(self.manifest), indent=2)
        write_whole(self.path / "manifest.json", text)

    def _take(self) -> None:
        """Have the run for this process, and within it for this object alone."""
        key = str(self.path.resolve())
        if (other := _opened.get(key)) is not None:
            other.close()
        self._unlock = weakref.finalize(self, os.close, _locked(self.path))
        _opened[key] = self

    def _begins_the_lines(self) -> bool:
        """Whether lines without a manifest, which a repair set aside, were written under this one."""
        lines = self._finished_lines()
        if not lines:
            return (self.path / "manifest.json.damaged").exists()
        try:
            first = msgspec.json.decode(lines[0])
        except ValueError:
            return False
        start = chain.start_of(self.manifest, INFORMATIVE)
        return isinstance(first, dict) and first.get("previous") == start

    def _store(self, unit: str, tensors: Mapping[str, Tensor]) -> str:
        """Write the tensors of a unit, and return the hash of their file; on return the file is there for good."""
        target = self._tensor_path(unit)
        target.parent.mkdir(exist_ok=True)
        partial = target.with_suffix(".partial")
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, partial)
        sync(partial)
        digest = sha256_of(partial)
        partial.replace(target)
        sync_folder(target.parent)
        return digest

    def _tensor_path(self, unit: str) -> Path:
        return self.path / "tensors" / f"{unit.replace('/', '_')}.safetensors"

    def _state(self) -> tuple[object, ...]:
        """The state of the file of lines, which is another one after every change."""
        try:
            found = (self.path / "records.jsonl").stat()
        except OSError:
            return (str(self.path.resolve()),)
        return str(self.path.resolve()), found.st_ino, found.st_size, found.st_mtime_ns

    def _finished_lines(self) -> list[bytes]:
        path = self.path / "records.jsonl"
        with reported(f"{path} cannot be read"):
            content = path.read_bytes() if path.exists() else b""
        return content[: content.rfind(b"\n") + 1].splitlines()

    def _drop_unfinished_line(self) -> None:
        with contextlib.suppress(FileNotFoundError), (self.path / "records.jsonl").open("r+b") as file:
            content = file.read()
            if not content.endswith(b"\n"):  # else the file stays as it is, also in time
                file.truncate(content.rfind(b"\n") + 1)


@contextlib.contextmanager
def lines_read_once() -> Iterator[None]:
    """Read the lines of each run only once within, as long as their file stays as it is."""
    token = _LINES.set({})
    try:
        yield
    finally:
        _LINES.reset(token)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, of which no more than a part is held."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def _hash_of(line: bytes) -> str | None:
    """The hash that a line states; None for lines of earlier versions, and for damaged ones."""
    try:
        record = msgspec.json.decode(line)
    except ValueError:
        return None
    return record.get("sha256") if isinstance(record, dict) and chain.is_linked(record) else None
