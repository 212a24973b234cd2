"""Max pooling of maps as one node, in place of the gathered windows and the maximum that it was written as."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from bounds.operations.node import Node
from bounds.relaxations.pooled import PooledWindows
from bounds.relaxations.windows import Geometry

POOLED = "certify_bounds.pooled.default"
_RESHAPES = ("aten.view.default", "aten.reshape.default", "aten.flatten.using_ints", "aten.unflatten.int")


def with_pooling(nodes: Mapping[str, Node]) -> dict[str, Node]:
    """The nodes of a network, with one for each maximum over regular windows of a map."""
    taken: dict[str, int] = {}
    for node in nodes.values():
        for parent in node.parents:
            taken[parent] = taken.get(parent, 0) + 1
    found = dict(nodes)
    for name, node in nodes.items():
        parts = _parts(node, nodes, taken) if node.operation == "aten.amax.default" else None
        if parts is not None:
            made = node.cached("pooled", partial(_pooled, parts))
            if made is not None:
                found[name] = made
                for part in parts[1:-1]:
                    del found[part.name]
    return found


def pooled_windows_of(node: Node) -> PooledWindows:
    """The windows of a node that :func:`with_pooling` has made."""
    windows: PooledWindows = node.arguments[1]
    return windows


def _parts(node: Node, nodes: Mapping[str, Node], taken: Mapping[str, int]) -> list[Node] | None:
    """Map, flat map, picked places, windows and maximum, if a maximum has come about so; each serves the next alone."""
    parts = [node]
    while len(parts) < 5:
        if len(parts[0].parents) != 1:
            return None
        parts.insert(0, nodes[parts[0].parents[0]])
    x, flat, picked, windows, _ = parts
    shapes = [tuple(part.value.shape) for part in parts]
    fits = (
        (flat.operation in _RESHAPES and windows.operation in _RESHAPES)
        and picked.operation == "aten.index_select.default"
        and picked.arguments[0] is None
        and (len(shapes[0]), len(shapes[1]), len(shapes[3]), len(shapes[4])) == (4, 3, 5, 4)
        and shapes[1] == (*shapes[0][:2], shapes[0][2] * shapes[0][3])
        and picked.arguments[1] in (2, -1)
        and shapes[3][:4] == shapes[4]
    )
    plain = all(part.batch == 0 and part.single is None and taken[part.name] == 1 for part in parts[1:4])
    return parts if fits and plain and x.batch == 0 and node.batch == 0 else None


def _pooled(parts: list[Node]) -> Node | None:
    """One node for all behind the first, or None where windows are not regular."""
    x, flat, picked, gathered, node = parts
    windows = _regular(picked.arguments[2].view(gathered.value.shape[2:]), (x.value.shape[2], x.value.shape[3]))
    if windows is None:
        return None

    def function(x: Tensor) -> Tensor:
        return node.function(gathered.function(picked.function(flat.function(x))))

    arguments = (None, windows)
    return Node(node.name, POOLED, (x.name,), function, arguments, {}, node.value, node.batch, node.origin)


def _regular(places: Tensor, size: tuple[int, int]) -> PooledWindows | None:
    """Windows with given places (rows, columns, K) of a flattened map, if there is a kernel that gives these."""
    count = places.shape[2]
    for height in (h for h in range(1, count + 1) if count % h == 0):
        kernel = height, count // height
        split = places.unflatten(2, kernel)
        down, along = split[:, 0, :, 0].div(size[1], rounding_mode="floor"), split[0, :, 0, :] % size[1]
        if not torch.equal(split, down[:, None, :, None] * size[1] + along[:, None, :][None]):
            continue
        first, second = _steps(down, size[0]), _steps(along, size[1])
        if first is not None and second is not None:
            stride, padding, dilation = zip(first[:3], second[:3], strict=True)
            inside = (first[3][:, None, :, None] & second[3][:, None, :][None]).flatten(2)
            return PooledWindows(places, inside, Geometry(kernel, stride, padding, dilation))
    return None


def _steps(places: Tensor, size: int) -> tuple[int, int, int, Tensor] | None:
    """Stride, padding, dilation and what lies inside, of windows (count, taps) along a direction; None if irregular.

    Places beyond the map were replaced by the first one of the window that is not.
    """
    count, taps = places.shape
    gaps = places.diff(dim=1)
    whole = (gaps > 0).all(1).nonzero()[:, 0]  # windows within the map
    if len(whole) == 0 or (taps > 1 and not bool((gaps[whole] == gaps[whole[0], 0]).all())):
        return None
    dilation = int(gaps[whole[0], 0]) if taps > 1 else 1
    # Where a window begins: by its first place, or by its last one in front of those.
    start = torch.where(
        torch.arange(count, device=places.device) < whole[0], places[:, -1] - (taps - 1) * dilation, places[:, 0]
    )
    stride = int(start[-1] - start[0]) // (count - 1) if count > 1 else 1
    padding = -int(start[0])
    meant = torch.arange(count, device=places.device)[:, None] * stride - padding
    meant = meant + dilation * torch.arange(taps, device=places.device)
    inside = (meant >= 0) & (meant < size)
    first = meant.gather(1, inside.to(torch.uint8).argmax(1, keepdim=True))
    regular = stride >= 1 and torch.equal(torch.where(inside, meant, first), places)
    return (stride, padding, dilation, inside) if regular else None
