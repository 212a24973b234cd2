"""Accuracy at radius as the pages print it: the counts of the curves, on the safe side, the best ones in bold."""

import html
import math
import re
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from oracles.compared import NOT, attacked, evaluation, proved, smoothed
from oracles.pages import MANIFEST, certified
from oracles.pages import attacked as found

from certify import Evaluation
from certify.comparison.comparison import Comparison, compare
from certify.curves import AccuracyCurve, CertifiedAccuracyCurve

CELL = r'<td class="number( best)?">(?:<strong>)?([\d.]+)(?:</strong>)?<small>([\d.]+)\u2013([\d.]+)</small></td>'


def tables(text: str) -> dict[str, tuple[list[float], list[tuple[str, str, str, list[tuple]]]]]:
    """By norm: the radii, and panel, name, promise and cells of every row."""
    read = {}
    for table in re.findall(r'<table class="accuracy">(.*?)</table>', text, flags=re.DOTALL):
        (norm,) = re.findall(r'<span class="norm">(.*?)</span>', table)
        radii = [float(radius) for radius in re.findall(r'<th scope="col" class="number">([\d.e-]+)', table)]
        rows = []
        for block in table.split("<tbody>")[1:]:
            (panel,) = re.findall(r'scope="rowgroup">(.*?)</th>', block)
            for row in block.split("<tr>")[1:]:
                ((name, promise),) = re.findall(r"</svg>(.*?)<small>(.*?)</small></th>", row, flags=re.DOTALL)
                rows.append((html.unescape(panel), html.unescape(name.strip()), promise, re.findall(CELL, row)))
        read[norm] = (radii, rows)
    return read


def require_exact(curve: AccuracyCurve, radii: list[float], cells: list[tuple]) -> None:
    """Printed shares are those of the curve to a tenth of a percent, and intervals hold the exact ones."""
    upper = not isinstance(curve, CertifiedAccuracyCurve)
    assert len(cells) == len(radii) > 1
    for radius, (_, share, low, high) in zip(radii, cells, strict=True):
        exact = Fraction(100 * int(curve.counts(radius)), len(curve.limit))
        assert (
            (exact <= Fraction(share) < exact + Fraction(1, 10))
            if upper
            else (exact - Fraction(1, 10) < Fraction(share) <= exact)
        )
        lower, higher = (100 * float(end) for end in curve.interval(radius))
        assert lower - 0.1 < float(low) <= lower + 1e-9
        assert higher - 1e-9 <= float(high) < higher + 0.1


@pytest.mark.slow
def test_a_page_prints_the_counts_of_its_curves(tmp_path: Path):
    """97 inputs, so that no share is a round one; proofs, smoothing and attacks in two norms."""
    radii = torch.rand(97, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    records = [
        certified("ibp", "2", radii),
        certified("smoothing", "2", radii[::-1], alpha=0.001, subject="smoothed(gaussian(sigma=0.25))"),
        found("2", [2 * radius for radius in radii[:-1]] + [math.inf]),
        certified("ibp", "inf", [radius / 9 for radius in radii]),
    ]
    run = Evaluation(MANIFEST, records)
    run.to_html(tmp_path / "page.html")
    read = tables((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert list(read) == ["l2", "l∞"]
    assert [row[:3] for row in read["l2"][1]] == [
        ("the model itself", "ibp", "at least: proved"),
        ("the model itself", "attack", "at most: no attack found"),
        ("smoothed by gaussian(sigma=0.25)", "smoothing", "at least: with probability 0.999"),
    ]
    curves = {(curve.norm, curve.method): curve for curve in run.curves()}
    for norm, order in (("l2", 2.0), ("l∞", math.inf)):
        for _, name, _, cells in read[norm][1]:
            require_exact(curves[order, name], read[norm][0], cells)
            assert not any(bold for bold, *_ in cells)  # nobody compares methods here


def compared() -> Comparison:
    generator = torch.Generator().manual_seed(1)
    models = {}
    for name, scale in (("plain", 0.2), ("<b>robust</b>", 0.6), ("tied", 0.61)):
        radii = (scale * torch.rand(80, generator=generator, dtype=torch.float64)).tolist()
        radii[7] = NOT
        models[name] = evaluation(proved(radii), attacked([3 * r if r >= 0 else r for r in radii]), smoothed(radii))
    return compare(models)


@pytest.mark.slow
def test_models_are_compared_with_the_best_and_its_ties_in_bold(tmp_path: Path):
    comparison = compared()
    comparison.to_html(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<b>robust" not in text
    radii, rows = tables(text)["l2"]
    best = comparison.best()
    assert radii == comparison.radii(2.0)
    assert len(rows) == len(comparison.contenders) == 9
    for one, (panel, name, _, cells) in zip(comparison.contenders, rows, strict=True):
        assert (panel.split(",")[0], name) == (one.panel.classifiers, one.model)
        require_exact(one.curve, radii, cells)
        here = best[(best.model == one.name) & (best.promise == one.promise)]
        here = here[here.classifiers == one.panel.classifiers]
        assert [bool(bold) for bold, *_ in cells] == here.best.tolist()
    assert 0 < best.best.sum() < len(best)


def test_a_contradiction_of_one_model_is_loud_among_several(tmp_path: Path):
    models = {"sound": evaluation(proved([0.1] * 20), attacked([0.4] * 20))}
    models["wrong"] = evaluation(proved([0.5] * 20), attacked([0.4] * 20))
    compare(models).to_html(tmp_path / "page.html")
    alarm = (tmp_path / "page.html").read_text(encoding="utf-8").split("<main>")[0]
    assert "20 contradictions" in alarm
    assert "wrong: " in alarm
    assert "sound: " not in alarm


@pytest.mark.slow
def test_paired_differences_stand_on_the_page_and_significant_ones_are_bold(tmp_path: Path):
    comparison = compared()
    comparison.to_html(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    section = text[text.index('<section id="differences">') : text.index('<section id="trade-off">')]
    rows = section.split("<tr>")[2:]
    tests = comparison.differences()
    assert len(rows) == len(tests)
    for row, test in zip(rows, tests.to_dict("records"), strict=True):
        assert f'<td class="number">{100 * test["difference"]:+.1f}</td>' in row
        assert ("<strong>" in row) == (test["p_holm"] <= 0.05)
    assert 0 < section.count("<strong>") < len(rows)


def test_an_unfinished_run_has_a_colour_of_its_own(tmp_path: Path):
    configuration = {**MANIFEST["configuration"], "units": 3}
    Evaluation({**MANIFEST, "configuration": configuration}, [certified("ibp", "2", [0.1])]).to_html(
        tmp_path / "p.html"
    )
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert '<p class="verdict unfinished"><strong>This run is not finished:</strong> 1 of 3 units' in text
    rules = dict(re.findall(r"^\.(verdict|unfinished) \{.*?border-left(?:-color)?: (?:3px solid )?(.*?);", text, re.M))
    assert rules == {"verdict": "var(--good)", "unfinished": "var(--wait)"}
