"""Certificates that a quantised copy of a network inherits: bounds over all weights between both."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from bounds import Graph, LpBall, PerturbationSet, WeightBox, checks, ibp, margin_bounds, with_weight_box
from bounds.checks import Limit
from bounds.circumstances import isolated
from bounds.errors import InvalidModel
from bounds.graph.capturing import without_compiler
from bounds.linear.ladder import margins_in_turn
from bounds.linear.methods import METHODS
from bounds.memory import MEMORY
from bounds.models import answer
from certify.models import frozen, predictions, predictions_and_labels, probe
from certify.results import Certificate
from certify.verification.quantisation.quantised_weights import Copy, box_of_copy
from certify.verification.radius import least_margin, searched_radius
from certify.verification.sets import Balls, Family, checked_epsilon, family_of

TRIED = 5  # inputs for which the copy is run, to see that it is what its weights say
SLACK = 1e-3  # relative, of logits in float32


@dataclass(frozen=True, eq=False, kw_only=True)
class QuantisedCertificate(Certificate):
    """Verdicts on inputs, all perturbations up to a radius, and all weights of a box at once.

    ``radius`` is ``epsilon`` where the row is verified, else 0, and the row abstains. :attr:`subject` names the
    networks.

    Attributes:
        verified: (N,) bool, True where every network of the box is proved to predict the label for every perturbation.
        margin: (N,) float64, the best proved lower bound on the least margin within the radius asked about, or at the
            input where the largest one is; minus infinity where none was asked for.
        epsilon: (N,) float64, the radius asked about, in units of the input, or the largest one that was proved.
        copy_label: (N,) int64, what the copy predicts, run one input at a time; -1 where only its weights are known.
        weight_error: largest distance of a weight of the box from the middle, in units of weights.
        quantised_inputs: number of layers that quantise their input as well.
    """

    verified: Tensor
    margin: Tensor
    epsilon: Tensor
    copy_label: Tensor
    weight_error: float
    quantised_inputs: int


@isolated
def certified_quantised(
    model: nn.Module,
    quantised: Copy | WeightBox,
    x: Tensor,
    labels: Tensor | None = None,
    *,
    norm: float,
    epsilon: float | Tensor | None,
    method: str = "crown",
    weights: str = "between",
    low: Limit = 0.0,
    high: Limit = 1.0,
    frozen_features: Tensor | None = None,
    tolerance: float = 1e-3,
    steps: int = 20,
    batch_size: int = 64,
    memory: int = MEMORY,
) -> QuantisedCertificate:
    """Whether a network and its quantised copy keep the label for all inputs of the ball and the box.

    One certificate for the model, the copy, and every network whose weights lie between both, entry by entry. The
    networks are taken in real arithmetic, with all rounding errors of the proof included. What float32 or half
    precision rounds where they run is left out. Linear layers of ``torch.ao.quantization.quantize_dynamic`` quantise
    their inputs as they run: an error of half a step of the widest range possible is part of every bound. The range is
    that of one row, so run such a copy one input at a time: in a batch, other rows change the answer.

    A copy that quantises inputs of layers in another way is refused.

    Args:
        model: any network that ``torch.export`` follows, in single or double precision.
        quantised: a module with the layers of the model and other weights (rounded, pruned), or with linear layers of
            ``quantize_dynamic``; or a mapping of names of ``model.state_dict()`` to tensors, to quantised tensors of
            PyTorch or to :class:`certify.QuantisedTensor`, where all names left out are as in the model; or a
            :class:`bounds.WeightBox`. Errors may be in weights and biases of linear layers and convolutions.
        x: (N, *D), floating, finite, inside the box.
        labels: (N,) correct classes; None for those that the model predicts.
        norm: order of the norm, from 1 to ``math.inf``; or 0 for the number of changed entries.
        epsilon: the radius, a number or (N,), in units of the input; 0 for the inputs themselves; None for the largest
            that is proved, see :func:`certify.certified_radius`.
        method: the last bounding method to try, see :func:`certify.verify`.
        weights: ``"between"``, or ``"copy"`` for a certificate of the copy alone, which is tighter. A box says itself
            what it holds.
        low: lower side of the box: a number, a tensor that broadcasts to one input, or None.
        high: upper side of the box, likewise.
        frozen_features: bool, broadcasts to one input; True where no perturbation may change it.
        tolerance: relative distance of both sides at which the search for the largest radius stops.
        steps: of ascent for ``"alpha_crown"``.
        batch_size: inputs bounded at once.
        memory: bytes that the coefficients of linear bounds may take.

    Raises:
        InvalidInput: a bad argument; weights of other names or shapes.
        InvalidModel: a copy that computes something else; see :func:`certify.models.probe`.
        UnsupportedLayer: an operation without a rule; a changed weight that goes elsewhere than into a linear layer or
            a convolution, such as that of batch normalisation: fold it in first.
    """
    checks.one_of("method", method, METHODS)
    checks.one_of("weights", weights, ("between", "copy"))
    batch_size = checks.at_least("batch_size", batch_size, 1)
    family = family_of(x, norm, low, high, frozen_features, None)
    checks.positive("tolerance", tolerance)
    radius, x = checked_epsilon(0 if epsilon is None else epsilon, x, family.order).clone(), x.detach()
    with frozen(model), torch.no_grad():
        num_classes = probe(model, x, batch_size=min(batch_size, len(x))) if len(x) else 2
        predicted, labels = predictions_and_labels(model, x, labels, num_classes, batch_size)
        box = quantised if isinstance(quantised, WeightBox) else None
        box = box or box_of_copy(without_compiler(model), quantised, between=weights == "between")  # type: ignore[arg-type]  # no box
        copied = torch.full_like(predicted, -1)
        margin = torch.full_like(radius, -math.inf)
        if len(x):
            graph = with_weight_box(model, x.double(), box)
            if isinstance(quantised, nn.Module):
                copied = _copied(quantised, graph, x)
            right = copied == labels if isinstance(quantised, nn.Module) else torch.ones_like(labels, dtype=torch.bool)
            if weights == "between" and not isinstance(quantised, WeightBox):
                right = right & (predicted == labels)
            least = partial(_least, graph, family, method=method, steps=steps, memory=memory)
            for rows in right.nonzero().squeeze(1).split(batch_size):
                if len(rows):
                    margin[rows] = least(x[rows].double(), radius[rows], labels[rows])
                    if epsilon is None:
                        radius[rows] = searched_radius(
                            least, family, x[rows].double(), labels[rows], margin[rows], tolerance
                        )
    verified = margin > 0  # False for NaN
    return QuantisedCertificate(
        label=torch.where(verified, labels, predicted),
        radius=torch.where(verified, radius, 0.0),
        abstained=~verified,
        norm=family.order,
        alpha=0.0,
        subject=_subject(quantised, weights),
        method=method,
        sound="rounding",
        verified=verified,
        margin=margin,
        epsilon=radius,
        copy_label=copied,
        weight_error=max((float(part.max()) for part in box.radii().values() if part.numel()), default=0.0),
        quantised_inputs=len(box.dynamic),
    )


def _subject(quantised: object, weights: str) -> str:
    """The networks in words."""
    if isinstance(quantised, WeightBox):
        return "every network of a box of weights"
    return "base, quantised copy and all between" if weights == "between" else "quantised copy"


def _least(
    graph: Graph,
    family: Balls | Family,
    x: Tensor,
    radius: Tensor,
    labels: Tensor,
    *,
    method: str,
    steps: int,
    memory: int,
) -> Tensor:
    """The best proved bound (B,) on the least margin within each radius; minus infinity where there is none."""
    best = torch.full_like(radius, -math.inf)
    for places, found in _margins(graph, family(x, radius), labels, method, steps, memory):
        best[places] = torch.fmax(best[places], found.double())
    return best


def _margins(
    graph: Graph, ball: PerturbationSet, labels: Tensor, method: str, steps: int, memory: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Places of inputs (B,) and their least margins by each method in turn."""
    if method == "ibp":
        margins = margin_bounds(graph, ball, labels, "ibp", memory=memory)
        yield torch.arange(len(labels), device=labels.device), least_margin(margins, labels)
        return
    for part in margins_in_turn(graph, ball, labels, method, steps=steps, memory=memory):
        yield part.places, least_margin(part.margins, labels[part.places])


def _copied(copy: nn.Module, graph: Graph, x: Tensor) -> Tensor:
    """Classes (N,) that the copy gives inputs one at a time; its first answers must lie where its weights allow."""
    with frozen(copy):
        first = x[:TRIED]
        answers = torch.cat([answer(copy, row) for row in first.split(1)]).double()
        allowed = ibp(graph, LpBall(first.double(), 0.0, low=None, high=None))
        slack = SLACK * (1 + answers.abs().amax())
        if not bool(((answers >= allowed.lower - slack) & (answers <= allowed.upper + slack)).all()):
            raise InvalidModel(
                "quantised must compute what its weights say, but its answers leave the bounds of the model with them: "
                "pass weights alone, or a copy without other changes"
            )
        return predictions(copy, x, 1)
