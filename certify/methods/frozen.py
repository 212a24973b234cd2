"""Features that no perturbation may change, as a setting: entries of an input, in plain values for the manifest."""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from bounds.errors import InvalidConfiguration, InvalidInput
from certify.methods.base import Method, Problem

WANTED = "frozen_features must be a bool tensor that broadcasts to one input, or a list of places in a flat input"


def plain_mask(given: object) -> list[int] | dict[str, list[int]] | None:
    """Frozen features in plain values: places in a flat input, or the shape of a mask with the places in it.

    Raises:
        InvalidInput: neither a bool tensor nor places.
    """
    if given is None:
        return None
    if isinstance(given, Tensor | np.ndarray):
        mask = torch.as_tensor(given)
        if mask.dtype != torch.bool:
            raise InvalidInput(f"{WANTED}, got a tensor of {mask.dtype}")
        return {"shape": list(mask.shape), "places": mask.flatten().nonzero().squeeze(1).tolist()}
    if isinstance(given, Mapping) and given.keys() == {"shape", "places"}:
        shape, places = _places(given["shape"], math.inf), _places(given["places"], math.prod(given["shape"]))
        return {"shape": shape, "places": places}
    return _places(given, math.inf)


def _places(given: object, end: float) -> list[int]:
    fine = isinstance(given, list | tuple) and all(type(place) is int and 0 <= place < end for place in given)
    if not fine or not isinstance(given, list | tuple):
        raise InvalidInput(f"{WANTED}, got {given!r}")
    return list(given)


def mask_of(plain: list[int] | dict[str, list[int]] | None, x: Tensor) -> Tensor | None:
    """The mask over one input of (N, *D); None where nothing is frozen.

    Raises:
        InvalidInput: a place that the input does not have.
    """
    if not plain:
        return None
    shape = plain["shape"] if isinstance(plain, dict) else x.shape[1:]
    places = plain["places"] if isinstance(plain, dict) else plain
    entries = math.prod(shape)
    if places and max(places) >= entries:
        raise InvalidInput(f"frozen_features must be places from 0 to {entries - 1}, got {max(places)}")
    mask = torch.zeros(entries, dtype=torch.bool, device=x.device)
    mask[places] = True
    return mask.view(*shape)


def mask_from_file(file: Path) -> Tensor:
    """The bool array of a ``.npy`` file.

    Raises:
        InvalidConfiguration: the file cannot be read, or holds something else.
    """
    try:
        with file.open("rb") as opened:
            array = np.load(opened, allow_pickle=False)
    except Exception as error:  # a damaged file fails in many ways
        reason = str(error).strip().splitlines()
        raise InvalidConfiguration(
            f"frozen_features file {file} cannot be read: {reason[0] if reason else type(error).__name__}"
        ) from error
    if not isinstance(array, np.ndarray) or array.dtype != np.bool_:
        raise InvalidConfiguration(f"frozen_features file {file} must be a .npy file of one bool array")
    return torch.from_numpy(array)


class WithFrozenFeatures(Method, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A method that may leave some features of an input out of every perturbation.

    ``frozen_features`` is a bool tensor that broadcasts to one input, True where nothing changes, or a list of places
    in a flat input; a configuration may also name a ``.npy`` file of such a tensor. What is proved with frozen
    features is compared only with perturbations that keep them.
    """

    frozen_features: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        msgspec.structs.force_setattr(self, "frozen_features", plain_mask(self.frozen_features))

    def mask(self, problem: Problem) -> Tensor | None:
        """The frozen features of one input, True where nothing changes; None if there are none."""
        return mask_of(self.frozen_features, problem.x[:1])

    def frozen_name(self, problem: Problem) -> str:
        """A name of the frozen features, for records; empty if there are none."""
        mask = self.mask(problem)
        if mask is None or not bool(mask.any()):
            return ""
        whole = mask.expand(problem.x.shape[1:]).contiguous().cpu()
        digest = hashlib.sha256(whole.numpy().tobytes()).hexdigest()[:12]
        return f"{int(whole.sum())} of {whole.numel()} entries frozen ({digest})"
