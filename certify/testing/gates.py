"""Assertions that hold certified accuracy to a threshold, and to that of an earlier run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from certify.testing.recording import record

if TYPE_CHECKING:
    from torch import Tensor

    from certify.comparison.regressions import Change
    from certify.evaluation.evaluation import Evaluation
    from certify.requirements import JudgedRequirement
    from certify.results import Certificate


def assert_certified_accuracy(
    certificate: "Certificate",
    labels: "Tensor",
    *,
    radius: float,
    at_least: float,
    about: Literal["population", "these inputs"] = "population",
    level: float = 0.95,
    judge: Literal["bound", "estimate"] = "bound",
) -> "JudgedRequirement":
    """Judgement of certified accuracy at a radius, if its one-sided confidence bound reaches a threshold.

    Certificates that may be wrong, such as those of smoothing, are counted in: see
    :func:`certify.smoothing.certified_accuracy_at_least`. The assertion passes wrongly with probability at most
    ``1 - level``. False-alarm rate: it fails for lack of evidence, so take more inputs where the share is near to the
    threshold.

    Args:
        certificate: of N inputs.
        labels: (N,) correct classes.
        radius: at least 0, in units of the input.
        at_least: share of inputs, in [0, 1].
        about: ``"population"``, from which the inputs were drawn independently, or ``"these inputs"``.
        level: confidence of the bound.
        judge: ``"bound"``, or ``"estimate"`` for the share as counted, without any guarantee.

    Raises:
        AssertionError: the threshold is missed; the message has estimate, bound, level and number of inputs.
        InvalidInput: a bad argument.
    """
    __tracebackhide__ = True
    from bounds import InvalidInput, checks
    from certify.curves import CertifiedAccuracyCurve
    from certify.requirements import Threshold, judged

    if not 0 <= at_least <= 1:
        raise InvalidInput(f"at_least must lie in [0, 1], got {at_least}: it is a share of the inputs")
    checks.one_of("about", about, ("population", "these inputs"))
    checks.one_of("judge", judge, ("bound", "estimate"))
    curve = CertifiedAccuracyCurve.from_certificate(certificate, labels)
    wanted = Threshold(
        method=certificate.method,
        norm=certificate.norm,
        radius=checks.nonnegative("radius", radius),
        at_least=at_least,
        judge=judge,
        about=about,
        level=checks.probability("level", level),
    )
    found = judged(curve, wanted, noise_group=getattr(certificate, "noise_group", 1))
    record(
        "assert_certified_accuracy",
        method=wanted.method,
        norm=wanted.order,
        radius=wanted.radius,
        estimate=found.estimate,
        bound=found.bound,
        judge=judge,
        about=about,
        level=level,
        alpha=found.alpha,
        n=found.inputs,
        at_least=at_least,
    )
    if not found.met:
        raise AssertionError(str(found))
    return found


def assert_no_regression(
    current: "Evaluation | Path | str",
    baseline: "Evaluation | Path | str",
    *,
    radii: Sequence[float] | None = None,
    about: Literal["population", "these inputs"] = "population",
    level: float = 0.95,
) -> "list[Change]":
    """Changes of certified accuracy since an earlier run on the same inputs, if it fell nowhere.

    Each radius, norm and kind of certificate is judged by McNemar's exact test, one-sided, and all are corrected by
    Holm's method. False-alarm rate: at most ``1 - level`` where nothing fell in the population of the inputs.

    Args:
        current: what :func:`certify.evaluate` returned, or a run directory.
        baseline: the earlier one.
        radii: at which both are compared; those that the current run requires, else round ones where curves fall.
        about: ``"population"`` for the test; with ``"these inputs"``, any fall of the share fails.
        level: confidence of the test.

    Raises:
        AssertionError: certified accuracy fell; the message has both shares, and how many inputs were lost and gained.
        InvalidInput: a bad argument; runs that cannot be compared.
    """
    __tracebackhide__ = True
    from certify.comparison.regressions import regressions
    from certify.evaluation.evaluation import Evaluation

    now, then = (Evaluation.load(one) if isinstance(one, Path | str) else one for one in (current, baseline))
    changes = regressions(now, then, radii=radii, about=about, level=level)
    for change in changes:
        record(
            "assert_no_regression",
            of=change.about,
            radius=change.radius,
            estimate=change.after / change.inputs,
            before=change.before / change.inputs,
            lost=change.lost,
            gained=change.gained,
            p_holm=change.p_holm,
            about=about,
            level=level,
            n=change.inputs,
        )
    if fell := [str(change) for change in changes if change.fell]:
        raise AssertionError("\n  ".join(["certified accuracy fell", *fell]))
    return changes
