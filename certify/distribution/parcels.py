"""Parcels: an object that all workers share, packed once, with the modes that its computations depend on."""

import io
import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from bounds.errors import InvalidInput
from certify.importing import own_modules, restored


@dataclass(frozen=True)
class Parcel:
    """An object as bytes, and where it can be unpacked.

    Attributes:
        content: the object, as :func:`torch.save` writes it.
        path: of modules, for those that the object needs.
        modules: files of a user's own modules that the object names.
        modes: see :func:`numerical_modes`.
    """

    content: bytes
    path: tuple[str, ...]
    modules: tuple[str, ...]
    modes: Mapping[str, Any]

    @classmethod
    def of(cls, shared: object, pickler: ModuleType = pickle) -> "Parcel":
        """An object packed.

        Raises:
            InvalidInput: a part of it cannot be sent to another process.
        """
        content = io.BytesIO()
        try:
            torch.save(shared, content, pickle_module=pickler)
        except Exception as error:  # pickle raises many kinds
            raise InvalidInput(
                f"engine: the model, a method or a limit cannot be sent to a worker ({error}): define its class at the "
                "top level of a module, without lambdas in it, or leave engine out"
            ) from error
        packed = content.getvalue()
        return cls(packed, tuple(sys.path), own_modules(packed), numerical_modes())

    def unpacked(self, device: torch.device) -> Any:  # noqa: ANN401  # any object
        """The object in a worker, its tensors on a device, after setting the modes as they were.

        The content never comes from a file: it was made by the process that started this one.
        """
        set_numerical_modes(self.modes)
        sys.path += [place for place in self.path if place not in sys.path]
        restored(self.modules)
        return torch.load(io.BytesIO(self.content), map_location=device, weights_only=False)


def can_be_sent(value: object) -> bool:
    """Whether pickle knows how to send an object."""
    try:
        torch.save(value, io.BytesIO())
    except Exception:  # pickle raises many kinds
        return False
    return True


def numerical_modes() -> dict[str, Any]:
    """All modes of this process on which the bits of a result depend."""
    return {
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "matmul": torch.get_float32_matmul_precision(),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        "cudnn": {name: getattr(torch.backends.cudnn, name) for name in CUDNN},
    }


CUDNN = ("allow_tf32", "benchmark", "deterministic", "enabled")


def set_numerical_modes(modes: Mapping[str, Any]) -> None:
    """Set what :func:`numerical_modes` has told."""
    torch.set_num_threads(modes["threads"])
    torch.set_grad_enabled(modes["gradients"])
    torch.set_default_dtype(modes["dtype"])
    torch.set_float32_matmul_precision(modes["matmul"])
    enabled, warn_only = modes["deterministic"]
    torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
    for name, value in modes["cudnn"].items():
        setattr(torch.backends.cudnn, name, value)
