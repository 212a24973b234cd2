"""Several models on the same inputs: curves, paired tests, trade-offs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bounds import checks
from bounds.errors import InvalidInput
from bounds.statistics.paired import discordant, holm, mcnemar_p_value, paired_interval
from certify.comparison.contenders import (
    PROMISES,
    Contender,
    Panel,
    contenders_of,
    require_comparable,
    require_rivals,
)
from certify.comparison.figures import Names, curves_figure, trade_off_figure
from certify.comparison.page import render_comparison
from certify.comparison.sheets import accuracy_sheets, difference_sheet
from certify.comparison.trade_off import TradeOff, trade_off
from certify.curves import round_radii
from certify.evaluation.evaluation import Evaluation, write_page
from certify.exports.figures import COLUMN
from certify.exports.files import formats_of, write_export
from certify.exports.shares import file_name
from certify.exports.sheets import Sheet
from certify.report import Study, norm_name
from certify.report.words import listed

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Radii = float | Sequence[float]
KEY = ["norm", "classifiers", "promise", "model"]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Models on the same inputs, see :func:`certify.compare`.

    Statements about smoothed classifiers and about the models themselves stand apart: neither bounds the other.
    So do lower bounds that are proved, lower bounds that hold with high probability, and upper bounds.

    Attributes:
        names: of the models.
        contenders: one per norm, kind of classifier, kind of promise and model.
        inputs: number of inputs.
        confidence: of all intervals.
        seed: of resampling.
        evaluations: by the name of the model.
    """

    names: tuple[str, ...]
    contenders: tuple[Contender, ...]
    inputs: int
    confidence: float = 0.95
    seed: int = 0
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)

    def __repr__(self) -> str:
        """The models, inputs and norms, in one line."""
        norms = listed([norm_name(norm) for norm in self.norms])
        return f"Comparison({', '.join(self.names)}: {self.inputs} inputs, {norms}, {len(self.contenders)} curves)"

    def _repr_html_(self) -> str:
        """Accuracies at some radii, for notebooks."""
        tables = ((norm, self.at(self.radii(norm)).loc[[norm]]) for norm in self.norms)
        return "".join(f"<p>{norm_name(norm)}</p>{table.to_html()}" for norm, table in tables)

    @cached_property
    def norms(self) -> list[float]:
        """Orders of the norms, in order."""
        return sorted({one.panel.norm for one in self.contenders})

    def radii(self, norm: float) -> list[float]:
        """Radii at which accuracies are stated where none are asked for: 0 and round numbers where curves fall."""
        here = self._of(norm)
        return round_radii([one.curve for one in here if one.bounds_below] or [one.curve for one in here])

    def at(self, radius: Radii) -> "pd.DataFrame":
        """Accuracy at each radius: a row per norm, kind of classifier, kind of promise and model, a column per radius.

        Accuracies of the promise ``"no attack found"`` are upper bounds, the others lower ones, on these inputs.
        """
        import pandas as pd

        radii = _radii(radius)
        index = pd.MultiIndex.from_tuples([_key(one) for one in self.contenders], names=KEY)
        values = [one.curve.at(radii).tolist() for one in self.contenders]
        return pd.DataFrame(values, index=index, columns=pd.Index(radii, name="radius"))

    def to_dataframe(self, radii: Radii | None = None) -> "pd.DataFrame":
        """One row per curve and radius, with the exact interval of the accuracy over the population of the inputs.

        Args:
            radii: in all norms; where it is None, each norm has its own, see :meth:`radii`.

        Returns:
            Columns norm, classifiers, promise, model, methods, alpha, radius, count, inputs, accuracy, lower, upper.
        """
        import pandas as pd

        rows = []
        for one in self.contenders:
            at = _radii(radii) if radii is not None else self.radii(one.panel.norm)
            lower, upper = (ends.tolist() for ends in one.curve.interval(at, self.confidence))
            counts = one.curve.counts(at).tolist()
            about = dict(zip(KEY, _key(one), strict=True)) | {"methods": one.curve.method, "alpha": one.curve.alpha}
            for i, radius in enumerate(at):
                share = {"accuracy": counts[i] / self.inputs, "lower": lower[i], "upper": upper[i]}
                rows.append({**about, "radius": radius, "count": counts[i], "inputs": self.inputs, **share})
        return pd.DataFrame(rows)

    def differences(self, radii: Radii | None = None) -> "pd.DataFrame":
        """Paired differences of the accuracies of all pairs of models, radius by radius.

        ``p_value`` is that of McNemar's exact test that both are equally accurate in the population of the inputs.
        ``p_holm`` is corrected by Holm's method for all rows of this table: to call all pairs different for which it
        is at most 0.05 is wrong about any of them with probability at most 0.05. ``lower`` and ``upper`` hold
        ``difference``, the first accuracy minus the second, each by itself with the confidence of the comparison.

        Of two upper bounds, the larger may only mean the weaker attack.
        """
        import pandas as pd

        rows = []
        for first, second in combinations(self.contenders, 2):
            if (first.panel, first.promise) == (second.panel, second.promise):
                at = _radii(radii) if radii is not None else self.radii(first.panel.norm)
                rows += [self._difference(first, second, radius) for radius in at]
        corrected = holm([row["p_value"] for row in rows])
        return pd.DataFrame([{**row, "p_holm": p} for row, p in zip(rows, corrected, strict=True)])

    def _difference(self, first: Contender, second: Contender, radius: float) -> dict[str, Any]:
        counted = first.counted(radius), second.counted(radius)
        only = discordant(*counted)
        shares = [int(each.sum()) / self.inputs for each in counted]
        lower, upper = paired_interval(*only, self.inputs, self.confidence)
        return {
            **dict(zip(KEY, _key(first)[:3], strict=False)),
            **{"first": first.name, "second": second.name, "radius": radius},
            **{"accuracy_first": shares[0], "accuracy_second": shares[1]},
            **{"difference": (only[0] - only[1]) / self.inputs, "lower": lower, "upper": upper},
            **{"only_first": only[0], "only_second": only[1], "p_value": mcnemar_p_value(*only)},
        }

    def best(self, radii: Radii | None = None) -> "pd.DataFrame":
        """Rows of :meth:`to_dataframe` with a column ``best``: whether each is the best of its radius, or tied with it.

        Tied are models that the corrected test of :meth:`differences` does not tell from the best one, at an error
        of 1 minus the confidence of the comparison. Upper bounds are never best: a larger one proves nothing.
        """
        table, tests = self.to_dataframe(radii), self.differences(radii)
        apart = {
            frozenset((row["first"], row["second"])) | {tuple(row[name] for name in [*KEY[:3], "radius"])}
            for row in tests[tests.p_holm <= 1 - self.confidence].to_dict("records")
        }
        best = dict.fromkeys(range(len(table)), False)
        for key, part in table[table.promise != PROMISES[2]].groupby([*KEY[:3], "radius"], sort=False):
            top = part.model.iloc[int(part.accuracy.argmax())]
            for place, model, accuracy in zip(part.index, part.model, part.accuracy, strict=True):
                tied = model == top or frozenset((model, top)) | {key} not in apart
                best[place] = tied and accuracy > 0 and len(part) > 1  # nobody is best at nothing, or alone
        return table.assign(best=list(best.values()))

    def trade_off(self, radius: float, *, norm: float | None = None) -> "pd.DataFrame":
        """Clean and certified accuracy at a radius, and who is surpassed in both by nobody (the Pareto front).

        Args:
            radius: of the certified accuracy.
            norm: needed where there are several.

        Returns:
            Columns norm, classifiers, promise, model, clean, certified, on_front and share_on_front. The last is the
            share of the resamples of the inputs (seeded, the same for all models) in which the model is on the front.
        """
        import pandas as pd

        tables = []
        for rivals, found in self._trade_offs(radius, self._norm(norm)):
            values = {"clean": found.clean, "certified": found.certified, "on_front": found.on_front}
            about = pd.DataFrame([_key(one) for one in rivals], columns=KEY)
            tables.append(about.assign(**values, share_on_front=found.share_on_front))
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*KEY, "clean", "certified"])

    def _trade_offs(self, radius: float, norm: float) -> list[tuple[list[Contender], TradeOff]]:
        radius = checks.nonnegative("radius", radius)
        groups: dict[tuple[Panel, str], list[Contender]] = {}
        for one in self._of(norm):
            if one.bounds_below:
                groups.setdefault((one.panel, one.promise), []).append(one)
        found = []
        for rivals in groups.values():
            clean, certified = [one.right for one in rivals], [one.counted(radius) for one in rivals]
            if len(rivals) > 1:
                found.append((rivals, trade_off(clean, certified, confidence=self.confidence, seed=self.seed)))
        return found

    def plot(self, norm: float | None = None) -> "Figure":
        """Accuracy against radius of all models in one norm; see :meth:`figures` for all norms.

        A colour and a marker tell models apart, a dash the kinds of promise. Smoothed classifiers have a panel of
        their own. Where a panel has few curves, bands are exact intervals.

        Args:
            norm: needed where there are several.
        """
        return curves_figure(self._of(self._norm(norm)), self.confidence)

    def plot_trade_off(self, radius: float, *, norm: float | None = None) -> "list[Figure]":
        """Certified against clean accuracy with bootstrap regions, a figure per kind of classifier and promise."""
        order = self._norm(norm)
        names = Names(self._of(order))
        return [trade_off_figure(rivals, found, radius, names) for rivals, found in self._trade_offs(radius, order)]

    def figures(self) -> "dict[str, Figure]":
        """All figures by the name of a file: curves and, at a middle radius, the trade-off, for each norm."""
        drawn: dict[str, Figure] = {}
        for norm in self.norms:
            name = file_name(norm)
            drawn[f"curves_{name}"] = self.plot(norm)
            radii = self.radii(norm)
            middle = radii[(len(radii) + 1) // 2 if len(radii) > 2 else -1]
            for i, figure in enumerate(self.plot_trade_off(middle, norm=norm)):
                drawn[f"trade_off_{name}{f'_{i + 1}' if i else ''}"] = figure
        return drawn

    def sheets(self, radii: Radii | None = None) -> list[Sheet]:
        """Tables of an export: accuracy at radius, paired differences."""
        tests = difference_sheet(self.differences(radii), self.confidence)
        return [*accuracy_sheets(self.best(radii), self.norms), tests]

    def export(
        self,
        path: Path | str,
        formats: str | Sequence[str] = ("csv", "latex", "markdown", "pdf"),
        *,
        width: float = COLUMN,
        radii: Radii | None = None,
    ) -> list[Path]:
        """Write tables and figures into a folder, and return the files.

        Args:
            path: the folder.
            formats: some of csv, parquet, latex, markdown, json, pdf, svg and png, as a list or with commas.
            width: of figures, in inches.
            radii: of the tables, see :meth:`to_dataframe`.

        Raises:
            InvalidInput: an unknown format, or one whose package is missing.
            InvalidConfiguration: a file cannot be written.
        """
        chosen, about = formats_of(formats), {"models": list(self.names), "inputs": self.inputs}
        drawn = self.figures() if {"pdf", "svg", "png"} & {*chosen} else {}
        return write_export(path, chosen, self.sheets(radii), drawn, about=about, width=width)

    def to_html(self, path: Path | str, *, studies: Mapping[str, Study] | None = None) -> None:
        """Write the page: one self-contained HTML file with all models in the same figures, and each by itself.

        Args:
            path: of the file; its folder is made if it is not there.
            studies: records of other measurements by their titles, see :meth:`certify.Evaluation.to_html`.

        Raises:
            InvalidInput: a study without ``to_dataframe()`` or ``plot()``.
            InvalidConfiguration: the file cannot be written.
        """
        pages = {name: evaluation.page() for name, evaluation in self.evaluations.items()}
        tests = difference_sheet(self.differences(), self.confidence)
        write_page(path, render_comparison(self, pages, tests, studies))

    def _of(self, norm: float) -> list[Contender]:
        return [one for one in self.contenders if one.panel.norm == norm]

    def _norm(self, norm: float | None) -> float:
        there = self.norms
        if norm is None and len(there) == 1:
            return there[0]
        if norm is None or norm not in there:
            raise InvalidInput(f"norm must be one of {', '.join(f'{order:g}' for order in there)}, got {norm}")
        return norm


def compare(
    evaluations: Mapping[str, Evaluation | Path | str], *, by: str = "model", confidence: float = 0.95, seed: int = 0
) -> Comparison:
    """Compare models that were evaluated on the same inputs, pair by pair.

    Args:
        evaluations: by the name of the model, what :func:`certify.evaluate` returned, or its run directory.
        by: ``"model"``: of several methods with one kind of promise, the best result of each input counts, which is as
            true as all of them are; ``"method"``: each method stands alone, so that methods can be compared too.
        confidence: of all intervals, and of ties.
        seed: of the resampling of inputs.

    Raises:
        InvalidInput: fewer than two evaluations, an unfinished one, other inputs or labels (by their hash), another
            box, or no two results of one kind in one norm about one kind of classifier.
    """
    checks.one_of("by", by, ("model", "method"))
    if not isinstance(evaluations, Mapping):
        raise InvalidInput(f"evaluations must be a mapping from names to evaluations, got {type(evaluations).__name__}")
    loaded = {
        str(name): Evaluation.load(one) if isinstance(one, Path | str) else one for name, one in evaluations.items()
    }
    require_comparable(loaded)
    contenders = contenders_of(loaded, by)
    require_rivals(contenders, loaded)
    return Comparison(
        names=tuple(loaded),
        contenders=tuple(contenders),
        inputs=len(contenders[0].curve.limit),
        confidence=checks.probability("confidence", confidence),
        seed=checks.at_least("seed", seed, 0),
        evaluations=loaded,
    )


def _key(contender: Contender) -> tuple[float, str, str, str]:
    return contender.panel.norm, contender.panel.classifiers, contender.promise, contender.name


def _radii(radius: Radii) -> list[float]:
    given: list[Any] = [radius] if isinstance(radius, Real) else checks.several("radii", radius)
    return list(dict.fromkeys(checks.nonnegative("radius", each) for each in given))
