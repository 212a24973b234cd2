"""Interpolation and maps of the plane, against grid_sample, permutations, and derivatives by differences."""

import pytest
import torch
import torch.nn.functional as F
from oracles.halfspace import generator
from torch import Tensor

from bounds.transformations import maps
from bounds.transformations.maps import Motion
from bounds.transformations.motions import places_of
from bounds.transformations.sampling import PADDINGS, SampledImages

SHAPE = (2, 3, 5, 8)


def images(*shape: int) -> Tensor:
    return torch.rand(*(shape or SHAPE), generator=generator(1), dtype=torch.float64)


def moved(x: Tensor, motion: Motion, padding: str) -> Tensor:
    places = places_of(motion.value, x.shape)
    return SampledImages(x, padding).values(torch.arange(len(x)), places[0], places[1]).view(x.shape)


def motions(size: Tensor) -> dict[str, Motion]:
    turn, grow = maps.rotation(40 * size, 40 * size), maps.scale(1 + size / 2, 1 + size / 2)
    lean, shift = maps.shear(size, size), maps.translation(3 * size, 3 * size, axis=0)
    return {"rotation": turn, "scale": grow, "shear": lean, "shift": shift, "all": turn.after(grow).after(shift)}


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("which", ["rotation", "scale", "shear", "shift", "all"])
def test_grid_sample_agrees(which: str, padding: str):
    x, size = images(), torch.tensor([0.7, -0.4], dtype=torch.float64)
    motion = motions(size)[which]
    tall, wide = x.shape[2:]
    # From pixels to the units of affine_grid, which are halves of the image in both directions.
    unit = torch.tensor([wide / 2, tall / 2, 1.0], dtype=torch.float64)
    theta = (motion.value.center * unit / unit[:, None])[:, :2]
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    expected = F.grid_sample(x, grid, padding_mode=padding, align_corners=False)
    assert torch.allclose(moved(x, motion, padding), expected, atol=1e-12)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("turns", [-1, 1, 2, 3, 4])
def test_quarter_turns_are_permutations(padding: str, turns: int):
    x, angle = images(2, 3, 6, 6), torch.full((2,), 90.0 * turns, dtype=torch.float64)
    assert torch.allclose(moved(x, maps.rotation(angle, angle), padding), x.rot90(turns, (2, 3)), atol=1e-12)


@pytest.mark.parametrize(("axis", "dim"), [(0, 3), (1, 2)])
@pytest.mark.parametrize("pixels", [-9, -2, 1, 3])
def test_whole_pixels_shift(axis: int, dim: int, pixels: int):
    x, shift = images(), torch.full((2,), float(pixels), dtype=torch.float64)
    rolled, motion = x.roll(pixels, dim), maps.translation(shift, shift, axis)
    assert torch.allclose(moved(x, motion, "cyclic"), rolled, atol=1e-12)
    places = torch.arange(x.shape[dim]) - pixels
    inside = ((places >= 0) & (places < x.shape[dim])).view(-1, *[1] * (3 - dim))
    assert torch.allclose(moved(x, motion, "zeros"), rolled * inside, atol=1e-12)
    nearest = x.index_select(dim, places.clamp(0, x.shape[dim] - 1))
    assert torch.allclose(moved(x, motion, "border"), nearest, atol=1e-12)


@pytest.mark.parametrize("wide", [0.0, 0.3, 40.0, 400.0])
def test_maps_hold_those_of_all_parameters_between(wide: float):
    """Derivatives too: of the composition, by differences."""
    low = torch.tensor([-170.0, -10.0, 0.0, 85.0], dtype=torch.float64)
    high = low + wide
    whole = maps.rotation(low, high).after(maps.scale(0.8 + 0 * low, 0.9 + 0 * low))
    for share in torch.rand(8, 2, generator=generator(2), dtype=torch.float64):
        angle, factor = low + share[0] * (high - low), 0.8 + 0.1 * share[1] + 0 * low

        def value(angle: Tensor = angle, factor: Tensor = factor) -> Tensor:
            return maps.rotation(angle, angle).after(maps.scale(factor, factor)).value.center

        slopes = (
            (value(angle=angle + 1e-5) - value(angle=angle - 1e-5)) / 2e-5,
            (value(factor=factor + 1e-6) - value(factor=factor - 1e-6)) / 2e-6,
        )
        for found, exact, slack in zip((whole.value, *whole.slopes), (value(), *slopes), (0, 1e-8, 1e-8), strict=True):
            assert ((exact - found.center).abs() <= found.radius + slack).all()
    if wide == 0:
        assert maps.rotation(low, high).value.radius.max() < 1e-10
    assert whole.value.radius.max() <= 1.3  # entries of rotations are at most 1


@pytest.mark.parametrize("padding", PADDINGS)
def test_slopes_lie_between_the_differences(padding: str):
    x = images()
    sampler, rows = SampledImages(x, padding), torch.tensor([0, 1])
    left = torch.rand(2, 400, generator=generator(3), dtype=torch.float64) * 14 - 4
    top = torch.rand(2, 400, generator=generator(4), dtype=torch.float64) * 11 - 4
    wide, tall = torch.rand(2, 2, 400, generator=generator(5), dtype=torch.float64) * 0.99
    found = sampler.differences(rows, (left, left + wide), (top, top + tall))
    for share in torch.rand(8, 2, generator=generator(6), dtype=torch.float64):
        at = left + share[0] * wide, top + share[1] * tall
        for place in (0, 1):
            step = [1e-7 * (axis == place) for axis in (0, 1)]
            values = [sampler.values(rows, at[0] + sign * step[0], at[1] + sign * step[1]) for sign in (1, -1)]
            slope = (values[0] - values[1]) / 2e-7
            assert ((slope - found[..., 2 * place]).abs() <= found[..., 2 * place + 1] + 1e-6).all()


def test_boxes_across_three_cells_are_refused():
    sampler, place = SampledImages(images(), "zeros"), torch.full((1, 1), 1.5, dtype=torch.float64)
    with pytest.raises(ValueError, match="cut them into more parts"):
        sampler.differences(torch.tensor([0]), (place, place + 1.6), (place, place))
