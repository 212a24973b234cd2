"""Transposes of operations in closed form are their vector-Jacobian products."""

from collections.abc import Callable

import pytest
import torch
from oracles.halfspace import generator
from torch import Tensor, nn

import bounds
from bounds.rows import DenseRows

CASES = {
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "transpose": lambda x: x.transpose(1, 3),
    "mean": lambda x: x.mean((1, 3)),
    "mean, kept": lambda x: x.mean(2, keepdim=True),
    "sum": lambda x: x.sum(-1),
    "difference": lambda x: x[:, :1] - x[:, :, :1],
}


class Applied(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("name", CASES)
def test_rows_move_as_the_vector_jacobian_product_says(name: str):
    x = torch.rand(2, 3, 4, 5, generator=generator(0), dtype=torch.float64)
    nodes = bounds.capture(Applied(CASES[name]), x).bind(x)
    node = list(nodes.values())[-2]
    parents = [nodes[parent].value for parent in node.parents]
    rows = torch.randn(2, 6, *node.value.shape[1:], generator=generator(1), dtype=torch.float64)
    found = bounds.AFFINE[node.operation].transpose(node, DenseRows(rows), tuple(part.shape for part in parents))
    _, back = torch.func.vjp(node.function, *parents)
    for part, wanted in zip(found, torch.func.vmap(back, in_dims=1)(rows), strict=True):
        torch.testing.assert_close(part.dense(), wanted.transpose(0, 1), rtol=1e-13, atol=1e-13)
