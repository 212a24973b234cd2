"""A recorded network as a module with weights, and as a program that :class:`bounds.Graph` takes."""

from collections.abc import Mapping, Sequence

from torch import Tensor, fx, nn

from bounds.graph.captured import Captured, Signature


class OnnxNetwork(Captured):
    """The network of an ONNX file as a module: (N, *D) to (N, K), with its weights as parameters."""

    def __init__(self, graph: fx.Graph, stored: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names = tuple(stored)
        for name, value in stored.items():
            if value.is_floating_point():
                self.register_parameter(name, nn.Parameter(value, requires_grad=False))
            else:
                self.register_buffer(name, value)
        self.body = fx.GraphModule({}, graph)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """The outputs of the file, flat and one after another."""
        found: Tensor = self.body(*(getattr(self, name) for name in self.names), x)
        return found


class OnnxProgram:
    """A recorded network with operations that bounds have rules for.

    Attributes:
        graph: of ATen operations; weights are placeholders.
        graph_signature: which placeholder is which.
        constants: that are neither weights nor belong to the module.
    """

    def __init__(self, graph: fx.Graph, stored: Mapping[str, Tensor], network: OnnxNetwork) -> None:
        self.graph, self._network = graph, network
        names = {node.name for node in graph.nodes if node.op == "placeholder"}
        own = {name: name for name in network.names if name in names}
        self.constants = {name: value for name, value in stored.items() if name not in own}
        self.graph_signature = Signature(own, {name: name for name in self.constants}, ("x",))

    @property
    def state_dict(self) -> dict[str, Tensor]:
        """Weights of the module as they are now."""
        return {name: getattr(self._network, name) for name in self._network.names}

    def module(self) -> nn.Module:
        """The network as a module."""
        return self._network


def operations(graph: fx.Graph) -> Sequence[object]:
    """Operations that a graph consists of."""
    return [node.target for node in graph.nodes if node.op == "call_function"]
