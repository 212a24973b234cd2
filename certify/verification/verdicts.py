"""Verified, falsified or unknown: one radius, by attack and by bounds from cheap to tight."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn

from bounds import AFFINE, FUNCTIONS, Affine, Box, Graph, PerturbationSet, capture, checks, margin_bounds
from bounds.checks import Limit
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.linear.ladder import margins_in_turn
from bounds.linear.methods import METHODS
from bounds.memory import MEMORY
from bounds.operations.functions import Maker as FunctionMaker
from bounds.sets.balls import tells_members
from certify.attacks import counterfactual, minimal_perturbation, robust_accuracy
from certify.attacks.common.threat import check_alone, check_around
from certify.attacks.studies.counterfactual import lists_changes
from certify.models import frozen, predictions_and_labels, probe
from certify.results import AttackedAccuracy, Record, Witness
from certify.verification.complete import COMPLETE, PROVED, Around, LabelSearch, require_searchable
from certify.verification.deadlines import deadline_after, share
from certify.verification.radius import bounded_form, least_margin
from certify.verification.sets import checked_epsilon, family_of

SET_STEPS = 40  # of the attack in sets of the caller's own, for each class
ATTACKED = (0.0, 1.0, 2.0, math.inf)  # norms for which there is an attack


@dataclass(frozen=True, eq=False, kw_only=True)
class Verdict(Record):
    """Verified, falsified or unknown: each input with its perturbations up to a radius.

    Attributes:
        label: (N,) int64, the predicted class; -1 where a logit is not finite.
        verified: (N,) bool, True where the model is proved to predict the given label for all of them.
        falsified: (N,) bool, True where one of them, or the input itself, was found to get another label.
        margin: (N,) float64, the best proved lower bound on the least margin; above 0 where a bounding method verified
            the row, minus infinity where no bound was asked for.
        adversarial: (N, *D), the input found; the clean input where none was.
        distance: (N,) float64, of ``adversarial``, run through the model once more; infinite where none was found. In
            l-infinity where no norm was given, and the number of changes in sets of few changed features or words.
        decided_by: for each row, ``"clean"``, ``"attack"``, the bounding method, the means of the complete search, or
            ``""`` where it is unknown.
        epsilon: (N,) float64, the radius; NaN for sets of one's own.
        norm: order of the norm; 0 for the number of changed entries, NaN for sets of one's own.
        sound: the arithmetic that ``verified`` is about, see :func:`bounds.crown`.
        subject: the classifier it speaks of.
    """

    verified: Tensor
    falsified: Tensor
    margin: Tensor
    adversarial: Tensor
    distance: Tensor
    decided_by: tuple[str, ...]
    epsilon: Tensor
    norm: float
    sound: str
    subject: str = "base"

    @property
    def unknown(self) -> Tensor:
        """(N,) bool, True where neither a proof nor an adversarial example was found."""
        return ~(self.verified | self.falsified)


@isolated
def verify(
    model: nn.Module,
    x: Tensor,
    labels: Tensor | None = None,
    *,
    norm: float | None = None,
    epsilon: float | Tensor | None = None,
    method: str = "alpha_crown",
    low: Limit = 0.0,
    high: Limit = 1.0,
    frozen_features: Tensor | None = None,
    perturbation: PerturbationSet | None = None,
    attack: bool = True,
    steps: int = 20,
    timeout: float | None = None,
    sound: str = "rounding",
    batch_size: int = 64,
    memory: int = MEMORY,
    generator: Generator | None = None,
    table: Mapping[str, Affine] = AFFINE,
    functions: Mapping[str, FunctionMaker] = FUNCTIONS,
) -> Verdict:
    """Whether the model predicts the given label for all inputs of the ball and the box.

    Each input is first run as it is, then attacked, then bounded by ``"ibp"``, ``"crown_ibp"``, ``"fast_lin"``,
    ``"crown"`` and ``"alpha_crown"`` up to ``method``; what is decided goes no further. A row is verified only by
    a proof, in float64 whatever the model's dtype, and falsified only by an input that the model was run on once more.

    Args:
        model: any network that ``torch.export`` follows.
        x: (N, *D), floating, finite, inside the box.
        labels: (N,) correct classes; None for those that the model predicts.
        norm: order of the norm, from 1 to ``math.inf``; or 0 for the number of changed entries. None with
            ``perturbation``, as epsilon.
        epsilon: the radius, a number or (N,) with one for each input, in units of the input; one integer for norm 0.
        method: the last bounding method to try. ``"complete"``: what ``"crown"`` leaves
            open is searched by branch and bound, in l-infinity and for a :class:`bounds.Box`.
        low: lower side of the box: a number, a tensor that broadcasts to one input, or None.
        high: upper side of the box, likewise.
        frozen_features: bool, broadcasts to one input; True where no perturbation may change it.
        perturbation: for sets of one's own, instead of a norm, a radius and a box: N sets in float64, each of which
            holds its input, with their :meth:`bounds.PerturbationSet.rows`.
        attack: whether to look for adversarial examples: in l0, l1, l2 and l-infinity, and in sets of one's own that
            define :meth:`bounds.PerturbationSet.contains`.
        steps: of ascent for ``"alpha_crown"``.
        timeout: seconds for the searches of ``"complete"``, of all inputs together; None for no limit.
        sound: ``"rounding"``, ``"real"`` or ``"deployed"``, see :func:`bounds.crown`.
        batch_size: inputs bounded at once.
        memory: bytes that the coefficients of linear bounds may take.
        generator: source of the attack's random starts.
        table: affine operations of captured networks, see :func:`bounds.crown`.
        functions: makers of the functions of their other operations.

    Returns:
        A verdict for each input.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.
        UnsupportedLayer: the bounds know no rule for an operation.
    """
    checks.one_of("method", method, (*METHODS, COMPLETE))
    batch_size = checks.at_least("batch_size", batch_size, 1)
    checks.at_least("memory", memory, 1)
    if timeout is not None:
        checks.positive("timeout", timeout)
    if perturbation is None:
        region: _Region = _balls(x, norm, epsilon, low, high, frozen_features)
    else:
        region = _own(x, norm, epsilon, frozen_features, perturbation)
    x = x.detach()
    if method == COMPLETE:
        require_searchable(region.rows(torch.arange(len(x), device=x.device)))
    with frozen(model):
        num_classes = probe(model, x, batch_size=min(batch_size, len(x))) if len(x) else 2
        predicted, labels = predictions_and_labels(model, x, labels, num_classes, batch_size)
        state = _Verdicts(x, predicted, labels)
        if attack and bool(state.open.any()):
            region.attack(model, x, labels, state, batch_size, generator)
        last = "crown" if method == COMPLETE else method
        bound = {"steps": steps, "sound": sound, "memory": memory, "table": table, "functions": functions}
        bounded = _climbed(model, x, labels, state, region, last, batch_size, bound)
        if method == COMPLETE and bool(state.open.any()):
            search = LabelSearch(model, bounded, num_classes, sound, memory)
            rows = state.open.nonzero().squeeze(1)
            end = deadline_after(timeout)
            for place, row in enumerate(rows.split(1)):
                around = search(region.rows(row), x[row], int(labels[row]), share(end, len(rows) - place))
                state.end(row, around)
    return state.verdict(region.epsilon, region.order, sound)


def _climbed(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    state: "_Verdicts",
    region: "_Region",
    last: str,
    batch_size: int,
    options: dict[str, Any],
) -> nn.Module | Graph:
    """The model as it was bounded, by each method in turn up to the last one, where rows are open."""
    bounded: nn.Module | Graph = model
    with torch.no_grad():
        if bool(state.open.any()):
            bounded = bounded_form(model, x, "ibp", region.order, options["sound"])
            for rows in state.open.nonzero().squeeze(1).split(batch_size):
                margins = margin_bounds(bounded, region.rows(rows), labels[rows], "ibp", **options)
                state.bound(rows, least_margin(margins, labels[rows]), "ibp")
        if bool(state.open.any()) and last != "ibp":
            bounded = capture(bounded, x)
            for rows in state.open.nonzero().squeeze(1).split(batch_size):
                for part in margins_in_turn(bounded, region.rows(rows), labels[rows], last, **options):
                    here = rows[part.places]
                    state.bound(here, least_margin(part.margins, labels[here]), part.method)
    return bounded


Search = Callable[..., Witness | AttackedAccuracy]  # of model, inputs, labels and the options of attacks


@dataclass(frozen=True, eq=False)
class _Region:
    """The perturbed inputs of each row, and how to attack them.

    Attributes:
        order: of the norm; NaN for sets of the caller's own.
        epsilon: (N,) radii, likewise.
        rows: the sets of some rows.
        search: an attack on some rows, or None if there is none; what it finds still has to lie in the sets.
    """

    order: float
    epsilon: Tensor
    rows: Callable[[Tensor], PerturbationSet]
    search: Callable[[Tensor], Search] | None

    def attack(
        self,
        model: nn.Module,
        x: Tensor,
        labels: Tensor,
        state: "_Verdicts",
        batch_size: int,
        generator: Generator | None,
    ) -> None:
        """Falsify the open rows for which the attack finds an input of the set."""
        if self.search is None:
            return
        rows = state.open.nonzero().squeeze(1)
        found = self.search(rows)(model, x[rows], labels[rows], batch_size=batch_size, generator=generator)
        if math.isnan(self.order):
            inside = self.rows(rows).contains(found.adversarial.double())
        else:
            inside = found.distance <= self.epsilon[rows]
        state.falsify(rows, found.adversarial, found.distance, found.found & inside)


def _balls(
    x: Tensor,
    norm: float | None,
    epsilon: float | Tensor | None,
    low: Limit,
    high: Limit,
    frozen_features: Tensor | None,
) -> _Region:
    """Balls of a norm within a box."""
    family = family_of(x, norm, low, high, frozen_features, None)
    if epsilon is None:
        raise InvalidInput("epsilon must be given with norm, got None: pass the radius in units of the input")
    radius = checked_epsilon(epsilon, x, family.order)
    box = partial(minimal_perturbation, norm=family.order, low=low, high=high, frozen_features=frozen_features)
    search = (lambda rows: box) if family.order in ATTACKED else None
    return _Region(family.order, radius, lambda rows: family(x[rows].detach(), radius[rows]), search)


def _own(
    x: Tensor,
    norm: float | None,
    epsilon: float | Tensor | None,
    frozen_features: Tensor | None,
    perturbation: PerturbationSet,
) -> _Region:
    """Sets of the caller's own, found to hold the inputs."""
    checks.inputs(x)
    check_alone(norm, frozen_features, epsilon)
    check_around(perturbation, x.detach())
    nothing = torch.full((len(x),), math.nan, dtype=torch.float64, device=x.device)
    search: Callable[[Tensor], Search] | None = None
    if isinstance(perturbation, Box):  # the nearest inputs may lie as far as its sides
        lower, upper = perturbation.lower, perturbation.upper
        search = lambda rows: partial(minimal_perturbation, norm=math.inf, low=lower[rows], high=upper[rows])  # noqa: E731
    elif lists_changes(perturbation):
        search = lambda rows: partial(_fewest_changes, perturbation.rows(rows))  # noqa: E731
    elif tells_members(perturbation):
        search = lambda rows: partial(robust_accuracy, perturbation=perturbation.rows(rows), steps=SET_STEPS)  # noqa: E731
    return _Region(math.nan, nothing, perturbation.rows, search)


def _fewest_changes(
    perturbation: PerturbationSet,
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    batch_size: int,
    generator: Generator | None,
) -> Witness:
    """The attack on sets of few changes, which draws nothing."""
    return counterfactual(model, x, labels, perturbation, batch_size=batch_size)


class _Verdicts:
    """Verdicts on all rows so far."""

    def __init__(self, x: Tensor, predicted: Tensor, labels: Tensor) -> None:
        wrong = predicted != labels
        self.predicted = predicted
        self.verified = torch.zeros_like(wrong)
        self.falsified = wrong
        self.margin = torch.full(wrong.shape, -math.inf, dtype=torch.float64, device=x.device)
        self.adversarial = x.clone()
        self.distance = torch.where(wrong, 0.0, self.margin.neg())
        self.decided_by = ["clean" if bad else "" for bad in wrong.tolist()]

    @property
    def open(self) -> Tensor:
        """Rows that are not decided."""
        return ~(self.verified | self.falsified)

    def falsify(self, rows: Tensor, adversarial: Tensor, distance: Tensor, hit: Tensor) -> None:
        """Rows for which an input within the radius was found."""
        chosen = rows[hit]
        self.falsified[chosen] = True
        self.adversarial[chosen] = adversarial[hit]
        self.distance[chosen] = distance[hit]
        self._decided(chosen, "attack")

    def bound(self, rows: Tensor, margin: Tensor, method: str) -> None:
        """Proved margins of some rows."""
        self.margin[rows] = torch.fmax(self.margin[rows], margin.double())
        chosen = rows[margin > 0]  # False for NaN
        self.verified[chosen] = True
        self._decided(chosen, method)

    def end(self, row: Tensor, around: Around) -> None:
        """The end of the search around one input."""
        if around.adversarial is not None:
            self.falsified[row] = True
            self.adversarial[row] = around.adversarial
            self.distance[row] = around.distance
            self._decided(row, around.decided_by)
        elif around.status == PROVED:
            self.verified[row] = True
            self._decided(row, around.decided_by)

    def _decided(self, rows: Tensor, how: str) -> None:
        for row in rows.tolist():
            self.decided_by[row] = how

    def verdict(self, epsilon: Tensor, norm: float, sound: str) -> Verdict:
        """The result."""
        return Verdict(
            label=self.predicted,
            verified=self.verified,
            falsified=self.falsified,
            margin=self.margin,
            adversarial=self.adversarial,
            distance=self.distance,
            decided_by=tuple(self.decided_by),
            epsilon=epsilon,
            norm=norm,
            sound=sound,
        )
