"""Anytime-valid tests of a proportion: error rates by exact dynamic programming, no sampling anywhere."""

import math

import mpmath
import numpy as np
import pytest
import torch
from oracles.selection import some
from scipy import special

from bounds import (
    InvalidInput,
    clopper_pearson_lower,
    log_evidence_above,
    log_evidence_below,
    sequential_lower,
)


def evidence(successes: np.ndarray, trials: np.ndarray, p0: float, side: str) -> np.ndarray:
    function = log_evidence_above if side == "above" else log_evidence_below
    return function(torch.from_numpy(successes), torch.from_numpy(trials), p0).numpy()


def first_rejected(steps: int, p0: float, limit: float, side: str = "above") -> np.ndarray:
    """For each n = 1 ... steps, the number of hits (successes or failures) from which on the test rejects."""
    n = np.arange(1, steps + 1)
    low, high = np.zeros(steps, dtype=np.int64), n + 1  # n + 1: never
    while (low < high).any():
        middle = (low + high) // 2
        successes = np.minimum(middle, n) if side == "above" else n - np.minimum(middle, n)
        rejects = (evidence(successes, n, p0, side) >= limit) & (middle <= n)
        low, high = np.where(rejects | (low >= high), low, middle + 1), np.where(rejects, middle, high)
    return high


def stopping(p: float, above: np.ndarray, below: np.ndarray | None = None) -> tuple[float, float]:
    """Probability of rejecting upward at any step, and the expected number of draws, exactly."""
    steps = len(above)
    rejected = draws = 0.0
    low, weights = 0, np.ones(1)  # probability of each number of successes, the draws still going on
    for n in range(1, steps + 1):
        draws += weights.sum()
        weights = np.concatenate([weights * (1 - p), [0.0]]) + np.concatenate([[0.0], weights * p])
        top = int(np.clip(above[n - 1] - low, 0, len(weights)))
        rejected += weights[top:].sum()
        bottom = 0 if below is None else int(np.clip(n - below[n - 1] + 1 - low, 0, top))
        weights = weights[bottom:top]
        low += bottom
        while len(weights) > 1 and weights[0] < 1e-18:
            weights, low = weights[1:], low + 1
    return rejected, draws


# Exact type-I error over 6,000 draws at alpha = 0.001, as derived with the test (four values of p0).
@pytest.mark.parametrize(
    ("p0", "stated"), some([(0.5, 7.8e-4), (0.8, 8.5e-4), (0.9, 8.85e-4), (0.99, 7.3e-4)], [(0.9, 8.85e-4)])
)
@pytest.mark.slow
def test_type_one_error_over_all_looks_is_at_most_alpha(p0: float, stated: float):
    alpha = 1e-3
    error, _ = stopping(p0, first_rejected(6000, p0, math.log(1 / alpha)))
    assert error <= alpha
    assert error == pytest.approx(stated, rel=0.01)
    mutant, _ = stopping(p0, first_rejected(6000, p0, math.log(1 / (2 * alpha))))
    assert mutant > alpha  # rejecting at 1 / (2 alpha), which is published code's threshold for another mixture


def test_a_bound_for_one_sample_size_does_not_survive_looking_at_every_draw():
    """The mutant: Clopper-Pearson at each look errs far more often than alpha."""
    n = np.arange(1, 2001)
    p0, alpha = 0.8, 1e-3
    hits = np.array([int(special.bdtrik(1 - alpha, k, p0)) + 1 for k in n])  # a little above its threshold
    error, _ = stopping(p0, np.maximum(hits + 1, 0))
    assert error > 3 * alpha


# Mean draws until either side decides, p0 = Phi(1), at most 60,000 draws, as derived with the test.
@pytest.mark.slow
@pytest.mark.parametrize(("p", "stated"), [(0.999, 48), (0.99, 57), (0.95, 128), (0.9, 585), (0.86, 6875), (0.6, 49)])
def test_mean_number_of_draws(p: float, stated: float):
    p0, limit = 0.8413447460685429, math.log(1e3)
    steps = 60_000 if stated > 1000 else 6000
    above, below = first_rejected(steps, p0, limit), first_rejected(steps, p0, limit, side="below")
    _, draws = stopping(p, above, below)
    assert draws == pytest.approx(stated, rel=0.1)


# Certified radius over sigma at alpha = 0.001: the price of looking at any time against 3.8115, 2.2900, ...
@pytest.mark.parametrize(
    ("successes", "trials", "quantile"),
    [
        *[(100_000, 100_000, 3.7728), (99_000, 100_000, 2.2738), (90_000, 100_000, 1.2559)],
        *[(9900, 10_000, 2.1732), (1000, 1000, 2.4071)],
    ],
)
def test_lower_bound_values(successes: int, trials: int, quantile: float):
    bound = sequential_lower(torch.tensor([successes]), trials)
    assert special.ndtri(bound.item()) == pytest.approx(quantile, abs=1e-4)
    assert bound < clopper_pearson_lower(torch.tensor([successes]), trials)


def test_lower_bound_is_what_the_test_rejects():
    generator = torch.Generator().manual_seed(0)
    trials = torch.randint(1, 5000, (200,), generator=generator)
    successes = (trials * torch.rand(200, generator=generator, dtype=torch.float64)).round().long()
    bound = sequential_lower(successes, trials, alpha=0.01)
    some = bound > 1e-6
    inside = log_evidence_above(successes[some], trials[some], bound[some] * (1 - 1e-6))
    outside = log_evidence_above(successes[some], trials[some], bound[some] * (1 + 1e-6))
    assert (inside >= math.log(100) - 1e-6).all()
    assert (outside < math.log(100) + 1e-6).all()
    assert (bound <= successes / trials).all()


@pytest.mark.slow
def test_evidence_is_never_above_its_value_to_fifty_digits():
    with mpmath.workdps(50):
        for a, n, p0 in [(90, 100, 0.8), (99_950, 100_000, 0.99), (20_000, 20_000, 0.9), (0, 50, 0.5), (3, 10, 0.9999)]:
            q = mpmath.mpf(p0)
            half = mpmath.mpf(1) / 2
            tail = mpmath.betainc(a + half, n - a + half, q, 1)
            whole = mpmath.betainc(half, half, q, 1)
            exact = mpmath.log(tail) - mpmath.log(whole) - a * mpmath.log(q) - (n - a) * mpmath.log1p(-q)
            computed = log_evidence_above(torch.tensor([a]), n, p0).item()
            assert exact - 3e-9 - 3e-14 * n <= computed <= exact


def test_both_sides_mirror_each_other():
    above = log_evidence_above(torch.tensor([70]), 100, 0.4)
    below = log_evidence_below(torch.tensor([30]), 100, 0.6)
    torch.testing.assert_close(above, below, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: log_evidence_above(torch.tensor([3]), 2, 0.5), "successes must lie in"),
        (lambda: log_evidence_above(torch.tensor([-1]), 2, 0.5), "successes must lie in"),
        (lambda: log_evidence_below(torch.tensor([1]), 2, 1.0), "p0 must lie strictly between 0 and 1"),
        (lambda: sequential_lower(torch.tensor([1]), 2, alpha=0.0), "alpha must lie strictly between"),
        (lambda: sequential_lower(torch.tensor([1]), 2, alpha=0.3), "alpha must be at most 0.2"),
    ],
)
def test_bad_input_gives_one_clear_line(call, message: str):
    with pytest.raises(InvalidInput, match=message):
        call()


def test_evidence_below_a_tiny_threshold_is_a_number_and_not_above_its_value():
    """1 - p0 is 1 in float64, and the evidence was NaN."""
    with mpmath.workdps(60):
        half = mpmath.mpf(1) / 2
        for a, n, p0 in [(0, 0, 1e-17), (0, 100, 1e-17), (3, 100, 1e-17), (0, 10_000, 1e-9), (1, 5, 1e-300)]:
            q = mpmath.mpf(p0)
            tail = mpmath.betainc(a + half, n - a + half, 0, q) / mpmath.betainc(half, half, 0, q)
            exact = mpmath.log(tail) - a * mpmath.log(q) - (n - a) * mpmath.log1p(-q)
            computed = log_evidence_below(torch.tensor([a]), n, p0).item()
            assert exact - 3e-9 - 3e-14 * n <= computed <= exact or computed == -math.inf
            assert computed > -math.inf or p0 < 1e-100  # underflow, which is the safe side


def test_any_shape_of_successes_is_served():
    """Tensors without dimensions used to fail, since NumPy turns them into scalars."""
    for function in (log_evidence_above, log_evidence_below):
        one = function(torch.tensor(70), 100, 0.4)
        assert one.shape == ()
        assert one == function(torch.tensor([70]), 100, 0.4)[0]
        assert function(torch.full((2, 0, 3), 1), 100, 0.4).shape == (2, 0, 3)
    assert sequential_lower(torch.tensor(70), 100) == sequential_lower(torch.tensor([[70]]), 100)[0, 0]
    assert clopper_pearson_lower(torch.tensor(70), 100) == clopper_pearson_lower(torch.tensor([70]), 100)[0]


def test_no_draw_and_no_success_prove_nothing():
    assert sequential_lower(torch.tensor([0, 0]), torch.tensor([0, 100])).tolist() == [0.0, 0.0]
