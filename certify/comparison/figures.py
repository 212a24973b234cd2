"""Figures of a comparison: curves of all models, and clean against certified accuracy."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from certify.comparison.contenders import Contender, Panel
from certify.comparison.styles import DASHES, looks
from certify.comparison.trade_off import TradeOff
from certify.report import norm_name
from certify.report.figures import INK, PAPER, last_radius, plain_axes, step_radii

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WORDS = {
    "proved": "certified: proved",
    "with probability": "certified: with high probability",
    "no attack found": "no adversarial example found (upper bound)",
}
BANDS = 4  # curves of a panel, at most, that are drawn with their bands
FRONT: dict[str, Any] = {"color": INK, "linewidth": 1, "linestyle": (0, (4, 3)), "zorder": 1}
WIDE = 54  # signs of a line in the legend


class Names:
    """Names and looks of the curves of one norm, the same in all of its figures.

    Where all models of a panel share their setting, its title has it, and the name of the model is enough.
    """

    def __init__(self, contenders: Sequence[Contender]) -> None:
        settings: dict[Panel, set[str]] = {}
        for one in contenders:
            settings.setdefault(one.panel, set()).add(one.setting)
        self._shared = {panel: next(iter(each)) for panel, each in settings.items() if len(each) == 1}
        self.styles = looks(self.of(contenders))

    def of(self, contenders: Sequence[Contender]) -> list[str]:
        """The name of each, without repetitions."""
        return list(dict.fromkeys(map(self.name, contenders)))

    def name(self, one: Contender) -> str:
        """The name of its curve."""
        return one.model if one.panel in self._shared else one.name

    def panel(self, panel: Panel) -> str:
        """The compared classifiers, with the setting that all models share."""
        return ", ".join(filter(None, [panel.classifiers, self._shared.get(panel)]))

    def title(self, ax: "Axes", panel: Panel) -> None:
        """Write the panel and the setting that its models share above the axes."""
        setting = self._shared.get(panel)
        words = f"{panel}\n{textwrap.fill(setting, WIDE)}" if setting else str(panel)
        ax.set_title(words, loc="left", fontsize=10.5, fontweight="bold", color=INK, parse_math=False)


def curves_figure(contenders: Sequence[Contender], confidence: float) -> "Figure":
    """Accuracy against radius in one norm: a panel for the models themselves, below it one for smoothed classifiers."""
    from matplotlib.lines import Line2D

    panels = sorted({one.panel for one in contenders})
    names = Names(contenders)
    promises = [promise for promise in DASHES if any(one.promise == promise for one in contenders)]
    entries = len(names.styles) + len(promises)
    figure = _empty(len(panels), entries, f"Accuracy against radius in {norm_name(panels[0].norm)}")
    for ax, panel in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        _draw(ax, [one for one in contenders if one.panel == panel], names, confidence)
        names.title(ax, panel)
    dashes = [Line2D([], [], color=INK, linestyle=DASHES[promise]) for promise in promises]
    models = [Line2D([], [], **{**style, "markevery": None}) for style in names.styles.values()]
    _legend(figure, [*models, *dashes], [*names.styles, *(WORDS[promise] for promise in promises)])
    return figure


def trade_off_figure(rivals: Sequence[Contender], found: TradeOff, radius: float, names: Names) -> "Figure":
    """Certified against clean accuracy of each model, with its region; a line joins those that none surpasses.

    Args:
        rivals: of one panel and promise.
        found: their trade-off.
        radius: of the certified accuracy.
        names: of all curves of the norm.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    panel, norm = rivals[0].panel, norm_name(rivals[0].panel.norm)
    styles = {name: {**names.styles[name], "linestyle": "none", "markevery": None} for name in names.of(rivals)}
    figure = _empty(1, len(styles) + 2, f"Clean and certified accuracy in {norm}")
    ax = figure.subplots()
    outlines = found.outlines.clip(0, 1)
    for style, x, y, outline in zip(styles.values(), found.clean, found.certified, outlines, strict=True):
        ax.fill(*outline.T, color=style["color"], alpha=0.15, linewidth=0)
        ax.plot(*outline.T, color=style["color"], alpha=0.6, linewidth=1)  # seen where a region is flat
        ax.plot([x], [y], zorder=3, **{**style, "markersize": 8})
    front = sorted(zip(found.clean[found.on_front], found.certified[found.on_front], strict=True))
    ax.plot(*zip(*front, strict=True), **FRONT)
    plain_axes(ax, 1)
    for limits, ends in ((ax.set_xlim, outlines[..., 0]), (ax.set_ylim, outlines[..., 1])):
        room = 0.06 * max(float(ends.max() - ends.min()), 0.05)
        limits(float(ends.min()) - room, float(ends.max()) + room)
    ax.xaxis.set_major_formatter("{x:.0%}")
    ax.set_xlabel("clean accuracy", color=INK, fontsize=10.5)
    where = textwrap.fill(f"at radius {radius:g} ({norm})", 36)
    ax.set_ylabel(f"certified accuracy\n{where}", color=INK, fontsize=10.5)
    names.title(ax, panel)
    handles = [Line2D([], [], **style) for style in styles.values()]
    more = [Line2D([], [], **FRONT), Patch(color=INK, alpha=0.15, linewidth=0)]
    said = ["joins models that no other surpasses in both", f"{found.confidence:.0%} bootstrap region"]
    _legend(figure, [*handles, *more], [*styles, *said])
    return figure


def _draw(ax: "Axes", contenders: Sequence[Contender], names: Names, confidence: float) -> None:
    right, band = _right(contenders), len(contenders) <= BANDS
    for one in contenders:
        (name,) = names.of([one])
        style = {**names.styles[name], "linestyle": DASHES[one.promise], "linewidth": 1.6}
        radii = step_radii(one.curve, right)
        one.curve.plot(ax, label=name, style=style, radii=radii, confidence=confidence, band=band)
    plain_axes(ax, right)


def _right(contenders: Sequence[Contender]) -> float:
    """The end of the axis: certified curves, which may be short, take a third of it at least."""
    ends = [last_radius(one.curve) for one in contenders]
    certified = max((last_radius(one.curve) for one in contenders if one.bounds_below), default=0.0)
    return 1.04 * (min(max(ends), 3 * certified) if certified > 0 else max(ends)) or 1.0


def _empty(panels: int, entries: int, label: str) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 2.9 * panels + 0.2 * entries + 0.3), layout="constrained", facecolor=PAPER)
    figure.set_label(label)
    return figure


def _legend(figure: "Figure", handles: Sequence[Any], names: Sequence[str]) -> None:
    texts = [textwrap.fill(name, WIDE) for name in names]
    legend = figure.legend(handles, texts, loc="outside lower left", frameon=False, labelcolor=INK, handlelength=3.4)
    for text in legend.get_texts():
        text.set(fontsize=9.5, parse_math=False)  # names are not formulas
