"""Boxes around transformed images against dense grids, pixel by pixel: margins would miss small faults."""

from itertools import product
from typing import Any

import pytest
import torch
from oracles.halfspace import generator
from torch import Tensor

from bounds.transformations.cells import Cells, tubes
from bounds.transformations.pipelines import Enclosing
from bounds.transformations.sampling import SampledImages
from certify.semantic import Blur, Compose, Photometric, Rotation, Scale, Shear, Transformation, Translation

CASES: dict[str, Transformation] = {
    "rotation": Rotation((2.0, 4.0)),
    "rotation, cyclic": Rotation((87.0, 91.0), "cyclic"),
    "scale": Scale((0.93, 1.02), "border"),
    "shear": Shear((-0.1, 0.05)),
    "translation": Translation((0.0, 0.7), (-1.0, -0.2)),
    "translation along one axis": Translation((-0.3, 0.0), (0.5, 0.5), "border"),
    "sums of translations": Compose(Translation((0.0, 0.5), (0.0, 0.0)), Translation((0.3, 0.8), (0.0, 0.0))),
    "contrast and brightness": Photometric((0.7, 1.4), (-0.2, 0.1)),
    "gamma": Photometric((0.9, 1.0), gamma=(0.6, 1.3)),
    "blur": Blur((0.0, 0.8)),
    "wide blur": Blur((0.6, 1.1), "zeros"),
    "rotation and contrast": Compose(Rotation((-1.0, 1.0)), Photometric((0.8, 1.2))),
    "rotation, scale, shear": Compose(Rotation((-1.0, 1.0)), Scale((0.98, 1.02)), Shear((-0.03, 0.02))),
    "rotation, blur, gamma": Compose(Rotation((-1.0, 1.0)), Blur((0.2, 0.5)), Photometric(gamma=(0.8, 1.2))),
}
DENSE = {1: 400, 2: 25, 3: 9}


def pictures(channels: int = 2) -> Tensor:
    """Noise with black pixels and white ones, which clipping and powers treat apart."""
    x = torch.rand(2, channels, 6, 7, generator=generator(1), dtype=torch.float64)
    return (1.5 * x - 0.25).clamp(0, 1)


def grid_of(which: Transformation, count: int) -> tuple[Tensor, Tensor]:
    """Parameters (M, k) of a dense grid, and the shares (M, V) of the corners in each."""
    shares = torch.linspace(0, 1, count, dtype=torch.float64)
    varies = [part.low < part.high for part in which.parameters]
    points = torch.cartesian_prod(*[shares if vary else shares[:1] for vary in varies]).view(-1, len(varies))
    weights = torch.ones(len(points), 1, dtype=torch.float64)
    for place in [place for place, vary in enumerate(varies) if vary]:
        share = points[:, place, None]
        weights = torch.cat([weights * (1 - share), weights * share], 1)
    return which.within(points), weights


def outside(which: Transformation, **noise: Any) -> tuple[float, float]:
    """How far pixels of a dense grid lie outside of the boxes' hull, at the most, and the mean width of it."""
    x = pictures()
    options = {"low": 0.0, "high": 1.0, "epsilon": 0.0, "norm": torch.inf, "dtype": torch.float64} | noise
    images = SampledImages(x, which.pipeline().padding)
    sides = torch.tensor([(part.low, part.high) for part in which.parameters], dtype=torch.float64)
    lower, upper = (side.expand(2, -1) for side in sides.unbind(1))
    found = Enclosing(pipeline=which.pipeline(), images=images, **options)(torch.tensor([0, 1]), lower, upper)
    values, weights = grid_of(which, DENSE[min(3, sum(part.low < part.high for part in which.parameters))])
    worst = 0.0
    for row in (0, 1):
        made = which.apply(x[row : row + 1].expand(len(values), -1, -1, -1), values)
        low, high = (torch.einsum("mv,vchw->mchw", weights, side[row]) for side in (found.lower, found.upper))
        epsilon = options["epsilon"]
        below, above = (made - epsilon).clamp(min=0), (made + epsilon).clamp(max=1)
        worst = max(worst, float((low - below).max()), float((above - high).max()))
    return worst, float((found.upper - found.lower).mean())


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * ("," in name)) for name in CASES])
def test_no_pixel_of_a_dense_grid_lies_outside(name: str):
    worst, width = outside(CASES[name])
    assert worst <= 1e-14  # rounding of the mixture of corners in this test
    assert width < (1e-11 if name.startswith("translation") else 0.35)


@pytest.mark.parametrize("name", ["rotation", "translation", "contrast and brightness"])
def test_noise_on_top_stays_inside_and_in_the_range_of_pixels(name: str):
    worst, width = outside(CASES[name], epsilon=0.05)
    assert worst <= 1e-14
    assert width < 0.3


@pytest.mark.parametrize("name", ["translation", "rotation", "contrast and brightness"])
@pytest.mark.parametrize(("dtype", "epsilon"), [(torch.float32, 0.0), (torch.bfloat16, 0.0), (torch.bfloat16, 0.3)])
def test_images_that_are_rounded_lie_inside_and_noise_on_top_of_them(name: str, dtype: torch.dtype, epsilon: float):
    x, which = pictures(), CASES[name]
    images = SampledImages(x, which.pipeline().padding)
    enclosing = Enclosing(
        pipeline=which.pipeline(), images=images, low=0.0, high=1.0, epsilon=epsilon, norm=torch.inf, dtype=dtype
    )
    sides = torch.tensor([(part.low, part.high) for part in which.parameters], dtype=torch.float64)
    found = enclosing(torch.tensor([0]), sides[:, 0][None], sides[:, 1][None])
    values, weights = grid_of(which, 9)
    made = which.apply(x[:1].expand(len(values), -1, -1, -1), values).to(dtype).double()
    low, high = (torch.einsum("mv,vchw->mchw", weights, side[0]) for side in (found.lower, found.upper))
    below, above = ((made + shift).clamp(0, 1) if epsilon else made for shift in (-epsilon, epsilon))
    assert ((low <= below + 1e-14) & (above <= high + 1e-14)).all()


def test_more_cells_are_thinner():
    widths = [outside(CASES["rotation"], cells=cells)[1] for cells in (4, 8, 32)]
    assert widths == sorted(widths, reverse=True)


def wave(points: int, k: int) -> Cells:
    """A product of sines over [-1, 1]^k with its slopes over cells, by their extremes on a fine grid."""
    ends = torch.linspace(-1, 1, points, dtype=torch.float64)
    fine = (ends[:-1, None] + torch.linspace(0, 1, 33, dtype=torch.float64) * (ends[1] - ends[0])).view(-1)

    def along(x: Tensor, axis: int) -> Tensor:
        return x.view(*[1] * axis, -1, *[1] * (k - 1 - axis))

    values = torch.ones([1] * k, dtype=torch.float64)
    for axis in range(k):
        values = values * along(torch.sin(2 * ends + axis), axis)
    slopes, spreads = [], []
    for turned in range(k):
        low = high = torch.ones([1] * k, dtype=torch.float64)
        for axis in range(k):
            part = 2 * torch.cos(2 * fine + axis) if axis == turned else torch.sin(2 * fine + axis)
            sides = part.view(points - 1, 33)
            least, most = along(sides.amin(1) - 1e-3, axis), along(sides.amax(1) + 1e-3, axis)
            corners = torch.stack(torch.broadcast_tensors(*[a * b for a in (low, high) for b in (least, most)]))
            low, high = corners.amin(0), corners.amax(0)
        slopes.append(((low + high) / 2)[None, ..., None])
        spreads.append(((high - low) / 2)[None, ..., None])
    return Cells(values[None, ..., None], tuple(slopes), tuple(spreads), torch.zeros(1, 1, dtype=torch.float64))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_lines_lie_below_and_above_a_smooth_function(k: int):
    found = wave(9, k)
    lower, upper = tubes(found, found)
    shares = torch.linspace(0, 1, 25, dtype=torch.float64)
    points = torch.tensor(list(product(shares.tolist(), repeat=k)), dtype=torch.float64)
    weights = torch.ones(len(points), 1, dtype=torch.float64)
    for axis in range(k):
        weights = torch.cat([weights * (1 - points[:, axis, None]), weights * points[:, axis, None]], 1)
    values = torch.stack([torch.sin(2 * (2 * points[:, axis] - 1) + axis) for axis in range(k)]).prod(0)
    low, high = weights @ lower[0, :, 0], weights @ upper[0, :, 0]
    assert (low <= values + 1e-12).all()
    assert (values <= high + 1e-12).all()
    if k == 1:  # the thinnest pair of lines around the arc, up to the correction between nine points
        assert float((high - low).min()) < 2.2


def test_cells_are_where_a_function_without_a_slope_keeps_its_range():
    values = torch.tensor([[[0.0], [1.0], [0.0]]], dtype=torch.float64)
    infinite = torch.full((1, 2, 1), torch.inf, dtype=torch.float64)
    floor, ceiling = torch.full((1, 2, 1), -0.5, dtype=torch.float64), torch.full((1, 2, 1), 1.5, dtype=torch.float64)
    found = Cells(values, (infinite,), (infinite,), torch.zeros(1, 1, dtype=torch.float64), floor, ceiling)
    assert found.least().tolist() == [[[-0.5], [-0.5]]]
    assert found.opposite().least().tolist() == [[[-1.5], [-1.5]]]
