"""The page: one self-contained HTML file."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from certify.curves import AccuracyCurve
from certify.report.figures import is_picture, norm_figures, perturbation_picture, picture, svg
from certify.report.names import NOTHING, classifier_name, listed, norm_name, rounded_down, rounded_up

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["proof", "probable", "witness", "none"]

NEIGHBOURS = 6  # pictures per norm, at most
ROWS = 2000  # inputs in a table, at most
BOUNDS = {"ibp": "interval bounds"}


@dataclass(frozen=True, eq=False, kw_only=True)
class Page:
    """What the page shows.

    Attributes:
        manifest: versions, device, seed, configuration and hashes.
        curves: certified and attacked accuracy curves.
        clean_accuracy: accuracy of the model on the clean inputs.
        summary: one row per norm and method.
        rows: one row per input, norm and method.
        contradictions: sentences; empty if certificates and witnesses agree.
        pairs: for each attacked input its record, the norm, the clean and the adversarial input (*D).
    """

    manifest: Mapping[str, Any]
    curves: Sequence[AccuracyCurve]
    clean_accuracy: float
    summary: "pd.DataFrame"
    rows: "pd.DataFrame"
    contradictions: Sequence[str]
    pairs: Sequence[tuple[Mapping[str, Any], float, Tensor, Tensor]]


def render(page: Page) -> str:
    """The page as HTML: it needs no script and no other file, and opens from anywhere."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    source = resources.files("certify.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    columns = list(_columns(page.rows))
    figures = norm_figures(page.curves, page.clean_accuracy) if page.curves else {}
    return environment.from_string(source).render(
        count=page.rows["index"].nunique(),
        clean_accuracy=page.clean_accuracy,
        created=page.manifest.get("created", ""),
        version=page.manifest.get("versions", {}).get("certify-bounds", ""),
        sentences=_sentences(columns, page.rows["index"].nunique()),
        contradictions=page.contradictions,
        comparisons=_comparisons(page.rows),
        figures=[Markup(svg(figure)) for figure in figures.values()],
        methods=_methods(page.summary, page.rows),
        galleries=[(norm_name(norm), cards) for norm, cards in _galleries(page)],
        tables=list(_tables(columns)),
        settings=_settings(page.manifest),
    )


@dataclass(frozen=True, eq=False)
class _Column:
    """Results of one method in one norm."""

    norm: float
    method: str
    subject: str
    kind: Kind
    rows: "pd.DataFrame"


def _columns(rows: "pd.DataFrame") -> Iterator[_Column]:
    for (norm, method, subject), part in rows.groupby(["norm", "method", "subject"], sort=True):
        kind: Kind = "proof"
        if (part.status == "unsupported").all():
            kind = "none"
        elif part.certified_radius.isna().all():
            kind = "witness"
        elif part.alpha.max() > 0:
            kind = "probable"
        yield _Column(float(norm), str(method), str(subject), kind, part)


def _sentences(columns: Sequence[_Column], count: int) -> tuple[str, str]:
    """What was done, and what the numbers promise."""
    certified = [column for column in columns if column.kind in ("proof", "probable")]
    attacked = [column for column in columns if column.kind == "witness"]
    done = []
    if certified:
        done.append(f"radii within which the predicted class does not change were certified for {_subjects(certified)}")
    if attacked:
        done.append(f"adversarial examples were sought for {_subjects(attacked)}")
    inputs = f"{count} input" + "s" * (count != 1)
    promises = list(dict.fromkeys(map(_promise, [*certified, *attacked]))) or ["no method gave a result"]
    second = "; ".join(promises)
    return f"For {inputs}, {', and '.join(done) or 'nothing was certified'}.", f"{second[0].upper()}{second[1:]}."


def _subjects(columns: Sequence[_Column]) -> str:
    norms: dict[str, list[str]] = {}
    for column in columns:
        known = norms.setdefault(classifier_name(column.subject), [])
        known += [name for name in [norm_name(column.norm)] if name not in known]
    return " and for ".join(f"{subject} in {listed(names)}" for subject, names in norms.items())


def _promise(column: _Column) -> str:
    subject = classifier_name(column.subject)
    if column.kind == "witness":
        return "every adversarial example was checked again, and its distance is an upper bound"
    if column.kind == "proof":
        about = "the model" if column.subject == "base" else subject
        return f"{BOUNDS.get(column.method, f'{column.method} bounds')} are proofs about {about} in real arithmetic"
    name = "smoothed" if column.subject.startswith("smoothed(") else column.method
    other = "" if column.subject == "base" else f" and speaks of {subject}, not of the model itself"
    return f"each {name} certificate is false with probability at most {float(column.rows.alpha.max())!r}{other}"


def _comparisons(rows: "pd.DataFrame") -> int:
    """Certificates for which there is an adversarial example of the same classifier in the same norm."""
    keys = ["index", "norm", "subject"]
    found = rows.loc[rows.attack_distance < math.inf, keys].drop_duplicates()
    return len(rows.loc[rows.certified_radius.notna(), keys].merge(found, on=keys))


def _methods(summary: "pd.DataFrame", rows: "pd.DataFrame") -> list[dict[str, Any]]:
    reasons: dict[str, str] = {}
    if "reason" in rows:
        reasons = rows.dropna(subset="reason").groupby("method").reason.first().to_dict()
    shown = []
    for row in summary.to_dict("records"):
        certifies = row["certified"] == row["certified"] and row["certified"] is not None
        shown.append(row)
    return shown
