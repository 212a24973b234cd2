"""Lipschitz bounds by the product of operator norms, along any graph: the loosest proved one, for every network."""

import math

import torch
from torch import Tensor

from bounds.errors import UnsupportedLayer
from bounds.linear.network import Network
from bounds.lipschitz.layer_chain import LARGEST, node_matrix
from bounds.lipschitz.operator_norms import (
    UP,
    exact,
    interpolated,
    matrix_norm,
    plane_norm,
    spectral_norm,
    without_stride,
)
from bounds.numerics import accumulated_error
from bounds.operations.affine import RESHAPE, linear_part
from bounds.operations.node import entries
from bounds.relaxations.derivative_range import slope_range
from bounds.relaxations.multivariate import Maximum
from bounds.relaxations.scalar import ScalarFunction
from bounds.sets.balls import Interval

DENSE = 2**22  # entries of a matrix whose singular values are still computed; beyond, Gram iteration


def product_bound(network: Network, order: float, rows: Tensor | None = None) -> Tensor:
    """Upper bounds (R,) on how far linear functions (R, K) of the outputs move with an input, in the l_p norm.

    Without ``rows``, (1,) for all outputs together, measured in the same norm. The network is bound to one input. Sums
    of branches add up.

    Raises:
        UnsupportedLayer: a product of data, or a function with jumps.
    """
    constants: dict[str, float] = {}
    last = _last_affine(network) if rows is not None else None
    for name in network.order:
        node = network.nodes[name]
        before = [constants[parent] for parent in node.parents]
        if node.operation == "input":
            constants[name] = 1.0
        elif name == last:
            return _of_rows(network, name, rows, before[0], order)  # type: ignore[arg-type]  # there are rows
        elif name in network.functions:
            constants[name] = _steepest(network, name) * before[0] * UP
        else:
            norms = [node_norm(network, name, place, order) for place in range(len(before))]
            constants[name] = math.fsum(norm * one for norm, one in zip(norms, before, strict=True)) * UP
    found = torch.tensor([constants["output"]], dtype=torch.float64, device=network.ball.center.device)
    if rows is None:
        return found
    return found * dual_norms(rows.double().abs(), order)


def _last_affine(network: Network) -> str | None:
    """The last node with a matrix, if nothing but reshaping follows."""
    name = "output"
    while name in network.rules and network.rules[name] is RESHAPE:
        name = network.nodes[name].parents[0]
    return name if name in network.rules and len(network.nodes[name].parents) == 1 else None


def _of_rows(network: Network, name: str, rows: Tensor, before: float, order: float) -> Tensor:
    """Differences of outputs are folded into the last matrix: their dual norms, and all that comes before."""
    matrix = exact(rows.double()) @ node_matrix(network, name, 0)
    return dual_norms(matrix.size, order) * before * UP


def dual_norms(size: Tensor, order: float) -> Tensor:
    """Dual norms (R,) of rows of absolute values from above (R, F), rounded up."""
    dual = math.inf if order == 1 else 1.0 if order == math.inf else order / (order - 1)
    error = 2 * accumulated_error(size.shape[1] + 128, size.dtype)
    # Scaled, so that powers neither overflow nor vanish; what they lose at 1e-300 of the largest is in the last term.
    largest = size.amax(1).clamp(min=1e-300)
    found: Tensor = torch.linalg.vector_norm(size / largest[:, None], dual, dim=1) * largest
    return found * (1 + error) + 1e-300


def node_norm(network: Network, name: str, place: int, order: float) -> float:
    """An upper bound on the norm of an affine node for one parent."""
    rule = network.rules[name]
    if rule is RESHAPE:
        return 1.0
    node = network.nodes[name]
    shapes = [network.nodes[parent].value for parent in node.parents]
    rows, columns = entries(node.value), entries(shapes[place])
    parts = [torch.zeros_like(part) for part in shapes]

    def moved(reach: Tensor) -> Tensor:
        return rule.moved(node, (*parts[:place], reach, *parts[place + 1 :]))

    with torch.enable_grad():
        sums, transpose, *_ = torch.func.vjp(moved, torch.ones_like(shapes[place]))
        (weights,) = transpose(torch.ones_like(sums))
    gamma = 2 * accumulated_error(max(rule.terms(node, tuple(parts)), 1) + 8, sums.dtype)
    row = float(sums.max()) * (1 + gamma)
    column = float(weights.max()) * (1 + gamma)

    def stretch(weights: Tensor) -> float:
        """The stretch of the entries of the largest weight by the node, without its offset: a norm from below."""
        start = (weights >= weights.max()).to(weights)
        image = linear_part(node, (*parts[:place], start, *parts[place + 1 :]))
        return float(image.norm() / start.norm())

    def spectral() -> float:
        crude = math.sqrt(row * column) * UP
        if crude <= stretch(weights) * (1 + 1e-9):  # as of moves and sums: it is the norm
            return crude
        if rows * columns <= DENSE:
            return min(crude, spectral_norm(node_matrix(network, name, place)))
        if node.operation == "aten.conv2d.default":
            computed = (
                accumulated_error(network.constant_units(name) + 2, sums.dtype) * crude
            )  # by how much weights err
            return min(crude, (_convolution(network, name) + computed) * UP)
        return min(crude, matrix_norm(node_matrix(network, name, place), 2)) if rows * columns <= LARGEST else crude

    return interpolated(order, row, column, spectral)


def _convolution(network: Network, name: str) -> float:
    """The norm of a convolution with zero padding, which is a part of that of the plane; groups act on parts apart."""
    arguments = dict(
        zip(
            ("weight", "bias", "stride", "padding", "dilation", "groups"),
            network.nodes[name].arguments[1:],
            strict=False,
        )
    )
    weight, groups = arguments["weight"], arguments.get("groups", 1)
    stride, dilation = arguments.get("stride", (1, 1)), arguments.get("dilation", (1, 1))
    steps = int(stride[0]), int(stride[-1])
    if max(dilation) > 1 and max(steps) > 1:
        return math.inf  # phases of both do not separate; the crude bound stays
    parts = weight.double().chunk(groups)
    return max(plane_norm(without_stride(part, steps)) for part in parts)


def _steepest(network: Network, name: str) -> float:
    """The largest absolute slope of a function, anywhere."""
    function = network.functions[name]
    if isinstance(function, Maximum):
        return 1.0  # |max x - max y| <= max |x - y|, for each window alone
    if not isinstance(function, ScalarFunction):
        raise UnsupportedLayer(
            f"{network.nodes[name].operation} at {network.nodes[name].origin} multiplies data, and has no Lipschitz "
            f"constant: use method='local' or 'fast_lip' with a ball, or bounds.crown"
        )
    shape = network.nodes[network.nodes[name].parents[0]].value
    slopes = slope_range(function, Interval(torch.full_like(shape, -math.inf), torch.full_like(shape, math.inf)))
    return float(torch.maximum(slopes.lower.abs(), slopes.upper.abs()).max())
