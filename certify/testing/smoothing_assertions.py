"""Assertion that certificates of a smoothed classifier keep their promise."""

import math
from typing import TYPE_CHECKING

from certify.testing.assertions import SHOWN, message
from certify.testing.recording import record

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from certify.results import SmoothedPrediction, SmoothingCertificate
    from certify.smoothing import SmoothedClassifier


def assert_smoothing_guarantee(
    smoothed: "SmoothedClassifier",
    x: "Tensor",
    certificate: "SmoothingCertificate",
    *,
    toward: "Tensor | None" = None,
    attack: bool | None = None,
    perturbations: int = 2,
    draws: int = 1000,
    alpha: float = 1e-3,
    generator: "torch.Generator | None" = None,
) -> "list[SmoothedPrediction]":
    """Predictions within the radii, if nothing refutes the certificates of a smoothed classifier.

    First, no row may state more than its own votes allow: radius, bounds and abstention are computed anew from them.
    Then the smoothed classifier is asked on fresh draws: at each certified input, where its label must be as likely as
    the certificate states; and moved by almost its radius, in random directions, to where an attack on the smoothed
    classifier ends and, with ``toward``, to given points. There the assertion fails if the label has a probability
    below one half beyond doubt, or below that of another class where certificates speak of two: by exact binomial
    tests, at ``alpha`` over all of them together. False-alarm rate: at most ``alpha``, and the probability that a
    certificate is false, which is at most its own alpha for each input.

    Args:
        smoothed: the classifier that was certified.
        x: (N, *D), the inputs that were.
        certificate: their certificates, in l_1, l_2 or l-infinity.
        toward: (N, *D) points, such as adversarial examples, in whose direction inputs are moved as well.
        attack: whether inputs are attacked, which takes 600 passes for each and gradients of the model; None attacks
            where the noise is Gaussian, Laplace or uniform.
        perturbations: random perturbations of each input.
        draws: noise draws for each prediction.
        alpha: false-alarm rate.
        generator: source of perturbations and noise.

    Raises:
        AssertionError: a row states more than its votes allow, or is refuted.
        InvalidInput: a bad argument; a norm without random perturbations; so few draws that nothing could be refuted.
    """
    __tracebackhide__ = True
    from bounds import checks
    from certify.attacks.studies.guarantee_trials import Trials
    from certify.smoothing.classifiers.recount import unsupported

    checks.at_least("perturbations", perturbations, 0)
    checks.probability("alpha", alpha)
    _require_certificate_of(x, certificate)
    certificate = certificate.to(x.device)
    _require_own_record(smoothed, x, certificate)
    wrong = unsupported(smoothed, x, certificate)
    if wrong:
        lines = [f"row {row}: {reason}" for row, reason in wrong[:SHOWN]]
        raise AssertionError(message("certificates state more than their own votes allow", lines, len(wrong)))
    rows = (~certificate.abstained & (certificate.radius > 0)).nonzero().flatten()
    if len(rows) == 0:
        raise AssertionError(f"none of {len(x)} inputs is certified, so there is nothing to test")
    trials = Trials(smoothed, x, certificate, rows, draws, generator)
    attacked = trials.attackable if attack is None else attack
    tests = 1 + perturbations + (toward is not None) + attacked
    level = trials.level(alpha / tests)
    lines = trials.at_the_inputs(level)
    for _ in range(perturbations):
        lines += trials.moved("a random perturbation", trials.random(), level)
    if toward is not None:
        lines += trials.moved("a perturbation towards the given point", trials.towards(toward), level)
    if attacked:
        lines += trials.moved("an attack", trials.attacked(), level)
    record(
        "assert_smoothing_guarantee",
        norm=certificate.norm,
        radius=float(certificate.radius[rows].median()),
        n=len(rows),
        level=1 - alpha,
        refuted=len(lines),
    )
    if lines:
        headline = f"{len(lines)} perturbed inputs refute their certificates (false-alarm rate {alpha:g})"
        raise AssertionError(message(headline, lines[:SHOWN], len(lines)))
    return trials.predictions


def _require_certificate_of(x: "Tensor", certificate: "SmoothingCertificate") -> None:
    from bounds import InvalidInput, checks
    from certify.results import SmoothingCertificate

    if not isinstance(certificate, SmoothingCertificate):
        raise InvalidInput(
            f"certificate must be that of SmoothedClassifier.certify, with its votes, got {type(certificate).__name__}"
        )
    if certificate.norm not in (1, 2, math.inf):
        raise InvalidInput(f"certificate must be in the norm 1, 2 or math.inf, got {certificate.norm}")
    if len(checks.inputs(x)) != len(certificate):
        raise InvalidInput(f"x must hold the {len(certificate)} inputs of the certificate, got {len(x)}")


def _require_own_record(smoothed: "SmoothedClassifier", x: "Tensor", certificate: "SmoothingCertificate") -> None:
    """Fail where the record is about another classifier, norm or domain than that of ``smoothed``."""
    from certify.smoothing.drawing.distributions import on_grid

    subject = smoothed.subject(on_grid(smoothed.noise.distribution, smoothed.grid, x))
    for name, stated, own in (
        ("of", certificate.subject, subject),
        ("in the norm", certificate.norm, smoothed.noise.norm),
        ("of inputs of the domain", certificate.domain, smoothed.noise.domain),
    ):
        if stated != own:
            raise AssertionError(f"the certificates speak {name} {stated}, the smoothed classifier gives those {own}")
