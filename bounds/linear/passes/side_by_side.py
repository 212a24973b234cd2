"""Backward passes of several refinements of one network at once: as passes of so many times the inputs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bounds.linear.passes.backward import Backward
from bounds.linear.passes.through_functions import SharedLines
from bounds.relaxations.pooled import PooledMaximum
from bounds.relaxations.scalar import ScalarFunction
from bounds.sets.balls import PerturbationSet


class SideBySide(Backward):
    """Backward passes that share a node, its functions and the set, but not the lines around functions.

    Small passes cost the number of their operations, not the arithmetic: several at once cost hardly more than one.
    Inputs come first to last for the first of the passes, then for the second, and so on; so do bounds.

    Args:
        parts: backward passes through copies of one network, with the intervals of each.
    """

    def __init__(self, parts: Sequence[Backward]) -> None:
        super().__init__(parts[-1].network)
        self.parts = parts
        self.copies = len(parts)
        ball = self.network.ball
        self.region = ball.rows(torch.arange(len(ball.center), device=ball.center.device).repeat(self.copies))

    def halves(self, region: PerturbationSet, *, rounded: bool) -> tuple[Tensor, Tensor]:
        """Centre and reach of the set of all passes, once for each."""
        if region is not self.region:
            return super().halves(region, rounded=rounded)
        center, reach = self.parts[-1].halves(self.network.ball, rounded=rounded)
        return self._joined([center] * self.copies), self._joined([reach] * self.copies)

    @staticmethod
    def serves(parts: Sequence[Backward]) -> bool:
        """Whether there are several, whose lines can stand in a row: those of functions with the same for all rows."""
        network = parts[-1].network
        return (
            len(parts) > 1
            and network.sound != "deployed"
            and type(network.ball).rows is not PerturbationSet.rows
            and all(node.batch == 0 for node in network.nodes.values())
            and all(isinstance(function, ScalarFunction | PooledMaximum) for function in network.functions.values())
        )

    def lines(self, name: str, rounded: bool) -> SharedLines:
        """The lines of all passes, which serve every chunk of rows."""
        if (name, rounded) not in self._lines:
            self._lines[name, rounded] = self._in_a_row([part.lines(name, rounded) for part in self.parts])
        return self._lines[name, rounded]

    def window_lines(self, name: str, rounded: bool) -> SharedLines:
        """The planes of all passes."""
        if (name, rounded) not in self._lines:
            self._lines[name, rounded] = self._in_a_row([part.window_lines(name, rounded) for part in self.parts])
        return self._lines[name, rounded]

    def rounding(self, name: str) -> Tensor | None:
        """The rounding errors of all passes."""
        errors = [part.rounding(name) for part in self.parts]
        return None if errors[0] is None else self._joined([error for error in errors if error is not None])

    def reach(self, name: str) -> Tensor:
        """The largest absolute values in all passes."""
        return self._joined([part.reach(name) for part in self.parts])

    def _in_a_row(self, lines: Sequence[SharedLines]) -> SharedLines:
        rises = [part.slope.new_zeros(()).expand_as(part.slope) if part.rise is None else part.rise for part in lines]
        return SharedLines(
            self._joined([part.slope for part in lines]),
            None if all(part.rise is None for part in lines) else self._joined(rises),
            self._joined([part.lower for part in lines]),
            self._joined([part.upper for part in lines]),
        )

    def _joined(self, parts: list[Tensor]) -> Tensor:
        count = len(self.network.ball.center)
        return torch.cat([part if part.shape[0] == count else part.expand(count, *part.shape[1:]) for part in parts])
