"""Certified accuracy that fell: counts, p-values of statsmodels, error rates by simulation, and what is refused."""

import math

import numpy as np
import pytest
from oracles.compared import NOT, attacked, evaluation, proved, smoothed
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from bounds import InvalidInput
from bounds.statistics.paired import holm, mcnemar_p_value
from certify.comparison.regressions import Change, regressions
from certify.evaluation.evaluation import Evaluation

BEFORE = [0.5] * 30 + [0.2] * 6 + [NOT] * 4
AFTER = [0.5] * 18 + [0.2] * 16 + [NOT] * 2 + [0.5] * 2 + [NOT] * 2  # at 0.5, twelve lost, of which ten still have 0.2


def falls(after: list[float], before: list[float], **settings: object) -> list[Change]:
    return regressions(evaluation(proved(after)), evaluation(proved(before)), **settings)


@pytest.mark.usefixtures("without_garbage_collection")
def test_counts_and_p_values_are_those_of_statsmodels():
    radii = [0.1, 0.4]
    found = falls(AFTER, BEFORE, radii=radii)
    tables, p_values = [], []
    for radius in radii:
        then, now = np.array(BEFORE) >= radius, np.array(AFTER) >= radius
        tables.append((then.sum(), now.sum(), (then & ~now).sum(), (now & ~then).sum()))
        lost, gained = tables[-1][2:]
        two_sided = mcnemar([[0, lost], [gained, 0]]).pvalue
        p_values.append(two_sided / 2 if lost > gained else 1 - two_sided / 2)
    assert [(one.before, one.after, one.lost, one.gained) for one in found] == tables
    assert found[1].p_value == pytest.approx(p_values[1], rel=1e-9)
    assert [one.p_holm for one in found] == pytest.approx(
        list(multipletests([one.p_value for one in found], method="holm")[1])
    )
    assert [one.fell for one in found] == [False, True]
    assert str(found[1]) == (
        "l2, the models themselves, proved, radius 0.4: certified 20 of 40 inputs, 30 before (12 lost, 2 gained); "
        f"p = {found[1].p_holm:.3g} by McNemar's exact test (one-sided, Holm), a fall up to 0.05"
    )


def test_a_gain_is_no_fall_and_any_loss_is_one_if_these_inputs_alone_are_judged():
    assert not any(one.fell for one in falls(BEFORE, AFTER, radii=[0.1, 0.4]))
    one_lost = [*BEFORE[1:], NOT]
    assert [one.fell for one in falls(one_lost, BEFORE, radii=[0.5])] == [False]
    found = falls(one_lost, BEFORE, radii=[0.5], about="these inputs")
    assert [one.fell for one in found] == [True]
    assert "any fall counts" in str(found[0])
    assert not any(one.fell for one in falls(BEFORE, BEFORE, radii=[0.5], about="these inputs"))


def test_of_equal_models_as_few_are_said_to_fall_as_stated():
    """500 runs of 60 inputs at four radii: at a level of 0.9, at most 10 % fall, and five standard errors.

    Without Holm's correction more than the level allows would: the mutant.
    """
    source, runs = np.random.default_rng(0), 500
    radii, fell, mutant = np.array([0.2, 0.4, 0.6, 0.8])[:, None], [], 0
    pairs = source.random((runs, 2, 60))
    for then, now in pairs:
        lost, gained = ((then >= radii) & (now < radii)).sum(1), ((now >= radii) & (then < radii)).sum(1)
        p_values = [mcnemar_p_value(*map(int, each), one_sided=True) for each in zip(lost, gained, strict=True)]
        fell.append(min(holm(p_values)) <= 0.1)
        mutant += min(p_values) <= 0.1
    assert np.mean(fell) <= 0.1 + 5 * math.sqrt(0.09 / runs)
    assert mutant > 0.13 * runs
    for (then, now), expected in [*zip(pairs, fell, strict=True)][:10]:
        found = falls(now.tolist(), then.tolist(), radii=radii[:, 0].tolist(), level=0.9)
        assert any(one.fell for one in found) == expected


def test_radii_are_those_that_are_required_else_round_ones():
    now, then = evaluation(proved(AFTER)), evaluation(proved(BEFORE))
    assert regressions(now, then)[0].radius == 0.0
    required = {"method": "ibp", "norm": 2.0, "radius": 0.3, "at_least": 0.1}
    held = Evaluation(
        {**now.manifest, "source": {"require": [required, {**required, "norm": "inf", "radius": 9.0}]}}, now.records
    )
    assert [one.radius for one in regressions(held, then)] == [0.3]


def test_a_smoothed_classifier_is_compared_with_that_of_the_same_noise_or_the_only_one():
    wide, narrow = "smoothed(gaussian(sigma=0.5))", "smoothed(gaussian(sigma=0.25))"
    old = evaluation(smoothed(BEFORE, subject=narrow), smoothed(AFTER, subject=wide, method="wide"))
    same = regressions(old, old, radii=[0.4])
    assert [(one.before, one.after) for one in same] == [(30, 30), (20, 20)]
    new = evaluation(smoothed(AFTER, subject=wide))
    (change,) = regressions(new, evaluation(smoothed(BEFORE, subject=narrow)), radii=[0.4])
    assert (change.before, change.after, change.fell) == (30, 20, True)
    with pytest.raises(InvalidInput, match=r"no certificates of the kind with probability .*sigma=0.25"):
        regressions(new, old, radii=[0.4])


@pytest.mark.parametrize(
    ("now", "then", "said"),
    [
        (
            evaluation(proved(AFTER), data="cd" * 32),
            evaluation(proved(BEFORE)),
            "cannot be compared with 'the run before': other inputs",
        ),
        (evaluation(attacked([0.1] * 40)), evaluation(proved(BEFORE)), "no certificates of the kind proved"),
        (evaluation(proved(AFTER)), evaluation(attacked([0.1] * 40)), "has no certificate, so nothing can fall"),
        (
            evaluation(proved(AFTER)),
            evaluation(proved(BEFORE, norm="inf")),
            "it has no certificates of the kind proved",
        ),
    ],
    ids=["inputs", "attack alone", "nothing before", "norm"],
)
def test_what_cannot_be_compared_is_refused_in_one_line(now: Evaluation, then: Evaluation, said: str):
    with pytest.raises(InvalidInput, match=said) as caught:
        regressions(now, then, radii=[0.4])
    assert "\n" not in str(caught.value)


def test_bad_arguments_are_refused():
    for settings, said in (
        ({"radii": [-1.0]}, "radius must be"),
        ({"radii": []}, "radii"),
        ({"level": 1.0}, "level must lie strictly between 0 and 1"),
        ({"about": "all"}, "about must be one of population, these inputs"),
    ):
        with pytest.raises(InvalidInput, match=said):
            falls(AFTER, BEFORE, **settings)
