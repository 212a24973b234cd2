"""Programs that ``torch.export`` makes of a model, read node by node. Nothing of ``bounds`` is asked."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class ProgramReader(ABC):
    """Reads the program of a model in float64, for single inputs such as x, (1, *D).

    Heirs say what becomes of the input and of an operation on it. What depends on weights alone is computed as it is.

    Attributes:
        value: the class of what depends on the input.
        refusal: the error for a model that cannot be read.
        model: the copy in float64, which holds all weights of narrower types as they are.
        example: (1, *D).
    """

    value: ClassVar[type]
    refusal: ClassVar[type[Exception]]

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self.example = x[:1].detach().cpu().double()
        self.values: dict[str, Any] = {}
        try:
            self.model = deepcopy(model).cpu().double().eval().requires_grad_(False)
            self.program: Any = torch.export.export(self.model, (self.example,)).module()
        except Exception as error:  # of many kinds
            raise self.refusal(f"the model cannot be exported ({type(error).__name__})") from error

    @abstractmethod
    def input(self) -> Any:  # noqa: ANN401
        """The input as a value."""

    @abstractmethod
    def call(self, node: torch.fx.Node, name: str, arguments: Sequence[Any], settings: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """An operation on its arguments, at least one of which depends on the input."""

    def output(self) -> tuple[str, Any]:
        """Name and value of the output, behind all operations.

        Raises:
            refusal: the output does not depend on the input.
        """
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self.values[node.name] = self.input()
            elif node.op == "get_attr":
                found = self.program
                for part in node.target.split("."):
                    found = getattr(found, part)
                self.values[node.name] = found.detach()
            elif node.op == "call_function":
                self.values[node.name] = self._called(node)
            elif node.op == "output":
                (logits,) = leaves(self._of(node.args))
                if not isinstance(logits, self.value):
                    raise self.refusal("the output of the model does not depend on its input")
                return node.name, logits
        raise self.refusal("the model has no output")

    def _of(self, argument: Any) -> Any:  # noqa: ANN401
        if isinstance(argument, list | tuple):
            return [self._of(one) for one in argument]
        return self.values[argument.name] if isinstance(argument, torch.fx.Node) else argument

    def _called(self, node: torch.fx.Node) -> Any:  # noqa: ANN401
        name = str(node.target).removeprefix("aten.").split(".")[0].removesuffix("_")
        arguments, settings = self._of(node.args), {key: self._of(one) for key, one in node.kwargs.items()}
        if any(isinstance(one, self.value) for one in leaves([arguments, [*settings.values()]])):
            return self.call(node, name, arguments, settings)
        return node.target(*arguments, **settings) if callable(node.target) else None


def leaves(nested: Sequence[Any]) -> list[Any]:
    """All entries of lists in lists; a tuple is one entry."""
    return [leaf for each in nested for leaf in (leaves(each) if isinstance(each, list) else [each])]
