"""Declared variables and their places, in versions 1.0 and 2.0 of VNN-LIB."""

import re
from collections.abc import Iterable

from bounds.errors import InvalidProperty
from bounds.vnnlib.expressions import Form
from bounds.vnnlib.records import Variable

MOST_ENTRIES = 2**24  # of all inputs and outputs: more than any network that could be searched
NAME = re.compile(r"[A-Za-z][\w-]*", re.ASCII)
NUMBERED = re.compile(r"([XY])_(0|[1-9]\d{0,8})", re.ASCII)
SHAPED = re.compile(r"([^\[\]]+)\[((?:\d{1,9}(?:,\d{1,9})*)?)\]", re.ASCII)
ELEMENTS = re.compile(r"[Rr]eal|(?:b?float|u?int)\d\w*")
DECLARING = {"declare-const", "declare-fun", "declare-network"}


class Tensors:
    """The input and output tensors, of which the entries of all inputs, then of all outputs, are counted in order.

    Args:
        inputs: in the order of the network.
        outputs: likewise.
        numbered: whether entries are written as in version 1.0, X_3 and not X[3].
        hidden: names of tensors within the network, which no assertion may use.

    Raises:
        InvalidProperty: no input, no output, or more entries than can be held.
    """

    def __init__(
        self, inputs: Iterable[Variable], outputs: Iterable[Variable], *, numbered: bool, hidden: Iterable[str] = ()
    ) -> None:
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        for kind, some in (("input", self.inputs), ("output", self.outputs)):
            if sum(each.size for each in some) == 0:
                raise InvalidProperty(f"no {kind} is declared, so there is nothing to bound: declare at least one")
        self._variables = {each.name: each for each in (*self.inputs, *self.outputs)}
        self._starts: dict[str, int] = {}
        count = 0
        for each in self._variables.values():
            self._starts[each.name] = count
            count += each.size
        if count > MOST_ENTRIES:
            raise InvalidProperty(f"{count} entries are declared, more than the {MOST_ENTRIES} that can be held")
        self._numbered, self._hidden = numbered, frozenset(hidden)
        self._places = {self.name_of(place): place for place in range(count)} if numbered else {}

    def place_of(self, word: str) -> int | None:
        """The place of an entry, None for what is no variable.

        Raises:
            InvalidProperty: an index that does not fit the shape, a hidden node.
        """
        place = self._places.get(word)
        if place is None and not self._numbered:
            name = word.partition("[")[0]
            if name in self._hidden:
                raise InvalidProperty(f"{name} is a hidden node, which cannot be represented")
            if name in self._variables:
                place = self._places[word] = self._starts[name] + self._offset(word, self._variables[name])
        return place

    def name_of(self, place: int) -> str:
        """The name of an entry, as it is written, by its place."""
        name = next(name for name, start in reversed(self._starts.items()) if start <= place)
        offset = place - self._starts[name]
        if self._numbered:
            return f"{name}_{offset}"
        indices: list[str] = []
        for size in reversed(self._variables[name].shape):
            offset, index = divmod(offset, size)
            indices.insert(0, str(index))
        return f"{name}[{','.join(indices)}]" if indices else name

    def _offset(self, word: str, variable: Variable) -> int:
        """The place of an entry within its tensor."""
        found = SHAPED.fullmatch(word)
        indices = [int(index) for index in found[2].split(",") if index] if found else []
        if len(indices) != len(variable.shape) or any(
            index >= size for index, size in zip(indices, variable.shape, strict=True)
        ):
            shape = ",".join(map(str, variable.shape))
            raise InvalidProperty(f"{word} is no entry of {variable.name}, which has the shape [{shape}]")
        offset = 0
        for index, size in zip(indices, variable.shape, strict=True):
            offset = offset * size + index
        return offset


def declared(forms: list[Form]) -> Tensors:
    """The tensors that these declarations declare.

    Raises:
        InvalidProperty: versions mixed, several networks, names that are declared twice or left out.
    """
    networks = [form for form in forms if form.head == "declare-network"]
    others = [form for form in forms if form.head != "declare-network"]
    if not networks:
        return _of_version_1(others)
    if others:
        raise others[0].refusal(f"{others[0].head} is of version 1.0, and declare-network of 2.0: use one of them")
    if len(networks) > 1:
        raise networks[1].refusal("several networks cannot be represented: relate no more than one network")
    return _of_version_2(networks[0])


def _of_version_1(forms: list[Form]) -> Tensors:
    lines: dict[str, dict[int, Form]] = {"X": {}, "Y": {}}
    for form in forms:
        sort = {"declare-const": form[2:], "declare-fun": form[3:] if form[2:3] == [[]] else []}[form.head]
        if len(form) < 3 or not isinstance(form[1], str) or sort not in (["Real"], ["real"]):
            raise form.refusal("expected (declare-const X_0 Real)")
        name = NUMBERED.fullmatch(form[1])
        if name is None:
            raise form.refusal(f"{form[1]!r} is no input or output: inputs are X_0, X_1, ..., outputs Y_0, Y_1, ...")
        if int(name[2]) in lines[name[1]]:
            raise form.refusal(f"{form[1]} is declared a second time: remove one declaration")
        lines[name[1]][int(name[2])] = form
    for letter, found in lines.items():
        gap = next((index for index in range(len(found)) if index not in found), None)
        if gap is not None:
            last = found[max(found)]
            raise last.refusal(f"{letter}_{max(found)} is declared, but {letter}_{gap} is not: number from 0 upward")
    inputs, outputs = ([Variable(letter, "Real", (len(found),))] for letter, found in lines.items())
    return Tensors(inputs, outputs, numbered=True)


def _of_version_2(network: Form) -> Tensors:
    name = network[1] if len(network) > 1 else None
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        raise network.refusal("expected (declare-network name (declare-input ...) (declare-output ...))")
    tensors: dict[str, list[Variable]] = {"declare-input": [], "declare-hidden": [], "declare-output": []}
    names = {name}
    for part in network[2:]:
        if not isinstance(part, Form):
            raise network.refusal(f"expected declarations of inputs and outputs in a network, got {part}")
        if part.head not in tensors:
            raise part.refusal("expected declare-input or declare-output, of one network that is related to no other")
        variable = _tensor(part)
        if variable.name in names:
            raise part.refusal(f"{variable.name} is declared a second time: choose another name")
        names.add(variable.name)
        tensors[part.head].append(variable)
    inputs, hidden, outputs = tensors.values()
    return Tensors(inputs, outputs, numbered=False, hidden=[each.name for each in hidden])


def _tensor(form: Form) -> Variable:
    """The variable of ``(declare-input X Real [1,5])``; the name of an ONNX node behind the shape is not needed."""
    words = [word for word in form[1:] if isinstance(word, str) and not word.startswith('"')]
    if "initialized" in words[2:]:
        raise form.refusal("an input with the value of an initializer cannot be represented: bound it by assertions")
    shaped = SHAPED.fullmatch(words[1]) if len(words) == 2 else None
    if shaped is None or NAME.fullmatch(words[0]) is None or any(isinstance(part, Form) for part in form):
        raise form.refusal(f"expected ({form.head} name type [sizes]), such as ({form.head} X Real [1,5])")
    if ELEMENTS.fullmatch(shaped[1]) is None:
        raise form.refusal(f"entries of type {shaped[1]} cannot be represented: use Real, a float or an integer type")
    return Variable(words[0], shaped[1], tuple(int(size) for size in shaped[2].split(",") if size))
