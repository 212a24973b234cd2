"""A row of the table of operators."""

from collections.abc import Callable
from dataclasses import dataclass

from bounds.onnx.nodes import OnnxNode
from bounds.onnx.values import Value

Make = Callable[..., Value | tuple[Value | None, ...]]


@dataclass(frozen=True)
class Operator:
    """An operator of ONNX as ATen operations.

    Attributes:
        make: of the node and its inputs, None for those left out, its outputs.
        attributes: that it takes into account; a node with another one is refused.
    """

    make: Make
    attributes: frozenset[str] = frozenset()


def operator(make: Make, attributes: str = "") -> Operator:
    """An operator with the names of its attributes."""
    return Operator(make, frozenset(attributes.split()))


def integers(node: OnnxNode, value: Value | None, attribute: str) -> list[int] | None:
    """A list of integers that is an attribute or, in later opsets, a constant input; None where it is left out."""
    if value is None:
        given = node.get(attribute)
        return None if given is None else [int(each) for each in (given if isinstance(given, list) else [given])]
    if value.is_data:
        raise node.refused(f"takes {attribute} that depend on the input")
    return [int(each) for each in value.numbers().flatten().tolist()]


def number(node: OnnxNode, value: Value | None, attribute: str, default: float | None = None) -> float | None:
    """A number that is an attribute or, in later opsets, a constant input; the default where it is left out."""
    if value is None:
        given = node.get(attribute, default)
        return None if given is None else float(given)
    if value.is_data or value.numbers().numel() != 1:
        raise node.refused(f"takes {attribute} that is no single constant")
    return float(value.numbers().flatten()[0])


def places(node: OnnxNode, axes: list[int], ndim: int) -> list[int]:
    """Axes counted from the front."""
    if any(not -ndim <= axis < ndim for axis in axes):
        raise node.refused(f"has axes {axes} for {ndim} dimensions")
    return [axis % ndim for axis in axes]


def constants_only(node: OnnxNode, **values: Value | None) -> None:
    """Refuse data where only constants may stand."""
    for name, value in values.items():
        if value is not None and value.is_data:
            raise node.refused(f"has a {name} that depends on the input")
