"""A recorded network as a module with weights, and as a program that :class:`bounds.Graph` takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from bounds.decompositions.table import EXACT, REWRITES
from bounds.errors import InvalidInput
from bounds.graph.captured import Captured, Graph, Port, Signature
from bounds.onnx.decomposing import decomposed


@dataclass(frozen=True, eq=False)
class Recording:
    """The operations of a file, and what they were recorded with.

    Attributes:
        graph: of ATen operations, with a placeholder for each weight and one for the input.
        stored: weights and other constants by the names of their placeholders.
        inputs: of the file.
        outputs: likewise.
    """

    graph: fx.Graph
    stored: Mapping[str, Tensor]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


class OnnxNetwork(Captured):
    """The network of an ONNX file as a module: (N, *D) to (N, K), with its weights as parameters."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self.recording = recording
        self.names = tuple(recording.stored)
        for name, value in recording.stored.items():
            if value.is_floating_point():
                self.register_parameter(name, nn.Parameter(value, requires_grad=False))
            else:
                self.register_buffer(name, value)
        self.body = fx.GraphModule({}, recording.graph)
        self.eval()
        met = {node.target for node in recording.graph.nodes if node.op == "call_function"}
        self.graph = Graph(
            OnnxProgram(self),
            inexact=frozenset(str(target) for target in met & (REWRITES.keys() - EXACT.keys())),
            batch_norm=any("batch_norm" in str(target) for target in met),
            inputs=recording.inputs,
            outputs=recording.outputs,
        )

    def forward(self, x: Tensor) -> Tensor:
        """The outputs of the file, flat and one after another."""
        if tuple(x.shape[1:]) != tuple(self.graph.input_shape):
            expected = ", ".join(map(str, ("N", *self.graph.input_shape)))
            raise InvalidInput(f"x must have shape ({expected}), got {tuple(x.shape)}: the file says so")
        found: Tensor = self.body(*(getattr(self, name) for name in self.names), x)
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> "OnnxNetwork":
        """Another network with weights of its own; what was recorded never changes."""
        copied = OnnxNetwork(self.recording)
        for name in self.names:
            value = getattr(self, name)
            copy = value.detach().clone()
            setattr(copied, name, nn.Parameter(copy, value.requires_grad) if isinstance(value, nn.Parameter) else copy)
        copied.train(self.training)
        memo[id(self)] = copied
        return copied


class OnnxProgram:
    """A recorded network with operations that bounds have rules for.

    Attributes:
        graph: of ATen operations; weights are placeholders.
        graph_signature: which placeholder is which.
        constants: that the module does not have.
    """

    def __init__(self, network: OnnxNetwork) -> None:
        self._network = network
        recording = network.recording
        self.graph, stored = recording.graph, recording.stored
        if any(node.target in REWRITES for node in self.graph.nodes):
            with torch.no_grad(), torch.device("cpu"):
                self.graph, stored = decomposed(recording.graph, recording.stored)
        self.constants = {name: value for name, value in stored.items() if name not in network.names}
        own, others = ({name: name for name in names} for names in (network.names, self.constants))
        self.graph_signature = Signature(own, others, ("x",))

    @property
    def state_dict(self) -> dict[str, Tensor]:
        """Weights of the module as they are now."""
        return {name: getattr(self._network, name) for name in self._network.names}

    def module(self) -> nn.Module:
        """The network as a module."""
        return self._network
