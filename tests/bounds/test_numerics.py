"""Rounding to the safe side, against exact fractions."""

import math
from fractions import Fraction

import mpmath
import pytest
import torch
from scipy import special

from bounds import InvalidInput
from bounds.numerics import (
    BETA_FUNCTION_ERROR,
    SPECIAL_FUNCTION_ERROR,
    accumulated_error,
    round_down,
    round_up,
    unit_roundoff,
)

ERRORS = (0.0, SPECIAL_FUNCTION_ERROR, 1e-9)
NUMBERS = (0.0, -0.0, 1.0, -1.0, 1 / 3, -2 / 3, 1e-300, -1e-300, 5e-324, -5e-324, 1e300, -1.7e308, 1 - 2.0**-53)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("x", NUMBERS)
def test_rounding_passes_everything_that_x_may_stand_for(x: float, error: float):
    """Catches rounding of a negative number towards zero, and a slack that is itself lost to rounding."""
    down = round_down(torch.tensor([x], dtype=torch.float64), error).item()
    up = round_up(torch.tensor([x], dtype=torch.float64), error).item()
    slack = abs(Fraction(x)) * Fraction(error)
    assert Fraction(down) <= Fraction(x) - slack
    assert Fraction(up) >= Fraction(x) + slack
    assert down < x < up
    assert up == -round_down(torch.tensor([-x], dtype=torch.float64), error).item()


@pytest.mark.parametrize("x", [1.0, -2 / 3, 1e300, 1e-300])
def test_rounding_costs_hardly_more_than_the_stated_error(x: float):
    value = torch.tensor([x], dtype=torch.float64)
    assert abs(round_down(value).item() - x) <= 1.5 * SPECIAL_FUNCTION_ERROR * abs(x)
    assert math.nextafter(x, -math.inf) == round_down(value, 0.0).item()


def test_infinities_and_nan():
    """A number that overflowed may stand for any number beyond the largest one; infinity used to become NaN."""
    values = torch.tensor([math.inf, -math.inf, math.nan], dtype=torch.float64)
    largest = torch.finfo(torch.float64).max
    down, up = round_down(values).tolist(), round_up(values).tolist()
    assert down[:2] == [largest, -math.inf]
    assert up[:2] == [math.inf, -largest]
    assert math.isnan(down[2])
    assert math.isnan(up[2])


@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_shapes_stay(shape: tuple[int, ...]):
    assert round_down(torch.ones(shape, dtype=torch.float64)).shape == shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_unit_roundoff_is_the_largest_relative_error(dtype: torch.dtype):
    """``1 + u`` is a tie and rounds to 1; the next larger number does not. Catches eps in place of eps / 2."""
    u = unit_roundoff(dtype)
    one = torch.ones((), dtype=dtype)
    assert torch.tensor(1 + u, dtype=torch.float64).to(dtype) == one
    assert torch.tensor(1 + u * (1 + 1e-3), dtype=torch.float64).to(dtype) > one


@pytest.mark.parametrize("terms", [1, 2, 30, 1000])
def test_accumulated_error_bounds_products_of_relative_errors(terms: int):
    """Higham (2002), Lemma 3.1: |prod (1 + d_i)^(+-1) - 1| <= gamma_n, with all d_i at their worst, exactly."""
    u = Fraction(unit_roundoff(torch.float32))
    gamma = Fraction(accumulated_error(terms, torch.float32)) * (1 + Fraction(1, 10**12))
    assert (1 + u) ** terms - 1 <= gamma
    assert 1 / (1 - u) ** terms - 1 <= gamma
    assert gamma <= Fraction(1001, 1000) * terms * u / (1 - terms * u)
    fewer = Fraction(accumulated_error(terms - 1, torch.float32)) if terms > 1 else Fraction(0)
    assert 1 / (1 - u) ** terms - 1 > fewer  # the mutant that counts one operation less


def test_sums_without_a_useful_bound_are_refused():
    assert accumulated_error(1000, torch.float16) < 1
    with pytest.raises(InvalidInput, match=r"sums of 1024 terms in torch\.float16 have no useful error bound"):
        accumulated_error(1024, torch.float16)


@pytest.mark.parametrize(("trials", "p", "least"), [(10, 0.3, 3), (1000, 0.5, 679), (10**6, 0.5, 504_856)])
def test_the_incomplete_beta_function_is_far_closer_to_binomial_tails_than_it_is_taken_for(
    trials: int, p: float, least: int
):
    """Tails were rounded up by 1e-12 for the error of the function, which is more from a million trials on."""
    with mpmath.workdps(40):
        odds = mpmath.mpf(p) / (1 - mpmath.mpf(p))
        exponent = least * mpmath.log(odds) + trials * mpmath.log(1 - mpmath.mpf(p))
        term = total = mpmath.binomial(trials, least) * mpmath.exp(exponent)
        for k in range(least, min(trials, least + 20_000)):
            term *= odds * (trials - k) / (k + 1)
            total += term
        error = abs(special.betainc(least, trials - least + 1.0, p) / total - 1)
    assert error < BETA_FUNCTION_ERROR / 100
