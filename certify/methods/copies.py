"""Certificates of a network together with a quantised copy of it, as a method of an evaluation."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bounds import WeightBox
from bounds.errors import InvalidConfiguration, InvalidInput
from certify.methods.base import Problem
from certify.methods.checked import Count, Name, Positive
from certify.methods.frozen import WithFrozenFeatures
from certify.results import Certificate
from certify.stored_inputs import entry_bytes
from certify.verification.quantisation.quantised import certified_quantised
from certify.verification.quantisation.quantised_weights import Copy as Copy
from certify.verification.quantisation.quantised_weights import QuantisedTensor, of_torch

WANTED = "copy must be a module, a mapping of names to weights, a bounds.WeightBox or a .safetensors file of weights"


@dataclass(frozen=True, eq=False)
class GivenCopy:
    """A copy of a network with other weights, as a setting: a manifest names it by its digest.

    Attributes:
        weights: as :func:`certify.certified_quantised` takes them; None where only the digest or a file is known.
        file: ``.safetensors`` that holds them, if there is one.
        sha256: digest of all weights.
    """

    weights: Copy | WeightBox | None
    file: str | None
    sha256: str

    @classmethod
    def of(cls, given: object) -> "GivenCopy":
        """The copy that a caller, a configuration or a manifest names.

        Raises:
            InvalidInput: something else.
            InvalidConfiguration: a file that cannot be read.
        """
        if isinstance(given, GivenCopy):
            return given
        if isinstance(given, str | Path):
            file = str(Path(given).resolve())
            return cls(None, file, copy_digest(_read(file)))
        if isinstance(given, Mapping) and isinstance(given.get("sha256"), str) and given.keys() <= {"sha256", "file"}:
            return cls(None, given.get("file"), given["sha256"])
        if isinstance(given, nn.Module | WeightBox) or (isinstance(given, Mapping) and given):
            return cls(given, None, copy_digest(given))
        raise InvalidInput(f"{WANTED}, got {type(given).__name__}")

    def plain(self) -> dict[str, str]:
        """The digest, and the file if there is one."""
        return {"sha256": self.sha256, **({} if self.file is None else {"file": self.file})}

    def found(self) -> Copy | WeightBox:
        """The weights themselves.

        Raises:
            InvalidConfiguration: they are not at hand, or are others by now.
        """
        if self.weights is not None:
            return self.weights
        if self.file is None:
            raise InvalidConfiguration(
                f"copy must be at hand, but the manifest has no more than its digest {self.sha256[:12]}: hand it in "
                f"(certify.audit takes copies=), or name a .safetensors file"
            )
        weights = _read(self.file)
        if copy_digest(weights) != self.sha256:
            raise InvalidConfiguration(
                f"copy must be the one of digest {self.sha256[:12]}, but {self.file} holds another one: restore it"
            )
        return weights


def _read(file: str) -> Mapping[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise InvalidConfiguration(f"copy file {file} cannot be read as .safetensors: {error}") from error


def copy_digest(copy: Copy | WeightBox) -> str:
    """SHA-256 over the names, types, shapes and values of all weights of a copy."""
    digest = hashlib.sha256()
    for name, value in _parts(copy):
        if not isinstance(value, Tensor):
            digest.update(f"{name} {value!r}\n".encode())
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        for part in entry_bytes(value):
            digest.update(part)
    return digest.hexdigest()


def _parts(copy: Copy | WeightBox) -> Iterator[tuple[str, Any]]:
    """Everything that tells one copy from another, by name."""
    if isinstance(copy, WeightBox):
        yield "dynamic", sorted(copy.dynamic)
        copy = {
            f"{side} {name}": ends[name]
            for side in ("lower", "upper")
            for ends in [getattr(copy, side)]
            for name in ends
        }
    elif isinstance(copy, nn.Module):
        yield "kinds", [type(module).__qualname__ for module in copy.modules()]
        copy = copy.state_dict()
    for name in sorted(copy):
        yield from _entries(name, copy[name])


def _entries(name: str, value: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401  # whatever a state holds
    if isinstance(value, Tensor) and value.is_quantized:
        value = of_torch(name, value)
    if isinstance(value, QuantisedTensor):
        value = tuple(getattr(value, part) for part in ("values", "scale", "zero_point", "axis"))
    if isinstance(value, tuple):
        for place, part in enumerate(value):
            yield from _entries(f"{name}.{place}", part)
    else:
        yield name, value


class QuantisedCopy(WithFrozenFeatures, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Certified radius of the model and a quantised copy at once; see :func:`certify.certified_quantised`.

    ``copy`` is what that function takes, or a ``.safetensors`` file of weights by the names of the model's; a manifest
    names it by its digest. The records speak of the model, the copy and all networks between, or of the copy alone with
    ``weights="copy"``. In the first case, an adversarial example of the model refutes them too.
    """

    norms = (0.0, 1.0, 2.0, math.inf)
    rows_per_unit = 10

    name: Name = "quantised_copy"
    copy: Any
    method: Literal["ibp", "crown_ibp", "crown", "alpha_crown", "fast_lin"] = "crown"
    weights: Literal["between", "copy"] = "between"
    tolerance: Positive = 1e-2
    steps: Count = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        msgspec.structs.force_setattr(self, "copy", GivenCopy.of(self.copy))

    def run(self, problem: Problem, rows: slice, norm: float) -> Certificate:
        """Deterministic certificates of the model and its copy."""
        return certified_quantised(
            problem.model,
            self.copy.found(),
            problem.x[rows],
            problem.y[rows],
            norm=norm,
            epsilon=None,
            method=self.method,
            weights=self.weights,
            low=problem.low,
            high=problem.high,
            frozen_features=self.mask(problem),
            tolerance=self.tolerance,
            steps=self.steps,
            memory=problem.memory_of_bounds,
        )
