"""A node of an ONNX file, as plain Python."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bounds.errors import UnsupportedLayer


@dataclass(frozen=True, eq=False)
class OnnxNode:
    """One node of a file.

    Attributes:
        operator: its kind, such as ``"Conv"``.
        name: in the file; of its first output where it has none.
        opset: the version of the operators that the file uses.
        attributes: numbers, strings, tensors and lists of these.
        inputs: names, empty for one left out.
        outputs: likewise.
        file: that it stands in.
        used: for each output whether anything takes it.
        domain: empty for ONNX itself.
    """

    operator: str
    name: str
    opset: int
    attributes: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    file: str
    used: tuple[bool, ...] = ()
    domain: str = ""

    def get(self, attribute: str, default: Any = None) -> Any:  # noqa: ANN401  # of any type
        """An attribute, or its default."""
        return self.attributes.get(attribute, default)

    def refused(self, reason: str) -> UnsupportedLayer:
        """The error that says why the node has no counterpart here."""
        return UnsupportedLayer(f"{self} {reason}")

    def only_first_output(self) -> None:
        """Refuse a node of which a further output is used."""
        if any(self.used[1:]):
            raise self.refused("has a second output that is used")

    def __str__(self) -> str:
        domain = f"{self.domain}." if self.domain else ""
        return f"operator {domain}{self.operator} (node {self.name!r}, opset {self.opset}, {self.file})"
