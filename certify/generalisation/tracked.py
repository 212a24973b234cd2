"""A training, checkpoint by checkpoint, with tests of two ways in which robust training fails."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from bounds import checks, clopper_pearson_interval
from bounds.errors import InvalidInput
from bounds.statistics.paired import discordant, holm, mcnemar_p_value, paired_interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

KINDS = ("clean", "fgsm", "attacked", "certified")
COLOURS = {"clean": "#30363d", "fgsm": "#b8790b", "attacked": "#d55e00", "certified": "#0072b2"}
WORDS = {
    "clean": "clean",
    "fgsm": "one step (upper bound)",
    "attacked": "attacked (upper bound)",
    "certified": "certified (lower bound)",
}


class OverfittingTest(NamedTuple):
    """The answer of a test over checkpoints.

    Attributes:
        flagged: whether the failure was found.
        checkpoints: names of the checkpoints at which it was.
        figures: for each checkpoint tested, the p-value or the lower end of the interval that decided, by name.
        rule: the rule, in one sentence.
    """

    flagged: bool
    checkpoints: tuple[str, ...]
    figures: dict[str, float]
    rule: str


@dataclass(frozen=True, eq=False, kw_only=True)
class TrackedTraining:
    """Each of E checkpoints on the same N inputs, see :func:`certify.track`.

    Attributes:
        names: of the checkpoints, in the order of training.
        clean: (E, N) bool, whether the input is classified correctly.
        fgsm: (E, N) bool, whether it still is after one step.
        attacked: (E, N) bool, whether it still is after one step and after many.
        certified: (E, N) bool, whether it is, and is proved to be within the radius; None where nothing was proved.
        distance: (E, N) float64, linearised distance to the boundary in units of the input, negative on its wrong side:
            an estimate, no bound.
        gradient: (E, N) float64, dual norm of the gradient of the cross-entropy with respect to the input.
        training_attacked: (E, M) bool, like ``attacked`` on training inputs; None where none were given.
        norm: order of the norm.
        epsilon: the radius, in units of the input.
        method: of the proofs; empty where there are none.
        gap: difference of the accuracies after one step and after many that is catastrophic overfitting.
        confidence: of all intervals and tests.
    """

    names: tuple[str, ...]
    clean: Tensor
    fgsm: Tensor
    attacked: Tensor
    certified: Tensor | None
    distance: Tensor
    gradient: Tensor
    training_attacked: Tensor | None
    norm: float
    epsilon: float
    method: str
    gap: float
    confidence: float

    def __len__(self) -> int:
        return len(self.names)

    def accuracy(self, kind: str) -> Tensor:
        """Share of the inputs at each checkpoint, (E,) float64; kind is clean, fgsm, attacked or certified."""
        return self._of(kind).double().mean(1)

    def interval(self, kind: str) -> tuple[Tensor, Tensor]:
        """Exact (Clopper-Pearson) interval of that share in the population of the inputs, (E,) each."""
        rows = self._of(kind)
        return clopper_pearson_interval(rows.sum(1), rows.shape[1], confidence=self.confidence)

    def changes(self, kind: str) -> list[tuple[float, float, float]]:
        """Change from each checkpoint to the last one in accuracy, with the ends of its paired interval.

        The intervals of all E - 1 changes hold together, since each is at the confidence that leaves a share of the
        error to the others.
        """
        rows, found = self._of(kind).cpu(), []
        for one in rows[:-1]:
            better, worse = discordant(rows[-1], one)
            ends = paired_interval(better, worse, rows.shape[1], self._each(len(rows) - 1))
            found.append(((better - worse) / rows.shape[1], *ends))
        return found

    @property
    def robust_overfitting(self) -> OverfittingTest:
        """Whether the last checkpoint is less robust than an earlier one, on inputs that it was not trained on.

        References:
            Rice, Wong, Kolter (2020), Overfitting in adversarially robust deep learning, arXiv:2002.11569.
        """
        rule = (
            f"attacked accuracy at an earlier checkpoint is above that at the last: McNemar's exact one-sided test, "
            f"corrected by Holm for {len(self) - 1} checkpoints, at level {1 - self.confidence:.3g}"
        )
        if self.training_attacked is not None:
            rule += "; and on the training inputs the last is not below it"
        rows, earlier = self.attacked.cpu(), self.names[:-1]
        p = holm([mcnemar_p_value(*discordant(one, rows[-1]), one_sided=True) for one in rows[:-1]])
        worse = [value <= 1 - self.confidence for value in p]
        if self.training_attacked is not None:
            counts = self.training_attacked.sum(1).tolist()
            worse = [flag and counts[-1] >= count for flag, count in zip(worse, counts[:-1], strict=True)]
        where = tuple(name for name, flag in zip(earlier, worse, strict=True) if flag)
        return OverfittingTest(bool(where), where, dict(zip(earlier, p, strict=True)), rule)

    @property
    def catastrophic_overfitting(self) -> OverfittingTest:
        """Whether accuracy after one step is far above that after many: the network resists one step and nothing else.

        References:
            Wong, Rice, Kolter (2020), Fast is better than free, arXiv:2001.03994, section 5.
        """
        rule = (
            f"accuracy after one step exceeds that after many by more than {self.gap:g}: lower end of its paired "
            f"interval, for {len(self)} checkpoints at once, at confidence {self.confidence:g}"
        )
        lower = {name: ends[1] for name, ends in zip(self.names, self._gaps(), strict=True)}
        where = tuple(name for name, end in lower.items() if end > self.gap)
        return OverfittingTest(bool(where), where, lower, rule)

    def sentences(self) -> list[str]:
        """The two tests in words, the checkpoint of the largest attacked accuracy, and the gap that is left."""
        best = int(self.attacked.sum(1).argmax())
        share, last = self.accuracy("attacked")[best], self.accuracy("attacked")[-1]
        said = [f"attacked accuracy: largest at checkpoint {self.names[best]} ({share:.1%}), {last:.1%} at the last"]
        for title, flag in (
            ("robust overfitting", self.robust_overfitting),
            ("catastrophic overfitting", self.catastrophic_overfitting),
        ):
            where = f"found at {', '.join(flag.checkpoints)}" if flag.flagged else "not shown"
            said.append(f"{title}: {where} ({flag.rule})")
        gap, low, high = self._gaps()[-1]
        said.append(f"one step minus many at the last checkpoint: {gap:.1%} [{low:.1%}, {high:.1%}]")
        return said

    def __str__(self) -> str:
        """The sentences."""
        return "\n".join(self.sentences())

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per checkpoint.

        Accuracies with exact intervals; of the attacked one the change to the last checkpoint, with a paired interval;
        the difference of one step and many with its own; quartiles of distances, and the mean norm of gradients.
        """
        import pandas as pd

        columns: dict[str, object] = {"checkpoint": list(self.names)}
        for kind in self.kinds:
            lower, upper = self.interval(kind)
            shares = {kind: self.accuracy(kind), f"{kind}_lower": lower, f"{kind}_upper": upper}
            columns |= {name: values.cpu().numpy() for name, values in shares.items()}
        changes = [*self.changes("attacked"), (0.0, 0.0, 0.0)]
        for i, end in enumerate(("", "_lower", "_upper")):
            columns[f"change_to_last{end}"] = [change[i] for change in changes]
            columns[f"one_step_gap{end}"] = [gap[i] for gap in self._gaps()]
        quarters = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64, device=self.distance.device)
        for name, values in zip(("q25", "q50", "q75"), self.distance.quantile(quarters, dim=1), strict=True):
            columns[f"distance_{name}"] = values.cpu().numpy()
        columns["gradient_mean"] = self.gradient.mean(1).cpu().numpy()
        return pd.DataFrame(columns)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of accuracy that were measured."""
        return KINDS if self.certified is not None else KINDS[:-1]

    def plot(self) -> "Figure":
        """Accuracies with intervals, and below them distances and gradients, over the checkpoints."""
        from matplotlib.figure import Figure

        table, places = self.to_dataframe(), range(len(self))
        figure = Figure(figsize=(7, 6), layout="constrained")
        above, below = figure.subplots(2, sharex=True, height_ratios=(3, 2))
        for kind in self.kinds:
            above.plot(places, table[kind], color=COLOURS[kind], marker="o", markersize=4, label=WORDS[kind])
            ends = table[f"{kind}_lower"], table[f"{kind}_upper"]
            above.fill_between(places, *ends, color=COLOURS[kind], alpha=0.15, linewidth=0)
        found = {*self.catastrophic_overfitting.checkpoints}
        for place, name in enumerate(self.names):
            if name in found:
                above.axvspan(place - 0.5, place + 0.5, color="#d6455d", alpha=0.12, linewidth=0)
        above.set(ylim=(0, 1), ylabel="accuracy")
        shaded = "; shaded: catastrophic overfitting" if found else ""
        above.set_title(f"radius {self.epsilon:g}, norm {self.norm:g}{shaded}", loc="left", fontsize=10)
        figure.legend(loc="outside lower center", fontsize=8, ncols=len(self.kinds), frameon=False)
        below.plot(places, table.distance_q50, color="#009e73", marker="o", markersize=4)
        below.fill_between(places, table.distance_q25, table.distance_q75, color="#009e73", alpha=0.15, linewidth=0)
        below.set_ylabel("linearised distance,\nquartiles", color="#009e73")
        other = below.twinx()
        other.plot(places, table.gradient_mean, color="#8464c6", linestyle="--", marker="s", markersize=4)
        other.set_ylabel("mean norm of the\nloss gradient", color="#8464c6")
        below.set_xticks(list(places), self.names)
        below.set_xlabel("checkpoint")
        return figure

    def _of(self, kind: str) -> Tensor:
        rows: Tensor | None = getattr(self, checks.one_of("kind", kind, KINDS))
        if rows is None:
            raise InvalidInput("kind 'certified' was not measured: call track with method='ibp' or another one")
        return rows

    def _each(self, count: int) -> float:
        """Confidence of one of several intervals that hold together."""
        return 1 - (1 - self.confidence) / count

    def _gaps(self) -> list[tuple[float, float, float]]:
        """Accuracy after one step minus that after many, with the ends of its interval, for each checkpoint."""
        found, inputs = [], self.fgsm.shape[1]
        for one, many in zip(self.fgsm.cpu(), self.attacked.cpu(), strict=True):
            more, less = discordant(one, many)
            found.append(((more - less) / inputs, *paired_interval(more, less, inputs, self._each(len(self)))))
        return found
