"""Operators of ONNX that move numbers, run on their places; and what depends on no input."""

from typing import Any

import numpy as np

from certify.proofs.networks.maps import Index, Map, Selection
from certify.proofs.networks.networks import Builder, Data, Operation

UNBOUNDED = (2**31 - 1, 2**63 - 1)  # ends of slices that stand for all that is left
# What moves numbers and does nothing else, and which of its inputs are the numbers; of Concat all are.
MOVING = {
    "Concat": -1, "DepthToSpace": 1, "Expand": 1, "Flatten": 1, "Gather": 1, "GatherElements": 1, "GatherND": 1,
    "Pad": 1, "Reshape": 1, "Slice": 1, "SpaceToDepth": 1, "Split": 1, "Squeeze": 1, "Tile": 1, "Transpose": 1,
    "Unsqueeze": 1,
}  # fmt: skip


def _run(operation: Operation, arrays: "list[np.ndarray[Any, Any] | None]", **changed: Any) -> Any:  # noqa: ANN401
    """The outputs of one node by the reference implementation."""
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    proto = type(operation.proto)()
    proto.CopyFrom(operation.proto)
    for attribute in list(proto.attribute):
        if attribute.name in changed:
            proto.attribute.remove(attribute)
    proto.attribute.extend(helper.make_attribute(name, value) for name, value in changed.items())
    names = [f"input_{place}" if value is not None else "" for place, value in enumerate(arrays)]
    del proto.input[:]
    proto.input.extend(names)
    given = {name: value for name, value in zip(names, arrays, strict=True) if name}
    infos = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in given]
    outputs = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in proto.output]
    graph = helper.make_graph([proto], "one", infos, outputs)
    opsets = [helper.make_opsetid("", operation.opset)]
    try:
        return ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run(None, given)
    except Exception as error:  # of many kinds
        raise operation.refused(f"cannot be evaluated: {' '.join(str(error).split())[:100]}") from error


def constant_of(operation: Operation) -> Any:  # noqa: ANN401  # arrays
    """The outputs of a node that do not depend on the numbers of the input."""
    first = operation.input(0)
    if isinstance(first, Data):
        if operation.proto.op_type == "Size":
            return [np.array(int(np.prod(first.shape)))]
        start, end = operation.attributes.get("start", 0), operation.attributes.get("end")
        return [np.array(first.shape, dtype=np.int64)[start:end]]
    return [np.asarray(each) for each in _run(operation, operation.inputs)]  # type: ignore[arg-type]  # no data here


def moved(operation: Operation, builder: Builder) -> list[Data]:
    """The outputs of a node that moves numbers: it is run on their places."""
    kind = operation.proto.op_type
    if kind not in MOVING:
        raise operation.refused()
    if kind == "Slice":
        _require_plain_ends(operation)
    moving = len(operation.inputs) if MOVING[kind] < 0 else MOVING[kind]
    arrays: list[Any] = []
    sources: list[Any] = []
    total = 0
    for place, value in enumerate(operation.inputs):
        if place >= moving:
            arrays.append(operation.constant(place))
            continue
        shape = value.shape if value is not None else ()
        size = int(np.prod(shape, dtype=np.int64))
        arrays.append(np.arange(total, total + size).reshape(shape))
        sources.append((value, total, size))
        total += size
    changed: dict[str, Any] = {}
    filling = 0.0
    if kind == "Pad":
        arrays, changed, filling = _padding(operation, arrays)
    return [collected(operation, builder, sources, np.asarray(each, np.int64), filling)
            for each in _run(operation, arrays, **changed)]  # fmt: skip


def _require_plain_ends(operation: Operation) -> None:
    """Refuse slices that go back from or to places outside, of which runtimes and the reference differ."""
    sizes, steps = operation.data(0).shape, operation.constant(4)
    if steps is None:
        return
    starts, ends, axes = (operation.constant(place) for place in (1, 2, 3))
    axes = np.arange(np.size(steps)) if axes is None else axes
    for start, end, axis, step in zip(
        *(each.reshape(-1).tolist() for each in (starts, ends, axes, steps)), strict=True
    ):
        if step < 0 and (start < -sizes[axis] or end in UNBOUNDED):
            raise operation.refused(f"goes back from {start} to {end}, which runtimes read in different ways")


def _padding(operation: Operation, arrays: list[Any]) -> tuple[list[Any], dict[str, Any], float]:
    """Inputs and attributes that pad by the place -1, and the number that it stands for."""
    if operation.opset < 11:
        return arrays, {"value": -1.0}, float(operation.attributes.get("value", 0.0))
    value = operation.constant(2)
    arrays = [*arrays[:2], np.array(-1), *arrays[3:]]
    return arrays, {}, 0.0 if value is None else float(np.asarray(value).reshape(-1)[0])


def collected(operation: Operation, builder: Builder, sources: list[Any], index: Index, filling: float) -> Data:
    """A node of numbers at places of several sources, some of them constants."""
    parts: list[tuple[Data, Map]] = []
    offset = np.where(index < 0, filling, 0.0)
    for value, start, size in sources:
        own = (index >= start) & (index < start + size)
        if isinstance(value, Data):
            parts.append((value, Selection(np.where(own, index - start, -1).reshape(-1), size)))
        elif value is not None:
            offset[own] = np.asarray(value, np.float64).reshape(-1)[index[own] - start]
    return builder.affine(operation.name, parts, index.shape, offset)
