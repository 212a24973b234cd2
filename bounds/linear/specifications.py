"""Properties of outputs beyond a class: sets of unsafe outputs, each given by several inequalities at once."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.graph.captured import Graph, Source
from bounds.graph.capturing import capture
from bounds.linear.ladder import row_bounds
from bounds.linear.methods import METHODS, linear_bounds
from bounds.linear.network import Network
from bounds.memory import MEMORY
from bounds.numerics import converted_down, ieee_arithmetic, unit_roundoff
from bounds.operations.node import entries
from bounds.sets.balls import PerturbationSet, perturbation_set


@isolated
@ieee_arithmetic()
def specification_bounds(
    model: Source | Graph,
    ball: PerturbationSet,
    unsafe: Sequence[tuple[Tensor, Tensor]],
    method: str = "alpha_crown",
    *,
    steps: int = 20,
    sound: str = "rounding",
    memory: int = MEMORY,
) -> Tensor:
    r"""Distance of outputs from unsafe sets: above 0, no input of a ball leads into that set.

    A set :math:`\{y : A y \le b\}` is one of outputs that meet several inequalities at once. The result is a lower
    bound on :math:`\min_x \max_i (A f(x) - b)_i`, with the guarantee and the conditions of :func:`bounds.crown`. It
    is that of one combination :math:`w^\top (A f(x) - b)` of the inequalities with weights that sum to 1;
    ``"alpha_crown"`` ascends these weights with the slopes, which matters where no inequality fails in all of the ball.

    A property of VNN-LIB is violated where outputs lie in any of its sets: it holds where a row is above 0 throughout.

    Args:
        model: maps (N, *D) to (N, K), any network that ``torch.export`` follows, or its captured graph.
        ball: N perturbation sets.
        unsafe: pairs of a matrix A (M, K) and a vector b (M,), floating and finite, exact in the dtype of the model.
        method: as for :func:`bounds.margin_bounds`.
        steps: of ascent, for ``"alpha_crown"``.
        sound: which rounding errors are included, see :func:`bounds.crown`.
        memory: bytes that the coefficients may take.

    Returns:
        (N, S) tensor, a column for each of the S unsafe sets.

    Raises:
        UnsupportedLayer: an operation without a rule.
        InvalidInput: an unknown method or mode, a set of other shape or dtype, no set.
    """
    checks.one_of("method", method, METHODS)
    if not unsafe:
        raise InvalidInput("unsafe must hold at least one pair (A, b), got none: there is nothing to prove")
    perturbation_set(ball)
    graph = capture(model, ball.center)
    network = graph.program.module()
    weight = next(network.parameters(), ball.center)
    outputs = entries(graph.bind(ball.center)["output"].value)
    sets = [_checked(rows, offsets, outputs, weight) for rows, offsets in unsafe]
    alone = [place for place, (rows, _) in enumerate(sets) if method == "ibp" or len(rows) == 1]
    found: dict[int, Tensor] = {}
    with torch.no_grad():
        if alone:
            several = Network(graph, ball, sound=sound)
            part = _by_rows(several, [sets[place] for place in alone], method, steps=steps, memory=memory)
            found = dict(zip(alone, converted_down(part, ball.center.dtype).T, strict=True))
    for place, several_rows in enumerate(sets):
        if place not in found:
            worst = capture(_Worst(network, *several_rows), ball.center)
            bound = linear_bounds(worst, ball, method, steps=steps, sound=sound, memory=memory)
            found[place] = bound.lower.detach()[:, 0]
    return torch.stack([found[place] for place in range(len(sets))], 1)


def _by_rows(
    network: Network, sets: Sequence[tuple[Tensor, Tensor]], method: str, *, steps: int, memory: int
) -> Tensor:
    """The best inequality of each set alone, folded into the last affine layers, (N, S)."""
    like = network.ball.center
    rows, offsets = (torch.cat(parts).to(like) for parts in zip(*sets, strict=True))
    least = row_bounds(network, rows.expand(len(like), *rows.shape), method, steps=steps, memory=memory)
    rounding = 2 * unit_roundoff(like.dtype) * (least.abs() + offsets.abs())
    parts = (least - offsets - rounding).split([len(own) for own, _ in sets], 1)
    return torch.cat([part.amax(1, keepdim=True) for part in parts], 1)


class _Worst(nn.Module):
    """The largest of ``A y - b``, (N, 1): which inequality fails by most."""

    rows: Tensor
    offsets: Tensor

    def __init__(self, network: nn.Module, rows: Tensor, offsets: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("rows", rows)
        self.register_buffer("offsets", offsets)

    def forward(self, x: Tensor) -> Tensor:
        """The largest difference of each input."""
        differences = nn.functional.linear(self.network(x).flatten(1), self.rows, -self.offsets)
        return differences.amax(1, keepdim=True)


def _checked(rows: Tensor, offsets: Tensor, outputs: int, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The set in the dtype and on the device of the model."""
    shapes = tuple(checks.tensor("A", rows).shape), tuple(checks.tensor("b", offsets).shape)
    if rows.ndim != 2 or rows.shape[1] != outputs or len(rows) == 0 or shapes[1] != shapes[0][:1]:
        raise InvalidInput(
            f"unsafe must hold pairs of A (M, {outputs}) and b (M,), one row for each inequality, got shapes "
            f"{shapes[0]} and {shapes[1]}"
        )
    for name, part in (("A", rows), ("b", offsets)):
        if not bool((part.isfinite() & (part.to(weight.dtype) == part)).all()):
            raise InvalidInput(
                f"{name} must be finite and exact in the {weight.dtype} of the model: round it, or pass model.double()"
            )
    return rows.to(weight), offsets.to(weight)
