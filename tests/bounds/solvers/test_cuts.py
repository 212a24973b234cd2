"""Planes above rectifiers of many variables, against the least concave majorant and exact fractions."""

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from oracles.networks import generator
from scipy.optimize import linprog
from torch import Tensor

from bounds.solvers import cuts
from bounds.solvers.affine_form import AffineForm
from bounds.solvers.cuts import planes_above


def problem(seed: int, variables: int = 4, neurons: int = 5) -> tuple[AffineForm, Tensor, Tensor, Tensor, Tensor]:
    """Neurons of a box with one variable that does not move, one that does not matter and one of great size."""
    source = generator(seed)
    weights = torch.randn(variables, neurons, generator=source, dtype=torch.float64)
    weights[1, 0] = 0.0
    lower = torch.randn(variables, generator=source, dtype=torch.float64)
    upper = lower + torch.rand(variables, generator=source, dtype=torch.float64) * 3
    upper[2] = lower[2]
    middle = (lower + upper) / 2
    offset = 0.3 * torch.randn(neurons, generator=source, dtype=torch.float64) - middle @ weights
    slope = torch.tensor([0.0, 0.0, 0.2, 1.0, 0.7], dtype=torch.float64)[:neurons]
    point = lower + torch.rand(variables, generator=source, dtype=torch.float64) * (upper - lower)
    return AffineForm(weights, offset, torch.zeros_like(offset)), slope, lower, upper, point


def heights(form: AffineForm, slope: Tensor, points: Tensor) -> Tensor:
    z = points @ form.matrix + form.offset
    return torch.maximum(z, slope * z)


def corners(lower: Tensor, upper: Tensor) -> Tensor:
    return torch.stack([torch.stack(ends) for ends in product(*zip(lower, upper, strict=True))])


def excess(seed: int) -> float:
    """The largest height of a rectifier above its plane, at corners and inside."""
    form, slope, lower, upper, point = problem(seed)
    slopes, intercepts = planes_above(form, slope, lower, upper, point)
    inside = lower + torch.rand(500, len(lower), generator=generator(seed + 1), dtype=torch.float64) * (upper - lower)
    points = torch.cat([corners(lower, upper), inside])
    return float((heights(form, slope, points) - (points @ slopes.T + intercepts)).max())


def test_planes_touch_the_least_concave_majorant():
    """That at a point is the largest mean of heights of corners whose mean is the point: a linear programme."""
    for seed in range(6):
        form, slope, lower, upper, point = problem(seed)
        slopes, intercepts = planes_above(form, slope, lower, upper, point)
        ends = corners(lower, upper)
        matrix = np.vstack([ends.T.numpy(), np.ones(len(ends))])
        for neuron, values in enumerate(heights(form, slope, ends).T):
            best = linprog(-values.numpy(), A_eq=matrix, b_eq=np.append(point.numpy(), 1.0), bounds=(0, None))
            there = float(slopes[neuron] @ point + intercepts[neuron])
            assert abs(there + best.fun) < 1e-9 * (1 + abs(best.fun))


def test_planes_hold_and_a_wrong_one_is_seen(monkeypatch: pytest.MonkeyPatch):
    assert max(excess(seed) for seed in range(20)) <= 0
    whole = cuts._intercepts
    monkeypatch.setattr(cuts, "_intercepts", lambda form, *others: whole(form, *others) - 1e-6)
    assert max(excess(seed) for seed in range(20)) > 0


def test_any_slopes_get_an_intercept_that_holds():
    form, slope, lower, upper, _ = problem(3)
    slopes = torch.randn(5, 4, generator=generator(9), dtype=torch.float64)
    intercepts = cuts._intercepts(form, slopes, slope, lower, upper)
    ends = corners(lower, upper)
    gap = (ends @ slopes.T + intercepts) - heights(form, slope, ends)
    assert (gap >= 0).all()
    assert (gap.amin(0) < 1e-9).all()  # the difference is convex: it is largest at a corner


def test_rounding_is_included():
    """In exact fractions, at the corner where a plane touches, of numbers between 1e-8 and 1e8; and form errors."""
    source, missed = generator(0), 0
    for trial in range(30):
        form, slope, lower, upper, point = problem(trial)
        scale = 10 ** (16 * torch.rand(4, generator=source, dtype=torch.float64) - 8)
        form = form._replace(matrix=form.matrix * scale[:, None], rounding_error=1e-3 * form.offset.abs())
        slopes, intercepts = planes_above(form, slope, lower, upper, point)
        for end in corners(lower, upper):
            x = [Fraction(value) for value in end.tolist()]
            for neuron in range(5):
                weights, plane = form.matrix[:, neuron].tolist(), slopes[neuron].tolist()
                z = sum(
                    (Fraction(a) * b for a, b in zip(weights, x, strict=True)), Fraction(float(form.offset[neuron]))
                )
                z += Fraction(float(form.rounding_error[neuron]))
                height = max(z, Fraction(float(slope[neuron])) * z)
                above = sum(
                    (Fraction(a) * b for a, b in zip(plane, x, strict=True)), Fraction(float(intercepts[neuron]))
                )
                missed += height > above
    assert missed == 0


def test_what_is_no_number_gives_no_plane():
    form, slope, lower, upper, point = problem(0)
    broken = form._replace(offset=torch.full_like(form.offset, math.nan))
    assert planes_above(broken, slope, lower, upper, point)[1].isinf().all()
