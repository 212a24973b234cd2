"""Windows and units against coefficients of all entries: the same rows through convolutions of every geometry."""

from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles.halfspace import generator
from torch import Tensor

from bounds.operations.node import Node
from bounds.operations.transposes import conv_transposed, convolved
from bounds.rows import DenseRows, PatchRows, Rows, UnitRows, added, mirrored

INPUTS, ROWS = 2, 3


class Convolution(NamedTuple):
    """Kernel, stride, padding, dilation in both directions; groups; channels per group behind it."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    width: int


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


CONVOLUTIONS = st.builds(
    Convolution, pairs(1, 3), pairs(1, 3), pairs(0, 2), pairs(1, 2), st.sampled_from([1, 1, 2]), st.sampled_from([2, 4])
)
MAPS = st.tuples(st.sampled_from([2, 4]), st.integers(1, 7), st.integers(1, 7))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def node_of(convolution: Convolution, x: Tensor, seed: int) -> Node:
    """A node of a graph that holds this convolution of ``x``."""
    channels = convolution.width
    weight = draw(channels, x.shape[1] // convolution.groups, *convolution.kernel, seed=seed)
    options: tuple[Any, ...] = (convolution.stride, convolution.padding, convolution.dilation, convolution.groups)

    def function(data: Tensor) -> Tensor:
        return F.conv2d(data, weight, None, *options)

    arguments = (None, weight, None, *options)
    return Node(f"node {seed}", "aten.conv2d.default", ("x",), function, arguments, {}, function(x), 0, "a test")


def chain(convolutions: list[Convolution], shape: tuple[int, ...]) -> list[tuple[Node, torch.Size]]:
    """Nodes one after another, with the shapes of their inputs; those that fit no longer end it."""
    nodes, x = [], draw(INPUTS, *shape)
    for seed, convolution in enumerate(convolutions, 1):
        reach = [d * (k - 1) + 1 for d, k in zip(convolution.dilation, convolution.kernel, strict=True)]
        room = [size + 2 * pad for size, pad in zip(x.shape[2:], convolution.padding, strict=True)]
        if any(r > s for r, s in zip(reach, room, strict=True)):
            break
        nodes.append((node_of(convolution, x, seed), x.shape))
        x = nodes[-1][0].value
    return nodes


def by_gradient(node: Node, shape: torch.Size, values: Tensor) -> Tensor:
    """The transpose of a node by differentiation, a row at a time."""
    x = torch.zeros(shape, dtype=values.dtype, requires_grad=True)
    y = node.function(x)
    rows = [torch.autograd.grad(y, x, values[:, r], retain_graph=True)[0] for r in range(values.shape[1])]
    return torch.stack(rows, 1)


def start(shape: torch.Size, group: int = 1) -> UnitRows:
    """Entries of a node; of a map, in groups of channels at one place."""
    channels, area = shape[1], shape[2:].numel()
    channel = torch.randint(channels, (INPUTS, ROWS * group), generator=generator(5))
    place = torch.randint(area, (INPUTS, ROWS), generator=generator(6)).repeat_interleave(group, 1)
    return UnitRows(channel * area + place, tuple(shape[1:]), draw(1), group)


@settings(max_examples=60, deadline=None)
@given(st.lists(CONVOLUTIONS, min_size=1, max_size=3), MAPS, st.sampled_from([1, 2]))
def test_units_and_windows_are_what_dense_coefficients_are(
    convolutions: list[Convolution], shape: tuple[int, ...], group: int
):
    nodes = chain(convolutions, shape)
    assume(nodes)
    rows: Rows | UnitRows = start(nodes[-1][0].value.shape, group)
    dense = rows.expanded().dense()
    whole: Rows = DenseRows(dense)
    for node, below in reversed(nodes):
        rows, whole = convolved(node, rows, (below,))[0], convolved(node, whole, (below,))[0]
        dense = by_gradient(node, below, dense)
        same(rows, dense)
        same(whole, dense)


@settings(max_examples=30, deadline=None)
@given(CONVOLUTIONS, MAPS)
def test_coefficients_in_float32_are_those_in_float64(convolution: Convolution, shape: tuple[int, ...]):
    """On a CPU other kernels serve there."""
    nodes = chain([convolution], shape)
    assume(nodes)
    ((node, below),) = nodes
    single = replace(node, arguments=(None, node.arguments[1].float(), *node.arguments[2:]), cache={})
    values = draw(INPUTS, ROWS, *node.value.shape[1:], seed=4)
    found = convolved(single, DenseRows(values.float()), (below,))[0].dense()
    expected = convolved(node, DenseRows(values), (below,))[0].dense()
    assert (found - expected).abs().max() <= 1e-4


def same(rows: Rows, values: Tensor) -> None:
    """The rows hold these coefficients, and so do all sums that bounds take of them."""
    x = draw(INPUTS, *values.shape[2:], seed=9)
    tolerance = 1e-12 * (1 + values.abs().sum())
    assert (rows.dense() - values).abs().max() <= tolerance
    assert (rows.dot(x) - (values * x.unsqueeze(1)).flatten(2).sum(2)).abs().max() <= tolerance
    assert (rows.dot(x[:1]) - (values * x[:1].unsqueeze(1)).flatten(2).sum(2)).abs().max() <= tolerance
    assert (rows.size(x.abs()) - (values * x.unsqueeze(1)).abs().flatten(2).sum(2)).abs().max() <= tolerance
    assert (rows.scaled(x).dense() - values * x.unsqueeze(1)).abs().max() <= tolerance
    both = mirrored(rows)
    assert (both.dense() - torch.cat([values, -values], 1)).abs().max() <= tolerance
    assert (both.dot(x) - torch.cat([rows.dot(x), -rows.dot(x)], 1)).abs().max() <= tolerance
    clean = rows.cleaned()
    assert (clean.dense() - values).abs().max() <= tolerance
    assert (clean.flat().abs().sum(2) - values.abs().flatten(2).sum(2)).abs().max() <= tolerance


def transposed_node(convolution: Convolution, more: tuple[int, int], x: Tensor) -> Node | None:
    """A node that holds this transposed convolution of ``x``, with some more entries; None if they do not fit."""
    weight = draw(x.shape[1], convolution.width // convolution.groups, *convolution.kernel, seed=3)
    limits = zip(more, convolution.stride, convolution.dilation, strict=True)
    sizes = zip(x.shape[2:], convolution.kernel, convolution.stride, convolution.dilation, strict=True)
    lengths = [(count - 1) * step + gap * (size - 1) + 1 for count, size, step, gap in sizes]
    inside = [length > 2 * pad for length, pad in zip(lengths, convolution.padding, strict=True)]
    if not all(inside) or any(extra >= max(step, gap) for extra, step, gap in limits):
        return None
    options: tuple[Any, ...] = (*convolution[1:3], more, convolution.groups, convolution.dilation)

    def function(data: Tensor) -> Tensor:
        return F.conv_transpose2d(data, weight, None, *options)

    arguments = (None, weight, None, *options)
    return Node("up", "aten.conv_transpose2d.input", ("x",), function, arguments, {}, function(x), 0, "a test")


@settings(max_examples=60, deadline=None)
@given(CONVOLUTIONS, pairs(0, 1), CONVOLUTIONS, MAPS, st.sampled_from([1, 2]))
def test_rows_through_transposed_convolutions(
    up: Convolution, more: tuple[int, int], behind: Convolution, shape: tuple[int, ...], group: int
):
    """Entries, windows of any grid and dense coefficients."""
    x = draw(INPUTS, *shape)
    node = transposed_node(up, more, x)
    assume(node is not None)
    units = start(node.value.shape, group)
    same(conv_transposed(node, units, (x.shape,))[0], by_gradient(node, x.shape, units.expanded().dense()))
    for last, below in chain([behind], node.value.shape[1:]):
        rows = convolved(last, start(last.value.shape, group), (below,))[0]
        expected = by_gradient(node, x.shape, rows.dense())
        same(conv_transposed(node, rows, (x.shape,))[0], expected)
        same(conv_transposed(node, DenseRows(rows.dense()), (x.shape,))[0], expected)


def test_windows_stay_windows_through_a_transposed_convolution():
    node = transposed_node(Convolution((4, 4), (2, 2), (1, 1), (1, 1), 1, 2), (0, 0), draw(INPUTS, 2, 8, 8))
    rows = conv_transposed(node, start(node.value.shape), (torch.Size((INPUTS, 2, 8, 8)),))[0]
    assert isinstance(rows, PatchRows)
    assert rows.values.shape[5:] == (3, 3)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)])
@pytest.mark.parametrize("kernel", [(3, 3), (4, 2)])
def test_padding_by_name(kernel: tuple[int, int], dilation: tuple[int, int], padding: str):
    """An odd number of zeros has more of them behind the map than before it."""
    x, weight = draw(INPUTS, 2, 9, 8), draw(3, 2, *kernel, seed=2)

    def function(data: Tensor) -> Tensor:
        return F.conv2d(data, weight, None, (1, 1), padding, dilation)

    arguments = (None, weight, None, (1, 1), padding, dilation)
    node = Node("named", "aten.conv2d.padding", ("x",), function, arguments, {}, function(x), 0, "a test")
    for rows in (start(node.value.shape, 2), DenseRows(draw(INPUTS, ROWS, *node.value.shape[1:], seed=4))):
        same(convolved(node, rows, (x.shape,))[0], by_gradient(node, x.shape, rows.expanded().dense()))


def of_one_size(
    kernel: tuple[int, int], dilation: tuple[int, int], stride: tuple[int, int], groups: int
) -> Convolution:
    """With the padding that keeps the size of a map but for the stride."""
    padding = tuple(gap * (size // 2) for size, gap in zip(kernel, dilation, strict=True))
    return Convolution(kernel, stride, (padding[0], padding[1]), dilation, groups, 2)


ODD = st.tuples(st.sampled_from([1, 3]), st.sampled_from([1, 3]))


@settings(max_examples=40, deadline=None)
@given(ODD, ODD, pairs(1, 2), pairs(1, 2), st.sampled_from([1, 2]), MAPS)
def test_ways_that_join_add_up(
    one: tuple[int, int],
    other: tuple[int, int],
    dilation: tuple[int, int],
    stride: tuple[int, int],
    groups: int,
    shape: tuple[int, ...],
):
    """Two convolutions from one map to another, as windows of different sizes; and a skip of one entry."""
    ((node, below),) = chain([of_one_size(one, dilation, stride, groups)], shape)
    ((short, _),) = chain([of_one_size(other, (1, 1), stride, 1)], shape)
    begin = start(node.value.shape)
    first, second = (convolved(way, begin, (below,))[0] for way in (node, short))
    for joined in (added(first, second), added(second, first), added(first, DenseRows(second.dense()))):
        same(joined, first.dense() + second.dense())
    if below[1:] == node.value.shape[1:]:
        same(added(begin.expanded(), first), begin.expanded().dense() + first.dense())


@pytest.mark.parametrize("group", [1, 2])
def test_ways_with_groups_and_without_add_up(group: int):
    """A reshape and back parts the groups of one way, so that its windows come in another order."""
    ((node, below),) = chain([of_one_size((3, 3), (1, 1), (1, 1), 1)], (2, 7, 6))
    begin = start(node.value.shape, group)
    (one,), (other,) = (convolved(node, units, (below,)) for units in (begin, replace(begin, group=1)))
    assert isinstance(one, PatchRows)
    assert isinstance(other, PatchRows)
    same(added(one, other), 2 * one.dense())


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (4, 1, 1), (2, 3), ()])
def test_units_pick_entries(shape: tuple[int, ...]):
    entries = torch.Size(shape).numel()
    index = torch.randint(entries, (INPUTS, ROWS), generator=generator(3))
    units = UnitRows(index, shape, draw(1))
    x = draw(INPUTS, *shape, seed=4)
    picked = x.reshape(INPUTS, -1).gather(1, index)
    assert torch.equal(units.dot(x), picked)
    whole = units.expanded()
    assert torch.equal(whole.dense().reshape(INPUTS, ROWS, -1).argmax(2), index)
    assert torch.equal(
        whole.dense().reshape(INPUTS, ROWS, -1).abs().sum(2), torch.ones(INPUTS, ROWS, dtype=torch.float64)
    )
    assert torch.equal(whole.dot(x), picked)


def test_lines_in_a_window_are_held_once_for_all_rows_that_share_it():
    shape = (4, 5, 5)
    index = torch.arange(100).view(4, 25).T.reshape(1, -1)
    apart, together = (UnitRows(index, shape, draw(1), group).expanded() for group in (1, 4))
    assert (apart.held, together.held) == (2 * 4, 4 + 1)
    assert DenseRows(draw(2, 3, *shape)).held == 100


def test_a_window_in_the_wrong_place_is_seen():
    """Mutant: with its place moved by one, or its padding, the same coefficients stand elsewhere."""
    convolution = Convolution((3, 3), (2, 1), (1, 1), (1, 1), 1, 2)
    ((node, below),) = chain([convolution], (2, 7, 6))
    rows = convolved(node, start(node.value.shape), (below,))[0]
    assert isinstance(rows, PatchRows)
    values = rows.dense()
    same(rows, values)
    moved = PatchRows(rows.values, (rows.place + 1) % 12, rows.grid, rows.stride, rows.padding, rows.shape, False)
    shifted = PatchRows(rows.values, rows.place, rows.grid, rows.stride, (0, 1), rows.shape, False)
    for mutant in (moved, shifted):
        with pytest.raises(AssertionError):
            same(mutant, values)
