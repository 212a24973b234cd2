"""The view of a single input, as its readers use it: by pointer, by keyboard, and by ear."""

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from oracles.browser import complaints, opened
from oracles.pages import COUNT, MANIFEST, attacked, certified, pairs_of
from torch import nn

from certify import Evaluation, evaluate
from certify.methods import Clever, IntervalBounds, LinearBounds, MinimalPerturbation
from certify.report.inputs.planes import Plane
from certify.report.inputs.regions import regions_of

pytestmark = [pytest.mark.slow, pytest.mark.browser]

CLASSES = ["cat", "dog", "<b>owl</b>"]
ROW = "table.inputs >> nth=0 >> tbody tr[data-index='{}'] td >> nth=0"


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 3)).eval()
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1)).mul(255).round().div(255)
    methods = [
        IntervalBounds(),
        LinearBounds(),
        Clever(num_batches=5, batch_size=20),
        MinimalPerturbation(steps=20, restarts=1),
    ]
    return evaluate(model, x, methods=methods, cross_sections=2)


@pytest.fixture(scope="module")
def path(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("page") / "report.html"
    evaluation.to_html(target, classes=CLASSES)
    return target


def part(page: Any, title: str) -> Any:
    return page.locator("#input-view section", has=page.get_by_role("heading", name=title, exact=True))


def numbers_of(evaluation: Evaluation, index: int, norm: float) -> dict[str, float]:
    found = {}
    for row in evaluation.rows():
        if (row["index"], row["norm"]) == (index, norm):
            values = (row["certified_radius"], row["estimated_distance"], row["attack_distance"])
            found[row["method"]] = next(value for value in values if value is not None)
    return found


def test_a_click_shows_the_numbers_of_the_records_in_order(browser: Any, path: Path, evaluation: Evaluation):
    with opened(browser, path) as page:
        page.locator(ROW.format(3)).click()
        for norm, name in ((2.0, "l2"), (math.inf, "l∞")):
            axis = part(page, f"{name}, the model itself")
            expected = numbers_of(evaluation, 3, norm)
            methods = axis.locator("tbody th").all_inner_texts()
            assert methods == sorted(expected, key=lambda method: expected[method])
            texts = dict(zip(methods, axis.locator("tbody td:nth-child(2)").all_inner_texts(), strict=True))
            for method, text in texts.items():
                sign, number = text.split(" ")[:2]
                side = {"clever": 0, "attack": 1}.get(method, -1)
                assert sign == {-1: "≥", 0: "≈", 1: "≤"}[side]
                assert float(number) == pytest.approx(expected[method], rel=2e-3)
                assert side * (float(number) - expected[method]) >= 0
                assert "/255" in text
            best = max(expected["ibp"], expected["crown"])
            words = axis.locator(".gap").inner_text()
            assert words.startswith("Gap: between ")
            low, high = (float(word) for word in words.split() if word.replace(".", "").isdigit())
            assert low <= best < expected["attack"] <= high
            spoken = axis.get_by_role("img").get_attribute("aria-label")
            assert words[1:] in spoken
            assert all(text in spoken for text in texts.values())


def test_marks_stand_where_their_numbers_say(browser: Any, path: Path):
    with opened(browser, path, "#input-0") as page:
        axis = part(page, "l∞, the model itself")
        places = axis.locator("svg.axis > svg").evaluate_all(
            "all => all.map((one) => parseFloat(one.getAttribute('x')))"
        )
        texts = axis.locator("tbody td:nth-child(2)").all_inner_texts()
        values = [float(text.split(" ")[1]) for text in texts]
        assert places == sorted(places)
        unit = (places[-1] - 2) / values[-1]
        assert places == pytest.approx([2 + unit * value for value in values], abs=0.02)
        zones = {
            kind: axis.locator(f".zone.{kind}").evaluate(
                "one => [one.x, one.width].map((at) => at.baseVal.valueInSpecifiedUnits)"
            )
            for kind in ("safe", "between", "broken")
        }
        assert zones["broken"][1] > 5
        edges = [zones[kind][0] for kind in ("safe", "between", "broken")] + [sum(zones["broken"])]
        found = [float(word) for word in axis.locator(".gap").inner_text().split() if word.replace(".", "").isdigit()]
        assert edges == pytest.approx([2, *(2 + unit * value for value in found), 98], abs=0.02)


def test_numbers_far_apart_stand_on_a_logarithmic_axis(browser: Any, tmp_path: Path):
    """Equal factors are equally far apart, and 0 stands at the edge."""
    records = [certified("ibp", "inf", [0.0001]), certified("crown", "inf", [0.0]), attacked("inf", [0.1])]
    Evaluation(MANIFEST, records).to_html(tmp_path / "page.html")
    read = "all => all.map((one) => [one.textContent, parseFloat(one.getAttribute('x'))])"
    with opened(browser, tmp_path / "page.html", "#input-0") as page:
        ticks = dict(page.locator("svg.axis text.tick").evaluate_all(read))
        places = [place for _, place in page.locator("svg.axis > svg").evaluate_all(read)]
    assert list(ticks) == ["0", "0.0001", "0.001", "0.01", "0.1"]
    steps = [ticks[here] - ticks[before] for before, here in itertools.pairwise([*ticks][1:])]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.02)
    assert places == pytest.approx([ticks["0"], ticks["0.0001"], ticks["0.1"]], abs=0.05)


def test_arrows_buttons_and_escape(browser: Any, path: Path):
    title = "#input-title"
    with opened(browser, path) as page:
        page.locator(ROW.format(1)).click()
        assert page.evaluate("document.activeElement.id") == "input-title"
        for key, index in (("ArrowRight", 2), ("ArrowRight", 3), ("ArrowLeft", 2)):
            page.keyboard.press(key)
            assert page.locator(title).inner_text() == f"Input {index}"
            assert page.evaluate("location.hash") == f"#input-{index}"
        page.keyboard.press("Alt+ArrowRight")  # which belongs to the browser
        assert page.locator(title).inner_text() == "Input 2"
        page.locator("#input").get_by_role("region").first.focus()  # a table, which arrows scroll
        page.keyboard.press("ArrowRight")
        assert page.locator(title).inner_text() == "Input 2"
        page.get_by_role("button", name="Previous input").click()
        assert page.locator(title).inner_text() == "Input 1"
        page.keyboard.press("Escape")
        assert not page.locator("#input").is_visible()


def test_pictures_have_words_and_their_size(browser: Any, path: Path, evaluation: Evaluation):
    with opened(browser, path, "#input-2") as page:
        pictures = page.locator("#input-view img")
        label = evaluation.rows()[2]["label"]
        alts = pictures.evaluate_all("all => all.map((one) => one.alt)")
        assert alts[0] == f"input, {label} {CLASSES[label]}"
        assert [alt.split(",")[0] for alt in alts] == [
            *("input", "adversarial example in l2", "change in l2"),
            *("input", "adversarial example in l∞", "change in l∞"),
        ]
        assert pictures.evaluate_all("all => all.every((one) => one.naturalWidth === 8 && one.width === one.height)")
        assert page.locator("#input-view b").count() == 0  # names of classes are texts


def tilted(plane: Plane) -> Plane:
    """The plane with other classes: above a falling line, which no mirror image leaves as it is."""
    places = torch.linspace(-1, 1, 41, dtype=torch.float64)
    margin = places[:, None] / 2 + places[None] - 0.3
    logits = torch.stack([-margin, margin, margin - 10], -1)
    regions = {label: regions_of(logits, label) for label in (0, 1)}
    return msgspec.structs.replace(plane, labels=logits.argmax(2).tolist(), regions=regions)


def test_a_plane_is_drawn_and_spoken(browser: Any, evaluation: Evaluation, tmp_path: Path):
    plane = tilted(evaluation.planes[0])
    dataclasses.replace(evaluation, planes=[plane]).to_html(tmp_path / "page.html", classes=CLASSES)
    with opened(browser, tmp_path / "page.html", f"#input-{plane.index}") as page:
        shown = part(page, "A plane through the input")
        spoken = shown.get_by_role("img").get_attribute("aria-label")
        share = sum(label == plane.labels[20][20] for row in plane.labels for label in row) / 41**2
        assert f"{CLASSES[plane.labels[20][20]]} {round(100 * share)} %" in spoken
        assert shown.locator("path.ball").count() == 2 * 2  # in both norms, and in the legend
        x, y = (200 * (1 + side * at / plane.extent) for side, at in zip((1, -1), plane.places[0].at, strict=True))
        assert shown.locator("svg.plane path.cross").first.get_attribute("transform") == f"translate({x:.1f} {y:.1f})"
        # The class of any point is that of the region that is drawn there.
        for i, j in ((20, 20), (20, 30), (30, 8), (35, 12), (2, 38), (38, 2)):
            label = plane.labels[i][j]
            script = """([x, y]) => {
              const drawn = document.querySelector("svg.plane");
              drawn.scrollIntoView({ block: "center" });
              const there = new DOMPoint(x, y).matrixTransform(drawn.getScreenCTM());
              const all = document.elementsFromPoint(there.x, there.y);
              return all.find((one) => one.matches(".region")).getAttribute("class");
            }"""
            kind = page.evaluate(script, [10 * i, 400 - 10 * j])
            place = page.evaluate(
                "([index, label]) => JSON.parse(document.getElementById('data-inputs').textContent)"
                ".models[0].inputs[index].plane.classes.findIndex((one) => one.class === label)",
                [plane.index, label],
            )
            assert kind == f"region c{place}"


def test_wrong_inputs_and_contradictions_are_told(browser: Any, tmp_path: Path):
    records = [certified("ibp", "inf", [0.75, 0.25]), attacked("inf", [0.5, math.inf])]
    records[0]["rows"][1].update(status="misclassified", prediction=2, label=0, base_prediction=2)
    records[1]["rows"][1] |= {"status": "misclassified", "prediction": 2, "label": 0, "base_prediction": 2}
    Evaluation(MANIFEST, records).to_html(tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html", "#input-0") as page:
        gap = page.locator("#input-view .gap.contradiction")
        assert gap.inner_text().startswith("Contradiction: 0.75 proved, but an adversarial example at 0.5")
        assert page.locator(".zone").count() == 0
        page.keyboard.press("ArrowRight")
        assert page.locator("#input-view .gap.wrong").inner_text().startswith("No gap: the classifier is wrong here")
        assert "No picture of this input" in page.locator("#input-view").inner_text()


def test_features_and_tokens_are_shown(browser: Any, tmp_path: Path):
    unit = "attack/inf/0-12"
    clean = torch.zeros(COUNT, 2, 15)
    adversarial = clean.clone()
    adversarial[:, 1, 3] = 0.25
    pairs = {unit: {"clean": clean, "adversarial": adversarial}}
    flat = {unit: {name: value.flatten(1) for name, value in pairs[unit].items()}}
    records = [attacked("inf", [0.25] * COUNT)]
    named = {**MANIFEST, "features": [f"feature <i>{i}</i>" for i in range(30)]}
    Evaluation(named, records, flat).to_html(tmp_path / "features.html")
    Evaluation(MANIFEST, records, pairs).to_html(tmp_path / "tokens.html", tokens=[["fine", "<i>film</i>"]] * COUNT)
    with opened(browser, tmp_path / "features.html", "#input-4") as page:
        row = page.get_by_role("region", name="Features").locator("tr", has_text="feature <i>18</i>")
        assert row.locator("td").all_inner_texts() == ["0", "0.25"]
        assert "12 of 30 features" in part(page, "Features").inner_text()
        assert complaints(page) == ""
    with opened(browser, tmp_path / "tokens.html", "#input-4") as page:
        assert page.locator(".tokens span").all_inner_texts() == ["fine", "<i>film</i>"]
        assert "“<i>film</i>” changes the most" in part(page, "Tokens").inner_text()
        assert page.locator(".tokens span").nth(1).get_attribute("style") == "--share: 1"
        assert complaints(page) == ""


def test_an_open_input_is_printed_and_galleries_need_no_scripts(browser: Any, path: Path):
    with opened(browser, path, "#input-1") as page:
        page.emulate_media(media="print")
        assert page.locator("#input-view svg.axis").first.is_visible()
        assert page.locator("#input-view img").first.is_visible()
    with opened(browser, path, java_script_enabled=False) as page:
        assert page.locator(".cards img").first.is_visible()
        assert not page.locator("#input").is_visible()


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_everybody_can_use_the_view(browser: Any, path: Path, width: int, color_scheme: str):
    with opened(browser, path, "#input-0", width=width, color_scheme=color_scheme) as page:
        assert complaints(page) == ""
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("#input").evaluate("one => one.scrollWidth <= one.clientWidth")


def test_inputs_without_details_say_so(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("certify.report.inputs.details.INPUTS", 2)
    Evaluation(MANIFEST, [attacked("inf", [0.5] * 5)], pairs_of((1, 5, 7))).to_html(tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html", "#input-1") as page:
        words = page.locator("#input-view").inner_text()
        assert "This page has no details of this input." in words
        assert "numbers of 2 of 5 inputs" in words
