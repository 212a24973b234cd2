"""The audit's own boxes around transformed images, against images on dense grids, and what it proves with them."""

import math

import pytest
import torch
from oracles.halfspace import Halfspace, generator
from torch import Tensor, nn

from certify.auditing.certificates.networks import LayeredNetwork, network_of
from certify.auditing.certificates.proofs import UNPROVED, Reprover
from certify.auditing.certificates.proving import Prover, Region, least_margins
from certify.auditing.sets import Evidence
from certify.auditing.transformations.enclosing import Unenclosed, image_boxes
from certify.auditing.transformations.judge import why_unproved
from certify.auditing.transformations.proving import is_proved
from certify.auditing.transformations.ranges import Range
from certify.methods import Problem
from certify.semantic import (
    Blur,
    Compose,
    Photometric,
    Rotation,
    Scale,
    Shear,
    Transformation,
    TransformationSet,
    Translation,
)

CASES: dict[str, Transformation] = {
    "rotation": Rotation((-20.0, 35.0)),
    "rotation, cyclic, past a quarter": Rotation((60.0, 200.0), "cyclic"),
    "scale": Scale((0.7, 1.4), "border"),
    "shear": Shear((-0.3, 0.2)),
    "translation": Translation((-1.5, 0.7), (-1.0, 2.2)),
    "translation, cyclic": Translation((-9.0, 8.0), (0.5, 0.5), "cyclic"),
    "contrast and brightness": Photometric((0.7, 1.4), (-0.2, 0.1)),
    "gamma": Photometric((0.9, 1.1), gamma=(0.5, 1.5)),
    "blur": Blur((0.0, 1.2)),
    "blur into zeros": Blur((0.3, 0.9), "zeros"),
    "blur, cyclic": Blur((0.3, 0.9), "cyclic"),
    "rotation, then scale": Compose(Rotation((-9.0, 9.0)), Scale((0.8, 1.1))),
    "scale, then translation": Compose(Scale((0.8, 1.1), "border"), Translation((-1.0, 1.0), (0.0, 0.5), "border")),
    "rotation, blur, gamma": Compose(Rotation((-9.0, 9.0)), Blur((0.2, 0.5)), Photometric(gamma=(0.8, 1.2))),
}
HALF = torch.tensor(0.5)


def picture(channels: int = 2) -> Tensor:
    """Noise with black pixels and white ones."""
    return (1.5 * torch.rand(channels, 6, 7, generator=generator(1), dtype=torch.float64) - 0.25).clamp(0, 1)


def ends_of(which: Transformation) -> Range:
    """The whole range, (1, k)."""
    return Range(*torch.tensor([(part.low, part.high) for part in which.parameters], dtype=torch.float64).T[:, None])


def pieces_of(which: Transformation, count: int, width: float) -> Range:
    """Random boxes of parameters, of widths up to a share of the range."""
    whole, lot = ends_of(which), generator(2)
    start, size = torch.rand(2, count, len(which.parameters), generator=lot, dtype=torch.float64)
    low = whole.low + (whole.high - whole.low) * start * (1 - width)
    return Range(low, torch.minimum(low + (whole.high - whole.low) * width * size, whole.high))


@pytest.mark.parametrize("name", CASES)
def test_images_of_a_dense_grid_lie_in_their_boxes(name: str):
    which, x = CASES[name], picture()
    pieces = pieces_of(which, 40, 0.05)
    boxes, hold = image_boxes(which, x, pieces, torch.tensor(0.0), torch.tensor(1.0))
    assert hold.any()
    shares = torch.rand(60, 1, len(which.parameters), generator=generator(3), dtype=torch.float64)
    shares = torch.cat([shares, torch.zeros_like(shares[:1]), torch.ones_like(shares[:1])])
    for values in torch.lerp(pieces.low, pieces.high, shares):
        made = which.apply(x.expand(len(values), *x.shape), values)[hold]
        assert bool((made >= boxes.low[hold]).all() and (made <= boxes.high[hold]).all())


@pytest.mark.parametrize("name", CASES)
def test_the_box_of_one_image_is_that_image(name: str):
    which, x = CASES[name], picture()
    values = pieces_of(which, 20, 0.0).low
    boxes, hold = image_boxes(which, x, Range(values, values), None, HALF)
    made = which.apply(x.expand(20, *x.shape), values, low=None, high=HALF)
    assert hold.all()
    for end in boxes:
        torch.testing.assert_close(end, made, rtol=0, atol=1e-9)


def test_boxes_of_pieces_that_move_a_place_too_far_do_not_hold():
    low, high = torch.zeros(3, 2, dtype=torch.float64), torch.tensor([[0.9, 0.9], [1.1, 0.0], [0.0, 1.1]])
    _, hold = image_boxes(Translation((0, 2)), picture(), Range(low, high.double()), None, None)
    assert hold.tolist() == [True, False, False]


def test_a_transformation_of_a_class_of_its_own_is_left():
    class Mirrored(Rotation):
        pass

    with pytest.raises(Unenclosed, match="Mirrored"):
        image_boxes(Mirrored((0, 1)), picture(), ends_of(Rotation((0, 1))), None, None)


def network() -> tuple[nn.Module, LayeredNetwork]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(126, 8), nn.ReLU(), nn.Linear(8, 4)
    )
    model = model.double().eval().requires_grad_(False)
    return model, network_of(model, picture()[None])


def test_margins_over_boxes_are_those_of_single_ones_and_below_all_samples():
    model, matrices = network()
    low = torch.rand(5, 84, generator=generator(4), dtype=torch.float64)
    high = low + 0.02 * torch.rand(5, 84, generator=generator(5), dtype=torch.float64)
    found = least_margins(matrices, low, high, 2)
    for place in range(5):
        region = Region((low[place] + high[place]) / 2, math.inf, math.inf, low[place], high[place])
        assert bool(Prover(matrices, region, lines=False).proves(2)) == bool(found[place] > 0)
        inside = torch.lerp(low[place], high[place], torch.rand(500, 84, generator=generator(6), dtype=torch.float64))
        logits = model(inside.view(-1, 2, 6, 7))
        leads = logits[:, [2]] - logits[:, [0, 1, 3]]
        assert found[place] <= leads.min()
    exact = least_margins(matrices, low, low, 2)
    logits = model(low.view(-1, 2, 6, 7))
    torch.testing.assert_close(exact, (logits[:, [2]] - logits[:, [0, 1, 3]]).amin(1), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("brightness", "proved"), [(-0.0999, True), (-0.1001, False)])
def test_a_range_is_proved_as_far_as_the_class_holds(brightness: float, proved: bool):
    """The class holds where the mean, 0.5 in the image, stays above 0.4."""
    model = Halfspace(torch.full((12,), 1 / 12, dtype=torch.float64), -0.4).double()
    image = torch.full((1, 3, 4), 0.5, dtype=torch.float64)
    which = Photometric(brightness=(brightness, 0.0))

    def boxes(ends: Range) -> tuple[Range, Tensor]:
        found, hold = image_boxes(which, image, ends, None, None)
        return Range(*(end.flatten(1) for end in found)), hold

    assert is_proved(network_of(model, image[None]), boxes, ends_of(which), 1, seconds=60) == proved


def test_pieces_that_move_a_place_too_far_are_cut():
    """A bright pixel passes over the first one, and both ends of the range leave that one dark."""
    model = Halfspace(-torch.eye(7, dtype=torch.float64)[0], 0.5).double()  # class 1 while the first pixel is dark
    image = torch.zeros(1, 1, 7, dtype=torch.float64)
    image[0, 0, 3] = 1.0
    which = Translation((-3.9, 0.0), (0.0, 0.0))

    def boxes(ends: Range) -> tuple[Range, Tensor]:
        found, hold = image_boxes(which, image, ends, None, None)
        return Range(*(end.flatten(1) for end in found)), hold

    matrices = network_of(model, image[None])
    assert not is_proved(matrices, boxes, ends_of(which), 1, seconds=60)
    assert is_proved(matrices, boxes, ends_of(Translation((-2.4, 0.0), (0.0, 0.0))), 1, seconds=60)


DOUBLE, HALF_PRECISION = torch.float64, torch.bfloat16


@pytest.mark.parametrize(
    ("dtype", "lead", "proved"),
    [(DOUBLE, 0.0501, True), (DOUBLE, 0.0499, False), (HALF_PRECISION, 0.0501, False), (HALF_PRECISION, 0.06, True)],
)
def test_a_certificate_is_proved_with_its_noise_and_its_rounding(dtype: torch.dtype, lead: float, proved: bool):
    """Pixels fall by a radius of 0.04 and noise of 0.01; images in bfloat16 are rounded by 0.0018 as well."""
    model = Halfspace(torch.full((4,), 0.25, dtype=torch.float64), lead - 0.5)
    x = torch.full((1, 1, 2, 2), 0.5, dtype=dtype)
    over = TransformationSet(Photometric(brightness=(-0.08, 0.08)), epsilon=0.01)
    row = {"index": 0, "certified_radius": 0.04, "prediction": 1}
    labels = torch.ones(1, dtype=torch.int64)
    problem = Problem(model=model, x=x, y=labels, low=0.0, high=1.0, num_classes=2, seed=0, batch_size=8)
    asked = Evidence(problem, lambda point, label: [], Reprover(model, x, 0, (0.0, 1.0)), 0)
    assert why_unproved(over, row, asked) == ("" if proved else UNPROVED)
