"""Distances of a linear classifier within a box where few entries or a small sum of changes count."""

import itertools
import math

import torch
from oracles.linear import LinearClassifier
from scipy.optimize import linprog
from torch import Tensor


def within_box(model: LinearClassifier, x: Tensor, low: float, high: float, norm: float) -> Tensor:
    """Exact distances in l_0 and l_1: entries are used up in the order of what they gain."""
    gaps, normals = model.gaps(x)
    flat = x.flatten(1).double()
    exact = torch.full((len(x),), math.inf, dtype=torch.float64)
    for row, k in itertools.product(range(len(x)), range(gaps.shape[1])):
        slope, gap = -normals[row, k], float(gaps[row, k])
        if not slope.any():
            continue
        room = torch.where(slope > 0, high - flat[row], flat[row] - low)
        if norm == 0:
            gains = (slope.abs() * room).sort(descending=True).values.cumsum(0)
            size = float((gains < gap).sum() + 1) if gains[-1] > gap else math.inf
        else:
            both = torch.cat([slope, -slope])
            sides = [(0, side) for side in torch.cat([high - flat[row], flat[row] - low]).tolist()]
            solved = linprog([1.0] * len(both), A_ub=[(-both).tolist()], b_ub=[-gap], bounds=sides)
            size = solved.fun if solved.success else math.inf
        exact[row] = min(exact[row], size)
    return exact
