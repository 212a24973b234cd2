"""Figures of a comparison: a dozen models and three promises are told apart, in colour and in grey, and named."""

from itertools import combinations

import pytest
from matplotlib.colors import to_rgb
from oracles.compared import NOT, attacked, evaluation, proved, smoothed

from certify import Comparison, compare
from certify.comparison.contenders import PROMISES
from certify.comparison.styles import COLORS, DASHES, MARKERS, looks

WIDE = "smoothed(gaussian(sigma=0.5))"


def luminance(color: str) -> float:
    """The relative luminance of WCAG 2."""
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(color)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def lightness(color: str) -> float:
    """CIE L*, in which equal steps look equal."""
    return 116 * luminance(color) ** (1 / 3) - 16


def compared(models: int, *more: dict) -> Comparison:
    radii = [0.1 * (i + 1) for i in range(12)]
    return compare(
        {
            f"model {i:02}": evaluation(proved([r / (i + 1) for r in radii]), attacked([2 * r for r in radii]), *more)
            for i in range(models)
        }
    )


def test_grey_print_tells_a_dozen_models_apart():
    """By lightness alone, and by marker as well."""
    greys = [lightness(color) for color in COLORS]
    assert min(abs(a - b) for a, b in combinations(greys, 2)) > 4
    assert min(abs(a - b) for a, b in combinations(greys[:6], 2)) > 8
    assert len(set(MARKERS)) == len(COLORS) == 12
    assert all(1.05 / (luminance(color) + 0.05) >= 3 for color in COLORS)
    found = [
        tuple(sorted((key, str(value)) for key, value in look.items()))
        for look in looks([str(i) for i in range(24)]).values()
    ]
    assert len(set(found)) == 24


@pytest.mark.slow
def test_curves_of_a_dozen_models_have_as_many_looks():
    figure = compared(12).plot()
    (axes,) = figure.axes
    lines = [line for line in axes.lines if line.get_label().startswith("model")]
    found = {(line.get_color(), line.get_marker(), str(line._unscaled_dash_pattern)) for line in lines}
    assert len(lines) == len(found) == 24
    in_grey = {(line.get_marker(), str(line._unscaled_dash_pattern)) for line in lines}
    assert len(in_grey) == 24
    assert len(axes.collections) == 0  # bands of two dozen curves would hide them


def test_a_model_has_one_colour_and_a_promise_one_dash():
    figure = compared(2, smoothed([0.2] * 6 + [0.4] * 6)).plot()
    looks_of: dict[str, set] = {}
    for axes in figure.axes:
        for line in axes.lines:
            looks_of.setdefault(line.get_label(), set()).add((line.get_color(), line.get_marker()))
    assert {name: len(found) for name, found in looks_of.items()} == {"model 00": 1, "model 01": 1}
    dashes = [{str(line._unscaled_dash_pattern) for line in axes.lines} for axes in figure.axes]
    assert [len(found) for found in dashes] == [2, 1]
    assert not dashes[0] & dashes[1]
    assert len({str(dash) for dash in DASHES.values()}) == len(PROMISES)


def test_panels_axes_and_legend_say_what_is_drawn():
    figure = compared(2, smoothed([0.2] * 6 + [0.4] * 6)).plot()
    assert [axes.get_title("left") for axes in figure.axes] == [
        "l2, the models themselves",
        "l2, smoothed classifiers\ngaussian(sigma=0.25)",
    ]
    assert {axes.get_xlabel() for axes in figure.axes} == {"radius (l2, input units)"}
    assert {axes.get_ylabel() for axes in figure.axes} == {"accuracy"}
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "model 00",
        "model 01",
        "certified: proved",
        "certified: with high probability",
        "no adversarial example found (upper bound)",
    ]


@pytest.mark.slow
def test_the_legend_lies_outside_of_the_data():
    figure = compared(6).plot()
    figure.draw_without_rendering()
    (legend,), (axes,) = figure.legends, figure.axes
    below, above = legend.get_window_extent(), axes.get_window_extent()
    assert below.y1 <= above.y0
    assert figure.bbox.x0 <= below.x0 < below.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= below.y0


def test_settings_of_one_model_are_curves_of_their_own():
    """Two sigmas had one colour."""
    more = [smoothed([0.2] * 12), smoothed([0.5] * 12, method="wide", subject=WIDE)]
    figure = compared(2, *more).plot()
    labels = {line.get_label(): line.get_color() for line in figure.axes[1].lines}
    assert list(labels) == [f"model {i:02}, gaussian(sigma={sigma})" for i in (0, 1) for sigma in (0.25, 0.5)]
    assert len(set(labels.values())) == 4


def test_a_model_looks_alike_in_all_figures():
    radii = [0.1 * (i + 1) for i in range(12)]
    part = evaluation(proved(radii), attacked(radii), smoothed(radii))
    found = compare({"a": evaluation(attacked(radii)), "b": part, "c": part})
    curves = {line.get_label(): line.get_color() for axes in found.plot().axes for line in axes.lines}
    for figure in found.plot_trade_off(0.3):
        handles = zip(figure.legends[0].legend_handles, figure.legends[0].get_texts(), strict=True)
        colors = {text.get_text(): handle.get_color() for handle, text in handles if text.get_text() in curves}
        assert colors == {"b": curves["b"], "c": curves["c"]}


def test_short_proofs_are_not_squeezed_by_far_attacks():
    a, b = (evaluation(proved([0.01 * i] * 12), attacked([5.0] * 12)) for i in (1, 2))
    (axes,) = compare({"a": a, "b": b}).plot().axes
    assert axes.get_xlim()[1] < 0.1


@pytest.mark.slow
def test_models_that_certify_nothing_can_be_drawn():
    nothing = evaluation(proved([NOT] * 6), attacked([0.0] * 6))
    found = compare({"a": nothing, "b": evaluation(proved([0.0] * 6), attacked([0.2] * 6))})
    for figure in found.figures().values():
        figure.draw_without_rendering()
