"""Several classes: against matchings, all sets of inputs, and a classifier that attains it; Gaussian classes."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from oracles.halfspace import generator
from scipy import optimize, stats
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from torch import Tensor

from bounds import InvalidInput
from bounds.solvers.conflicts import enclosing_weights
from bounds.solvers.packing import checked_bound, largest_packing
from bounds.transport import adversarial_error_bound, gaussian_adversarial_error, least_adversarial_error


def data(seed: int, count: int = 24, classes: int = 4, features: int = 2) -> tuple[Tensor, Tensor]:
    x = torch.rand(count, features, generator=generator(seed), dtype=torch.float64)
    return x, torch.arange(count) % classes


def least_radius(points: Tensor, norm: float) -> float:
    """Radius of the least ball around points (k, 2): of boxes by their sides, else by the points on its border."""
    if norm == math.inf:
        return float((points.amax(0) - points.amin(0)).max() / 2)
    best = math.inf
    for size in (2, 3):
        for chosen in itertools.combinations(points, size):
            corner = torch.stack(chosen)
            rows, right = 2 * (corner[1:] - corner[0]), (corner[1:] ** 2 - corner[0] ** 2).sum(1)
            offset = torch.linalg.pinv(rows) @ (right - rows @ corner.mean(0))
            center = corner.mean(0) + offset
            best = min(best, float((points - center).norm(dim=1).max()))
    return best


def optimum(x: Tensor, y: Tensor, epsilon: float, norm: float) -> float:
    """The programme over all sets of different classes whose balls share a point, enumerated."""
    rows = []
    for size in range(2, len(y.unique()) + 1):
        for chosen in itertools.combinations(range(len(x)), size):
            if len({int(y[i]) for i in chosen}) == size and least_radius(x[list(chosen)], norm) <= epsilon:
                rows.append(np.isin(np.arange(len(x)), chosen))
    found = optimize.linprog(-np.ones(len(x)), A_ub=np.array(rows), b_ub=np.ones(len(rows)), bounds=(0, 1))
    return 1 + found.fun / len(x)


@pytest.mark.parametrize("norm", [1, 2, 3.0, math.inf])
@pytest.mark.parametrize("seed", range(3))
def test_two_classes_are_the_special_case(norm: float, seed: int):
    x, y = data(seed, 30, 2)
    found = least_adversarial_error(x, y, epsilon=0.08, norm=norm)
    assert found.lower == pytest.approx(adversarial_error_bound(x, y, epsilon=0.08, norm=norm), abs=1e-9)
    assert found.complete
    assert found.pairs > 5


@pytest.mark.parametrize("norm", [1, 2, 2.5, math.inf])
def test_pairs_alone_are_a_matching_in_the_double_cover(norm: float):
    """The fractional packing of a graph is half of a packing of its bipartite double cover (Nemhauser, Trotter)."""
    x, y = data(3, 40, 5)
    found = least_adversarial_error(x, y, epsilon=0.07, norm=norm, rounds=1)
    near = (x[:, None] - x[None]).norm(norm, dim=2) <= 0.14
    near &= y[:, None] != y
    matched = (maximum_bipartite_matching(csr_array(near.numpy())) >= 0).sum()
    assert found.lower == pytest.approx(matched / 2 / 40, abs=1e-9)
    assert found.pairs == int(near.sum()) // 2
    assert not found.complete
    assert found.larger_sets == 0


@pytest.mark.parametrize("norm", [2, math.inf])
@pytest.mark.parametrize("seed", range(3))
def test_larger_sets_reach_the_optimum_over_all_sets(norm: float, seed: int):
    """The mutants leave larger sets out, or take three balls that meet in pairs for one point, as in l_infinity."""
    (x, y), epsilon = data(seed, 13), 0.18
    found = least_adversarial_error(x, y, epsilon=epsilon, norm=norm)
    assert found.complete
    assert found.lower == pytest.approx(optimum(x, y, epsilon, norm), abs=1e-9)
    assert found.value == pytest.approx(found.lower, abs=1e-9)


def test_sets_matter_and_norms_differ():
    """An equilateral triangle of side 1: in pairs half of it is right; all three meet from radius 3^-1/2 on in l_2."""
    angles = torch.arange(3, dtype=torch.float64) * 2 * math.pi / 3
    x, y = torch.stack([angles.cos(), angles.sin()], 1) / math.sqrt(3), torch.arange(3)
    for epsilon, error in ((0.49, 0.0), (0.51, 0.5), (0.577, 0.5), (0.578, 2 / 3)):
        found = least_adversarial_error(x, y, epsilon=epsilon, norm=2)
        assert found.lower == pytest.approx(error, abs=1e-9)
        assert found.complete
    median = torch.eye(3, dtype=torch.float64)  # 2 apart in l_1, and 1 from the origin
    assert least_adversarial_error(median, y, epsilon=1.0 + 1e-9, norm=1).lower == pytest.approx(2 / 3, abs=1e-9)
    assert least_adversarial_error(median, y, epsilon=1.01 / 2 ** (2 / 3), norm=3).lower == pytest.approx(0.5, abs=1e-9)
    assert least_adversarial_error(x, y, epsilon=0.0, norm=2).lower == 0


def test_a_classifier_attains_the_value():
    """Around each point, a class is answered with the largest probability that one of its inputs there asks for."""
    (x, y), epsilon = data(11, 40), 0.09
    found = least_adversarial_error(x, y, epsilon=epsilon, norm=math.inf)
    assert found.complete
    assert 0.2 < found.lower < 0.6
    places = torch.linspace(-0.1, 1.1, 301, dtype=torch.float64)
    grid = torch.cartesian_prod(places, places)
    inside = ((grid[:, None] - x).abs().amax(2) <= epsilon) * found.correct
    asked = sum(inside[:, y == label].amax(1) for label in range(4))
    assert float(asked.max()) <= 1 + 1e-9
    assert float(asked.max()) > 1 - 1e-9
    assert 1 - float(found.correct.mean()) == pytest.approx(found.lower, abs=1e-9)


def test_any_multipliers_prove_a_bound():
    """The mutant forgets elements that no set covers enough; NaN, negative and huge multipliers prove little."""
    for seed in range(20):
        random = np.random.default_rng(seed)
        sets = np.array([random.choice(8, 3, replace=False) for _ in range(6)])
        best = largest_packing(8, [sets])
        assert float(best.upper) == pytest.approx(best.values.sum(), abs=1e-9)
        assert (best.values[sets].sum(1) <= 1 + 1e-9).all()
        for multipliers in (random.random(6), random.standard_normal(6) * 9, np.full(6, np.nan), np.full(6, np.inf)):
            bound = checked_bound(multipliers, sets.reshape(-1), np.full(6, 3), 8)
            assert best.values.sum() - 1e-9 <= bound <= 8
    star = np.array([0, 1, 0, 2, 0])  # both leaves can be 1, and a multiplier below 0 would deny it
    assert checked_bound(np.array([1.0, 1.0, -1.0]), star, np.array([2, 2, 1]), 3) >= 2
    assert checked_bound(np.full(3, 1 / 3), np.array([0, 1, 1, 2, 0, 2]), np.full(3, 2), 3) >= Fraction(3, 2)


def test_weights_of_enclosing_balls():
    """Against a general minimiser, in more dimensions than points and in fewer; equal points do no harm."""
    for size, features in ((3, 2), (4, 2), (5, 3)):
        points = torch.randn(6, size, features, generator=generator(size), dtype=torch.float64)
        squares = torch.cdist(points, points).square()
        centers = (enclosing_weights(squares)[:, None] @ points)[:, 0]
        for one, center in zip(points, centers, strict=True):
            best = optimize.minimize(
                lambda c, one=one: np.linalg.norm(one.numpy() - c, axis=1).max(),
                one.mean(0).numpy(),
                method="Nelder-Mead",
                options={"xatol": 1e-7, "fatol": 1e-9, "maxiter": 4000},
            )
            assert float((one - center).norm(dim=1).max()) <= best.fun * (1 + 1e-4)
    assert enclosing_weights(torch.zeros(1, 3, 3, dtype=torch.float64))[0].tolist() == pytest.approx([1 / 3] * 3)


def test_blocks_of_little_memory_see_the_same():
    x, y = data(13, 40, 3)
    whole, parts = (least_adversarial_error(x, y, epsilon=0.1, norm=2, memory=memory) for memory in (2**26, 700))
    assert whole.pairs == parts.pairs > 20
    assert whole.lower == pytest.approx(parts.lower, abs=1e-9)


# ------------------------------------------------------------------------------------------------------------ Gaussians


def covariance(seed: int, features: int) -> Tensor:
    root = torch.randn(features, features, generator=generator(seed), dtype=torch.float64)
    return root @ root.T / features + 0.3 * torch.eye(features, dtype=torch.float64)


def test_gaussian_error_equals_its_closed_forms():
    first = torch.tensor([[1.0, -0.5], [0.2, 0.05]], dtype=torch.float64)
    half, sigma = first.flatten(), torch.tensor([0.5, 1.0, 2.0, 0.3], dtype=torch.float64)
    spherical = gaussian_adversarial_error(first, -first, 0.25 * torch.eye(4), epsilon=0.4, norm=2)
    assert spherical.lower == pytest.approx(stats.norm.cdf(-(float(half.norm()) - 0.4) / 0.5), rel=1e-9)
    box = gaussian_adversarial_error(first, -first, sigma.square().diag(), epsilon=0.1, norm=math.inf)
    shrunk = float(((half.abs() - 0.1).clamp(min=0) / sigma).norm())
    assert box.lower == pytest.approx(stats.norm.cdf(-shrunk), rel=1e-8)
    assert box.upper == pytest.approx(box.lower, rel=1e-8)
    assert box.direction.shape == first.shape
    level = optimize.brentq(lambda t: float((half.abs() - t).clamp(min=0).sum()) - 0.6, 0, 2)  # of the l_1 ball
    left = float(half.abs().clamp(max=level).norm())
    diamond = gaussian_adversarial_error(first, -first, torch.eye(4), epsilon=0.6, norm=1)
    assert diamond.lower == pytest.approx(stats.norm.cdf(-left), rel=1e-8)
    beyond = gaussian_adversarial_error(first, -first, torch.eye(4), epsilon=2.0, norm=2)
    assert (beyond.lower, beyond.upper) == (0.5, 0.5)


@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_gaussian_error_agrees_with_simulation(norm: float):
    """Both classes attacked in the best way against the linear classifier; false alarm 1e-6 each."""
    matrix, half = covariance(2, 5), torch.linspace(0.2, 1.0, 5, dtype=torch.float64)
    found = gaussian_adversarial_error(half, -half, matrix, epsilon=0.15, norm=norm)
    assert found.lower <= found.upper <= found.lower * (1 + 1e-6)
    assert torch.linalg.vector_norm(found.shift, norm) <= 0.15 * (1 + 1e-9)
    draws, root = 100_000, torch.linalg.cholesky(matrix)
    noise = torch.randn(draws, 5, generator=generator(3), dtype=torch.float64) @ root.T
    side = torch.where(torch.arange(draws) % 2 == 0, 1.0, -1.0)
    dual = {1: math.inf, 2: 2, math.inf: 1}[norm]
    reach = 0.15 * torch.linalg.vector_norm(found.direction, dual)
    wrong = int((side * ((side[:, None] * half + noise) @ found.direction) <= reach).sum())
    low, high = stats.binom.interval(1 - 1e-6, draws, found.lower)
    assert low <= wrong <= high


@pytest.mark.parametrize("norm", [2, math.inf])
def test_gaussian_error_against_a_general_minimiser(norm: float):
    matrix, half = covariance(5, 4), torch.tensor([0.5, -1.0, 0.1, 0.8], dtype=torch.float64)
    found = gaussian_adversarial_error(half, -half, matrix, epsilon=0.3, norm=norm)
    inverse = torch.linalg.inv(matrix).numpy()
    limits = [(-0.3, 0.3)] * 4 if norm == math.inf else None
    inside = {"type": "ineq", "fun": lambda z: 0.09 - z @ z}
    best = optimize.minimize(
        lambda z: (half.numpy() - z) @ inverse @ (half.numpy() - z),
        np.zeros(4),
        bounds=limits,
        constraints=[inside] if norm == 2 else [],
        method="SLSQP",
        options={"ftol": 1e-14},
    )
    assert found.lower == pytest.approx(stats.norm.cdf(-math.sqrt(best.fun)), rel=1e-5)


def test_a_search_that_stops_early_still_bounds():
    """Classes along a narrow direction, where the first guess is far from the best."""
    matrix = torch.diag(torch.tensor([1.0, 0.01, 0.3], dtype=torch.float64)) + 0.05
    half = torch.tensor([1.0, 0.3, 0.5], dtype=torch.float64)
    exact = gaussian_adversarial_error(half, -half, matrix, epsilon=0.2, norm=2)
    early = gaussian_adversarial_error(half, -half, matrix, epsilon=0.2, norm=2, iterations=1)
    assert early.lower < exact.lower * (1 - 1e-3)
    assert exact.upper * (1 + 1e-3) < early.upper
    assert exact.upper == pytest.approx(exact.lower, rel=1e-8)


def test_samples_of_gaussians_come_near():
    half = torch.tensor([0.8], dtype=torch.float64)
    law = gaussian_adversarial_error(half, -half, torch.eye(1), epsilon=0.3, norm=2)
    y = torch.arange(1500) % 2
    x = torch.randn(1500, 1, generator=generator(1), dtype=torch.float64) + (1 - 2 * y)[:, None] * half
    assert adversarial_error_bound(x, y, epsilon=0.3, norm=2) == pytest.approx(law.lower, abs=0.04)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": 3}, "norm must be 1, 2 or infinity, got 3"),
        ({"covariance": -torch.eye(2)}, "covariance must be positive definite"),
        ({"covariance": torch.eye(3)}, r"covariance must have shape \(2, 2\), got \(3, 3\)"),
        ({"covariance": torch.full((2, 2), math.nan)}, "covariance must be positive definite"),
        ({"epsilon": math.nan}, "epsilon must be a finite number"),
    ],
)
def test_bad_input(change: dict, message: str):
    options = {"covariance": torch.eye(2), "epsilon": 0.1, "norm": 2, **change}
    with pytest.raises(InvalidInput, match=message):
        gaussian_adversarial_error(torch.ones(2), torch.zeros(2), options.pop("covariance"), **options)
    with pytest.raises(InvalidInput, match="y must be integers"):
        least_adversarial_error(torch.rand(3, 2), torch.rand(3), epsilon=0.1, norm=2)
