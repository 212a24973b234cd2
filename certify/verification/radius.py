"""Deterministic certificates of the model itself, from proved bounds: how far, and whether up to a given radius."""

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Generator, Tensor, nn

from bounds import AFFINE, DEFAULT_RULES, FUNCTIONS, Affine, Graph, LpBall, capture, checks, margin_bounds
from bounds.checks import Limit
from bounds.circumstances import isolated
from bounds.linear.intervals import layers_in_turn
from bounds.linear.methods import METHODS
from bounds.memory import MEMORY
from bounds.operations.functions import Maker as FunctionMaker
from certify.models import frozen, predictions_and_labels, probe
from certify.results import Certificate
from certify.verification.complete import (
    COMPLETE,
    LabelSearch,
    RadiusSearch,
    complete_balls,
    complete_certificate,
)
from certify.verification.deadlines import deadline_after
from certify.verification.radius_search import largest_proved
from certify.verification.sets import LARGEST, Balls, Family, Maker, family_of


@isolated
def certified_radius(
    model: nn.Module,
    x: Tensor,
    labels: Tensor | None = None,
    *,
    norm: float | None = None,
    method: str = "crown",
    low: Limit = 0.0,
    high: Limit = 1.0,
    frozen_features: Tensor | None = None,
    perturbation: Maker | None = None,
    tolerance: float = 1e-3,
    timeout: float | None = None,
    generator: Generator | None = None,
    sound: str = "rounding",
    batch_size: int = 256,
    memory: int = MEMORY,
    table: Mapping[str, Affine] = AFFINE,
    functions: Mapping[str, FunctionMaker] = FUNCTIONS,
) -> Certificate:
    """Largest radius found within which the model is proved to predict the given label.

    Every returned radius was itself proved: no input of the ball and the box [low, high] gets another label. See
    :func:`bounds.ibp` and :func:`bounds.crown` for what the proof is about and rests on.

    The search goes on for all inputs at once, between the largest radius that is proved and the least that is not, by
    interpolation of the margins; an input that is settled leaves it. What an input gets does not depend on the others.

    With sets of one's own, a radius speaks of ``perturbation(x, radius)``, and of all smaller radii if that grows with
    it. ``norm`` of the certificate is then NaN, and no radius above a million times the size of the input is tried.

    Args:
        model: any network that the bounding method follows; its weights are widened to float64.
        x: (N, *D), floating, finite, inside the box.
        labels: (N,) correct classes; None for those that the model predicts.
        norm: order of the norm, from 1 to ``math.inf``; or 0 for the number of changed entries. None with
            ``perturbation``.
        method: bounding method, ``"ibp"``, ``"crown_ibp"``, ``"fast_lin"``, ``"crown"`` or ``"alpha_crown"``; see
            :func:`bounds.margin_bounds`. ``"complete"``, for norms from 1: what ``"crown"`` proves and an attack finds
            are brought together by branch and bound, and a :class:`certify.CompleteCertificate` is returned.
        low: lower side of the box: a number, a tensor that broadcasts to one input, or None.
        high: upper side of the box, likewise.
        frozen_features: bool, broadcasts to one input; True where no perturbation may change it.
        perturbation: for sets of one's own, instead of a norm and a box: a function of inputs (B, *D) in float64, any
            rows of ``x``, and radii (B,) that gives a :class:`bounds.PerturbationSet` which holds these inputs, is
            nothing else at radius 0, and grows with the radius.
        tolerance: relative distance of both sides at which the search stops.
        timeout: seconds for the searches of ``"complete"``, of all inputs together; None for no limit.
        generator: source of random starts of the attack of ``"complete"``.
        sound: ``"rounding"``, ``"real"`` or ``"deployed"``, see :func:`bounds.crown`.
        batch_size: inputs bounded at once.
        memory: bytes that the coefficients of linear bounds may take.
        table: affine operations of captured networks, see :func:`bounds.crown`.
        functions: makers of the functions of their other operations.

    Returns:
        A certificate. The radius is 0 where the model is wrong or nothing is proved, and at most the distance
        to the farthest corner of the box.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.
        UnsupportedLayer: the method knows no rule for a layer.
    """
    checks.one_of("method", method, (*METHODS, COMPLETE))
    checks.positive("tolerance", tolerance)
    batch_size = checks.at_least("batch_size", batch_size, 1)
    checks.at_least("memory", memory, 1)
    family = family_of(x, norm, low, high, frozen_features, perturbation)
    if timeout is not None:
        checks.positive("timeout", timeout)
    balls = complete_balls(family, x) if method == COMPLETE else None
    bounding = "crown" if method == COMPLETE else method
    with frozen(model), torch.no_grad():
        num_classes = probe(model, x, batch_size=min(batch_size, len(x))) if len(x) else 2
        predicted, labels = predictions_and_labels(model, x, labels, num_classes, batch_size)
        bounded = bounded_form(model, x, bounding, family.order, sound)  # captured once, for all radii
        bound = partial(margin_bounds, sound=sound, memory=memory, table=table, functions=functions)

        def margins(points: Tensor, radius: Tensor, label: Tensor) -> Tensor:
            """The least proved margin of each row."""
            return least_margin(bound(bounded, family(points, radius), label, bounding), label)

        # Never where a logit overflows, of which the proof, in real arithmetic, knows nothing.
        radius = torch.zeros(x.shape[:1], dtype=torch.float64, device=x.device)
        for rows in (predicted == labels).nonzero()[:, 0].split(batch_size):
            if len(rows):
                clean = least_margin(model_margins(model, x[rows], labels[rows]), labels[rows])
                radius[rows] = searched_radius(
                    margins, family, x[rows].detach().double(), labels[rows], clean, tolerance
                )
        if balls is not None:
            search = LabelSearch(model, bounded, num_classes, sound, memory)
            around = RadiusSearch(search, balls, tolerance)
            end = deadline_after(timeout)
            return complete_certificate(around, x.detach(), labels, predicted, radius, end, generator)
    return Certificate(
        label=predicted,
        radius=radius,
        abstained=torch.zeros_like(predicted, dtype=torch.bool),
        norm=family.order,
        alpha=0.0,
        subject="base",
        method=method,
        sound=sound,
    )


Margins = Callable[[Tensor, Tensor, Tensor], Tensor]  # of points, radii and labels, the least proved margins


def searched_radius(
    margins: Margins, family: Balls | Family, x: Tensor, labels: Tensor, clean: Tensor, tolerance: float
) -> Tensor:
    """The largest radius (N,) found for each input, in float64; clean margins are units of the search and no proof."""
    if family.order == 0:
        return _most_changes(margins, x, labels)
    reach, size = family.reach(x), x.flatten(1).abs().amax(1)
    guess = torch.where(reach.isfinite(), reach / 64, size / 64 + 1e-3)
    if isinstance(family, Family):
        reach = LARGEST * size.clamp(min=1)
    tied = (~(clean > 0)).nonzero()[:, 0]
    if len(tied):  # to the precision of the model, which is not that of the bounds
        clean = clean.index_copy(0, tied, margins(x[tied], torch.zeros_like(reach[tied]), labels[tied]).to(clean))

    def at(rows: Tensor, radius: Tensor) -> Tensor:
        return margins(x[rows], radius, labels[rows])

    return largest_proved(at, clean, guess, reach, tolerance)


def _most_changes(margins: Margins, x: Tensor, labels: Tensor) -> Tensor:
    """The largest number of changed entries that is proved, one more at a time; (N,) float64."""
    proved = x.new_zeros(len(x))
    entries = x[0].numel()
    active = margins(x, proved, labels) > 0
    for changes in range(1, entries + 1):
        rows = active.nonzero().squeeze(1)
        if len(rows) == 0:
            break
        success = margins(x[rows], torch.full_like(proved[rows], changes), labels[rows]) > 0
        proved[rows] = torch.where(success, float(changes), proved[rows])
        active[rows] = success
    return proved


def bounded_form(model: nn.Module, x: Tensor, method: str, order: float, sound: str) -> nn.Module | Graph:
    """The model as the bounding method wants it: captured, unless intervals of its layers are enough."""
    if len(x) == 0:
        return model
    if method == "ibp" and order >= 2:
        point = LpBall(x[:1].double(), 0.0, order, None, None)
        if layers_in_turn(model, point, DEFAULT_RULES, sound) is not None:
            return model
    return capture(model, x)  # of the dtype that the model runs in: code may ask for it


def model_margins(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """The margins (N, K) that the model itself has, in float64."""
    logits: Tensor = model(x).double()
    return logits.gather(1, labels[:, None]) - logits


def least_margin(margins: Tensor, labels: Tensor) -> Tensor:
    """The least of the margins (N, K) to the other classes, (N,); not above 0 where one is NaN."""
    others = margins.scatter(1, labels[:, None], math.inf)
    return others.amin(1)
