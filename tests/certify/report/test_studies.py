"""Studies on pages: every record has a sentence, a figure and a table there, and stays within its section."""

import inspect
import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure
from oracles.browser import complaints, opened
from oracles.compared import attacked, evaluation, proved
from oracles.pages import ATTACK, IBP, MANIFEST, Elements
from oracles.studies import Hostile, quick, studies

from bounds import InvalidInput
from certify import Evaluation, compare
from certify.report.studies import COLORS, PAPER, ROWS, shown_studies

QUICK = ("alignment", "share", "invariance", "least error", "training", "margins")
SLOW = ("rank", "classes", "span", "transfer", "plane", "surface", "noise", "law", "latent")
SLOW += ("frequencies", "corruptions", "errors", "flips")
TITLES = [*QUICK, *(pytest.param(title, marks=pytest.mark.slow) for title in SLOW)]


def record_of(title: str) -> Any:
    return quick()[title] if title in QUICK else studies()[title]


def written(tmp_path: Path, **records: Any) -> str:
    Evaluation(MANIFEST, [IBP, ATTACK]).to_html(tmp_path / "page.html", studies=records or None)
    return (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_all_records_are_here():
    assert {*studies()} == {*QUICK, *SLOW}


@pytest.mark.parametrize("title", TITLES)
def test_every_record_has_words_a_table_and_a_plot(title: str):
    record = record_of(title)
    said, table = record.sentences(), record.to_dataframe()
    assert said
    assert all(re.search(r"\d", " ".join(said)) and "nan" not in text for text in said)
    assert len(table)
    (shown,) = shown_studies({title: record})
    assert len(shown["rows"]) == min(len(table), ROWS)
    assert set(map(str, table.columns)) <= set(shown["rows"][0])
    assert shown["figure"].startswith("<svg")
    assert f'aria-label="{title}. ' in shown["figure"]
    lines = re.findall(r"(?:fill|stroke): #000000", re.sub(r"<text.*?</text>", "", shown["figure"], flags=re.DOTALL))
    assert len(lines) == 2 * (title == "plane")  # the point on its cells, which are the same in the dark


@pytest.mark.slow
@pytest.mark.parametrize("title", [*QUICK, *SLOW])
def test_every_record_draws_where_it_is_told(title: str):
    """On the axes given or, without any, on the current ones of pyplot, where it takes axes."""
    plot = record_of(title).plot
    if "ax" not in inspect.signature(plot).parameters:
        assert isinstance(plot(), Figure)
        return
    ax = Figure().subplots()
    assert plot(ax=ax) is ax
    assert ax.has_data()
    assert plot() is plt.gca()
    plt.close("all")


def test_a_page_has_a_section_for_each_and_a_link_to_them(tmp_path: Path):
    page = Elements(written(tmp_path, first=quick()["alignment"], second=quick()["training"]))
    assert {"studies", "study-0", "study-1"} <= {section.get("id") for section in page.named("section")}
    assert 'href="#studies"' in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Mean cosine" in page.words
    assert 'id="studies"' not in written(tmp_path)


def test_a_comparison_has_them_too(tmp_path: Path):
    models = {name: evaluation(proved([0.1, 0.2]), attacked([0.3, 0.4])) for name in ("a", "b")}
    compare(models).to_html(tmp_path / "page.html", studies={"Two": quick()["margins"]})
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert 'id="study-0"' in text
    assert text.index('id="studies"') < text.index('id="models"')


def test_nothing_leaves_its_place(tmp_path: Path):
    text = written(tmp_path, **{"<i>title</i>": Hostile()})
    assert "<script>alert" not in text
    assert "<i>title" not in text
    assert "And 300 more rows." in text


def test_bounds_in_tables_stay_bounds():
    (shown,) = shown_studies({"bounds": Hostile()})
    assert len(shown["rows"]) == ROWS
    last = shown["rows"][100]
    exact = 100 / 499 / 3
    assert float(last["lower"]) < exact < float(last["upper"])
    assert float(last["upper"]) - float(last["lower"]) < 1e-4
    assert shown["rows"][0]["upper"] == "—"
    assert shown["numbers"] == ["lower", "upper"]


def test_figures_follow_the_page_but_for_what_is_white_on_dark_cells():
    (shown,) = shown_studies({"white": Hostile()})
    assert "--figure-ink" in shown["figure"]
    assert f"var(--figure-paper, {PAPER})" in shown["figure"]
    assert "fill: #ffffff" in shown["figure"]
    assert "#ffffff" not in COLORS


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([studies], "studies must be a mapping"),
        ({"x": 3}, r"studies\['x'\] must be a record with to_dataframe\(\) and plot\(\), got int"),
        ({"x": Hostile}, "got type"),
    ],
)
def test_other_things_are_refused(tmp_path: Path, given: Any, message: str):
    with pytest.raises(InvalidInput, match=message):
        Evaluation(MANIFEST, [IBP]).to_html(tmp_path / "page.html", studies=given)
    assert not (tmp_path / "page.html").exists()


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_everybody_can_read_them(browser: Any, tmp_path: Path, width: int, scheme: str):
    """All rules of axe-core; no wider than the window; text in the figures has the ink of the page."""
    shown = ("alignment", "training", "plane", "surface", "transfer")
    written(tmp_path, **{title: record_of(title) for title in shown})
    with opened(browser, tmp_path / "page.html", width=width, color_scheme=scheme) as page:
        assert complaints(page) == ""
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("#studies svg[role=img]").count() == len(shown)
        ink = page.locator("#study-0 svg text").first.evaluate("text => getComputedStyle(text).fill")
        assert ink == {"light": "rgb(48, 54, 61)", "dark": "rgb(211, 216, 221)"}[scheme]
