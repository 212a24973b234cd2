"""Pictures and curves of the page: they show the values, err on the safe side and say what they promise."""

import math
import re
import xml.etree.ElementTree as ElementTree
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import image as images
from oracles.pages import ATTACK, IBP, MANIFEST, RADII, SMOOTHED, SMOOTHING, Elements, attacked, page, pairs_of

from certify import AttackedAccuracyCurve, CertifiedAccuracyCurve, Evaluation
from certify.report import curve_figure, svg
from certify.report.figures import is_picture, norm_figures, perturbation_picture, picture


@pytest.mark.parametrize("shape", [(5, 7), (1, 5, 7), (3, 5, 7)])
def test_images_are_shown(shape: tuple[int, ...], tmp_path: Path):
    text = page(ATTACK, tensors=pairs_of(shape), tmp_path=tmp_path)
    assert len(Elements(text).named("img")) == 6 * 3
    assert "change \u00d7 20" in text


@pytest.mark.parametrize("shape", [(11,), (2, 5, 7), (1, 1, 5, 7)])
def test_other_inputs_have_no_pictures(shape: tuple[int, ...], tmp_path: Path):
    assert not is_picture(torch.zeros(shape))
    text = page(ATTACK, tensors=pairs_of(shape), tmp_path=tmp_path)
    assert "<img" not in text
    assert "Adversarial neighbours" not in text


def pixels(uri: str) -> np.ndarray:
    return images.imread(BytesIO(b64decode(uri.removeprefix("data:image/png;base64,"))))


def test_picture_shows_the_values():
    x = torch.tensor([[0.0, 0.25], [0.5, 2.0]])
    assert np.abs(pixels(picture(x))[..., 0] - [[0, 0.25], [0.5, 1]]).max() < 1 / 255
    color = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(2))
    assert np.abs(pixels(picture(color))[..., :3] - color.movedim(0, -1).numpy()).max() < 1 / 255
    assert pixels(picture(torch.zeros(500, 300))).shape[:2] == (167, 100)


def test_perturbation_is_amplified_as_stated():
    difference = torch.full((3, 5, 7), 0.004)
    shown, factor = perturbation_picture(difference, span=1.0)
    assert factor == 100
    assert np.abs(pixels(shown)[..., :3] - (0.5 + 0.4)).max() < 1 / 255
    assert perturbation_picture(torch.full((5, 7), 0.9), span=1.0)[1] == 1
    assert perturbation_picture(torch.zeros(5, 7), span=1.0)[1] == 1000


def curves() -> list[CertifiedAccuracyCurve | AttackedAccuracyCurve]:
    return Evaluation(MANIFEST, [IBP, SMOOTHING, ATTACK]).curves()


@pytest.mark.slow
def test_svg_is_xml_and_the_same_each_time():
    text = svg(curve_figure(curves(), 0.8))
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg")
    assert root.get("width") == "100%"
    assert root.get("height") is None
    assert "viewBox" in root.attrib
    assert text == svg(curve_figure(curves(), 0.8))
    assert not re.search(r"<date|<dc:|DOCTYPE|<\?xml", text)


def test_legend_says_what_each_curve_promises():
    (legend,) = curve_figure(curves(), 0.8).legends
    assert [text.get_text().replace("\n", " ") for text in legend.get_texts()] == [
        "certified, proved (ibp, base)",
        f"certified with probability (smoothing, {SMOOTHED})",
        "no attack found (attack, base)",
        "clean accuracy (base)",
    ]


def test_methods_keep_their_colour_and_style_in_all_panels():
    figure = curve_figure([*curves(), *Evaluation(MANIFEST, [attacked("2", RADII)]).curves()])
    assert [ax.get_xlabel() for ax in figure.axes] == ["radius (l2, input units)", "radius (l∞, input units)"]
    styles = [{line.get_label(): (line.get_color(), line.get_linestyle()) for line in ax.lines} for ax in figure.axes]
    assert styles[0]["no attack found (attack, base)"] == styles[1]["no attack found (attack, base)"]
    assert {style for _, style in (styles[0] | styles[1]).values()} == {"-", "--"}
    alone = norm_figures(curves())
    assert [line.get_color() for line in alone[math.inf].axes[0].lines] == [
        styles[1]["certified, proved (ibp, base)"][0],
        styles[1]["no attack found (attack, base)"][0],
    ]


def test_drawn_curves_err_on_the_safe_side():
    limit = torch.rand(5000, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for kind, side in ((CertifiedAccuracyCurve, 1), (AttackedAccuracyCurve, -1)):
        curve = kind(limit=limit, norm=2.0, subject="base", method="m")
        (line,) = curve_figure([curve]).axes[0].lines
        x, y = line.get_path().vertices.T
        assert len(x) < 1100
        between = np.diff(x) > 0
        middle = torch.tensor(((x[1:] + x[:-1]) / 2)[between])
        exact = curve.at(middle).numpy()
        assert (side * (exact - y[1:][between]) >= 0).all()
        assert np.abs(exact - y[1:][between]).max() < 0.01


@pytest.mark.parametrize("limit", [[-math.inf] * 3, [math.inf] * 3, [0.0, -math.inf, 0.0]])
def test_curves_without_a_finite_limit_are_drawn(limit: list[float]):
    curve = CertifiedAccuracyCurve(limit=torch.tensor(limit, dtype=torch.float64), norm=2, subject="base", method="m")
    ElementTree.fromstring(svg(curve_figure([curve], 0.0)))
