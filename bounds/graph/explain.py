"""Rules that bounds use for the operations of a network, and remedies for those that have none."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from bounds.circumstances import isolated
from bounds.errors import BoundsError, UnsupportedLayer
from bounds.graph.captured import Graph, Source
from bounds.graph.capturing import capture_any
from bounds.operations.affine import AFFINE, Affine, affine
from bounds.operations.functions import FUNCTIONS, Maker, function_of, remedy
from bounds.operations.node import Node


@dataclass(frozen=True)
class Operation:
    """One operation of a captured network.

    Attributes:
        name: of its node.
        operation: the ATen operation.
        rule: how it is bounded, ``""`` where it is not.
        shape: of its values for one input.
        origin: the line of source code that it comes from.
        remedy: what to do where there is no rule.
    """

    name: str
    operation: str
    rule: str
    shape: tuple[int, ...]
    origin: str
    remedy: str = ""


@dataclass(frozen=True)
class Explanation:
    """All operations of a network; printed, a line for each.

    Attributes:
        operations: in the order of evaluation.
        one_by_one: whether the network was captured for one input at a time.
    """

    operations: tuple[Operation, ...]
    one_by_one: bool

    @property
    def supported(self) -> bool:
        """Whether every operation has a rule."""
        return all(part.rule for part in self.operations)

    @property
    def missing(self) -> tuple[Operation, ...]:
        """Operations without a rule."""
        return tuple(part for part in self.operations if not part.rule)

    def __str__(self) -> str:
        width = max(len(part.operation) for part in self.operations)
        lines = []
        for part in self.operations:
            lines.append(f"{part.operation:<{width}}  {part.rule or 'NO RULE':<18}  {part.shape}  {part.origin}")
            if part.remedy:
                lines.append(f"{'':<{width}}  {part.remedy}")
        return "\n".join(lines)


@isolated
def explain(
    model: Source | Graph,
    x: Tensor,
    *,
    table: Mapping[str, Affine] = AFFINE,
    functions: Mapping[str, Maker] = FUNCTIONS,
) -> Explanation:
    """Every operation of a network with the rule that linear bounds and intervals of captured networks use for it.

    Where operations draw random numbers or mix inputs, these alone are listed: the network has no bounds.

    Args:
        model: any network that ``torch.export`` follows, or its captured graph.
        x: an input or several, (N, *D).
        table: affine operations.
        functions: makers of the functions of other operations.

    Raises:
        UnsupportedLayer: ``torch.export`` cannot follow the code.
    """
    graph = capture_any(model, x)
    refused = [Operation("", part.operation, "", (), part.origin, part.reason) for part in graph.refusals]
    if refused:  # of which there may be nothing to bind
        return Explanation(tuple(refused), graph.one_by_one)
    found = []
    for name, node in graph.bind(x[:1]).items():
        rule, advice = _rule_of(node, table, functions)
        found.append(Operation(name, node.operation, rule, tuple(node.value.shape[1:]), node.origin, advice))
    return Explanation(tuple(found), graph.one_by_one)


def _rule_of(node: Node, table: Mapping[str, Affine], functions: Mapping[str, Maker]) -> tuple[str, str]:
    """The rule of a node, and what to do where there is none."""
    if node.operation == "input":
        return "input", ""
    if affine(node, table) is not None:
        return "affine", ""
    try:
        return type(function_of(node, functions)).__name__, ""
    except UnsupportedLayer:
        return "", remedy(node)
    except BoundsError as error:  # an argument that the rule does not take
        return "", str(error)
