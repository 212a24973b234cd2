"""The exact distance to the decision boundary of a tiny ReLU network, by a program for every pattern of its neurons."""

import itertools
import math

import numpy as np
from scipy.optimize import linprog, minimize
from torch import Tensor, nn


def exact_distance(model: nn.Sequential, x: Tensor, norm: float) -> float:
    """Distance of x (F,) to the nearest point of the unit box where another class scores as high, in l_1, l_2, l_inf.

    For every pattern of the hidden neurons of Linear, ReLU, Linear the logits are affine in a polyhedron; per other
    class, the nearest point of it is the solution of a linear program (l_1, l_inf) or a quadratic one (l_2).
    """
    first, last = model[0], model[2]
    weight, bias = first.weight.detach().double().numpy(), first.bias.detach().double().numpy()
    outer, shift = last.weight.detach().double().numpy(), last.bias.detach().double().numpy()
    point = x.double().numpy()
    label = int(model(x[None]).argmax())
    best = math.inf
    for pattern in itertools.product([0, 1], repeat=len(bias)):
        active = np.array(pattern)
        sign = 2 * active - 1
        rows, limits = -sign[:, None] * weight, sign * bias  # sign * (weight z + bias) >= 0
        slope, level = outer @ (active[:, None] * weight), outer @ (active * bias) + shift
        for other in set(range(len(shift))) - {label}:
            wins = slope[label] - slope[other]  # wins z <= level
            a = np.vstack([rows, wins])
            b = np.append(limits, level[other] - level[label])
            best = min(best, _nearest(point, a, b, norm, best))
    return best


def _nearest(point: np.ndarray, a: np.ndarray, b: np.ndarray, norm: float, best: float) -> float:
    """Least ||z - point|| over a z <= b and 0 <= z <= 1, infinite where that is empty."""
    size, count = len(point), len(b)
    eye = np.eye(size)
    if norm == 1:  # z, and t >= |z - point| entry by entry
        cost = np.append(np.zeros(size), np.ones(size))
        above, below, width = np.hstack([eye, -eye]), np.hstack([-eye, -eye]), size
    else:  # z, and one t above all entries
        cost = np.append(np.zeros(size), 1.0)
        above, below, width = np.hstack([eye, -np.ones((size, 1))]), np.hstack([-eye, -np.ones((size, 1))]), 1
    matrix = np.vstack([np.hstack([a, np.zeros((count, width))]), above, below])
    sides = np.concatenate([b, point, -point])
    found = linprog(cost, A_ub=matrix, b_ub=sides, bounds=[(0, 1)] * size + [(0, None)] * width)
    if not found.success:
        return math.inf
    if norm != 2:
        return float(found.fun)
    if found.fun >= best:  # no point is nearer in l_2 than in l_inf
        return math.inf
    solved = minimize(
        lambda z: 0.5 * ((z - point) ** 2).sum(),
        found.x[:size],
        jac=lambda z: z - point,
        bounds=[(0, 1)] * size,
        constraints={"type": "ineq", "fun": lambda z: b - a @ z, "jac": lambda z: -a},
        options={"ftol": 1e-14, "maxiter": 200},
    )
    return float(np.linalg.norm(solved.x - point)) if solved.success else math.inf
