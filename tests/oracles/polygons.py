"""Networks of rectifiers with two inputs: the polygons in which they are affine, and so all that they can give."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Cell:
    """A polygon in which a network is affine.

    Attributes:
        vertices: (V, 2), in order.
        before: (total, 3), the values in front of rectifiers, of x and 1.
        outputs: (K, 3), likewise.
    """

    vertices: np.ndarray
    before: np.ndarray
    outputs: np.ndarray


def cut(vertices: np.ndarray, function: np.ndarray) -> np.ndarray:
    """The part of a convex polygon where an affine function (3,) is at most 0."""
    values = vertices @ function[:2] + function[2]
    found = []
    for i in range(len(vertices)):
        here, following = values[i], values[(i + 1) % len(vertices)]
        if here <= 0:
            found.append(vertices[i])
        if (here < 0 < following) or (following < 0 < here):
            found.append(vertices[i] + here / (here - following) * (vertices[(i + 1) % len(vertices)] - vertices[i]))
    return np.array(found).reshape(-1, 2)


def cells(model: nn.Sequential, lower: Tensor, upper: Tensor) -> list[Cell]:
    """All cells of a network of linear layers and (leaky) rectifiers in a box of two inputs."""
    (a, b), (c, d) = lower.flatten().tolist(), upper.flatten().tolist()
    start = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    found = [Cell(np.array([[a, b], [c, b], [c, d], [a, d]]), np.zeros((0, 3)), start)]
    for layer in model:
        if isinstance(layer, nn.Linear):
            weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
            shift = np.hstack([np.zeros((len(bias), 2)), bias[:, None]])
            found = [Cell(cell.vertices, cell.before, weight @ cell.outputs + shift) for cell in found]
        else:
            found = [part for cell in found for part in _bent(cell, getattr(layer, "negative_slope", 0.0))]
    return found


def _bent(cell: Cell, slope: float) -> list[Cell]:
    """The cells behind a rectifier, of one in front of it."""
    parts = [(cell.vertices, np.ones(0))]
    for function in cell.outputs:
        sides = [(-function, 1.0), (function, slope)]
        parts = [(cut(v, side), np.append(f, factor)) for v, f in parts for side, factor in sides]
        parts = [(v, f) for v, f in parts if len(v) > 2]
    before = np.vstack([cell.before, cell.outputs])
    return [Cell(v, before, f[:, None] * cell.outputs) for v, f in parts]


def restricted(found: list[Cell], low: Tensor, high: Tensor) -> list[Cell]:
    """The parts of cells where the values in front of rectifiers lie between sides (total,), which may be infinite."""
    parts = []
    for cell in found:
        vertices = cell.vertices
        for function, below, above in zip(cell.before, low.tolist(), high.tolist(), strict=True):
            if np.isfinite(below):
                vertices = cut(vertices, np.array([0.0, 0.0, below]) - function)
            if np.isfinite(above):
                vertices = cut(vertices, function - np.array([0.0, 0.0, above]))
        if len(vertices):
            parts.append(Cell(vertices, cell.before, cell.outputs))
    return parts


def minimum(found: list[Cell], row: Tensor) -> float:
    """The least value of ``row @ outputs`` over cells; infinite over none."""
    function = (row.detach().double().numpy() @ cell.outputs for cell in found)
    return min((float((c.vertices @ f[:2] + f[2]).min()) for c, f in zip(found, function, strict=True)), default=np.inf)


def meets(found: list[Cell], rows: Tensor, offsets: Tensor) -> bool:
    """Whether all inequalities ``rows @ outputs <= offsets`` hold somewhere, with a polygon of such points."""
    for cell in found:
        vertices = cell.vertices
        for row, offset in zip(rows.double().numpy(), offsets.tolist(), strict=True):
            vertices = cut(vertices, row @ cell.outputs - np.array([0.0, 0.0, offset]))
        if len(vertices) > 2:
            return True
    return False
