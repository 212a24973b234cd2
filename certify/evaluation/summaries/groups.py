"""Groups of inputs: accuracy in each, and whether they are equally robust."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput
from bounds.sets.orders import Order
from bounds.statistics.groups import equality_test, simultaneous_intervals
from bounds.statistics.paired import holm
from certify.curves import AccuracyCurve, CertifiedAccuracyCurve, round_radii
from certify.evaluation.summaries.tables import curves_of
from certify.report import norm_name
from certify.report.figures import curve_label
from certify.report.words import percent

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
Group = int | str
Groups = str | Sequence[Group] | Tensor | NDArray[Any]
LABEL, GROUP = "label", "group"


@dataclass(frozen=True, eq=False)
class GroupAccuracies:
    """Certified and attacked accuracy of groups of inputs, see :meth:`certify.Evaluation.by_group`.

    Attributes:
        by: by which column or array the inputs are grouped.
        table: one row per norm, method and group.
        tests: one row per norm and method, with the test that all groups are equally accurate.
        confidence: of the intervals, for all groups of a row of ``tests`` at once.
    """

    by: str
    table: "pd.DataFrame"
    tests: "pd.DataFrame"
    confidence: float

    def __repr__(self) -> str:
        """The groups, in one line."""
        groups = self.table.group.nunique()
        return f"GroupAccuracies(by {self.by}: {groups} groups, {len(self.tests)} methods and norms)"

    def __str__(self) -> str:
        """A sentence per norm and method, which names the worst group."""
        return "\n".join(self.sentences())

    def _repr_html_(self) -> str:
        """The sentences, for notebooks; ``table`` has all numbers."""
        from html import escape

        return f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in self.sentences())}</ul>"

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per norm, method and group.

        Columns norm, method, subject, promise, radius, group, inputs, count, accuracy, lower, upper. The intervals of
        all groups of one method and norm hold at once.
        """
        return self.table

    def words(self) -> "pd.DataFrame":
        """The table as readers see it: shares in percent, bounds rounded to their safe side."""
        table, upper = self.table, self.table.promise.str.startswith("no attack")
        ends = zip(table.lower, table.upper, strict=True)
        shown = {
            "norm": [norm_name(norm) for norm in table.norm],
            "radius": [f"{radius:g}" for radius in table.radius],
            "accuracy": [percent(share, up) for share, up in zip(table.accuracy, upper, strict=True)],
            "interval": [f"{percent(low)} to {percent(high, up=True)}" for low, high in ends],
        }
        columns = ["norm", "method", "promise", "radius", "group", "inputs", "accuracy", "interval"]
        return table.assign(**shown)[columns]

    def word_rows(self) -> list[dict[str, str]]:
        """The rows of :meth:`words`, for a page."""
        return [{str(name): str(cell) for name, cell in row.items()} for row in self.words().to_dict("records")]

    def sentences(self) -> list[str]:
        """A sentence per norm and method: the worst group, the best, and whether the groups differ."""
        return [self._sentence(test) for test in self.tests.to_dict("records")]

    def _sentence(self, test: Mapping[Any, Any]) -> str:
        here = (self.table.norm == test["norm"]) & (self.table.method == test["method"])
        rows = self.table[here & (self.table.subject == test["subject"])].set_index("group")
        upper = test["promise"].startswith("no attack")

        def said(group: Group) -> str:
            row = rows.loc[group]
            ends = f"{percent(row.lower)} to {percent(row.upper, up=True)}"
            return f"{group!r} with {percent(row.accuracy, up=upper)} % ({ends}; {row.inputs} inputs)"

        differ = test["p_holm"] <= 1 - self.confidence
        verdict = "the groups differ" if differ else "no difference between groups is shown"
        p = f"{test['test']}, corrected p = {test['p_holm']:.2g}"
        where = f"{test['method']} in {norm_name(test['norm'])} at radius {test['radius']:g}"
        return f"{where}: worst group {said(test['worst'])}, best {said(test['best'])}; {verdict} ({p})"


def group_accuracies(
    rows: Sequence[Row],
    by: str,
    members: Mapping[int, Group],
    radius: float | Mapping[Order, float] | None,
    confidence: float = 0.95,
    seed: int = 0,
) -> GroupAccuracies:
    """Accuracy by group of all methods, see :meth:`certify.Evaluation.by_group`.

    Args:
        rows: of the evaluation.
        by: name of the groups.
        members: the group of each input, by its index.
        radius: at which inputs are counted; one for all norms, one for each, or None for a middle one.
        confidence: of all groups of a method and norm at once.
        seed: of permutations.
    """
    import pandas as pd

    curves = curves_of(rows)
    if not curves:
        raise InvalidInput("groups need certificates or witnesses to be compared by, and this evaluation has none")
    radii = _radii(curves, radius)
    names = sorted(set(members.values()), key=lambda name: (isinstance(name, str), name))
    parts: dict[Group, list[Row]] = {name: [] for name in names}
    for row in rows:
        parts[members[row["index"]]].append(row)
    lines: dict[tuple[Order, str, str], list[dict[str, Any]]] = {}
    for name, part in parts.items():
        for curve in curves_of(part):
            about = {"promise": curve_label(curve).partition(" (")[0], "radius": radii[curve.norm], "group": name}
            counts = {"inputs": len(curve.limit), "count": int(curve.counts(radii[curve.norm]))}
            lines.setdefault((curve.norm, curve.method, curve.subject), []).append({**about, **counts})
    key = ("norm", "method", "subject")
    tables = [_with_intervals(dict(zip(key, line, strict=True)), lines[line], confidence) for line in sorted(lines)]
    tests = [_test(table, seed) for table in tables]
    corrected = holm([test["p_value"] for test in tests])
    return GroupAccuracies(
        by=by,
        table=pd.DataFrame([row for table in tables for row in table]),
        tests=pd.DataFrame([{**test, "p_holm": p} for test, p in zip(tests, corrected, strict=True)]),
        confidence=confidence,
    )


def _with_intervals(about: dict[str, Any], rows: list[dict[str, Any]], confidence: float) -> list[dict[str, Any]]:
    counts, sizes = (torch.tensor([row[name] for row in rows], device="cpu") for name in ("count", "inputs"))
    lower, upper = simultaneous_intervals(counts, sizes, confidence=confidence)
    shares = zip((counts.double() / sizes).tolist(), lower.tolist(), upper.tolist(), strict=True)
    names = ("accuracy", "lower", "upper")
    return [{**about, **row, **dict(zip(names, share, strict=True))} for row, share in zip(rows, shares, strict=True)]


def _test(rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """The test of one method in one norm. Of equally accurate groups, the one that is less sure is the worst."""
    p_value, test = equality_test([row["count"] for row in rows], [row["inputs"] for row in rows], seed=seed)
    worst = min(rows, key=lambda row: (row["accuracy"], row["lower"]))
    best = max(rows, key=lambda row: (row["accuracy"], row["lower"]))
    about = {name: worst[name] for name in ("norm", "method", "subject", "promise", "radius")}
    return {**about, "worst": worst["group"], "best": best["group"], "test": test, "p_value": p_value}


def _radii(curves: Sequence[AccuracyCurve], radius: float | Mapping[Order, float] | None) -> dict[Order, float]:
    """The radius of each norm: as stated, or where the accuracy of all inputs is nearest to half of its start.

    Groups have no say in it, so the test of their equality stays exact.
    """
    norms = sorted({curve.norm for curve in curves})
    if isinstance(radius, Mapping):
        missing = [norm for norm in norms if norm not in radius]
        if missing:
            raise InvalidInput(
                f"radius must have one for each norm, {', '.join(f'{norm:g}' for norm in norms)}, lacks {missing[0]:g}"
            )
        return {norm: checks.nonnegative("radius", radius[norm]) for norm in norms}
    if radius is not None:
        return dict.fromkeys(norms, checks.nonnegative("radius", radius))
    chosen = {}
    for norm in norms:
        here = [curve for curve in curves if curve.norm == norm]
        bounds_below = [curve for curve in here if isinstance(curve, CertifiedAccuracyCurve)] or here
        candidates = round_radii(bounds_below, most=20)
        shares = torch.stack([curve.at(candidates) for curve in bounds_below]).mean(0)
        chosen[norm] = candidates[int((shares - shares[0] / 2).abs().argmin())]
    return chosen


def members_of(rows: Sequence[Row], groups: Groups | None) -> tuple[str, dict[int, Group]]:
    """The name of a grouping, and the group of each input by its index.

    Args:
        rows: of the evaluation.
        groups: a column of its rows, or one entry per input, in the order of their indices; None for the groups that
            the evaluation was made with, or else the class labels.

    Raises:
        InvalidInput: no such column, one whose values differ between methods, or another number of groups.
    """
    indices = sorted({row["index"] for row in rows})
    if groups is None:
        groups = GROUP if any(row.get(GROUP) is not None for row in rows) else LABEL
    if not isinstance(groups, str):
        return "group", dict(zip(indices, group_names(groups, len(indices)), strict=True))
    members: dict[int, Group] = {}
    for row in rows:
        value = row.get(groups)
        if not isinstance(value, Group) or members.setdefault(row["index"], value) != value:
            raise InvalidInput(
                f"groups must name a column with one whole number or text per input, such as label, got {groups!r}"
            )
    return groups, members


def stated_groups(groups: Groups | None, labels: Tensor, count: int) -> list[Group] | None:
    """The group of each input as an evaluation is given it: an array, or the class labels by their name."""
    if groups is None:
        return None
    if isinstance(groups, str) and groups != LABEL:
        raise InvalidInput(f'groups must be "label" or one whole number or text per input, got {groups!r}')
    return group_names(labels if isinstance(groups, str) else groups, count)


def digest_of_groups(members: Sequence[Group] | None) -> dict[str, str]:
    """The part of a manifest that tells one grouping from another; empty without groups."""
    return {} if members is None else {"groups_sha256": hashlib.sha256(repr(list(members)).encode()).hexdigest()}


def with_groups(record: dict[str, Any], members: Sequence[Group] | None, first_index: int) -> dict[str, Any]:
    """The record of a unit, each of its rows with the group of the input."""
    if members is None:
        return record
    return {**record, "rows": [{**row, GROUP: members[row["index"] - first_index]} for row in record["rows"]]}


def group_names(groups: Sequence[Group] | Tensor | NDArray[Any], count: int) -> list[Group]:
    """The group of each input in plain values, from an array of whole numbers or texts.

    Raises:
        InvalidInput: another number of them, or something else.
    """
    values = groups.tolist() if isinstance(groups, Tensor | np.ndarray) else list(groups)
    if len(values) != count:
        raise InvalidInput(f"groups must have one entry per input, {count}, got {len(values)}")
    names = [int(value) if isinstance(value, np.integer | bool) else value for value in values]
    for name in names:
        if not isinstance(name, Group):
            raise InvalidInput(f"groups must be whole numbers or texts, got {name!r}: write it as text")
    return [str(name) if isinstance(name, str) else name for name in names]
