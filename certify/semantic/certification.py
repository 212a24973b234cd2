"""Proof that no transformation within a range changes the class of an input: pieces, halved until proved."""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.linear.methods import METHODS
from bounds.memory import MEMORY
from bounds.transformations.pipelines import Enclosing
from bounds.transformations.sampling import SampledImages
from certify.models import frozen, predictions, predictions_and_labels, probe
from certify.semantic.bounding import Bounding
from certify.semantic.certificate import SemanticCertificate
from certify.semantic.noise import noise_changes
from certify.semantic.pieces import Pieces, first_pieces, test_points
from certify.semantic.transformations import Transformation

Test = Callable[[Tensor, Tensor], Tensor]  # of images of some rows (B,) at parameters (B, k)

MOST_PIECES = 4096  # that are bounded for one input
NARROWEST = 1 / 16  # width of the narrowest pieces of an input without a known break, in units of the tolerance


@isolated
def certify_transformation(
    model: nn.Module,
    x: Tensor,
    labels: Tensor | None,
    transformation: Transformation,
    *,
    method: str = "crown",
    pieces: int | None = None,
    timeout: float | None = None,
    epsilon: float = 0.0,
    norm: float = math.inf,
    most_parts: int = 0,
    low: Limit = 0.0,
    high: Limit = 1.0,
    tolerance: float = 0.02,
    channels_last: bool = False,
    sound: str = "rounding",
    batch_size: int = 128,
    memory: int = MEMORY,
) -> SemanticCertificate:
    """Whether the model predicts the label for all transformations within a range, and how far around the identity.

    The range is cut into pieces. Each is enclosed by pairs of linear functions of the parameters, with a correction for
    what interpolation does in between, or exactly for a :class:`Translation`. These sets are bounded by
    ``"crown_ibp"``, ``"crown"`` and so on up to ``method``. A piece is proved, or an image at a corner or in the middle
    of it is misclassified, or it is halved. Noise is searched by gradients. Nothing is random.

    The statement is about images that are interpolated in real arithmetic and then rounded to the dtype of ``x``, with
    any noise within ``epsilon`` on top that stays between ``low`` and ``high``. Images of another program may differ by
    its rounding: an ``epsilon`` of 1e-5 covers that of :func:`torch.nn.functional.grid_sample` in float32. All rounding
    errors of the proof are included.

    Args:
        model: maps images to logits (N, K), any network that ``torch.export`` follows.
        x: (N, C, H, W) or (N, H, W), floating, within the range of pixels; (N, *D) for a :class:`Photometric`.
        labels: (N,) correct classes; None for those that the model predicts.
        transformation: with a range for each parameter.
        method: the last bounding method to try, see :func:`bounds.margin_bounds`.
        pieces: to cut the range of each parameter into at first; None for pieces within which pixels move by less than
            one pixel.
        timeout: seconds after which what is not proved stays open; None for no limit, with which results repeat.
        epsilon: radius of a ball of noise on top, in units of the input.
        norm: order of its norm, from 1 to ``math.inf``.
        most_parts: parts into which splits of neurons may cut a piece that halving does not prove, of inputs without a
            known break; 0 for no splits. It is for noise, which is in every half as a whole.
        low: lower side of the range of pixels: a number, a tensor that broadcasts to one input, or None.
        high: upper side, likewise.
        tolerance: width of the narrowest pieces around a break, as a share of the range; elsewhere pieces are halved
            until 16 times as narrow.
        channels_last: whether images are (N, H, W, C).
        sound: ``"rounding"``, ``"real"`` or ``"deployed"``, see :func:`bounds.crown`.
        batch_size: images of a forward pass, and pieces that are bounded at once.
        memory: bytes that the coefficients of linear bounds may take.

    Returns:
        Certificates of all inputs, with their radii.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.
        UnsupportedLayer: the bounds know no rule for an operation.

    References:
        Balunovic et al. (2019), Certifying geometric robustness of neural networks, NeurIPS (pairs of linear functions
        of the parameters of each pixel, there with sampled and here with closed corrections).
    """
    _check(transformation, method, pieces, timeout, tolerance, batch_size, most_parts)
    checks.inputs(x, low, high)
    pipeline, x = transformation.pipeline(), x.detach()
    if pipeline.gamma is not None and not (low is not None and bool((torch.as_tensor(low) >= 0).all())):
        raise InvalidInput("low must be at least 0 for a power of pixels: rescale the inputs, or leave gamma at (1, 1)")
    layout = transformation.layout(x, channels_last=channels_last)
    sides = layout.side(low), layout.side(high)
    noise = checks.nonnegative("epsilon", epsilon), checks.norm(norm)
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    with frozen(model), torch.no_grad():
        num_classes = probe(model, x, batch_size=min(batch_size, len(x))) if len(x) else 2
        predicted, labels = predictions_and_labels(model, x, labels, num_classes, batch_size)
        images = SampledImages(layout.to_images(x).double(), pipeline.padding)
        enclosing = Enclosing(
            pipeline=pipeline,
            images=images,
            low=sides[0],
            high=sides[1],
            epsilon=noise[0],
            norm=noise[1],
            dtype=x.dtype,
        )

        def right(rows: Tensor, values: Tensor) -> Tensor:
            """Whether images of some rows (B,) at parameters (B, k) have their labels."""
            found = [x.new_zeros(0, dtype=torch.bool)]
            for part in torch.arange(len(rows), device=x.device).split(batch_size):
                made = transformation.transformed(x[rows[part]], values[part], layout, low, high)
                found.append(predictions(model, made, batch_size) == labels[rows[part]])
            return torch.cat(found)

        def fooled(rows: Tensor, values: Tensor) -> Tensor:
            """Whether noise that gradients find changes the class of images of some rows (B,) at parameters (B, k)."""
            found = [x.new_zeros(0, dtype=torch.bool)]
            for part in torch.arange(len(rows), device=x.device).split(batch_size):
                made = transformation.transformed(x[rows[part]], values[part], layout, low, high)
                found.append(noise_changes(model, made, labels[rows[part]], noise[0], low, high))
            return torch.cat(found)

        bounding = Bounding(model, x, enclosing, layout, labels, method, sound, memory, batch_size)
        state = Pieces(transformation, x, predicted == labels, tolerance, NARROWEST, MOST_PIECES)
        state.add(*first_pieces(transformation, layout, len(x), pieces, x.device))
        _search(state, right, fooled if noise[0] and noise[1] == math.inf else None, bounding, deadline, most_parts)
    return state.certificate(transformation, predicted, method=method, sound=sound, noise=noise)


def _check(
    transformation: Transformation,
    method: str,
    pieces: int | None,
    timeout: float | None,
    tolerance: float,
    batch_size: int,
    most_parts: int,
) -> None:
    if not isinstance(transformation, Transformation):
        raise InvalidInput(
            f"transformation must be one of certify.semantic, got {type(transformation).__name__}: pass "
            f"Rotation((-5, 5))"
        )
    checks.one_of("method", method, METHODS)
    checks.at_least("pieces", 1 if pieces is None else pieces, 1)
    checks.positive("timeout", 1.0 if timeout is None else timeout)
    checks.probability("tolerance", tolerance)
    checks.at_least("batch_size", batch_size, 1)
    checks.at_least("most_parts", most_parts, 0)


def _search(
    state: Pieces, right: Test, fooled: Test | None, bounding: Bounding, deadline: float, most_parts: int
) -> None:
    """Look at corners and middles of pieces, bound them, and halve what is not proved, until nothing is left to do."""
    while state.drop():
        points = test_points(state.lower, state.upper, new=state.rounds > 0)
        count = len(points)
        rows = state.rows.repeat(count)
        wrong = ~right(rows, points.flatten(0, 1))
        state.break_at(rows[wrong], points.flatten(0, 1)[wrong])
        broken = wrong.view(count, -1).any(0)
        for part in (~broken).nonzero()[:, 0].split(bounding.batch_size):
            if time.monotonic() > deadline:
                state.end()
                return
            if len(part):
                state.record(part, *bounding(*state.of(part), state.divisible[part]))
        if fooled is not None:
            rows, lower, upper = state.of(state.unproved)
            wrong = fooled(rows, (lower + upper) / 2)
            state.break_at(rows[wrong], ((lower + upper) / 2)[wrong])
        if most_parts:
            state.halve(_split(state, bounding, deadline, most_parts))
        else:
            state.halve()


def _split(state: Pieces, bounding: Bounding, deadline: float, most_parts: int) -> Tensor:
    """Split neurons over the pieces (P,) that halving does not prove, of inputs without a known break.

    The nearest pieces of an input come first. What is farther than one that stays open is left as it is: the range is
    not proved.
    """
    stuck, failed = state.stuck & ~state.broken_from.isfinite()[state.rows], state.open > 0
    for place in state.unproved.tolist():
        row = int(state.rows[place])
        if not stuck[place] or failed[row] or time.monotonic() > deadline:
            continue
        one = torch.tensor([place], device=stuck.device)
        margin = bounding.by_splits(*state.of(one), most_parts, deadline)
        state.prove(one, margin)
        failed[row] = not bool(margin > 0)
    return stuck
