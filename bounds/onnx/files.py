"""ONNX files: read, checked, and taken apart into plain Python and tensors."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bounds.errors import InvalidModel
from bounds.onnx.nodes import OnnxNode

if TYPE_CHECKING:
    from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

STANDARD = ("", "ai.onnx")  # names of the domain of ONNX itself
OLDEST_OPSET = 7  # before that, operators broadcast by attributes, and dropout draws unless it is told not to
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """The contents of an ONNX file.

    Attributes:
        name: of the file, for messages.
        inputs: names, shapes and dtypes of what is to be given; None where a size is left open.
        outputs: names.
        weights: tensors stored in the file.
        nodes: in the order of evaluation.
    """

    name: str
    inputs: tuple[tuple[str, tuple[int | None, ...], torch.dtype], ...]
    outputs: tuple[str, ...]
    weights: Mapping[str, Tensor]
    nodes: tuple[OnnxNode, ...]


def read(source: "str | Path | bytes | ModelProto") -> OnnxFile:
    """The contents of a file, of its bytes, or of a model that the package ``onnx`` made.

    Raises:
        InvalidModel: the package is missing, or the file cannot be read.
    """
    onnx = _package()
    name, folder = "<bytes>", None
    if isinstance(source, onnx.ModelProto):
        model, name = source, source.graph.name or "<model>"
    else:
        if not isinstance(source, bytes):
            path = Path(source)
            name, folder = str(source), path.resolve().parent
            try:
                source = path.read_bytes()
            except OSError as error:
                raise InvalidModel(f"ONNX file {name} cannot be read: {error.strerror}") from error
        try:
            model = onnx.load_model_from_string(source)
        except Exception as error:  # of protobuf, which has many
            raise InvalidModel(f"ONNX file {name} is damaged, or no ONNX file at all") from error
    if not model.graph.node or not model.graph.output:
        raise InvalidModel(f"ONNX file {name} holds no network: it is damaged, or no ONNX file at all")
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    return _taken_apart(model, name, folder)


def _package() -> Any:  # noqa: ANN401  # a module
    try:
        import onnx
        import onnx.inliner
    except ImportError as error:
        raise InvalidModel(
            'ONNX files need the package onnx, which is not installed: pip install "certify-bounds[onnx]"'
        ) from error
    return onnx


def _taken_apart(model: "ModelProto", name: str, folder: Path | None) -> OnnxFile:
    graph = model.graph
    opsets = [entry.version for entry in model.opset_import if entry.domain in STANDARD]
    opset = int(opsets[0]) if opsets else 1
    if opset < OLDEST_OPSET:
        raise InvalidModel(f"ONNX file {name} uses opset {opset}, the oldest that is read is {OLDEST_OPSET}")
    if len(graph.sparse_initializer):
        raise InvalidModel(f"ONNX file {name} holds sparse weights, which are not read: store them as dense ones")
    weights = {part.name: _weight(part, name, folder) for part in graph.initializer}
    inputs = tuple(_declared(part, name) for part in graph.input if part.name not in weights)
    outputs = tuple(part.name for part in graph.output)
    used = {each for node in graph.node for each in node.input} | set(outputs)
    nodes = tuple(_node(node, opset, name, folder, used) for node in graph.node)
    nodes = _in_order(nodes, {*weights, *(entry[0] for entry in inputs)}, outputs, name)
    return OnnxFile(name, inputs, outputs, weights, nodes)


def _in_order(nodes: Sequence[OnnxNode], given: set[str], outputs: tuple[str, ...], name: str) -> tuple[OnnxNode, ...]:
    """The nodes, each behind those that make what it takes; some tools write them in another order."""
    makers = {each: node for node in nodes for each in node.outputs if each}
    missing = [(node, each) for node in nodes for each in node.inputs if each and each not in {*given, *makers}]
    if missing:
        raise InvalidModel(f"{missing[0][0]} takes {missing[0][1]!r}, which nothing makes")
    missing_outputs = [each for each in outputs if each not in {*given, *makers}]
    if missing_outputs:
        raise InvalidModel(f"ONNX file {name}: nothing makes its output {missing_outputs[0]!r}")
    before = {node: {makers[each] for each in node.inputs if each in makers} for node in nodes}
    try:
        return tuple(TopologicalSorter(before).static_order())
    except CycleError as error:
        raise InvalidModel(f"ONNX file {name}: {error.args[1][0]} depends on its own outputs") from error


def _declared(part: "ValueInfoProto", name: str) -> tuple[str, tuple[int | None, ...], torch.dtype]:
    """Name, shape and dtype of an input."""
    kind = part.type.tensor_type
    if not part.type.HasField("tensor_type") or not kind.HasField("shape"):
        raise InvalidModel(f"ONNX file {name}: the shape of its input {part.name!r} is not stated")
    sizes = tuple(size.dim_value if size.HasField("dim_value") else None for size in kind.shape.dim)
    dtype = torch_dtype(kind.elem_type)
    if dtype not in FLOATS:
        raise InvalidModel(f"ONNX file {name}: its input {part.name!r} must be real numbers, got {dtype}")
    return part.name, tuple(None if size is not None and size <= 0 else size for size in sizes), dtype


def torch_dtype(code: int) -> torch.dtype | None:
    """The dtype of torch for a number of ONNX, None where there is none."""
    from onnx import TensorProto

    names = {"FLOAT": "float32", "DOUBLE": "float64"}
    try:
        name = TensorProto.DataType.Name(code)
    except ValueError:
        return None
    found = getattr(torch, names.get(name, name.lower()), None)
    return found if isinstance(found, torch.dtype) else None


def _node(node: "NodeProto", opset: int, file: str, folder: Path | None, used: set[str]) -> OnnxNode:
    outputs = tuple(node.output)
    domain = "" if node.domain in STANDARD else node.domain
    attributes = {part.name: _attribute(part, file, folder) for part in node.attribute}
    label = node.name or next((each for each in outputs if each), "")
    told = tuple(each in used for each in outputs)
    return OnnxNode(node.op_type, label, opset, attributes, tuple(node.input), outputs, file, told, domain)


def _attribute(part: "AttributeProto", file: str, folder: Path | None) -> Any:  # noqa: ANN401  # of any type
    from onnx import helper

    if part.type == part.TENSOR:
        return _tensor(part.t, file, folder)
    if part.type in (part.GRAPH, part.GRAPHS, part.SPARSE_TENSOR, part.SPARSE_TENSORS):
        return None
    value = helper.get_attribute_value(part)
    return value.decode() if isinstance(value, bytes) else list(value) if part.type >= part.FLOATS else value


def _weight(part: "TensorProto", file: str, folder: Path | None) -> Tensor:
    found = _tensor(part, file, folder)
    if found.is_floating_point() and not found.isfinite().all():
        raise InvalidModel(f"ONNX file {file}: its weight {part.name!r} is not finite")
    return found


def _tensor(part: "TensorProto", file: str, folder: Path | None) -> Tensor:
    """A stored tensor, with data of another file where it has some."""
    from onnx import TensorProto, numpy_helper

    label = f"ONNX file {file}: the tensor {part.name!r}"
    dtype = torch_dtype(part.data_type)
    if dtype is None:
        raise InvalidModel(f"{label} is of a type that torch does not have")
    if part.data_location == TensorProto.EXTERNAL:
        copied = TensorProto()
        copied.CopyFrom(part)
        copied.raw_data = _external(part, label, folder, math.prod(part.dims) * dtype.itemsize)
        copied.data_location = TensorProto.DEFAULT
        del copied.external_data[:]
        part = copied
    try:
        array = np.array(numpy_helper.to_array(part))
        if array.dtype.name == "bfloat16":
            return torch.from_numpy(array.astype(np.float32)).bfloat16()
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    except Exception as error:  # a damaged tensor fails in many ways
        raise InvalidModel(f"{label} cannot be read: its data do not fit its shape {tuple(part.dims)}") from error


def _external(part: "TensorProto", label: str, folder: Path | None, size: int) -> bytes:
    """The bytes of a tensor that is stored in another file, which must lie in the folder of the model."""
    entries = {entry.key: entry.value for entry in part.external_data}
    if folder is None:
        raise InvalidModel(f"{label} is stored in another file: pass the path of the model")
    path = (folder / entries.get("location", "")).resolve()
    if not path.is_relative_to(folder) or not path.is_file():
        raise InvalidModel(f"{label} is stored in {entries.get('location')!r}, which is no file in the model's folder")
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
    except ValueError as error:
        raise InvalidModel(f"{label} has an offset or a length that is no number") from error
    if offset < 0 or length != size or offset + length > path.stat().st_size:
        raise InvalidModel(f"{label} needs {size} bytes, which {path.name} does not hold at offset {offset}")
    with path.open("rb") as opened:
        opened.seek(offset)
        data: bytes = opened.read(length)
    return data


def weight_names(file: OnnxFile) -> dict[str, str]:
    """Names for the weights of a file that fit a module, each once; the prefix keeps them apart from its own."""
    names: dict[str, str] = {}
    for name in file.weights:
        plain = "onnx_" + re.sub(r"\W", "_", name, flags=re.ASCII)
        count = sum(other == plain or other.startswith(f"{plain}__") for other in names.values())
        names[name] = f"{plain}__{count}" if count else plain
    return names
