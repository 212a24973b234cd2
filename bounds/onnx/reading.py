"""An ONNX file as a graph that bounds take: every node in its order, by a table of operators."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bounds.circumstances import isolated
from bounds.errors import BoundsError, InvalidModel
from bounds.graph.captured import Graph, Port
from bounds.onnx.files import OnnxFile, read, weight_names
from bounds.onnx.nodes import OnnxNode
from bounds.onnx.operators.base import Operator
from bounds.onnx.operators.table import OPERATORS, WITH_INTEGERS
from bounds.onnx.program import OnnxNetwork, Recording
from bounds.onnx.recording import Recorder
from bounds.onnx.values import Value, compact, constant, repeated

if TYPE_CHECKING:
    from onnx import ModelProto

aten = torch.ops.aten


@isolated
def from_onnx(source: "str | Path | bytes | ModelProto", *, operators: Mapping[str, Operator] = OPERATORS) -> Graph:
    """The network of an ONNX file, for any number of inputs at once.

    The graph computes the answer for each input by itself, as the file does at batch size 1: no input can change the
    answer for another. Its outputs are flat, (N, K). Every bound takes it like a captured network, without
    ``torch.export``; ``graph.module()`` is the same network as a module, for attacks and certificates.

    The first dimension of an input is that of the batch where the file leaves its size open or says 1, and there are
    others. Where there are several inputs, the graph takes them flat and one after another, (N, total), and
    likewise returns several outputs: ``graph.inputs`` and ``graph.outputs`` say which entries are whose.

    Args:
        source: path of the file, its bytes, or a model of the package ``onnx``.
        operators: what is known of each operator, :data:`bounds.onnx.operators.table.OPERATORS` or a copy with more.

    Raises:
        UnsupportedLayer: an operator, or an attribute of it, that is not known, with the node and the opset.
        InvalidModel: no ONNX file, a damaged one, weights that are not finite, a file of weights elsewhere; or the
            package ``onnx`` is missing.
    """
    file = read(source)
    with torch.no_grad(), torch.device("cpu"):
        recorder = Recorder(rewrites=False)
        names = weight_names(file)
        values = {
            name: constant(recorder.weight(names[name], tensor) if tensor.is_floating_point() else tensor)
            for name, tensor in file.weights.items()
        }
        inputs, dtype = _ports(file)
        shape = (compact(inputs[0].shape) or (1,)) if len(inputs) == 1 else (inputs[-1].end,)
        x = recorder.input(shape, dtype)
        values |= _given(x, inputs)
        for node in file.nodes:
            recorder.origin = f'File "{node.file}", operator {node.operator}, node {node.name!r}'
            made = zip(node.outputs, _evaluated(node, values, operators), strict=False)
            values |= {name: value for name, value in made if value is not None}
        recorder.origin = f'File "{file.name}", its outputs'
        outputs = {name: values[name] for name in file.outputs}
        empty = [name for name, value in outputs.items() if 0 in value.shape]
        if empty:
            raise InvalidModel(
                f"ONNX file {file.name}: its output {empty[0]!r} has no entries, shape {values[empty[0]].shape}"
            )
        recorder.end(_flat(list(outputs.values()), x))
        sizes = [(name, value.shape) for name, value in outputs.items()]
        return OnnxNetwork(Recording(recorder.graph, recorder.stored, inputs, _in_a_row(sizes))).graph


def _in_a_row(sizes: Sequence[tuple[str, tuple[int, ...]]]) -> tuple[Port, ...]:
    """Inputs or outputs of given shapes, one after another."""
    ends = list(accumulate((math.prod(shape) for _, shape in sizes), initial=0))
    return tuple(Port(name, shape, *ends[i : i + 2]) for i, (name, shape) in enumerate(sizes))


def _ports(file: OnnxFile) -> tuple[tuple[Port, ...], torch.dtype]:
    """Inputs of the file at batch size 1, and the dtype of their numbers."""
    known = []
    for name, sizes, _ in file.inputs:
        shape = tuple(1 if size is None and i == 0 else size for i, size in enumerate(sizes))
        if None in shape:
            raise InvalidModel(
                f"ONNX file {file.name}: its input {name!r} leaves a dimension open that is not that of the batch: "
                f"export it with fixed sizes, got {tuple('?' if size is None else size for size in sizes)}"
            )
        known.append((name, tuple(int(size) for size in shape if size is not None)))
    if not known:
        raise InvalidModel(f"ONNX file {file.name} has no input")
    dtypes = {dtype for *_, dtype in file.inputs}
    if len(dtypes) > 1:
        raise InvalidModel(f"ONNX file {file.name}: its inputs are of different types, {sorted(map(str, dtypes))}")
    return _in_a_row(known), dtypes.pop()


def _given(x: Any, inputs: Sequence[Port]) -> dict[str, Value]:  # noqa: ANN401  # a stand-in
    """The inputs of the file as parts of that of the graph."""
    if len(inputs) == 1:
        return {inputs[0].name: Value(x, inputs[0].shape or (1,)).viewed(inputs[0].shape)}
    parts = {}
    for port in inputs:
        part = aten.slice.Tensor(x, 1, port.start, port.end)
        parts[port.name] = Value(part, (1, port.end - port.start)).viewed(port.shape)
    return parts


def _evaluated(
    node: OnnxNode, values: Mapping[str, Value], operators: Mapping[str, Operator]
) -> tuple[Value | None, ...]:
    """The outputs of a node."""
    operator = None if node.domain else operators.get(node.operator)
    if operator is None:
        raise node.refused("has no counterpart here: write the network without it, or pass operators= with one more")
    unknown = sorted(node.attributes.keys() - operator.attributes)
    if unknown:
        raise node.refused(f"has the attribute {unknown[0]!r}, which is not known")
    given = [values[name] if name else None for name in node.inputs]
    whole = any(value is not None and value.whole for value in given)
    if whole and node.operator not in WITH_INTEGERS:
        raise node.refused("takes integers that are computed from the input")
    try:
        found = operator.make(node, *given)
    except BoundsError:
        raise
    except Exception as error:  # of torch, which does not accept these shapes or types, in many ways
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        shapes = ", ".join(str(value.shape) for value in given if value is not None)
        raise InvalidModel(f"{node} does not accept inputs of shape {shapes}: {reason}") from error
    outputs = found if isinstance(found, tuple) else (found,)
    if any(node.used[len(outputs) :]):
        raise node.refused(f"has more outputs in use than the {len(outputs)} that are known")
    if whole and node.operator != "Cast":
        outputs = tuple(
            replace(value, whole=True) if value is not None and value.is_data and not value.is_condition else value
            for value in outputs
        )
    return outputs


def _flat(values: Sequence[Value], x: Any) -> Any:  # noqa: ANN401  # a stand-in
    """Outputs (N, K), one after another; those that no input moves are repeated for each."""
    if not any(value.is_data for value in values):
        nothing = aten.mul.Tensor(aten.slice.Tensor(aten.flatten.using_ints(x, 1), 1, 0, 1), 0.0)
        parts = [aten.add.Tensor(nothing, value.numbers().flatten().to(x.dtype)) for value in values]
    else:
        parts = [
            value.viewed((1, math.prod(value.shape))).tensor
            if value.is_data
            else repeated(value.numbers().flatten().to(x.dtype), x)
            for value in values
        ]
    parts = [aten._to_copy.default(part, dtype=x.dtype) if part.dtype == torch.bool else part for part in parts]
    return parts[0] if len(parts) == 1 else aten.cat.default(parts, 1)
