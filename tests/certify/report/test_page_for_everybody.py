"""The page for everybody: with ten thousand inputs, with several models, by axe-core, on a phone and in the dark."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles.browser import complaints, opened
from oracles.busy_page import BUSY, CLASSES
from oracles.pages import MANIFEST, attacked, certified

from certify import Evaluation

pytestmark = [pytest.mark.slow, pytest.mark.browser]


def test_ten_thousand_inputs_are_no_burden(browser: Any, tmp_path: Path):
    generator = torch.Generator().manual_seed(6)
    radii = torch.rand(10_000, generator=generator, dtype=torch.float64)
    records = [certified("ibp", "2", radii.tolist()), attacked("2", (2 * radii).tolist())]
    Evaluation(MANIFEST, records).to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 2_000_000
    with opened(browser, tmp_path / "page.html") as page:
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable")
        spent = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
        assert page.locator("tr[data-index]").count() == 50
        assert page.locator("svg.plot path.curve").first.evaluate("path => path.getAttribute('d').length") < 60_000
        assert spent["TaskDuration"] < 2, spent  # seconds of work, whatever else the machine does


def test_models_share_figures_and_keep_their_tables(browser: Any, comparison: Path):
    with opened(browser, comparison, "#input-7-model-1") as page:
        assert page.evaluate("window.asked") == [{"index": 7, "model": 1}]
        assert page.locator("#input-title").inner_text() == "Input 7, robust"
        page.keyboard.press("Escape")
        chart = page.locator(".chart").first
        names = [" ".join(text.split()) for text in chart.locator("tbody th").all_inner_texts()]
        proof, attack = "at least: proved", "at most: no attack found"
        assert names == [f"plain {proof}", f"robust {proof}", f"plain {attack}", f"robust {attack}"]
        colors = chart.locator("tbody tr").evaluate_all("rows => rows.map((row) => row.style.cssText)")
        assert colors[:2] == colors[2:]
        assert colors[0] != colors[1]
        assert not page.locator("#inputs-1").is_visible()
        page.locator("summary", has_text="robust").click()
        assert page.locator("#inputs-1 tr[data-index]").count() == 50
        page.locator("#inputs-1").get_by_label("find").fill("#59")
        page.locator("#inputs-1 tr[data-index] td").first.click()
        assert page.evaluate("window.asked.at(-1)") == {"index": 59, "model": 1}


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("color_scheme", ["light", "dark"])
@pytest.mark.parametrize("which", ["path", "comparison"])
def test_everybody_can_use_it(browser: Any, request: pytest.FixtureRequest, which: str, width: int, color_scheme: str):
    """All rules of axe-core, with everything open; the page is no wider than its window."""
    target = request.getfixturevalue(which)
    with opened(browser, target, "#input-3", width=width, color_scheme=color_scheme) as page:
        for summary in page.locator("summary").all():
            summary.evaluate("summary => { summary.parentElement.open = true }")
        assert complaints(page) == ""
        page.keyboard.press("Escape")
        assert complaints(page) == ""
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_page_that_is_hard_to_use_is_found(browser: Any, path: Path, tmp_path: Path):
    """The twin of the test above: faint text is found."""
    faint = path.read_text(encoding="utf-8").replace("--muted: #59636e", "--muted: #b0b8c0")
    (tmp_path / "faint.html").write_text(faint, encoding="utf-8")
    with opened(browser, tmp_path / "faint.html") as page:
        assert "color-contrast" in complaints(page)


def test_data_of_a_page_are_those_of_its_run(browser: Any, path: Path):
    """As the browser reads them: no number is lost on the way."""
    with opened(browser, path) as page:
        data = json.loads(page.evaluate("document.getElementById('data-page').textContent"))
        assert data == page.evaluate("JSON.parse(document.getElementById('data-page').textContent)")
    curves = [curve for chart in data["charts"] for curve in chart["curves"]]
    assert len(curves) == len(BUSY.curves())
    assert data["models"][0]["classes"] == CLASSES
