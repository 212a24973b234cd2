"""Assertions of VNN-LIB evaluated as they stand, without any normal form; and texts to evaluate."""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import reduce
from itertools import pairwise

import numpy as np
from torch import Tensor

Tree = str | list["Tree"]
Columns = dict[str, np.ndarray]

COMPARE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "<=": np.less_equal,
    ">=": np.greater_equal,
    "<": np.less,
    ">": np.greater,
    "=": np.equal,
    "==": np.equal,
    "!=": np.not_equal,
}
COMPUTE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
}


def assertions(text: str) -> list[Tree]:
    """The formulas, read by Python: parentheses become brackets, words become strings."""
    text = re.sub(r";.*", "", text)
    text = re.sub(r"[^\s()]+", lambda word: f"{word[0]!r},", text)
    trees = eval(f"[{text.replace('(', '[').replace(')', '],')}]")
    return [tree[1] for tree in trees if tree[0] == "assert"]


def holds(formulas: Sequence[Tree], x: Tensor, y: Tensor, *, exact: bool = False) -> np.ndarray:
    """Whether points (N, F) with outputs (N, K) meet all formulas, (N,); by fractions where sums have to be exact."""
    columns = {
        f"{letter}_{i}": side[:, i].double().numpy()
        for letter, side in (("X", x), ("Y", y))
        for i in range(side.shape[1])
    }
    if exact:
        columns = {name: np.array([Fraction(v) for v in column.tolist()], object) for name, column in columns.items()}
    number = (lambda word: Fraction(float(word))) if exact else float
    count = len(x)

    def value(tree: Tree) -> np.ndarray:
        if isinstance(tree, str):
            return columns[tree] if tree in columns else np.full(count, number(tree), object if exact else float)
        operands = [value(part) for part in tree[1:]]
        return -operands[0] if len(operands) == 1 and tree[0] == "-" else reduce(COMPUTE[tree[0]], operands)

    def truth(tree: Tree) -> np.ndarray:
        if isinstance(tree, str):
            return np.full(count, tree == "true")
        if tree[0] in COMPARE:
            sides = [value(part) for part in tree[1:]]
            return np.logical_and.reduce([COMPARE[tree[0]](*pair).astype(bool) for pair in pairwise(sides)])
        parts = [truth(part) for part in tree[1:]]
        if tree[0] == "not":
            return ~parts[0]
        if tree[0] == "=>":
            return np.logical_or.reduce([*(~part for part in parts[:-1]), parts[-1]])
        return {"and": np.logical_and, "or": np.logical_or}[tree[0]].reduce(parts)

    return np.logical_and.reduce([np.ones(count, bool), *(truth(formula) for formula in formulas)])


def stated(inputs: int, outputs: int, *formulas: str, box: tuple[float, float] | None = (-1, 1)) -> str:
    """A text of version 1.0 with a box around all inputs."""
    lines = [f"(declare-const X_{i} Real)" for i in range(inputs)]
    lines += [f"(declare-const Y_{i} Real)" for i in range(outputs)]
    if box is not None:
        lines += [f"(assert (<= {box[0]} X_{i} {box[1]}))" for i in range(inputs)]
    return "\n".join([*lines, *(f"(assert {formula})" for formula in formulas), ""])


def in_version_2(text: str, inputs: int, outputs: int) -> str:
    """The same text of version 1.0 as one of version 2.0, with tensors of one dimension."""
    text = re.sub(r"\(declare-const \S+ Real\)", "", text)
    text = re.sub(r"\b([XY])_(\d+)", r"\1[\2]", text)
    network = f"(declare-network f (declare-input X Real [{inputs}]) (declare-output Y Real [{outputs}]))"
    return f"(vnnlib-version <2.0>)\n{network}\n{text}"
