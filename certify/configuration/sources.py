"""Models and data from files, as a configuration names them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bounds import InvalidConfiguration, InvalidModel, Normalize, from_onnx
from certify import reference
from certify.configuration.config import DataSource, ModelSource
from certify.configuration.exported import load_exported
from certify.importing import importable, imported


def load_model(source: ModelSource, device: str = "cpu") -> nn.Module:
    """The model that a configuration names, in evaluation mode on ``device``.

    Raises:
        InvalidConfiguration: none or several sources are named, or a file or function cannot be used.
        InvalidModel: the weights do not fit the model.
    """
    named = [name for name in ("network", "build", "exported", "onnx") if getattr(source, name) is not None]
    if len(named) != 1:
        raise InvalidConfiguration(
            f"[model] must name exactly one of network, build, exported and onnx, got {', '.join(named) or 'none'}"
        )
    if source.weights is not None and source.build is None:
        raise InvalidConfiguration("[model] weights belong to a model named by build")
    if source.network is not None:
        model: nn.Module = reference.load(source.network, count=1).model
    elif source.exported is not None:
        model = load_exported(source.exported)
    elif source.onnx is not None:
        model = from_onnx(source.onnx).module()
    else:
        model = _build(str(source.build))
        if source.weights is not None:
            _load_weights(model, source.weights)
        model.eval()
    if (source.mean is None) != (source.std is None):
        raise InvalidConfiguration("[model] needs both mean and std, or neither")
    if source.mean is not None and source.std is not None:
        model = nn.Sequential(Normalize(source.mean, source.std), model)
    return model.to(torch_device(device))


def load_data(source: DataSource, like: nn.Module) -> tuple[Tensor, Tensor]:
    """Inputs (N, *D) and labels (N,) in the dtype and on the device of a model's weights.

    Raises:
        InvalidConfiguration: the file is missing or has no fitting arrays.
    """
    if source.file is None:
        x, y = reference.images()
    else:
        x, y = _stored(source.file)
    if len(x) != len(y):
        raise InvalidConfiguration(f"data file {source.file} must hold one label per input, got {len(x)} and {len(y)}")
    if source.count is not None and not 1 <= source.count <= len(x):
        raise InvalidConfiguration(f"[data] count must be from 1 to {len(x)}, the inputs there are, got {source.count}")
    weight = next((weight for weight in like.parameters() if weight.is_floating_point()), torch.zeros(()))
    x = x[: source.count].to(weight.dtype) / source.divide_by
    return x.to(weight.device), y[: source.count].to(weight.device)


def torch_device(name: str) -> torch.device:
    """The device of that name, if this machine has it.

    Raises:
        InvalidConfiguration: no such device.
    """
    try:
        device = torch.device(name)
        float(torch.zeros(1, device=device) + 1)  # "meta" has tensors, but no numbers in them
    except Exception as error:  # each kind of device has its own way to be missing
        raise InvalidConfiguration(f"device {name!r} cannot be used on this machine: {_reason(error)}") from error
    return device


def _stored(file: str) -> tuple[Tensor, Tensor]:
    """The arrays x and y of a file, as tensors of types that torch can compute with."""
    try:
        # np.load leaves a file that it opened itself open if the archive is damaged.
        with Path(file).open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            names = list(stored.files)
            arrays: dict[str, np.ndarray[Any, np.dtype[Any]]] = {
                name: stored[name] for name in ("x", "y") if name in names
            }
    except Exception as error:  # a damaged archive fails in many ways
        raise InvalidConfiguration(f"data file {file} cannot be read: {_reason(error)}") from error
    if len(arrays) < 2:
        raise InvalidConfiguration(f"data file {file} must hold arrays x and y, but has {', '.join(names) or 'none'}")
    x, y = arrays["x"], arrays["y"]
    if x.dtype.kind not in "biuf" or y.dtype.kind not in "biufc":
        raise InvalidConfiguration(f"data file {file} must hold real x and integer y, got {x.dtype} and {y.dtype}")
    if x.ndim < 2 or y.ndim < 1:
        raise InvalidConfiguration(f"data file {file} must hold x (N, *D) and y (N,), got {x.shape} and {y.shape}")
    # torch knows neither all integer types nor foreign byte orders.
    if x.dtype not in (np.uint8, np.float16, np.float32):
        x = x.astype(np.float64)
    if y.dtype.kind in "iu":
        y = y.astype(np.int64)
    return torch.from_numpy(x), torch.from_numpy(y)


def _reason(error: Exception) -> str:
    """The first line of a message from elsewhere, or the name of the error if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _build(reference_to_function: str) -> nn.Module:
    function: Any = imported("[model] build", reference_to_function)
    try:
        with importable(reference_to_function.rpartition(":")[0]):
            model = function()
    except (Exception, SystemExit) as error:  # whatever a foreign function raises
        raise InvalidConfiguration(
            f"[model] build {reference_to_function!r} failed: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise InvalidModel(f"{reference_to_function} must return a torch.nn.Module, got {type(model).__name__}")
    return model


def _load_weights(model: nn.Module, file: str) -> None:
    try:
        weights = load_file(file)
    except (OSError, ValueError, SafetensorError) as error:
        raise InvalidConfiguration(f"weights {file} cannot be read as safetensors: {error}") from error
    expected = model.state_dict()
    missing = sorted(expected.keys() - weights.keys())
    unknown = sorted(weights.keys() - expected.keys())
    if missing or unknown:
        parts = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has unknown {', '.join(unknown)}"] * bool(unknown)
        raise InvalidModel(f"weights {file} do not fit the model: the file {' and '.join(parts)}")
    shapes = [
        f"{name} is {tuple(weights[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if weights[name].shape != value.shape
    ]
    if shapes:
        raise InvalidModel(f"weights {file} do not fit the model: {', '.join(shapes)}")
    model.load_state_dict(weights)
