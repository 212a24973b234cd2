"""Whether two results are the same, and whether a call has left anything behind."""

import dataclasses
import math
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from hostile.calls_of_bounds import Case
from torch import Tensor, nn

SKIPPED = {"precision", "seconds"}  # the first has a test of its own


def assert_same(found: Any, expected: Any, place: str = "result") -> None:
    """Equal in all parts, numbers up to the last digits: other kernels may add in another order."""
    if dataclasses.is_dataclass(expected) and not isinstance(expected, type):
        names = [field.name for field in dataclasses.fields(expected) if field.name not in SKIPPED]
        found, expected = ({name: getattr(record, name) for name in names} for record in (found, expected))
    if isinstance(expected, Tensor):
        assert found.dtype == expected.dtype, place
        assert found.device == expected.device, place
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, equal_nan=True, msg=lambda m: f"{place}: {m}")
    elif isinstance(expected, float):
        assert math.isclose(found, expected, rel_tol=1e-5, abs_tol=1e-6) or (found != found and expected != expected), (
            place
        )
    elif isinstance(expected, Mapping):
        assert list(found) == list(expected), place
        for key, value in expected.items():
            assert_same(found[key], value, f"{place}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), place
        for i, value in enumerate(expected):
            assert_same(found[i], value, f"{place}[{i}]")
    else:
        assert found == expected, place


@contextmanager
def nothing_left_behind(case: Case) -> Iterator[None]:
    """Fail where the state of torch, of the model or of the inputs is another one afterwards, whatever happened."""
    before, versions = _state(case), _values(case)
    try:
        yield
    finally:
        after = _state(case)
        assert {key for key in before if before[key] != after[key]} == set()
        for name, value in _values(case).items():
            assert torch.equal(value, versions[name]), f"{name} has changed"


def _state(case: Case) -> dict[str, object]:
    state: dict[str, object] = {
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": (
            torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"),
            torch.is_autocast_cache_enabled(),
        ),
        "anomaly": torch.is_anomaly_enabled(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
        ),
        "threads": torch.get_num_threads(),
        "precision": (
            torch.get_float32_matmul_precision(),
            torch.backends.mkldnn.flags,
            torch.backends.cudnn.allow_tf32,
        ),
        "random numbers": torch.random.get_rng_state().numpy().tobytes(),
        "random numbers of numpy": np.random.get_state()[1].tobytes(),  # noqa: NPY002  # the global one
        "random numbers of python": random.getstate(),
        "x": (case.x.requires_grad, case.x.grad is None),
    }
    if isinstance(case.model, nn.Module):
        for name, module in case.model.named_modules():
            hooks = [len(value) for key, value in vars(module).items() if "hooks" in key and hasattr(value, "__len__")]
            state[f"module {name}"] = (module.training, hooks, sorted(vars(module)))
        for name, weight in case.model.named_parameters():
            state[f"weight {name}"] = (id(weight), weight.requires_grad, weight.dtype, weight.grad is None)
    return state


def _values(case: Case) -> dict[str, Tensor]:
    with torch.no_grad():
        weights = case.model.state_dict() if isinstance(case.model, nn.Module) else {}
        return {
            "x": case.x.detach().clone(),
            "y": case.y.clone(),
            **{n: w.detach().clone() for n, w in weights.items()},
        }
