"""Files of proofs: numpy archives without pickle, with a header in JSON.

The header says what the proof is about: the hashes of the network and of the property (of their content, if they
are compressed), the type of the network's numbers, and the arithmetic. ``trees`` lists for each tree its kind and the
unsafe sets that it is about, by their order in the property; arrays of tree 3 are named ``3/kind``, ``3/point``, ...
"""

import gzip
import hashlib
import io
import json
import os
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from certify.proofs.errors import ProofError, Refused, Unreadable
from certify.proofs.trees import InputTree, NeuronTree

FORMAT, VERSION, ARITHMETIC = "certify-proof", 1, "rounding"
KINDS: dict[str, type[InputTree | NeuronTree]] = {"inputs": InputTree, "neurons": NeuronTree}
GZIP = b"\x1f\x8b"
Tree = InputTree | NeuronTree


@dataclass(frozen=True, eq=False)
class Proof:
    """The contents of a file.

    Attributes:
        header: what it is about.
        trees: each with the unsafe sets that it is about.
        witness: the unsafe input and the answer to it, for the verdict ``"sat"``.
    """

    header: dict[str, Any]
    trees: tuple[tuple[tuple[int, ...], Tree], ...] = ()
    witness: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None = None


def header_of(verdict: str, network: bytes, text: bytes, float_type: str) -> dict[str, Any]:
    """The header of a proof: its verdict, and hashes of the files that it is about."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "verdict": verdict,
        "network": content_hash(network),
        "property": content_hash(text),
        "float_type": float_type,
        "arithmetic": ARITHMETIC,
    }


def content_hash(content: bytes) -> str:
    """SHA-256 of a file, decompressed."""
    try:
        return hashlib.sha256(gzip.decompress(content) if content[:2] == GZIP else content).hexdigest()
    except (OSError, EOFError, zlib.error) as error:
        raise Unreadable(f"a gzip file is damaged: {error}") from error


def content_of(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file.

    Raises:
        ProofError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ProofError(f"{path} cannot be read: {error.strerror}") from error


def packed(proof: Proof) -> bytes:
    """The content of a file with a proof."""
    header = dict(proof.header)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    if proof.witness is not None:
        arrays["input"], arrays["output"] = proof.witness
    names = {kind: name for name, kind in KINDS.items()}
    header["trees"] = [{"sets": list(sets), "kind": names[type(tree)]} for sets, tree in proof.trees]
    for place, (_, tree) in enumerate(proof.trees):
        arrays.update({f"{place}/{each.name}": getattr(tree, each.name) for each in fields(tree)})
    content = io.BytesIO()
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez_compressed(content, allow_pickle=False, **{"header": text, **arrays})
    return content.getvalue()


def write(path: str | os.PathLike[str], proof: Proof) -> None:
    """Write a proof; a file that is there is replaced once the new one is whole.

    Raises:
        ProofError: it cannot be written.
    """
    partial = Path(path).with_name(f"{Path(path).name}.partial")
    try:
        partial.write_bytes(packed(proof))
        partial.replace(path)
    except OSError as error:
        raise ProofError(f"{path} cannot be written: {error.strerror}") from error


def read(path: str | os.PathLike[str]) -> Proof:
    """The proof in a file.

    Raises:
        ProofError: the file cannot be read.
        Refused: it is damaged, or no proof.
    """
    return unpacked(content_of(path))


def unpacked(content: bytes) -> Proof:
    """The proof in the content of a file.

    Raises:
        Refused: it is damaged, or no proof.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(arrays["header"].tobytes())
        if header["format"] != FORMAT or header["version"] != VERSION:
            raise Refused(f"the file has the format {header['format']!r}, version {header['version']!r}")
        trees = tuple(
            (tuple(int(each) for each in entry["sets"]), _tree(KINDS[entry["kind"]], arrays, place))
            for place, entry in enumerate(header["trees"])
        )
        witness = (arrays["input"], arrays["output"]) if header["verdict"] == "sat" else None
    except Refused:
        raise
    except Exception as error:  # of zipfile, numpy and JSON, which have many
        raise Refused(f"the file is damaged, or no proof: {' '.join(str(error).split())[:80]}") from error
    return Proof(header, trees, witness)


def _tree(kind: type[Tree], arrays: dict[str, np.ndarray[Any, Any]], place: int) -> Tree:
    """A tree, with arrays of the types and dimensions that it has."""
    types = {"kind": ("u1", 1), "place": ("i4", 1), "point": ("f8", 1), "neuron": ("i4", 1), "multipliers": ("f4", 1)}
    types |= {"weights": ("f4", 2), "codes": ("u1", 2), "exact": ("i4", 1), "slopes": ("f4", 2), "smooth": ("f4", 3)}
    found = {each.name: arrays[f"{place}/{each.name}"] for each in fields(kind)}
    for name, array in found.items():
        if (array.dtype.str[1:], array.ndim) != types[name] or not array.dtype.isnative:
            raise Refused(f"{name} is an array of {array.dtype} with {array.ndim} dimensions", f"tree {place}")
    return kind(**found)
