"""Which rule bounds use for each operation of a network, and what to do about those that have none."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from bounds.circumstances import isolated
from bounds.errors import UnsupportedLayer
from bounds.graph.captured import Graph, Source, capture
from bounds.operations.affine import AFFINE, Affine, affine
from bounds.operations.functions import function_of


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
def explain(model: Source | Graph, x: Tensor, *, table: Mapping[str, Affine] = AFFINE) -> Explanation:
    """Every operation of a network with the rule that linear bounds and intervals of captured networks use for it.

    Args:
        model: any network that ``torch.export`` follows, or its captured graph.
        x: an input or several, (N, *D).
        table: affine operations.

    Raises:
        UnsupportedLayer: ``torch.export`` cannot follow the code.
    """
    graph = capture(model, x)
    found = []
    for name, node in graph.bind(x[:1]).items():
        rule, remedy = "", ""
        if node.operation == "input":
            rule = "input"
        elif affine(node, table) is not None:
            rule = "affine"
        else:
            try:
                rule = type(function_of(node)).__name__
            except UnsupportedLayer:
                remedy = (
                    f"write it with operations that have a rule; or, if it is affine, pass table=AFFINE | "
                    f"{{{node.operation!r}: Affine(...)}}; or add a function to a copy of "
                    f"bounds.operations.functions.FUNCTIONS"
                )
        found.append(Operation(name, node.operation, rule, tuple(node.value.shape[1:]), node.origin, remedy))
    return Explanation(tuple(found), graph.one_by_one)
