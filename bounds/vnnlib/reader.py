"""VNN-LIB files, versions 1.0 and 2.0."""

import os
import re

from bounds.errors import InvalidProperty
from bounds.vnnlib.combinations import Expansion
from bounds.vnnlib.declarations import DECLARING, declared
from bounds.vnnlib.expressions import Form, parsed
from bounds.vnnlib.formulas import clauses
from bounds.vnnlib.normal_form import boxes
from bounds.vnnlib.property import Property
from bounds.vnnlib.source import named_text

IGNORED = {"check-sat", "get-model", "set-logic", "set-info", "set-option", "exit"}
VERSION = re.compile(r"<[12]\.\d+>", re.ASCII)


def read_vnnlib(path_or_text: str | os.PathLike[str]) -> Property:
    r"""The property that a VNN-LIB file or text of version 1.0 or 2.0 states.

    A file says which inputs, with their outputs, are **unsafe**: those that meet all of its assertions. An assertion is
    made of ``and``, ``or``, ``not``, ``=>`` and of comparisons of linear terms, nested as deep as may be.

    Numbers are read exactly, and terms are added up exactly. Only then each number becomes the nearest float64 number
    and, for bounds of inputs and for offsets, also the next one outside, see :class:`bounds.Property`.

    Disjunctions are multiplied out, and combinations that contradict themselves are dropped on the way. A property with
    more than 262,144 combinations is refused. Where none is left, the property has no box: no input is unsafe.

    Args:
        path_or_text: a path, also of a file compressed by gzip; or the text, a string that begins with ``(`` or ``;``
            or has several lines.

    Returns:
        The property.

    Raises:
        InvalidProperty: a file that cannot be read, a text that is not well formed, an input without bounds, no output;
            or what cannot be represented: products of variables, hidden nodes, several networks. The message is one
            line that names the line of the text and what stands there.

    Example:
        >>> import bounds
        >>> text = "(declare-const X_0 Real) (declare-const Y_0 Real)"
        >>> text += "(assert (<= 0 X_0 1)) (assert (>= Y_0 0.5))"
        >>> bounds.read_vnnlib(text).boxes[0].upper
        tensor([1.], dtype=torch.float64)

    References:
        Demarchi, Guidotti, Pulina, Tacchella (2023), Supporting Standardization of Neural Networks Verification with
        VNNLIB and CoCoNet; the VNN-LIB standard 2.0, https://www.vnnlib.org.
    """
    name, text = named_text(path_or_text)
    try:
        return _property(parsed(text))
    except InvalidProperty as error:
        raise InvalidProperty(f"{name}: {error}") from None


def _property(forms: list[Form]) -> Property:
    if not forms:
        raise InvalidProperty("no declaration and no assertion is there: pass a VNN-LIB text")
    declarations, assertions = [], []
    for form in forms:
        if form.head in DECLARING:
            declarations.append(form)
        elif form.head == "assert":
            assertions.append(form)
        elif form.head == "vnnlib-version":
            if len(form) != 2 or not isinstance(form[1], str) or VERSION.fullmatch(form[1]) is None:
                raise form.refusal("this version is not known: versions <1.0> and <2.0> are read")
        elif form.head not in IGNORED:
            raise form.refusal(f"the command {form.head!r} is not known: declare variables, and assert")
    tensors = declared(declarations)
    inputs, outputs = (sum(each.size for each in some) for some in (tensors.inputs, tensors.outputs))
    expansion = Expansion(inputs)
    for form in assertions:
        if len(form) != 2:
            raise form.refusal("'assert' takes one formula")
        for cases in clauses(form[1], form, tensors.place_of):
            expansion.demand(form, cases)
    found = boxes(expansion.base, expansion.combinations(), inputs, outputs, tensors.name_of)
    return Property(inputs=tensors.inputs, outputs=tensors.outputs, boxes=found)
