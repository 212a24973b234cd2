"""Assertions about a trained network for your own test suite, and a pytest plugin with fixtures.

The plugin is found by pytest where this package is installed. It imports torch when an assertion is called or a fixture
asked for, and not before. Assertions can be called without pytest, too, and return what they found.

Each one states its false-alarm rate: the probability that it fails although what it asserts is true.
"""

import math
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import pytest

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from bounds import Interval, LpBall, NoiseRatioTest
    from certify.reference import Reference
    from certify.results import SmoothedPrediction, SmoothingCertificate
    from certify.smoothing import SmoothedClassifier
    from certify.verification.verdicts import Verdict

    Limit = float | Tensor | None
    Bound = Callable[[nn.Module, LpBall], Interval]

SHOWN = 5  # rows of a failure that are written out
TOLERANCE = 1e-9  # relative, of logits that are computed in float64

P = ParamSpec("P")
R = TypeVar("R")


def _isolated(assertion: "Callable[P, R]") -> "Callable[P, R]":
    """Run an assertion apart from the caller's modes, with torch imported when it is called and not before."""

    @wraps(assertion)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        __tracebackhide__ = True
        from bounds.circumstances import isolated

        return isolated(assertion)(*args, **kwargs)

    return wrapped


def assert_certified(
    model: "nn.Module",
    x: "Tensor",
    labels: "Tensor",
    *,
    norm: float,
    epsilon: "float | Tensor",
    at_least: float = 1.0,
    method: str = "alpha_crown",
    low: "Limit" = 0.0,
    high: "Limit" = 1.0,
    generator: "torch.Generator | None" = None,
) -> "Verdict":
    """The verdict, if at least a share of the inputs is proved to keep their labels within ``epsilon``.

    False-alarm rate: 0 for inputs with a counter-example. Bounds that are too loose also make the assertion fail; the
    message tells the two cases apart.

    Args:
        model: maps (N, *D) to logits (N, K).
        x: (N, *D), at least one row.
        labels: (N,) correct classes.
        norm: order of the norm, from 1 to ``math.inf``; or 0 for changed entries.
        epsilon: radius, in units of the input.
        at_least: share of the inputs that has to be proved.
        method: tightest bounds to try, see :func:`certify.verify`.
        low: lower side of the box of valid inputs.
        high: upper side of it.
        generator: source of the attack's starting points.

    Raises:
        AssertionError: fewer are proved.
        InvalidInput: a bad argument.
    """
    __tracebackhide__ = True
    from bounds import InvalidInput
    from certify.verification.verdicts import verify

    _require_rows(x)
    if not 0 < at_least <= 1:
        raise InvalidInput(f"at_least must lie in (0, 1], got {at_least}: an assertion about no input always passes")
    verdict = verify(
        model, x, labels, norm=norm, epsilon=epsilon, method=method, low=low, high=high, generator=generator
    )
    share = float(verdict.verified.double().mean())
    if share >= at_least:
        return verdict
    rows = (~verdict.verified).nonzero().flatten().tolist()
    lines = []
    for row in rows[:SHOWN]:
        if verdict.decided_by[row] == "clean":
            lines.append(f"row {row}: misclassified as {int(verdict.label[row])} as it is")
        elif bool(verdict.falsified[row]):
            lines.append(f"row {row}: an adversarial example lies at {float(verdict.distance[row]):.6g}")
        else:
            lines.append(
                f"row {row}: not proved and not refuted, least margin at best {float(verdict.margin[row]):.6g}"
            )
    raise AssertionError(
        _message(
            f"{share:.1%} of {len(x)} inputs are proved to keep their labels within {_radius_in_words(epsilon)} "
            f"in the norm {norm:g}, less than {at_least:.1%}",
            lines,
            len(rows),
        )
    )


@_isolated
def assert_sound_bounds(
    model: "nn.Module",
    ball: "LpBall",
    *,
    bound: "Bound | None" = None,
    samples: int = 200,
    steps: int = 10,
    generator: "torch.Generator | None" = None,
) -> "Interval":
    """The bounds, if no logit of any perturbed input that was tried lies outside of them.

    The assertion tries random points of the ball, random points of its surface and, for each logit and side, points
    along gradient steps. False-alarm rate: 0, since a logit outside refutes the bounds; it is computed in
    float64, with a tolerance of 1e-9 of the largest logit.

    Args:
        model: maps (N, *D) to logits (N, K).
        ball: the perturbation set.
        bound: takes the model and the ball, gives an interval of shapes (N, K); :func:`bounds.crown` for None. Your own
            can be tested against any network in this way.
        samples: random points for each input, half of them on the surface.
        steps: gradient steps for each logit and side.
        generator: source of the points.

    Raises:
        AssertionError: a logit lies outside, or a bound is not a number.
        InvalidInput: a bad argument.
    """
    __tracebackhide__ = True
    import copy

    import torch

    from bounds import InvalidInput, checks, crown
    from certify.attacks.studies.reached_logits import reached_logits
    from certify.models import frozen, probe

    checks.at_least("samples", samples, 2)
    checks.at_least("steps", steps, 0)
    _require_rows(ball.center)
    interval = (crown if bound is None else bound)(model, ball)
    exact = copy.deepcopy(model).double()
    with frozen(exact), torch.enable_grad():
        shape = (len(ball.center), probe(exact, ball.center.double()))
        if not interval.lower.shape == interval.upper.shape == shape:
            raise InvalidInput(f"bound must give an interval of shapes {shape}, got {tuple(interval.lower.shape)}")
        lowest, highest = reached_logits(exact, ball, shape[1], samples, steps, generator)
    slack = TOLERANCE * torch.maximum(lowest.abs(), highest.abs()).amax().clamp(min=1)
    sound = (interval.lower.double() <= lowest + slack) & (highest - slack <= interval.upper.double())  # False for NaN
    if bool(sound.all()):
        return interval
    wrong = (~sound).nonzero().tolist()
    lines = [
        f"row {i}, logit {k}: bounds [{float(interval.lower[i, k]):.6g}, {float(interval.upper[i, k]):.6g}], but "
        f"values from {float(lowest[i, k]):.6g} to {float(highest[i, k]):.6g} were reached"
        for i, k in wrong[:SHOWN]
    ]
    raise AssertionError(_message(f"{len(wrong)} of {sound.numel()} bounds are not sound", lines, len(wrong)))


def assert_noise_law(
    model: "nn.Module",
    x: "Tensor",
    *,
    flat: bool = False,
    minimal: "Tensor | tuple[Tensor, Tensor] | None" = None,
    directions: int = 200,
    alpha: float = 1e-3,
    generator: "torch.Generator | None" = None,
) -> "NoiseRatioTest":
    """The test, if random noise has to be about sqrt(D) times as large as the worst perturbation.

    The criterion is that the effective dimension of the model around the inputs may be that of flat boundaries. With
    ``flat``, the whole law of flat boundaries has to fit, too, which it does for fewer networks. False-alarm rate:
    about ``alpha`` for an affine classifier, twice that with ``flat``; not stated where the search does not find the
    nearest boundary.

    Args:
        model: maps (N, *D) to logits (N, K), differentiable.
        x: (N, *D), ten inputs or more for a narrow interval.
        flat: whether flatness is asserted, too.
        minimal: known distances to the boundary, see :func:`bounds.noise_ratio_test`.
        directions: random lines through each input.
        alpha: of the interval and of the test of flatness.
        generator: source of all randomness.

    Raises:
        AssertionError: one of the verdicts is no.
        InvalidInput: a bad argument.
    """
    __tracebackhide__ = True
    from bounds import noise_ratio_test

    found = noise_ratio_test(
        model, x, minimal=minimal, directions=directions, dimensions=[1], alpha=alpha, generator=generator
    )
    if not found.law_holds:
        reason = "does not follow the sqrt(D) law"
        if found.law_holds is None:
            reason = "was not measured well enough to say: use more inputs or directions, or nearer bounds"
        raise AssertionError(f"the ratio of random to adversarial distances {reason}\n{found}")
    if flat and not found.boundary_is_flat:
        raise AssertionError(f"the decision boundary is not flat\n{found}")
    return found


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
        raise AssertionError(_message("certificates state more than their own votes allow", lines, len(wrong)))
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
    if lines:
        headline = f"{len(lines)} perturbed inputs refute their certificates (false-alarm rate {alpha:g})"
        raise AssertionError(_message(headline, lines[:SHOWN], len(lines)))
    return trials.predictions


# ------------------------------------------------------------------------------------------------------------ fixtures


@pytest.fixture(scope="session")
def certify_reference() -> "Callable[[str, int], Reference]":
    """Loader of the embedded networks: of a name and a number of images, a network with images and labels.

    See :func:`certify.reference.load`.
    """
    from certify.reference import load

    return load


@pytest.fixture
def certify_generator() -> "torch.Generator":
    """A random generator on the CPU with a fixed seed, new for each test."""
    import torch

    return torch.Generator().manual_seed(0)


# --------------------------------------------------------------------------------------------------------------- parts


def _require_rows(x: "Tensor") -> None:
    from bounds import InvalidInput

    if len(x) == 0:
        raise InvalidInput("x must hold at least one input: an assertion about none would always pass")


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


def _radius_in_words(epsilon: "float | Tensor") -> str:
    return f"{epsilon:g}" if isinstance(epsilon, float | int) else "the radius of each row"


def _message(headline: str, lines: list[str], count: int) -> str:
    rest = [f"and {count - len(lines)} more"] if count > len(lines) else []
    return "\n  ".join([headline, *lines, *rest])
