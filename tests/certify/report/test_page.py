"""The page and its figures: what they say, that they are self-contained, and that printed bounds stay bounds."""

import html
import json
import math
import re
import shutil
import subprocess
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import image as images
from oracles.pages import (
    ATTACK,
    COUNT,
    IBP,
    MANIFEST,
    RADII,
    SMOOTHED,
    SMOOTHING,
    Elements,
    attacked,
    certified,
    page,
    pairs_of,
    record,
)
from scipy.stats import binomtest

from bounds import noise_ratio_test
from certify import AttackedAccuracyCurve, CertifiedAccuracyCurve, Evaluation, report
from certify.curves import AccuracyCurve
from certify.report import render
from certify.report.embedding import SCRIPTS, embedded_json, part
from certify.report.input_tables import ROWS
from certify.report.noise_figure import noise_figure
from certify.report.series import PARTS, Series, interval_ends, limits
from certify.report.words import rounded_down, rounded_up

# Doubles just above and below the shortest decimals, and magnitudes from tiny to large.
AWKWARD = [0.1, 0.3, 1 / 3, 2 / 3, 0.99999, 1.00005, 5e-324, 1e-9, 9.9996e-6, 12345.678, 1e22, 123456.5]


def unsupported(method: str, norm: str, reason: str) -> dict:
    refused = record(method, norm, [{"status": "unsupported", "reason": reason}] * COUNT)
    for row in refused["rows"]:
        del row["prediction"]
    return refused


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page(IBP, SMOOTHING, ATTACK, tensors=pairs_of((1, 5, 7)), tmp_path=tmp_path_factory.mktemp("page"))


def test_exports_are_complete_and_sorted():
    assert report.__all__ == sorted(report.__all__)
    assert all(hasattr(report, name) for name in report.__all__)


def data_of(text: str) -> dict:
    (block,) = re.findall(r'<script type="application/json" id="data-page">(.*?)</script>', text, flags=re.DOTALL)
    return json.loads(block)


# Data for scripts


def test_data_survive_their_embedding():
    """No text ends the element, and numbers that JSON does not know arrive as JavaScript reads them."""
    hostile = "</script><script>alert(1)</script>&<!--\u2028"
    text = embedded_json({"a": hostile, "b": [math.nan, math.inf, -math.inf, 0.1], "c": None})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": hostile, "b": [None, "Infinity", "-Infinity", 0.1], "c": None}


@pytest.mark.parametrize("kind", [CertifiedAccuracyCurve, AttackedAccuracyCurve])
def test_embedded_limits_count_as_the_curve_does(kind: type[AccuracyCurve]):
    """At all radii of few digits, among them those where curves step: 7 digits rounded to one side lose nothing."""
    generator = torch.Generator().manual_seed(5)
    limit = torch.rand(500, generator=generator, dtype=torch.float64)
    limit[:100] = (limit[:100] * 50).round() / 50  # such as 0.3, whose double lies below it
    limit[100:110], limit[110:120], limit[120:130] = 0.0, -math.inf, math.inf if kind is AttackedAccuracyCurve else 2.0
    curve = kind(limit=limit, norm=2.0, subject="base", method="m")
    embedded, radii = limits(curve), [round(0.001 * i, 6) for i in range(1001)]
    counted = [sum(each >= r if kind is CertifiedAccuracyCurve else each > r for each in embedded) for r in radii]
    assert counted == curve.counts(radii).tolist()
    assert embedded == sorted(embedded)


def test_embedded_intervals_are_exact_and_hold():
    """Rounded outward, by a hundred-thousandth at most; the upper ends are the lower ones of the other inputs."""
    curve = CertifiedAccuracyCurve(limit=torch.rand(60), norm=2.0, subject="base", method="m")
    (lower,) = interval_ends([Series(name="m", panel="p", curve=curve)]).values()
    exact = [binomtest(k, 60).proportion_ci(0.95, "exact") for k in range(61)]
    for k, interval in enumerate(exact):
        assert -1e-12 <= interval.low - lower[k] / PARTS < 1 / PARTS
        assert -1e-12 <= (1 - lower[60 - k] / PARTS) - interval.high < 1 / PARTS


# Numbers


@pytest.mark.parametrize("value", AWKWARD)
@pytest.mark.parametrize("digits", [1, 3, 4])
def test_rounding_stays_on_its_side_and_close(value: float, digits: int):
    down, up = Decimal(rounded_down(value, digits)), Decimal(rounded_up(value, digits))
    assert down <= Decimal(value) <= up
    assert up - down <= Decimal(value) * Decimal(10) ** (1 - digits)
    assert len(down.normalize().as_tuple().digits) <= digits


def test_special_numbers_are_words():
    for rounded in (rounded_down, rounded_up):
        assert [rounded(value) for value in (0.0, -0.0, math.inf, -math.inf, math.nan)] == ["0", "0", "∞", "-∞", "—"]


def test_every_printed_bound_is_a_bound(tmp_path: Path):
    text = page(certified("ibp", "inf", AWKWARD), attacked("inf", [2 * value for value in AWKWARD]), tmp_path=tmp_path)
    (body,) = re.findall(r'<table class="inputs"[^>]*>.*?<tbody>(.*?)</tbody>', text, flags=re.DOTALL)
    lines = [re.findall(r'<td class="group number">(.*?)</td>', line) for line in body.split("</tr>")[:-1]]
    assert len(lines) == len(AWKWARD)
    for value, (radius, distance) in zip(AWKWARD, lines, strict=True):
        assert Decimal(radius) <= Decimal(value) < Decimal(2 * value) <= Decimal(distance)


# The page


def test_page_needs_nothing_from_elsewhere(full: str):
    elements = Elements(full)
    links = [value for _, attributes in elements.tags for name, value in attributes.items() if name in ("src", "href")]
    assert links
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert not {tag for tag, _ in elements.tags} & {"link", "iframe", "object", "base"}
    assert not re.search(r"https?://", re.sub(r'xmlns(:xlink)?="[^"]*"|"http://www.w3.org/2000/svg"', "", full))
    assert not re.search(
        r"\b(import|fetch|XMLHttpRequest|WebSocket|eval)\b", "".join(part("scripts", name) for name in SCRIPTS)
    )
    assert not re.search(r"@import|url\((?!#)", full)
    ids = [attributes["id"] for _, attributes in elements.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {"#" + name for name in ids} >= {link for link in links if link.startswith("#")}


def test_page_says_what_was_done_and_with_what_guarantee(full: str):
    words = Elements(full).words
    assert (
        "For 12 inputs, radii within which the predicted class does not change were certified for the smoothed "
        "classifier in l2 and for the model itself in l∞, and adversarial examples were sought for the model itself "
        "in l∞."
    ) in words
    for sentence in (
        "Interval bounds are proofs about the model in real arithmetic.",
        "Each smoothed certificate is false with probability at most 0.001 and speaks of the smoothed classifier, not "
        "of the model itself.",
        "Every adversarial example was checked again, and its distance is an upper bound.",
    ):
        assert sentence in words


def test_methods_of_one_promise_share_a_sentence(tmp_path: Path):
    records = [certified(name, "inf", RADII) for name in ("ibp", "crown", "alpha_crown")]
    lead = Elements(page(*records, certified("ibp", "2", RADII), tmp_path=tmp_path)).words
    assert "Interval bounds and linear bounds are proofs about the model in real arithmetic." in lead
    assert lead.count("are proofs about the model") == 1


@pytest.mark.parametrize(
    ("chosen", "present", "absent"),
    [
        ([IBP], "Interval bounds are proofs about the model in real arithmetic.", "smoothed"),
        ([SMOOTHING], "speaks of the smoothed classifier, not of the model itself.", "proofs"),
        ([ATTACK], "Every adversarial example was checked again", "certified for"),
    ],
    ids=["ibp", "smoothing", "attack"],
)
def test_sentences_speak_only_of_methods_that_ran(chosen: list[dict], present: str, absent: str, tmp_path: Path):
    text = page(*chosen, tmp_path=tmp_path)
    lead = Elements(text[text.index("<h1>") : text.index('<p class="facts">')]).words
    assert present in lead
    assert absent not in lead
    assert "Nothing to cross-check" in text


def test_hostile_strings_are_escaped(tmp_path: Path):
    hostile = '<script>alert(1)</script>"><img src=x onerror=alert(1)> $\\frac$'
    manifest = {**MANIFEST, "source": {hostile: hostile}, "created": hostile}
    refused = unsupported(hostile, "2", hostile)
    text = page(certified(hostile, "inf", RADII, subject=hostile), refused, manifest=manifest, tmp_path=tmp_path)
    elements = Elements(text)
    assert not elements.named("img")
    assert len(elements.named("script")) == len(SCRIPTS) + 3  # two blocks of data, and the view of an input
    assert elements.words.count("alert(1)") >= 10
    assert "<script>alert(1)" not in text


def test_contradiction_is_loud_and_only_there(full: str, tmp_path: Path):
    quiet = "No certified radius exceeds the distance of an adversarial example (11 comparisons"
    assert quiet in full
    assert 'class="alarm"' not in full
    radii = [row["certified_radius"] for row in IBP["rows"]]
    loud = page(certified("ibp", "inf", [0.9, *radii[1:]]), ATTACK, tmp_path=tmp_path)
    assert Elements(loud).words.count("1 contradiction\n") == 1
    assert "input 0: ibp certifies 0.9" in loud
    assert "No certified radius exceeds" not in loud
    other = page(certified("smoothing", "inf", [9.0] * COUNT, subject=SMOOTHED), ATTACK, tmp_path=tmp_path)
    assert 'class="alarm"' not in other  # another classifier


def test_certificates_and_distances_never_share_a_column(full: str):
    tables = re.findall(r'<table class="inputs"[^>]*>.*?</table>', full, flags=re.DOTALL)
    assert [re.findall(r'<th class="group number">(.*?)\xa0', table) for table in tables] == [
        ["certified radius"],
        ["certified radius", "attack distance"],
    ]


def test_unsupported_method_has_its_row_and_reason(tmp_path: Path):
    refused = unsupported("ibp", "inf", "Tanh has no interval rule")
    text = page(refused, ATTACK, tmp_path=tmp_path)
    assert "none: a layer is not supported<small>Tanh has no interval rule</small>" in text
    assert text.count('<td class="unsupported">unsupported</td>') == COUNT
    alone = page(refused, tmp_path=tmp_path)
    assert "nothing was certified. NothingNo method gave a result." in " ".join(Elements(alone).words.split())
    assert "<svg" not in alone


def test_statuses_name_the_class_they_speak_of(tmp_path: Path):
    rows = [
        {"status": "misclassified", "prediction": 2, "certified_radius": 0.4},
        {"status": "abstained", "prediction": 2, "certified_radius": 0.0},
        {"status": "not certified", "certified_radius": 0.0},
        {"status": "certified", "certified_radius": 0.5, "base_prediction": 1},
    ]
    text = page(record("smoothing", "2", [{**row, "alpha": 0.01} for row in rows], SMOOTHED), tmp_path=tmp_path)
    cells = re.findall(r'<td class="group number">(.*?)</td><td class="[a-z-]*">(.*?)</td>', text)
    assert cells == [
        ("—", "misclassified as 2"),
        ("—", "abstained"),
        ("0", "not certified"),
        ("0.5", "certified, class 0"),
    ]


@pytest.mark.slow
def test_page_of_a_thousand_inputs_is_small(tmp_path: Path):
    generator = torch.Generator().manual_seed(1)
    radii = torch.rand(1000, generator=generator, dtype=torch.float64)
    text = page(certified("ibp", "2", radii.tolist()), attacked("2", (radii * 3).tolist()), tmp_path=tmp_path)
    assert len(text) < 1_000_000
    assert text.count('<th scope="row" class="number">') == ROWS
    assert f"{1000 - ROWS} more inputs are in the records of the run" in text  # for readers without scripts
    assert len(data_of(text)["models"][0]["indices"]) == 1000


# In a browser


def chromium(tmp_path: Path, target: Path, *options: str) -> str:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium on this machine: the page was not opened in a browser")
    quiet = ["gpu", "quic", "background-networking", "component-update", "sync"]
    flags = ["--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in quiet)]
    command = [program, *flags, f"--user-data-dir={tmp_path / 'profile'}", *options, target.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.slow
@pytest.mark.browser
def test_page_is_drawn(full: str, tmp_path: Path):
    target, shot = tmp_path / "page.html", tmp_path / "page.png"
    target.write_text(full, encoding="utf-8")
    chromium(tmp_path, target, f"--screenshot={shot}", "--window-size=390,2000")
    drawn = images.imread(shot)
    assert drawn.shape[0] >= 1500
    assert drawn[..., :3].std() > 0.05  # a blank page has 0
    assert len(np.unique(drawn.reshape(-1, drawn.shape[-1]), axis=0)) > 50


@pytest.mark.slow
@pytest.mark.browser
def test_page_fits_a_phone(full: str, tmp_path: Path):
    """The second frame is a mutant whose tables do not scroll inside their container: it must be wider."""
    width = "document.title += ` ${this.name} ${this.contentDocument.documentElement.scrollWidth};`"
    mutant = full.replace("overflow-x: auto", "overflow-x: visible").replace("overflow-y: auto", "")
    frames = [
        f'<iframe name="{name}" width="390" height="844" onload="{width}" srcdoc="{html.escape(text)}"></iframe>'
        for name, text in (("page", full), ("mutant", mutant))
    ]
    target = tmp_path / "frames.html"
    target.write_text(f"<!DOCTYPE html><title>widths</title>{''.join(frames)}", encoding="utf-8")
    widths = dict(re.findall(r" (page|mutant) (\d+);", chromium(tmp_path, target, "--dump-dom")))
    assert int(widths["page"]) <= 390 < int(widths["mutant"])


@pytest.mark.slow
def test_a_test_of_random_noise_has_its_section_and_figure(full: str, tmp_path: Path):
    """Its verdicts in words, its mean ratios as drawn, those of flat boundaries beside them; nothing without it."""
    assert 'id="noise"' not in full
    model = torch.nn.Linear(12, 2)
    x = torch.rand(4, 12, generator=torch.Generator().manual_seed(0))
    result = noise_ratio_test(model, x, directions=30, generator=torch.Generator().manual_seed(1))
    path = tmp_path / "noise.html"
    Evaluation(MANIFEST, [IBP], {}).to_html(path, noise=result)
    written = path.read_text(encoding="utf-8")
    test_page_needs_nothing_from_elsewhere(written)
    words = Elements(written).words
    assert all(html.unescape(line) in words for line in str(result).splitlines())
    assert "certifies nothing" in words
    measured, flat = noise_figure(result).axes[0].lines
    assert measured.get_xdata().tolist() == [1, 4] == result.dimensions.tolist()
    np.testing.assert_allclose(np.log(measured.get_ydata()), result.log_ratio.mean(0))
    np.testing.assert_allclose(np.log(flat.get_ydata()), result.flat_log_ratio.mean(0))
    assert (measured.get_label(), flat.get_label()) == ("measured", "flat boundaries")


def test_render_is_what_is_written(full: str, tmp_path: Path):
    evaluation = Evaluation(MANIFEST, [IBP, SMOOTHING, ATTACK], pairs_of((1, 5, 7)))
    assert render(evaluation.page()) == full
