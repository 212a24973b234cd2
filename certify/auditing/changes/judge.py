"""Judge of statements about changed features and words: examples recounted, certificates listed or proved again."""

import random
from collections.abc import Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor

from bounds.errors import BoundsError
from certify.auditing.certificates.networks import LayeredNetwork
from certify.auditing.certificates.proofs import PROOFS, UNPROVED
from certify.auditing.certificates.proving import Prover
from certify.auditing.changes.listing import (
    Changeable,
    Move,
    changeable_parts,
    changes_of,
    combinations_of,
    count_of,
    points_of,
)
from certify.auditing.changes.region import ChangedRegion
from certify.auditing.sets import NOT_SAMPLED, Evidence, Record, Row, SetJudge, Sides
from certify.auditing.tally import Tally
from certify.changes.sets import ChangeSet

COUNTED, LISTED = "changes of witnesses", "lists of changed inputs"
MOST_POINTS = 5_000  # inputs of one list
RANDOM = 300  # of sets that are not listed


class ChangeJudge(SetJudge[ChangeSet]):
    """Judges what records say about few changes, see :class:`SetJudge`."""

    def judge_example(
        self, tally: Tally, record: Record, row: Row, pair: tuple[Tensor, Tensor], sides: Sides | None
    ) -> None:
        """Count the changes of an example anew, each of which has to be one that the set allows."""
        unit, index, stated = record["unit"], row["index"], row["attack_distance"]
        try:
            parts = changeable_parts(self.over, pair[0])
        except BoundsError as error:
            tally.leave(COUNTED, " ".join(str(error).split()), unit, index)
            return
        found = changes_of(parts, *pair, torch.finfo(pair[0].dtype).eps)
        fine = found == stated and row.get("distances") == {record["norm"]: stated} and stated <= self.over.reach
        told = "makes changes that the set does not allow" if found is None else f"makes {found}"
        tally.judge(COUNTED, fine, f"it states {stated!r} changes, but its example {told}", unit, index)

    def judge_certificate(self, tally: Tally, record: Record, row: Row, asked: Evidence, *, sampled: bool) -> None:
        """Run the model on all inputs of a small set; prove a larger one, and try some of its inputs."""
        unit, index, radius, label = record["unit"], row["index"], row["certified_radius"], row["prediction"]
        if not sampled:
            tally.leave(PROOFS, NOT_SAMPLED, unit, index)
            return
        x = asked.problem.x[index - asked.problem.first_index].cpu()
        try:
            parts = changeable_parts(self.over, x)
        except BoundsError as error:
            tally.leave(PROOFS, " ".join(str(error).split()), unit, index)
            return
        most = min(int(radius), len(parts))
        listed = count_of(parts, most) <= MOST_POINTS
        ways = combinations_of(parts, most) if listed else _some(parts, most, asked.seed + index)
        wrong = _wrong(x, ways, label, asked)
        if any(all(lead < 0 for lead in asked.leads(point, label)) for point in wrong):
            reason = f"it certifies {radius!r}, but an input with as few changes has another class"
            tally.refute(LISTED, reason, unit, index)
        elif wrong:
            tally.leave(LISTED, "the class of a changed input turns by rounding", unit, index)
        elif listed:
            tally.confirm(LISTED)
        elif how := _proved(x, parts, most, label, asked):
            tally.confirm(f"{PROOFS} by {how}")
        else:
            network = asked.reprover.network
            why = f"no proof of the audit's own: {network}" if isinstance(network, str) else UNPROVED
            tally.leave(PROOFS, why, unit, index)


def _wrong(x: Tensor, ways: Iterable[list[Move]], label: int, asked: Evidence) -> list[Tensor]:
    """Changed inputs of which the label does not lead all other classes; none leads where a logit is no number."""
    found: list[Tensor] = []
    several, problem = iter(ways), asked.problem
    while batch := list(islice(several, problem.batch_size)):
        points = points_of(x, batch)
        with torch.no_grad():
            logits = problem.model(points.to(problem.x.device)).cpu()
        others = torch.cat([logits[:, :label], logits[:, label + 1 :]], 1)
        found += list(points[~(logits[:, label] > others.amax(1))])
    return found


def _some(parts: list[Changeable], most: int, seed: int) -> Iterator[list[Move]]:
    """Some ways to change so many parts: all single changes up to a number, and random ones."""
    yield from islice(combinations_of(parts, 1), RANDOM)
    lot, able = random.Random(seed), [part for part in parts if part.moves]
    for _ in range(RANDOM):
        way = []
        for part in lot.sample(able, min(most, len(able))):
            move = lot.choice(part.moves)
            if part.ranged:
                ((column, low),), (high,) = part.moves[0].items(), part.moves[1].values()
                move = {column: min(max(low + lot.random() * (high - low), low), high)}
            way.append(move)
        yield way


def _proved(x: Tensor, parts: list[Changeable], most: int, label: int, asked: Evidence) -> str:
    """Way in which the audit's own bounds prove it; empty where they do not."""
    network = asked.reprover.network
    if not isinstance(network, LayeredNetwork):
        return ""
    return Prover(network, ChangedRegion.of(x, parts, most), lines=True).proves(label)
