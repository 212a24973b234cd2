"""The network that a property speaks of, as it runs: onnxruntime for files, PyTorch for modules."""

import gzip
import os
import zlib
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bounds import Graph, InvalidInput, InvalidModel, Port, Property, capture, from_onnx
from bounds.models import agree, answer, evaluation_mode, require_module, tolerance

Source = nn.Module | Graph | str | os.PathLike[str]
Replay = Callable[[Tensor], Tensor]  # of one input (1, *D), the answer (1, K)
GZIP = b"\x1f\x8b"
DISAGREEMENT = 1e-3, 1e-4  # between the graph and onnxruntime, relative and absolute: beyond rounding in float32


class Deployed:
    """A network with the shape and dtype of its inputs.

    Args:
        source: a module, which takes inputs of the shape that the property writes; a graph; or the path of an ONNX
            file, which is replayed by onnxruntime where that is installed.
        prop: the property, which knows the shape of inputs where the network does not.

    Raises:
        InvalidInput: the network does not take the inputs of the property, or has other outputs.
        InvalidModel: no network, or one that fails at an input.
        UnsupportedLayer: an operator of the file is not known.

    Attributes:
        module: the network in PyTorch.
        shape: of one input, with a batch dimension of 1.
        dtype: of inputs.
        device: of weights.
        bytes: that a pass keeps of each input for gradients.
        replay: the answer to one input by what runs the network.
        refusal: why nothing can be replayed, empty where it can.
    """

    def __init__(self, source: Source, prop: Property) -> None:
        self._graph: Graph | None = None
        file: Path | bytes | None = None
        if isinstance(source, str | os.PathLike):
            file = _file(Path(source))
            source = from_onnx(file)
        if isinstance(source, Graph):
            self._graph, source = source, source.module()
        require_module(source)
        self.module: nn.Module = source
        weight = next(self.module.parameters(), None)
        self.dtype = _dtype(self._graph, weight)
        self.device = torch.device("cpu") if weight is None else weight.device
        self.shape = torch.Size(_shape(prop) if self._graph is None else (1, *self._graph.input_shape))
        if not self.dtype.is_floating_point:
            raise InvalidInput(f"the network takes inputs of {self.dtype}: a network of floating inputs is needed")
        self.bytes = 8 * self.shape.numel()
        self._is_batched = False
        self._check(prop)
        self.replay: Replay = self.outputs
        self.refusal = ""
        if file is not None and self._graph is not None and find_spec("onnxruntime") is not None:
            try:
                self.replay = OnnxSession(file, self._graph.inputs, self._graph.outputs)
            except InvalidModel as error:
                self.refusal = str(error)

    def outputs(self, x: Tensor) -> Tensor:
        """Answers (N, K) of the network in PyTorch to inputs (N, *D) or (N, F)."""
        rows = x if x.shape[1:] == self.shape[1:] else x.reshape(len(x), *self.shape[1:])
        parts = (rows,) if self._is_batched else rows.split(1)
        return torch.cat([self.module(part).reshape(len(part), -1) for part in parts])

    def graph(self) -> Graph:
        """The captured network.

        Raises:
            UnsupportedLayer: it cannot be captured.
        """
        if self._graph is None:
            self._graph = capture(self.module, torch.zeros(self.shape, dtype=self.dtype, device=self.device))
        return self._graph

    def differs(self, x: Tensor) -> str:
        """A sentence where the answers to an input (1, *D) in PyTorch and by the replay differ; empty otherwise."""
        if not isinstance(self.replay, OnnxSession):
            return ""
        try:
            with torch.no_grad():
                here, there = self.outputs(x).double(), self.replay(x).double()
        except InvalidModel as error:
            self.refusal = str(error)
            return ""
        relative, absolute = DISAGREEMENT
        size = torch.where(there.isfinite(), there, 0.0).abs().amax()
        if torch.allclose(here, there, rtol=0.0, atol=float(absolute + relative * size), equal_nan=True):
            return ""
        return f"the network as it was read and onnxruntime disagree by {float((here - there).abs().amax()):g}"

    def _check(self, prop: Property) -> None:
        """Refuse a property of other inputs and outputs."""
        entries = self.shape.numel()
        if prop.num_inputs != entries:
            raise InvalidInput(f"the property speaks of {prop.num_inputs} inputs, but the network has {entries}")
        ports = () if self._graph is None else self._graph.inputs
        if len(prop.inputs) > 1 and [each.size for each in prop.inputs] != [port.end - port.start for port in ports]:
            sizes = [port.end - port.start for port in ports] or [entries]
            raise InvalidInput(
                f"the property has inputs of {[each.size for each in prop.inputs]} entries, but the network of {sizes}"
            )
        with evaluation_mode(self.module):
            outputs = self._probed()
        if prop.num_outputs != outputs:
            raise InvalidInput(f"the property speaks of {prop.num_outputs} outputs, but the network has {outputs}")

    def _probed(self) -> int:
        """Number of outputs, after trying whether inputs can be run together without changing each other's answers."""
        rows = torch.zeros(2, *self.shape[1:], dtype=self.dtype, device=self.device)
        rows[1] = 1.0
        (first, size), (second, _) = (self._kept(row) for row in rows.split(1))
        try:
            together, size_together = self._kept(rows)
        except (InvalidModel, RuntimeError):
            return first.numel()
        self._is_batched = agree(together, torch.cat([first, second]), tolerance(self.module, together))
        self.bytes = max(size_together - size, self.bytes)
        return first.numel()

    def _kept(self, rows: Tensor) -> tuple[Tensor, int]:
        """Answers to inputs, and the bytes that are kept for gradients."""
        sizes: list[int] = []

        def kept(value: Tensor) -> Tensor:
            sizes.append(value.numel() * value.element_size())
            return value

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(kept, lambda value: value):
            found = answer(self.module, rows.detach().clone().requires_grad_())
        return found.detach(), sum(sizes)


class OnnxSession:
    """An ONNX file in onnxruntime, on the CPU.

    Args:
        file: its path or its content.
        inputs: as entries of the flat input.
        outputs: likewise.

    Raises:
        InvalidModel: onnxruntime does not take the file.
    """

    def __init__(self, file: Path | bytes, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        source = file if isinstance(file, bytes) else str(file)
        try:
            self._session: Any = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of onnxruntime, which has many
            raise InvalidModel(f"onnxruntime does not run the network: {_first_line(error)}") from error
        self._inputs, self._outputs = inputs, outputs

    def __call__(self, x: Tensor) -> Tensor:
        """The answer (1, K) to one input (1, *D)."""
        row = x.detach().cpu().flatten()
        given = {port.name: row[port.start : port.end].reshape(port.shape).numpy() for port in self._inputs}
        try:
            found = self._session.run([port.name for port in self._outputs], given)
        except Exception as error:
            raise InvalidModel(f"onnxruntime does not run the network: {_first_line(error)}") from error
        return torch.cat([torch.as_tensor(each, device="cpu").to(x.dtype).flatten() for each in found])[None]


def _file(path: Path) -> Path | bytes:
    """The path, or the content of a file that is compressed."""
    try:
        with path.open("rb") as file:
            is_compressed = file.read(len(GZIP)) == GZIP
        return gzip.decompress(path.read_bytes()) if is_compressed else path
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidModel(f"{path} is a damaged gzip file: get it anew") from error
    except OSError as error:
        raise InvalidModel(f"{path} cannot be read: {error.strerror}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _dtype(graph: Graph | None, weight: Tensor | None) -> torch.dtype:
    """Numbers that the network takes: those of its weights, or of its input where it has none."""
    if weight is not None:
        return weight.dtype
    if graph is not None:
        (name,) = graph.program.graph_signature.user_inputs
        values = (node.meta["val"] for node in graph.program.graph.nodes if node.name == name)
        dtype: torch.dtype = next(values).dtype
        return dtype
    return torch.get_default_dtype()


def _shape(prop: Property) -> tuple[int, ...]:
    """The shape of one input as the property writes it, with a batch dimension of 1."""
    if len(prop.inputs) > 1:
        return (1, prop.num_inputs)
    shape = prop.inputs[0].shape
    return shape if len(shape) > 1 and shape[0] == 1 else (1, *(shape or (1,)))
