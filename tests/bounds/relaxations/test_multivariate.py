"""Planes of products, maxima, known ranges and rectifiers, for any parameters: against exact values at all corners.

A plane over a box is worst at a corner where the function is convex or concave along each axis, as these are on the
side that matters; points inside cover the other.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
import torch
from oracles.halfspace import generator
from torch import Tensor

from bounds.relaxations.activations import leaky_relu, relu
from bounds.relaxations.base import NodeFunction, Planes
from bounds.relaxations.multivariate import Choice, Leaking, Maximum, Product, Ranked, Within
from bounds.sets.balls import Interval

COUNT = 3000


class Case(NamedTuple):
    """A function, its exact value, and the shapes of its parents."""

    function: NodeFunction
    value: Callable[..., np.ndarray]
    shapes: tuple[tuple[int, ...], ...]


CASES = {
    "product": Case(Product(), np.multiply, ((1,), (1,))),
    "maximum of two": Case(Maximum((-1,), False), lambda x: x.max(-1), ((1, 2),)),
    "maximum of four": Case(Maximum((-2, -1), True), lambda x: x.max((-2, -1), keepdims=True), ((2, 2),)),
    "second of four": Case(Ranked(1), lambda x: np.sort(x, -1)[..., -2], ((1, 4),)),
    "least of three": Case(Ranked(2), lambda x: np.sort(x, -1)[..., 0], ((1, 3),)),
    "known range": Case(Within(-math.inf, math.inf), lambda x: x, ((1,),)),
    "relu": Case(relu(), lambda x: np.maximum(x, 0), ((1,),)),
    "leaky relu": Case(leaky_relu(0.3), lambda x: np.maximum(x, np.longdouble(0.3) * x), ((1,),)),
}


def intervals(shape: tuple[int, ...], seed: int) -> Interval:
    """Tiny, wide, one-sided, around 0, points; of scales 1e-2 to 1e4."""
    draw = generator(seed)
    shape = (COUNT, *shape)
    scale = 10 ** (torch.rand(COUNT, generator=draw, dtype=torch.float64) * 6 - 2)
    scale = scale.view(-1, *[1] * (len(shape) - 1))
    center = torch.randn(shape, generator=draw, dtype=torch.float64)
    width = 10 ** (torch.rand(shape, generator=draw, dtype=torch.float64) * 14 - 13)
    width[::11] = 0.0
    lower, upper = (center - width) * scale, (center + width) * scale
    lower[1::7], upper[2::7] = 0.0, 0.0
    return Interval(torch.minimum(lower, upper), torch.maximum(lower, upper))


def chosen(case: Case, parents: list[Interval], way: int) -> tuple[Tensor, ...]:
    """Parameters: the default ones, then random ones within their limits, ends included."""
    free = case.function.default_parameters(*parents)
    if way == 0:
        return free
    draw, numbers = generator(way), []
    for number, limits in zip(free, case.function.limits(*parents), strict=False):
        share = torch.rand(number.shape, generator=draw, dtype=torch.float64) * 1.4 - 0.2
        limit = limits.lower + share.clamp(0, 1) * (limits.upper - limits.lower)
        numbers.append(torch.minimum(limit, limits.upper).expand_as(number))
    return tuple(numbers)


def tried(parents: list[Interval], seed: int = 3) -> list[list[np.ndarray]]:
    """All corners and 20 other points of every box, in extended precision."""
    lower = [part.lower.numpy().astype(np.longdouble) for part in parents]
    upper = [part.upper.numpy().astype(np.longdouble) for part in parents]
    entries = [part[0].size for part in lower]
    found = []
    for corner in product((False, True), repeat=sum(entries)):
        ends, taken = [], 0
        for low, high, count in zip(lower, upper, entries, strict=True):
            where = np.array(corner[taken : taken + count]).reshape(low.shape[1:])
            ends.append(np.where(where, high, low))
            taken += count
        found.append(ends)
    draw = np.random.default_rng(seed)
    for _ in range(20):
        shares = [draw.random(part.shape).astype(np.longdouble) for part in lower]
        inside = [low + s * (high - low) for low, high, s in zip(lower, upper, shares, strict=True)]
        found.append([np.clip(x, low, high) for x, low, high in zip(inside, lower, upper, strict=True)])
    return found


def gaps(case: Case, planes: Planes, x: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Distance of the function above the lower plane, and below the upper one, at a point of each box."""
    value = case.value(*x)

    def plane(slopes: tuple[Tensor, ...], intercept: Tensor | None) -> np.ndarray:
        total = np.zeros(value.shape, np.longdouble) if intercept is None else intercept.numpy().astype(np.longdouble)
        for slope, entry in zip(slopes, x, strict=True):
            terms = (slope.numpy().astype(np.longdouble) * entry).reshape(*value.shape, -1)
            total = total + terms.sum(-1)
        return total

    return (
        value - plane(planes.lower_slopes, planes.lower_intercept),
        plane(planes.upper_slopes, planes.upper_intercept) - value,
    )


def violations(case: Case, planes: Planes, parents: list[Interval]) -> int:
    """Planes that are crossed somewhere; NaN counts."""
    crossed = 0
    for x in tried(parents):
        size = max(float(np.abs(part).max()) for part in x) ** len(x)
        for gap in gaps(case, planes, x):
            crossed += int((~(gap >= -1e-19 * np.longdouble(size))).sum())
    return crossed


def boxes(case: Case) -> list[Interval]:
    return [intervals(shape, seed) for seed, shape in enumerate(case.shapes, 1)]


@pytest.mark.parametrize("name", CASES)
def test_planes_are_sound(name: str):
    case = CASES[name]
    parents = boxes(case)
    for way in range(3):
        free = chosen(case, parents, way)
        assert violations(case, case.function.planes(free, *parents), parents) == 0
        assert violations(case, case.function.prepared(*parents)(free), parents) == 0
    assert violations(case, case.function.parallel(*parents), parents) == 0
    image = case.function.range_of(*parents)
    for x in tried(parents):
        value = case.value(*x)
        assert (image.lower.numpy() <= value).all()
        assert (value <= image.upper.numpy()).all()


@pytest.mark.parametrize("name", CASES)
def test_planes_touch(name: str):
    """At some corner each plane meets the function, up to rounding: of products and ReLU below and above always."""
    case = CASES[name]
    parents = boxes(case)
    planes = case.function.planes(case.function.default_parameters(*parents), *parents)
    size = np.ones(COUNT, np.longdouble)
    for part in parents:
        size = size * torch.maximum(part.lower.abs(), part.upper.abs()).flatten(1).amax(1).numpy()
    least = [np.full(COUNT, np.inf, np.longdouble) for _ in range(2)]
    for x in tried(parents):
        for i, gap in enumerate(gaps(case, planes, x)):
            least[i] = np.minimum(least[i], gap.reshape(COUNT, -1).max(1))
    free_corner = case.function.default_parameters(*parents)
    if isinstance(case.function, Product):  # means of two planes touch where one of them does only at its ends
        ends = [torch.zeros_like(free_corner[0]), torch.ones_like(free_corner[1])]
        planes = case.function.planes(tuple(ends), *parents)
        for x in tried(parents):
            for i, gap in enumerate(gaps(case, planes, x)):
                least[i] = np.minimum(least[i], gap.reshape(COUNT, -1).max(1))
    for part in least:
        assert (part <= 1e-13 * size + 1e-275).all()


def test_the_largest_of_entries_of_which_one_dominates_is_itself():
    x = Interval(torch.tensor([[[2.0, 0.0, -1.0]]]).double(), torch.tensor([[[3.0, 1.0, 2.0]]]).double())
    function = Maximum((-1,), False)
    planes = function.planes(function.default_parameters(x), x)
    for slopes in (planes.lower_slopes[0], planes.upper_slopes[0]):
        torch.testing.assert_close(slopes, torch.tensor([[[1.0, 0.0, 0.0]]]).double(), rtol=0, atol=1e-8)
    assert planes.upper_intercept.abs().max() < 1e-12
    assert not function.unstable(x)[0].any()


def test_a_known_range_cuts_the_interval():
    x = Interval(torch.tensor([[-3.0, 0.5]]), torch.tensor([[3.0, 0.6]]))
    found = Within(-1.0, 2.0).range_of(x)
    assert torch.equal(found.lower, torch.tensor([[-1.0, 0.5]]))
    assert torch.equal(found.upper, torch.tensor([[2.0, 0.6]]))


@pytest.mark.parametrize("name", ["product", "maximum of two", "maximum of four", "relu", "leaky relu"])
def test_gradients_reach_the_free_numbers(name: str):
    """Finite differences at numbers strictly inside their limits."""
    case = CASES[name]
    draw = generator(5)
    parents = []
    for shape in case.shapes:
        center = torch.randn(40, *shape, generator=draw, dtype=torch.float64)
        width = torch.rand(40, *shape, generator=draw, dtype=torch.float64) + 0.5
        parents.append(Interval(center - width, center + width))
    free = [number.clone() for number in case.function.default_parameters(*parents)]
    for number, limits in zip(free, case.function.limits(*parents), strict=True):
        share = 0.2 + 0.6 * torch.rand(number.shape, generator=draw, dtype=torch.float64)
        number.copy_(limits.lower + share * (limits.upper - limits.lower)).requires_grad_()

    def flat(*numbers: Tensor) -> tuple[Tensor, ...]:
        planes = case.function.planes(numbers, *parents)
        parts = (*planes.lower_slopes, planes.lower_intercept, *planes.upper_slopes, planes.upper_intercept)
        return tuple(part for part in parts if part is not None and part.requires_grad)

    assert flat(*free)
    assert torch.autograd.gradcheck(flat, tuple(free), eps=1e-7, atol=1e-5)


MUTANTS: dict[str, Callable[[Planes, Interval], Planes]] = {
    "product": lambda planes, x: planes._replace(lower_intercept=planes.lower_intercept + 1e-9 * x.upper.abs()),
    "maximum of two": lambda planes, x: planes._replace(upper_intercept=0.999999 * planes.upper_intercept),
    "maximum of four": lambda planes, x: planes._replace(lower_slopes=(planes.upper_slopes[0] * 1.001,)),
    "second of four": lambda planes, x: planes._replace(upper_intercept=planes.upper_intercept - 1e-9),
    "least of three": lambda planes, x: planes._replace(lower_slopes=(planes.lower_slopes[0].flip(-1),)),
    "known range": lambda planes, x: planes._replace(upper_slopes=(planes.upper_slopes[0] * (1 - 1e-12),)),
    "relu": lambda planes, x: planes._replace(upper_intercept=0.999999 * planes.upper_intercept),
    "leaky relu": lambda planes, x: planes._replace(lower_slopes=(planes.lower_slopes[0] * 1.0001,)),
}


@pytest.mark.parametrize("name", CASES)
def test_wrong_planes_are_seen(name: str):
    case = CASES[name]
    parents = boxes(case)
    planes = case.function.planes(case.function.default_parameters(*parents), *parents)
    assert violations(case, MUTANTS[name](planes, parents[0]), parents) > 0


def test_a_rectifier_with_a_secant_that_is_too_flat_is_seen():
    """Mutant of the function itself: its slope below 0 is not the one it claims."""
    case = CASES["leaky relu"]
    parents = boxes(case)
    wrong = replace(case.function, negative_slope=0.2)
    assert violations(case, wrong.planes(wrong.default_parameters(*parents), *parents), parents) > 0


# ------------------------------------------------------------------------------------------------------------- choices


def choices() -> tuple[Case, list[Interval]]:
    """A condition that is known, up to rounding, or not, and two entries of any ranges."""
    draw = generator(9)
    lower = torch.tensor([0.0, -1e-12, 0.0, 1.0, 1 - 1e-12], dtype=torch.float64).repeat(COUNT // 5).unsqueeze(1)
    upper = torch.tensor([1.0, 1.0, 0.0, 1.0, 1 + 1e-12], dtype=torch.float64).repeat(COUNT // 5).unsqueeze(1)
    parents = [Interval(lower, upper)]
    for _ in range(2):
        ends = torch.randn(2, COUNT, 1, generator=draw, dtype=torch.float64).sort(0).values
        ends[1, ::7] = ends[0, ::7]
        parents.append(Interval(ends[0], ends[1]))

    def value(c: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        c = c.round().clip(0, 1)  # a condition is 0 or 1
        return c * a + (1 - c) * b

    return Case(Choice(), value, ((1,), (1,), (1,))), parents


def at_conditions(case: Case, planes: Planes, parents: list[Interval]) -> int:
    """Planes that are crossed where the condition is a number that it may be."""
    crossed = 0
    for x in tried(parents):
        x[0] = x[0].round().clip(0, 1)
        for gap in gaps(case, planes, x):
            crossed += int((~(gap >= -1e-18)).sum())
    return crossed


def test_planes_of_a_choice_are_sound_and_exact_where_it_is_known():
    case, parents = choices()
    for way in range(3):
        planes = case.function.planes(chosen(case, parents, way), *parents)
        assert at_conditions(case, planes, parents) == 0
    known = case.function.range_of(*parents)
    for x in tried(parents):
        assert (known.lower.numpy() <= case.value(*x)).all()
        assert (case.value(*x) <= known.upper.numpy()).all()
    for entries, slopes in ((slice(2, None, 5), (0, 0, 1)), (slice(3, None, 5), (0, 1, 0))):
        for planes_of in (planes.lower_slopes, planes.upper_slopes):
            assert all((slope[entries] == exact).all() for slope, exact in zip(planes_of, slopes, strict=True))
        assert (planes.lower_intercept[entries] == 0).all()
        assert not any(part[entries].any() for part in case.function.unstable(*parents))


def test_a_plane_of_a_choice_with_the_wrong_end_is_seen():
    """The mutant: the largest difference below, where the least one belongs."""
    case, parents = choices()
    planes = case.function.planes(case.function.default_parameters(*parents), *parents)
    assert at_conditions(case, planes._replace(lower_slopes=planes.upper_slopes), parents) > 0


def test_the_default_planes_of_a_choice_are_better_at_the_centre():
    case, parents = choices()
    centers = [(part.lower + part.upper) / 2 for part in parents]
    centers[0] = torch.full_like(centers[0], 0.5)

    def height(free: tuple[Tensor, ...], above: bool) -> Tensor:
        planes = case.function.planes(free, *parents)
        slopes = planes.upper_slopes if above else planes.lower_slopes
        # Of a condition of which nothing is known, the end that is worse.
        worst = (slopes[0].clamp(min=0) if above else slopes[0].clamp(max=0)) + slopes[1] * centers[1]
        return worst + slopes[2] * centers[2] + (planes.upper_intercept if above else planes.lower_intercept)

    default = case.function.default_parameters(*parents)
    for share in (torch.zeros_like(default[0]), torch.full_like(default[0], 0.5), torch.ones_like(default[0])):
        assert (height(default, above=False) >= height((share, share), above=False) - 1e-12).all()
        assert (height(default, above=True) <= height((share, share), above=True) + 1e-12).all()


# ------------------------------------------------------------------------------------------------ ranks and faint masks


def test_an_entry_whose_rank_is_known_is_itself():
    """Both planes are the entry, also where others are equal to it; else they are constants of the right rank."""
    lower, upper = torch.tensor([[5.0, 1.0, 3.0, 0.0], [5.0, 1.0, 3.0, 0.0], [2.0, 2.0, 2.0, 0.0]]).double(), 0.5
    x = Interval(lower, lower + torch.tensor([[upper], [4.0], [0.0]]).double())
    planes = Ranked(1).planes((), x)
    assert planes.lower_slopes[0].tolist() == [[0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert planes.lower_intercept.tolist() == [0, 3, 2]
    assert planes.upper_intercept.tolist() == [0, 7, 2]


def leaking(seed: int) -> tuple[Leaking, list[Interval], Tensor, Tensor]:
    """Exponents in boxes, of which some are faint by so little that it matters, at points; and softmax of the rest."""
    faint = torch.tensor([False, True, False, True])
    center = torch.randn(COUNT, 4, generator=generator(seed), dtype=torch.float64) - 6 * faint
    width = torch.rand(COUNT, 4, generator=generator(seed + 1), dtype=torch.float64)
    exponents = Interval(center - width, center + width)
    share = torch.rand(40, COUNT, 4, generator=generator(seed + 2), dtype=torch.float64).round()
    points = exponents.lower + share * (exponents.upper - exponents.lower)
    weights = points.masked_fill(faint, -math.inf).softmax(-1)
    around = Interval(weights.amin(0), weights.amax(0))
    return Leaking(faint), [around, exponents], points, weights


def test_what_leaks_through_a_faint_mask_is_bounded():
    function, parents, points, weights = leaking(3)
    truth, planes, image = points.softmax(-1), function.planes((), *parents), function.range_of(*parents)
    assert (truth >= weights + planes.lower_intercept - 1e-15).all()
    assert (truth <= weights + planes.upper_intercept + 1e-15).all()
    assert ((image.lower <= truth + 1e-15) & (truth <= image.upper + 1e-15)).all()
    assert planes.upper_intercept.max() < 1
    # The mutant: as if nothing leaked.
    assert (truth > weights + 0.5 * planes.upper_intercept).any()
    assert (truth < weights + 0.1 * planes.lower_intercept).any()
