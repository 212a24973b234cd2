"""Planes through inputs: balls cut as their norm says, classes where the model has them."""

import json
import math

import msgspec
import pytest
import torch
from matplotlib.path import Path as Outline
from torch import Tensor

from certify.report.inputs.planes import ANGLES, Place, Plane, outline, plane_payload, unit_sizes
from certify.report.inputs.regions import HALF, regions_of


def directions(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    basis, _ = torch.linalg.qr(torch.randn(count, 2, generator=generator, dtype=torch.float64))
    return basis[:, 0], basis[:, 1]


def plane_of(labels: list[list[int]], logits: Tensor | None = None, **more: object) -> Plane:
    shown = torch.tensor(labels)
    known = torch.nn.functional.one_hot(shown.clamp(min=0)).double() if logits is None else logits
    parts = {
        "first": "one",
        "second": "two",
        "extent": 2.0,
        "places": [Place(method="attack", norm="2", at=(1.0, 0.0))],
        "sizes": {"2": [1.0] * ANGLES},
        "outside": 0.0,
    }
    regions = {int(label): regions_of(known, int(label)) for label in shown.unique() if label >= 0}
    return Plane(**{"index": 3, "labels": labels, "regions": regions} | parts | more)


@pytest.mark.parametrize("norm", [1.0, 1.5, 2.0, math.inf])
def test_a_ball_ends_where_its_norm_says(norm: float):
    """Corners have that norm exactly; the lines between them lie inside, balls being convex."""
    one, two = directions(7)
    corners = torch.tensor(outline(unit_sizes(one, two, norm), 0.3), dtype=torch.float64)
    points = corners @ torch.stack([one, two])
    torch.testing.assert_close(torch.linalg.vector_norm(points, norm, dim=1), torch.full((2 * ANGLES,), 0.3).double())
    halfway = (points + points.roll(1, 0)) / 2
    assert (torch.linalg.vector_norm(halfway, norm, dim=1) <= 0.3 + 1e-12).all()
    turns = torch.atan2(corners[:, 1], corners[:, 0]).diff()
    assert ((turns > 0) | (turns < -math.pi)).all()  # once around, in order


def test_balls_in_closed_form():
    """At 45 degrees: corners of a square and sides of a diamond, or, in a plane turned by as much, the reverse."""
    straight = torch.eye(4, dtype=torch.float64)[:2]
    turned = torch.tensor([[1.0, 1.0, 0.0, 0.0], [-1.0, 1.0, 0.0, 0.0]]).double() / math.sqrt(2)
    half, root = 1 / math.sqrt(2), math.sqrt(2)
    for (one, two), expected in ((straight, {1: half, 2: 1, math.inf: root}), (turned, {1: 1, 2: 1, math.inf: 1})):
        for norm, reach in expected.items():
            assert math.hypot(*outline(unit_sizes(one, two, norm), 1.0)[ANGLES // 4]) == pytest.approx(reach)
    # A direction that changes all of 100 entries alike reaches 10 times as far in l2 as in each entry.
    even = torch.full((100,), 0.1, dtype=torch.float64)
    other = torch.cat([even[:50], -even[:50]])
    assert outline(unit_sizes(even, other, math.inf), 0.5)[0] == pytest.approx([5.0, 0.0])
    assert outline(unit_sizes(even, other, 1.0), 0.5)[0] == pytest.approx([0.05, 0.0])


def test_regions_hold_their_points():
    """Every point lies in the region of the class that it has, and in no other."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(1, 4, 5, 5, generator=generator, dtype=torch.float64)
    logits = torch.nn.functional.interpolate(coarse, (21, 21), mode="bicubic")[0].movedim(0, -1)
    labels = logits.argmax(2)
    places = torch.linspace(-HALF, HALF, 21)
    points = torch.cartesian_prod(places, places)
    gap = logits.topk(2).values.diff(dim=2).abs().flatten()
    clear = (gap > 0.02) & (points.abs().amax(1) < HALF)  # not on a line, which ends of whole units may move
    assert clear.sum() > 250
    for label in range(4):
        inside = torch.zeros(len(points), dtype=torch.int64)
        for ring in regions_of(logits, label):
            inside += torch.from_numpy(Outline(torch.tensor(ring).view(-1, 2).numpy()).contains_points(points.numpy()))
        assert ((inside % 2 == 1) == (labels.flatten() == label))[clear].all()


def test_a_boundary_lies_where_the_margin_is_zero():
    """Of a linear classifier it is a straight line, exactly."""
    places = torch.linspace(-1, 1, 9, dtype=torch.float64)
    margin = (places[:, None] - 0.3).expand(9, 9)  # the boundary is vertical, at .3 of the half
    rings = regions_of(torch.stack([-margin, margin], -1), 1)
    (ring,) = rings
    across = sorted(set(ring[::2]))
    assert across[0] == 300
    assert across[-1] == 1000


def test_a_class_that_is_nowhere_has_no_region():
    assert regions_of(torch.tensor([[[1.0, 0.0]] * 3] * 3), 1) == []
    broken = torch.tensor([[[1.0, 0.0]] * 5] * 5)
    broken[2, 2] = math.nan
    assert regions_of(broken, 1) == []
    assert len(regions_of(broken, 0)) >= 1


def test_payload_of_a_plane():
    labels = [[0] * 18 for _ in range(12)] + [[2] * 18 for _ in range(6)]
    data = json.loads(json.dumps(plane_payload(plane_of(labels), [(2.0, 0.5, "0.5"), (7.0, 1.0, "1")])))
    assert [(each["class"], each["share"]) for each in data["classes"]] == [
        (0, pytest.approx(2 / 3)),
        (2, pytest.approx(1 / 3)),
    ]
    assert data["points"] == 18**2
    assert data["others"] == 0
    assert [(ball["norm"], ball["text"]) for ball in data["balls"]] == [("l2", "0.5")]  # no sizes in l7
    assert {round(math.hypot(*point), 3) for point in data["balls"][0]["outline"]} == {0.5}
    x, y = data["classes"][0]["at"]
    assert labels[round((x + 1) * 8.5)][round((y + 1) * 8.5)] == 0
    assert data["classes"][1]["at"] is None  # too narrow for a name


def test_classes_beyond_the_colours_are_named_together():
    labels = [[i] * 12 for i in range(12)]
    plane = plane_of(labels)
    some = msgspec.structs.replace(plane, regions={label: plane.regions[label] for label in range(8)})
    data = plane_payload(some, [])
    assert len(data["classes"]) == 8
    assert data["others"] == pytest.approx(4 / 12)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"labels": [[0, 0], [0]]}, "labels"),
        ({"labels": []}, "labels"),
        ({"sizes": {"2": [1.0]}}, "sizes"),
        ({"sizes": {"2": [0.0] * ANGLES}}, "sizes"),
        ({"extent": 0.0}, "extent"),
    ],
)
def test_damaged_planes_are_refused(damage: dict, message: str):
    plain = msgspec.to_builtins(plane_of([[0, 0], [0, 0]]))
    assert msgspec.convert(msgspec.json.decode(msgspec.json.encode(plain)), Plane, strict=False).index == 3
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert({**plain, **damage}, Plane, strict=False)
