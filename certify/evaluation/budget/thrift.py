"""Inputs whose answer is known already, so that a costly method need not be run on them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bounds.sets.orders import Order, order_key
from certify.methods import Clever, CompleteSearch, Lipschitz, Method, ProvedRadius
from certify.methods.frozen import WithFrozenFeatures
from certify.promises import Promise

MET = 1e-2  # relative gap between certificate and witness that is too small to pay for


class Ledger:
    """A ledger of what is proved and found about the model itself, input by input, as records come in.

    Args:
        base: predicted class of each input, -1 where there is none.
        labels: classes that the statements are about.
        first_index: place of the first input in its data set.
    """

    def __init__(self, base: Sequence[int], labels: Sequence[int], first_index: int) -> None:
        self._base, self._labels, self._first = base, labels, first_index
        self._proved: dict[tuple[str, int, str], tuple[float, str]] = {}  # norm, index, arithmetic: radius, method
        self._found: dict[tuple[str, int], float] = {}  # norm, index: distance

    def note(self, record: Mapping[str, Any]) -> None:
        """Take in the rows of a record."""
        promise = record.get("promise") or {}
        for row in record["rows"]:
            if row["subject"] != "base":
                continue
            for norm, distance in (row.get("distances") or {}).items():
                key = norm, row["index"]
                self._found[key] = min(distance, self._found.get(key, math.inf))
            if record["kind"] == "certificate" and not row.get("frozen") and not promise.get("alpha", 1.0):
                place = record["norm"], row["index"], promise.get("arithmetic", "")
                radius = row.get("certified_radius") or 0.0
                if radius > self._proved.get(place, (0.0, ""))[0]:
                    self._proved[place] = radius, row.get("carried_from") or record["method"]

    def settled(self, method: Method, promise: Promise | None, norm: Order, rows: slice) -> dict[int, dict[str, Any]]:
        """Details for the record of rows that need not be run, by their place among the inputs.

        A misclassified input has the radius 0, whatever the method. One whose certificate is within ``MET`` of a
        witness keeps that certificate, of the same promise, with the name of the method that proved it.
        """
        if promise is None or promise.subject != "base" or not _takes(method):
            return {}
        found: dict[int, dict[str, Any]] = {}
        for place in range(rows.start, rows.stop):
            if self._base[place] != self._labels[place]:
                found[place] = _misclassified(self._base[place], promise)
            elif promise.kind == "certificate" and self._is_met(place, norm, promise):
                radius, name = self._proved[order_key(norm), place + self._first, promise.arithmetic]
                about = {"prediction": self._base[place], "subject": "base", "status": "certified", "alpha": 0.0}
                found[place] = {**about, "certified_radius": radius, "carried_from": name}
        return found

    def open_share(self, norm: Order, place: int, arithmetic: str) -> float:
        """The part of the distance to the nearest witness that is not proved, from 0 to 1; 1 without a witness."""
        distance = self._found.get((order_key(norm), place + self._first), math.inf)
        if self._base[place] != self._labels[place] or distance == 0:
            return 0.0
        proved = self._proved.get((order_key(norm), place + self._first, arithmetic), (0.0, ""))[0]
        return max(0.0, 1 - proved / distance)

    def _is_met(self, place: int, norm: Order, promise: Promise) -> bool:
        proved = (order_key(norm), place + self._first, promise.arithmetic) in self._proved
        return proved and self.open_share(norm, place, promise.arithmetic) <= MET


def _takes(method: Method) -> bool:
    """Whether the method is one whose rows may be settled: it speaks of the largest radius, of all features."""
    if isinstance(method, WithFrozenFeatures) and method.frozen_features is not None:
        return False
    return isinstance(method, ProvedRadius | CompleteSearch | Lipschitz | Clever)


def _misclassified(prediction: int, promise: Promise) -> dict[str, Any]:
    about: dict[str, Any] = {"prediction": prediction, "subject": "base", "status": "misclassified"}
    if promise.kind == "certificate":
        return {**about, "certified_radius": 0.0, "alpha": 0.0}
    return {**about, "lipschitz_estimate": None, "largest_sampled": None, "capped": False, "reach": promise.within}
