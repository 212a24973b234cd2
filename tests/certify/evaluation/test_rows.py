"""Statements of a row: one status, one meaning of its radius, and the same row with any part of the data."""

import dataclasses
import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from oracles.unbounded import LogGamma
from torch import Tensor, nn

from bounds import InvalidInput
from certify import Evaluation, evaluate
from certify.attacks import gradient_masking
from certify.attacks.studies.smoothed import SmoothedWitness
from certify.evaluation.rows import witness_rows
from certify.methods import (
    BY_NAME,
    Clever,
    CompleteSearch,
    IntervalBounds,
    Lipschitz,
    Method,
    MinimalPerturbation,
    Problem,
    RandomNoise,
    SmoothedAttack,
    Smoothing,
    Verify,
)
from certify.report.columns import bound
from certify.report.words import in_levels
from certify.results import Certificate, Witness

BASE = {"norm": 2.0, "subject": "smoothed(gaussian(sigma=0.3))", "method": "m"}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval()


def problem(count: int = 6) -> tuple[nn.Module, Tensor, Tensor]:
    model, x = network(), torch.rand(count, 4, generator=torch.Generator().manual_seed(1))
    return model, x, model(x).argmax(1)


class Fixed(Method, frozen=True, kw_only=True):
    """Results made beforehand: for every input the same."""

    name = "fixed"
    norms = (2.0,)
    rows_per_unit = 3

    abstained: bool = False
    found: bool = True
    shift: int = 0
    radius: float = 0.4

    def run(self, problem: Problem, rows: slice, norm: float) -> Certificate:
        """Certificates of one radius for the label moved by so many classes."""
        label = (problem.y[rows] + self.shift) % problem.num_classes
        abstained = torch.full_like(label, self.abstained, dtype=torch.bool)
        radius = torch.full(label.shape, 0.0 if self.abstained else self.radius, dtype=torch.float64)
        return Certificate(label=label, radius=radius, abstained=abstained, alpha=0.0, **BASE)


class FixedWitness(Fixed, frozen=True, kw_only=True):
    """Witnesses against a smoothed classifier: at the clean input where its class is not the label."""

    name = "fixed_witness"

    def run(self, problem: Problem, rows: slice, norm: float) -> Witness:
        """A witness at distance 0 where the prediction is wrong, one step away or none elsewhere."""
        certificate, clean = super().run(problem, rows, norm), problem.x[rows]
        wrong = (certificate.label != problem.y[rows]) & ~certificate.abstained
        found = wrong | self.found
        adversarial = clean + 0.5 * (found & ~wrong).unsqueeze(1)
        distance = (adversarial.double() - clean.double()).norm(dim=1).masked_fill(~found, math.inf)
        return SmoothedWitness(
            **{"label": certificate.label, "distance": distance, "adversarial": adversarial, "found": found},
            **{"adversarial_label": (problem.y[rows] + 1) % 3, "queries": 1, "alpha": 0.001, "n": 9, "draws": 2},
            abstained=certificate.abstained,
            **BASE,
        )


@pytest.mark.parametrize("found", [True, False])
@pytest.mark.parametrize("shift", [0, 1])
def test_an_attack_on_an_abstaining_prediction_is_no_misclassification(found: bool, shift: int, tmp_path: Path):
    """Its label is only the class with the most votes; the status was taken from that, the distance was not."""
    evaluation = evaluate(*problem(), norms=[2], methods=[FixedWitness(abstained=True, found=found, shift=shift)])
    table = evaluation.to_dataframe()
    assert set(table.status) == {"found" if found else "not found"}
    assert table.predicted.isna().all()
    assert not table.correct.any()
    (curve,) = evaluation.curves()
    assert curve.at([0.9, 1.1]).tolist() == [1.0, 0.0 if found else 1.0]  # moved by 0.5 in four entries: 1
    evaluation.to_html(tmp_path / "page.html")
    assert evaluation.check() == []


@pytest.mark.parametrize("shift", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_smoothed_attack_where_everything_abstains_is_shown(shift: int, tmp_path: Path):
    model, x, y = problem()
    chosen = [Smoothing(n=4, n0=2), SmoothedAttack(draws=2, steps=1, restarts=1, n=4)]  # too few for any statement
    evaluation = evaluate(model, x, (y + shift) % 3, norms=[2], methods=chosen)
    assert set(evaluation.to_dataframe().status) == {"abstained", "not found"}
    assert [float(curve.at(0.0)) for curve in evaluation.curves()] == [1.0, 0.0]
    evaluation.save(tmp_path / "run")
    Evaluation.load(tmp_path / "run").to_html(tmp_path / "page.html")


def test_certificates_around_wrong_predictions_contradict_nothing():
    """Each has a radius above 0 and a witness at 0; compared, all would be contradictions."""
    for shift, compared in ((0, 6), (1, 0)):
        evaluation = evaluate(*problem(), norms=[2], methods=[Fixed(shift=shift), FixedWitness(shift=shift)])
        stored = [row for record in evaluation.records for row in record["rows"] if record["kind"] == "certificate"]
        assert {row["certified_radius"] for row in stored} == {0.4}
        assert evaluation.comparisons() == compared
        assert evaluation.check() == []
    wide = evaluate(*problem(), norms=[2], methods=[Fixed(radius=1.5), FixedWitness()])
    assert len(wide.check()) == 6  # or it could not fail


SMALL = {
    method.name: method
    for method in (
        Smoothing(n=60, n0=5),
        *(BY_NAME[name](tolerance=0.2) for name in ("ibp", "crown", "crown_ibp", "alpha_crown")),
        MinimalPerturbation(steps=2, restarts=1),
        SmoothedAttack(draws=2, steps=1, restarts=1, n=40),
        Clever(num_batches=2, batch_size=4),
        Lipschitz(),
        RandomNoise(draws=50),
        Verify(epsilon=0.01, steps=2),
        CompleteSearch(tolerance=0.2, timeout=1.0),
    )
}
QUICK = ("smoothing", "ibp", "attack", "clever")
LINEAR = ("crown", "crown_ibp", "alpha_crown", "lipschitz", "verify", "complete")
ALONE = [
    pytest.param(name, supported, labels, marks=() if name in QUICK and labels == "wrong" else pytest.mark.slow)
    for name in (name for name in BY_NAME if BY_NAME[name].norms and name != "quantised_copy")  # which needs a copy
    for supported in (True, False)
    for labels in ("right", "wrong", "single")
]


@pytest.mark.parametrize(
    ("names", "norms", "count"),
    [
        (("smoothing", "ibp", "attack"), (2, math.inf), 12),  # units of ten inputs, and a rest
        pytest.param(
            (*LINEAR, "smoothing", "ibp", "attack", "smoothed_attack"), (0, 1, 2, math.inf), 6, marks=pytest.mark.slow
        ),
    ],
)
def test_the_table_gives_the_numbers_of_the_curves(names: tuple[str, ...], norms: tuple[float, ...], count: int):
    """Radii of wrong predictions stood in the table: 0 by interval bounds, that of the wrong class by smoothing."""
    model, x, y = problem(count)
    y[::3] = (y[::3] + 1) % 3
    methods = [SMALL[name] for name in names]
    evaluation = evaluate(model, x, y, norms=norms, methods=methods)
    table = evaluation.to_dataframe()
    assert {(curve.method, curve.norm) for curve in evaluation.curves()} == {
        (method.name, norm) for method in methods for norm in norms if norm in method.norms
    }
    wrong = table[table["index"] % 3 == 0].certified_radius.dropna()
    assert len(wrong)
    assert (wrong == 0).all()
    assert (table.correct == (table.predicted == table.label).fillna(False)).all()
    for curve in evaluation.curves():
        part = table[(table.method == curve.method) & (table.norm == curve.norm)]
        for radius in (0.0, 1e-3, 0.02, 0.1, 0.3, 1.0):
            if "attack" in curve.method:
                assert (part.attack_distance > radius).mean() == float(curve.at(radius))
            else:
                assert (part.correct & (part.certified_radius >= radius)).mean() == float(curve.at(radius))
                assert radius == 0 or (part.certified_radius >= radius).mean() == float(curve.at(radius))
    if "smoothing" in names:
        raw = [row for record in evaluation.records if record["method"] == "smoothing" for row in record["rows"]]
        stored = [row["certified_radius"] for row in raw if row["status"] == "misclassified"]
        assert max(stored) > 0  # or nothing was at stake


@pytest.mark.slow
def test_radii_of_8_bit_images_are_printed_in_their_levels_too(tmp_path: Path):
    model = nn.Linear(2, 2).requires_grad_(False)
    model.weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]])), model.bias.zero_()
    x, y = torch.tensor([[204.0, 51.0]]) / 255, torch.tensor([0])  # 76.5 levels from the boundary
    options = {
        "norms": [math.inf, 0],
        "methods": [Verify(epsilon=2 / 255, method="ibp", attack=False), SMALL["attack"]],
    }
    evaluation = evaluate(model, x, y, **options)
    texts = {(line.method, line.norm): bound(line, line.median()) for line in evaluation.lines()}
    assert texts["verify", math.inf] == "0.007843 (2/255)"
    assert texts["attack", math.inf] in ("0.3 (76.5/255)", "0.3001 (76.6/255)")
    assert "255" not in texts["attack", 0]  # a number of entries
    evaluation.to_html(tmp_path / "page.html")
    assert "0.007843 (2/255)" in (tmp_path / "page.html").read_text(encoding="utf-8")
    options = {"norms": math.inf, "methods": options["methods"][0]}
    for other in (evaluate(model, x * 0.999, y, **options), evaluate(model, x, y, low=-1.0, **options)):
        assert not any("/255" in bound(line, line.median()) for line in other.lines())


@pytest.mark.parametrize("value", [1e-9, 8 / 255, 0.1, 1 / 3, 0.5, 255.1 / 255, 3.3])
def test_printed_levels_are_bounds_still(value: float):
    low, high = (Fraction(in_levels(value, up=up).removesuffix("/255")) / 255 for up in (False, True))
    exact = Fraction(value)
    assert low <= exact * (1 + Fraction(1, 2**52))  # a float that stands for k / 255 is told as that
    assert high >= exact * (1 - Fraction(1, 2**52))
    assert high - low <= exact / 100  # three digits


@pytest.mark.parametrize(("name", "supported", "labels"), ALONE)
def test_every_method_may_run_alone(name: str, supported: bool, labels: str, tmp_path: Path):
    model, x, y = problem(3)
    if not supported:
        model = nn.Sequential(model, LogGamma()).eval()
        y = model(x).argmax(1)
    x, y = (x[:1], y[:1]) if labels == "single" else (x, y if labels == "right" else (y + 1) % 3)
    norms = [norm for norm in (2, math.inf) if norm in SMALL[name].norms][:1]
    evaluation = evaluate(model, x, y, norms=norms, methods=[SMALL[name]])
    evaluation.to_html(tmp_path / "page.html")
    refused = not supported and name in ("ibp", *LINEAR) and labels != "wrong"  # of which nothing is bounded
    reason = "cannot treat a layer of the model" if refused else "gave estimates, which bound nothing"
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert (f"There is no curve to draw: {name} {reason}." in text) == (refused or name in ("clever", "noise"))
    assert len(evaluation.summary()) == 1
    assert evaluation.unfinished() is None


def test_an_evaluation_without_results_is_shown(tmp_path: Path):
    empty = Evaluation(evaluate(*problem(), norms=[2], methods="ibp").manifest, [])
    assert empty.unfinished() == (0, 1)
    assert (len(empty.to_dataframe()), len(empty.summary()), empty.curves(), empty.check()) == (0, 0, [], [])
    assert math.isnan(empty.clean_accuracy())
    empty.to_html(tmp_path / "page.html")
    assert "no unit of work is finished" in (tmp_path / "page.html").read_text(encoding="utf-8")


# Parts of a data set


def rows_of(*evaluations: Evaluation) -> list[dict]:
    rows = [row for evaluation in evaluations for row in evaluation.rows()]
    rows = [{key: value for key, value in row.items() if key not in ("seconds", "queries")} for row in rows]
    return sorted(rows, key=lambda row: (row["norm"], row["method"], row["index"]))


@pytest.mark.slow
def test_parts_of_a_data_set_are_the_whole_bit_for_bit():
    """Each part used to begin at index 0, with the noise of the first inputs, and to ask its own inputs for a grid."""
    model, x, y = problem(130)
    x[:100] = (x[:100] * 255).round() / 255  # the first part alone would draw integer noise
    y = model(x).argmax(1)
    chosen = [Smoothing(n=60, n0=5), IntervalBounds(), MinimalPerturbation(steps=2, restarts=1)]
    whole = evaluate(model, x, y, methods=chosen, seed=5)
    parts = [
        evaluate(model, x[rows], y[rows], methods=chosen, seed=5, first_index=rows.start, on_grid=False)
        for rows in (slice(0, 100), slice(100, 130))
    ]
    assert rows_of(*parts) == rows_of(whole)
    assert [part.unfinished() for part in parts] == [None, None]
    assert parts[1].manifest["configuration"]["first_index"] == 100
    assert {part.manifest["configuration"]["on_grid"] for part in [whole, *parts]} == {False}
    alone = evaluate(model, x[100:], y[100:], methods=chosen[:1], norms=[2], seed=5)
    assert [row["counts"] for row in alone.rows()] != [row["counts"] for row in rows_of(whole) if "counts" in row][100:]


def test_the_noise_of_an_input_is_that_of_its_place_wherever_a_part_begins():
    model, x, y = problem(23)
    whole = evaluate(model, x, y, methods=[Smoothing(n=60, n0=5)], norms=[2])
    parts = [
        evaluate(model, x[rows], y[rows], methods=[Smoothing(n=60, n0=5)], norms=[2], first_index=rows.start)
        for rows in (slice(0, 7), slice(7, 8), slice(8, 23))
    ]
    assert rows_of(*parts) == rows_of(whole)


def test_draws_of_attacks_do_not_coincide_between_seeds():
    """Seeds were added to places, so that input 50 of seed 0 had the draws of input 0 of seed 50."""
    model, x, y = problem()
    settings = {"model": model, "x": x, "y": y, "low": 0.0, "high": 1.0, "num_classes": 3, "batch_size": 9}
    states = [
        Problem(**settings, seed=seed).generator(place).get_state().numpy().tobytes()
        for seed in (0, 10, 50)
        for place in (0, 10, 50)
    ]
    assert len(set(states)) == 9
    assert torch.equal(
        Problem(**settings, seed=7).generator().get_state(), torch.Generator().manual_seed(7).get_state()
    )


# Names, numbers, representations


@pytest.mark.slow
def test_methods_and_norms_are_taken_as_people_write_them(tmp_path: Path):
    model, x, y = problem(2)
    for methods in ("ibp", ["ibp"], IntervalBounds, [IntervalBounds], IntervalBounds(), (IntervalBounds(),)):
        evaluation = evaluate(model, x, y, norms=2, methods=methods)
        assert set(evaluation.to_dataframe().method) == {"ibp"}
    evaluation.to_html(tmp_path / "no" / "such" / "folder" / "page.html")
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match=r"page .*file/page\.html cannot be written: "):
        evaluation.to_html(tmp_path / "file" / "page.html")


def test_units_count_by_their_names():
    evaluation = evaluate(*problem(23), norms=[2], methods=[Smoothing(n=4, n0=2), IntervalBounds()])
    manifest, records = evaluation.manifest, list(evaluation.records)
    names = ["smoothing/2/0-10", "smoothing/2/10-20", "smoothing/2/20-23", "ibp/2/0-23"]
    assert [record["unit"] for record in records] == names
    assert evaluation.unfinished() is None
    foreign = [{**records[0], "unit": unit} for unit in ("smoothing/2/0-11", "smoothing/inf/0-10", "crown/2/0-23", "x")]
    foreign += [{**records[0], "unit": "smoothing/2/30-40"}, {**records[0], "unit": "smoothing/2/00-10"}]
    for less in range(4):
        given = records[:less] + records[less + 1 :]
        assert Evaluation(manifest, [*given, *foreign, given[0]]).unfinished() == (3, 4)
        assert len(Evaluation(manifest, [*given, given[0]]).rows()) == len(Evaluation(manifest, given).rows())


def test_a_representation_is_short():
    evaluation = evaluate(*problem(23), norms=[2], methods=[Smoothing(n=4, n0=2), IntervalBounds()])
    assert repr(evaluation) == "Evaluation(23 inputs, 4 of 4 units: ibp in l2, smoothing in l2)"


class Blinded(MinimalPerturbation, frozen=True, kw_only=True):
    """An attack that was blind for the first input of each unit."""

    def run(self, problem: Problem, rows: slice, norm: float) -> Witness:
        """The witnesses of the attack, with doubts."""
        witness = super().run(problem, rows, norm)
        blind = torch.arange(len(witness)) == 0
        symptoms = tuple("stalled" if i == 1 else "" for i in range(len(witness)))
        return dataclasses.replace(witness, blind=blind, symptoms=symptoms)


def test_blind_attacks_stand_in_records_tables_and_page(tmp_path: Path):
    evaluation = evaluate(*problem(3), norms=[2], methods=[Blinded(steps=2, restarts=1), IntervalBounds()])
    evaluation.save(tmp_path / "run")
    loaded = Evaluation.load(tmp_path / "run")
    table = loaded.to_dataframe().set_index("method")
    assert table.loc["attack"].blind.tolist() == [True, False, False]
    summary = loaded.summary().set_index("method")
    assert (summary.blind["attack"], summary.symptoms["attack"]) == (1, "stalled")
    loaded.to_html(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count(", blind</td>") == 1
    assert "<small>1 blind</small>" in text
    assert "attack in l2 was blind for 1 of 3 inputs, all gradients being 0" in text
    assert "attack in l2 shows signs of masked gradients (stalled)" in text


def test_several_symptoms_of_a_row_are_told_apart():
    class Doubtful(MinimalPerturbation, frozen=True, kw_only=True):
        def run(self, problem: Problem, rows: slice, norm: float) -> Witness:
            witness = super().run(problem, rows, norm)
            return dataclasses.replace(witness, symptoms=("zero_gradient+nonfinite_gradient", "zero_gradient", ""))

    evaluation = evaluate(*problem(3), norms=[2], methods=[Doubtful(steps=2, restarts=1)])
    assert evaluation.to_dataframe().symptoms.tolist() == [
        ["zero_gradient", "nonfinite_gradient"],
        ["zero_gradient"],
        [],
    ]
    assert evaluation.summary().symptoms.tolist() == ["zero_gradient, nonfinite_gradient"]


@pytest.mark.slow
def test_symptoms_of_masked_gradients_stand_on_the_page(tmp_path: Path):
    model, x, y = problem(3)
    evaluation = evaluate(model, x, y, norms=[2], methods="ibp")

    class Rounded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return model((x * 255).round() / 255)

    report = gradient_masking(Rounded(), x, y, norm=math.inf, epsilon=0.01, steps=2, queries=4)
    evaluation.to_html(tmp_path / "page.html", masking=report)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "zero gradient (100 % of the rows)" in text
    assert all(flag.replace("_", " ") in text for flag in report.flags)
    evaluation.to_html(tmp_path / "page.html")
    assert "zero gradient" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_witness_without_a_word_on_gradients_has_none_in_its_row():
    result = FixedWitness().run(
        Problem(**dict(zip(("model", "x", "y"), problem(), strict=True)), **REST), slice(0, 2), 2
    )
    assert "blind" not in witness_rows(result, problem()[1][:2], problem()[2][:2], [2.0])[0]


REST = {"low": 0.0, "high": 1.0, "num_classes": 3, "seed": 0, "batch_size": 9}
