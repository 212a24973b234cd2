"""Records of a search: what takes up the parts that are proved, for a proof that others can check."""

from typing import Protocol

from torch import Tensor

from bounds.search.domains import Domains
from bounds.search.problem import Problem
from bounds.search.split_bounds import SplitBounds


class Record(Protocol):
    """A record, which may ask that parts are split further although bounds prove them."""

    def takes_sets(self, problem: Problem, places: Tensor) -> Tensor:
        """Say of unsafe sets that bounds of the box prove, by their places (P,), which need no search, (P,) bool."""

    def takes_leaves(self, bounds: SplitBounds, leaves: Domains) -> Tensor:
        """Say of domains that bounds prove which need no further split, (N,) bool."""

    def gives_up(self, reason: str) -> None:
        """Record nothing from here on, for a reason."""


def still_open(bounds: SplitBounds, domains: Domains) -> Domains:
    """The domains that are not proved, or that the record does not take as they are."""
    proved = domains.bound > 0
    record = bounds.problem.record
    if record is not None and bool(proved.any()):
        proved[proved.clone()] = record.takes_leaves(bounds, domains[proved])
    return domains[~proved]


def only_record_is_open(problem: Problem, found: Domains) -> bool:
    """Whether bounds prove all domains that are left, so that the search may end; the record then has none of them."""
    if problem.record is None or not bool((found.bound > 0).all()):
        return False
    problem.record.gives_up("the time or the memory for it was over")
    return True
