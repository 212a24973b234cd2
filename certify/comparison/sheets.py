"""Tables of a comparison as readers see them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from certify.comparison.contenders import PROMISES
from certify.exports.shares import file_name
from certify.exports.sheets import Sheet
from certify.report import norm_name
from certify.report.words import percent, with_unit

if TYPE_CHECKING:
    import pandas as pd

BOLD = (
    "Bold: the best lower bound, and all that an exact paired test, corrected for the number of tests, does not tell "
    "from it. Where no attack was found, the accuracy is an upper bound, which has no best."
)


def accuracy_sheets(table: "pd.DataFrame", norms: Sequence[float]) -> list[Sheet]:
    """Accuracy at radius, a table per norm: models in rows, radii in columns, the best and ties in bold."""
    return [_accuracy(table[table.norm == norm], norm) for norm in norms]


def _accuracy(table: "pd.DataFrame", norm: float) -> Sheet:
    key = ["classifiers", "promise", "model"]
    upper = table.promise == PROMISES[2]
    cells = [percent(share, up) for share, up in zip(table.accuracy, upper, strict=True)]
    words = table.assign(cell=cells).pivot(index=key, columns="radius", values="cell")
    bold = table.pivot(index=key, columns="radius", values="best")
    order = list(dict.fromkeys(table[key].itertuples(index=False, name=None)))
    text = words.loc[order].reset_index()
    text.columns = [*key, *(f"{radius:g}" for radius in words.columns)]
    marks = bold.loc[order].reset_index()
    marks[key] = False
    return Sheet(
        name=f"accuracy_{file_name(norm)}",
        caption=f"Accuracy in % within each radius of {with_unit(norm)}. {BOLD}",
        data=table,
        text=text,
        bold=marks,
    )


def difference_sheet(table: "pd.DataFrame", confidence: float) -> Sheet:
    """Paired differences with their tests."""
    text = table.assign(
        norm=[norm_name(norm) for norm in table.norm],
        radius=[f"{radius:g}" for radius in table.radius],
        difference=[f"{100 * each:+.1f}" for each in table.difference],
        interval=[f"{100 * a:+.1f} to {100 * b:+.1f}" for a, b in zip(table.lower, table.upper, strict=True)],
        p=[f"{p:.2g}" for p in table.p_value],
        p_holm=[f"{p:.2g}" for p in table.p_holm],
    )
    columns = ["norm", "classifiers", "promise", "radius", "first", "second", "difference", "interval", "p", "p_holm"]
    return Sheet(
        name="differences",
        caption="Differences of accuracy, first minus second, in percentage points, with "
        f"{confidence:.0%} intervals and p-values of McNemar's exact test, alone and corrected by Holm for all rows.",
        data=table,
        text=text[columns].rename(columns={"p_holm": "p (Holm)", "p": "p-value"}),
    )
