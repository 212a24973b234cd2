"""Operations of a captured program, taken apart once: a network in training is bound anew at every step."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from torch import fx
from torch.utils import _pytree as pytree

from bounds.graph.conditions import origin_of


class Call:
    """An operation of a captured program, with what all its bindings have in common.

    Attributes:
        node: of the program.
        flat: its arguments in a row, with those in lists and those by name.
        origin: the line of source code that it comes from.
    """

    def __init__(self, node: fx.Node) -> None:
        self.node = node
        self.flat, self._spec = pytree.tree_flatten((node.args, node.kwargs))
        self.origin = origin_of(node)
        numbered, _ = pytree.tree_unflatten(list(range(len(self.flat))), self._spec)
        self._places = [place if isinstance(place, int) else None for place in numbered]
        self._positions = {place: i for i, place in enumerate(numbered) if isinstance(place, int)}
        # Lists of numbers alone and no argument by name: to fill lists takes longer than most operations.
        alone = (i in self._positions or isinstance(leaf, int | float) for i, leaf in enumerate(self.flat))
        self._plain = not node.kwargs and all(alone)

    @cached_property
    def batch(self) -> int | None:
        """The dimension whose size is that of the batch, as the node says, or by the symbols that export found."""
        if "batch" in self.node.meta:
            return int(self.node.meta["batch"])
        sizes = [str(size) for size in self.node.meta["val"].shape]
        symbolic = [i for i, size in enumerate(sizes) if not size.isdigit()]
        return symbolic[0] if len(symbolic) == 1 and sizes[symbolic[0]].isidentifier() else None

    def filled(self, leaves: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments by position and by name, of others in a row."""
        if self._plain:
            own = zip(self._places, self.node.args, strict=True)
            return tuple(part if place is None else leaves[place] for place, part in own), {}
        args, kwargs = pytree.tree_unflatten(list(leaves), self._spec)
        return tuple(args), kwargs

    def function(self, target: Callable[..., Any], leaves: Sequence[Any], places: Sequence[int]) -> Callable[..., Any]:
        """An operation as a function of its arguments at some places in a row, with all others filled in."""
        if all(place in self._positions for place in places):  # none in a list
            args, kwargs = self.filled(leaves)
            positions = [self._positions[place] for place in places]

            def direct(*parts: Any) -> Any:  # noqa: ANN401  # one tensor, or several
                whole = list(args)
                for position, part in zip(positions, parts, strict=True):
                    whole[position] = part
                return target(*whole, **kwargs)

            return direct

        def function(*parts: Any) -> Any:  # noqa: ANN401  # one tensor, or several
            whole = list(leaves)
            for place, part in zip(places, parts, strict=True):
                whole[place] = part
            args, kwargs = self.filled(whole)
            return target(*args, **kwargs)

        return function
