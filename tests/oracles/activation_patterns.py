"""Exact minima of tiny dense networks of rectifiers: every activation pattern is one linear programme in the input."""

from itertools import product

import numpy as np
from scipy.optimize import linprog
from torch import Tensor, nn


def exact_minimum(
    model: nn.Sequential, row: Tensor, lower: Tensor, upper: Tensor, l1: tuple[Tensor, float] | None
) -> float:
    """The least value of ``row @ model(x)`` for x in a box, and within an l1 distance of a centre if one is given.

    ``model`` alternates linear layers and rectifiers. The input x is split as ``center + p - n`` for the l1 distance.
    """
    layers = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in model if isinstance(m, nn.Linear)]
    slope = getattr(model[1], "negative_slope", 0.0)
    size, best = len(lower), np.inf
    center, radius = (l1[0].numpy(), l1[1]) if l1 else (np.zeros(size), None)
    split = np.hstack([np.eye(size), -np.eye(size)])
    bounds = [(0, None)] * (2 * size)
    for pattern in product((True, False), repeat=sum(len(bias) for _, bias in layers[:-1])):
        rows, right = [split, -split], [upper.numpy() - center, center - lower.numpy()]
        if radius is not None:
            rows.append(np.ones((1, 2 * size)))
            right.append(np.array([radius]))
        matrix, offset, start = split, center, 0
        for weight, bias in layers[:-1]:
            matrix, offset = weight @ matrix, weight @ offset + bias
            active = np.array(pattern[start : start + len(bias)])
            start += len(bias)
            sign = np.where(active, -1.0, 1.0)  # z >= 0 where active, z <= 0 elsewhere
            rows.append(sign[:, None] * matrix)
            right.append(-sign * offset)
            factor = np.where(active, 1.0, slope)
            matrix, offset = factor[:, None] * matrix, factor * offset
        weight, bias = layers[-1]
        cost = row.numpy() @ weight @ matrix
        found = linprog(cost, np.vstack(rows), np.concatenate(right), bounds=bounds)
        if found.status == 0:
            best = min(best, found.fun + row.numpy() @ (weight @ offset + bias))
    return float(best)
