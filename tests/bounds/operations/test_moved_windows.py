"""Transposes of means, padding, joins and convolutions of other than maps, against differentiation."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from oracles.halfspace import generator
from torch import Tensor, nn

import bounds
from bounds.operations.affine import AFFINE
from bounds.operations.node import Node
from bounds.rows import AnyRows, DenseRows, PatchRows, UnitRows

INPUTS, MAP, LINE, VOLUME = 2, (4, 7, 6), (2, 9), (2, 4, 5, 3)


class Of(nn.Module):
    """A function of the input, flattened."""

    def __init__(self, function: Callable[..., Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parts).flatten(1)


MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean over windows": lambda x: F.avg_pool2d(x, 2),
    "mean over windows that overlap": lambda x: F.avg_pool2d(x, (3, 2), (2, 1), (1, 0)),
    "mean with another divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "mean over parts": lambda x: F.adaptive_avg_pool2d(x, (7, 3)),
    "padding": lambda x: F.pad(x, (1, 2, 0, 3), value=0.5),
    "padding that cuts": lambda x: F.pad(x, (1, -2, -1, 2)),
    "join of channels": lambda x: torch.cat([x, x], 1),
    "join of rows": lambda x: torch.cat([x, x], 2),
}
KEEPS_WINDOWS = {kind for kind in MAPS if "rows" not in kind}
OTHERS: dict[str, tuple[tuple[int, ...], nn.Module]] = {
    "conv1d": (LINE, nn.Conv1d(2, 4, 3, 2, 1, dilation=2)),
    "conv1d by name": (LINE, nn.Conv1d(2, 3, 4, padding="same")),
    "conv1d, groups": (LINE, nn.Conv1d(2, 4, 2, 3, groups=2)),
    "conv3d": (VOLUME, nn.Conv3d(2, 3, (2, 3, 1), (1, 2, 1), (1, 0, 0))),
    "conv1d, transposed": (LINE, nn.ConvTranspose1d(2, 4, 3, 2, 1, 1, groups=2)),
    "conv3d, transposed": (VOLUME, nn.ConvTranspose3d(2, 3, 2, (1, 2, 1), (0, 1, 0), dilation=(2, 1, 1))),
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def node_of(function: Callable[..., Tensor], *parts: nn.Module, shape: tuple[int, ...]) -> Node:
    """The first node behind the input that is not a reshape of it."""
    model = Of(function, *parts).double().requires_grad_(False)
    nodes = bounds.capture(model, draw(INPUTS, *shape)).bind(draw(INPUTS, *shape))
    return next(node for node in nodes.values() if any(parent in node.parents for parent in list(nodes)[:1]))


def by_gradient(node: Node, shape: tuple[int, ...], values: Tensor) -> list[Tensor]:
    """The transpose of a node by differentiation, a row at a time."""
    inputs = [torch.zeros(INPUTS, *shape, dtype=torch.float64, requires_grad=True) for _ in node.parents]
    y = node.function(*inputs)
    rows = [torch.autograd.grad(y, inputs, values[:, row], retain_graph=True) for row in range(values.shape[1])]
    return [torch.stack(parts, 1) for parts in zip(*rows, strict=True)]


def rows_of(shape: torch.Size) -> dict[str, AnyRows]:
    """Entries, windows that reach beyond the map, and all coefficients."""
    index = torch.randint(shape[1:].numel(), (INPUTS, 3), generator=generator(3))
    rows: dict[str, AnyRows] = {
        "units": UnitRows(index, tuple(shape[1:]), draw(1)),
        "dense": DenseRows(draw(INPUTS, 3, *shape[1:], seed=4)),
    }
    if len(shape) == 4:
        place = torch.tensor([[0, 3], [2, 1]])
        values = draw(INPUTS, 1, 2, 2, shape[1], 2, 2, seed=5)
        rows["windows"] = PatchRows(values, place, (2, 2), (1, 1), (1, 1), tuple(shape[1:]), False)
    return rows


def check(node: Node, shape: tuple[int, ...], *, windows: bool = False) -> None:
    transpose = AFFINE[node.operation].transpose
    for kind, rows in rows_of(node.value.shape).items():
        found = transpose(node, rows, tuple(torch.Size((INPUTS, *shape)) for _ in node.parents))
        if found is None:
            assert kind != "windows" or not windows
            continue
        for part, expected in zip(found, by_gradient(node, shape, rows.expanded().dense()), strict=True):
            assert not windows or kind == "dense" or isinstance(part, PatchRows)
            assert torch.allclose(part.expanded().dense(), expected, rtol=1e-12, atol=1e-12)
            sums = part.expanded().cleaned().flat().abs().sum(2)
            assert torch.allclose(sums, expected.abs().flatten(2).sum(2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", MAPS)
def test_windows_of_maps(kind: str):
    check(node_of(MAPS[kind], shape=MAP), MAP, windows=kind in KEEPS_WINDOWS)


@pytest.mark.parametrize("kind", OTHERS)
def test_convolutions_of_lines_and_volumes(kind: str):
    shape, part = OTHERS[kind]
    node = node_of(lambda x, layer: layer(x), part, shape=shape)
    assert "conv" in node.operation
    assert AFFINE[node.operation].transpose(node, rows_of(node.value.shape)["dense"], (torch.Size((INPUTS, *shape)),))
    check(node, shape)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.avg_pool2d(x, 2, ceil_mode=True),
        lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
        lambda x: F.adaptive_avg_pool2d(x, (4, 4)),
    ],
    ids=["beyond the map", "without padding", "of different sizes"],
)
def test_means_of_different_counts_are_left_to_differentiation(function: Callable[[Tensor], Tensor]):
    node = node_of(function, shape=MAP)
    assert "avg_pool2d" in node.operation
    dense = rows_of(node.value.shape)["dense"]
    assert AFFINE[node.operation].transpose(node, dense, (torch.Size((INPUTS, *MAP)),)) is None
