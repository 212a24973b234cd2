"""Trees of a proof as a search finds them, and what the checker itself has to find for what is missing."""

import time
from collections.abc import Sequence

import numpy as np

from bounds.search.branch_and_bound import FEW_INPUTS
from certify.proofs.balls import Ball
from certify.proofs.checking import check_trees
from certify.proofs.cutting import cut_tree
from certify.proofs.errors import ProofError
from certify.proofs.files import Tree
from certify.proofs.leaves import Goal
from certify.proofs.networks.networks import Network
from certify.proofs.properties import Property, boxes
from certify.proofs.splitting import SplitTree

RESERVE = 0.03  # share of the time that is kept for writing


class Trees:
    """The trees by which it is proved that a network reaches no unsafe set.

    Args:
        network: as the checker reads it.
        prop: the unsafe sets.
        ball: that inputs lie in as well; None for all inputs of the boxes.

    Attributes:
        network: likewise.
        property: likewise.
        ball: likewise.
        reason: why nothing is recorded any more; empty as long as it is.
        cuts: whether boxes may be cut for what the search leaves no tree of.
    """

    def __init__(self, network: Network, prop: Property, ball: Ball | None = None) -> None:
        self.network, self.property, self.ball = network, prop, ball
        self._groups = list(boxes(prop))
        self._trees: dict[int, Tree | SplitTree] = {}
        self.reason = ""
        self.cuts = network.nodes[0].size <= FEW_INPUTS

    def keep(self, place: int, tree: Tree | SplitTree | None) -> None:
        """Keep the tree of an unsafe set."""
        if tree is not None:
            self._trees[place] = tree

    def goal(self, places: Sequence[int]) -> Goal:
        """Make the goal that some unsafe sets of one box are.

        Raises:
            ProofError: it cannot be.
        """
        return Goal(self.network, [self.property.sets[place] for place in places], self.ball)

    def whole(self, deadline: float) -> tuple[tuple[tuple[int, ...], Tree], ...]:
        """The trees of all unsafe sets; what no search of neurons left one for is proved by cuts of the input, now.

        Args:
            deadline: in seconds of ``time.monotonic()``.

        Raises:
            ProofError: there is no proof, or the checker does not accept it; with the reason.
        """
        end = deadline - RESERVE * max(deadline - time.monotonic(), 0.0)
        kept = ((place, tree.tree() if isinstance(tree, SplitTree) else tree) for place, tree in self._trees.items())
        trees: list[tuple[tuple[int, ...], Tree]] = [((place,), tree) for place, tree in kept if tree is not None]
        done = {place for (place,), _ in trees}
        for group in self._groups:
            left = tuple(place for place in group if place not in done)
            if not left:
                continue
            with np.errstate(all="ignore"):
                tree = cut_tree(self.goal(left), lambda: time.monotonic() > end, cuts=self.cuts)
            if tree is None:
                raise ProofError(self.reason or "the time for it was over, or it would be too large")
            trees.append((left, tree))
        try:
            with np.errstate(all="ignore"):
                check_trees(self.network, self.property, trees, self.ball)  # no file that the checker refuses
        except ProofError as error:
            raise ProofError(f"the checker does not accept it: {error}") from error
        return tuple(trees)
