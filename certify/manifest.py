"""What determines the results of an evaluation, for its manifest."""

import hashlib
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import msgspec
import torch
from torch import Tensor

from bounds.checks import Limit
from certify.methods import Method, Problem


def manifest_of(
    problem: Problem, methods: Sequence[Method], norms: Sequence[float], source: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Versions, device, seed, configuration, and hashes of weights and data, in plain values."""
    device = problem.x.device
    weights = [(name, value) for name, value in problem.model.state_dict().items() if isinstance(value, Tensor)]
    return {
        "format": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in ("certify-bounds", "torch", "numpy", "scipy")},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "seed": problem.seed,
        "configuration": {
            "norms": [f"{float(norm):g}" for norm in norms],
            "methods": {method.name: msgspec.to_builtins(method) for method in methods},
            "low": _shown(problem.low),
            "high": _shown(problem.high),
            "batch_size": problem.batch_size,
            "inputs": len(problem.x),
        },
        "source": dict(source or {}),
        "weights_sha256": _digest(weights, str(problem.model)),
        "data_sha256": _digest([("x", problem.x), ("y", problem.y)]),
    }


def _shown(limit: Limit) -> float | str | None:
    """A side of the box for the manifest; per-feature sides by their hash."""
    return _digest([("limit", limit)]) if isinstance(limit, Tensor) else limit


def _digest(tensors: Sequence[tuple[str, Tensor]], text: str = "") -> str:
    """SHA-256 over names, types, shapes and values."""
    digest = hashlib.sha256(text.encode())
    for name, value in tensors:
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
