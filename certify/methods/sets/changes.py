"""Changed features and words as methods: proofs that no few changes count, counterfactuals, random changes."""

from typing import Literal

from certify.attacks.studies.counterfactual import CounterfactualWitness, counterfactual
from certify.changes.random_changes import ChangeAccuracy, random_changes
from certify.changes.sets import ChangeSet
from certify.methods.base import Method, Problem
from certify.methods.checked import Count, Name, Positive, Probability
from certify.methods.proofs import Sound
from certify.verification.changed.certificate import CounterfactualCertificate
from certify.verification.changed.certification import certified_no_counterfactual


class OfChanges(Method, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A method for the sets of few changes that an evaluation is asked about, and for no norm."""

    norms = ()

    def serves(self, norm: object) -> bool:
        """Whether it is a set of few changes."""
        return isinstance(norm, ChangeSet)


class ChangeBounds(OfChanges, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Number of changes that is proved to flip nothing, see :func:`certify.certified_no_counterfactual`.

    ``method`` is the last bounding method to try, ``most_parts`` the number of parts that the set of an input is cut
    into. ``timeout`` is in seconds for each input, which those of a unit of work share; with None, results repeat.
    """

    rows_per_unit = 10

    name: Name = "change_bounds"
    method: Literal["ibp", "crown_ibp", "crown", "alpha_crown"] = "crown"
    most_parts: Count = 2000
    timeout: Positive | None = None
    sound: Sound = "rounding"

    def run(self, problem: Problem, rows: slice, norm: ChangeSet) -> CounterfactualCertificate:
        """Deterministic certificates of the model."""
        x = problem.x[rows]
        return certified_no_counterfactual(
            problem.model,
            x,
            norm.around(x),
            problem.y[rows],
            method=self.method,
            most_parts=self.most_parts,
            timeout=None if self.timeout is None else self.timeout * len(x),
            sound=self.sound,
            batch_size=min(128, problem.batch_size),
            memory=problem.memory_of_bounds,
        )


class CounterfactualAttack(OfChanges, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Search for the fewest changes that flip the decision, see :func:`certify.attacks.counterfactual`."""

    rows_per_unit = 50

    name: Name = "counterfactual"
    beam: Count = 16
    most_points: Count = 4096

    def run(self, problem: Problem, rows: slice, norm: ChangeSet) -> CounterfactualWitness:
        """Inputs of another class with few changes, re-checked."""
        x = problem.x[rows]
        return counterfactual(
            problem.model,
            x,
            problem.y[rows],
            norm.around(x),
            beam=self.beam,
            most_points=self.most_points,
            batch_size=min(500, problem.batch_size),
        )


class RandomChanges(OfChanges, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Predictions under random changes, see :func:`certify.random_changes`.

    They bound nothing. ``alpha`` is that of the exact interval for the probability of an error of each input.
    """

    rows_per_unit = 50
    one_by_one = True  # draws of an input are those of its place

    name: Name = "random_changes"
    draws: Count = 100
    alpha: Probability = 0.05

    def run(self, problem: Problem, rows: slice, norm: ChangeSet) -> ChangeAccuracy:
        """Numbers of right predictions."""
        x = problem.x[rows]
        return random_changes(
            problem.model,
            x,
            problem.y[rows],
            norm.around(x),
            draws=self.draws,
            batch_size=min(500, problem.batch_size),
            generator=problem.generator(problem.place(rows)),
        )
