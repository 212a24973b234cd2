"""Windows of convolutions and pooling, and layers that take images one by one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bounds.onnx.nodes import OnnxNode
from bounds.onnx.values import Value, constant, opened_value

aten = torch.ops.aten


@dataclass(frozen=True)
class Windows:
    """Windows along each of the last dimensions.

    Attributes:
        kernel: entries of a window.
        strides: between windows.
        gaps: between entries of a window, 1 for none.
        before: entries of padding in front.
        after: behind.
    """

    kernel: list[int]
    strides: list[int]
    gaps: list[int]
    before: list[int]
    after: list[int]

    @property
    def symmetric(self) -> bool:
        """Whether as much is added in front as behind."""
        return self.before == self.after

    def spans(self) -> list[int]:
        """Entries from the first to the last one of a window."""
        return [(size - 1) * gap + 1 for size, gap in zip(self.kernel, self.gaps, strict=True)]


def windows_of(node: OnnxNode, sizes: Sequence[int], kernel: Sequence[int] | None = None) -> Windows:
    """The windows that the attributes of a node describe, on dimensions of given sizes."""
    ndim = len(sizes)
    kernel = list(node.get("kernel_shape") or kernel or [])
    strides, gaps = node.get("strides") or [1] * ndim, node.get("dilations") or [1] * ndim
    pads = node.get("pads") or [0] * (2 * ndim)
    if not len(kernel) == len(strides) == len(gaps) == len(pads) / 2 == ndim:
        raise node.refused(f"has attributes for another number of dimensions than {ndim}")
    if min(pads) < 0:
        raise node.refused(f"has pads {pads} below 0")
    before, after = list(pads[:ndim]), list(pads[ndim:])
    mode = node.get("auto_pad", "NOTSET")
    if mode == "VALID":
        before, after = [0] * ndim, [0] * ndim
    elif mode in ("SAME_UPPER", "SAME_LOWER"):
        for i, (size, entries, stride, gap) in enumerate(zip(sizes, kernel, strides, gaps, strict=True)):
            total = max((-(-size // stride) - 1) * stride + (entries - 1) * gap + 1 - size, 0)
            small, large = total // 2, total - total // 2
            before[i], after[i] = (small, large) if mode == "SAME_UPPER" else (large, small)
    elif mode != "NOTSET":
        raise node.refused(f"has auto_pad {mode!r}")
    return Windows(kernel, list(strides), list(gaps), before, after)


def require_known_places(node: OnnxNode, sizes: Sequence[int], windows: Windows) -> None:
    """Refuse automatic padding in pooling where runtimes differ: of windows with gaps, or with inputs between them."""
    if not node.get("auto_pad", "NOTSET").startswith("SAME"):
        return
    parts = zip(sizes, windows.kernel, windows.strides, strict=True)
    if any(gap != 1 for gap in windows.gaps) or any((-(-n // s) - 1) * s + k < n for n, k, s in parts):
        raise node.refused(
            "has auto_pad with dilations, or inputs between windows, which runtimes read in different ways"
        )


def surrounded(tensor: Any, windows: Windows, fill: float = 0.0) -> Any:  # noqa: ANN401  # a tensor or a stand-in
    """The tensor with the padding of windows around its last dimensions."""
    flat = [size for pair in zip(reversed(windows.before), reversed(windows.after), strict=True) for size in pair]
    return aten.constant_pad_nd.default(tensor, flat, fill) if any(flat) else tensor


def each_image(x: Value, layer: Callable[[Any], Any]) -> Value:
    """A layer on (B, C, *sizes), for the images of the file as for one after another."""
    if not x.is_data:
        return constant(layer(x.tensor))
    if x.shape[0] == 1:
        made = layer(x.tensor)
        return Value(made, (1, *made.shape[1:]))
    images = [layer(aten.select.int(x.tensor, 1, i)) for i in range(x.shape[0])]
    return opened_value(aten.stack.default(images, 1))
