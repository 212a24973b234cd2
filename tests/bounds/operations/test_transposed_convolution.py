"""The transpose of a convolution against PyTorch's own, and against its gradient."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles.halfspace import generator
from torch import Tensor

from bounds.operations import transposed_convolution as kernels
from bounds.operations.node import Node
from bounds.operations.transposed_convolution import transposed_convolution

PAIRS = st.tuples(st.integers(1, 4), st.integers(1, 4))
SMALL = st.tuples(st.integers(0, 2), st.integers(0, 2))
CASES = st.fixed_dictionaries(
    {
        "channels": st.sampled_from([(3, 2), (2, 5)]),
        "size": PAIRS,
        "kernel": PAIRS,
        "stride": st.sampled_from([(1, 1), (1, 1), (2, 2), (3, 1), (2, 4)]),
        "padding": SMALL,
        "extra": SMALL,
        "dilation": st.sampled_from([(1, 1), (2, 1), (2, 3)]),
        "at_once": st.sampled_from([1, 40, 2**20]),
        "rows_last": st.booleans(),
    }
)


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def node() -> Node:
    return Node("node", "aten.conv2d.default", ("x",), lambda x: x, (), {}, torch.zeros(1), 0, "a test")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=40, deadline=None)
@given(case=CASES)
def test_coefficients_are_those_of_pytorch(dtype: torch.dtype, case: dict):
    """Also in parts of a few lines, in any order in memory, and with the gradient, which is the convolution."""
    extra = [min(more, step - 1) for more, step in zip(case["extra"], case["stride"], strict=True)]
    geometry = case["stride"], case["padding"], extra, 1, case["dilation"]
    weight = draw(*case["channels"], *case["kernel"], seed=1)
    values = draw(6, case["channels"][0], *case["size"], seed=2)
    try:
        wanted = F.conv_transpose2d(values, weight, None, *geometry)
    except RuntimeError:  # nothing is left of the map
        assume(False)
    given_values = values.to(dtype)
    if case["rows_last"]:
        given_values = given_values.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    given_values.requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "AT_ONCE", case["at_once"])
        found = transposed_convolution(node(), given_values, weight.to(dtype), geometry)
    tolerance = 1e3 * torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)
    direction = draw(*wanted.shape, seed=3)
    (gradient,) = torch.autograd.grad((found * direction).sum(), given_values)
    back = F.conv2d(direction, weight, None, case["stride"], case["padding"], case["dilation"])
    torch.testing.assert_close(gradient.double(), back, rtol=tolerance, atol=tolerance)


def test_coefficients_stay_in_the_order_that_the_next_convolution_reads():
    """Rows last in memory: a convolution in front copies nothing."""
    geometry = (2, 2), (1, 1), [1, 1], 1, (1, 1)
    found = transposed_convolution(node(), draw(5, 3, 4, 4, seed=1), draw(3, 2, 3, 3, seed=2), geometry)
    assert found.permute(1, 2, 3, 0).is_contiguous()
    behind = transposed_convolution(node(), found, draw(2, 2, 3, 3, seed=3), geometry)
    assert behind.permute(1, 2, 3, 0).is_contiguous()
