"""The page: one self-contained HTML file."""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from bounds import NoiseRatioTest
from certify.curves import AccuracyCurve
from certify.promises import PROVED
from certify.report.columns import COLUMNS, LEFT_OUT, Column, Line, bound, printed
from certify.report.figures import is_picture, norm_figures, perturbation_picture, picture, svg
from certify.report.noise_figure import noise_figure
from certify.report.sentences import doubts, masking_sentence, no_curves
from certify.report.words import NOTHING, classifier_name, listed, norm_name, rounded_up

if TYPE_CHECKING:
    import pandas as pd

    from certify.attacks.studies.gradient_masking import GradientMaskingReport

Kind = Literal["proof", "probable", "estimate", "witness", "noise", "none"]
KINDS: tuple[Kind, ...] = ("proof", "probable", "estimate", "witness", "noise", "none")  # in the order of their columns

NEIGHBOURS = 6  # pictures per norm, at most
ROWS = 2000  # inputs in a table, at most
HEADS = ("norm", "method", "subject", "promise")  # columns of the table of methods that hold text
BOUNDS = {"ibp": "interval bounds", "crown": "linear bounds"}


@dataclass(frozen=True, eq=False, kw_only=True)
class Page:
    """Content of the page.

    Attributes:
        manifest: versions, device, seed, configuration and hashes.
        curves: certified and attacked accuracy curves.
        clean_accuracy: accuracy of the model on the clean inputs.
        summary: one row per norm and method.
        rows: one row per input, norm and method.
        contradictions: sentences; empty if certificates and witnesses agree.
        outside: sentences about estimates below what is proved or above what was found.
        comparisons: number of certificates that a witness could have refuted.
        unfinished: units of work done and in all, if the run is not complete.
        pairs: for each attacked input its record, the norm, the clean and the adversarial input (*D).
        noise: how random noise compares with adversarial perturbations, if that was tested.
        masking: whether gradients lead attacks astray, if that was tested.
        lines: results by norm and method, for the table of methods.
        columns: of that table.
        groups: accuracy by group of inputs, a row of words per norm, method and group; empty without groups.
        group_sentences: which group is the worst, and whether groups differ.
        left_out: sentences about what was not computed, and why.
    """

    manifest: Mapping[str, Any]
    curves: Sequence[AccuracyCurve]
    clean_accuracy: float
    summary: "pd.DataFrame"
    rows: "pd.DataFrame"
    contradictions: Sequence[str]
    outside: Sequence[str]
    comparisons: int
    unfinished: tuple[int, int] | None
    lines: Sequence[Line]
    pairs: Sequence[tuple[Mapping[str, Any], float, Tensor, Tensor]]
    noise: NoiseRatioTest | None
    masking: "GradientMaskingReport | None" = None
    columns: Sequence[Column] = COLUMNS
    groups: Sequence[Mapping[str, object]] = ()
    group_sentences: Sequence[str] = ()
    left_out: Sequence[str] = ()


def render(page: Page) -> str:
    """The page as HTML: it needs no script and no other file, and opens from anywhere."""
    from jinja2 import Environment, StrictUndefined

    source = resources.files("certify.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    columns = sorted(_columns(page), key=lambda column: (column.line.norm, KINDS.index(column.kind)))
    figures = norm_figures(page.curves, page.clean_accuracy) if page.curves else {}
    return environment.from_string(source).render(
        count=page.rows["index"].nunique(),
        clean_accuracy=page.clean_accuracy,
        created=str(page.manifest.get("created", "")).replace("T", " ").replace("+00:00", " UTC"),
        version=page.manifest.get("versions", {}).get("certify-bounds", ""),
        sentences=_sentences(columns, page.rows["index"].nunique()),
        contradictions=page.contradictions,
        outside=page.outside,
        comparisons=page.comparisons,
        unfinished=page.unfinished,
        figures=[svg(figure) for figure in figures.values()],
        no_curves="" if figures else no_curves(page.summary),
        doubts=doubts(page.summary),
        masking="" if page.masking is None else masking_sentence(page.masking),
        methods=list(_methods(page, columns)),
        method_columns=[column for column in printed(page.columns, page.lines, "page") if column.name not in HEADS],
        galleries=[(norm_name(norm), cards) for norm, cards in _galleries(page)],
        noise=[] if page.noise is None else str(page.noise).splitlines(),
        noise_figure="" if page.noise is None else svg(noise_figure(page.noise)),
        tables=list(_tables(columns)),
        settings=_settings(page.manifest),
        groups=page.groups,
        group_sentences=page.group_sentences,
        left_out=page.left_out,
    )


@dataclass(frozen=True, eq=False)
class _Column:
    """Results of one method in one norm, and their rows as a table."""

    line: Line
    rows: "pd.DataFrame"

    @property
    def kind(self) -> Kind:
        """The kind of its numbers, which decides where they stand and how they are rounded."""
        if self.line.kind == "certificate":
            return "probable" if self.line.promise.alpha > 0 else "proof"
        kinds: dict[str, Kind] = {"estimate": "estimate", "witness": "witness", "noise": "noise"}
        return kinds.get(self.line.kind, "none")


def _columns(page: Page) -> Iterator[_Column]:
    lines: dict[Hashable, Line] = {(line.norm, line.method, line.subject): line for line in page.lines}
    for key, part in page.rows.groupby(["norm", "method", "subject"], sort=True):
        yield _Column(lines[key], part)


def _sentences(columns: Sequence[_Column], count: int) -> tuple[str, str]:
    """Sentences that say what was done, and what the numbers promise."""
    certified = [column for column in columns if column.kind in ("proof", "probable")]
    attacked = [column for column in columns if column.kind == "witness"]
    done = []
    if certified:
        done.append(f"radii within which the predicted class does not change were certified for {_subjects(certified)}")
    if attacked:
        done.append(f"adversarial examples were sought for {_subjects(attacked)}")
    inputs = f"{count} input" + "s" * (count != 1)
    guessed = [column for column in columns if column.kind == "estimate"]
    if guessed:
        done.append(f"distances were estimated for {_subjects(guessed)}")
    promises = list(dict.fromkeys(map(_promise, [*certified, *guessed, *attacked]))) or ["no method gave a result"]
    second = "; ".join(promises)
    return f"For {inputs}, {', and '.join(done) or 'nothing was certified'}.", f"{second[0].upper()}{second[1:]}."


def _subjects(columns: Sequence[_Column]) -> str:
    norms: dict[str, list[str]] = {}
    for column in columns:
        known = norms.setdefault(classifier_name(column.line.subject), [])
        known += [name for name in [norm_name(column.line.norm)] if name not in known]
    return " and for ".join(f"{subject} in {listed(names)}" for subject, names in norms.items())


def _promise(column: _Column) -> str:
    line, subject = column.line, classifier_name(column.line.subject)
    if column.kind == "estimate":
        return f"{line.method} estimates bound nothing"
    if column.kind == "witness":
        return "every adversarial example was checked again, and its distance is an upper bound"
    if column.kind == "proof":
        about = "the model" if line.subject == "base" else subject
        proofs = BOUNDS.get(line.method, f"{line.method} bounds")
        return f"{proofs} are proofs about {about} {PROVED[line.promise.arithmetic]}"
    name = "smoothed" if line.subject.startswith("smoothed(") else line.method
    other = "" if line.subject == "base" else f" and speaks of {subject}, not of the model itself"
    return f"each {name} certificate is false with probability at most {line.promise.alpha!r}{other}"


def _methods(page: Page, columns: Sequence[_Column]) -> Iterator[dict[str, Any]]:
    """The lines as text, in the order of their kinds: certificates and witnesses in columns of their own."""
    for column in columns:
        line = column.line
        text: dict[str, Any] = {each.name: each.text(line) for each in page.columns}
        blind = sum(row.get("blind") is True for row in line.rows)
        reasons = column.rows.reason.dropna().unique() if "reason" in column.rows else ()
        yield text | {"doubt": f"{blind} blind" * bool(blind), "reason": "; ".join(reasons)}


def _galleries(page: Page) -> Iterator[tuple[float, list[dict[str, str]]]]:
    """Per norm, the nearest adversarial example of some inputs, from the nearest to the farthest."""
    limits = page.manifest.get("configuration", {})
    for norm in sorted({norm for _, norm, _, _ in page.pairs}):
        found = [pair for pair in page.pairs if pair[1] == norm and pair[0]["status"] == "found"]
        found = sorted((pair for pair in found if is_picture(pair[2])), key=lambda pair: pair[0]["attack_distance"])
        nearest = list({pair[0]["index"]: pair for pair in reversed(found)}.values())[::-1]
        if nearest:
            steps = min(NEIGHBOURS, len(nearest))
            chosen = [nearest[round(i * (len(nearest) - 1) / max(steps - 1, 1))] for i in range(steps)]
            yield norm, [_card(row, clean, adversarial, limits) for row, _, clean, adversarial in chosen]


def _card(row: Mapping[str, Any], clean: Tensor, adversarial: Tensor, limits: Mapping[str, Any]) -> dict[str, str]:
    low, high = limits.get("low"), limits.get("high")
    if not (isinstance(low, int | float) and isinstance(high, int | float)):  # no box, or one per feature
        low, high = float(clean.min()), float(clean.max())
    perturbation, factor = perturbation_picture(adversarial.double() - clean.double(), span=(high - low) or 1.0)
    return {
        "index": str(row["index"]),
        "label": str(row["label"]),
        "adversarial_label": str(row["adversarial_label"]),
        "distance": rounded_up(row["attack_distance"]),
        "clean": picture(clean, low=low, high=high),
        "adversarial": picture(adversarial, low=low, high=high),
        "perturbation": perturbation,
        "factor": str(factor),
    }


def _tables(columns: Sequence[_Column]) -> Iterator[dict[str, Any]]:
    """Per norm: the columns, and one line per input with the results of each method."""
    for norm in sorted({column.line.norm for column in columns}):
        chosen = [column for column in columns if column.line.norm == norm]
        lines: dict[int, dict[str, Any]] = {}
        for i, column in enumerate(chosen):
            for row in column.rows.to_dict("records"):
                index = int(row["index"])
                if index not in lines:
                    empty = [(NOTHING, "", "")] * len(chosen)
                    shared = {"label": row["label"], "prediction": row["base_prediction"], "cells": empty}
                    lines[index] = {"index": index, **shared}
                lines[index]["cells"][i] = _cell(row, column)
        ordered = [lines[index] for index in sorted(lines)]
        yield {"norm": norm_name(norm), "columns": chosen, "lines": ordered[:ROWS], "left_out": len(ordered[ROWS:])}


def _cell(row: Mapping[Hashable, Any], column: _Column) -> tuple[str, str, str]:
    """The bound, the status in words, and the status for the style sheet."""
    status, kind = row["status"], column.kind
    words, tone = status, status.replace(" ", "-")
    if status == "misclassified":
        words = f"misclassified as {row['prediction']:.0f}"
    elif status == "found":
        words = f"found, class {row['adversarial_label']:.0f}"
    elif row.get("carried_from") and isinstance(row["carried_from"], str):
        words = f"{status}, by {row['carried_from']}"
    elif status.endswith(("certified", "not found")) and row["prediction"] != row["base_prediction"]:
        words = f"{status}, class {row['prediction']:.0f}"
    if status == LEFT_OUT:
        return NOTHING, words, tone
    if kind == "noise":
        return bound(column.line, row["noise_radius"]), words, tone
    if kind == "witness":
        words += ", blind" * (row.get("blind") is True)
        return (
            (bound(column.line, row["attack_distance"]) if row["attack_distance"] < math.inf else NOTHING),
            words,
            tone,
        )
    if kind == "estimate":
        return bound(column.line, row["estimated_distance"]), words, tone
    silent = kind == "none" or status in ("abstained", "misclassified", "unsupported")
    return NOTHING if silent else bound(column.line, row["certified_radius"]), words, tone


def _settings(manifest: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The manifest as titled groups of names and values; a mapping inside a mapping is a group of its own."""
    groups: list[tuple[str, list[tuple[str, str]]]] = []
    waiting: list[tuple[str, Mapping[str, Any]]] = [("run", manifest)]
    while waiting:
        title, mapping = waiting.pop(0)
        inner = {key: value for key, value in mapping.items() if isinstance(value, Mapping)}
        waiting += inner.items()
        plain = [(str(key).replace("_", " "), _text(value)) for key, value in mapping.items() if key not in inner]
        groups += [(title, plain)] if plain else []
    return groups


def _text(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_text, value))
    return "none" if value is None else str(value)
