"""Requirements on the accuracy at a radius: judged by a one-sided confidence bound, in one sentence."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import torch
from msgspec import Meta

from bounds import clopper_pearson_lower
from bounds.sets.orders import Order, order_of
from certify.curves import AccuracyCurve, CertifiedAccuracyCurve
from certify.report.words import norm_name, rounded_down, stated_radius
from certify.results import Certificate
from certify.smoothing import certified_accuracy_at_least

About = Literal["population", "these inputs"]
Judge = Literal["bound", "estimate"]
LEVEL = 0.95  # confidence of a bound where none is stated


class Threshold(msgspec.Struct, frozen=True):
    """A threshold as a manifest states it; see :class:`certify.configuration.config.Requirement`."""

    method: str
    norm: str | float
    radius: Annotated[float, Meta(ge=0)]
    at_least: float
    judge: Judge = "bound"
    about: About = "population"
    level: Annotated[float, Meta(gt=0, lt=1)] = LEVEL

    @property
    def order(self) -> Order:
        """The norm as a number, or the set of perturbations in its place."""
        return order_of(self.norm)


@dataclass(frozen=True, kw_only=True)
class JudgedRequirement:
    """A requirement with the numbers that decide it; ``str()`` says them in one sentence.

    Attributes:
        wanted: what is required.
        count: inputs that count at the radius: certified, or not broken where the method is an attack.
        inputs: all inputs; 0 where there is no result.
        bound: one-sided lower confidence bound of the share; NaN where there is no result.
        attainable: the bound if every input counted.
        alpha: probability, per input, that its certificate is wrong, which ``bound`` includes.
        attacked: whether the method looks for adversarial examples, so that nothing is proved.
        eight_bit: whether the inputs are 8-bit images in [0, 1].
    """

    wanted: Threshold
    count: int = 0
    inputs: int = 0
    bound: float = math.nan
    attainable: float = math.nan
    alpha: float = 0.0
    attacked: bool = False
    eight_bit: bool = False

    @property
    def estimate(self) -> float:
        """Share of the inputs that count; NaN where there is no result."""
        return self.count / self.inputs if self.inputs else math.nan

    @property
    def met(self) -> bool:
        """Whether the number that is judged reaches the threshold."""
        return (self.bound if self.wanted.judge == "bound" else self.estimate) >= self.wanted.at_least

    @property
    def name(self) -> str:
        """The method, norm and radius."""
        radius = stated_radius(self.wanted.radius, self.wanted.order, self.eight_bit)
        return f"{self.wanted.method} in {norm_name(self.wanted.order)} at radius {radius}"

    def __str__(self) -> str:
        """Estimate, bound, level, population, number of inputs and threshold."""
        if not self.inputs:
            return f"{self.name} has no result; at least {self.wanted.at_least:g} is required"
        did = "did not break" if self.attacked else "certified"
        found = f"{self.name} {did} {self.count} of {self.inputs} inputs ({self.estimate:.4g})"
        return f"{found}; {self._judged()}; at least {self.wanted.at_least:g} is required{self._remedy()}"

    def _judged(self) -> str:
        if self.wanted.judge == "estimate":
            return "this estimate is judged, without a confidence bound"
        confidence = f"with {100 * self.wanted.level:.6g} % confidence"
        if self.wanted.about == "population":
            return f"at least {rounded_down(self.bound)} of the population of these inputs {confidence}"
        if self.alpha == 0:
            return "judged about these inputs alone, where the share has no sampling error"
        return f"at least {round(self.bound * self.inputs)} of these {self.inputs} inputs {confidence}"

    def _remedy(self) -> str:
        """Advice where no result at all could meet the threshold with so few inputs."""
        if self.met or self.wanted.judge == "estimate" or self.attainable >= self.wanted.at_least:
            return ""
        most = f": so many inputs show at most {rounded_down(self.attainable)}, so take more"
        return most + (', or write about = "these inputs"' if self.wanted.about == "population" else "")


@dataclass(frozen=True, eq=False, kw_only=True)
class _Rows(Certificate):
    """Certificates of a curve, of which so many of consecutive inputs may be wrong together."""

    noise_group: int


def judged(
    curve: AccuracyCurve | None, wanted: Threshold, *, noise_group: int = 1, eight_bit: bool = False
) -> JudgedRequirement:
    r"""Judgement of a requirement by the results of its method.

    About the population, a certificate that is wrong with probability at most :math:`\alpha` makes a share :math:`s`
    of robust inputs look like at most :math:`q = s + (1 - s) \alpha`. So the bound is :math:`(q_- - \alpha) /
    (1 - \alpha)`, with the Clopper-Pearson lower bound :math:`q_-`. About these inputs, the number of wrong
    certificates is at most the quantile of Binomial(n, :math:`\alpha`), which is subtracted; nothing, where they are
    proved. Both are :func:`certify.smoothing.certified_accuracy_at_least`. For an attack, the share that it does not
    break is bounded: that says nothing of attacks that were not run.

    A gate of several such requirements passes wrongly with probability at most 1 minus their level, however many they
    are: to pass, it has to pass the one that does not hold, too.

    Args:
        curve: certified or attacked accuracy; None where there is no result.
        wanted: what is required.
        noise_group: consecutive inputs that share noise draws.
        eight_bit: whether radii are said in levels of 8-bit images too.

    References:
        Clopper, Pearson (1934), Biometrika 26; Berger (1982), Multiparameter hypothesis testing and acceptance
        sampling, Technometrics 24, for tests of which all must reject.
    """
    if curve is None:
        return JudgedRequirement(wanted=wanted, eight_bit=eight_bit)
    count, inputs = int(curve.counts(wanted.radius)), len(curve.limit)
    if isinstance(curve, CertifiedAccuracyCurve):
        bounds = [_of_certificates(curve, wanted, noise_group, reached) for reached in (False, True)]
    else:
        bounds = [_of_attacks(each, inputs, wanted) for each in (count, inputs)]
    return JudgedRequirement(
        wanted=wanted,
        count=count,
        inputs=inputs,
        bound=bounds[0],
        attainable=bounds[1],
        alpha=curve.alpha,
        attacked=not isinstance(curve, CertifiedAccuracyCurve),
        eight_bit=eight_bit,
    )


def judged_requirements(
    manifest: Mapping[str, Any], curves: Sequence[AccuracyCurve], eight_bit: bool
) -> list[JudgedRequirement]:
    """Every ``[[require]]`` of a manifest, judged by the curve of its method and norm."""
    by_name = {(curve.method, curve.norm): curve for curve in curves}
    settings = manifest.get("configuration", {}).get("methods", {})
    found = []
    for stated in manifest.get("source", {}).get("require", []):
        wanted = msgspec.convert(stated, Threshold)
        curve, shared = (
            by_name.get((wanted.method, wanted.order)),
            settings.get(wanted.method, {}).get("noise_group", 1),
        )
        found.append(judged(curve, wanted, noise_group=shared, eight_bit=eight_bit))
    return found


def _of_certificates(curve: CertifiedAccuracyCurve, wanted: Threshold, noise_group: int, reached: bool) -> float:
    """The bound; with ``reached``, the one if every input were certified."""
    limit = torch.full_like(curve.limit, math.inf) if reached else curve.limit
    rows = _Rows(
        label=torch.zeros_like(limit, dtype=torch.int64),
        radius=limit.clamp(min=0),
        abstained=limit < 0,
        norm=math.nan,  # which has no say in it
        alpha=curve.alpha,
        subject=curve.subject,
        method=curve.method,
        noise_group=noise_group,
    )
    said = certified_accuracy_at_least(rows, rows.label, wanted.radius, wanted.level)
    return float(said.population_lower if wanted.about == "population" else said.lower)


def _of_attacks(count: int, inputs: int, wanted: Threshold) -> float:
    if wanted.about == "these inputs":
        return count / inputs
    return float(clopper_pearson_lower(torch.tensor(count, device="cpu"), inputs, alpha=1 - wanted.level))
