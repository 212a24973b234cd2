"""All operators of ONNX that are known here; a caller may extend a copy."""

from collections.abc import Mapping

from bounds.onnx.operators.base import Operator
from bounds.onnx.operators.conditions import CONDITIONS
from bounds.onnx.operators.elementwise import ELEMENTWISE
from bounds.onnx.operators.entries import ENTRIES
from bounds.onnx.operators.linear import LINEAR
from bounds.onnx.operators.normalisation import NORMALISATION
from bounds.onnx.operators.pooling import POOLING
from bounds.onnx.operators.reductions import REDUCTIONS
from bounds.onnx.operators.resizing import RESIZING
from bounds.onnx.operators.shapes import SHAPES

OPERATORS: Mapping[str, Operator] = {
    **CONDITIONS,
    **ELEMENTWISE,
    **ENTRIES,
    **LINEAR,
    **NORMALISATION,
    **POOLING,
    **REDUCTIONS,
    **RESIZING,
    **SHAPES,
}
# Of these, the results for integers are those for real numbers.
WITH_INTEGERS = {
    *("Abs", "Add", "Cast", "Concat", "Equal", "Expand", "Flatten", "Gather", "Greater", "GreaterOrEqual", "Identity"),
    *(
        "Less",
        "LessOrEqual",
        "Max",
        "Min",
        "Mul",
        "Neg",
        "Relu",
        "Reshape",
        "Shape",
        "Slice",
        "Split",
        "Squeeze",
        "Sub",
    ),
    *("Tile", "Transpose", "Unsqueeze", "Where"),
}
