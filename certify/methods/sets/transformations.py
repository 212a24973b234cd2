"""Transformations of images as methods: proofs over their ranges, the search for a wrong image, random draws."""

from typing import Annotated, Any, Literal

from msgspec import Meta

from certify.attacks.studies.transformations import TransformationWitness
from certify.attacks.studies.transformations import transformation as attack
from certify.methods.base import Method, Problem
from certify.methods.checked import Count, Name, Positive, Probability
from certify.methods.proofs import Sound
from certify.semantic.certificate import SemanticCertificate
from certify.semantic.certification import certify_transformation
from certify.semantic.random_draws import TransformationAccuracy, random_transformations
from certify.semantic.sets import TransformationSet


class OfTransformations(Method, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A method for the sets of transformed images that an evaluation is asked about, and for no norm."""

    norms = ()

    def serves(self, norm: object) -> bool:
        """Whether it is a set of transformed images."""
        return isinstance(norm, TransformationSet)


def _about(problem: Problem, over: TransformationSet, most: int) -> dict[str, Any]:
    """Arguments that all calls share; ``most`` images of a forward pass."""
    return {
        "low": problem.low,
        "high": problem.high,
        "channels_last": over.channels_last,
        "batch_size": min(most, problem.batch_size),
    }


class TransformationBounds(OfTransformations, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Certified range of a transformation, see :func:`certify.semantic.certify_transformation`.

    ``method`` is the last bounding method to try, and ``most_parts`` is for noise on top. ``timeout`` is in seconds for
    each input, which those of a unit of work share; with None, results repeat.
    """

    rows_per_unit = 10

    name: Name = "transformation_bounds"
    method: Literal["ibp", "crown_ibp", "crown", "alpha_crown"] = "crown"
    pieces: Count | None = None
    timeout: Positive | None = None
    tolerance: Probability = 0.02
    most_parts: Annotated[int, Meta(ge=0)] = 0
    sound: Sound = "rounding"

    def run(self, problem: Problem, rows: slice, norm: TransformationSet) -> SemanticCertificate:
        """Deterministic certificates of the model."""
        x = problem.x[rows]
        return certify_transformation(
            problem.model,
            x,
            problem.y[rows],
            norm.transformation,
            method=self.method,
            pieces=self.pieces,
            timeout=None if self.timeout is None else self.timeout * len(x),
            epsilon=norm.epsilon,
            tolerance=self.tolerance,
            most_parts=self.most_parts,
            sound=self.sound,
            memory=problem.memory_of_bounds,
            **_about(problem, norm, 128),
        )


class TransformationAttack(OfTransformations, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Search for the smallest transformation that the model gets wrong, see :func:`certify.attacks.transformation`."""

    rows_per_unit = 50

    name: Name = "transformation_attack"
    points: Annotated[int, Meta(ge=2)] | None = None
    steps: Annotated[int, Meta(ge=0)] = 20

    def run(self, problem: Problem, rows: slice, norm: TransformationSet) -> TransformationWitness:
        """Transformed images that the model gets wrong, re-checked."""
        return attack(
            problem.model,
            problem.x[rows],
            problem.y[rows],
            norm.transformation,
            points=self.points,
            steps=self.steps,
            epsilon=norm.epsilon,
            **_about(problem, norm, 500),
        )


class RandomTransformations(OfTransformations, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Predictions under random transformations, see :func:`certify.semantic.random_transformations`.

    They bound nothing. Noise on top of a transformation is left out. ``alpha`` is that of the exact interval for the
    probability of an error of each input.
    """

    rows_per_unit = 50
    one_by_one = True  # draws of an input are those of its place

    name: Name = "random_transformations"
    draws: Count = 100
    alpha: Probability = 0.05

    def run(self, problem: Problem, rows: slice, norm: TransformationSet) -> TransformationAccuracy:
        """Numbers of right predictions."""
        return random_transformations(
            problem.model,
            problem.x[rows],
            problem.y[rows],
            norm.transformation,
            draws=self.draws,
            generator=problem.generator(problem.place(rows)),
            **_about(problem, norm, 500),
        )
