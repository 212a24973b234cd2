"""Thresholds are judged by bounds that hold: against scipy, statsmodels, simulated runs and exact tails."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from certify.curves import AttackedAccuracyCurve, CertifiedAccuracyCurve
from certify.requirements import JudgedRequirement, Threshold, judged, judged_requirements

ABOUT = ("population", "these inputs")


def certified(count: int, inputs: int, alpha: float = 0.0) -> CertifiedAccuracyCurve:
    limit = torch.tensor([1.0] * count + [-math.inf] * (inputs - count), dtype=torch.float64)
    return CertifiedAccuracyCurve(limit=limit, norm=2.0, subject="base", method="ibp", alpha=alpha)


def attacked(count: int, inputs: int) -> AttackedAccuracyCurve:
    limit = torch.tensor([math.inf] * count + [0.1] * (inputs - count), dtype=torch.float64)
    return AttackedAccuracyCurve(limit=limit, norm=2.0, subject="base", method="attack")


def wanted(at_least: float = 0.5, **settings: object) -> Threshold:
    return Threshold(method="ibp", norm=2.0, radius=0.5, at_least=at_least, **settings)


def bound(count: int, inputs: int, alpha: float = 0.0, **settings: object) -> float:
    return judged(certified(count, inputs, alpha), wanted(**settings)).bound


@pytest.mark.parametrize(("count", "inputs"), [(0, 1), (1, 1), (0, 30), (18, 30), (30, 30), (940, 1000)])
@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
def test_bounds_of_proofs_are_those_of_scipy_and_statsmodels(count: int, inputs: int, level: float):
    found = bound(count, inputs, level=level)
    exact = stats.binomtest(count, inputs).proportion_ci(2 * level - 1 if level > 0.5 else 1e-12, "exact").low
    one_sided = stats.beta.ppf(1 - level, count, inputs - count + 1) if count else 0.0
    assert found == pytest.approx(one_sided, rel=1e-9)
    assert found <= one_sided * (1 + 1e-12)
    if level > 0.5:
        assert found == pytest.approx(exact, rel=1e-9)
        assert found == pytest.approx(proportion_confint(count, inputs, 2 * (1 - level), "beta")[0], rel=1e-9)
    attack = judged(attacked(count, inputs), wanted(level=level))
    assert attack.bound == pytest.approx(found, rel=1e-12)
    assert attack.attacked
    assert bound(count, inputs, about="these inputs", level=level) == count / inputs


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.2])
@pytest.mark.parametrize("about", ABOUT)
def test_certificates_that_may_be_wrong_are_subtracted(alpha: float, about: str):
    """The population by the formula, these inputs by the quantile of the binomial distribution."""
    count, inputs, level = 180, 200, 0.95
    lower = stats.beta.ppf(1 - level, count, inputs - count + 1)
    expected = (lower - alpha) / (1 - alpha)
    if about == "these inputs":
        expected = (count - stats.binom.ppf(level, inputs, alpha)) / inputs
    assert bound(count, inputs, alpha, about=about) == pytest.approx(expected, rel=1e-9)
    assert bound(count, inputs, alpha, about=about) < bound(count, inputs, 0.0, about=about)


@pytest.mark.parametrize("about", ABOUT)
def test_the_level_holds_in_simulated_runs_and_ignoring_alpha_breaks_it(about: str):
    """Inputs are drawn, certificates of those that are not robust are wrong as often as alpha allows.

    20,000 runs: the rate of wrong bounds stays within the level and five standard errors. The mutant, a bound that
    takes every certificate for true, is wrong in nearly every run.
    """
    source = np.random.default_rng(0)
    inputs, robust, alpha, level, runs = 200, 0.6, 0.2, 0.95, 20_000
    truly = source.binomial(inputs, robust, runs)
    seen = truly + source.binomial(inputs - truly, alpha)
    truth = np.full(runs, robust) if about == "population" else truly / inputs
    counts, place = np.unique(seen, return_inverse=True)
    bounds, mutants = (
        np.array([bound(int(count), inputs, each, about=about, level=level) for count in counts])[place]
        for each in (alpha, 0.0)
    )
    error = 5 * math.sqrt(level * (1 - level) / runs)
    assert (bounds > truth).mean() <= 1 - level + error
    assert (mutants > truth).mean() > 0.5


@pytest.mark.parametrize("noise_group", [1, 10])
def test_inputs_that_share_noise_are_judged_more_strictly(noise_group: int):
    """Certificates of a group are wrong at once, no input is robust: a threshold above 0 passes as seldom as stated."""
    inputs, alpha, level = 60, 0.02, 0.99
    groups, passed = inputs // noise_group, 0.0
    for wrong in range(groups + 1):
        found = judged(
            certified(wrong * noise_group, inputs, alpha), wanted(1e-9, level=level), noise_group=noise_group
        )
        passed += stats.binom.pmf(wrong, groups, alpha) * found.met
    assert passed <= 1 - level
    if noise_group > 1:  # the mutant: inputs taken as independent
        alone = [
            judged(certified(k * noise_group, inputs, alpha), wanted(1e-9, level=level)) for k in range(groups + 1)
        ]
        assert sum(stats.binom.pmf(k, groups, alpha) * one.met for k, one in enumerate(alone)) > 2 * (1 - level)


@pytest.mark.parametrize(("at_least", "met"), [(0.6, True), (0.6000001, False)])
def test_a_threshold_that_is_just_reached_is_met(at_least: float, met: bool):
    for settings in ({"judge": "estimate"}, {"about": "these inputs"}):
        assert judged(certified(18, 30), wanted(at_least, **settings)).met is met
    assert judged(certified(0, 30), wanted(0.0)).met


def test_the_sentence_has_every_number():
    found = judged(certified(18, 30), wanted(0.5), eight_bit=True)
    assert str(found) == (
        "ibp in l2 at radius 0.5 (127.5/255) certified 18 of 30 inputs (0.6); at least 0.4339 of the population of "
        "these inputs with 95 % confidence; at least 0.5 is required"
    )
    assert found.bound >= 0.4339
    assert not found.met
    few = str(judged(certified(30, 30, 0.001), wanted(0.95)))
    assert few.endswith(
        'is required: so many inputs show at most 0.9048, so take more, or write about = "these inputs"'
    )
    assert "0.9667); at least 28 of these 30 inputs with 95 % confidence" in str(
        judged(certified(29, 30, 0.01), wanted(about="these inputs"))
    )
    assert "judged about these inputs alone" in str(judged(certified(29, 30), wanted(about="these inputs")))
    assert "this estimate is judged, without a confidence bound" in str(
        judged(certified(3, 9), wanted(judge="estimate"))
    )
    assert "did not break 3 of 9 inputs (0.3333)" in str(judged(attacked(3, 9), wanted()))
    lost = judged(None, wanted())
    assert (str(lost), lost.met) == ("ibp in l2 at radius 0.5 has no result; at least 0.5 is required", False)


def test_a_manifest_of_an_earlier_version_is_judged_by_a_bound():
    stated = {"method": "ibp", "norm": 2.0, "radius": 0.5, "at_least": 0.5}
    manifest = {"source": {"require": [stated, {**stated, "method": "crown"}, {**stated, "judge": "estimate"}]}}
    first, second, third = judged_requirements(manifest, [certified(18, 30)], False)
    assert [isinstance(one, JudgedRequirement) for one in (first, second, third)] == [True] * 3
    assert (first.wanted.judge, first.wanted.about, first.wanted.level) == ("bound", "population", 0.95)
    assert [one.met for one in (first, second, third)] == [False, False, True]
