"""Tables and figures of an evaluation as they are exported."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bounds.sets.orders import Order
from certify.curves import AccuracyCurve, CertifiedAccuracyCurve, round_radii
from certify.evaluation.summaries.groups import GroupAccuracies
from certify.evaluation.summaries.tables import curves_of, dataframe, summary_of
from certify.exports.shares import file_name
from certify.exports.sheets import Sheet
from certify.report.columns import COLUMNS, Line, printed
from certify.report.figures import curve_label, norm_figures
from certify.report.words import percent, with_unit

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def sheets_of(rows: Sequence[dict[str, Any]], lines: Sequence[Line], groups: GroupAccuracies | None) -> list[Sheet]:
    """All tables: rows, points of the curves, the summary, accuracy at radius in each norm, and groups."""
    import pandas as pd

    curves = curves_of(rows)
    columns = printed(COLUMNS, lines, "table")
    words = pd.DataFrame({column.name: [column.text(line) for line in lines] for column in columns})
    summary = Sheet(
        name="summary",
        caption="Methods, their promises, and for how many inputs they succeeded; radii and distances in input units.",
        data=summary_of(lines, COLUMNS),
        text=words,
    )
    norms = sorted({curve.norm for curve in curves})
    accuracies = [_accuracy([curve for curve in curves if curve.norm == norm], norm) for norm in norms]
    more = [] if groups is None else [_groups(groups)]
    return [
        Sheet(name="rows", data=dataframe(rows)),
        Sheet(name="curves", data=_points(curves)),
        summary,
        *accuracies,
        *more,
    ]


def curve_figures(curves: Sequence[AccuracyCurve], clean_accuracy: float) -> "dict[str, Figure]":
    """Curves of each norm by the name of a file."""
    drawn = norm_figures(curves, clean_accuracy) if curves else {}
    return {f"curves_{file_name(norm)}": figure for norm, figure in drawn.items()}


def _points(curves: Sequence[AccuracyCurve]) -> "pd.DataFrame":
    """All curves at evenly spaced radii, with exact intervals."""
    import pandas as pd

    tables = [
        curve.to_dataframe().assign(
            norm=curve.norm, method=curve.method, subject=curve.subject, promise=_promise(curve), alpha=curve.alpha
        )
        for curve in curves
    ]
    first = ["norm", "method", "subject", "promise", "alpha", "radius", "accuracy", "lower", "upper"]
    return pd.concat(tables, ignore_index=True)[first] if tables else pd.DataFrame(columns=first)


def _accuracy(curves: Sequence[AccuracyCurve], norm: Order) -> Sheet:
    import pandas as pd

    radii = round_radii(curves)
    data = pd.concat(
        [
            curve.to_dataframe(radii).assign(method=curve.method, subject=curve.subject, promise=_promise(curve))
            for curve in curves
        ],
        ignore_index=True,
    )
    text = []
    for curve in curves:
        up = not isinstance(curve, CertifiedAccuracyCurve)
        shares = [percent(share, up) for share in curve.at(radii).tolist()]
        about = {"method": curve.method, "classifier": curve.subject, "promise": _promise(curve)}
        text.append(about | dict(zip((f"{radius:g}" for radius in radii), shares, strict=True)))
    return Sheet(
        name=f"accuracy_{file_name(norm)}",
        caption=f"Accuracy in % of {len(curves[0].limit)} inputs within radii of {with_unit(norm)}. "
        "Certified accuracies are lower bounds; where no attack was found, the accuracy is an upper bound.",
        data=data,
        text=pd.DataFrame(text),
    )


def _groups(groups: GroupAccuracies) -> Sheet:
    return Sheet(
        name="groups",
        caption=f"Accuracy in % by {groups.by}; the {groups.confidence:.0%} intervals of one method and norm hold for "
        "all its groups at once.",
        data=groups.table,
        text=groups.words(),
    )


def _promise(curve: AccuracyCurve) -> str:
    return curve_label(curve).partition(" (")[0]
