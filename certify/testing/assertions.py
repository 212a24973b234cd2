"""Assertions about a network: its proofs, its bounds, and the noise law."""

import math
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Literal, ParamSpec, TypeVar

from certify.testing.recording import record

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from bounds import Interval, LpBall, NoiseRatioTest
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
    about: Literal["these inputs", "population"] = "these inputs",
    level: float = 0.95,
    method: str = "alpha_crown",
    low: "Limit" = 0.0,
    high: "Limit" = 1.0,
    generator: "torch.Generator | None" = None,
) -> "Verdict":
    """The verdict, if at least a share of the inputs is proved to keep their labels within ``epsilon``.

    A proof is not a guess, so the share of these inputs needs no confidence bound. With ``about="population"``, the
    one-sided Clopper-Pearson bound of the share in the population that the inputs were drawn from has to reach
    ``at_least``; then the assertion passes wrongly with probability at most ``1 - level``.

    False-alarm rate: 0 for inputs with a counter-example. Bounds that are too loose, and too few inputs for a statement
    about the population, also make the assertion fail; the message tells the cases apart.

    Args:
        model: maps (N, *D) to logits (N, K).
        x: (N, *D), at least one row.
        labels: (N,) correct classes.
        norm: order of the norm, from 1 to ``math.inf``; or 0 for changed entries.
        epsilon: radius, in units of the input.
        at_least: share of the inputs that has to be proved.
        about: whether the share is that of these inputs, or of their population.
        level: confidence of a statement about the population.
        method: tightest bounds to try, see :func:`certify.verify`.
        low: lower side of the box of valid inputs.
        high: upper side of it.
        generator: source of the attack's starting points.

    Raises:
        AssertionError: fewer are proved.
        InvalidInput: a bad argument.
    """
    __tracebackhide__ = True
    from certify.verification.verdicts import verify

    _require_rows(x)
    _require_share(at_least, about, level)
    verdict = verify(
        model, x, labels, norm=norm, epsilon=epsilon, method=method, low=low, high=high, generator=generator
    )
    share, bound = _shares(verdict, about, level)
    record(
        "assert_certified",
        norm=norm,
        radius=float(epsilon) if isinstance(epsilon, float | int) else "of each row",
        estimate=share,
        bound=bound,
        about=about,
        level=level,
        n=len(x),
        at_least=at_least,
    )
    if bound >= at_least:
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
    found = (
        f"{share:.1%} of {len(x)} inputs are proved to keep their labels within {_radius_in_words(epsilon)} in the "
        f"norm {norm:g}"
    )
    if about == "population":
        found += f"; at least {math.floor(1000 * bound) / 10:g}% of their population, with {level:.6g} confidence"
    raise AssertionError(message(f"{found}, less than {at_least:.1%}", lines, len(rows)))


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
    record("assert_sound_bounds", n=len(ball.center), bounds=sound.numel(), refuted=int((~sound).sum()))
    if bool(sound.all()):
        return interval
    wrong = (~sound).nonzero().tolist()
    lines = [
        f"row {i}, logit {k}: bounds [{float(interval.lower[i, k]):.6g}, {float(interval.upper[i, k]):.6g}], but "
        f"values from {float(lowest[i, k]):.6g} to {float(highest[i, k]):.6g} were reached"
        for i, k in wrong[:SHOWN]
    ]
    raise AssertionError(message(f"{len(wrong)} of {sound.numel()} bounds are not sound", lines, len(wrong)))


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
    low, high = (float(end) for end in found.effective_dimension_interval)
    record(
        "assert_noise_law",
        n=len(x),
        estimate=float(found.effective_dimension),
        lower=low,
        upper=high,
        level=1 - alpha,
    )
    if not found.law_holds:
        reason = "does not follow the sqrt(D) law"
        if found.law_holds is None:
            reason = "was not measured well enough to say: use more inputs or directions, or nearer bounds"
        raise AssertionError(f"the ratio of random to adversarial distances {reason}\n{found}")
    if flat and not found.boundary_is_flat:
        raise AssertionError(f"the decision boundary is not flat\n{found}")
    return found


# --------------------------------------------------------------------------------------------------------------- parts


def _require_rows(x: "Tensor") -> None:
    from bounds import InvalidInput

    if len(x) == 0:
        raise InvalidInput("x must hold at least one input: an assertion about none would always pass")


def _require_share(at_least: float, about: str, level: float) -> None:
    from bounds import InvalidInput, checks

    if not 0 < at_least <= 1:
        raise InvalidInput(f"at_least must lie in (0, 1], got {at_least}: an assertion about no input always passes")
    checks.one_of("about", about, ("these inputs", "population"))
    checks.probability("level", level)
    if about == "population" and at_least == 1:
        raise InvalidInput(
            "at_least must be below 1 for a statement about the population, got 1: no number of inputs shows that all "
            'are certified, so pass at_least=0.9, or about="these inputs"'
        )


def _shares(verdict: "Verdict", about: str, level: float) -> tuple[float, float]:
    """Share of the inputs that are proved, and its bound."""
    from bounds import clopper_pearson_lower

    proved, inputs = verdict.verified.sum(), len(verdict)
    share = int(proved) / inputs
    if about == "these inputs":
        return share, share
    return share, float(clopper_pearson_lower(proved, inputs, alpha=1 - level))


def _radius_in_words(epsilon: "float | Tensor") -> str:
    return f"{epsilon:g}" if isinstance(epsilon, float | int) else "the radius of each row"


def message(headline: str, lines: list[str], count: int) -> str:
    """A headline, some lines, and how many more there would be of ``count``."""
    rest = [f"and {count - len(lines)} more"] if count > len(lines) else []
    return "\n  ".join([headline, *lines, *rest])
