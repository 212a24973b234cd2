"""Details of inputs as data of the page: pictures of some, numbers of all up to a limit."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from certify.report.columns import Line, bound
from certify.report.inputs.axes import Axis, Row, axes_of, kind_of
from certify.report.inputs.pictures import as_picture, change_uri, picture_uri
from certify.report.inputs.planes import Plane, plane_payload
from certify.report.inputs.values import feature_table, logit_table, token_list
from certify.report.words import classifier_name, norm_name

INPUTS = 2000  # of which the page has numbers, at most
PICTURED = 50  # of which it has pictures, at most
CHARACTERS = 1_000_000  # of all pictures, at most
LOGITS = 5  # largest ones, besides those of the classes that the panel names


@dataclass(frozen=True, eq=False, kw_only=True)
class Stored:
    """An adversarial example that a run has stored, with its input.

    Attributes:
        row: its row, see :meth:`certify.Evaluation.rows`.
        clean: (*D), the input.
        adversarial: (*D).
        logits: (K,) of the input; None in runs of earlier versions.
        adversarial_logits: (K,), likewise.
    """

    row: Row
    clean: Tensor
    adversarial: Tensor
    logits: Tensor | None = None
    adversarial_logits: Tensor | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Details:
    """All that is known of the inputs of a run.

    Attributes:
        lines: all methods, with their rows.
        stored: adversarial examples and what belongs to them.
        planes: cross sections.
        low: value that is black in a picture; None for the least of the input.
        high: value that is white, likewise.
        features: names of the entries of an input.
        tokens: of inputs that are texts, by index.
    """

    lines: Sequence[Line]
    stored: Sequence[Stored] = ()
    planes: Sequence[Plane] = ()
    low: float | None = None
    high: float | None = None
    features: Sequence[str] = ()
    tokens: Mapping[int, Sequence[str]] | None = None

    def payload(self) -> dict[str, Any]:
        """Data for the script: methods once, then the inputs by index; strings and numbers only."""
        rows = _by_index(self.lines)
        stored: dict[int, list[Stored]] = {}
        for one in self.stored:
            stored.setdefault(one.row["index"], []).append(one)
        planes = {plane.index: plane for plane in self.planes}
        shown = sorted(spread(sorted(rows), INPUTS) if len(rows) > INPUTS else rows)
        words = _Places()
        inputs = {index: self._numbers(rows[index], planes.get(index), words) for index in shown}
        pictured = self._pictured(stored, [index for index in shown if index in stored], inputs)
        return {
            "methods": [
                {
                    "method": line.method,
                    "norm": norm_name(line.norm),
                    "kind": kind_of(line),
                    "promise": str(line.promise),
                }
                for line in self.lines
            ],
            "words": [*words],
            "inputs": inputs,
            "left_out": _left_out(len(rows), len(shown), len(pictured), len(stored)),
        }

    def _numbers(self, rows: Mapping[int, Row], plane: Plane | None, words: "_Places") -> dict[str, Any]:
        first = next(iter(rows.values()))
        axes = axes_of(self.lines, rows)
        # The plane shows the classes of the model itself.
        plain = [axis for axis in axes if axis.subject == "base" and not axis.frozen]
        own = [(axis.norm, axis.best()) for axis in plain if not isinstance(axis.norm, str)]
        radii = [(norm, best.value, best.text) for norm, best in own if best is not None]
        return {
            "label": first["label"],
            "prediction": first["base_prediction"],
            "axes": [_axis(axis, words) for axis in axes],
            "plane": None if plane is None else plane_payload(plane, radii),
        }

    def _pictured(
        self, stored: Mapping[int, Sequence[Stored]], candidates: Sequence[int], inputs: Mapping[int, dict[str, Any]]
    ) -> list[int]:
        """Give some inputs their pictures, evenly spread, and those with a cross section first."""
        planes = [index for index in candidates if inputs[index]["plane"] is not None]
        order = list(dict.fromkeys([*planes, *spread(candidates, PICTURED)]))[:PICTURED]
        left, made = CHARACTERS, []
        for index in order:
            views = self._views(stored[index])
            left -= len(json.dumps(views))
            if left < 0:
                break
            inputs[index].update(views)
            made.append(index)
        return made

    def _views(self, stored: Sequence[Stored]) -> dict[str, Any]:
        """The input and the nearest adversarial example of each norm and classifier, with logits."""
        chosen = _nearest(stored)
        first, row = stored[0], stored[0].row
        classes = [row["label"], row["base_prediction"], *(one.row["adversarial_label"] for one in chosen)]
        neighbours = [one.adversarial for one in chosen]
        tokens = (self.tokens or {}).get(row["index"], ())
        shown = None if tokens else as_picture(first.clean)
        if shown is not None:
            view, pictures = self._pictures(shown, neighbours)
        elif tokens and first.clean.ndim > 1 and len(first.clean) == len(tokens):
            view, pictures = token_list(tokens, first.clean, neighbours), [{} for _ in chosen]
        else:
            view, pictures = feature_table(first.clean, neighbours, self.features), [{} for _ in chosen]
        logits = logit_table(first.logits, [one.adversarial_logits for one in chosen], classes, LOGITS)
        described = [self._neighbour(one) | more for one, more in zip(chosen, pictures, strict=True)]
        return {"view": view, "neighbours": described, "logits": logits}

    def _neighbour(self, one: Stored) -> dict[str, Any]:
        row = one.row
        key = (row["norm"], row["method"], row["subject"])
        line = next(line for line in self.lines if (line.norm, line.method, line.subject) == key)
        return {
            "norm": norm_name(line.norm),
            "method": line.method,
            "about": classifier_name(line.subject),
            "distance": bound(line, row["attack_distance"]),
            "class": row["adversarial_label"],
        }

    def _pictures(self, clean: Tensor, neighbours: Sequence[Tensor]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        others = [as_picture(other) for other in neighbours]
        known = [clean, *(other for other in others if other is not None)]
        low = float(min(each.nan_to_num().min() for each in known)) if self.low is None else self.low
        high = float(max(each.nan_to_num().max() for each in known)) if self.high is None else self.high
        pictures = []
        for other in known[1:]:
            change, factor = change_uri(other - clean, (high - low) or 1.0)
            pictures.append({"picture": picture_uri(other, low, high), "change": change, "factor": factor})
        view = {"kind": "picture", "picture": picture_uri(clean, low, high), "size": [*clean.shape[1::-1]]}
        return view, pictures


def spread(places: Sequence[int], most: int) -> list[int]:
    """At most so many of the places, evenly spread.

    >>> spread(range(10), 4), spread([5, 7], 4)
    ([0, 3, 6, 9], [5, 7])
    """
    if len(places) <= most:
        return [*places]
    return [places[round(i * (len(places) - 1) / max(most - 1, 1))] for i in range(most)]


def _by_index(lines: Sequence[Line]) -> dict[int, dict[int, Row]]:
    """The rows of each input by the place of their line."""
    found: dict[int, dict[int, Row]] = {}
    for place, line in enumerate(lines):
        for row in line.rows:
            found.setdefault(row["index"], {})[place] = row
    return found


def _nearest(stored: Sequence[Stored]) -> list[Stored]:
    """The nearest adversarial example of each norm and classifier."""
    nearest: dict[tuple[float, str], Stored] = {}
    for one in stored:
        key = (one.row["norm"], one.row["subject"])
        if one.row["status"] == "found" and one.row["attack_distance"] < _distance(nearest.get(key)):
            nearest[key] = one
    return [nearest[key] for key in sorted(nearest)]


def _distance(one: Stored | None) -> float:
    return math.inf if one is None else float(one.row["attack_distance"])


def _axis(axis: Axis, words: Mapping[str, int]) -> list[Any]:
    """Norm and classifier, marks, and gap; words stand for themselves by their place in a list, since few differ."""
    gap, texts = axis.gap, [mark.text for mark in axis.marks]
    marks = [[mark.line, mark.text, words[mark.kind], words[mark.status]] for mark in axis.marks]
    ends = [texts.index(end) if end else -1 for end in (gap.low, gap.high)]
    return [words[norm_name(axis.norm)], words[axis.about], marks, [words[gap.tone], *ends, words[gap.name]]]


class _Places(dict[str, int]):
    """The place of each word in the order in which words come."""

    def __missing__(self, word: str) -> int:
        self[word] = len(self)
        return self[word]


def _left_out(inputs: int, shown: int, pictured: int, stored: int) -> str:
    """The part of the inputs and of their pictures that the page has, in a sentence; empty if it has all."""
    parts = []
    if shown < inputs:
        parts.append(f"numbers of {shown} of {inputs} inputs, evenly spread")
    if pictured < stored:
        parts.append(f"pictures of {pictured} of {stored}, evenly spread too")
    return f"To stay small, this page has {' and '.join(parts)}; the run has all." if parts else ""
