"""The test of the sqrt(D) law: affine classifiers pass at the stated rate, curved ones fail where they should."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles.devices import elsewhere
from oracles.halfspace import Halfspace, generator
from oracles.linear import LinearClassifier
from scipy import stats
from torch import Tensor, nn

from bounds import InvalidInput, RatioLaw, noise_ratio_test
from bounds.noise.flat_boundaries import FlatLaw
from bounds.noise.ratio_test import _dimension_interval, _slope


class Ball(nn.Module):
    """Class 0 inside a sphere around 0."""

    def __init__(self, radius: float) -> None:
        super().__init__()
        self.radius = radius

    def forward(self, x: Tensor) -> Tensor:
        squared = x.flatten(1).square().sum(1)
        return torch.stack([torch.full_like(squared, self.radius**2), squared], 1)


@pytest.mark.slow
@pytest.mark.parametrize("features", [pytest.param(2, marks=pytest.mark.slow), 30])
def test_a_plane_passes(features: int):
    model = Halfspace(torch.randn(features, generator=generator(), dtype=torch.float64), bias=0.3)
    x = torch.randn(12, features, generator=generator(1), dtype=torch.float64)
    stages: list[tuple[int, int]] = []
    found = noise_ratio_test(
        model, x, directions=60, alpha=1e-4, generator=generator(2), progress=lambda *stage: stages.append(stage)
    )
    count = 3 + len(found.dimensions)
    assert stages == [(done, count) for done in range(1, count + 1)]
    assert found.law_holds
    assert found.boundary_is_flat
    assert found.expected_effective_dimension == features
    assert found.median_interval[0] < found.median_ratio < found.median_interval[1]
    torch.testing.assert_close(found.upper, model.distance(x), rtol=1e-6, atol=0)
    inside = ~found.flatness_ratio.isnan()
    torch.testing.assert_close(found.flatness_ratio[inside], torch.ones_like(found.flatness_ratio[inside]))
    assert 0 < found.censored < 0.1
    assert found.not_minimal == 0
    assert "the law holds" in str(found)
    if features == 30:
        assert found.slope_interval[0] < 1 < found.slope_interval[1]
        assert found.slope == pytest.approx(1, abs=0.1)
        assert found.intercept == pytest.approx(0, abs=0.1)
    frame = found.to_dataframe()
    assert len(frame) == 12
    assert frame.index.name == "row"


@pytest.mark.slow
def test_several_classes_need_the_law_of_several():
    """Against the law of a single plane the same ratios are rejected."""
    model = LinearClassifier(40, 6, torch.float64, generator())
    x = torch.rand(8, 40, generator=generator(1), dtype=torch.float64)
    found = noise_ratio_test(
        model, x, directions=150, dimensions=[1, 8], subspaces=3, alpha=1e-4, generator=generator(2)
    )
    assert found.law_holds
    assert found.boundary_is_flat
    assert found.expected_effective_dimension < 36
    single = FlatLaw(RatioLaw(40), None).p_values(
        found.ratio * found.upper[:, None], found.cap * found.upper, (found.upper, found.upper), generator(3)
    )
    assert stats.combine_pvalues(single.clamp(min=1e-300).numpy(), "fisher").pvalue < 1e-4
    assert found.slope == pytest.approx(1, abs=0.15)


@pytest.mark.slow
def test_inside_a_sphere_nothing_passes_and_far_outside_of_it_only_the_effective_dimension():
    near = torch.randn(10, 20, generator=generator(), dtype=torch.float64)
    near = near / near.norm(dim=1, keepdim=True)
    inside = noise_ratio_test(Ball(1.5), near, directions=100, dimensions=[1, 4], generator=generator(1))
    assert not inside.law_holds
    assert not inside.boundary_is_flat
    assert inside.effective_dimension < 15
    # Curved a little: the flatness ratio sees it, and says by how much.
    wide = noise_ratio_test(Ball(1e5), 99_999 * near, directions=100, dimensions=[1, 4], generator=generator(1))
    assert wide.law_holds
    slight = noise_ratio_test(Ball(40.0), 39.0 * near, directions=200, dimensions=[1, 4], generator=generator(1))
    assert not slight.boundary_is_flat
    assert float(slight.flatness_quantiles()[2]) < 1


@pytest.mark.slow
def test_intervals_of_the_effective_dimension_cover_as_stated():
    """Over many samples of the exact law, for several inputs and for one."""
    law, alpha, rounds = RatioLaw(50), 0.1, 1000
    for inputs, lines in ((15, 40), (1, 150)):
        drawn = law.sample(rounds * inputs * lines, generator(inputs)).view(rounds, inputs, lines)
        ends = np.array([_dimension_interval(one, alpha) for one in drawn])
        missed = int(((ends[:, 0] > 50) | (ends[:, 1] < 50)).sum())
        assert stats.binomtest(missed, rounds, alpha).pvalue > 1e-4 or missed < alpha * rounds
        assert missed > 0.5 * alpha * rounds  # no interval that holds everything
        mutant = np.array([_dimension_interval(one * 1.15, alpha) for one in drawn])
        assert ((mutant[:, 0] > 50) | (mutant[:, 1] < 50)).mean() > 2 * alpha


@pytest.mark.slow
def test_p_values_are_uniform_with_censored_lines_and_a_wrong_dimension_is_seen():
    law = FlatLaw(RatioLaw(30), None)
    ratios = RatioLaw(30).sample(80 * 100, generator()).view(80, 100)
    cap = torch.full((80,), 12.0, dtype=torch.float64)  # a third lies beyond
    ratios = torch.where(ratios > cap[:, None], math.inf, ratios)
    ones = torch.ones(80, dtype=torch.float64)
    p_values = law.p_values(ratios, cap, (ones, ones), generator(1))
    assert stats.kstest(p_values.numpy(), "uniform").pvalue > 1e-6
    mutant = FlatLaw(RatioLaw(30, 2), None).p_values(ratios, cap, (ones, ones), generator(1))
    assert mutant.median() < 1e-6
    # A least distance anywhere between two bounds can only raise them.
    assert law.p_values(ratios, cap, (ones / 1.5, ones), generator(1)).mean() > p_values.mean()


def test_slope_against_a_second_implementation():
    """Least squares and the sandwich by hand."""
    x = torch.rand(9, 4, generator=generator(), dtype=torch.float64)
    y = 0.3 + 0.9 * x + 0.1 * torch.randn(9, 1, generator=generator(1), dtype=torch.float64)
    slope, (low, high), intercept = _slope(x, y, 0.05)
    design = torch.stack([torch.ones(36).double(), x.flatten()], 1)
    beta = torch.linalg.lstsq(design, y.flatten()[:, None]).solution.flatten()
    left = (y.flatten() - design @ beta).view(9, 4)
    scores = (design.view(9, 4, 2) * left[:, :, None]).sum(1)
    bread = torch.linalg.inv(design.T @ design)
    correction = 9 / 8 * 35 / 34
    error = float((bread @ scores.T @ scores @ bread)[1, 1].mul(correction).sqrt())
    assert (intercept, slope) == pytest.approx(beta.tolist())
    reach = stats.t.isf(0.025, 8) * error
    assert (low, high) == pytest.approx((slope - reach, slope + reach))


@pytest.mark.parametrize("inputs", [2, *(pytest.param(count, marks=pytest.mark.slow) for count in (3, 4, 10))])
def test_flat_boundaries_are_called_false_no_more_often_than_stated(inputs: int):
    """1000 experiments draw ratios of the exact law; two inputs used to give False in two of three cases."""
    model, x = Halfspace(torch.ones(20).double(), bias=0.3), torch.ones(2, 20).double()
    found = noise_ratio_test(model, x, directions=2, dimensions=[1], generator=generator())
    ratios = RatioLaw(20, 1).sample(1000 * inputs * 60, generator(inputs)).view(1000, inputs, 60)
    verdicts = [
        replace(found, effective_dimension_interval=_dimension_interval(ratio, 0.05)).law_holds for ratio in ratios
    ]
    assert stats.binomtest(verdicts.count(False), 1000, 0.05, "greater").pvalue > 1e-6
    assert (verdicts.count(None) > 500) == (inputs == 2)
    assert (verdicts.count(True) > 900) == (inputs > 3)


@pytest.mark.slow
def test_few_inputs_of_a_curved_boundary_are_not_undecided_for_their_number():
    """Inside of a sphere the effective dimension is that of no flat boundary, which two inputs suffice to say."""
    x = torch.randn(2, 20, generator=generator(), dtype=torch.float64)
    x = x / x.norm(dim=1, keepdim=True)
    found = noise_ratio_test(Ball(1.5), x, directions=200, dimensions=[1], generator=generator(1))
    assert found.law_holds is False
    assert "does not hold" in str(found)


@pytest.mark.slow
def test_certified_distances_widen_the_interval_and_contradictions_are_refused():
    model = Halfspace(torch.randn(10, generator=generator(), dtype=torch.float64), bias=0.3)
    x = torch.randn(6, 10, generator=generator(1), dtype=torch.float64)
    exact = model.distance(x)
    plain = noise_ratio_test(model, x, minimal=exact, directions=50, dimensions=[1], generator=generator(2))
    wide = noise_ratio_test(model, x, minimal=(exact / 2, exact), directions=50, dimensions=[1], generator=generator(2))
    assert wide.effective_dimension_interval[0] == plain.effective_dimension_interval[0]
    assert wide.effective_dimension_interval[1] == pytest.approx(4 * plain.effective_dimension_interval[1])
    assert not wide.conclusive
    assert wide.law_holds is None
    assert "is not decided" in str(wide)
    with pytest.raises(InvalidInput, match="must not certify beyond a point with another prediction"):
        noise_ratio_test(model, x, minimal=(1.1 * exact, exact), directions=5)
    long = noise_ratio_test(model, x, minimal=3 * exact, directions=50, dimensions=[1], generator=generator(2))
    torch.testing.assert_close(long.upper, exact, rtol=1e-6, atol=0)  # a search improves a poor witness
    unit = model.linear.weight[1] / model.linear.weight[1].norm()
    move = -(exact * model(x)[:, 1].sign())[:, None] * unit
    moved = noise_ratio_test(model, x, minimal=1.0001 * move, directions=50, dimensions=[1], generator=generator(2))
    assert moved.effective_dimension == pytest.approx(plain.effective_dimension, rel=1e-3)


@pytest.mark.slow
def test_bad_input():
    model, x = Halfspace(torch.ones(3)), torch.rand(2, 3, generator=generator()) + 0.1
    for change, message in (
        ({"directions": 1}, "directions must be an integer of at least 2"),
        ({"dimensions": [4]}, "dimensions must be at most 3"),
        ({"dimensions": []}, "dimensions must hold at least one, got none"),
        ({"minimal": torch.ones(3)}, r"minimal must have shape \(2,\)"),
        ({"minimal": torch.tensor([1.0, math.nan])}, "minimal must hold distances of at least 0"),
        ({"minimal": torch.zeros(2)}, "minimal must hold distances above 0"),
        ({"alpha": 0.0}, "alpha must lie strictly between 0 and 1"),
    ):
        with pytest.raises(InvalidInput, match=message):
            noise_ratio_test(model, x, **{"directions": 5, **change})
    with pytest.raises(InvalidInput, match="no boundary was found"):
        noise_ratio_test(model, x[:0], directions=5)


@pytest.mark.slow
def test_tensors_are_made_where_the_input_is():
    model, x = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)), torch.rand(2, 3, generator=generator())
    source = generator()
    with elsewhere():
        found = noise_ratio_test(model, x, directions=5, dimensions=[1, 2], subspaces=2, generator=source)
    assert found.ratio.device == x.device
