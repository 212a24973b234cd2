"""Curves are told apart: by colour on a screen, by dash and marker in grey print, and none hides another."""

import itertools
import math
import re

import pytest
import torch
from matplotlib.colors import to_rgb

from bounds import InvalidInput
from certify import AttackedAccuracyCurve, CertifiedAccuracyCurve
from certify.curves import AccuracyCurve
from certify.report import curve_figure
from certify.report.embedding import part
from certify.report.figures import COOL, WARM, norm_figures
from certify.report.palette import COLORS

PAGES = ("#ffffff", "#14171b")  # light and dark


def curve(kind: type[AccuracyCurve], method: str, norm: float = 2.0, subject: str = "base") -> AccuracyCurve:
    limit = torch.rand(20, generator=torch.Generator().manual_seed(len(method)), dtype=torch.float64)
    return kind(limit=limit, norm=norm, subject=subject, method=method)


def styles(figure: object, norm_panel: int = 0) -> dict[str, tuple]:
    """Colour, dash and marker of every line with a name."""
    return {
        line.get_label(): (line.get_color(), line._unscaled_dash_pattern, line.get_marker(), line.get_markerfacecolor())
        for line in figure.axes[norm_panel].lines
        if line.get_label() and not line.get_label().startswith(("_", "clean"))
    }


def luminance(color: str) -> float:
    """The relative luminance of WCAG 2."""
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(color)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


@pytest.mark.parametrize("color", [*COOL, *WARM])
def test_colours_stand_out_from_light_and_dark_pages(color: str):
    for page in PAGES:
        darker, lighter = sorted((luminance(color), luminance(page)))
        assert (lighter + 0.05) / (darker + 0.05) >= 3


@pytest.mark.parametrize("kind", [CertifiedAccuracyCurve, AttackedAccuracyCurve])
@pytest.mark.slow
def test_a_dozen_curves_have_as_many_styles_without_colours_too(kind: type[AccuracyCurve]):
    """After three, colours began again."""
    found = styles(curve_figure([curve(kind, f"method {i:02}") for i in range(12)]))
    assert len(found) == len(set(found.values())) == 12
    grey = {(str(dash), marker, face == "#ffffff") for _, dash, marker, face in found.values()}
    assert len(grey) == 12
    solid = all(dash == (0, None) for _, dash, _, _ in found.values())
    assert solid == (kind is CertifiedAccuracyCurve)


def test_methods_that_people_compare_look_different():
    smoothed = "smoothed(gaussian(sigma=0.25))"
    curves = [curve(CertifiedAccuracyCurve, method) for method in ("ibp", "crown_ibp", "crown", "alpha_crown")]
    curves += [curve(CertifiedAccuracyCurve, "smoothing", subject=smoothed), curve(AttackedAccuracyCurve, "attack")]
    found = styles(curve_figure(curves))
    assert len({color for color, *_ in found.values()}) == 6
    assert styles(norm_figures(curves)[2.0]) == found
    with_more = styles(curve_figure([*curves, curve(CertifiedAccuracyCurve, "ibp", math.inf)]), norm_panel=1)
    assert with_more["certified, proved (ibp, base)"] == found["certified, proved (ibp, base)"]


def test_curves_of_two_models_do_not_merge():
    """Curves of one method had one style and one name."""
    found = styles(curve_figure([curve(CertifiedAccuracyCurve, "ibp"), curve(CertifiedAccuracyCurve, "ibp")]))
    assert list(found) == ["certified, proved (ibp, base)", "certified, proved (ibp, base) [2]"]
    assert len(set(found.values())) == 2


def test_no_curve_is_no_figure():
    assert norm_figures([]) == {}
    with pytest.raises(InvalidInput, match="curves must hold at least one curve, got none"):
        curve_figure([])


def palettes() -> list[list[str]]:
    """Colours of curves in the style sheet of the page, for light and dark."""
    light, dark = part("styles", "page.css").split("@media screen and (prefers-color-scheme: dark)", maxsplit=1)
    return [re.findall(r"--curve-\d+: (#\w{6})", text) for text in (light, dark)]


def test_the_page_has_two_palettes_that_stand_out_and_differ_in_grey():
    """Lightness is that of CIE, by which grey print goes."""
    assert palettes()[0] == list(COLORS)  # figures are drawn in these
    for colors, page in zip(palettes(), PAGES, strict=True):
        assert len(set(colors)) == 12
        ratios = [sorted((luminance(color) + 0.05, luminance(page) + 0.05)) for color in colors]
        assert min(lighter / darker for darker, lighter in ratios) >= 3
        lightness = sorted(116 * luminance(color) ** (1 / 3) - 16 for color in colors)
        assert min(b - a for a, b in itertools.pairwise(lightness)) > 2.5
