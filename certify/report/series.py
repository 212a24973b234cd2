"""Curves as readers and scripts get them: accuracy at some radii as a table, and whole curves as data to draw."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from typing import Any, Literal

import torch

from bounds.sets.orders import Order
from bounds.statistics.proportions import clopper_pearson_interval
from certify.curves import AccuracyCurve, CertifiedAccuracyCurve, round_radii
from certify.report.figures import last_radius
from certify.report.words import in_input_units, in_levels, norm_name, percent, with_unit

Promised = Literal["proved", "probable", "attacked"]
PROMISED: tuple[Promised, ...] = ("proved", "probable", "attacked")  # in the order of legends
DIGITS = 7  # of the radii at which drawn curves step
PARTS = 10**5  # ends of intervals are whole numbers of these parts


@dataclass(frozen=True, eq=False, kw_only=True)
class Series:
    """A curve with its name and its colour, on axes of its norm and classifier.

    Attributes:
        name: in legends and tables.
        panel: the classifier, or kind of classifier, in words; curves of other panels bound neither.
        curve: certified or attacked accuracy.
        color: number of its colour, the same wherever its method or model stands.
        eight_bit: whether inputs are 8-bit images, so that radii are printed in their levels too.
        best: by radius, whether no other is better there; empty where nobody compares.
    """

    name: str
    panel: str
    curve: AccuracyCurve
    color: int = 0
    eight_bit: bool = False
    best: Mapping[float, bool] | None = None

    @property
    def promised(self) -> Promised:
        """The kind of its promise: it decides the dash, and on which side numbers are rounded."""
        if not isinstance(self.curve, CertifiedAccuracyCurve):
            return "attacked"
        return "probable" if self.curve.alpha > 0 else "proved"

    @property
    def promise(self) -> str:
        """The promise in words."""
        if self.promised == "attacked":
            return "at most: no attack found"
        return "at least: proved" if self.curve.alpha == 0 else f"at least: with probability {1 - self.curve.alpha:g}"


def accuracy_tables(series: Sequence[Series], confidence: float = 0.95) -> list[dict[str, Any]]:
    """Accuracy at round radii with exact intervals: a table per norm, in it a block of rows per classifier.

    Lower bounds are rounded down and upper bounds up, in percent.
    """
    tables = []
    for norm in sorted({one.curve.norm for one in series}):
        here = [one for one in series if one.curve.norm == norm]
        lower = [one.curve for one in here if one.promised != "attacked"]
        radii = round_radii(lower or [one.curve for one in here])
        levels = in_input_units(norm) and all(one.eight_bit for one in here)
        tables.append(
            {
                "norm": norm_name(norm),
                "radii": [(f"{r:g}", in_levels(r, up=False) if levels and r > 0 else "") for r in radii],
                "blocks": [
                    (panel, [_line(one, radii, confidence) for one in here if one.panel == panel])
                    for panel in dict.fromkeys(one.panel for one in here)
                ],
            }
        )
    return tables


def _line(one: Series, radii: Sequence[float], confidence: float) -> dict[str, Any]:
    lower, upper = (ends.tolist() for ends in one.curve.interval(radii, confidence))
    up, best = one.promised == "attacked", one.best or {}
    cells = [
        (percent(share, up), f"{percent(lower[i])}\u2013{percent(upper[i], up=True)}", best.get(radii[i], False))
        for i, share in enumerate(one.curve.at(radii).tolist())
    ]
    return {"name": one.name, "promise": one.promise, "promised": one.promised, "color": one.color, "cells": cells}


def charts(series: Sequence[Series], clean: Mapping[str, float] | None = None) -> list[dict[str, Any]]:
    """Whole curves for a script: axes per norm and classifier, with the radii at which each curve steps.

    Args:
        series: in the order of legends.
        clean: by panel, clean accuracy, drawn as a thin line.
    """
    panels: dict[tuple[Order, str], list[Series]] = {}
    for one in sorted(series, key=lambda one: one.curve.norm):
        panels.setdefault((one.curve.norm, one.panel), []).append(one)
    return [
        {
            "norm": norm_name(norm),
            "axis": with_unit(norm).replace(", in ", ", "),
            "panel": panel,
            "right": _right([one.curve for one in here]),
            "end": max(last_radius(one.curve) for one in here),
            "levels": in_input_units(norm) and all(one.eight_bit for one in here),
            "clean": (clean or {}).get(panel),
            "curves": [
                {"name": one.name, "promise": one.promise, "promised": one.promised, "color": one.color}
                | {"inputs": len(one.curve.limit), "limits": limits(one.curve)}
                for one in here
            ],
        }
        for (norm, panel), here in panels.items()
    ]


def limits(curve: AccuracyCurve) -> list[float]:
    """Sorted limits of the inputs that ever count, with few digits.

    They are rounded to the safe side, in the shortest decimals of a float. So curves drawn from them have the exact
    counts at every radius of as many digits.
    """
    up = not isinstance(curve, CertifiedAccuracyCurve)
    context = Context(prec=DIGITS, rounding=ROUND_CEILING if up else ROUND_FLOOR)
    counted = curve.limit[curve.limit > 0 if up else curve.limit >= 0].sort().values.tolist()
    return [float(context.create_decimal(repr(limit))) if limit < math.inf else limit for limit in counted]


def interval_ends(series: Sequence[Series], confidence: float = 0.95) -> dict[int, list[int]]:
    """Lower ends of exact intervals by number of inputs, for every count, in parts of 100,000 and rounded down.

    The upper end of a count is 1 minus the lower end of all other inputs.
    """
    found = {}
    for count in sorted({len(one.curve.limit) for one in series}):
        lower, _ = clopper_pearson_interval(torch.arange(count + 1), count, confidence=confidence)
        found[count] = (lower * PARTS).floor().long().tolist()
    return found


def _right(curves: Sequence[AccuracyCurve]) -> float:
    """The end of the axis at first: certified curves, which may be short, take a third of it at least."""
    longest = max(map(last_radius, curves))
    certified = max((last_radius(one) for one in curves if isinstance(one, CertifiedAccuracyCurve)), default=0.0)
    return 1.04 * (min(longest, 3 * certified) if certified > 0 else longest) or 1.0
