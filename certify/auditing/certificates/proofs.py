"""Certificates of the model itself, proved once more, or refuted by an example."""

import math
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from certify.auditing.certificates.counterexamples import counterexample
from certify.auditing.certificates.networks import LayeredNetwork, TooLarge, Unknown, network_of
from certify.auditing.certificates.proving import Prover, Region
from certify.auditing.tally import Tally
from certify.evaluation.storage.proofs import stored_proof
from certify.proofs.cutting import cut_tree
from certify.proofs.errors import ProofError
from certify.proofs.leaves import Goal
from certify.proofs.networks.networks import Network
from certify.proofs.radii import RadiusStatement, check_radius
from certify.stored_inputs import Rows
from certify.verification.proving.traced import traced

PROOFS, STORED = "proofs of bounds", "stored proofs of radii"
INTERVAL_METHODS = {"ibp"}  # whose own proof is an interval in each entry, so that intervals must do
EXACT = (1, 2, math.inf)  # orders in which linear functions are bounded exactly
SECONDS, FEW = 2.0, 16  # of a proof by cuts of the input, and inputs up to which it is tried
MOST_COEFFICIENTS, MOST_OF_CLASSES = 2**30, 2**24  # of the checker's own proof: a minute, and some GB
NEAR = 1e-6  # relative, of a radius that rounding may decide
UNPROVED = "the audit's own bounds do not prove it, and its search does not refute it"
ROUNDED = "proved for a radius that is smaller by a millionth; the rest is finer than the audit's own rounding"


class Reprover:
    """Proofs of one model's certificates.

    Args:
        model: it is copied to float64.
        x: (N, *D), the inputs of the run.
        first_index: index of the first one.
        box: sides of the box, tensors that broadcast to one input, numbers or None.
    """

    def __init__(self, model: nn.Module, x: Rows, first_index: int, box: tuple[Any, Any]) -> None:
        self.model = deepcopy(model).cpu().double().eval().requires_grad_(False)
        self.x, self.first = x, first_index
        self.low, self.high = (self._side(side) for side in box)
        nearest = [None if side is None else side.to(x.dtype).double() for side in (self.low, self.high)]
        self.outer = (  # the box as inputs of another type may be held against it
            None if self.low is None else torch.minimum(self.low, nearest[0]).numpy(),  # type: ignore[arg-type]
            None if self.high is None else torch.maximum(self.high, nearest[1]).numpy(),  # type: ignore[arg-type]
        )

    def _side(self, side: Any) -> Tensor | None:  # noqa: ANN401  # a number, a tensor or None
        if side is None:
            return None
        return torch.as_tensor(side).double().cpu().expand(self.x.shape[1:]).flatten()

    @cached_property
    def network(self) -> LayeredNetwork | str:
        """The network in matrices, or why there is none."""
        try:
            return network_of(self.model, self.x[:1])
        except (Unknown, TooLarge) as error:
            return str(error) or "the network is too large for matrices"
        except Exception as error:  # an operation of a shape that was not thought of
            return f"the network was not understood ({type(error).__name__})"

    @cached_property
    def checked(self) -> Network | str:
        """The network as the checker of proofs reads it, or why it does not."""
        try:
            return traced(self.model, self.x[:1])
        except ProofError as error:
            return " ".join(str(error).split())

    @cached_property
    def affordable(self) -> Network | str:
        """The network, if the checker of proofs can afford to prove something of it by itself, or why not."""
        if isinstance(self.checked, str):
            return self.checked
        nodes = self.checked.nodes
        widest, bent = max(node.size for node in nodes), sum(node.size for node in nodes if node.function is not None)
        if 2 * widest * bent > MOST_COEFFICIENTS or widest * self.classes > MOST_OF_CLASSES:
            return "the network is too large for the checker of proofs"
        return self.checked

    @cached_property
    def classes(self) -> int:
        """Number of classes."""
        with torch.no_grad():
            return int(self.model(self.x[:1].double().cpu()).shape[1])

    @property
    def small(self) -> bool:
        """Whether all rows are worth their time: some thousand entries in all."""
        network = self.network
        return isinstance(network, LayeredNetwork) and sum(len(layer.constant[0]) for layer in network.layers) <= 2_000

    def judge(
        self,
        tally: Tally,
        record: Mapping[str, Any],
        table: Mapping[str, Any],
        row: Mapping[str, Any],
        frozen: Tensor | None,
        tensors: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """Judge the radius of one row; ``tensors`` are those of its unit, with its proof where it states one."""
        unit, index, radius, label = record["unit"], row["index"], row["certified_radius"], row["prediction"]
        norm, kind = float(record["norm"]), table.get("class", record["method"])
        stated = self._statement(row, norm, frozen)
        if "proof" in row and self._judge_stored(tally, unit, row, stated, tensors):
            return
        center = self.x[index - self.first].double().cpu().flatten()
        sides, by_intervals = (self.low, self.high, frozen), kind in INTERVAL_METHODS
        region = Region.of(center, radius, norm, *sides)
        how = self._proved(region, label, lines=not by_intervals)
        if not how and (found := counterexample(self.model, region, label, self.x.shape[1:])) is not None:
            tally.refute(PROOFS, f"it certifies {radius!r}, but an example lies at {found!r}", unit, index)
            return
        in_matrices, nearer = not isinstance(self.network, str), Region.of(center, radius * (1 - NEAR), norm, *sides)
        close = not how and bool(self._proved(nearer, label, lines=not by_intervals))
        if not how and (close or not (by_intervals and in_matrices)):  # intervals must do where they are the method
            how = self._checked(stated)
        if how:
            tally.confirm(f"{PROOFS} by {how}")
        elif close:
            tally.leave(PROOFS, ROUNDED, unit, index)
        elif not in_matrices:
            why = self.affordable if isinstance(self.affordable, str) else UNPROVED
            tally.leave(PROOFS, f"no proof of the audit's own: {why}", unit, index)
        elif by_intervals and norm in EXACT:
            tally.refute(PROOFS, f"intervals, its method, do not prove its radius {radius!r}", unit, index)
        else:
            tally.leave(PROOFS, UNPROVED, unit, index)

    def _judge_stored(
        self, tally: Tally, unit: str, row: Mapping[str, Any], stated: RadiusStatement, tensors: Mapping[str, Tensor]
    ) -> bool:
        """Whether the proof that was stored with a row decides about it."""
        content = stored_proof(row, tensors)
        if isinstance(content, str):
            tally.refute(STORED, content, unit, row["index"])
            return True
        if isinstance(self.checked, str):
            tally.leave(STORED, f"the checker does not read the model: {self.checked}", unit, row["index"])
            return False
        report = check_radius(content, self.checked, stated)
        where = f"{report.where}: " if report.where else ""
        tally.judge(STORED, report.accepted, f"its proof is not accepted: {where}{report.reason}", unit, row["index"])
        return True

    def _proved(self, region: Region, label: int, *, lines: bool) -> str:
        """Way in which matrices prove it; empty where they do not, or where there are none."""
        return "" if isinstance(self.network, str) else Prover(self.network, region, lines=lines).proves(label)

    def _checked(self, stated: RadiusStatement) -> str:
        """Way in which the checker of proofs proves it by itself, which knows more layers; empty where it does not."""
        if isinstance(self.affordable, str) or not np.isfinite(stated.sides).all():
            return ""
        end, few = time.monotonic() + SECONDS, len(stated.centre) <= FEW
        goal = Goal(self.affordable, stated.unsafe.sets, stated.ball)
        with np.errstate(all="ignore"):  # what is not finite proves nothing
            tree = cut_tree(goal, lambda: time.monotonic() > end, cuts=few)
        return "" if tree is None else "the checker"

    def _statement(self, row: Mapping[str, Any], norm: float, frozen: Tensor | None) -> RadiusStatement:
        return RadiusStatement(
            centre=self.x[row["index"] - self.first].double().cpu().flatten().numpy(),
            radius=row["certified_radius"],
            norm=norm,
            low=self.outer[0],
            high=self.outer[1],
            frozen=None if frozen is None else frozen.numpy(),
            label=row["prediction"],
            classes=self.classes,
        )


def provable(record: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Rows of a record that certify a radius of the model itself."""
    if record["kind"] != "certificate":
        return []
    return [row for row in record["rows"] if row["subject"] == "base" and row.get("certified_radius", 0) > 0]
