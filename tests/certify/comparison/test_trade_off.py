"""Clean against certified accuracy: the front by definition, regions against the law of the resamples."""

import math

import numpy as np
import pytest
import torch
from oracles.compared import NOT, evaluation, proved, smoothed

from certify import compare
from certify.comparison import trade_off as module
from certify.comparison.trade_off import trade_off


def outcomes(count: int, clean: float, certified: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Two (N,) bool of exactly these shares; what is certified is also right."""
    places = torch.arange(count)
    return places < round(clean * count), places < round(certified * count)


def inside(outline: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether points lie within a closed outline around its centre, by the angle at which it is met."""
    from matplotlib.path import Path

    return Path(outline).contains_points(points)


def test_the_front_is_those_whom_none_surpasses_in_both():
    shares = [(0.9, 0.2), (0.8, 0.5), (0.8, 0.4), (0.7, 0.5), (0.6, 0.6), (0.6, 0.6), (0.5, 0.1)]
    pairs = [outcomes(100, *share) for share in shares]
    found = trade_off([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    assert found.on_front.tolist() == [True, True, False, False, True, True, False]
    assert found.clean.tolist() == [share[0] for share in shares]
    assert found.certified.tolist() == [share[1] for share in shares]


@pytest.mark.parametrize(("clean", "certified"), [(0.9, 0.5), (0.6, 0.55), (0.8, 0.1)])
def test_regions_have_the_shape_of_the_multinomial_law(clean: float, certified: float):
    """Resampled shares have variances p (1 - p) / N and the covariance q (1 - p) / N: so has the ellipse."""
    count = 400
    found = trade_off(*([part] for part in outcomes(count, clean, certified)), seed=3)
    shared = certified * (1 - clean) / count
    covariance = np.array([[clean * (1 - clean) / count, shared], [shared, certified * (1 - certified) / count]])
    around = found.outlines[0] - [clean, certified]
    reach = np.einsum("ni,ij,nj->n", around, np.linalg.inv(covariance), around)
    expected = -2 * math.log(0.05)  # the quantile of the chi-square law with two degrees of freedom
    # 4000 resamples: an estimated variance strays by 2.2 % (one deviation), the quantile by 3 %.
    assert reach == pytest.approx(np.full(65, expected), rel=0.25)


@pytest.mark.slow
def test_regions_hold_the_truth_about_as_often_as_they_say():
    """Three hundred samples of a known law; a share outside of 0.95 by 0.06 is a false alarm in 1e-6."""
    generator = np.random.default_rng(0)
    held = 0
    for seed in range(300):
        drawn = torch.from_numpy(generator.random(300))
        held += bool(inside(trade_off([drawn < 0.8], [drawn < 0.5], seed=seed).outlines[0], np.array([[0.8, 0.5]]))[0])
    assert 0.89 <= held / 300 <= 0.99


def test_models_are_resampled_together():
    """The better of two nested models is so in each resample, however few the inputs."""
    clean, more = outcomes(30, 0.9, 0.5)
    less = more & (torch.arange(30) < 12)
    found = trade_off([clean, clean], [more, less])
    assert found.share_on_front[0] == 1
    assert found.share_on_front[1] < 0.1


def test_seeds_decide_and_confidence_widens():
    pair = [[part] for part in outcomes(50, 0.8, 0.4)]
    first, again, other = (trade_off(*pair, seed=seed).outlines for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    wide = trade_off(*pair, seed=1, confidence=0.999).outlines
    assert inside(wide[0], first[0]).all()


def test_shares_that_cannot_vary_have_flat_regions():
    found = trade_off([torch.ones(9, dtype=torch.bool)], [torch.zeros(9, dtype=torch.bool)])
    assert found.outlines == pytest.approx(np.broadcast_to([1.0, 0.0], (1, 65, 2)))
    both, _ = outcomes(50, 0.8, 0.8)
    line = trade_off([both], [both]).outlines[0]
    assert line[:, 0] == pytest.approx(line[:, 1])
    assert line[:, 0].max() - line[:, 0].min() > 0.1


def test_a_comparison_states_it_by_kind_of_classifier():
    a = evaluation(proved([0.3] * 10 + [NOT] * 10), smoothed([0.3] * 18 + [NOT] * 2))
    b = evaluation(proved([0.1] * 15 + [NOT] * 5), smoothed([0.1] * 12 + [NOT] * 8))
    table = compare({"a": a, "b": b}).trade_off(0.2)
    assert table[["clean", "certified"]].values.tolist() == [[0.5, 0.5], [0.75, 0.0], [0.9, 0.9], [0.6, 0.0]]
    assert table.on_front.tolist() == [True, True, True, False]
    figures = compare({"a": a, "b": b}).plot_trade_off(0.2)
    assert [figure.axes[0].get_title("left").partition("\n")[0] for figure in figures] == [
        "l2, the models themselves",
        "l2, smoothed classifiers",
    ]
    assert figures[0].axes[0].get_xlabel() == "clean accuracy"
    assert figures[0].axes[0].get_ylabel() == "certified accuracy\nat radius 0.2 (l2)"
    assert module.RESAMPLES >= 1000
