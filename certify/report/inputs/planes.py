"""A plane through an input: the class that the model gives to each point, and where balls cut it."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor

from certify.report.words import norm_name

CROSS_SECTIONS = 3  # inputs of a run that get one, unless it says otherwise
ANGLES = 96  # of half a circle, since balls are symmetric, with those of 45 degrees
CLASSES = 8  # with a colour of their own
LEAST = 4  # points from the border at which the name of a class stands


class Place(msgspec.Struct, frozen=True):
    """An adversarial example in the plane.

    Attributes:
        method: that found it.
        norm: in which it was sought, as records write it.
        at: its coordinates.
    """

    method: str
    norm: str
    at: tuple[float, float]


class Plane(msgspec.Struct, frozen=True):
    """A cross section of the classes through an input.

    Attributes:
        index: of the input.
        first: the direction to the right, in words.
        second: the direction upwards, in words; both have l_2 length 1 and are orthogonal.
        extent: largest coordinate, in units of the input.
        labels: (G, G) classes of the points by first and second coordinate, from ``-extent`` to ``extent``.
        regions: by class, closed lines around its points, see :func:`regions_of`.
        places: adversarial examples that lie in the plane.
        sizes: by norm, as records write it, the size of the unit vectors at :data:`ANGLES` angles from 0 to pi.
        outside: share of the points that are outside of the box of valid inputs.
    """

    index: int
    first: str
    second: str
    extent: float
    labels: list[list[int]]
    regions: dict[int, list[list[int]]]
    places: list[Place]
    sizes: dict[str, list[float]]
    outside: float

    def __post_init__(self) -> None:
        count = len(self.labels)
        if not count or any(len(row) != count for row in self.labels):
            raise ValueError("Expected a square of `labels`")
        if any(len(sizes) != ANGLES or not min(sizes) > 0 for sizes in self.sizes.values()):
            raise ValueError(f"Expected `sizes` of {ANGLES} numbers above 0")
        if not 0 < self.extent < math.inf:
            raise ValueError(f"Expected `extent` above 0, got {self.extent}")


def unit_sizes(first: Tensor, second: Tensor, norm: float) -> list[float]:
    """Size of the unit vectors of a plane in a norm, by angle.

    The ball of radius r ends at ``r / size`` in the direction of that angle: it is cut by the plane exactly where a
    straight line between two angles is inside of it.

    Args:
        first: (*D) of l_2 length 1.
        second: (*D) of l_2 length 1, orthogonal to it.
        norm: of order at least 1.
    """
    angle = torch.arange(ANGLES, dtype=torch.float64, device="cpu") * (math.pi / ANGLES)
    one, two = (each.detach().cpu().double().flatten() for each in (first, second))
    return [
        float(torch.linalg.vector_norm(math.cos(each) * one + math.sin(each) * two, norm)) for each in angle.tolist()
    ]


def outline(sizes: Sequence[float], radius: float) -> list[list[float]]:
    """Corners of a polygon inside of the ball of that radius, all around it, in units of the input."""
    turn = math.pi / len(sizes)
    ends = [(radius / size * math.cos(i * turn), radius / size * math.sin(i * turn)) for i, size in enumerate(sizes)]
    return [[*end] for end in ends] + [[-end[0], -end[1]] for end in ends]


def plane_payload(plane: Plane, certified: Sequence[tuple[float, float, str]]) -> dict[str, Any]:
    """A plane as data of the page.

    Args:
        plane: the cross section.
        certified: norms, with the best certified radius of the model itself there, and that in words.
    """
    sizes = {float(norm): size for norm, size in plane.sizes.items()}
    counts = Counter(label for row in plane.labels for label in row)
    points = len(plane.labels) ** 2
    shown = [label for label, _ in counts.most_common() if label in plane.regions]
    return {
        "first": plane.first,
        "second": plane.second,
        "extent": plane.extent,
        "points": points,
        "classes": [
            {
                "class": label,
                "share": counts[label] / points,
                "outline": plane.regions[label],
                "at": _widest(plane, label),
            }
            for label in shown
        ],
        "others": sum(counts[label] for label in counts if label not in shown) / points,
        "places": [
            {"method": each.method, "norm": norm_name(float(each.norm)), "at": [*each.at]} for each in plane.places
        ],
        "balls": [
            {"norm": norm_name(norm), "text": text, "outline": _short(outline(sizes[norm], radius))}
            for norm, radius, text in certified
            if norm in sizes
        ],
        "outside": plane.outside,
    }


def _widest(plane: Plane, label: int) -> list[float] | None:
    """Place for the name of a class, from -1 to 1 each; None where it is nowhere wide enough.

    Of the points that are far from other classes, it is the one that is farthest from the input and what lies around.
    """
    known = torch.tensor(plane.labels) == label
    inside = torch.nn.functional.pad(known, (1, 1, 1, 1))
    depth = torch.zeros(known.shape, dtype=torch.int64)
    while inside.any():  # peel off one layer after another
        depth += inside[1:-1, 1:-1]
        center = inside[1:-1, 1:-1]
        layer = center & inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
        inside = torch.nn.functional.pad(layer, (1, 1, 1, 1))
    if int(depth.max()) < LEAST:
        return None
    half = (len(known) - 1) / 2
    taken = torch.tensor([[0.0, 0.0], *([*each.at] for each in plane.places)]) / plane.extent
    wide = (depth >= max(LEAST, 0.6 * int(depth.max()))).nonzero() / half - 1
    free = wide[torch.cdist(wide, taken).amin(1).argmax()]
    return [round(float(part), 3) for part in free]


def _short(points: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[float(f"{part:.4g}") for part in point] for point in points]
