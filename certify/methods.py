"""What :func:`certify.evaluate` can run: each method is its settings and one call.

To add a method, write a class like these, give it a name and the norms it serves, and put it into ``STANDARD``
or pass it to ``evaluate(methods=[...])``.
"""

import math
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import msgspec
import torch
from msgspec import Meta
from torch import Tensor, nn

from bounds import CleverEstimate, clever
from bounds.checks import Limit
from bounds.errors import InvalidInput
from bounds.sets.uniform import stream_seed
from certify.attacks import minimal_perturbation, smoothed_minimal_perturbation
from certify.results import Certificate, Estimate, Witness
from certify.smoothing import Gaussian, SmoothedClassifier
from certify.smoothing.drawing.distributions import lie_on_grid
from certify.verification.radius import certified_radius

Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]
Probability = Annotated[float, Meta(gt=0, lt=1)]


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem:
    """A model with labelled inputs: what every method of one evaluation is run on.

    Attributes:
        model: maps (N, *D) to logits (N, K).
        x: (N, *D), inputs.
        y: (N,) int64, correct classes.
        low: lower side of the box.
        high: upper side of the box.
        num_classes: K.
        seed: run seed.
        batch_size: rows of a forward pass, at most.
        first_index: place of the first input in its data set.
        stated_on_grid: whether all inputs of that data set are 8-bit; None if these are all of it.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    low: Limit
    high: Limit
    num_classes: int
    seed: int
    batch_size: int
    first_index: int = 0
    stated_on_grid: bool | None = None

    @cached_property
    def on_grid(self) -> bool:
        """Whether all inputs are 8-bit: asked of the whole data set, so that no slice of it decides for itself."""
        return lie_on_grid(self.x) if self.stated_on_grid is None else self.stated_on_grid

    def place(self, rows: slice) -> int:
        """Place of the first of these rows in the data set."""
        return self.first_index + int(rows.start)

    def generator(self, place: int = 0) -> torch.Generator:
        """A fresh generator on the device of the inputs: of the run's seed, and of its own for every other place.

        Seeds that are added up would give input 50 of one run the draws of input 0 of the run of the 50th seed after.
        """
        seed = stream_seed(self.seed, place, 0) if place else self.seed
        return torch.Generator(self.x.device).manual_seed(seed)


class Checked(msgspec.Struct, frozen=True):
    """A struct whose fields keep their declared types and bounds also when it is built from Python.

    >>> Smoothing(n=0)
    Traceback (most recent call last):
    bounds.errors.InvalidInput: Smoothing(n=0): Expected `int` >= 1
    """

    def __post_init__(self) -> None:
        # msgspec itself checks values only when it decodes. Field by field, or convert() would call this again.
        for field in msgspec.structs.fields(self):
            value = getattr(self, field.name)
            shown = f"{type(self).__name__}({field.name}={value!r})"
            try:
                msgspec.convert(value, field.type)
            except ValueError as error:
                raise InvalidInput(f"{shown}: {error}") from error
            if isinstance(value, float) and not math.isfinite(value):
                raise InvalidInput(f"{shown}: Expected a finite number")


class Method(Checked, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of one method. Its results for a slice of rows depend on nothing but these and the problem."""

    name: ClassVar[str]
    norms: ClassVar[tuple[float, ...]]
    rows_per_unit: ClassVar[int]  # inputs in one unit of work: what a kill can lose at most

    @abstractmethod
    def run(self, problem: Problem, rows: slice, norm: float) -> Certificate | Estimate | Witness:
        """Results for the given rows, in one norm."""
        raise NotImplementedError


class Smoothing(Method, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Randomized smoothing with Gaussian noise.

    All inputs draw their own noise by default (``noise_group=1``), so that statements about the whole data set may
    treat the certificates as independent. The settings are those of :meth:`certify.SmoothedClassifier.certify`.
    """

    name = "smoothing"
    norms = (2.0,)
    rows_per_unit = 10

    sigma: Positive = 0.25
    n: Count = 10_000
    n0: Count = 100
    alpha: Probability = 1e-3
    noise_group: Count = 1
    bound: Literal["binary", "two-class", "selected"] = "binary"
    tolerance: Positive | None = None

    def run(self, problem: Problem, rows: slice, norm: float) -> Certificate:
        """Certificates of the smoothed classifier."""
        return _smoothed(problem, self.sigma, self.noise_group).certify(
            problem.x[rows],
            self.n,
            self.n0,
            self.alpha,
            bound=self.bound,
            tolerance=self.tolerance,
            generator=problem.generator(),
            first_index=problem.place(rows),
        )


def _smoothed(problem: Problem, sigma: float, noise_group: int = 1) -> SmoothedClassifier:
    """The same classifier for its certificates and for attacks on it."""
    return SmoothedClassifier(
        problem.model,
        Gaussian(sigma),
        num_classes=problem.num_classes,
        batch_size=problem.batch_size,
        noise_group=noise_group,
        grid="auto" if problem.on_grid else None,
    )


class ProvedRadius(Method, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Certified radius by the bounding method that it is named after."""

    norms = (0.0, 1.0, 2.0, math.inf)

    tolerance: Positive = 1e-3

    def run(self, problem: Problem, rows: slice, norm: float) -> Certificate:
        """Deterministic certificates of the model."""
        return certified_radius(
            problem.model,
            problem.x[rows],
            problem.y[rows],
            norm=norm,
            method=self.name,
            low=problem.low,
            high=problem.high,
            tolerance=self.tolerance,
        )


class IntervalBounds(ProvedRadius, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Certified radius by interval bound propagation."""

    name = "ibp"
    rows_per_unit = 100


class LinearBounds(ProvedRadius, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Certified radius by backward linear bounds (CROWN): tighter than intervals, and slower by far."""

    name = "crown"
    rows_per_unit = 10

    tolerance: Positive = 1e-2


class LinearBoundsBehindIntervals(ProvedRadius, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Certified radius by one backward pass behind intervals (CROWN-IBP): between intervals and CROWN."""

    name = "crown_ibp"
    rows_per_unit = 50

    tolerance: Positive = 1e-2


class OptimisedLinearBounds(ProvedRadius, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Certified radius by linear bounds with planes chosen by ascent (alpha-CROWN): the tightest, and the slowest."""

    name = "alpha_crown"
    rows_per_unit = 5

    tolerance: Positive = 1e-2


class MinimalPerturbation(Method, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Minimum-norm attack; the settings are those of :func:`certify.attacks.minimal_perturbation`."""

    name = "attack"
    norms = (0.0, 1.0, 2.0, math.inf)
    rows_per_unit = 50

    method: Literal["descents", "best"] = "descents"
    steps: Count = 100
    restarts: Count = 3

    def run(self, problem: Problem, rows: slice, norm: float) -> Witness:
        """Adversarial examples of the model."""
        return minimal_perturbation(
            problem.model,
            problem.x[rows],
            problem.y[rows],
            norm=norm,
            low=problem.low,
            high=problem.high,
            method=self.method,
            steps=self.steps,
            restarts=self.restarts,
            batch_size=problem.batch_size,
            generator=problem.generator(),
            first_index=problem.place(rows),
        )


class Clever(Method, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """CLEVER scores: estimates, which stand between certificates and witnesses and bound neither.

    Fewer points than in the paper (500 batches of 1,024), at about 250,000 gradients an input with 10 classes. The
    radius of each norm caps the score and is part of its meaning.
    """

    name = "clever"
    norms = (1.0, 2.0, math.inf)
    rows_per_unit = 5

    num_batches: Annotated[int, Meta(ge=2)] = 100
    batch_size: Count = 256
    radius_l1: Positive = 20.0
    radius_l2: Positive = 2.0
    radius_linf: Positive = 0.2

    def run(self, problem: Problem, rows: slice, norm: float) -> Estimate:
        """Estimates for the model."""
        radii = {1.0: self.radius_l1, 2.0: self.radius_l2, math.inf: self.radius_linf}
        found = clever(
            problem.model,
            problem.x[rows],
            norm=norm,
            radius=radii[norm],
            num_batches=self.num_batches,
            batch_size=self.batch_size,
            low=problem.low,
            high=problem.high,
            chunk_size=problem.batch_size,
            resamples=0,
            generator=problem.generator(problem.place(rows)),
        )
        return estimate_of(found, self.name)


def estimate_of(found: CleverEstimate, method: str) -> Estimate:
    """Scores as a result of an evaluation."""
    return Estimate(
        label=found.label,
        score=found.score,
        status=found.status,
        lipschitz=found.lipschitz,
        largest=found.largest.amax(1),
        capped=found.capped,
        reach=found.radius,
        norm=found.norm,
        method=method,
        num_batches=found.num_batches,
        batch_size=found.batch_size,
    )


class SmoothedAttack(Method, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Minimum-norm attack on the classifier that :class:`Smoothing` of the same sigma certifies.

    The settings are those of :func:`certify.attacks.smoothed_minimal_perturbation`.
    """

    name = "smoothed_attack"
    norms = (1.0, 2.0, math.inf)
    rows_per_unit = 10

    sigma: Positive = 0.25
    draws: Count = 64
    steps: Count = 40
    restarts: Count = 2
    n: Count = 10_000
    alpha: Probability = 1e-3

    def run(self, problem: Problem, rows: slice, norm: float) -> Witness:
        """Inputs at which the smoothed classifier errs."""
        return smoothed_minimal_perturbation(
            _smoothed(problem, self.sigma),
            problem.x[rows],
            problem.y[rows],
            norm=norm,
            low=problem.low,
            high=problem.high,
            draws=self.draws,
            steps=self.steps,
            restarts=self.restarts,
            n=self.n,
            alpha=self.alpha,
            generator=problem.generator(problem.place(rows)),
        )


STANDARD: tuple[Method, ...] = (Smoothing(), IntervalBounds(), MinimalPerturbation())

BY_NAME: dict[str, type[Method]] = {
    method.name: method
    for method in (
        *(Smoothing, IntervalBounds, LinearBoundsBehindIntervals, LinearBounds, OptimisedLinearBounds),
        *(Clever, MinimalPerturbation, SmoothedAttack),
    )
}


def methods_of(given: object) -> list[Method]:
    """Settings of methods, from settings, classes and names, one or several; ``"standard"`` for :data:`STANDARD`.

    >>> [method.name for method in methods_of(["ibp", MinimalPerturbation, Smoothing(n=100)])]
    ['ibp', 'attack', 'smoothing']

    Raises:
        InvalidInput: something else, or a class that has settings without a default.
    """
    if isinstance(given, str) and given == "standard":
        return list(STANDARD)
    if isinstance(given, str | Method | type):
        given = [given]
    if not isinstance(given, Iterable):
        raise InvalidInput(_wanted(given))
    return [_method_of(one) for one in given]


def _method_of(given: object) -> Method:
    kind = BY_NAME.get(given) if isinstance(given, str) else given
    if isinstance(kind, type) and issubclass(kind, Method):
        try:
            return kind()
        except TypeError as error:  # a setting without a default
            raise InvalidInput(
                f"methods: {kind.__name__} needs settings, so pass an instance of it: {error}"
            ) from error
    if not isinstance(kind, Method):
        raise InvalidInput(_wanted(given))
    return kind


def _wanted(given: object) -> str:
    return (
        f"methods must be one of standard, {', '.join(BY_NAME)}, or settings from certify.methods such as "
        f"Smoothing(n=1000), or a list of these, got {given!r}"
    )
