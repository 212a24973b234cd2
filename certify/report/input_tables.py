"""Tables of inputs: the first rows as HTML for readers without scripts, and all rows as data for a script."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bounds.sets.orders import Order
from certify.report.results import Classes, Results, cell
from certify.report.words import NOTHING, norm_name

if TYPE_CHECKING:
    import pandas as pd

ROWS = 200  # inputs that a table holds without scripts, at most
Cell = tuple[str, str, str]


class InputTables:
    """Inputs of one model with the results of all methods, a table for each norm.

    Args:
        results: of all methods and norms.
        rows: one per input, norm and method.
        classes: names of classes.
    """

    def __init__(self, results: Sequence[Results], rows: "pd.DataFrame", classes: Classes) -> None:
        first = rows.drop_duplicates("index").sort_values("index")
        self.classes = classes
        self.indices: list[int] = first["index"].astype(int).tolist()
        self.labels: list[int] = first["label"].astype(int).tolist()
        self.predictions: list[int] = first["base_prediction"].astype(int).tolist()
        self.groups: list[str] = []
        if "group" in first and first["group"].notna().any():
            self.groups = [str(group) for group in first["group"]]
        self._columns = [(each, self._cells(each)) for each in results]

    def _cells(self, results: Results) -> list[Cell]:
        places = {index: i for i, index in enumerate(self.indices)}
        cells: list[Cell] = [(NOTHING, "", "")] * len(places)
        for row in results.rows.to_dict("records"):
            cells[places[int(row["index"])]] = cell(row, results, self.classes)
        return cells

    def _by_norm(self) -> dict[Order, list[tuple[Results, list[Cell]]]]:
        found: dict[Order, list[tuple[Results, list[Cell]]]] = {}
        for each, cells in self._columns:
            found.setdefault(each.line.norm, []).append((each, cells))
        return dict(sorted(found.items()))

    def shown(self) -> list[dict[str, Any]]:
        """The tables for readers without scripts, with their first rows."""
        return [
            {
                "norm": norm_name(norm),
                "columns": [each for each, _ in columns],
                "lines": [
                    {
                        "index": index,
                        "label": self.classes.name(self.labels[i]),
                        "prediction": self.classes.name(self.predictions[i]),
                        "wrong": self.predictions[i] != self.labels[i],
                        "cells": [cells[i] for _, cells in columns],
                    }
                    for i, index in enumerate(self.indices[:ROWS])
                ],
                "left_out": len(self.indices[ROWS:]),
            }
            for norm, columns in self._by_norm().items()
        ]

    def data(self) -> dict[str, Any]:
        """All rows for a script: arrays in the order of the inputs, and status words by their place in a list."""
        return {
            "indices": self.indices,
            "labels": self.labels,
            "predictions": self.predictions,
            "groups": self.groups,
            "classes": self.classes.names,
            "tables": [
                {"norm": norm_name(norm), "columns": [_packed(each, cells) for each, cells in columns]}
                for norm, columns in self._by_norm().items()
            ],
        }


def _packed(results: Results, cells: Sequence[Cell]) -> Mapping[str, Any]:
    """A column whose statuses, of which few differ, stand once."""
    statuses = {status: i for i, status in enumerate(dict.fromkeys((words, tone) for _, words, tone in cells))}
    return {
        "method": results.line.method,
        "kind": results.kind,
        "texts": [text for text, _, _ in cells],
        "codes": [statuses[words, tone] for _, words, tone in cells],
        "statuses": [words for words, _ in statuses],
        "tones": [tone for _, tone in statuses],
    }
