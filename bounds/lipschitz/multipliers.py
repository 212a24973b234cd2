r"""Lipschitz bounds in l2 by multipliers of slope constraints: LipSDP-Neuron, and ECLipsE-Fast in closed form.

Between two inputs, a neuron moves by z where its input moves by v, and :math:`(z - \alpha v)(\beta v - z) \ge 0` for
slopes in :math:`[\alpha, \beta]`. Any multipliers :math:`T \ge 0` of these, one for each neuron, prove
:math:`\|\Delta y\|^2 \le \rho \|\Delta x\|^2` if one symmetric matrix M has no eigenvalue above 0. Multipliers that
couple neurons ("LipSDP-Network") are not valid, and are not offered.

Where the multipliers come from is not trusted: M is made anew, an eigenvalue :math:`\varepsilon` above 0 that is left,
and all rounding, cost :math:`\varepsilon (1 + \sum_k P_k^2)`, with product bounds :math:`P_k` of what leads to each
layer.

ECLipsE-Fast takes one multiplier for each layer. With :math:`m, d = (\beta \pm \alpha) / 2` and s the largest
eigenvalue of :math:`W X^{-1} W^T`, the least eigenvalue of the next X is largest for
:math:`\lambda = 1 / (d (d + |m|) s)`; for slopes in :math:`[0, \beta]` this is the published :math:`1 / (2 m^2 s)`,
which is unsound for slopes below 0.

References:
    Fazlyab et al. (2019), Efficient and accurate estimation of Lipschitz constants for deep neural networks,
    arXiv:1906.04893; Pauli et al. (2022), Training robust neural networks using Lipschitz bounds, arXiv:2005.02929 (the
    invalid variant); Xu, Sivaranjani (2024), ECLipsE: efficient compositional Lipschitz constant estimation for deep
    neural networks, arXiv:2404.04375.
"""

import math

import numpy as np
import torch
from torch import Tensor

from bounds.errors import InvalidInput
from bounds.lipschitz.layer_chain import LayerChain
from bounds.lipschitz.operator_norms import UP, Matrix, exact, spectral_norm
from bounds.numerics import accumulated_error
from bounds.sets.balls import Interval
from bounds.solvers.modelling import modelling, solved
from bounds.solvers.semidefinite import least_eigenvalue

NEURONS = 400  # entries of the input and neurons of a semidefinite programme, at most
LARGEST = 3000  # and of a matrix whose eigenvalues are bounded
SLACK = (0.0, 1e-8, 1e-6, 1e-4, 1e-2)  # relative additions to rho that may leave less above 0


def programme_bound(chain: LayerChain, slopes: list[Interval], method: str, solver: str = "CLARABEL") -> float:
    """A proved upper bound on the l2 Lipschitz constant of a chain; infinite where a slope is.

    Args:
        chain: the network, or functions of its outputs.
        slopes: of each function, (size,).
        method: ``"sdp"`` or ``"eclipse"``.
        solver: ``"CLARABEL"`` or ``"SCS"``.

    Raises:
        InvalidInput: too many neurons.
    """
    size = sum(weight.value.shape[1] for weight in chain.weights)
    limit = NEURONS if method == "sdp" else LARGEST
    if size > limit:
        raise InvalidInput(
            f"method={method!r} takes at most {limit} entries of the input and neurons, got {size}: use "
            f"{'eclipse or product' if method == 'sdp' else 'product'}"
        )
    if not all(bool(part.lower.isfinite().all() and part.upper.isfinite().all()) for part in slopes):
        return math.inf
    reach = _reach(chain, slopes)
    if not chain.functions:
        return reach[-1]
    bounds = [reach[-1]]
    if method == "sdp" and (solution := _solve(chain, slopes, solver)) is not None:
        bounds.append(proved(chain, slopes, *solution, reach))
    if (simple := _closed_form(chain, slopes)) is not None:
        # One multiplier for a layer goes with one range for it, and may do better with that of each neuron.
        bounds += [proved(chain, ranges, *simple, reach) for ranges in (_widest(slopes), slopes)]
    return min(bounds)


def proved(
    chain: LayerChain, slopes: list[Interval], multipliers: list[Tensor], rho: float, reach: list[float]
) -> float:
    """An upper bound by any multipliers, one tensor (size,) for each function; infinite for NaN.

    Args:
        chain: the network.
        slopes: of each function.
        multipliers: what is below 0 counts as 0.
        rho: of the square of the constant; any will do, the right one is tight.
        reach: product bounds of the input of each weight, and of the output.
    """
    matrix = _certificate(chain, slopes, [part.clamp(min=0) for part in multipliers])
    size = len(chain.weights[0].value.T)
    rounding_error = float(torch.linalg.matrix_norm(matrix.error)) * UP
    spread = math.fsum(one * one for one in reach[:-1]) * UP
    best = math.inf
    for slack in SLACK:
        total = rho * (1 + slack)
        shifted = matrix.value.clone()
        shifted.diagonal()[:size] -= total
        # One more rounding of the diagonal.
        rounding = 2.0**-52 * math.sqrt(size) * (total + float(matrix.value.diagonal()[:size].abs().max()))
        above = (float(-least_eigenvalue(-shifted)) + rounding_error + rounding) * UP
        found = math.sqrt((total + above * spread) * UP) * UP if above < math.inf else math.inf
        best = min(best, found)
    return best


def _widest(slopes: list[Interval]) -> list[Interval]:
    """For each function one range that holds those of all its neurons."""
    return [
        Interval(
            torch.full_like(part.lower, float(part.lower.min())), torch.full_like(part.upper, float(part.upper.max()))
        )
        for part in slopes
    ]


def _reach(chain: LayerChain, slopes: list[Interval]) -> list[float]:
    """Product bounds (l2) from the input to what each weight takes, and to the output."""
    found = [1.0]
    for weight, part in zip(chain.weights, slopes, strict=False):
        steepest = float(torch.maximum(part.lower.abs(), part.upper.abs()).max())
        found.append(found[-1] * spectral_norm(weight) * steepest * UP)
    return [*found, found[-1] * spectral_norm(chain.weights[-1]) * UP]


def _certificate(chain: LayerChain, slopes: list[Interval], multipliers: list[Tensor]) -> Matrix:
    """M without the part of rho, and how far it may be off."""
    sizes = [weight.value.shape[1] for weight in chain.weights]
    starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    value = chain.weights[0].value.new_zeros(starts[-1], starts[-1])
    error = torch.zeros_like(value)

    def add(row: int, column: int, part: Matrix) -> None:
        place = slice(starts[row], starts[row + 1]), slice(starts[column], starts[column + 1])
        value[place] += part.value
        error[place] += part.error + 2.0**-51 * (part.value.abs() + value[place].abs())

    for k, (weight, part, weights) in enumerate(zip(chain.weights, slopes, multipliers, strict=False)):
        add(k, k, _transposed(weight) @ weight.scaled(-(part.lower * part.upper) * weights))
        half = weight.scaled((part.lower + part.upper) / 2 * weights)
        add(k + 1, k, half)
        add(k, k + 1, _transposed(half))
        add(k + 1, k + 1, exact(torch.diag(-weights)))
        # The factors above are rounded too.
        add(k, k, Matrix(torch.zeros_like(value[: sizes[k], : sizes[k]]), _factor_error(weight, part, weights)))
    add(len(sizes) - 1, len(sizes) - 1, _transposed(chain.weights[-1]) @ chain.weights[-1])
    return Matrix(value, error)


def _factor_error(weight: Matrix, slopes: Interval, multipliers: Tensor) -> Tensor:
    factors = 4 * accumulated_error(4, multipliers.dtype) * (slopes.lower * slopes.upper).abs() * multipliers
    found: Tensor = weight.size.T @ (factors[:, None] * weight.size)
    return found


def _transposed(matrix: Matrix) -> Matrix:
    return Matrix(matrix.value.T, matrix.error.T)


def _closed_form(chain: LayerChain, slopes: list[Interval]) -> tuple[list[Tensor], float] | None:
    """Multipliers by ECLipsE-Fast; None where the arithmetic fails."""
    first = chain.weights[0].value
    shape = torch.eye(first.shape[1], dtype=first.dtype, device=first.device)
    scales = []
    try:
        for weight, part in zip(chain.weights, slopes, strict=False):
            w, low, high = weight.value, float(part.lower.min()), float(part.upper.max())
            high = max(high, low + 1e-6 * (1 + abs(low)))  # a line needs no multiplier; a wider range does no harm
            middle, half = (high + low) / 2, (high - low) / 2
            largest = torch.linalg.eigvalsh(w @ torch.linalg.solve(shape, w.T)).max().clamp(min=1e-300)
            scale = float(1 / (half * (half + abs(middle)) * largest)) * (1 - 1e-9)
            bent = shape + low * high * scale * (w.T @ w)
            identity = torch.eye(len(w), dtype=w.dtype, device=w.device)
            shape = scale * identity - (middle * scale) ** 2 * (w @ torch.linalg.solve(bent, w.T))
            shape = (shape + shape.T) / 2
            scales.append(w.new_full((len(w),), scale))
        last = chain.weights[-1].value
        rho = float(torch.linalg.eigvalsh(last @ torch.linalg.solve(shape, last.T)).max())
    except RuntimeError:  # a singular matrix
        return None
    return ([rho * part for part in scales], rho) if 0 < rho < math.inf else None


def _solve(chain: LayerChain, slopes: list[Interval], solver: str) -> tuple[list[Tensor], float] | None:
    """Multipliers by the semidefinite programme; None where the solver says nothing."""
    cvxpy = modelling()
    like = chain.weights[0].value
    weights = [weight.value.cpu().numpy() for weight in chain.weights]
    variables = [cvxpy.Variable(len(weight), nonneg=True) for weight in weights[:-1]]
    # In units of the product bound, since solvers want numbers near 1.
    unit = max(_reach(chain, slopes)[-1] ** 2, 1e-300)
    rho = cvxpy.Variable(nonneg=True)
    count = len(weights)
    blocks: list[list[object]] = [[np.zeros((one.shape[1], other.shape[1])) for other in weights] for one in weights]
    diagonal = [-rho * np.eye(weights[0].shape[1]), *[-cvxpy.diag(part) for part in variables]]
    for k, (weight, part, multipliers) in enumerate(zip(weights, slopes, variables, strict=False)):
        low, high = (end.cpu().numpy() for end in (part.lower, part.upper))
        scaled = cvxpy.diag(cvxpy.multiply((low + high) / 2, multipliers)) @ weight
        blocks[k + 1][k], blocks[k][k + 1] = scaled, scaled.T
        if (low * high).any():
            diagonal[k] = diagonal[k] - weight.T @ cvxpy.diag(cvxpy.multiply(low * high, multipliers)) @ weight
    diagonal[-1] = diagonal[-1] + weights[-1].T @ weights[-1] / unit
    for k in range(count):
        blocks[k][k] = diagonal[k]
    matrix = cvxpy.bmat(blocks)
    problem = cvxpy.Problem(cvxpy.Minimize(rho), [(matrix + matrix.T) / 2 << 0])
    if not solved(problem, solver) or rho.value is None:
        return None
    return [
        unit * torch.as_tensor(part.value, dtype=like.dtype, device=like.device) for part in variables
    ], unit * float(rho.value)
