"""Intervals behind layers in one operation: against the plain steps, finite differences and the ways of torch.func."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from oracles.halfspace import generator
from torch import Tensor, nn

from bounds.operations.layer_intervals import behind_layer
from bounds.operations.node import Node


def convolution(size: int, **settings: object) -> tuple[Callable[[], nn.Module], tuple[int, ...]]:
    return lambda: nn.Conv2d(4, 6, 3, dtype=torch.float64, **settings), (2, 4, size, size)


# Maps of up to 16 places take the product of matrices, larger ones the library.
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(5, 3, dtype=torch.float64), (2, 5)),
    "linear, tokens": (lambda: nn.Linear(5, 3, bias=False, dtype=torch.float64), (2, 4, 5)),
    "few places": convolution(4, padding=1),
    "few places, stride": convolution(7, padding=1, stride=2, bias=False),
    "few places, dilation": convolution(6, dilation=2),
    "few places, groups": convolution(4, padding=1, groups=2),
    "many places": convolution(6, padding=1),
    "many places, stride": convolution(9, padding=(1, 2), stride=(2, 1)),
}
each_layer = pytest.mark.parametrize("name", LAYERS)


def drawn(name: str) -> tuple[nn.Module, Node, Tensor, Tensor]:
    """A layer, its node, and both ends of an interval of its data."""
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer = make()
    ends = torch.randn(2, *shape, generator=generator(), dtype=torch.float64).sort(0).values
    operation, settings = "aten.linear.default", ()
    if isinstance(layer, nn.Conv2d):
        operation = "aten.conv2d.default"
        settings = layer.stride, layer.padding, layer.dilation, layer.groups
    arguments = None, layer.weight, layer.bias, *settings
    node = Node("layer", operation, ("x",), layer, arguments, {}, layer(ends[0]).detach(), 0, "a test")
    return layer, node, *(end.requires_grad_() for end in ends)


def by_steps(node: Node, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and radius, one operation after another."""
    _, weight, bias, *settings = node.arguments
    apply = nn.functional.conv2d if settings else nn.functional.linear
    center, radius = (lower + upper) / 2, (upper - lower) / 2
    middle, reach = apply(center, weight, bias, *settings), apply(radius, weight.abs(), None, *settings)
    return middle - reach, middle + reach


@each_layer
def test_ends_and_gradients_are_those_of_the_plain_steps(name: str):
    layer, node, lower, upper = drawn(name)
    found = []
    for bound in (behind_layer, by_steps):
        ends = bound(node, lower, upper)
        assert ends is not None
        weights = torch.randn(2, *ends[0].shape, generator=generator(1), dtype=torch.float64)
        total = sum((end * weight).sum() for end, weight in zip(ends, weights, strict=True))
        found.append([*ends, *torch.autograd.grad(total, [lower, upper, *layer.parameters()])])
    for ours, plain in zip(*found, strict=True):
        assert torch.allclose(ours, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@each_layer
def test_gradients_are_finite_differences(name: str):
    _, node, lower, upper = drawn(name)
    assert torch.autograd.gradcheck(lambda *ends: behind_layer(node, *ends), (lower, upper), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *ends: behind_layer(node, *ends), (lower, upper), fast_mode=True)


def test_a_weight_of_zero_spreads_nothing_and_has_a_gradient_in_between():
    layer, node, *_ = drawn("linear")
    with torch.no_grad():
        layer.weight.zero_()
    lower, upper = torch.ones(1, 5).double(), torch.full((1, 5), 3.0).double()
    found = behind_layer(node, lower, upper)
    assert found is not None
    assert torch.equal(found[0], found[1])
    (gradient,) = torch.autograd.grad(found[1].sum(), layer.weight)
    assert torch.equal(gradient, torch.full_like(gradient, 2.0))  # of the centre alone


def test_where_nothing_is_known_ends_are_infinite():
    _, node, lower, upper = drawn("linear")
    lower, upper = lower.detach().clone(), upper.detach().clone()
    lower[0, 0], upper[0, 0] = -math.inf, math.inf
    found = behind_layer(node, lower, upper)
    assert found is not None
    assert (found[0][0] == -math.inf).all()
    assert (found[1][0] == math.inf).all()
    assert found[0][1].isfinite().all()


@pytest.mark.slow
def test_functional_gradients_are_the_same():
    _, node, lower, upper = drawn("few places")

    def total(lower: Tensor, upper: Tensor) -> Tensor:
        ends = behind_layer(node, lower, upper)
        assert ends is not None
        return (ends[0] - 2 * ends[1]).sum()

    ours = torch.func.grad(total, (0, 1))(lower.detach(), upper.detach())
    for own, plain in zip(ours, torch.autograd.grad(total(lower, upper), (lower, upper)), strict=True):
        assert torch.allclose(own, plain)


def test_layers_that_have_other_settings_take_the_plain_steps():
    _, node, lower, upper = drawn("few places")
    assert behind_layer(replace(node, operation="aten.conv2d.padding"), lower, upper) is None
    assert behind_layer(replace(node, single=node), lower, upper) is None
    assert behind_layer(node, lower[0], upper[0]) is None  # one map without a dimension for inputs
