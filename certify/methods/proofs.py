"""Deterministic proofs about the model: certified radii, verdicts at one radius, Lipschitz bounds."""

import math
from typing import Annotated, Literal

import torch
from msgspec import Meta

from certify.methods.base import Method, Problem
from certify.methods.checked import Count, Name, Positive
from certify.methods.frozen import WithFrozenFeatures
from certify.results import Certificate, VerdictCertificate
from certify.verification.lipschitz import lipschitz_certificate
from certify.verification.proving.radius_proofs import prove_radii, with_proofs
from certify.verification.radius import certified_radius
from certify.verification.verdicts import verify

Sound = Literal["rounding", "real", "deployed"]
PROOF_SHARE = 0.5  # of the time of a search, which its proof may take besides


class ProvedRadius(WithFrozenFeatures, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Certified radius by a bounding method; the settings are those of :func:`certify.certified_radius`."""

    norms = (0.0, 1.0, 2.0, math.inf)
    bounds = ""  # the bounding method

    tolerance: Positive = 1e-3
    sound: Sound = "rounding"

    def run(self, problem: Problem, rows: slice, norm: float) -> Certificate:
        """Deterministic certificates of the model."""
        return certified_radius(
            problem.model,
            problem.x[rows],
            problem.y[rows],
            norm=norm,
            method=self.bounds or self.name,
            low=problem.low,
            high=problem.high,
            frozen_features=self.mask(problem),
            tolerance=self.tolerance,
            sound=self.sound,
            memory=problem.memory_of_bounds,
        )


class IntervalBounds(ProvedRadius, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Certified radius by interval bound propagation."""

    bounds = "ibp"
    rows_per_unit = 100

    name: Name = "ibp"


class LinearBounds(ProvedRadius, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Certified radius by backward linear bounds (CROWN): tighter than intervals, and slower by far."""

    bounds = "crown"
    rows_per_unit = 10

    name: Name = "crown"
    tolerance: Positive = 1e-2


class LinearBoundsBehindIntervals(ProvedRadius, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Certified radius by one backward pass behind intervals (CROWN-IBP): between intervals and CROWN."""

    bounds = "crown_ibp"
    rows_per_unit = 50

    name: Name = "crown_ibp"
    tolerance: Positive = 1e-2


class OptimisedLinearBounds(ProvedRadius, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Certified radius by linear bounds with planes chosen by ascent (alpha-CROWN): the tightest, and the slowest."""

    bounds = "alpha_crown"
    rows_per_unit = 5

    name: Name = "alpha_crown"
    tolerance: Positive = 1e-2


class CompleteSearch(WithFrozenFeatures, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Radii by complete search, between a proof and an adversarial example.

    ``timeout`` is in seconds for each input; where it ends a search, the radius is what was proved by then. With
    ``proofs``, each radius is stored with a proof that an audit hands to the checker, see :func:`certify.check_proof`;
    they may take half of the time more, and a row without one says why. The other settings are those of
    :func:`certify.certified_radius`.
    """

    norms = (1.0, 2.0, math.inf)
    rows_per_unit = 5
    one_by_one = True  # its searches are, and the attack before them draws by the place in the batch

    name: Name = "complete"
    tolerance: Positive = 1e-3
    timeout: Positive = 60.0
    sound: Sound = "rounding"
    proofs: bool = True

    def run(self, problem: Problem, rows: slice, norm: float) -> Certificate:
        """Deterministic certificates of the model."""
        x = problem.x[rows]
        found = certified_radius(
            problem.model,
            x,
            problem.y[rows],
            norm=norm,
            method="complete",
            low=problem.low,
            high=problem.high,
            frozen_features=self.mask(problem),
            tolerance=self.tolerance,
            timeout=self.timeout * max(len(x), 1),
            generator=problem.generator(problem.place(rows)),
            sound=self.sound,
            memory=problem.memory_of_bounds,
        )
        if not self.proofs:
            return found
        proofs = prove_radii(
            problem.model,
            x,
            found,
            low=problem.low,
            high=problem.high,
            frozen_features=self.mask(problem),
            seconds=self.timeout * PROOF_SHARE,
        )
        return with_proofs(found, proofs)


class Verify(WithFrozenFeatures, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Verdicts at one radius, by an attack and by bounds from cheap to tight, as certificates.

    The radius of a row is ``epsilon`` where the model is verified up to it, and 0 elsewhere: nothing larger was asked,
    and nothing smaller. Each row also keeps the verdict, ``verified``, ``falsified`` or ``unknown``. The input that
    falsified a row counts as a witness: a certified radius of any method beyond it is a contradiction.
    The settings are those of :func:`certify.verify`; ``epsilon`` has no default, as its unit is that of the norm.
    """

    rows_per_unit = 10
    divisible = False  # its attack draws by the place among the open inputs of a unit

    name: Name = "verify"
    epsilon: Annotated[float, Meta(gt=0, examples=["0.1"])]
    method: Literal["ibp", "crown_ibp", "crown", "alpha_crown", "fast_lin"] = "alpha_crown"
    attack: bool = True
    steps: Count = 20
    sound: Sound = "rounding"

    @property
    def norms(self) -> tuple[float, ...]:  # type: ignore[override]  # elsewhere a constant of the class
        """The norms with an attack; a number of changed entries is a whole one."""
        return (*((0.0,) if self.epsilon.is_integer() else ()), 1.0, 2.0, math.inf)

    def run(self, problem: Problem, rows: slice, norm: float) -> Certificate:
        """Certificates of radius ``epsilon`` or 0."""
        found = verify(
            problem.model,
            problem.x[rows],
            problem.y[rows],
            norm=norm,
            epsilon=int(self.epsilon) if norm == 0 else self.epsilon,
            method=self.method,
            low=problem.low,
            high=problem.high,
            frozen_features=self.mask(problem),
            attack=self.attack,
            steps=self.steps,
            sound=self.sound,
            memory=problem.memory_of_bounds,
            generator=problem.generator(problem.place(rows)),
        )
        pairs = zip(found.verified.tolist(), found.falsified.tolist(), strict=True)
        return VerdictCertificate(
            label=found.label,
            radius=torch.where(found.verified, found.epsilon, 0.0),
            abstained=torch.zeros_like(found.verified),
            norm=found.norm,
            alpha=0.0,
            subject=found.subject,
            method=self.name,
            sound=found.sound,
            verdict=tuple("verified" if proved else "falsified" if broken else "unknown" for proved, broken in pairs),
            decided_by=found.decided_by,
            adversarial=found.adversarial,
            distance=found.distance,
        )


class Lipschitz(Method, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Certified radius by Lipschitz constants of the margins; see :func:`certify.lipschitz_certificate`."""

    norms = (1.0, 2.0, math.inf)
    rows_per_unit = 50

    name: Name = "lipschitz"
    method: Literal["product", "eclipse", "sdp", "fast_lip", "recurjac", "local"] = "product"

    def run(self, problem: Problem, rows: slice, norm: float) -> Certificate:
        """Deterministic certificates of the model."""
        return lipschitz_certificate(
            problem.model,
            problem.x[rows],
            problem.y[rows],
            norm=norm,
            method=self.method,
            low=problem.low,
            high=problem.high,
        )
