"""ONNX files, read for the checker.

What only moves numbers (reshaping, slicing, concatenation, padding and the like) is run on the places of its inputs by
the reference implementation in the package ``onnx``, and so becomes a selection. What depends on no input is computed
by the reference implementation in the types of the file, as a runtime does when it loads the file.
"""

import gzip
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np

from certify.proofs.errors import Unreadable
from certify.proofs.networks.maps import Map, identity, places
from certify.proofs.networks.moving import constant_of, moved
from certify.proofs.networks.networks import Builder, Data, Network, Operation
from certify.proofs.networks.operators import OPERATORS

GZIP = b"\x1f\x8b"
STANDARD = ("", "ai.onnx")
OLDEST_OPSET = 7  # before that, operators broadcast by attributes
REAL = {"float16", "bfloat16", "float32", "float64"}


def read_network(content: bytes) -> Network:
    """The network of the bytes of an ONNX file, which gzip may have compressed.

    Raises:
        Unreadable: damaged, or with an operator that is not known here; the message names it.
    """
    model = loaded(content)
    import onnx

    opset = next((int(each.version) for each in model.opset_import if each.domain in STANDARD), 1)
    if opset < OLDEST_OPSET:
        raise Unreadable(f"the network uses opset {opset}, the oldest that proofs know is {OLDEST_OPSET}")
    values, builder = _inputs(model)
    for proto in _in_order(model):
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in proto.attribute}
        missing = [each for each in proto.input if each and each not in values]
        operation = Operation(proto, [values.get(each) if each else None for each in proto.input], attributes, opset)
        if proto.domain not in STANDARD or missing:
            raise operation.refused("takes what no node before it makes" if missing else "is of another domain")
        if not any(isinstance(each, Data) for each in operation.inputs) or proto.op_type in ("Shape", "Size"):
            found = constant_of(operation)
        else:
            try:
                found = OPERATORS.get(proto.op_type, moved)(operation, builder)
            except (ValueError, IndexError, TypeError) as error:
                if isinstance(error, Unreadable):
                    raise
                raise operation.refused(f"does not fit its inputs: {' '.join(str(error).split())}") from error
        values.update(zip(proto.output, found if isinstance(found, list) else [found], strict=False))
    _outputs(model, values, builder)
    return Network(tuple(builder.nodes))


def _in_order(model: Any) -> list[Any]:  # noqa: ANN401  # a model, and its nodes
    """The nodes, each behind those that make what it takes; some tools write them in another order."""
    nodes = list(model.graph.node)
    makers = {name: place for place, node in enumerate(nodes) for name in node.output}
    before = {place: {makers[name] for name in node.input if name in makers} for place, node in enumerate(nodes)}
    try:
        return [nodes[place] for place in TopologicalSorter(before).static_order()]
    except CycleError as error:
        raise Unreadable("the network has a node that depends on its own outputs") from error


def loaded(content: bytes) -> Any:  # noqa: ANN401  # a model of the package onnx
    """The model in the bytes of a file."""
    try:
        import onnx
    except ImportError as error:
        raise Unreadable('proofs need the package onnx: pip install "certify-bounds[onnx]"') from error
    try:
        model = onnx.load_model_from_string(gzip.decompress(content) if content[:2] == GZIP else content)
    except Exception as error:  # of protobuf and gzip, which have many
        raise Unreadable("the network is no ONNX file, or a damaged one") from error
    if not model.graph.node or not model.graph.output:
        raise Unreadable("the network is no ONNX file, or a damaged one")
    if model.functions:
        raise Unreadable("the network has functions of its own, which proofs do not know")
    if any(each.data_location == onnx.TensorProto.EXTERNAL for each in model.graph.initializer):
        raise Unreadable("the network has weights in another file, which proofs do not know")
    return model


def input_shapes(model: Any) -> dict[str, tuple[int, ...]]:  # noqa: ANN401  # a model
    """The shapes of the inputs, with 1 where a size in front is left open."""
    weights = {each.name for each in model.graph.initializer}
    found = {}
    for each in model.graph.input:
        if each.name in weights:
            continue
        sizes = [size.dim_value if size.HasField("dim_value") else 0 for size in each.type.tensor_type.shape.dim]
        if any(size <= 0 for size in sizes[1:]):
            raise Unreadable(f"the input {each.name!r} has a shape {sizes} that is not stated")
        found[each.name] = tuple(max(size, 1) for size in sizes)
    return found


def float_type(model: Any) -> str:  # noqa: ANN401  # a model
    """The type of the numbers that the network takes, such as ``float32``."""
    from onnx import TensorProto

    names = {TensorProto.FLOAT: "float32", TensorProto.DOUBLE: "float64"}
    weights = {each.name for each in model.graph.initializer}
    kinds = {each.type.tensor_type.elem_type for each in model.graph.input if each.name not in weights}
    return ",".join(sorted(names.get(kind, TensorProto.DataType.Name(kind).lower()) for kind in kinds))


def _inputs(model: Any) -> tuple[dict[str, Any], Builder]:  # noqa: ANN401  # a model
    """The values before the first node: the weights, and the parts of the input."""
    from onnx import numpy_helper

    values: dict[str, Any] = {each.name: np.asarray(numpy_helper.to_array(each)) for each in model.graph.initializer}
    shapes, types = input_shapes(model), set(filter(None, float_type(model).split(",")))
    if not types <= REAL:
        raise Unreadable(f"the network takes {min(types - REAL)!r}, which are no real numbers")
    sizes = [int(np.prod(shape, dtype=np.int64)) for shape in shapes.values()]
    builder = Builder(sum(sizes), is_wide="float64" in types)
    start = 0
    for (name, shape), size in zip(shapes.items(), sizes, strict=True):
        values[name] = Data(0, shape)
        if len(shapes) > 1:
            values[name] = builder.selected(name, Data(0, (sum(sizes),)), np.arange(start, start + size).reshape(shape))
        start += size
    return values, builder


def _outputs(model: Any, values: dict[str, Any], builder: Builder) -> None:  # noqa: ANN401  # a model
    """The last node: all outputs, one after the other."""
    names = [each.name for each in model.graph.output]
    missing = [name for name in names if name not in values]
    if missing:
        raise Unreadable(f"nothing makes the output {missing[0]!r}")
    found = [values[name] for name in names]
    if len(found) == 1 and isinstance(found[0], Data):
        builder.mapped("output", found[0], identity(builder.nodes[found[0].node].size), found[0].shape)
        return
    sizes = [builder.nodes[each.node].size if isinstance(each, Data) else each.size for each in found]
    total, start, parts = sum(sizes), 0, list[tuple[Data, Map]]()
    offset = np.zeros(total)
    for each, size in zip(found, sizes, strict=True):
        if isinstance(each, Data):
            parts.append((each, places(size, start, total)))
        else:
            offset[start : start + size] = each.reshape(-1)
        start += size
    builder.affine("output", parts, (total,), offset)
