"""Clopper-Pearson bounds against exact rational arithmetic: no sampling, no tolerance in the coverage."""

import csv
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

import mpmath
import pytest
import torch
from oracles.devices import elsewhere
from statsmodels.stats.proportion import proportion_confint
from torch import Tensor

from bounds import InvalidInput, clopper_pearson_interval, clopper_pearson_lower, clopper_pearson_upper
from certify.smoothing import Gaussian

ALPHAS = (0.05, 1e-3)
TRIALS = (1, 2, 3, 7, 20, 60)
TINY = Fraction(1, 2**80)


def lower_bounds(trials: int, alpha: float) -> list[float]:
    return clopper_pearson_lower(torch.arange(trials + 1), trials, alpha=alpha).tolist()


def upper_bounds(trials: int, alpha: float) -> list[float]:
    return clopper_pearson_upper(torch.arange(trials + 1), trials, alpha=alpha).tolist()


def probability(counts: Iterable[int], trials: int, p: Fraction) -> Fraction:
    """P(X in counts) for binomial X, exactly; in integers, since fractions would be reduced at each step."""
    success, failure = p.numerator, p.denominator - p.numerator
    ways = sum(math.comb(trials, k) * success**k * failure ** (trials - k) for k in counts)
    return Fraction(ways, p.denominator**trials)


def test_the_smallest_alphas_have_bounds():
    """SciPy's inverse is no number there, as for 2 and 9 of 10."""
    for trials, alpha in ((10, 1e-300), (50, 1e-200)):
        lower, upper = lower_bounds(trials, alpha), upper_bounds(trials, alpha)
        for k in range(1, trials + 1):
            tail = probability(range(k, trials + 1), trials, Fraction(lower[k]))
            assert Fraction(alpha) / 2 < tail <= Fraction(alpha)
            assert upper[trials - k] >= 1 - Fraction(lower[k]) - Fraction(1, 2**52)
        assert 0 <= min(lower) <= max(upper) <= 1


def worst_failure(bounds: Sequence[float]) -> Fraction:
    """Largest probability, over all true p, that the lower bound lies above p.

    It is a step function times a rising one, so that its supremum is reached just below an end point.
    """
    trials = len(bounds) - 1
    candidates = {Fraction(bound) + offset for bound in bounds for offset in (-TINY, Fraction(0), TINY)}
    candidates |= {Fraction(i, 17) for i in range(18)}
    worst = Fraction(0)
    for p in candidates:
        if 0 <= p <= 1:
            failing = [k for k, bound in enumerate(bounds) if Fraction(bound) > p]
            worst = max(worst, probability(failing, trials, p))
    return worst


def mirrored(upper: Sequence[float]) -> list[Fraction]:
    """Upper bounds of the successes as exact lower bounds of the failures."""
    return [1 - Fraction(bound) for bound in reversed(upper)]


def upper_tail(successes: int, trials: int, p: float) -> mpmath.mpf:
    """P(X >= successes) by its series, to 30 digits; ``p`` lies below successes / trials."""
    p = mpmath.mpf(p)
    term = total = mpmath.binomial(trials, successes) * p**successes * (1 - p) ** (trials - successes)
    for j in range(successes, trials):
        term *= (trials - j) * p / ((j + 1) * (1 - p))
        total += term
        if j > trials * p and term < total * mpmath.mpf(10) ** -30:
            break
    return total


# ------------------------------------------------------------------------------------------------------- coverage


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("trials", TRIALS)
def test_coverage_summed_exactly_over_all_counts(trials: int, alpha: float):
    assert worst_failure(lower_bounds(trials, alpha)) <= Fraction(alpha)
    assert worst_failure(mirrored(upper_bounds(trials, alpha))) <= Fraction(alpha)


MUTANTS = {
    "two-sided level on one side": lambda trials, alpha: lower_bounds(trials, 2 * alpha),
    "one count too many": lambda trials, alpha: [*lower_bounds(trials, alpha)[1:], 1.0],
    "trials one short": lambda trials, alpha: [*lower_bounds(trials - 1, alpha), 1.0],
    "rounded up": lambda trials, alpha: [bound * (1 + 1e-12) for bound in lower_bounds(trials, alpha)],
    "normal approximation": lambda trials, alpha: proportion_confint(
        torch.arange(trials + 1).numpy(), trials, 2 * alpha, "normal"
    )[0].tolist(),
}


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_coverage_exposes(mutant: str, alpha: float):
    assert worst_failure(MUTANTS[mutant](20, alpha)) > Fraction(alpha)


@pytest.mark.parametrize("trials", [1, 7, 20])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_interval_shares_its_failures_between_both_ends(trials: int, confidence: float):
    lower, upper = clopper_pearson_interval(torch.arange(trials + 1), trials, confidence=confidence)
    allowed = (1 - Fraction(confidence)) / 2  # catches an interval with all of 1 - confidence at each end
    assert worst_failure(lower.tolist()) <= allowed
    assert worst_failure(mirrored(upper.tolist())) <= allowed
    assert (lower < upper).all()
    wide = 1 + Fraction(1, 10**9)
    assert worst_failure([Fraction(bound) * wide for bound in lower.tolist()]) > allowed


# ------------------------------------------------------------------------------------------------------ tightness


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("trials", TRIALS)
def test_no_bound_can_be_moved_by_a_billionth(trials: int, alpha: float):
    """Catches a bound that is right but needlessly careful: its defining inequality is an equality."""
    nudge = 1 + Fraction(1, 10**9)
    for k, bound in enumerate(lower_bounds(trials, alpha)[1:], start=1):
        at_least = range(k, trials + 1)
        assert probability(at_least, trials, Fraction(bound)) <= Fraction(alpha)
        assert probability(at_least, trials, Fraction(bound) * nudge) > Fraction(alpha)
    for k, bound in enumerate(upper_bounds(trials, alpha)[:-1]):
        nudged = 1 - (1 - Fraction(bound)) * nudge
        assert probability(range(k + 1), trials, Fraction(bound)) <= Fraction(alpha)
        assert probability(range(k + 1), trials, nudged) > Fraction(alpha)


LARGE = [(100_000, k, alpha) for k in (1, 2, 5, 1000, 50_100, 90_000, 99_998) for alpha in (1e-10, 1e-3, 0.05, 0.5)] + [
    (10_000_000, k, 1e-3) for k in (1, 3, 100, 9_999_000, 9_999_999)
]


@pytest.mark.parametrize(("trials", "successes", "alpha"), LARGE)
def test_large_counts_satisfy_the_defining_inequality(trials: int, successes: int, alpha: float):
    bound = clopper_pearson_lower(torch.tensor([successes]), trials, alpha=alpha).item()
    with mpmath.workdps(40):
        assert upper_tail(successes, trials, bound) <= mpmath.mpf(alpha)
        assert upper_tail(successes, trials, bound * (1 + 1e-9)) > mpmath.mpf(alpha)


@pytest.mark.parametrize(("successes", "trials", "alpha"), [(5, 1_000_000, 0.9), (3, 100_000, 0.9), (40, 1000, 0.999)])
def test_levels_above_one_half(successes: int, trials: int, alpha: float):
    """SciPy's tail loses digits close to 1: the first case came out 8.6e-13 too large."""
    bound = clopper_pearson_lower(torch.tensor([successes]), trials, alpha=alpha).item()
    with mpmath.workdps(40):
        p = mpmath.mpf(bound)
        below = sum(mpmath.binomial(trials, j) * p**j * (1 - p) ** (trials - j) for j in range(successes))
        assert 1 - below <= mpmath.mpf(alpha)


@pytest.mark.parametrize("alpha", [1e-10, 1e-3, 0.05, 0.5])
@pytest.mark.parametrize("trials", [1, 10, 1000, 100_000, 10_000_000, 10**9])
def test_closed_forms_of_all_and_of_one(trials: int, alpha: float):
    """All successes give alpha ** (1 / n), one gives 1 - (1 - alpha) ** (1 / n)."""
    lower = clopper_pearson_lower(torch.tensor([trials, 1]), trials, alpha=alpha)
    with mpmath.workdps(40):
        level = mpmath.mpf(alpha)
        for bound, exact in zip(lower.tolist(), (level ** (1 / mpmath.mpf(trials)), 0), strict=True):
            exact = exact or -mpmath.expm1(mpmath.log1p(-level) / trials)
            assert mpmath.mpf(bound) <= exact
            assert mpmath.mpf(bound) >= exact * (1 - mpmath.mpf(10) ** -13)


@pytest.mark.parametrize("trials", [100_000, 10_000_000])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_agrees_with_statsmodels(trials: int, alpha: float):
    """A second implementation: statsmodels' "beta" method, two-sided at twice the level."""
    counts = torch.tensor([0, 1, 17, trials // 3, trials // 2, trials - 1000, trials - 1, trials])
    lower, upper = proportion_confint(counts.numpy(), trials, alpha=2 * alpha, method="beta")
    ours = clopper_pearson_lower(counts, trials, alpha=alpha), clopper_pearson_upper(counts, trials, alpha=alpha)
    torch.testing.assert_close(ours[0], torch.from_numpy(lower), rtol=1e-9, atol=0.0)
    # Ours is one minus a bound near 1 that was rounded down: right, but no finer than 1e-15.
    torch.testing.assert_close(ours[1], torch.from_numpy(upper), rtol=1e-9, atol=4e-15)


# ----------------------------------------------------------------------------------------------- edges and shapes


@pytest.mark.parametrize("trials", [1, 20, 10_000_000])
def test_no_success_bounds_nothing_from_below_and_no_failure_nothing_from_above(trials: int):
    assert clopper_pearson_lower(torch.tensor([0]), trials).tolist() == [0.0]
    assert clopper_pearson_upper(torch.tensor([trials]), trials).tolist() == [1.0]
    assert 0 < clopper_pearson_lower(torch.tensor([trials]), trials).item() < 1
    assert 0 < clopper_pearson_upper(torch.tensor([0]), trials).item() < 1


@pytest.mark.parametrize("trials", [7, 60, 100_000])
def test_upper_mirrors_lower_and_rounds_outward(trials: int):
    """Catches ``1 - lower`` rounded to nearest, which may fall below the exact bound."""
    counts = torch.arange(0, trials + 1, max(1, trials // 60))
    lower = clopper_pearson_lower(counts, trials).tolist()
    upper = clopper_pearson_upper(trials - counts, trials).tolist()
    for below, above in zip(lower, upper, strict=True):
        gap = Fraction(above) - (1 - Fraction(below))
        assert gap >= 0 if below else above == 1
        assert gap <= Fraction(1, 2**52)


def test_bounds_rise_with_the_count_and_with_alpha():
    counts = torch.arange(101)
    for bound in (clopper_pearson_lower, clopper_pearson_upper):
        assert (bound(counts, 100).diff() > 0).all()
    assert (
        clopper_pearson_lower(counts[1:], 100, alpha=0.01) > clopper_pearson_lower(counts[1:], 100, alpha=0.001)
    ).all()
    assert (
        clopper_pearson_upper(counts[:-1], 100, alpha=0.01) < clopper_pearson_upper(counts[:-1], 100, alpha=0.001)
    ).all()


@pytest.mark.parametrize("function", [clopper_pearson_lower, clopper_pearson_upper])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3), (2, 3, 5)])
def test_any_shape_and_integer_type(function, shape: tuple[int, ...]):
    """Counts without dimensions were refused: SciPy answers them with a number, not an array."""
    counts = torch.full(shape, 3, dtype=torch.int32)
    bound = function(counts, 5)
    assert bound.shape == shape
    assert bound.dtype == torch.float64
    assert (bound == function(torch.tensor([3]), 5).item()).all()
    assert (counts == 3).all()


def test_trials_may_differ_between_counts():
    counts, trials = torch.tensor([[3, 4], [0, 9]]), torch.tensor([[5, 6], [7, 9]])
    for function in (clopper_pearson_lower, clopper_pearson_upper):
        single = [
            function(torch.tensor([k]), n).item() for k, n in zip(counts.flatten(), trials.flatten(), strict=True)
        ]
        assert function(counts, trials).flatten().tolist() == single


def test_bounds_follow_the_device_of_the_counts():
    counts = torch.tensor([0, 3, 5])
    with elsewhere():
        for bound in (clopper_pearson_lower(counts, 5), *clopper_pearson_interval(counts, 5)):
            assert bound.device.type == "cpu"


@pytest.mark.parametrize("function", [clopper_pearson_lower, clopper_pearson_upper])
@pytest.mark.parametrize(("count", "trials"), [(-1, 5), (6, 5), (0, 0), (1, -1)])
def test_refuses_impossible_counts(function, count: int, trials: int):
    with pytest.raises(InvalidInput, match=rf"counts must lie in \[0, trials\].*got \[{count}\] of {trials}"):
        function(torch.tensor([count]), trials)


@pytest.mark.parametrize("counts", [torch.tensor([4.9]), torch.tensor([True])])
def test_refuses_counts_that_are_no_integers(counts: Tensor):
    with pytest.raises(InvalidInput, match="counts must be integers"):
        clopper_pearson_lower(counts, 5)


@pytest.mark.parametrize("trials", [5.5, torch.tensor([5.5]), "5", True, None])
def test_refuses_numbers_of_trials_that_are_no_integers(trials: object):
    """They used to be cut to integers, which makes a bound too large."""
    for function in (clopper_pearson_lower, clopper_pearson_upper, clopper_pearson_interval):
        with pytest.raises(InvalidInput, match="trials must be an integer"):
            function(torch.tensor([3]), trials)


def test_a_failure_probability_and_a_confidence_are_never_taken_for_each_other():
    """They stood in the same place, so that 0.95 was a failure probability for one function and not for another."""
    for function in (clopper_pearson_lower, clopper_pearson_upper, clopper_pearson_interval):
        with pytest.raises(TypeError, match="positional"):
            function(torch.tensor([3]), 5, 0.95)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 1.5, math.nan, math.inf])
def test_refuses_levels_outside_the_open_unit_interval(level: float):
    counts = torch.tensor([3])
    for function in (clopper_pearson_lower, clopper_pearson_upper):
        with pytest.raises(InvalidInput, match="alpha must lie strictly between 0 and 1"):
            function(counts, 5, alpha=level)
    with pytest.raises(InvalidInput, match="confidence must lie strictly between 0 and 1"):
        clopper_pearson_interval(counts, 5, confidence=level)


# ------------------------------------------------------------------------------------------------- published votes


def test_votes_of_a_published_network(shared_data):
    """Votes of the ResNet-110 of Cohen et al. (2019) at sigma 0.25 for 250 CIFAR-10 images, alpha 0.001."""
    file = shared_data / "networks" / "rs" / "cifar10_resnet110_sigma0.25_counts.csv"
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    votes = torch.tensor([[int(row[f"n{k}"]) for k in range(10)] for row in rows])
    assert votes.shape == (250, 10)
    lower = clopper_pearson_lower(votes.amax(1), votes.sum(1), alpha=1e-3)
    stored = {
        name: torch.tensor([float(row[f"{name}_a001"]) for row in rows], dtype=torch.float64)
        for name in ("cp_lower", "radius_cp")
    }
    torch.testing.assert_close(lower, stored["cp_lower"], rtol=0.0, atol=5.1e-9)  # eight printed digits
    torch.testing.assert_close(Gaussian(0.25).radius(lower), stored["radius_cp"], rtol=0.0, atol=5.1e-9)
