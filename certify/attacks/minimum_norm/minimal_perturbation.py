"""Minimum-norm attack: the smallest perturbation found that changes a prediction."""

from torch import Generator, Tensor, nn

from bounds import checks
from bounds.checks import Limit
from certify.attacks.common.threat import Settings, Threat, checked_norm
from certify.attacks.minimum_norm.portfolio import portfolio
from certify.attacks.search.driver import MINIMUM_NORM, run
from certify.results import Witness

METHODS = ("descents", "best")


def minimal_perturbation(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    norm: float,
    low: Limit = 0.0,
    high: Limit = 1.0,
    frozen_features: Tensor | None = None,
    method: str = "descents",
    steps: int = 100,
    restarts: int = 3,
    batch_size: int = 500,
    generator: Generator | None = None,
    targets: Tensor | None = None,
    grid: int | None = None,
    first_index: int = 0,
    timeout: float | None = None,
) -> Witness:
    """The nearest misclassified input found for each row: an upper bound on its distance to the boundary.

    Every witness is run through the model once more after the search. It counts as found only if the model
    misclassifies exactly the stored tensor and the tensor lies in the box; its distance is recomputed in
    float64 from the stored tensors and rounded up. That nothing is found proves nothing. Rows draw from streams of
    their own, so results depend on the batch only as far as the model's rounding does, which long searches amplify,
    and where rows without any success borrow an input of another class from their batch.

    Where gradients say nothing (they are 0, not finite, or foretell no change even of a small step at x), a search
    follows with rounding, signs and detached values passed straight through, and one by predictions alone, and
    ``blind`` names rows that had no other. A network with a transformation whose derivative is known better is
    attacked best behind :class:`bounds.StandIn`.

    ``"descents"`` begins with projected gradient ascent on a margin inside a ball whose radius follows each input, with
    restarts towards different classes. After the first restart, gradients also pass through ReLUs that are off,
    since neurons that come to life decide where the boundary is nearest. In l_1 and l_2 walks follow, whose steps solve
    the linearised problem near the current point, from around the best points, in l_1 also from x towards the likeliest
    classes. In l_0 and l_1 entries are exchanged, and judged by what they do, not by their slopes. Bisections end it.
    ``"best"`` goes on from what the descents found with further attacks and keeps the nearest point of each row:
    every single entry at its sides (l_0, l_1), the fast adaptive boundary attack (l_1, l_2, l_infinity), SparseFool
    (l_0, l_1), SuperDeepFool (l_2), DeepFool (l_infinity), searches towards every class, from random points of the box,
    along gradients of random linear regions (l_infinity), and from around the best points. The witness names which of
    them found each row. Forward passes for each row at the default settings: about 3,900 in l_0, 3,700 in l_1, 740 in
    l_2 and 340 in l_infinity; seven, seven, eleven and twenty times as many for the best.

    Args:
        model: maps (N, *D) to logits (N, K), differentiable.
        x: (N, *D), floating, finite, inside the box.
        labels: (N,) correct classes.
        norm: 0 (the number of changed entries), 1, 2 or ``math.inf``.
        low: lower side of the box: a number, a tensor that broadcasts to one input, (N, ...) with one per row, or None.
        high: upper side of the box, likewise.
        frozen_features: bool, broadcasts to one input or (N, ...); True where an entry must stay as it is.
        method: ``"descents"`` or ``"best"``.
        steps: gradient steps of each restart.
        restarts: number of searches per input, towards different classes.
        batch_size: inputs attacked at once.
        generator: source of a seed; each row draws random starts and points from a stream of its own.
        targets: (N,) classes other than the labels; only inputs predicted as these then count as found.
        grid: adversarial inputs have changed entries that are multiples of 1 / ``grid``, such as 255 for 8-bit images;
            anywhere in the box if None.
        first_index: index of row 0 in its data set, which together with the seed tells the streams apart.
        timeout: seconds after which the search ends with what it has found, None for no limit. ``unfinished`` names the
            rows; they depend on the speed of the machine.

    Returns:
        A witness; distance 0 where the clean input is misclassified, infinite where nothing was found.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.

    References:
        Rony et al. (2019), arXiv:1811.09600, and Pintor et al. (2021), arXiv:2102.12827, for radii that follow the
        input; Croce, Hein (2021), arXiv:2103.01208, for l_1; Cinà et al. (2025), arXiv:2402.01879, for steps in l_0.
    """
    checks.at_least("steps", steps, 1)
    checks.at_least("restarts", restarts, 1)
    best = checks.one_of("method", method, METHODS) == "best"
    threat = Threat(checked_norm(norm, MINIMUM_NORM["minimal_perturbation"]), low, high, frozen_features)
    settings = Settings(batch_size, generator, targets, grid, first_index, timeout)
    stages = portfolio(norm, steps, restarts)
    if best:
        return run("minimal_perturbation(best)", stages, model, x, labels, threat, settings)
    first = {name: stages[name] for name in ("descents", "without gradients")}
    return run("minimal_perturbation", first, model, x, labels, threat, settings)
