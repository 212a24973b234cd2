"""Statements about sets of perturbations in the place of norms: what their judges have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from bounds import clopper_pearson_interval
from bounds.checks import Limit
from bounds.sets.orders import is_counted
from certify.auditing.certificates.proofs import Reprover
from certify.auditing.tally import Tally
from certify.methods import Problem
from certify.sets.stated import StatedSet

Record = Mapping[str, Any]
Row = Mapping[str, Any]
Sides = tuple[Limit, Limit]
DRAWS, RANGES = "random draws", "whole ranges"
NOT_SAMPLED = "it is not in the sample"
NARROWER = 1e-9  # by which the ends of an interval may differ
Set = TypeVar("Set", bound=StatedSet)


class Evidence(NamedTuple):
    """Model, data and means by which certificates are judged.

    Attributes:
        problem: the model and all inputs.
        leads: the lead of a label for one input, in two precisions.
        reprover: proofs of the audit's own.
        seed: of random points.
    """

    problem: Problem
    leads: Callable[[Tensor, int], list[float]]
    reprover: Reprover
    seed: int


class SetJudge(ABC, Generic[Set]):
    """Judges what records say about one set; each kind of sets has its own judge.

    Args:
        over: the set.
    """

    def __init__(self, over: Set) -> None:
        self.over = over

    def judge_ranges(self, tally: Tally, record: Record) -> None:
        """Refute certificates beyond the set, and those that call more proved than their radius or pieces."""
        for row in record["rows"]:
            radius, reach = row.get("certified_radius") or 0.0, self.over.reach
            if row.get("verified") and radius < reach:
                reason = f"it calls its whole range proved, but certifies {radius!r}"
                tally.refute(RANGES, reason, record["unit"], row["index"])
            if row.get("verified") and (row.get("open_pieces") or row.get("broken")):
                reason = "it calls its whole range proved, but states wrong or open pieces of it"
                tally.refute(RANGES, reason, record["unit"], row["index"])
            if radius > reach:
                reason = f"it certifies {radius!r}, but its range ends at {reach!r}"
                tally.refute(RANGES, reason, record["unit"], row["index"])
            if is_counted(self.over) and radius % 1:
                tally.refute(
                    RANGES, f"it certifies {radius!r}, which is no number of changes", record["unit"], row["index"]
                )

    def judge_draws(self, tally: Tally, record: Record, tensors: Mapping[str, Tensor], alpha: float) -> None:
        """Judge the numbers of right draws by the stored ones, and the intervals for the probability of an error."""
        right, distance = tensors.get("right"), tensors.get("distance")
        for place, row in enumerate(record["rows"]):
            if "draws" not in row:
                continue
            fine = right is not None and distance is not None and int(right[place].sum()) == row["draws_right"]
            fine = fine and distance is not None and bool((distance[place] <= self.over.reach).all())
            tally.judge(DRAWS, fine, "its draws are not those that are stored", record["unit"], row["index"])
            wrong, draws = torch.tensor(row["draws"] - row["draws_right"]), row["draws"]
            lower, upper = (float(end) for end in clopper_pearson_interval(wrong, draws, confidence=1 - alpha))
            if row["error_lower"] > lower + NARROWER or row["error_upper"] < upper - NARROWER:
                reason = f"its interval for errors is narrower than {lower!r} to {upper!r}"
                tally.refute(DRAWS, reason, record["unit"], row["index"])

    @abstractmethod
    def judge_example(
        self, tally: Tally, record: Record, row: Row, pair: tuple[Tensor, Tensor], sides: Sides | None
    ) -> None:
        """Judge whether an adversarial example is one of the set, at the distance that is stated.

        Args:
            tally: verdicts.
            record: of the unit.
            row: of the input.
            pair: the clean input and the adversarial one, (*D) each.
            sides: of the box; None where they are not at hand.
        """

    @abstractmethod
    def judge_certificate(self, tally: Tally, record: Record, row: Row, asked: Evidence, *, sampled: bool) -> None:
        """Look for what refutes a radius above 0, and prove it once more if it is ``sampled``."""
