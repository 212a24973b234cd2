"""Bounds for all classifiers: against an assignment, a linear programme, and an optimum known in one dimension."""

import math

import numpy as np
import pytest
import torch
from oracles.halfspace import generator
from scipy import optimize, stats
from torch import Tensor

from bounds import InvalidInput
from bounds.transport import accuracy_robustness_front, adversarial_error_bound, margin_features


def conflicts(x: Tensor, y: Tensor, epsilon: float, norm: float) -> np.ndarray:
    one, two = x[y == 0].flatten(1), x[y == 1].flatten(1)
    return ((one[:, None] - two[None]).norm(norm, dim=2) <= 2 * epsilon).numpy()


def data(seed: int, counts: tuple[int, int]) -> tuple[Tensor, Tensor]:
    x = torch.randn(sum(counts), 2, generator=generator(seed), dtype=torch.float64)
    y = torch.cat([torch.zeros(counts[0]), torch.ones(counts[1])]).long()
    x[:, 0] += 2 * y
    order = torch.randperm(len(x), generator=generator(seed + 50))
    return x[order].view(-1, 1, 2), y[order]


@pytest.mark.parametrize("norm", [1, 2, 3.0, math.inf])
@pytest.mark.parametrize("seed", range(3))
def test_matching_equals_an_assignment_and_a_linear_programme(seed: int, norm: float):
    """The mutant joins inputs within epsilon, not twice as much."""
    (x, y), epsilon = data(seed, (30, 30)), 0.35
    graph = conflicts(x, y, epsilon, norm)
    bound = adversarial_error_bound(x, y, epsilon=epsilon, norm=norm, chunk=7)
    rows, columns = optimize.linear_sum_assignment(~graph)
    assert bound == pytest.approx(graph[rows, columns].sum() / 60)
    edges = np.argwhere(graph)
    constraints = np.zeros((len(edges), 60))
    constraints[np.arange(len(edges)), edges[:, 0]] = constraints[np.arange(len(edges)), 30 + edges[:, 1]] = 1
    correct = optimize.linprog(-np.ones(60), A_ub=constraints, b_ub=np.ones(len(edges)), bounds=(0, 1))
    assert bound == pytest.approx(1 + correct.fun / 60)
    assert adversarial_error_bound(x, y, epsilon=epsilon / 2, norm=norm) < bound


def test_no_classifier_beats_it_in_one_dimension_and_a_gaussian_reaches_it():
    """Unequal classes; and for two normal laws the optimum Phi(-(mu - epsilon) / sigma), from many samples."""
    x, y = data(5, (9, 14))
    errors = [adversarial_error_bound(x, y, epsilon=e, norm=2) for e in (0.0, 0.1, 0.3, 1.0, 100.0)]
    assert errors == sorted(errors)
    assert errors[0] == 0
    assert errors[-1] == pytest.approx(9 / 23)
    y = torch.arange(3000) % 2
    x = torch.randn(3000, 1, generator=generator(), dtype=torch.float64) + (2 * y - 1)[:, None]
    found = adversarial_error_bound(x, y, epsilon=0.4, norm=2)
    assert found == pytest.approx(stats.norm.cdf(-0.6), abs=0.03)
    threshold = float(((2 * y - 1) * x[:, 0] - 0.4 <= 0).double().mean())  # of a classifier
    assert found <= threshold


def test_front_and_features():
    accuracy = torch.tensor([0.9, 0.8, 0.8, 0.7, 0.9])
    robustness = torch.tensor([0.1, 0.5, 0.4, 0.5, 0.1])
    assert accuracy_robustness_front(accuracy, robustness).tolist() == [True, True, False, False, True]
    features = margin_features(torch.tensor([1.0, 2.0, 4.0, math.inf, 0.0]))
    assert features["q50"] == pytest.approx(2.0)
    assert features["log_mean"] == pytest.approx(math.log(2))
    assert features["left_out"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": -1.0}, "epsilon must be a finite number of at least 0"),
        ({"norm": 0.5}, "norm must be at least 1"),
        ({"y": torch.zeros(4)}, "y must hold two classes"),
        ({"y": torch.zeros(3)}, r"y must have shape \(4,\)"),
    ],
)
def test_bad_input(change: dict, message: str):
    options = {"y": torch.tensor([0, 1, 0, 1]), "epsilon": 0.1, "norm": 2, **change}
    with pytest.raises(InvalidInput, match=message):
        adversarial_error_bound(torch.rand(4, 2), **options)
    with pytest.raises(InvalidInput, match="distance must hold numbers"):
        margin_features(torch.tensor([math.inf]))


def test_pairs_out_of_reach_are_told_apart_far_from_the_origin():
    """Squares of 1e6 have no digits left for differences of 1e-3, which are off tenfold when multiplied out."""
    y = torch.arange(60) % 2
    x = (1e6 + 1e-3 * y.double())[:, None].expand(-1, 3) / math.sqrt(3)
    assert adversarial_error_bound(x, y, epsilon=4e-4, norm=2) == 0
    assert adversarial_error_bound(x, y, epsilon=6e-4, norm=2) == 0.5
    multiplied = torch.cdist(x[y == 0], x[y == 1], compute_mode="use_mm_for_euclid_dist")
    assert bool((multiplied > 5e-3).all())
