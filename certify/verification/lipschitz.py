"""Certificates from Lipschitz bounds: as far as the margin at the input reaches."""

import torch
from torch import Tensor, nn

from bounds import Graph, LpBall, capture, checks, lipschitz_radius, margin_bounds, margin_lipschitz
from bounds.checks import Limit
from bounds.circumstances import isolated
from certify.models import frozen, predictions_and_labels, probe
from certify.results import Certificate

GLOBAL = ("product", "eclipse", "sdp")
LOCAL = ("fast_lip", "recurjac", "local")
SHARES = (0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0)  # of the radius that gradients at the input alone would give


@isolated
@torch.no_grad()
def lipschitz_certificate(
    model: nn.Module,
    x: Tensor,
    labels: Tensor | None = None,
    *,
    norm: float,
    method: str = "product",
    radii: Tensor | None = None,
    low: Limit = None,
    high: Limit = None,
) -> Certificate:
    """Radii within which no other class can catch up, by bounds on the Lipschitz constants of the margins.

    Proved for the model in real arithmetic, with the rounding of the proof included. A global constant L proves the
    least ``margin / L``. A constant of the ball of radius R proves the lesser of that and R, for any R: the best of
    several is kept.

    Args:
        model: see :func:`bounds.lipschitz_bound`.
        x: (N, *D), floating, finite, inside the box.
        labels: (N,) correct classes; None for those that the model predicts.
        norm: order of the norm.
        method: a global one, ``"product"``, ``"eclipse"`` or ``"sdp"``; or a local one, ``"fast_lip"``,
            ``"recurjac"`` or ``"local"``.
        radii: (E,) radii R to try with a local method, the same for all inputs; None for some around what looks
            possible.
        low: lower side of the box, in which balls are looked at by local methods: a number, a tensor, or None.
        high: upper side of the box, likewise.

    Raises:
        InvalidInput: a bad argument.
        UnsupportedLayer: the method does not take the network.
    """
    checks.inputs(x, low, high)
    checks.one_of("method", method, (*GLOBAL, *LOCAL))
    order = checks.norm(norm)
    with frozen(model):
        classes = probe(model, x) if len(x) else 2
        predicted, labels = predictions_and_labels(model, x, labels, classes, 256)
        # Of balls of radius 0: the margins, rounded down.
        graph = capture(model, x) if len(x) else None  # of the dtype that the model runs in
        point = LpBall(x.double(), 0.0, order, None, None)
        margins = x if graph is None else margin_bounds(graph, point, labels, "ibp")
        if graph is None:
            radius = x.new_zeros(0, dtype=torch.float64)
        elif method in GLOBAL:
            network = model if method == "product" else graph  # products are taken between layers of the module
            radius = lipschitz_radius(margins, margin_lipschitz(network, order, labels, method, x=x))
        else:
            radius = torch.zeros_like(margins[:, 0])
            for reach in _guesses(graph, x, labels, margins, order) if radii is None else radii.unbind():
                ball = LpBall(x.double(), reach, order, low, high)
                constants = margin_lipschitz(graph, order, labels, method, ball)
                radius = torch.maximum(radius, lipschitz_radius(margins, constants).clamp(max=ball.radii))
    right = predicted == labels
    return Certificate(
        label=predicted,
        radius=torch.where(right, radius, 0.0),
        abstained=torch.zeros_like(predicted, dtype=torch.bool),
        norm=order,
        alpha=0.0,
        subject="base",
        method=f"lipschitz_{method}",
        sound="rounding",
    )


def _guesses(graph: Graph, x: Tensor, labels: Tensor, margins: Tensor, order: float) -> list[Tensor]:
    """Radii (N,) to try, around what gradients at the inputs alone would prove."""
    point = LpBall(x.double(), 0.0, order, None, None)
    first = lipschitz_radius(margins, margin_lipschitz(graph, order, labels, "fast_lip", point))
    return [share * first.clamp(min=1e-12, max=1e12) for share in SHARES]
