"""Check that a certificate states no more than its own votes allow."""

import dataclasses

import torch
from torch import Tensor

from bounds import sequential_lower
from bounds.numerics import complement, lowered
from certify.results import SmoothingCertificate
from certify.smoothing.classifiers.classifier import SmoothedClassifier
from certify.smoothing.classifiers.estimation import class_bounds, votes_for
from certify.smoothing.drawing.distributions import on_grid

RECOUNT_SLACK = 1 + 1e-9  # relative, for special functions of another version than wrote the record


def unsupported(smoothed: SmoothedClassifier, x: Tensor, certificate: SmoothingCertificate) -> list[tuple[int, str]]:
    """Rows that state more than their votes allow, with the reason; empty if there are none.

    Bounds and radii are computed anew from the votes, at the alpha of the record. No noise is drawn, so that a row
    without votes of its own classifier may pass.

    Args:
        smoothed: the classifier that the certificate speaks of.
        x: (N, *D), the inputs that it was made for.
        certificate: N rows.
    """
    stated = certificate.to(x.device)
    known = (stated.label >= 0) & (stated.label < smoothed.num_classes)
    stated = dataclasses.replace(stated, label=torch.where(known, stated.label, 0))
    votes = torch.cat([stated.counts, stated.invalid[:, None]], 1)
    shown = votes.sum(1) == stated.draws
    shown &= (stated.draws <= stated.n) if stated.sequential else (stated.draws == stated.n)
    lower, upper = _bounds_from_votes(smoothed, x, stated, votes)
    radius = smoothed.noise.radius_at(x, lower)
    radius = torch.where(stated.two_class, smoothed.noise.radius_at(x, lower, upper), radius)
    nothing = torch.zeros_like(radius)
    reasons = [
        (~known, "its label is none of the classes", certificate.label, nothing),
        (~shown, "its votes are not as many as its draws", votes.sum(1), stated.draws),
        (stated.abstained & (stated.radius > 0), "it abstains and states a radius", stated.radius, nothing),
        (~stated.abstained & ~(lower > upper), "it does not abstain, but the label is no likelier", lower, upper),
        (~(stated.p_lower <= lower * RECOUNT_SLACK), "p_lower is above what its votes allow", stated.p_lower, lower),
        (~(stated.p_upper * RECOUNT_SLACK >= upper), "p_upper is below what its votes allow", stated.p_upper, upper),
        (~(stated.radius <= radius * RECOUNT_SLACK), "its radius is above what its votes allow", stated.radius, radius),
    ]  # no comparison with NaN passes
    return [
        (row, f"{reason}: {float(first[row]):.9g} against {float(second[row]):.9g}")
        for row in range(len(stated))
        for wrong, reason, first, second in reasons
        if bool(wrong[row])
    ]


def _bounds_from_votes(
    smoothed: SmoothedClassifier, x: Tensor, stated: SmoothingCertificate, votes: Tensor
) -> tuple[Tensor, Tensor]:
    """Bounds (N,) of the probability of the label and of every other class, that the votes allow."""
    error = on_grid(smoothed.noise.distribution, smoothed.grid, x).error(x[0].numel())
    draws = votes.sum(1).clamp(min=1)
    if not stated.sequential:
        return class_bounds(votes, stated.label, draws, stated.alpha, stated.two_class, error)
    lower = lowered(sequential_lower(votes_for(stated.label, votes), draws, alpha=stated.alpha), error)
    return lower, complement(lower)
