"""Figures of an evaluation: curves as SVG, inputs as small pictures."""

import base64
import hashlib
import html
import io
import math
import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from bounds.errors import InvalidInput
from bounds.sets.orders import Order
from certify.curves import AccuracyCurve, CertifiedAccuracyCurve
from certify.report.words import norm_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Cool colours for lower bounds, warm ones for upper bounds, the first of each side those of Okabe and Ito, told apart
# with every common form of colour blindness. All have a contrast of 3 at least on white and on a dark page.
COOL = ("#0072b2", "#009e73", "#8464c6", "#0e8ba8", "#5f8f1f", "#6f6fdb")
WARM = ("#d55e00", "#c2649a", "#b8790b", "#d6455d", "#a8643c", "#bf5fbf")
# In print without colours, markers tell lower bounds apart, dashes and markers upper bounds.
MARKERS = ("o", "s", "^", "v", "D", "P", "X")  # filled, and then hollow
SOLID: tuple[Any, ...] = ("-",)
DASHES: tuple[Any, ...] = ((0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)))
# A page that sets these properties gives a figure its inks; elsewhere it has those that stand here.
INK, FAINT, PAPER = "#30363d", "#d8dee4", "#ffffff"
INKS = {INK: "--figure-ink", FAINT: "--figure-faint", PAPER: "--figure-paper"}
GREY = "#8b949e"
CLEAN = "clean accuracy (base)"
STEPS = 500  # steps of a drawn curve, at most
SHORT = 0.12  # share of the axis below which a certified curve is drawn once more, enlarged
INSET = (0.56, 0.50, 0.42, 0.44)  # left, bottom, width, height, in shares of the panel
PIXELS = 224  # side of a picture, at most
FACTORS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # by which the picture of a perturbation may be amplified

_Key = tuple[bool, str, str, int]  # whether an upper bound, subject, method, which of several that share all these
_Style = dict[str, Any]


class _Drawn(NamedTuple):
    """A curve with what tells it from the others."""

    curve: AccuracyCurve
    key: _Key

    @property
    def label(self) -> str:
        return curve_label(self.curve) + (f" [{self.key[3] + 1}]" if self.key[3] else "")


def curve_figure(curves: Sequence[AccuracyCurve], clean_accuracy: float | None = None) -> "Figure":
    """Accuracy against radius: one panel per norm, every curve with its exact 95% band.

    Solid curves are lower bounds (certified), dashed ones upper bounds (no adversarial example found). A
    method has one colour, dash and marker in all panels. Curves of different classifiers, as the legend names them,
    do not bound each other.

    Args:
        curves: certified and attacked accuracy, in any order and any number of norms, at least one.
        clean_accuracy: accuracy of the model itself on the clean inputs, drawn as a thin line.

    Returns:
        A figure of its own, known to no figure manager; ``savefig`` writes it.

    Raises:
        InvalidInput: no curve.
    """
    if not curves:
        raise InvalidInput("curves must hold at least one curve, got none: estimates and unsupported methods have none")
    drawn = _drawn(curves)
    return _figure(drawn, clean_accuracy, _styles(drawn))


def norm_figures(curves: Sequence[AccuracyCurve], clean_accuracy: float | None = None) -> "dict[Order, Figure]":
    """Curves of :func:`curve_figure` as one figure per norm, with the same styles in all."""
    drawn = _drawn(curves)
    styles = _styles(drawn)
    return {
        norm: _figure([one for one in drawn if one.curve.norm == norm], clean_accuracy, styles)
        for norm in sorted({curve.norm for curve in curves})
    }


def panel_figures(
    curves: Sequence[AccuracyCurve], clean_accuracy: float | None, looks: Sequence[Mapping[str, Any]]
) -> "dict[tuple[Order, str], Figure]":
    """Curves as one figure per norm and classifier: curves of others bound neither.

    Args:
        curves: as in :func:`curve_figure`.
        clean_accuracy: of the model itself.
        looks: color and linestyle of each curve.
    """
    drawn = _drawn(curves)
    styles = _styles(drawn)
    for one, look in zip(drawn, looks, strict=True):
        hollow = styles[one.key]["markerfacecolor"] == PAPER
        styles[one.key] |= {**look, "markerfacecolor": PAPER if hollow else look["color"]}
    panels = sorted({(curve.norm, curve.subject) for curve in curves})
    return {
        (norm, subject): _figure(
            [one for one in drawn if (one.curve.norm, one.curve.subject) == (norm, subject)],
            clean_accuracy if subject == "base" else None,
            styles,
        )
        for norm, subject in panels
    }


def _figure(drawn: Sequence[_Drawn], clean_accuracy: float | None, styles: Mapping[_Key, _Style]) -> "Figure":
    from matplotlib.figure import Figure

    norms = sorted({one.curve.norm for one in drawn})
    labels = [*dict.fromkeys(one.label for one in sorted(drawn, key=_key)), CLEAN]
    texts = {label: textwrap.fill(label, 54 * len(norms)) for label in labels}
    lines = sum(text.count("\n") + 1 for text in texts.values())
    figure = Figure(figsize=(4.6 * len(norms), 3.1 + 0.17 * lines), layout="constrained", facecolor=PAPER)
    figure.set_label(f"Accuracy against radius in {', '.join(map(norm_name, norms))}")
    handles: dict[str, Any] = {}
    for ax, norm in zip(figure.subplots(1, len(norms), squeeze=False)[0], norms, strict=True):
        panel = sorted((one for one in drawn if one.curve.norm == norm), key=_key)
        _draw_panel(ax, panel, styles, clean_accuracy)
        handles |= {label: handle for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    entries = {texts[label]: handles[label] for label in labels if label in handles}
    legend = figure.legend(
        entries.values(), entries, loc="outside lower left", frameon=False, labelcolor=INK, handlelength=3
    )
    for text in legend.get_texts():
        text.set(fontsize=9.5, parse_math=False)  # names are not formulas
    return figure


def curve_label(curve: AccuracyCurve) -> str:
    """Promise of a curve, its method and its classifier, in words."""
    if not isinstance(curve, CertifiedAccuracyCurve):
        promise = "no attack found"
    else:
        promise = "certified, proved" if curve.alpha == 0 else "certified with probability"
    return f"{promise} ({curve.method}, {curve.subject})"


def _drawn(curves: Sequence[AccuracyCurve]) -> list[_Drawn]:
    """The curves with their keys; those of several evaluations are numbered, so that none hides another."""
    seen: Counter[tuple[Order, bool, str, str]] = Counter()
    drawn = []
    for curve in curves:
        about = (not isinstance(curve, CertifiedAccuracyCurve), curve.subject, curve.method)
        drawn.append(_Drawn(curve, (*about, seen[curve.norm, *about])))
        seen[curve.norm, *about] += 1
    return drawn


def _key(drawn: _Drawn) -> _Key:
    return drawn.key


def _styles(drawn: Sequence[_Drawn]) -> dict[_Key, _Style]:
    """A colour, dash and marker for each method and classifier, the same in all panels."""
    keys = sorted({one.key for one in drawn})
    styles = {}
    for upper, colors, dashes in ((False, COOL, SOLID), (True, WARM, DASHES)):
        for i, key in enumerate(key for key in keys if key[0] == upper):
            hollow = i // len(MARKERS) % 2 == 1
            styles[key] = {
                "color": colors[i % len(colors)],
                "linestyle": dashes[i % len(dashes)],
                "marker": MARKERS[i % len(MARKERS)],
                "markersize": 4.5,
                "markerfacecolor": PAPER if hollow else colors[i % len(colors)],
                "markevery": (0.03 + 0.02 * (i % len(MARKERS)), 0.2),  # in shares of the axes
            }
    return styles


def _draw_panel(
    ax: "Axes", drawn: Sequence[_Drawn], styles: Mapping[_Key, _Style], clean_accuracy: float | None
) -> None:
    right = 1.04 * max(last_radius(one.curve) for one in drawn) or 1.0
    for one in drawn:
        one.curve.plot(ax, label=one.label, style=styles[one.key], radii=step_radii(one.curve, right))
    if clean_accuracy is not None and math.isfinite(clean_accuracy):
        ax.axhline(clean_accuracy, color=GREY, lw=0.9, ls=(0, (6, 3)), label=CLEAN, zorder=1)
    title = textwrap.fill(norm_name(drawn[0].curve.norm), 44)
    ax.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK)
    plain_axes(ax, right)
    short = [last_radius(one.curve) for one in drawn if not one.key[0] and 0 < last_radius(one.curve) < SHORT * right]
    highest = max(float(one.curve.interval([INSET[0] * right])[1]) for one in drawn)
    if short and highest < INSET[1] - 0.1:  # curves fall, so the corner above them is free
        _draw_inset(ax, drawn, styles, 1.3 * max(short))


def _draw_inset(ax: "Axes", drawn: Sequence[_Drawn], styles: Mapping[_Key, _Style], right: float) -> None:
    inset = ax.inset_axes(INSET)
    for one in drawn:
        one.curve.plot(inset, style=styles[one.key], radii=step_radii(one.curve, right))
    plain_axes(inset, right)
    inset.set(xlabel="", ylabel="", yticks=[0, 0.5, 1])
    inset.set_title("enlarged: near 0", loc="left", fontsize=8.5, color=INK, pad=3)
    inset.locator_params(axis="x", nbins=4)
    inset.tick_params(labelsize=8)


def plain_axes(ax: "Axes", right: float) -> None:
    """Axes of accuracy from radius 0 to ``right``, with the inks of the page."""
    ax.set_xlim(0, right)
    ax.set_ylim(0, 1.01)
    ax.set_facecolor(PAPER)
    ax.yaxis.set_major_formatter("{x:.0%}")
    ax.grid(color=FAINT, linewidth=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(INK)
    ax.tick_params(colors=INK, labelsize=9.5)
    for text in (ax.xaxis.label, ax.yaxis.label):
        text.set(color=INK, fontsize=10.5)


def last_radius(curve: AccuracyCurve) -> float:
    """Largest finite limit, 0 if there is none."""
    finite = curve.limit[curve.limit.isfinite() & (curve.limit > 0)]
    return float(finite.max()) if len(finite) else 0.0


def step_radii(curve: AccuracyCurve, right: float) -> Tensor:
    """The radii where the curve steps, thinned out to ``STEPS``; it ends where it has reached 0."""
    limit = curve.limit.cpu()
    steps = limit[(limit > 0) & (limit < right)].unique()
    last = right if (limit >= right).any() else last_radius(curve) * (1 + 1e-9)
    ends = steps.new_tensor([0.0, last])
    return torch.cat([ends[:1], steps[:: math.ceil(len(steps) / STEPS) or 1], ends[1:]])


def svg(figure: "Figure", inks: Mapping[str, str] = INKS) -> str:
    """A figure as an ``<svg>`` element to stand inside a page.

    Equal figures give equal text. The element takes the width of its container; its inks follow the custom
    properties ``--figure-ink``, ``--figure-faint`` and ``--figure-paper`` where the page sets them; its ids
    begin with a digest of the drawing, so that several may share a page.

    Args:
        figure: of matplotlib.
        inks: the custom property of the page that replaces a colour, by the colour.
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    nothing: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.hashsalt": "certify", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    prefix = "f" + hashlib.sha256(text.encode()).hexdigest()[:8]
    view = re.search(r'viewBox="[^"]*"', text)
    body = text[text.index("</defs>") + len("</defs>") :]  # before it: prolog, root, a style for everything
    body = re.sub(r'(?<= id=")|(?<=url\(#)|(?<=href="#)', f"{prefix}-", body)
    for ink, name in inks.items():
        body = body.replace(f": {ink}", f": var({name}, {ink})")
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="100%" '
        f'{view[0] if view else ""} stroke-linejoin="round" role="img" '
        f'aria-label="{html.escape(str(figure.get_label()))}">{body.strip()}'
    )


def is_picture(x: Tensor) -> bool:
    """Whether one input can be shown: (H, W), (1, H, W) or (3, H, W)."""
    return x.numel() > 0 and (x.ndim == 2 or (x.ndim == 3 and x.shape[0] in (1, 3)))


def picture(x: Tensor, *, low: float = 0.0, high: float = 1.0, cmap: str = "gray") -> str:
    """One input as the data URI of a PNG; of sides beyond 224 pixels, only every second, third, ... is shown.

    Args:
        x: (H, W), (1, H, W) or (3, H, W).
        low: value shown as black, or as the first colour.
        high: value shown as white, or as the last colour.
        cmap: colours of inputs with one channel.
    """
    from matplotlib.image import imsave

    stride = math.ceil(max(x.shape[-2:]) / PIXELS)
    shown = ((x.detach().cpu().double()[..., ::stride, ::stride] - low) / ((high - low) or 1.0)).clamp(0, 1)
    array = shown.movedim(0, -1) if x.ndim == 3 and x.shape[0] == 3 else shown.reshape(shown.shape[-2:])
    buffer, nothing = io.BytesIO(), dict[str, Any](Software=None)
    imsave(buffer, array.numpy(), format="png", cmap=cmap, vmin=0, vmax=1, metadata=nothing)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def perturbation_picture(difference: Tensor, *, span: float) -> tuple[str, int]:
    """A perturbation as the data URI of a PNG, and the factor by which it is amplified.

    Zero is white (one channel; blue below, red above) or grey (three channels).

    Args:
        difference: adversarial minus clean input, shaped as in :func:`picture`.
        span: the difference between black and white in the pictures of the inputs.
    """
    largest = float(difference.abs().max())
    factor = max((factor for factor in FACTORS if factor * largest <= span / 2), default=1)
    return picture(factor * difference, low=-span / 2, high=span / 2, cmap="RdBu_r"), factor
