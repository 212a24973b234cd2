"""Certified accuracy of a run against that of an earlier one on the same inputs: did it fall?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bounds import checks
from bounds.errors import InvalidInput
from bounds.statistics.paired import discordant, holm, mcnemar_p_value
from certify.comparison.contenders import Contender, contenders_of, require_comparable
from certify.curves import round_radii
from certify.evaluation.evaluation import Evaluation
from certify.evaluation.summaries.tables import are_images
from certify.report.words import listed, stated_radius
from certify.requirements import LEVEL, About

Pair = tuple[Contender, Contender]


@dataclass(frozen=True, kw_only=True)
class Change:
    """Certified accuracy at one radius before and now; ``str()`` says it in one sentence.

    Attributes:
        about: norm, classifiers and promise that both certificates share.
        norm: order of the norm.
        radius: in units of the input.
        inputs: number of inputs.
        before: of them, those certified by the earlier run.
        after: those certified now.
        lost: certified then and not now.
        gained: certified now and not then.
        p_value: of McNemar's exact test, one-sided, that nothing fell.
        p_holm: corrected by Holm's method for all radii, norms and classifiers that are compared.
        level: confidence of the test.
        subject: ``"population"``, in which a test has to show the fall, or ``"these inputs"``, where any fall counts.
        eight_bit: whether the inputs are 8-bit images in [0, 1].
    """

    about: str
    norm: float
    radius: float
    inputs: int
    before: int
    after: int
    lost: int
    gained: int
    p_value: float
    p_holm: float = 1.0
    level: float
    subject: About
    eight_bit: bool = False

    @property
    def fell(self) -> bool:
        """Whether certified accuracy fell: beyond doubt in the population, or at all on these inputs."""
        return self.lost > self.gained if self.subject == "these inputs" else self.p_holm <= 1 - self.level

    @property
    def name(self) -> str:
        """The kind of statement, and the radius."""
        return f"{self.about}, radius {stated_radius(self.radius, self.norm, self.eight_bit)}"

    def __str__(self) -> str:
        """Both accuracies, how many inputs changed, the test and its level."""
        counts = (
            f"certified {self.after} of {self.inputs} inputs, {self.before} before ({self.lost} lost, {self.gained} "
        )
        judged = f"p = {self.p_holm:.3g} by McNemar's exact test (one-sided, Holm), a fall up to {1 - self.level:.3g}"
        if self.subject == "these inputs":
            judged = "these inputs alone are judged, so any fall counts"
        return f"{self.name}: {counts}gained); {judged}"


def regressions(
    current: Evaluation,
    baseline: Evaluation,
    *,
    radii: Sequence[float] | None = None,
    about: About = "population",
    level: float = LEVEL,
    names: tuple[str, str] = ("this run", "the run before"),
) -> list[Change]:
    """Changes of certified accuracy since an earlier run on the same inputs, at one or several radii.

    Of several methods with one kind of promise, the best result of each input counts. Each change has the one-sided
    p-value of McNemar's exact test, and all are corrected by Holm's method: where no accuracy fell in the population
    that the inputs were drawn from, any is called a fall with probability at most ``1 - level``.

    Certified accuracy is compared as it is counted. Certificates of smoothing may be wrong, each with probability
    alpha; :func:`certify.requirements.judged` takes that into account, a comparison does not.

    Args:
        current: the run that is judged.
        baseline: the earlier run.
        radii: at which both are compared, in all norms; None for those of ``[[require]]`` in the same norm, else round
            ones where the curves of both fall.
        about: ``"population"`` for the test; ``"these inputs"`` calls any fall of the share one, without a test.
        level: confidence of the test.
        names: of both, for messages.

    Raises:
        InvalidInput: the runs cannot be compared: other inputs, labels or box, one is unfinished, or the earlier run
            has certificates of a kind that the current one lacks.

    References:
        McNemar (1947), Psychometrika 12; Holm (1979), Scandinavian Journal of Statistics 6.
    """
    checks.one_of("about", about, ("population", "these inputs"))
    checks.probability("level", level)
    names = names if names[0] != names[1] else (names[0], f"{names[1]} before")
    require_comparable({names[1]: baseline, names[0]: current})
    stated = None if radii is None else [checks.nonnegative("radius", one) for one in checks.several("radii", radii)]
    settings: dict[str, Any] = {"level": level, "subject": about, "eight_bit": are_images(current.manifest)}
    found = []
    for before, after in _pairs(baseline, current, names):
        norm = before.panel.norm
        required = [one.wanted.radius for one in current.requirements() if one.wanted.order == norm]
        for radius in stated or sorted(set(required)) or round_radii([before.curve, after.curve]):
            found.append(Change(**_counts(before, after, radius), **settings))
    corrected = holm([change.p_value for change in found])
    return [replace(change, p_holm=p) for change, p in zip(found, corrected, strict=True)]


def _counts(before: Contender, after: Contender, radius: float) -> dict[str, Any]:
    then, now = before.counted(radius), after.counted(radius)
    lost, gained = discordant(then, now)
    return {
        "about": f"{after.panel}, {after.promise}",
        "norm": after.panel.norm,
        "radius": float(radius),
        "inputs": len(now),
        "before": int(then.sum()),
        "after": int(now.sum()),
        "lost": lost,
        "gained": gained,
        "p_value": mcnemar_p_value(lost, gained, one_sided=True),
    }


def _pairs(baseline: Evaluation, current: Evaluation, names: tuple[str, str]) -> list[Pair]:
    """Certificates of one kind in both runs: of the same smoothing, or of the only one that is left in each."""
    now, then = _certified(current), _certified(baseline)
    if not then:
        raise InvalidInput(f"{names[1]!r} has no certificate, so nothing can fall: name a run with certificates")
    pairs, lacking = [], []
    for before in then:
        same = [one for one in now if _kind(one) == _kind(before)]
        equal = [one for one in same if one.setting == before.setting]
        settings = {one.setting for one in then if _kind(one) == _kind(before)}
        left = [one for one in same if one.setting not in settings]
        alone = len(settings - {one.setting for one in same}) == 1 == len(left)
        if equal or alone:
            pairs.append((before, (equal or left)[0]))
        else:
            lacking.append(f"{before.promise} ({before.panel}{before.setting and ', '}{before.setting})")
    if lacking:
        raise InvalidInput(
            f"{names[0]!r} cannot be compared with {names[1]!r}: it has no certificates of the kind {listed(lacking)}; "
            "run the same methods in the same norms"
        )
    return pairs


def _certified(evaluation: Evaluation) -> list[Contender]:
    return [one for one in contenders_of({"": evaluation}, "model") if one.bounds_below]


def _kind(one: Contender) -> tuple[object, str]:
    return one.panel, one.promise
