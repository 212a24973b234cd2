"""Coefficients through a function: the quick ways against the plain one, for all kinds of rows."""

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from oracles.halfspace import generator
from torch import Tensor

from bounds.linear.passes import through_functions
from bounds.linear.passes.through_functions import (
    Propagated,
    SharedLines,
    through_lines,
    through_planes,
    through_unstable,
)
from bounds.relaxations.activations import leaky_relu
from bounds.relaxations.base import Planes
from bounds.relaxations.relu import ReLURelaxation
from bounds.rows import DenseRows, PatchRows, Rows, mirrored
from bounds.sets.balls import Interval

INPUTS, SHAPE = 2, (3, 4, 5)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def dense() -> Rows:
    return DenseRows(draw(INPUTS, 6, *SHAPE))


def windows() -> Rows:
    """Two places with three rows each, reaching beyond the map."""
    place = torch.tensor([[0, 5], [3, 2]])
    return PatchRows(draw(INPUTS, 1, 2, 3, 3, 2, 3), place, (2, 3), (2, 1), (1, 1), SHAPE, False)


class Case(NamedTuple):
    """A rectifier on random intervals, some of them on one side of 0, behind a node with an offset."""

    function: ReLURelaxation
    interval: Interval
    offset: Tensor

    @classmethod
    def random(cls, slope: float) -> "Case":
        middle = draw(INPUTS, *SHAPE, seed=1)
        radius = draw(INPUTS, *SHAPE, seed=2).abs()
        function = leaky_relu(slope)
        assert isinstance(function, ReLURelaxation)
        return cls(function, Interval(middle - radius, middle + radius), draw(1, *SHAPE, seed=3))


def plainly(case: Case, rows: Rows, planes: Planes, *, joint: bool) -> Propagated:
    """The plain way, with the offset of the parent counted behind the function."""
    propagated = through_planes(case.function, rows, planes, [case.interval.lower.shape], joint=joint, reach=[])
    added = propagated.parts[0].dot(case.offset)
    if added.shape[1] < propagated.constant.shape[1]:  # parallel lines leave opposite rows in one
        added = torch.cat([added, -added], 1)
    return propagated._replace(constant=propagated.constant + added)


def lines_of(case: Case, planes: Planes) -> SharedLines:
    (low,), (high,), upper = planes.lower_slopes, planes.upper_slopes, planes.upper_intercept
    constants = low * case.offset, upper + high * case.offset
    return SharedLines(low, None if low is high else high - low, *constants)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("rows", [dense(), windows()], ids=["dense", "windows"])
def test_shared_lines_are_shared_planes(rows: Rows, parallel: bool, joint: bool, gradients: bool):
    case = Case.random(0.1)
    parents = (case.interval,)
    planes = (
        case.function.parallel(*parents)
        if parallel
        else case.function.planes(case.function.default_parameters(*parents), *parents)
    )
    lines = lines_of(case, planes)
    expected = plainly(case, rows, planes.at(rows), joint=joint)
    with torch.set_grad_enabled(gradients):
        found = through_lines(rows, lines, joint=joint)
    assert torch.allclose(found.constant, expected.constant, rtol=1e-12, atol=1e-12)
    assert torch.allclose(found.parts[0].dense(), expected.parts[0].dense(), rtol=1e-12, atol=1e-12)
    error = draw(INPUTS, *SHAPE, seed=4).abs()
    apart = through_lines(rows, replace(lines, lower=lines.lower - error, upper=lines.upper + error), joint=joint)
    lost = torch.cat([rows.size(error)] * 2, 1) if joint else rows.size(error)
    assert torch.allclose(found.constant - apart.constant, lost, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("slope", [0.0, 0.1])
@pytest.mark.parametrize("rows", [dense(), windows()], ids=["dense", "windows"])
def test_planes_at_few_entries_are_planes_at_all(rows: Rows, slope: float):
    """Values, and gradients of coefficients and of the slopes that are free."""
    case = Case.random(slope)
    rows = rows.cleaned()
    first = rows.values.ndim - len(SHAPE)
    at_rows = Interval(rows.at(case.interval.lower), rows.at(case.interval.upper))
    free = torch.rand(rows.values.shape, generator=generator(7), dtype=torch.float64).requires_grad_()
    values = rows.values.clone().requires_grad_()
    held = rows.with_values(values)
    every = plainly(case, held, case.function.planes((free,), at_rows), joint=False)

    (opened,) = (part.flatten(first) for part in case.function.unstable(at_rows))
    count = int(opened.sum(-1).max())
    assert count < opened.shape[-1]
    index = opened.to(torch.uint8).sort(dim=-1, descending=True, stable=True).indices[..., :count]
    few = Interval(*(end.flatten(first).gather(-1, index) for end in (at_rows.lower, at_rows.upper)))
    chosen = free.flatten(first).gather(-1, index.expand(*values.shape[:first], -1))
    exact = case.function.planes(case.function.default_parameters(case.interval), case.interval).lower_slopes[0]
    some = through_unstable(held, exact, index, case.function.planes((chosen,), few), case.offset)

    assert torch.allclose(some.constant, every.constant, rtol=1e-12, atol=1e-12)
    assert torch.allclose(some.parts[0].dense(), every.parts[0].dense(), rtol=1e-12, atol=1e-12)
    weights = draw(*every.parts[0].dense().shape, seed=8), draw(*every.constant.shape, seed=9)
    sums = [(part.parts[0].dense() * weights[0]).sum() + (part.constant * weights[1]).sum() for part in (some, every)]
    for ours, theirs in zip(*(torch.autograd.grad(total, [values, free]) for total in sums), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_opposite_rows_take_the_opposite_lines():
    """``joint`` adds the part that rows with the opposite sign have on their own; with any other lines it does not."""
    case, rows = Case.random(0.0), dense()
    planes = case.function.planes(case.function.default_parameters(case.interval), case.interval)
    lines = lines_of(case, planes)
    both, apart = through_lines(rows, lines, joint=True), through_lines(mirrored(rows), lines, joint=False)
    assert torch.allclose(both.constant, apart.constant, rtol=1e-12, atol=1e-12)
    assert torch.allclose(both.parts[0].dense(), apart.parts[0].dense(), rtol=1e-12, atol=1e-12)
    wrong = through_lines(
        mirrored(rows), lines_of(case, planes._replace(lower_slopes=planes.upper_slopes)), joint=False
    )
    assert not torch.allclose(both.parts[0].dense(), wrong.parts[0].dense(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(("rows", "inputs"), [(INPUTS, INPUTS), (1, INPUTS), (INPUTS, 1)])
@pytest.mark.parametrize("shape", [SHAPE, ()])
@pytest.mark.parametrize("at_once", [through_functions.IN_CACHE, 1])
def test_gradients_behind_shared_lines_are_those_of_the_plain_formula(
    rows: int, inputs: int, shape: tuple[int, ...], at_once: int, monkeypatch: pytest.MonkeyPatch
):
    """First and second ones, of coefficients and lines, also where a coefficient is 0, and one input at a time."""
    monkeypatch.setattr(through_functions, "IN_CACHE", at_once)
    values = draw(rows, 3, *shape)
    values[:, 1] = 0.0
    lines = [draw(inputs, *shape, seed=seed) for seed in range(1, 5)]
    tensors = [part.requires_grad_() for part in (values, *lines)]
    weights = draw(INPUTS, 3, *shape, seed=8), draw(INPUTS, 3, seed=9)

    def gradients(part: Tensor, constant: Tensor) -> list[Tensor]:
        total = ((part + part**2) * weights[0]).sum() + ((constant + constant**2) * weights[1]).sum()
        first = torch.autograd.grad(total, tensors, create_graph=True)
        second = torch.autograd.grad(sum((each**2).sum() for each in first), tensors)
        return [part, constant, *first, *second]

    slope, rise, lower, upper = lines
    found = through_lines(DenseRows(values), SharedLines(slope, rise, lower, upper), joint=False)
    below = torch.where(
        values > 0, 0.0, values
    )  # whose gradient at 0 is the same in every version, unlike that of clamp
    slope, rise, lower, upper = (line.unsqueeze(1) for line in lines)
    constant = (values * lower + below * (upper - lower)).reshape(INPUTS, 3, -1).sum(2)
    expected = gradients(values * slope + below * rise, constant)
    for ours, theirs in zip(gradients(found.parts[0].dense(), found.constant), expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-10)
