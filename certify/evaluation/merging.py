"""One run from the runs of its shards, as one process would have written it."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bounds.errors import InvalidConfiguration, ManifestMismatch
from certify.distribution.shards import Shard
from certify.evaluation.evaluation import Evaluation
from certify.evaluation.storage.durable import synced_at_the_end
from certify.evaluation.storage.run_directory import RunDirectory, reported
from certify.evaluation.units import unit_names

LISTED = 3  # of many names that a message could list
Found = dict[str, tuple[RunDirectory, dict[str, Any]]]  # by unit, its record and the run that holds it


def merge(path: Path | str, runs: Sequence[Path | str], *, partial: bool = False) -> Evaluation:
    """Put the runs of shards together in a new run directory, with the records that one process would have written.

    All shards must have been made under the same manifest, up to what may also change when a run is continued. Units
    are copied bit for bit, in the order in which one process computes them. A unit that several runs hold must be the
    same in all, up to the seconds that it took. A merge that is killed leaves nothing under ``path``.

    Args:
        path: the new run directory, which must not be there yet.
        runs: run directories of shards, in any order; or folders that hold such directories.
        partial: accept that units are missing; :func:`certify.evaluate` with ``output=path`` computes them.

    Raises:
        InvalidConfiguration: a directory holds no run or is damaged, ``path`` is there, or units are missing.
        ManifestMismatch: two runs were made under different manifests, or hold different results of one unit.
    """
    path, opened = Path(path), [RunDirectory.read(one) for one in _run_paths(runs)]
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InvalidConfiguration(f"{path} is there already: name a directory that is not")
    _require_same_manifest(opened)
    manifest = {key: value for key, value in opened[0].manifest.items() if key != "shard"}
    found = _records(opened)
    names = unit_names(manifest["configuration"])
    if not partial:
        _require_all(names, found, opened)
    being_made = path.with_name(f"{path.name}.merging")
    with reported(f"{path} cannot be written"):
        shutil.rmtree(being_made, ignore_errors=True)  # of a merge that was killed
        merged = RunDirectory.open(being_made, manifest)
        with synced_at_the_end(being_made):
            for name in (name for name in names if name in found):
                run, record = found[name]
                merged.append(record, run.tensors(name, mapped=True))
        merged.close()
        being_made.replace(path)
    return Evaluation.load(path)


def _run_paths(given: Sequence[Path | str]) -> list[Path]:
    """The run directories among these folders, and in those that are none, each once."""
    if isinstance(given, str | Path):
        given = [given]
    paths: dict[Path, Path] = {}
    for one in map(Path, given):
        inside = (
            [one] if (one / "manifest.json").exists() else sorted(file.parent for file in one.glob("*/manifest.json"))
        )
        if not inside:
            raise InvalidConfiguration(f"{one} holds no run: name the run directories of all shards")
        paths |= {place.resolve(): place for place in inside}
    if not paths:
        raise InvalidConfiguration("runs must name at least one run directory, got none")
    return list(paths.values())


def _require_same_manifest(runs: Sequence[RunDirectory]) -> None:
    first = runs[0]
    for run in runs[1:]:
        found = [difference for difference in first.differences(run) if not _is_shard(difference)]
        if found:
            raise ManifestMismatch(
                f"{first.path} and {run.path} are parts of different runs: {'; '.join(found)}: merge shards of one "
                "configuration"
            )
    counts = {shard.count for shard in map(_shard, runs)} - {1}
    if len(counts) > 1:
        raise ManifestMismatch(
            f"shard: runs are cut into {' and '.join(map(str, sorted(counts)))} parts: cut all alike"
        )


def _is_shard(difference: str) -> bool:
    return difference.startswith("shard was ")


def _shard(run: RunDirectory) -> Shard:
    return Shard.of(run.manifest.get("shard"))


def _records(runs: Sequence[RunDirectory]) -> Found:
    """The records of all runs, each unit once."""
    found: Found = {}
    for run in runs:
        for name, record in run.records().items():
            known, earlier = found.setdefault(name, (run, record))
            if _lasting(earlier, known) != _lasting(record, run):
                raise ManifestMismatch(
                    f"{known.path} and {run.path} hold different results of unit {name!r}: find out which is wrong, "
                    "and leave that directory out"
                )
    return found


def _lasting(record: Mapping[str, Any], run: RunDirectory) -> tuple[object, object]:
    """All of a record that a second computation would give again, and the digest of its tensors."""
    return {key: value for key, value in record.items() if key != "seconds"}, run.digest(record["unit"])


def _require_all(names: Sequence[str], found: Found, runs: Sequence[RunDirectory]) -> None:
    """Refuse a run with units missing; the message names the shards that have to be run or continued."""
    missing = {name for name in names if name not in found}
    if not missing:
        return
    there = {shard: run for run, shard in ((run, _shard(run)) for run in runs)}
    count = max(shard.count for shard in there)
    sentences = []
    for shard in (Shard(index, count) for index in range(1, count + 1)):
        lacking = [name for name in shard.part(names) if name in missing]
        if lacking and shard in there:
            done = f"{len(shard.part(names)) - len(lacking)} of {len(shard.part(names))} units"
            sentences.append(f"shard {shard} in {there[shard].path} is unfinished ({done})")
        elif lacking:
            sentences.append(f"shard {shard} is missing ({len(lacking)} units)")
    more = [f"and {len(sentences) - LISTED} more"] * (len(sentences) > LISTED)
    raise InvalidConfiguration(
        f"{len(missing)} of {len(names)} units are missing: {', '.join(sentences[:LISTED] + more)}: continue with "
        "`certify resume`, or merge what is there with partial=True (--partial)"
    )
