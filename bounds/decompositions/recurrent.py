"""Recurrent networks, unrolled into linear layers, sigmoids, hyperbolic tangents and products."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Sequence[Tensor]  # of the input and of the state, perhaps their biases, perhaps a projection of the state
State = tuple[Tensor, ...]  # what one step hands to the next; first the output
Cell = Callable[[Tensor, State, Weights], State]


def _both(x: Tensor, hidden: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """Contributions of input and state to the gates."""
    biases: Sequence[Tensor | None] = weights[2:4] if len(weights) > 3 else (None, None)
    return F.linear(x, weights[0], biases[0]), F.linear(hidden, weights[1], biases[1])


def _plain(activation: Callable[[Tensor], Tensor]) -> Cell:
    def step(x: Tensor, state: State, weights: Weights) -> State:
        of_input, of_state = _both(x, state[0], weights)
        return (activation(of_input + of_state),)

    return step


def _long_short_term_memory(x: Tensor, state: State, weights: Weights) -> State:
    hidden, memory = state
    of_input, of_state = _both(x, hidden, weights)
    write, keep, new, read = (of_input + of_state).chunk(4, -1)
    memory = keep.sigmoid() * memory + write.sigmoid() * new.tanh()
    hidden = read.sigmoid() * memory.tanh()
    projected = len(weights) in (3, 5)
    return (F.linear(hidden, weights[-1]) if projected else hidden), memory


def _gated(x: Tensor, state: State, weights: Weights) -> State:
    (hidden,) = state
    of_input, of_state = (part.chunk(3, -1) for part in _both(x, hidden, weights))
    reset, keep = (((one + other).sigmoid()) for one, other in zip(of_input[:2], of_state[:2], strict=True))
    new = (of_input[2] + reset * of_state[2]).tanh()
    # Not new + keep (hidden - new), whose intervals grow faster.
    return ((1 - keep) * new + keep * hidden,)


def _unrolled(cell: Cell, parts: int) -> Callable[..., tuple[Tensor, ...]]:
    """All layers and directions of a network, for a cell whose state has some parts."""

    def run(
        x: Tensor,
        start: Tensor | Sequence[Tensor],
        weights: Sequence[Tensor],
        has_biases: bool,
        layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Tensor, ...]:
        if train and dropout:
            return NotImplemented  # type: ignore[no-any-return]  # export takes it for an operation that stays as it is
        starts = (start,) if isinstance(start, Tensor) else tuple(start)
        time, ways = int(batch_first), 2 if bidirectional else 1
        each = len(weights) // (layers * ways)
        finals: list[State] = []
        for layer in range(layers):
            outputs = []
            for way in range(ways):
                place = layer * ways + way
                own = weights[place * each : (place + 1) * each]
                found, state = _along(cell, x, tuple(part[place] for part in starts), own, time, backward=way == 1)
                outputs.append(found)
                finals.append(state)
            x = torch.stack([torch.cat(together, -1) for together in zip(*outputs, strict=True)], time)
        return x, *(torch.stack([state[i] for state in finals]) for i in range(parts))

    return run


def _along(
    cell: Cell, x: Tensor, state: State, weights: Weights, time: int, *, backward: bool
) -> tuple[list[Tensor], State]:
    """The outputs of one layer in one direction, in order of time, and its last state."""
    steps = range(x.shape[time])
    outputs = []
    for step in reversed(steps) if backward else steps:
        state = cell(x.select(time, step), state, weights)
        outputs.append(state[0])
    return outputs[::-1] if backward else outputs, state


def _single(cell: Cell, parts: int) -> Callable[..., Tensor | State]:
    """One step."""

    def run(x: Tensor, start: Tensor | Sequence[Tensor], *weights: Tensor | None) -> Tensor | State:
        state = (start,) if isinstance(start, Tensor) else tuple(start)
        found = cell(x, state, [weight for weight in weights if weight is not None])
        return found if parts > 1 else found[0]

    return run


_tanh, _relu = _plain(torch.tanh), _plain(torch.relu)
lstm, gru, rnn_tanh, rnn_relu = (
    _unrolled(cell, parts) for cell, parts in ((_long_short_term_memory, 2), (_gated, 1), (_tanh, 1), (_relu, 1))
)
lstm_cell, gru_cell, rnn_tanh_cell, rnn_relu_cell = (
    _single(cell, parts) for cell, parts in ((_long_short_term_memory, 2), (_gated, 1), (_tanh, 1), (_relu, 1))
)
