"""Models compared on the same inputs: the numbers of their tables, paired tests, ties, and what is refused."""

import math
from pathlib import Path

import pytest
import torch
from oracles.compared import NOT, attacked, evaluation, proved, smoothed

import certify
from bounds import InvalidInput
from bounds.statistics.paired import holm, mcnemar_p_value
from certify import Comparison, Evaluation, compare, reference
from certify.methods import IntervalBounds, MinimalPerturbation, Smoothing

COUNT = 40
WEAK = [0.1] * 10 + [0.3] * 10 + [NOT] * 20
STRONG = [0.1] * 5 + [0.5] * 30 + [NOT] * 5
OTHER = "smoothed(gaussian(sigma=0.5))"


def two() -> dict[str, Evaluation]:
    weak, strong = attacked([0.6] * COUNT), attacked([0.6] * 30 + [math.inf] * 10)
    return {
        "weak": evaluation(proved(WEAK), weak, smoothed(WEAK)),
        "strong": evaluation(proved(STRONG), strong, smoothed(STRONG)),
    }


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(two())


def test_accuracies_are_those_of_the_rows(comparison: Comparison):
    """Every number, from a query of the evaluation's own table."""
    table = comparison.to_dataframe([0.0, 0.1, 0.2, 0.5, 0.6])
    rows = {name: one.to_dataframe() for name, one in two().items()}
    assert len(table) == 5 * 6
    for line in table.itertuples():
        about = rows[line.model.partition(",")[0]]
        about = about[about.method == line.methods]
        counted = about.attack_distance > line.radius
        if line.methods != "attack":
            counted = about.correct & (about.certified_radius >= line.radius)
        assert (line.count, line.accuracy) == (counted.sum(), counted.mean())
        assert line.lower <= line.accuracy <= line.upper
    wide = comparison.at([0.1, 0.5])
    assert list(wide.columns) == [0.1, 0.5]
    assert wide.loc[2.0, "the models themselves", "proved", "strong"].tolist() == [35 / 40, 30 / 40]
    assert comparison.at(0.5).shape == comparison.at([0.5, 0.5]).shape == (6, 1)


def test_the_best_of_several_methods_counts_for_each_input():
    """Best of proofs is the largest radius, of attacks the nearest example; probable bounds add their errors up."""
    first = evaluation(
        *[proved([0.1, 0.4, NOT]), proved([0.2, 0.3, NOT], method="crown")],
        *[attacked([0.9, 0.5, 0.0]), attacked([0.7, 0.8, 0.0], method="apgd")],
        *[smoothed([0.1, 0.2, NOT]), smoothed([0.3, 0.1, NOT], method="more")],
    )
    second = evaluation(proved([0.1] * 3), attacked([0.6] * 3), smoothed([0.1] * 3))
    found = {one.promise: one for one in compare({"a": first, "b": second}).contenders if one.model == "a"}
    assert found["proved"].curve.limit.tolist() == [0.2, 0.4, -math.inf]
    assert found["proved"].methods == ("crown", "ibp")
    assert found["no attack found"].curve.limit.tolist() == [0.7, 0.5, 0.0]
    assert found["with probability"].curve.limit.tolist() == [0.3, 0.2, -math.inf]
    assert found["with probability"].curve.alpha == pytest.approx(0.002)
    assert found["proved"].right.tolist() == [True, True, False]
    alone = compare({"a": first, "b": second}, by="method")
    assert {one.name for one in alone.contenders if one.promise == "proved"} == {"a, ibp", "a, crown", "b, ibp"}
    assert {one.curve.alpha for one in alone.contenders if one.promise == "with probability"} == {0.001}


def test_inputs_that_a_method_could_not_treat_are_not_skipped():
    """Pairs of inputs slipped, where one model had a row less than the other."""
    part = proved([0.1, 0.2, 0.3])
    part["rows"] = [row for row in part["rows"] if row["index"] != 1]
    rest = attacked([0.5] * 3)
    found = compare({"a": evaluation(part, rest), "b": evaluation(proved([0.1, 0.2, 0.3]), rest)})
    limits = {one.model: one.curve.limit.tolist() for one in found.contenders if one.promise == "proved"}
    assert limits == {"a": [0.1, -math.inf, 0.3], "b": [0.1, 0.2, 0.3]}


def test_differences_are_paired_by_input(comparison: Comparison):
    table = comparison.differences([0.1, 0.3])
    row = table[(table.promise == "proved") & (table.radius == 0.3)].iloc[0]
    # At 0.3, the weak one has inputs 10 to 19, the strong one 5 to 34.
    assert (row.only_first, row.only_second, row.difference) == (0, 20, -0.5)
    assert row.p_value == mcnemar_p_value(0, 20) == 2 * 0.5**20
    assert row.lower <= -0.5 <= row.upper < 0
    assert table.p_holm.tolist() == holm(table.p_value.tolist())
    assert set(table.classifiers) == {"the models themselves", "smoothed classifiers"}
    assert not any(
        "gaussian" in first and "gaussian" not in second
        for first, second in zip(table["first"], table["second"], strict=True)
    )


def test_the_best_and_its_ties_are_marked():
    """Models that the corrected test does not tell from the best are tied; upper bounds and nothing are never best."""
    close = [0.5] * 33 + [NOT] * 7
    runs = {**two(), "close": evaluation(proved(close), attacked([0.6] * COUNT))}
    table = compare(runs).best([0.4, 2.0])
    marked = table[(table.promise == "proved") & (table.radius == 0.4)].set_index("model").best
    assert marked.to_dict() == {"weak": False, "strong": True, "close": True}
    assert not table[table.promise == "no attack found"].best.any()
    assert not table[table.radius == 2.0].best.any()
    smooth = table[(table.promise == "with probability") & (table.radius == 0.4)]
    assert smooth.best.tolist() == ["strong" in name for name in smooth.model]


def test_smoothed_and_base_classifiers_are_never_paired():
    """Settings of smoothing are compared with each other, and each has its name."""
    a = evaluation(proved(WEAK), smoothed(WEAK), smoothed(STRONG, method="wide", subject=OTHER))
    found = compare({"a": a, "b": evaluation(proved(STRONG), smoothed(STRONG))})
    names = [one.name for one in found.contenders if one.panel.kind == "smoothed"]
    assert names == ["a, gaussian(sigma=0.25)", "a, gaussian(sigma=0.5)", "b, gaussian(sigma=0.25)"]
    with pytest.raises(InvalidInput, match=r"nothing to compare: 'a' has proved \(l2, the models.*'b' has with prob"):
        compare({"a": evaluation(proved(WEAK)), "b": evaluation(smoothed(WEAK))})


def test_frozen_features_have_a_panel_of_their_own():
    """A statement about fewer perturbations is no better bound of all."""
    kept = proved(STRONG)
    kept["rows"] = [{**row, "frozen": "[0]"} for row in kept["rows"]]
    with pytest.raises(InvalidInput, match="nothing to compare"):
        compare({"a": evaluation(proved(WEAK)), "b": evaluation(kept)})


def other_places() -> Evaluation:
    moved = proved(WEAK)
    moved["rows"] = [{**row, "index": row["index"] + 7} for row in moved["rows"]]
    return evaluation(moved)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (evaluation(proved(WEAK), data="cd" * 32), r"other inputs or labels \(SHA-256 cdcdcdcd, not abababab\)"),
        (evaluation(proved(WEAK[:30]), data="cd" * 32), r"other inputs or labels \(30 against 40\)"),
        (evaluation(proved(WEAK), high=2.0), r"another box of valid inputs \(high = 2.0, not 1.0\)"),
        (evaluation(proved(WEAK), units=3), r"'b' is unfinished \(1 of 3 units\): continue it with certify resume"),
        (evaluation(proved(WEAK), data=""), "'b' does not state data_sha256"),
        (evaluation(proved(WEAK, norm="inf")), r"nothing to compare: 'a' has proved \(l2, .*'b' has proved \(l∞"),
        (other_places(), "stand at other places of the data set"),
        ("three", "holds no run"),
        (3, "'b' must be an Evaluation or a run directory, got int"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(other: object, said: str):
    with pytest.raises(ValueError, match=said) as refused:
        compare({"a": evaluation(proved(WEAK)), "b": other})
    assert "\n" not in str(refused.value)


def test_wrong_arguments_are_refused():
    with pytest.raises(InvalidInput, match="at least two evaluations, got 1"):
        compare({"a": evaluation(proved(WEAK))})
    with pytest.raises(InvalidInput, match="must be a mapping from names"):
        compare([evaluation(proved(WEAK))])
    with pytest.raises(InvalidInput, match="by must be one of model, method, got 'norm'"):
        compare(two(), by="norm")
    both = {name: evaluation(proved(WEAK), proved(WEAK, norm="inf")) for name in "ab"}
    with pytest.raises(InvalidInput, match="norm must be one of 2, inf, got None"):
        compare(both).plot()
    with pytest.raises(InvalidInput, match="radius must be a finite number of at least"):
        compare(two()).at(-0.1)


def test_words_are_short(comparison: Comparison):
    assert repr(comparison) == "Comparison(weak, strong: 40 inputs, l2, 6 curves)"
    assert "<table" in comparison._repr_html_()
    assert len(comparison._repr_html_()) < 5000


@pytest.mark.slow
def test_two_networks_from_evaluation_to_files(tmp_path: Path):
    chosen = [Smoothing(n=200, n0=20), IntervalBounds(), MinimalPerturbation(steps=4, restarts=1)]
    for name in ("pgd", "ibp"):
        certify.evaluate(*reference.load(name, 10), methods=chosen, output=tmp_path / name)
    found = compare({name: tmp_path / name for name in ("pgd", "ibp")})
    curves = {(curve.norm, curve.method): curve for curve in Evaluation.load(tmp_path / "ibp").curves()}
    for one in found.contenders:
        if one.model == "ibp":
            radii = torch.linspace(0, 0.5, 7).tolist()
            assert one.curve.at(radii).tolist() == curves[one.panel.norm, one.methods[0]].at(radii).tolist()
    written = found.export(tmp_path / "out", "csv,markdown")
    assert {path.suffix for path in written} == {".csv", ".md"}
    assert all(path.stat().st_size > 100 for path in written)
