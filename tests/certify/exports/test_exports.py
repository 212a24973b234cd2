"""Exports: LaTeX that is well formed, Markdown, JSON and CSV with the numbers of the run, figures with their fonts."""

import json
import math
import re
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from oracles.compared import NOT, attacked, evaluation, proved, smoothed

from bounds import InvalidConfiguration, InvalidInput
from certify import Evaluation, compare
from certify.exports import files
from certify.exports.figures import save_figure
from certify.exports.files import formats_of
from certify.exports.sheets import SPECIAL, Sheet, escaped, flat, latex, markdown, plain_records

HARD = '50% of a_b & c#1 {x} ~ ^ \\ $ <|> "l∞" ≥ — ×'  # noqa: RUF001


def run() -> Evaluation:
    radii = [0.5, 0.1, NOT, 0.2, 0.0, 0.3]
    return evaluation(proved(radii), smoothed(radii), attacked([0.6, 0.7, 0.0, math.inf, 0.9, 0.6]), norms=["2", "inf"])


def well_formed(text: str) -> None:
    """Balanced environments and braces, rows of one width, no special sign that is not escaped."""
    opened: list[str] = []
    for command, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if command == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert opened == []
    bare = re.sub(r"\\.", "", re.sub(r"^%.*$", "", text, flags=re.MULTILINE))  # without comments and escaped signs
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert not set(bare) & set("#%^_")
    assert text.isascii()
    (columns,) = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", text)
    rows = re.findall(r"^ {4}(.*) \\\\$", text, re.MULTILINE)
    assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(columns)}
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(f"\\{rule}") == 1


def sheet(*cells: str, bold: list[bool] | None = None) -> Sheet:
    text = pd.DataFrame({"name_of": list(cells), "value": [str(i) for i in range(len(cells))]})
    marks = None if bold is None else pd.DataFrame({"name_of": bold, "value": [False] * len(cells)})
    return Sheet(name="a_b", data=text, caption="Shares in %.", text=text, bold=marks)


def test_latex_is_well_formed_whatever_stands_in_the_cells():
    text = latex(sheet(HARD, "line\nbreak", "plain", bold=[False, False, True]))
    well_formed(text)
    assert "\\textbf{plain}" in text
    assert r"a\_b \& c\#1 \{x\}" in text
    assert "line break" in text
    assert r"\begin{tabular}{lr}" in text
    assert r"\label{tab:a-b}" in text
    assert "\\usepackage{booktabs}" in text
    for sign in SPECIAL:
        well_formed(latex(sheet(sign)))


@pytest.mark.parametrize("wrong", ["50% more", "a_b", "a & b", "{", "$x"])
def test_ill_formed_latex_is_seen(wrong: str):
    """The twin of the test above."""
    with pytest.raises(AssertionError):
        well_formed(latex(sheet("PLACE")).replace("PLACE", wrong))


def test_letters_of_other_languages_stay():
    assert escaped("Größe 東") == "Größe 東"


def test_markdown_has_one_cell_per_column():
    text = markdown(sheet("a|b", "c*d_e", bold=[True, False]))
    assert text.splitlines() == [
        "Shares in %.",
        "",
        "| name\\_of | value |",
        "| --- | ---: |",
        "| **a\\|b** | 0 |",
        "| c\\*d\\_e | 1 |",
    ]


def test_tables_for_programs_hold_plain_cells():
    data = pd.DataFrame({"a": [[1, 2], None], "b": [{"x": 1.5}, {}], "c": [math.inf, 1.0], "d": [np.int64(3), pd.NA]})
    assert flat(data).a.tolist()[0] == "[1,2]"
    assert flat(data).b.tolist() == ['{"x":1.5}', "{}"]
    assert plain_records(data) == [
        {"a": [1, 2], "b": {"x": 1.5}, "c": None, "d": 3},
        {"a": None, "b": {}, "c": 1.0, "d": None},
    ]


def test_exports_hold_the_numbers_of_the_run(tmp_path: Path):
    written = run().export(tmp_path, "csv,json,latex,markdown")
    assert all(path.is_file() for path in written)
    table, rows = run().to_dataframe(), pd.read_csv(tmp_path / "rows.csv")
    assert rows.certified_radius.tolist() == pytest.approx(table.certified_radius.tolist(), nan_ok=True)
    assert rows.attack_distance.tolist() == pytest.approx(table.attack_distance.tolist(), nan_ok=True)
    stored = json.loads((tmp_path / "export.json").read_text())
    assert [row["status"] for row in stored["tables"]["rows"]] == table.status.tolist()
    assert stored["manifest"]["data_sha256"] == "ab" * 32
    curves = pd.read_csv(tmp_path / "curves.csv")
    for curve in run().curves():
        part = curves[(curves.method == curve.method) & (curves.subject == curve.subject)]
        assert part.accuracy.tolist() == pytest.approx(curve.at(part.radius.tolist()).tolist())
    well_formed((tmp_path / "accuracy_l2.tex").read_text())
    well_formed((tmp_path / "summary.tex").read_text())
    assert not (tmp_path / "rows.tex").exists()
    assert "| ibp | base | certified, proved | 83.3 |" in (tmp_path / "accuracy_l2.md").read_text()


def test_a_comparison_sets_its_best_in_bold(tmp_path: Path):
    a, b = evaluation(proved([0.5] * 30 + [NOT] * 10)), evaluation(proved([0.5] * 10 + [NOT] * 30))
    compare({"a_1": a, "b": b}).export(tmp_path, "latex,markdown,csv,json", radii=[0.0, 0.4])
    text = (tmp_path / "accuracy_l2.tex").read_text()
    well_formed(text)
    assert r"the models themselves & proved & a\_1 & \textbf{75.0} & \textbf{75.0} \\" in text
    assert r"b & 25.0 & 25.0 \\" in text
    well_formed((tmp_path / "differences.tex").read_text())
    assert "**75.0**" in (tmp_path / "accuracy_l2.md").read_text()
    assert len(pd.read_csv(tmp_path / "differences.csv")) == 2


@pytest.mark.slow
def test_figures_have_the_width_of_a_column_and_their_fonts(tmp_path: Path):
    run().export(tmp_path, "pdf,svg,png", width=3.25)
    pdf = (tmp_path / "curves_l2.pdf").read_bytes()
    (box,) = re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", pdf)
    assert float(box[0]) == pytest.approx(3.25 * 72, abs=0.5)
    assert b"/FontFile2" in pdf  # TrueType, as font type 42 embeds it
    assert b"/Type3" not in pdf
    svg = (tmp_path / "curves_l2.svg").read_text()
    assert f'width="{3.25 * 72:g}pt"' in svg
    assert "<text" not in svg  # outlines, which need no font
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.[ps][dv][fg]")}
    run().export(tmp_path, "pdf,svg", width=3.25)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_a_figure_comes_back_as_it_was_and_its_words_stay_readable(tmp_path: Path):
    figure = Figure(figsize=(8, 4))
    axes = figure.subplots()
    (line,) = axes.plot([0, 1], linewidth=2.0, markersize=6.0)
    title = axes.set_title("title", fontsize=9)
    seen: list[tuple[float, float]] = []
    original = figure.savefig
    figure.savefig = lambda *rest, **more: (
        seen.append((title.get_fontsize(), line.get_linewidth())),
        original(*rest, **more),
    )
    save_figure(figure, tmp_path / "a.svg", 2.0)
    assert seen == [(6.5, 0.5)]
    assert (title.get_fontsize(), line.get_linewidth(), *figure.get_size_inches()) == (9, 2.0, 8, 4)


def test_formats_are_checked_before_anything_is_written(tmp_path: Path):
    assert formats_of("csv, json,csv") == ["csv", "json"]
    with pytest.raises(InvalidInput, match=r"formats must be some of csv, parquet, .*, got xls"):
        run().export(tmp_path / "out", ["csv", "xls"])
    with pytest.raises(InvalidInput, match="got none"):
        formats_of([])
    assert not (tmp_path / "out").exists()
    with pytest.raises(InvalidInput, match="width must be"):
        run().export(tmp_path / "out", "csv", width=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidConfiguration, match=r"file cannot be written"):
        run().export(tmp_path / "file", "csv")


def test_parquet_says_what_it_needs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match=r"pip install 'certify-bounds\[parquet\]', or choose csv"):
        formats_of("parquet")


def test_parquet_has_the_tables_of_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With a stand-in for pyarrow, which is an extra."""
    written: dict[str, pd.DataFrame] = {}
    monkeypatch.setattr(files, "find_spec", lambda name: types.SimpleNamespace())
    monkeypatch.setattr(pd.DataFrame, "to_parquet", lambda self, path, index: written.update({Path(path).name: self}))
    run().export(tmp_path, "parquet")
    assert set(written) == {"rows.parquet", "curves.parquet", "summary.parquet", "accuracy_l2.parquet"}
    assert written["rows.parquet"].status.tolist() == run().to_dataframe().status.tolist()
    assert not any(isinstance(cell, list | dict) for cell in written["rows.parquet"].to_numpy().ravel())


def test_an_evaluation_is_short_in_a_notebook():
    page = run()._repr_html_()
    assert len(page) < 3000
    assert page.count("<table") == 1
    assert "Evaluation(6 inputs, 3 of 3 units" in page
    assert "\n" not in repr(run())
    assert page.count("<tr") == 4
