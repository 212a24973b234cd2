"""Whether inequalities hold at points, exactly: rounding never decides."""

import math
from fractions import Fraction

import torch
from torch import Tensor

from bounds.vnnlib.records import UnsafeBox, UnsafeCase

ROUNDOFF = 2.0**-53


def unsafe(boxes: tuple[UnsafeBox, ...], x: Tensor, y: Tensor, tolerance: float) -> Tensor:
    """Whether inputs (N, F) with outputs (N, K), both finite float64, lie in a box and meet all of a case, (N,)."""
    found = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for box in boxes:
        rows = (_inside(box, x, tolerance) & ~found).nonzero()[:, 0]
        for case in box.cases if len(rows) else ():
            rows = rows[~found[rows]]
            found[rows] = _meets(case, x[rows], y[rows], tolerance)
    return found


def _inside(box: UnsafeBox, x: Tensor, tolerance: float) -> Tensor:
    lower, upper = box.lower.to(x.device), box.upper.to(x.device)
    if tolerance:
        lower, upper = lower - tolerance, upper + tolerance
    return ((x >= lower) & (x <= upper)).all(1)


def _meets(case: UnsafeCase, x: Tensor, y: Tensor, tolerance: float) -> Tensor:
    """Whether points meet all rows of a case, (N,)."""
    held = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for row in range(len(case.offsets)):
        used = [side[row].nonzero()[:, 0] for side in (case.on_inputs, case.on_outputs)]
        coefficients = torch.cat([case.on_inputs[row, used[0]], case.on_outputs[row, used[1]]])
        points = torch.cat([x[:, used[0].to(x.device)], y[:, used[1].to(y.device)]], 1)
        held &= _holds(coefficients, points, float(case.offsets[row]), tolerance, strict=bool(case.strict[row]))
    return held


def _holds(coefficients: Tensor, points: Tensor, offset: float, tolerance: float, *, strict: bool) -> Tensor:
    """Whether ``points @ coefficients <= offset + tolerance``, (N,), by fractions where float64 cannot tell."""
    products = points * coefficients.to(points.device)
    excess = products.sum(1) - offset - tolerance
    size = products.abs().sum(1) + abs(offset) + tolerance
    doubt = (len(coefficients) + 4) * (2 * ROUNDOFF * size + math.ulp(0.0))
    held = excess < 0
    exact = [Fraction(value) for value in coefficients.tolist()]
    end = Fraction(offset) + Fraction(tolerance)
    for row in (~(excess.abs() > doubt)).nonzero()[:, 0].tolist():
        total = sum((a * Fraction(v) for a, v in zip(exact, points[row].tolist(), strict=True)), Fraction(0))
        held[row] = total < end if strict else total <= end
    return held
