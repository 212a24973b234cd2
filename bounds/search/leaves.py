"""Leaves of a search on neurons: where no neuron is left to split, a linear programme knows the best multipliers."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bounds.linear.passes.backward import Backward
from bounds.rows import DenseRows
from bounds.search.domains import Domains
from bounds.search.split_bounds import SplitBounds

ENOUGH = 2.0  # times the multipliers that would just show that no input meets all splits


class Rows(NamedTuple):
    """Linear functions ``slopes @ x - limit``, each below an inequality of a leaf: it is missed where they are above 0.

    Attributes:
        slopes: (R, F).
        limit: (R,).
    """

    slopes: Tensor
    limit: Tensor


def bounded_leaf(bounds: SplitBounds, leaf: Domains) -> tuple[Domains, Tensor | None]:
    """One domain with the multipliers of its linear programme, and the input (1, *D) at which that is least, if any.

    The programme minimises the largest inequality of the unsafe set over the inputs that meet all splits. Its duals are
    the multipliers and weights. Where no input meets all splits, they are those of the proof of that. They are numbers
    like all others: the bound that rests on them includes its rounding errors.
    """
    outputs, splits, places = _rows(bounds, leaf)
    weight, multiplier = leaf.weight, torch.zeros_like(leaf.multiplier)
    found = _least_excess(bounds, outputs, splits)
    point = None
    if found.status == 0:
        duals = -found.ineqlin.marginals
        weight = torch.tensor(duals[: len(outputs.limit)], device="cpu").clamp(min=1e-300).log()[None].to(leaf.weight)
        duals = duals[len(outputs.limit) :]
        point = torch.tensor(found.x[:-1], device="cpu").to(bounds.problem.box.lower).view(1, *bounds.problem.shape)
    else:
        nothing = Rows(splits.slopes[:0], splits.limit[:0])
        found = _least_excess(bounds, splits, nothing)
        free, _ = bounds.bounded(replace(leaf, multiplier=multiplier), 0)
        if found.status != 0 or not found.fun > 0 or not bool(free.bound.isfinite()):
            return leaf, None
        duals = -found.ineqlin.marginals * ENOUGH * (1 - float(free.bound.clamp(max=0))) / found.fun
    for (place, sign), dual in zip(places, duals.tolist(), strict=True):
        multiplier[0, place] += sign * dual
    better, _ = bounds.bounded(replace(leaf, multiplier=multiplier, weight=weight), 0)
    return better, point


def _rows(bounds: SplitBounds, leaf: Domains) -> tuple[Rows, Rows, list[tuple[int, float]]]:
    """The inequalities of the unsafe set and those of splits, and for each of these the neuron and its side."""
    problem = bounds.problem
    network, _ = bounds.view(leaf)
    backward = Backward(network)
    value = network.nodes["output"].value
    rows = problem.rows[leaf.case].unflatten(2, value.shape[1:])
    outputs = _below(bounds, backward, "output", rows, problem.offsets[leaf.case][0])
    splits, places = [Rows(outputs.slopes[:0], outputs.limit[:0])], []
    for span in bounds.spans:
        (parent,) = network.nodes[span.name].parents
        shape = network.nodes[parent].value.shape[1:]
        unit = torch.eye(span.end - span.start, dtype=value.dtype, device=value.device)
        for sign, side in ((1.0, leaf.high), (-1.0, leaf.low)):
            ends = span.of(side).flatten(1)[0].to(value.dtype)
            split = ends.isfinite().nonzero()[:, 0]
            if len(split):
                units = (sign * unit[split]).view(1, -1, *shape)
                splits.append(_below(bounds, backward, parent, units, sign * ends[split]))
                places += [(span.start + place, sign) for place in split.tolist()]
    return outputs, Rows(*(torch.cat(parts) for parts in zip(*splits, strict=True))), places


def _below(bounds: SplitBounds, backward: Backward, name: str, rows: Tensor, limit: Tensor) -> Rows:
    """Linear functions of the input below those (1, R, *shape) of a node, less their limits."""
    least, slopes = backward.bounds_with_slopes(name, DenseRows(rows), rounded=False)
    return Rows(slopes[0], limit - (least - (slopes * bounds.problem.corner(slopes)).sum(2))[0])


def _least_excess(bounds: SplitBounds, counted: Rows, met: Rows) -> Any:  # noqa: ANN401  # of SciPy
    """The linear programme of the least excess of any counted row, where all others are met."""
    from scipy.optimize import linprog  # takes long to import

    matrix = torch.cat([counted.slopes, met.slopes]).cpu().numpy()
    excess = np.zeros((len(matrix), 1))
    excess[: len(counted.limit)] = -1.0
    box = bounds.problem.box
    sides = zip(box.lower.flatten().tolist(), box.upper.flatten().tolist(), strict=True)
    return linprog(
        np.append(np.zeros(matrix.shape[1]), 1.0),
        A_ub=np.hstack([matrix, excess]),
        b_ub=torch.cat([counted.limit, met.limit]).cpu().numpy(),
        bounds=[*sides, (None, None)],
        method="highs",
    )
