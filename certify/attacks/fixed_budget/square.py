"""Square attack: random search that sees logits only, so that masked gradients cannot hold it up."""

import math
from functools import partial

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from bounds.numerics import per_row
from bounds.sets.norms import length
from certify.attacks.common.threat import BoundedThreat, Settings
from certify.attacks.fixed_budget.driver import run
from certify.attacks.fixed_budget.losses import margin
from certify.attacks.fixed_budget.state import FixedBudgetState
from certify.results import AttackedAccuracy

FIRST_SHARE = 0.8  # of the entries, which the first windows cover
# The share is halved when this many of 10,000 queries were made (Andriushchenko et al. 2020, section 5).
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
TILE = 0.2  # side of the first tiles, in shares of the shorter side of the plane
LOOK = 20  # queries after which the rows that fell are left out


def square(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    norm: float,
    epsilon: float | Tensor,
    low: Limit = 0.0,
    high: Limit = 1.0,
    queries: int = 1000,
    frozen_features: Tensor | None = None,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> AttackedAccuracy:
    """Accuracy under a random search over square windows of the input, without any gradient.

    The last two dimensions of an input are the plane of the windows, the ones before are channels; the windows of a
    flat input are runs of entries. Each input takes ``queries`` forward passes, and the model need not be
    differentiable: what falls here and not to gradients shows that gradients mislead. Other arguments, result and
    errors as in :func:`certify.attacks.robust_accuracy`.

    References:
        Andriushchenko et al. (2020), Square attack, arXiv:1912.00049; for l_1, Croce, Hein (2021), arXiv:2103.01208.
    """
    checks.at_least("queries", queries, 1)
    threat = BoundedThreat(norm, low, high, frozen_features, epsilon=epsilon)
    attack = {"square": partial(square_steps, queries=queries)}
    return run("square", attack, model, x, labels, threat, Settings(batch_size, generator))


def square_steps(state: FixedBudgetState, queries: int) -> None:
    """The attack behind :func:`square`."""
    propose = _recolour if state.norm == math.inf else _move_mass
    points = state.project(state.x + (_stripes(state) if state.norm == math.inf else _tiles(state)))
    lead = _margin(state, points)
    for query in range(1, queries):
        proposed = state.project(state.x + propose(state, points - state.x, _share(query, queries)))
        value = _margin(state, proposed)
        better = value > lead
        points, lead = torch.where(per_row(better, points), proposed, points), torch.where(better, value, lead)
        if query % LOOK == 0:
            keep = state.drop_found()
            if not len(keep):
                return
            points, lead = points[keep], lead[keep]


def _margin(state: FixedBudgetState, points: Tensor) -> Tensor:
    """Lead of the best other class, (M,); what is no number leads nowhere."""
    return margin(state.logits(points), state.labels).nan_to_num(nan=-math.inf)


def _share(query: int, queries: int) -> float:
    """Share of the entries that a window covers."""
    return FIRST_SHARE / 2.0 ** sum(query * 10_000 > halving * queries for halving in HALVINGS)


def _planes(shape: torch.Size) -> tuple[int, int, int]:
    """Channels, height and width of an input."""
    height, width = (1, *shape)[-2:]
    return shape.numel() // (height * width), height, width


def _signs(state: FixedBudgetState, *shape: int) -> Tensor:
    """Random signs, (M, *shape)."""
    chance = state.streams.uniform(state.x.new_empty(len(state.x), *shape))
    return 1 - 2 * (chance < 0.5).to(chance)


def _stripes(state: FixedBudgetState) -> Tensor:
    """The first perturbation in l_infinity: each column of each channel at one end of the budget, (M, *D)."""
    channels, height, width = _planes(state.x.shape[1:])
    signs = _signs(state, channels, 1, width).expand(-1, -1, height, -1).reshape(state.x.shape)
    return signs * per_row(state.radius, signs)


def _tiles(state: FixedBudgetState) -> Tensor:
    """The first perturbation in l_1 and l_2: equal tiles of random sign, of length epsilon, (M, *D)."""
    channels, height, width = _planes(state.x.shape[1:])
    side = max(1, round(min(height, width) * TILE))
    coarse = _signs(state, channels, -(-height // side), -(-width // side))
    tiles = coarse.repeat_interleave(side, 2).repeat_interleave(side, 3)[:, :, :height, :width].reshape(state.x.shape)
    return tiles * per_row(state.radius / length(tiles, state.norm), tiles)


def _window(state: FixedBudgetState, share: float) -> tuple[Tensor, Tensor]:
    """A random window of each row that covers a share of the plane: where it is, and how it rises to its middle.

    Both are (M, 1, H, W), the second 0 outside.
    """
    _, height, width = _planes(state.x.shape[1:])
    tall = min(height, max(1, round(math.sqrt(share * height * width))))
    wide = min(width, max(1, round(share * height * width / tall)))
    depths = []
    for size, extent in ((height, tall), (width, wide)):
        first = state.streams.uniform(state.x.new_empty(len(state.x), 1))
        place = torch.arange(size, device=state.x.device) - (first * (size - extent + 1)).floor()
        depths.append(torch.minimum(place, extent - 1 - place) + 1)  # 1 at the rim, above towards the middle
    depth = torch.minimum(depths[0][:, None, :, None], depths[1][:, None, None, :]).clamp(min=0)
    return depth > 0, (depth / depth.amax((2, 3), keepdim=True)).square()


def _recolour(state: FixedBudgetState, delta: Tensor, share: float) -> Tensor:
    """A window at one end of the budget, in each channel, (M, *D)."""
    planes = delta.reshape(len(delta), *_planes(delta.shape[1:]))
    ends = _signs(state, planes.shape[1], 1, 1) * per_row(state.radius, planes)
    return torch.where(_window(state, share)[0], ends, planes).reshape(delta.shape)


def _move_mass(state: FixedBudgetState, delta: Tensor, share: float) -> Tensor:
    """The mass of one window, and what the budget has left, moved into another window, (M, *D)."""
    planes = delta.reshape(len(delta), *_planes(delta.shape[1:]))
    (there, bump), (source, _) = _window(state, share), _window(state, share)
    kept = torch.where(there | source, 0.0, planes)
    inside = torch.where(there, planes, 0.0)
    tiny = torch.finfo(delta.dtype).tiny
    bump = bump * _signs(state, planes.shape[1], 1, 1)
    shape = _unit(bump, state.norm, tiny) + _unit(inside, state.norm, tiny)
    mass = (state.radius**state.norm - length(kept, state.norm) ** state.norm).clamp(min=0) ** (1 / state.norm)
    return (kept + _unit(shape, state.norm, tiny) * per_row(mass, planes)).reshape(delta.shape)


def _unit(planes: Tensor, norm: float, tiny: float) -> Tensor:
    return planes / per_row(length(planes, norm).clamp(min=tiny), planes)
