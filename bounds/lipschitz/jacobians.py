r"""Lipschitz bounds by bounds on every entry of the Jacobian: Fast-Lip, RecurJac, and linear bounds of the Jacobian.

Fast-Lip multiplies intervals from the last layer to the first. RecurJac goes on where a sign is known: an entry is
:math:`\sum_i Y_i s_i V_i` with the Jacobian Y behind a layer, slopes s and weights V; where :math:`Y_i` has one sign
the best slope is known, and with it the sum is one over the entries of the next layer, to be bounded there as a whole.

References:
    Weng et al. (2018), Towards fast computation of certified robustness for ReLU networks, arXiv:1804.09699 (Fast-Lip);
    Zhang, Zhang, Hsieh (2019), RecurJac: an efficient recursive algorithm for bounding Jacobian matrix of neural
    networks and its applications, arXiv:1810.11783; Shi et al. (2022), Efficiently computing local Lipschitz constants
    of neural networks via bound propagation, arXiv:2210.07394 (linear bounds).
"""

import torch
from torch import Tensor, nn

from bounds.errors import UnsupportedLayer
from bounds.linear.methods import crown
from bounds.lipschitz.layer_chain import LayerChain
from bounds.lipschitz.operator_norms import UP, Matrix
from bounds.numerics import accumulated_error
from bounds.relaxations.relu import ReLURelaxation
from bounds.sets.balls import Interval, PerturbationSet


def interval_jacobian(chain: LayerChain, slopes: list[Interval], *, recursive: bool = False) -> Interval:
    """Bounds (R, F) on the entries of the Jacobian of a chain, rounded outward; ``recursive`` for those of RecurJac."""
    last = chain.weights[-1]
    behind = Interval(last.value - last.error * UP, last.value + last.error * UP)  # of the layer that comes next
    known: list[Interval] = [behind]
    for k in reversed(range(len(chain.functions))):
        found = _through(behind, slopes[k], chain.weights[k])
        if recursive and len(known) > 1:
            rows = [_recursive(chain, slopes, known, k, row) for row in range(len(last.value))]
            upper, lower = (torch.stack(part) for part in zip(*rows, strict=True))
            found = found & Interval(lower, upper)
        behind = found
        known.insert(0, found)
    return behind


def _through(behind: Interval, slopes: Interval, weight: Matrix) -> Interval:
    """Intervals times slopes times a matrix, by centre and radius."""
    products = torch.stack(
        [end * slope for end in (behind.lower, behind.upper) for slope in (slopes.lower, slopes.upper)]
    )
    lower, upper = products.amin(0), products.amax(0)
    center, radius = (lower + upper) / 2, (upper - lower) / 2
    gamma = 2 * accumulated_error(weight.value.shape[0] + 8, center.dtype)
    radius = radius + gamma * (center.abs() + radius)
    middle = center @ weight.value
    spread = radius @ weight.size + center.abs() @ (weight.error + gamma * weight.size)
    spread = spread * (1 + gamma) + torch.finfo(center.dtype).tiny
    return Interval(middle - spread * UP, middle + spread * UP)


def _recursive(
    chain: LayerChain, slopes: list[Interval], known: list[Interval], first: int, row: int
) -> tuple[Tensor, Tensor]:
    """Upper and lower bounds (F,) on one row of the Jacobian for the input of a weight."""
    sides = []
    for sign in (1.0, -1.0):
        matrix = chain.weights[first]
        vectors, total = sign * matrix.value, torch.zeros_like(matrix.value[0])
        total = total + _magnitude(known[0], slopes[first], row) @ matrix.error * UP
        for step, k in enumerate(range(first, len(chain.functions))):
            behind = Interval(known[step].lower[row][:, None], known[step].upper[row][:, None])
            low, high = slopes[k].lower[:, None], slopes[k].upper[:, None]
            is_last = step == len(known) - 1
            fixed = (behind.lower >= 0) | (behind.upper <= 0)
            fixed = torch.zeros_like(fixed) if is_last else fixed
            # What is not followed further is bounded here.
            ends = torch.stack([end * slope * vectors for end in (behind.lower, behind.upper) for slope in (low, high)])
            reached = torch.where(fixed, 0.0, ends.amax(0))
            gamma = 2 * accumulated_error(len(vectors) + 8, vectors.dtype)
            total = total + reached.sum(0) + gamma * torch.where(fixed, 0.0, ends.abs().amax(0)).sum(0)
            if is_last or not bool(fixed.any()):
                break
            rising = vectors * torch.where(behind.lower >= 0, 1.0, -1.0) >= 0
            followed = torch.where(fixed, torch.where(rising, high, low) * vectors, 0.0)
            following = chain.weights[k + 1]
            size = following.size @ followed.abs()
            rounding_error = (
                following.error @ followed.abs() + 2 * accumulated_error(len(vectors) + 8, vectors.dtype) * size
            )
            vectors = following.value @ followed
            total = total + _magnitude(known[step + 1], slopes[k + 1], row) @ rounding_error * UP
        sides.append(sign * (total + 64 * 2.0**-53 * total.abs() + torch.finfo(total.dtype).tiny))
    return sides[0], sides[1]


def _magnitude(behind: Interval, slopes: Interval, row: int) -> Tensor:
    """The largest factors (size,) that a vector in front of a function can meet."""
    size = torch.maximum(behind.lower[row].abs(), behind.upper[row].abs())
    return size * torch.maximum(slopes.lower.abs(), slopes.upper.abs()) * UP


def linear_jacobian(chain: LayerChain, ball: PerturbationSet) -> Interval:
    """Bounds (N, R, F) on the Jacobian of a chain of ReLU by linear bounds of the network that computes it.

    Raises:
        UnsupportedLayer: other functions, or two affine operations in a row.
    """
    if not chain.functions:  # whose Jacobian depends on no input
        known = interval_jacobian(chain, [])
        return Interval(*(side.expand(len(ball.center), -1, -1) for side in (known.lower, known.upper)))
    rectifiers = [each for each in chain.functions if isinstance(each, ReLURelaxation) and each.negative_slope == 0]
    offsets = [offset for offset in chain.offsets[:-1] if offset is not None]
    if len(rectifiers) < len(chain.functions) or len(offsets) < len(chain.functions):
        raise UnsupportedLayer(
            "method='local' takes ReLU between linear layers and convolutions: fold other affine layers, such as a "
            "normalisation, into these, or use method='recurjac'"
        )
    last = chain.weights[-1]
    network = _JacobianRows([weight.value for weight in chain.weights], offsets)
    found = crown(network, ball)
    shape = len(ball.center), len(last.value), -1
    lower, upper = found.lower.view(shape), found.upper.view(shape)
    # What rows of differences of outputs lost to rounding, times what can stand in front of them.
    if bool(last.error.any()):
        slack = last.error
        for weight in reversed(chain.weights[:-1]):
            slack = slack @ weight.size * (1 + 1e-9)
        lower, upper = lower - slack, upper + slack
    return Interval(lower, upper)


class _JacobianRows(nn.Module):
    """The Jacobian (N, R * F) as a network: the derivative of a rectifier is a step, (1 + sign) / 2."""

    def __init__(self, weights: list[Tensor], offsets: list[Tensor]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(weight, requires_grad=False) for weight in weights)
        self.offsets = nn.ParameterList(nn.Parameter(offset, requires_grad=False) for offset in offsets)

    def forward(self, x: Tensor) -> Tensor:
        z, steps = x.flatten(1), []
        weights = list(self.weights)
        for weight, offset in zip(weights, self.offsets, strict=False):
            v = nn.functional.linear(z, weight, offset)
            steps.append(0.5 + 0.5 * torch.sign(v))
            z = torch.relu(v)
        found = []
        for row in weights[-1]:
            product = row * steps[-1] if steps else row.expand(len(x), -1)
            for weight, step in zip(weights[-2:0:-1], steps[-2::-1], strict=True):
                product = nn.functional.linear(product, weight.T) * step
            found.append(nn.functional.linear(product, weights[0].T) if steps else product)
        return torch.cat(found, 1)
