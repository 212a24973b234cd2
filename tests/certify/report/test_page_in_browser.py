"""The page as an instrument: by pointer and by keyboard, against the curves and rows that it was made from."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
from oracles.browser import opened
from oracles.busy_page import BUSY, BUSY_COUNT, CLASSES

from certify.curves import CertifiedAccuracyCurve
from certify.report.words import panel_name

pytestmark = [pytest.mark.slow, pytest.mark.browser]

ROWS = "table.inputs >> nth=0 >> tbody tr"


def curve_of(panel: str, norm: float, name: str) -> Any:
    (curve,) = [
        curve for curve in BUSY.curves() if (panel_name(curve.subject), curve.norm, curve.method) == (panel, norm, name)
    ]
    return curve


CHARTS = [("the model itself", 2.0, "ibp"), ("the model itself", 2.0, "attack"), ("the model itself", math.inf, "ibp")]
CHARTS += [("smoothed by gaussian(sigma=0.25)", 2.0, "smoothing")]


def chart_of(page: Any, panel: str, norm: float) -> Any:
    name = "l∞" if norm == math.inf else f"l{norm:g}"
    return page.locator(".chart", has=page.get_by_label(f"radius in {name}, {panel}", exact=True))


def radius_at(chart: Any) -> float:
    return float(re.search(r"radius ([\d.e-]+)", chart.locator("output").inner_text())[1])


# Curves


@pytest.mark.parametrize(("panel", "norm", "name"), CHARTS)
def test_crosshair_reads_exact_counts_by_keyboard_and_pointer(
    browser: Any, path: Path, panel: str, norm: float, name: str
):
    """Some radii of the slider are those of steps, so an attacked curve that counted ``>=`` is seen."""
    curve = curve_of(panel, norm, name)
    steps = curve.limit[curve.limit.isfinite() & (curve.limit > 0)].unique().tolist()
    with opened(browser, path) as page:
        chart = chart_of(page, panel, norm)
        slider, row = chart.locator("input[type=range]"), chart.locator("tr", has_text=name)
        slider.focus()
        plot = chart.locator("svg.plot")
        slider.fill("1")
        step, met = radius_at(chart), 0
        for move in [*["Home"] + ["ArrowRight"] * 12, "PageUp", (300, 100), (211, 50), *steps[:4]]:
            if isinstance(move, str):
                slider.press(move)
            elif isinstance(move, tuple):
                plot.hover(position={"x": move[0], "y": move[1]})
            else:
                slider.fill(str(round(move / step)))
            radius = radius_at(chart)
            met += radius in steps
            share, interval = row.locator("td span").inner_text(), row.locator("td small").inner_text()
            upper = not isinstance(curve, CertifiedAccuracyCurve)
            tenths = 1000 * int(curve.counts(radius)) / BUSY_COUNT
            assert share == f"{'≤' if upper else '≥'} {(math.ceil if upper else math.floor)(tenths) / 10:.1f}"
            low, high = (float(end) for end in interval.split("\u2013"))
            exact = [100 * float(end) for end in curve.interval(radius)]
            assert exact[0] - 0.11 < low <= exact[0]
            assert exact[1] <= high < exact[1] + 0.11
            assert f"{name} at {'most' if upper else 'least'}" in slider.get_attribute("aria-valuetext")
    assert met >= 4


@pytest.mark.parametrize(("panel", "norm", "name"), CHARTS)
def test_drawn_steps_are_those_of_the_curve(browser: Any, path: Path, panel: str, norm: float, name: str):
    """The path and its band, read back from the figure: exact between any two steps, down to 0 and up to the edge."""
    curve = curve_of(panel, norm, name)
    with opened(browser, path) as page:
        chart = chart_of(page, panel, norm)
        place = chart.locator("tr label").all_inner_texts().index(name)
        group = chart.locator(f"[data-curve='{place}']")
        right = float(chart.evaluate("place => report.data.charts[place.dataset.chart].right"))
        width = float(chart.locator("svg.plot").evaluate("plot => plot.clientWidth"))
        line, band = (group.locator(f"path.{kind}").get_attribute("d") for kind in ("curve", "band"))
    level = (320 - 14 - 42) / 100
    x, y, pieces = 0.0, 0.0, []
    for letter, first, second in re.findall(r"([MVH])([\d.]+)(?: ([\d.]+))?", line):
        if letter == "H":
            start, x = x, (float(first) - 46) / (width - 60) * right
            pieces.append((start, x, y))
        else:
            y = 100 - (float(second or first) - 14) / level
    wide = [(start, end, share) for start, end, share in pieces if end - start > 2 * right / width]
    assert len(wide) > 5
    for start, end, share in wide:
        assert abs(100 * float(curve.at((start + end) / 2)) - share) < 0.01
    assert pieces[-1][1] == pytest.approx(right)
    tops = [100 - (float(each) - 14) / level for each in re.findall(r"V([\d.]+)H", band.split("Z")[0])]
    assert tops[len(pieces) - 1] == pytest.approx(100 * float(curve.interval(right)[1]), abs=0.01)  # kept where it is 0


def test_legend_hides_and_shows_curves(browser: Any, path: Path):
    with opened(browser, path) as page:
        chart = chart_of(page, "the model itself", 2.0)
        assert chart.locator("path.curve.attacked").count() == 2  # in the figure and in the legend
        chart.get_by_role("checkbox", name="attack").press("Space")
        assert chart.locator("svg.plot path.curve").count() == 1
        assert chart.locator("svg.plot path.attacked").count() == 0
        chart.get_by_role("checkbox", name="attack").click()
        assert chart.locator("svg.plot path.attacked").count() == 1


def test_smoothed_curves_stand_on_axes_of_their_own(browser: Any, path: Path):
    with opened(browser, path) as page:
        heads = page.locator(".chart figcaption").all_inner_texts()
    assert [" ".join(head.split()) for head in heads] == [
        "l2 the model itself",
        "l2 smoothed by gaussian(sigma=0.25)",
        "l∞ the model itself",
    ]


def test_figures_without_scripts_and_in_print_are_static(browser: Any, path: Path):
    with opened(browser, path) as page:
        assert page.locator(".chart svg.plot").first.is_visible()
        assert not page.locator(".static svg").first.is_visible()
        page.emulate_media(media="print")
        assert not page.locator(".chart svg.plot").first.is_visible()
        assert page.locator(".static svg").count() == page.locator(".static svg >> visible=true").count() == 3
    with opened(browser, path, java_script_enabled=False) as page:
        assert page.locator(".static svg").first.is_visible()
        assert page.locator(ROWS).count() == BUSY_COUNT


# Tables


def shown(page: Any) -> list[int]:
    return [int(text) for text in page.locator(ROWS).locator("th").all_inner_texts()]


def rows_of(method: str, norm: float = 2.0) -> dict[int, dict]:
    return {row["index"]: row for row in BUSY.rows() if (row["method"], row["norm"]) == (method, norm)}


def test_headings_sort_all_tables_both_ways(browser: Any, path: Path):
    rows = rows_of("ibp")
    silent = [i for i, row in rows.items() if row["status"] == "misclassified"]
    spoken = [i for i in rows if i not in silent]
    with opened(browser, path) as page:
        button = page.locator("table.inputs >> nth=0").get_by_role("button", name="certified radius").first
        button.click()
        ordered = sorted(spoken, key=lambda i: (rows[i]["certified_radius"], i))
        assert shown(page) == (ordered + silent)[:50]
        button.press("Enter")
        ordered = sorted(spoken, key=lambda i: (-rows[i]["certified_radius"], i))
        assert shown(page) == (ordered + silent)[:50]
        heading = page.locator("[aria-sort]")
        assert (heading.count(), heading.get_attribute("aria-sort")) == (1, "descending")
        page.get_by_role("button", name="Next rows").click()
        page.get_by_role("button", name="Next rows").click()
        assert shown(page) == (ordered + silent)[100:]
        assert page.get_by_role("button", name="Next rows").is_disabled()
        other = page.locator("table.inputs >> nth=1 >> tbody tr").locator("th").all_inner_texts()
        assert [int(text) for text in other] == shown(page)


def said(index: int) -> str:
    """Classes and statuses of an input, in all norms."""
    rows = [row for row in BUSY.rows() if row["index"] == index]
    numbers = {row[name] for row in rows for name in ("label", "base_prediction")}
    numbers |= {row["prediction"] for row in rows if row["status"] == "misclassified"}
    numbers |= {row["adversarial_label"] for row in rows if row["status"] == "found"}
    return " ".join([*(CLASSES[number] for number in numbers), *(row["status"] for row in rows)])


@pytest.mark.parametrize(
    ("control", "value", "kept"),
    [
        ("find", "#17", lambda i, row: i == 17),
        ("find", "DOG not found", lambda i, row: "dog" in said(i) and "not found" in said(i)),
        ("find", "owl</b>", lambda i, row: "<b>owl" in said(i)),
        ("find", "no such word", lambda i, row: False),
        ("prediction", "wrong", lambda i, row: row["label"] != row["base_prediction"]),
        ("prediction", "right", lambda i, row: row["label"] == row["base_prediction"]),
        ("status", "0 1 abstained", lambda i, row: i == 5),
        ("status", "0 2 not-found", lambda i, row: rows_of("attack")[i]["status"] == "not found"),
        ("group", "=b", lambda i, row: i % 2 == 1),
    ],
)
def test_filters_keep_what_they_say(browser: Any, path: Path, control: str, value: str, kept: Any):
    expected = [i for i, row in rows_of("ibp").items() if kept(i, row)]
    with opened(browser, path) as page:
        field = page.locator(".filters").get_by_label(control)
        if control == "find":
            field.press_sequentially(value)
        else:
            field.select_option(value)
        assert shown(page) == expected[:50]
        said = page.locator(".filters output").inner_text()
        first = f"1\u2013{len(expected[:50])} of {len(expected)}" if expected else "none"
        assert said == f"{first} ({BUSY_COUNT} in all)"
        field.fill("") if control == "find" else field.select_option("")
        assert shown(page) == list(range(50))


def test_a_table_of_methods_sorts(browser: Any, path: Path):
    with opened(browser, path) as page:
        page.locator("#methods").get_by_role("button", name="median radius").click()
        radii = page.locator("#methods tbody tr td:nth-child(8)").all_inner_texts()
    numbers = [float(text) for text in radii if text != "—"]
    assert numbers == sorted(numbers)
    assert radii[-1] == "—"


# One input


def test_rows_are_reached_and_opened_by_keyboard(browser: Any, path: Path):
    with opened(browser, path) as page:
        assert page.locator(f"{ROWS}[tabindex='0']").count() == 1
        page.locator(f"{ROWS} >> nth=0").focus()
        for key in ("ArrowDown", "ArrowDown", "ArrowUp", "ArrowDown", "Enter"):
            page.keyboard.press(key)
        page.wait_for_function("window.asked.length == 1")
        assert page.evaluate("[window.asked, location.hash]") == [[{"index": 2, "model": 0}], "#input-2"]
        assert page.locator("#input-title").inner_text() == "Input 2"
        assert "label 2 <b>owl</b>" in page.locator("#input-view").inner_text()
        assert page.evaluate("document.activeElement.id") == "input-title"
        page.keyboard.press("Escape")
        assert not page.locator("#input").is_visible()
        assert page.evaluate("[document.activeElement.dataset.index, location.hash]") == ["2", ""]


def test_a_click_opens_an_input_and_steps_follow_the_table(browser: Any, path: Path):
    with opened(browser, path) as page:
        page.locator(".filters").get_by_label("group").select_option("=b")
        page.locator("table.inputs >> nth=0").get_by_role("button", name="input").click()
        page.locator("table.inputs >> nth=0").get_by_role("button", name="input").click()
        assert shown(page)[:3] == [129, 127, 125]
        row = page.locator(f"{ROWS} >> nth=1")
        row.scroll_into_view_if_needed()
        place = row.bounding_box()["y"]
        row.locator("td >> nth=2").click()
        assert row.bounding_box()["y"] == pytest.approx(place, abs=2)  # though the page becomes narrower
        page.get_by_role("button", name="Next input").click()
        page.get_by_role("button", name="Previous input").click()
        page.get_by_role("button", name="Previous input").click()
        page.get_by_role("button", name="Previous input").click()
        indices = [127, 125, 127, 129, 1]
        assert page.evaluate("window.asked.map(({ index }) => index)") == indices
        page.get_by_role("button", name="Close").click()
        assert not page.locator("#input").is_visible()


@pytest.mark.parametrize(
    ("address", "asked"),
    [("#input-8", [{"index": 8, "model": 0}]), ("#input-999", []), ("#input-8-model-1", []), ("#inputs", [])],
)
def test_an_address_opens_an_input_that_is_there(browser: Any, path: Path, address: str, asked: list):
    with opened(browser, path, address) as page:
        assert page.evaluate("window.asked") == asked
        assert page.locator("#input").is_visible() == bool(asked)
        assert page.locator("tr[aria-current]").count() == 2 * len(asked)
