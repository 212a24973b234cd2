"""Networks given as they are, or as stored weights of one architecture."""

import copy
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from bounds.errors import InvalidInput
from bounds.models import require_module

Checkpoint = nn.Module | Mapping[str, Tensor]
Checkpoints = Mapping[str, Checkpoint] | Sequence[Checkpoint]


def names_of(checkpoints: Checkpoints, fewest: int) -> tuple[str, ...]:
    """Names of the checkpoints in their order; numbers from 1 where they have none.

    Raises:
        InvalidInput: fewer than ``fewest``, or a single network or set of weights.
    """
    single = isinstance(checkpoints, nn.Module) or (
        isinstance(checkpoints, Mapping) and any(isinstance(value, Tensor) for value in checkpoints.values())
    )
    if single or isinstance(checkpoints, str) or not hasattr(checkpoints, "__len__"):
        what = "one network or one set of weights" if single else type(checkpoints).__name__
        raise InvalidInput(f"checkpoints must be a sequence or a mapping, got {what}: put a single one into a list")
    if len(checkpoints) < fewest:
        raise InvalidInput(f"checkpoints must hold at least {fewest}, got {len(checkpoints)}: store more of them")
    if isinstance(checkpoints, Mapping):
        return tuple(map(str, checkpoints))
    return tuple(str(place) for place in range(1, len(checkpoints) + 1))


def networks_of(checkpoints: Checkpoints, model: nn.Module | None) -> Iterator[nn.Module]:
    """The network of each checkpoint, one at a time; weights are loaded into a copy of ``model``.

    Raises:
        InvalidInput: weights without a model, or that do not fit it; what is neither.
        InvalidModel: ``model`` is no ``nn.Module``.
    """
    holder = None
    each = checkpoints.values() if isinstance(checkpoints, Mapping) else checkpoints
    for place, one in enumerate(each, start=1):
        if isinstance(one, nn.Module):
            yield one
            continue
        if not isinstance(one, Mapping):
            raise InvalidInput(
                f"checkpoint {place} must be a torch.nn.Module or its state_dict(), got {type(one).__name__}: load it"
            )
        if holder is None:
            if model is None:
                raise InvalidInput(
                    f"checkpoint {place} holds weights, and no model to give them to: pass model=, of the same layers"
                )
            require_module(model)
            holder = copy.deepcopy(model)
        try:
            holder.load_state_dict(one)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise InvalidInput(f"checkpoint {place} does not fit the model: {reason}") from error
        yield holder
