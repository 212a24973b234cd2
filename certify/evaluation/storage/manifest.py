"""Manifest of an evaluation: all that determines its results."""

import hashlib
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from bounds.checks import Limit
from bounds.sets.orders import Order, order_key
from certify.evaluation.storage.code import code_digest, processor_name
from certify.methods import Method, Problem
from certify.methods.sets.kinds import tables_of
from certify.methods.smoothed import Smoothed
from certify.methods.tables import table_of
from certify.smoothing.drawing.bits import DRAWS_VERSION
from certify.smoothing.drawing.votes import precision_name
from certify.stored_inputs import Rows, entry_bytes


def manifest_of(
    problem: Problem,
    logits: Tensor,
    methods: Sequence[Method],
    norms: Sequence[Order],
    units: int,
    sizes: Mapping[str, int],
    source: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Versions, device, seed, configuration, and what tells this model and these data from others, in plain values.

    Weights and buffers do not tell all of a model: its code may change. So its answers count too, coarsely
    enough to survive rounding: the predicted classes, and the mean size of the logits to four digits.
    """
    device, model = problem.x.device, problem.model
    return {
        "format": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **surroundings(device),
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "tf32": device.type == "cuda" and (torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32),
        "precision": precision_name(model, problem.x[:1]),
        "seed": problem.seed,
        **({"draws_version": DRAWS_VERSION} if any(isinstance(method, Smoothed) for method in methods) else {}),
        "configuration": {
            "norms": [order_key(norm) for norm in norms if not isinstance(norm, str)],
            **tables_of(norms),
            "methods": {method.name: table_of(method) for method in methods},
            "low": _shown(problem.low),
            "high": _shown(problem.high),
            "batch_size": problem.batch_size,
            **({} if problem.memory is None else {"memory": problem.memory, "batch_sizes": dict(problem.batch_sizes)}),
            "inputs": len(problem.x),
            "first_index": problem.first_index,
            "on_grid": problem.on_grid,
            "units": units,
            "plan": {
                method.name: {
                    "norms": [order_key(norm) for norm in norms if method.serves(norm)],
                    "rows_per_unit": sizes.get(method.name, method.rows_per_unit),
                }
                for method in methods
            },
        },
        "source": dict(source or {}),
        "weights_sha256": weights_digest(model),
        "code_sha256": code_digest(model),
        "answers_sha256": _digest([("classes", logits.argmax(1))], f"{float(logits.double().abs().mean()):.4g}"),
        "data_sha256": _digest([("x", problem.x), ("y", problem.y)]),
    }


def surroundings(device: torch.device) -> dict[str, Any]:
    """Versions and device: what must be the same on all machines that share a run."""
    return {
        "versions": {name: version(name) for name in ("certify-bounds", "torch", "numpy", "scipy")},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over the weights and buffers of a model, and the kinds of its modules."""
    kinds = " ".join(type(module).__qualname__ for module in model.modules())
    return _digest([*model.named_parameters(), *model.named_buffers()], kinds)


def _shown(limit: Limit) -> float | str | None:
    """A side of the box for the manifest; per-feature sides by their hash."""
    return _digest([("limit", limit)]) if isinstance(limit, Tensor) else limit


def _digest(tensors: Sequence[tuple[str, Rows]], text: str = "") -> str:
    """SHA-256 over names, types, shapes and values."""
    digest = hashlib.sha256(text.encode())
    for name, value in tensors:
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        for part in entry_bytes(value):
            digest.update(part)
    return digest.hexdigest()
