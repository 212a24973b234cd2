"""Accuracy curves counted by hand."""

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from oracles.devices import elsewhere
from torch import Tensor

from bounds import InvalidInput, clopper_pearson_interval
from certify import AttackedAccuracyCurve, Certificate, CertifiedAccuracyCurve, Witness
from certify.curves import AccuracyCurve, round_radii

matplotlib.use("Agg")

LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def certificate(radius: list[float], label: list[int] | None = None, abstained: Sequence[int] = ()) -> Certificate:
    rows = len(radius)
    return Certificate(
        label=LABELS[:rows].clone() if label is None else torch.tensor(label),
        radius=torch.tensor(radius, dtype=torch.float64),
        abstained=torch.tensor([row in abstained for row in range(rows)], dtype=torch.bool),
        norm=2.0,
        alpha=0.001,
        subject="smoothed(gaussian(sigma=0.5))",
        method="smoothing",
    )


def witness(distance: list[float]) -> Witness:
    values = torch.tensor(distance, dtype=torch.float64)
    return Witness(
        label=LABELS[: len(distance)],
        distance=values,
        adversarial=torch.zeros(len(distance), 3),
        found=values.isfinite(),
        adversarial_label=LABELS[: len(distance)],
        norm=math.inf,
        queries=5,
        method="attack",
    )


def certified(radius: list[float], **options) -> CertifiedAccuracyCurve:
    return CertifiedAccuracyCurve.from_certificate(certificate(radius, **options), LABELS[: len(radius)])


# ---------------------------------------------------------------------------------------------------------- counting


def test_certified_accuracy_counted_by_hand():
    """Right with 0.5, 0.25 and 0; wrong with 9; abstaining with 7; right with infinity."""
    curve = certified([0.5, 0.25, 0.0, 9.0, 7.0, math.inf], label=[0, 1, 2, 1, 1, 2], abstained=[4])
    at = {0.0: 4, 0.1: 3, 0.25: 3, 0.2500001: 2, 0.5: 2, 0.51: 1, 7.0: 1, 9.0: 1, 1e300: 1}
    assert curve.counts(list(at)).tolist() == list(at.values())
    assert curve.at(list(at)).tolist() == [count / 6 for count in at.values()]


def test_attacked_accuracy_counted_by_hand():
    """Broken at 0.5 and 0.25; misclassified at 0; not found twice."""
    curve = AttackedAccuracyCurve.from_witness(witness([0.5, 0.25, 0.0, math.inf, math.inf]))
    at = {0.0: 4, 0.2: 4, 0.2499999: 4, 0.25: 3, 0.4: 3, 0.5: 2, 1e300: 2}
    assert curve.counts(list(at)).tolist() == list(at.values())
    assert curve.at(list(at)).tolist() == [count / 5 for count in at.values()]


def test_a_proof_holds_at_its_radius_and_a_witness_breaks_at_its_distance():
    """Catches ``>`` for ``>=`` and the reverse: at 0.5 the first input is proved, the second one broken."""
    assert certified([0.5]).at(0.5) == 1
    assert certified([0.5]).at(math.nextafter(0.5, 1)) == 0
    attacked = AttackedAccuracyCurve.from_witness(witness([0.5]))
    assert attacked.at(math.nextafter(0.5, 0)) == 1
    assert attacked.at(0.5) == 0


@pytest.mark.parametrize("radius", [0.0, 0.3, 100.0])
def test_wrong_and_abstaining_rows_never_count(radius: float):
    assert certified([100.0, 100.0], label=[1, 1], abstained=[1]).counts(radius) == 0
    assert certified([100.0, 100.0], label=[0, 1], abstained=[0, 1]).counts(radius) == 0
    assert certified([100.0, 100.0], label=[0, 1]).counts(radius) == 2


def test_a_radius_that_is_no_number_never_counts():
    assert certified([math.nan, 0.5]).counts([0.0, 0.5]).tolist() == [1, 1]


@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3)])
def test_answers_have_the_shape_of_the_radii(shape: tuple[int, ...]):
    """One radius without dimensions used to fail in the interval."""
    curve = certified([0.5, 0.25, 0.1])
    radii = torch.full(shape, 0.2)
    lower, upper = curve.interval(radii)
    for answer in (curve.at(radii), lower, upper):
        assert answer.shape == shape
        assert answer.dtype == torch.float64
    assert (curve.at(radii) == 2 / 3).all()
    assert curve.counts(radii).dtype == torch.int64
    assert float(curve.interval(0.2)[0]) == lower.flatten()[0]


# ---------------------------------------------------------------------------------------------------------- the band


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_the_band_is_the_exact_interval_of_the_counts(confidence: float):
    """Three of four at 0.2, by hand: 4 p^3 (1 - p) + p^4 = tail at the lower end, 1 - p^4 = tail at the upper one."""
    curve = certified([0.5, 0.25, 0.1, 0.2])
    lower, upper = curve.interval([0.0, 0.2], confidence)
    tail, (p, q) = (1 - confidence) / 2, (lower[1].item(), upper[1].item())
    assert 4 * p**3 * (1 - p) + p**4 == pytest.approx(tail, rel=1e-12)
    assert 1 - q**4 == pytest.approx(tail, rel=1e-12)
    assert lower[0].item() == pytest.approx(tail**0.25, rel=1e-12)
    assert upper[0] == 1
    expected = clopper_pearson_interval(torch.tensor([4, 3]), 4, confidence=confidence)
    assert torch.equal(lower, expected[0])
    assert torch.equal(upper, expected[1])
    assert (lower <= curve.at([0.0, 0.2])).all()
    assert (curve.at([0.0, 0.2]) <= upper).all()


# ------------------------------------------------------------------------------------------------------------ errors


def test_curves_of_nothing_are_refused():
    """Catches an accuracy of 0 / 0, which would be NaN."""
    with pytest.raises(InvalidInput, match="at least one"):
        certified([])
    with pytest.raises(InvalidInput, match="at least one"):
        AttackedAccuracyCurve.from_witness(witness([]))
    with pytest.raises(InvalidInput, match="one limit per input"):
        CertifiedAccuracyCurve(limit=torch.zeros(2, 3), norm=2.0, subject="base", method="ibp")


def test_a_distance_that_is_no_number_is_refused():
    """Catches an input that is taken for never broken: NaN compares false with every radius."""
    with pytest.raises(InvalidInput, match="nan"):
        AttackedAccuracyCurve.from_witness(witness([0.5, math.nan]))


@pytest.mark.parametrize("radius", [-0.1, math.nan, [0.1, -0.1], [0.1, math.nan]])
def test_radii_below_zero_and_nan_are_refused(radius):
    curve = certified([0.5])
    for question in (curve.counts, curve.at, curve.interval):
        with pytest.raises(InvalidInput, match="radius must be at least 0"):
            question(radius)


@pytest.mark.parametrize("labels", [LABELS[:2], LABELS[:3, None], LABELS[:3].view(1, 3)])
def test_labels_have_to_match_the_certificates(labels: Tensor):
    """Catches broadcasting: one label for all rows would count as right wherever it happens to fit."""
    with pytest.raises(InvalidInput, match=r"labels must have shape \(3,\)"):
        CertifiedAccuracyCurve.from_certificate(certificate([0.5, 0.2, 0.1]), labels)


# ------------------------------------------------------------------------------------------------- tables and figures


def test_radii_run_from_zero_to_beyond_the_largest_finite_limit():
    for curve in (certified([0.5, 0.25, math.inf]), AttackedAccuracyCurve.from_witness(witness([0.5, math.inf]))):
        radii = curve.radii(11)
        assert len(radii) == 11
        assert radii[0] == 0
        assert 0.5 < radii[-1] < 0.6
        assert (radii.diff() > 0).all()
    nothing = AttackedAccuracyCurve.from_witness(witness([math.inf, math.inf]))
    assert nothing.radii().isfinite().all()
    assert (nothing.radii().diff() > 0).all()


def test_table():
    curve = certified([0.5, 0.25, 0.1, 0.2])
    table = curve.to_dataframe([0.0, 0.2, 0.3], confidence=0.9)
    assert list(table.columns) == ["radius", "accuracy", "lower", "upper"]
    assert table.radius.tolist() == [0.0, 0.2, 0.3]
    assert table.accuracy.tolist() == [1.0, 0.75, 0.25]
    lower, upper = curve.interval([0.0, 0.2, 0.3], 0.9)
    assert table.lower.tolist() == lower.tolist()
    assert table.upper.tolist() == upper.tolist()
    assert len(curve.to_dataframe()) == len(curve.radii())


def test_what_a_curve_speaks_of_travels_with_it():
    curve = certified([0.5])
    assert (curve.norm, curve.method) == (2.0, "smoothing")
    assert curve.subject == "smoothed(gaussian(sigma=0.5))"
    attacked = AttackedAccuracyCurve.from_witness(witness([0.5]))
    assert (attacked.norm, attacked.subject, attacked.method) == (math.inf, "base", "attack")


def drawn(curve: AccuracyCurve, points: int) -> tuple[np.ndarray, np.ndarray]:
    """The figure as a reader sees it: the height of the line at the middle of each step."""
    ax = Figure().subplots()
    assert curve.plot(ax, radii=curve.radii(points), label="a curve") is ax
    (line,) = ax.lines
    assert line.get_label() == "a curve"
    x, y = line.get_xdata(), line.get_ydata()
    style = line.get_drawstyle()
    assert style in ("steps-pre", "steps-post")
    return (x[:-1] + x[1:]) / 2, y[1:] if style == "steps-pre" else y[:-1]


@pytest.mark.parametrize("points", [3, 10, 57])
def test_the_drawn_line_errs_on_the_safe_side(points: int):
    """Between two radii a lower bound is drawn too low rather than too high, an upper bound the other way round."""
    limits = [0.5, 0.31, 0.3, 0.12, 0.11, 0.0]
    lower, upper = certified(limits), AttackedAccuracyCurve.from_witness(witness(limits))
    middle, height = drawn(lower, points)
    assert (height <= lower.at(middle).numpy()).all()
    middle, height = drawn(upper, points)
    assert (height >= upper.at(middle).numpy()).all()


def test_plot_needs_no_display_and_names_norm_and_units():
    ax = certified([0.5, 0.25]).plot(Figure().subplots())
    assert ax.get_xlabel() == "radius (l2, input units)"
    assert ax.get_ylabel() == "accuracy"
    assert ax.get_legend_handles_labels()[1] == ["certified (smoothing, smoothed(gaussian(sigma=0.5)))"]
    assert AttackedAccuracyCurve.from_witness(witness([0.5])).plot(ax) is ax
    assert len(ax.lines) == 2
    assert len(ax.collections) == 2  # the bands
    assert ax.get_xlabel() == "radius (l∞, input units)"


def test_plot_on_the_current_axes():
    import matplotlib.pyplot as plt

    ax = plt.figure().subplots()
    assert certified([0.5, 0.25]).plot() is ax
    plt.close(ax.figure)


def test_curves_follow_the_device_of_their_limits():
    curve = certified([0.5, 0.25, 0.1])
    with elsewhere():
        assert curve.at([0.1, 0.2]).device.type == "cpu"
        assert curve.radii().device.type == "cpu"
        assert len(curve.to_dataframe([0.1, 0.2])) == 2


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ([[0.1, 0.2, 0.3, 0.4]], [0.0, 0.1, 0.2, 0.3]),
        ([[3.0, 4.0, 5.0]], [0.0, 1.0, 2.0, 3.0, 4.0]),
        ([[0.001] * 9, [0.4] * 9], [0.0, 0.0005, 0.002, 0.01, 0.05, 0.2]),
        ([[1.0, math.inf, -math.inf]], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ([[0.0, -math.inf]], [0.0]),
        ([], [0.0]),
    ],
)
def test_radii_of_tables_are_round_and_lie_where_curves_fall(limits: list[list[float]], expected: list[float]):
    shared = {"norm": 2.0, "subject": "base", "method": "ibp"}
    curves = [CertifiedAccuracyCurve(limit=torch.tensor(each, dtype=torch.float64), **shared) for each in limits]
    assert round_radii(curves) == expected
    assert round_radii(curves[::-1]) == expected
