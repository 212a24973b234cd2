"""Percentile smoothing against linear regressors, whose smoothed outputs are known, and exact binomial tails."""

import math

import pytest
import scipy.stats
import torch
from oracles.devices import elsewhere
from oracles.halfspace import generator
from oracles.models import Coupled, Holes, Random
from oracles.selection import crossed
from torch import Tensor, nn

from bounds import InvalidInput, InvalidModel
from certify.smoothing import Gaussian, Uniform
from certify.smoothing.drawing.votes import Sampling, Stage
from certify.smoothing.outputs.base import gather_outputs
from certify.smoothing.outputs.regression import SmoothedRegressor, percentile_ranks

SIGMA = 0.25


class Linear(nn.Module):
    """Three outputs linear in the input: the quantile of each, and its range over a ball, in closed form."""

    def __init__(self, entries: int, outputs: tuple[int, ...] = (3,)) -> None:
        super().__init__()
        self.outputs = outputs
        self.linear = nn.Linear(entries, math.prod(outputs), dtype=torch.float64)
        with torch.no_grad():
            self.linear.weight.normal_(generator=generator(1))
            self.linear.bias.normal_(generator=generator(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1)).reshape(len(x), *self.outputs)

    def interval(self, x: Tensor, radius: float, quantile: float) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            slope = self.linear.weight.norm(dim=1).reshape(self.outputs)
            middle = self(x) + SIGMA * slope * scipy.stats.norm.ppf(quantile)
        return middle - radius * slope, middle + radius * slope


# ------------------------------------------------------------------------------------------------------------ ranks


def test_ranks_of_the_published_example():
    """Chiang et al. (2020), their program: n = 2000, median, radius 0.36 at sigma 0.25, 5e-6 for each side."""
    assert percentile_ranks(0.5, 0.36 / 0.25, 2000, 5e-6) == (101, 1900)


@crossed(
    ("n", [1, 7, 100, 2000]), ("quantile", [0.02, 0.5, 0.9]), ("shift", [0.0, 0.5, 2.0]), ("alpha", [0.3, 1e-2, 1e-6])
)
def test_ranks_have_exactly_the_coverage_stated_and_no_slack(n: int, quantile: float, shift: float, alpha: float):
    """An order statistic misses the quantile of a continuous output with a binomial probability: no sampling."""
    z = scipy.stats.norm.ppf(quantile)
    below, above = scipy.stats.norm.cdf(z - shift), scipy.stats.norm.cdf(z + shift)

    def lower_fails(rank: int) -> float:  # the rank-th smallest draw lies above the quantile of `below`
        return scipy.stats.binom.cdf(rank - 1, n, below)

    def upper_fails(rank: int) -> float:  # it lies below the quantile of `above`
        return scipy.stats.binom.sf(rank - 1, n, above)

    low, high = percentile_ranks(quantile, shift, n, alpha)
    assert low == 0 or lower_fails(low) <= alpha
    assert high == n + 1 or upper_fails(high) <= alpha
    assert lower_fails(low + 1) > alpha  # the mutants: ranks off by one
    assert upper_fails(high - 1) > alpha
    assert 0 <= low <= math.ceil(n * quantile) <= high <= n + 1


def test_ranks_for_a_smaller_shift_would_fail():
    low, high = percentile_ranks(0.5, 0.9, 2000, 1e-3)
    assert scipy.stats.binom.cdf(low - 1, 2000, scipy.stats.norm.cdf(-1.0)) > 1e-3
    assert scipy.stats.binom.sf(high - 1, 2000, scipy.stats.norm.cdf(1.0)) > 1e-3


def test_the_error_of_the_noise_widens_the_ranks():
    assert percentile_ranks(0.5, 0.5, 1000, 1e-3, error=0.05) != percentile_ranks(0.5, 0.5, 1000, 1e-3)
    low, high = percentile_ranks(0.5, 0.5, 1000, 1e-3, error=0.05)
    assert scipy.stats.binom.cdf(low - 1, 1000, scipy.stats.norm.cdf(-0.5) - 0.05) <= 1e-3
    assert scipy.stats.binom.sf(high - 1, 1000, scipy.stats.norm.cdf(0.5) + 0.05) <= 1e-3
    assert percentile_ranks(0.5, 0.5, 1000, 1e-3, error=1.0) == (0, 1001)


# -------------------------------------------------------------------------------------------------------- intervals


@pytest.mark.parametrize("quantile", [0.25, 0.5])
def test_intervals_of_a_linear_regressor_hold_its_exact_range_and_come_close(quantile: float):
    model, x, radius = Linear(10), torch.randn(6, 2, 5, generator=generator(3)).double(), 0.2
    regressor = SmoothedRegressor(model, Gaussian(SIGMA))
    certificate = regressor.certify(x, radius, quantile, n=20_000, alpha=1e-6, generator=generator())
    low, high = model.interval(x, radius, quantile)
    slope = (high - low) / (2 * radius)
    assert (certificate.lower <= low).all()
    assert (certificate.upper >= high).all()
    assert (certificate.lower >= low - 0.1 * SIGMA * slope).all()
    assert (certificate.upper <= high + 0.1 * SIGMA * slope).all()
    assert ((certificate.estimate - (low + high) / 2).abs() <= 0.05 * SIGMA * slope).all()
    assert certificate.estimate.dtype == torch.float64
    assert certificate.subject == f"quantile(p={quantile}) of smoothed(gaussian(sigma=0.25))"


@pytest.mark.slow
def test_error_rate_of_each_side_is_at_most_half_of_alpha_and_a_mutant_exceeds_it():
    alpha, n, rows, radius = 0.1, 150, 2000, 0.2
    model = Linear(2, (1,))
    x = torch.zeros(rows, 2, dtype=torch.float64)
    regressor = SmoothedRegressor(model, Gaussian(SIGMA), grid=None)
    low, high = model.interval(x, radius, 0.5)
    allowed = scipy.stats.binom.isf(1e-6, rows, alpha / 2)
    certificate = regressor.certify(x, radius, n=n, alpha=alpha, generator=generator(4))
    assert 0 < int((certificate.lower > low).sum()) <= allowed
    assert 0 < int((certificate.upper < high).sum()) <= allowed
    mutant = regressor.certify(x, 0.9 * radius, n=n, alpha=alpha, generator=generator(4))
    assert int((mutant.lower > low).sum()) > allowed
    assert int((mutant.upper < high).sum()) > allowed


def test_alpha_is_shared_by_the_entries_of_an_output_and_their_sides():
    regressor, x = SmoothedRegressor(Linear(4, (50,)), Gaussian(SIGMA)), torch.zeros(1, 4, dtype=torch.float64)
    certificate = regressor.certify(x, 0.1, n=500, alpha=0.05, generator=generator())
    low, high = percentile_ranks(0.5, 0.1 / SIGMA, 500, 0.05 / 100)
    assert (low, high) != percentile_ranks(0.5, 0.1 / SIGMA, 500, 0.05 / 50)
    sampling = regressor.outputs.sampling(x, 500, certificate.seed)
    example = regressor.outputs.example(sampling)
    draws = gather_outputs(sampling, Stage.ESTIMATION, example.new_empty(1, 500, 50)).sort(dim=1).values
    assert torch.equal(certificate.lower, draws[:, low - 1])
    assert torch.equal(certificate.upper, draws[:, high - 1])
    assert torch.equal(certificate.estimate, draws[:, 249])


@pytest.mark.parametrize("height", [0.1, 0.45])
def test_nan_counts_against_both_sides(height: float):
    def certify(value: float):
        regressor = SmoothedRegressor(Holes(height, value), Gaussian(SIGMA), grid=None)
        return regressor.certify(torch.zeros(3, 2), 0.1, n=400, generator=generator())

    holes, low, high = certify(math.nan), certify(-math.inf), certify(math.inf)
    assert (holes.invalid > 0).all()
    assert torch.equal(holes.lower, low.lower)
    assert torch.equal(holes.upper, high.upper)
    assert (holes.upper == math.inf).all() == (height == 0.1)
    assert (low.invalid == 0).all()


def test_the_error_of_the_noise_widens_the_interval(monkeypatch):
    regressor, x = SmoothedRegressor(Linear(2), Gaussian(SIGMA)), torch.zeros(1, 2, dtype=torch.float64)
    plain = regressor.certify(x, 0.1, n=500, generator=generator())
    monkeypatch.setattr(Sampling, "error", 0.05)
    wide = regressor.certify(x, 0.1, n=500, generator=generator())
    assert (wide.lower < plain.lower).all()
    assert (wide.upper > plain.upper).all()


def test_too_few_draws_give_no_bound():
    regressor = SmoothedRegressor(Linear(2), Gaussian(SIGMA))
    certificate = regressor.certify(torch.zeros(1, 2, dtype=torch.float64), 0.5, n=10)
    assert (certificate.lower == -math.inf).all()
    assert (certificate.upper == math.inf).all()
    assert certificate.estimate.isfinite().all()


# ------------------------------------------------------------------------------------------------------- mechanics


@pytest.mark.parametrize("outputs", [(), (3,), (2, 3)])
def test_batches_and_shapes_of_outputs_change_nothing(outputs: tuple[int, ...]):
    model, x = Linear(6, outputs), torch.randint(0, 256, (7, 2, 3), generator=generator(5)).double() / 255
    results = [
        SmoothedRegressor(model, Gaussian(SIGMA), batch_size=size, noise_group=3).certify(
            x, 0.1, n=120, generator=generator(), first_index=1
        )
        for size in (1000, 50, 7)
    ]
    assert results[0].lower.shape == results[0].upper.shape == results[0].estimate.shape == (7, *outputs)
    assert results[0].sampling == "integers on the grid 1/255"
    for other in results[1:]:
        torch.testing.assert_close(other.lower, results[0].lower, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(other.upper, results[0].upper, rtol=1e-12, atol=1e-12)
    shard = SmoothedRegressor(model, Gaussian(SIGMA), noise_group=3).certify(
        x[4:], 0.1, n=120, generator=generator(), first_index=5
    )
    torch.testing.assert_close(shard.lower, results[0].lower[4:], rtol=1e-12, atol=1e-12)
    empty = SmoothedRegressor(model, Gaussian(SIGMA)).certify(x[:0], 0.1, n=10)
    assert empty.lower.shape == (0, *outputs)
    assert len(empty) == 0
    table = results[0].to_dataframe()
    assert table["upper_0"].tolist() == results[0].upper.reshape(7, -1)[:, 0].tolist()


def test_only_a_few_inputs_keep_their_draws_at_once():
    regressor = SmoothedRegressor(Linear(2), Gaussian(SIGMA), batch_size=1000, noise_group=2)
    sampling = regressor.outputs.sampling(torch.zeros(50, 2).double(), 100, 0)
    sizes = {
        draws: {rows.stop - rows.start for rows, _ in regressor.outputs.parts(sampling, draws)}
        for draws in (100, 10_000)
    }
    assert sizes == {100: {10}, 10_000: {2}}


def test_records_keep_their_precision():
    certificate = SmoothedRegressor(Linear(2), Gaussian(SIGMA)).certify(torch.zeros(2, 2).double(), 0.1, n=200)
    assert certificate.to(dtype=torch.float16).upper.dtype == torch.float64


def test_it_follows_the_device_of_the_input():
    regressor = SmoothedRegressor(Linear(2), Gaussian(SIGMA), noise_group=2)
    x = torch.ones(3, 2, dtype=torch.float64)
    expected = regressor.certify(x, 0.1, n=200, generator=generator())
    seeded = generator()
    with elsewhere():
        assert torch.equal(regressor.certify(x, 0.1, n=200, generator=seeded).upper, expected.upper)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Random(2), r"the model draws random numbers, aten\.rand"),
        (Coupled(), "depend on the other rows of its batch"),
        (nn.Flatten(0), "expected one real tensor with a row per input"),
        (nn.LSTM(2, 3), "expected one real tensor with a row per input, got tuple"),
    ],
)
def test_models_that_cannot_carry_a_certificate_are_refused(model: nn.Module, message: str):
    with pytest.raises(InvalidModel, match=message):
        SmoothedRegressor(model, Gaussian(SIGMA)).certify(torch.rand(4, 2, generator=generator()), 0.1, n=10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r, x: r.certify(x, -0.1), "radius must be a finite number of at least 0, got -0.1"),
        (lambda r, x: r.certify(x, math.inf), "radius must be"),
        (lambda r, x: r.certify(x, 0.1, quantile=1.0), "quantile must lie strictly between 0 and 1"),
        (lambda r, x: r.certify(x, 0.1, alpha=0), "alpha must lie strictly between 0 and 1"),
        (lambda r, x: r.certify(x, 0.1, n=0), "n must be an integer of at least 1"),
        (lambda r, x: r.certify(x * math.nan, 0.1), "row 0 holds NaN"),
        (lambda r, x: SmoothedRegressor(Linear(2), Uniform(1.0)), "noise must be Gaussian"),
        (lambda r, x: SmoothedRegressor(Linear(2), Gaussian(1.0), batch_size=0), "batch_size must be"),
    ],
)
def test_bad_input_gives_one_clear_line(call, message: str):
    with pytest.raises(InvalidInput, match=message) as caught:
        call(SmoothedRegressor(Linear(2), Gaussian(SIGMA)), torch.zeros(1, 2, dtype=torch.float64))
    assert "\n" not in str(caught.value)
