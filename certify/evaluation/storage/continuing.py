"""Differences between manifests that keep a run from being continued."""

from collections.abc import Iterator, Mapping
from typing import Any

# What may change when a run is continued: told to the reader, or, as where weights and data lie, of no influence
# since their hashes are compared; thresholds judge results and do not determine them. The number of threads is not
# among these: it changes the order of sums, and with it the last bits and now and then a count.
INFORMATIVE = frozenset({"classes", "created", "features", "hostname", "platform", "python"})
INFORMATIVE |= {"source.require", "source.against", "source.data.file", "source.budget", "source.cross_sections"}
INFORMATIVE |= {"source.model.build", "source.model.exported", "source.model.onnx", "source.model.weights"}
INFORMATIVE |= {"processor", "code_sha256", "repairs"}

_ADDED = {"tf32", "precision"}  # keys of a manifest that earlier versions did not write


def manifest_differences(stored: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Keys that determine results and differ between two manifests, each in a phrase with a remedy if there is one."""
    for key in sorted(stored.keys() | wanted.keys()):
        name, here, there = f"{prefix}{key}", stored.get(key), wanted.get(key)
        if here == there or name in INFORMATIVE:
            continue
        if here is None and name in _ADDED:
            continue
        if isinstance(here, dict) and isinstance(there, dict):
            yield from manifest_differences(here, there, f"{name}.")
        else:
            remedy = f" (set OMP_NUM_THREADS={here})" if name == "threads" else ""
            if name == "draws_version":
                here, remedy = here or 1, " (seeds give other noise since: go on with the release that began it)"
            yield f"{name} was {here!r}, now {there!r}{remedy}"
