"""Proofs that a network keeps its class within a radius of an input: what is stated, and whether a proof shows it."""

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from certify.proofs.balls import Ball
from certify.proofs.checking import ProofReport, check_trees
from certify.proofs.errors import Refused
from certify.proofs.files import ARITHMETIC, FORMAT, VERSION, Proof, unpacked
from certify.proofs.networks.functions import Function, Largest
from certify.proofs.networks.maps import Array, Map
from certify.proofs.networks.networks import Network
from certify.proofs.properties import Property, UnsafeSet


@dataclass(frozen=True, eq=False, kw_only=True)
class RadiusStatement:
    """All inputs within a radius of a centre, and within a box, are given one class.

    Attributes:
        centre: (F,).
        radius: above 0.
        norm: its order, from 1 on; 0 counts changed entries, which go anywhere in the box.
        low: (F,), lower side of the box; None where there is none.
        high: upper side, likewise.
        frozen: (F,) bool, entries that no perturbation changes; None for none.
        label: the class.
        classes: number of classes.
    """

    centre: Array
    radius: float
    norm: float
    low: Array | None
    high: Array | None
    frozen: "np.ndarray[Any, np.dtype[np.bool_]] | None"
    label: int
    classes: int

    @cached_property
    def sides(self) -> tuple[Array, Array]:
        """Sides of the smallest box around all of these inputs, rounded outward."""
        reach = self.radius if self.norm else np.inf
        low = np.nextafter(self.centre - reach, -np.inf)
        high = np.nextafter(self.centre + reach, np.inf)
        if self.low is not None:
            low = np.maximum(low, np.minimum(self.low, self.centre))
        if self.high is not None:
            high = np.minimum(high, np.maximum(self.high, self.centre))
        if self.frozen is not None:
            low, high = np.where(self.frozen, self.centre, low), np.where(self.frozen, self.centre, high)
        return low + 0.0, high + 0.0  # no -0.0

    @cached_property
    def ball(self) -> Ball | None:
        """The ball, None where it is the box."""
        return None if math.isinf(self.norm) else Ball(self.centre, self.radius, self.norm, *self.sides)

    @cached_property
    def unsafe(self) -> Property:
        """Inputs for which another class is at least as large, a set for each, in order."""
        low, high = self.sides
        sets = []
        for other in range(self.classes):
            if other != self.label:
                row = np.zeros((1, self.classes))
                row[0, self.label], row[0, other] = 1.0, -1.0
                sets.append(UnsafeSet(low, high, np.zeros((1, len(low))), row, np.zeros(1), {}))
        return Property(tuple(sets), len(low), self.classes)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all of it, by which a proof says what it is about."""
        found = hashlib.sha256(repr((self.label, self.classes, self.norm, float(self.radius).hex())).encode())
        for side in (self.centre, *self.sides):
            found.update(np.ascontiguousarray(side, "<f8").tobytes())
        return found.hexdigest()

    def header(self, network: Network) -> dict[str, Any]:
        """The header of a proof of it."""
        names = {"network": fingerprint(network), "property": self.digest, "float_type": "real"}
        return {"format": FORMAT, "version": VERSION, "verdict": "unsat", "arithmetic": ARITHMETIC, **names}


def check_radius(content: bytes, network: Network, stated: RadiusStatement) -> ProofReport:
    """Whether the content of a file proves a statement about a network; see :func:`certify.check_proof`.

    A proof that is about another statement is not accepted, even if its trees would do. One that was written for a
    network that was read in another way is, if its trees prove the statement of this one.
    """
    try:
        found = unpacked(content)
        _require_subject(found, stated)
        _require_sizes(network, stated)
        with np.errstate(all="ignore"):  # what is not finite is refused
            leaves = check_trees(network, stated.unsafe, found.trees, stated.ball)
    except Refused as error:
        return ProofReport(False, "unsat", error.leaves, error.where, error.reason)
    return ProofReport(True, "unsat", leaves)


def _require_subject(proof: Proof, stated: RadiusStatement) -> None:
    header = proof.header
    if header.get("property") != stated.digest:
        raise Refused("the proof is about another input, label, radius or box")
    if header.get("verdict") != "unsat" or header.get("arithmetic") != ARITHMETIC:
        raise Refused(f"the verdict {header.get('verdict')!r} in arithmetic {header.get('arithmetic')!r} is unknown")


def _require_sizes(network: Network, stated: RadiusStatement) -> None:
    sizes = network.nodes[0].size, network.nodes[-1].size
    if sizes != (len(stated.centre), stated.classes):
        raise Refused(
            f"the statement has {len(stated.centre)} inputs and {stated.classes} classes, the network {sizes}"
        )


def fingerprint(network: Network) -> str:
    """SHA-256 of a network: all numbers, and how they are used."""
    found = hashlib.sha256()
    for node in network.nodes:
        for part in _parts((node.size, node.parents, node.maps, node.offset, node.function)):
            found.update(part + b"\n")
    return found.hexdigest()


def _parts(value: object) -> Iterator[bytes]:
    if isinstance(value, np.ndarray):
        yield repr((value.dtype.str, value.shape)).encode()
        yield np.ascontiguousarray(value).tobytes()
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _parts(each)
    elif isinstance(value, Map | Function | Largest):
        yield type(value).__name__.encode()
        for field in dataclasses.fields(value) if dataclasses.is_dataclass(value) else ():
            yield from _parts(getattr(value, field.name))
    else:
        yield repr(value).encode()
