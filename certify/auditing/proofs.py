"""Certificates of the model itself, proved once more, or refuted by an example."""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from certify.auditing.counterexamples import counterexample
from certify.auditing.networks import LayeredNetwork, TooLarge, Unknown, network_of
from certify.auditing.proving import Prover, Region
from certify.auditing.tally import Tally
from certify.stored_inputs import Rows

PROOFS = "proofs of bounds"
INTERVAL_METHODS = {"ibp"}  # whose own proof is an interval in each entry, so that intervals must do
EXACT = (1, 2, math.inf)  # orders in which linear functions are bounded exactly
NEAR = 1e-6  # relative, of a radius that rounding may decide
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
    ) -> None:
        """Judge the radius of one row."""
        unit, index, radius, label = record["unit"], row["index"], row["certified_radius"], row["prediction"]
        norm, kind = float(record["norm"]), table.get("class", record["method"])
        center = self.x[index - self.first].double().cpu().flatten()
        region = Region.of(center, radius, norm, self.low, self.high, frozen)
        found = counterexample(self.model, region, label, self.x.shape[1:])
        if found is not None:
            tally.refute(PROOFS, f"it certifies {radius!r}, but an example lies at {found!r}", unit, index)
            return
        if isinstance(self.network, str):
            tally.leave(PROOFS, f"no proof of the audit's own: {self.network}", unit, index)
            return
        by_intervals = kind in INTERVAL_METHODS
        how = Prover(self.network, region, lines=not by_intervals).proves(label)
        if how:
            tally.confirm(f"{PROOFS} by {how}")
            return
        nearer = Region.of(center, radius * (1 - NEAR), norm, self.low, self.high, frozen)
        if Prover(self.network, nearer, lines=not by_intervals).proves(label):
            tally.leave(PROOFS, ROUNDED, unit, index)
        elif by_intervals and norm in EXACT:
            tally.refute(PROOFS, f"intervals, its method, do not prove its radius {radius!r}", unit, index)
        else:
            tally.leave(
                PROOFS, "the audit's own bounds do not prove it, and its search does not refute it", unit, index
            )


def provable(record: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Rows of a record that certify a radius of the model itself."""
    if record["kind"] != "certificate":
        return []
    return [row for row in record["rows"] if row["subject"] == "base" and row.get("certified_radius", 0) > 0]
