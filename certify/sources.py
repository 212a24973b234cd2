"""Models and data from files, as a configuration names them."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bounds import InvalidConfiguration, InvalidModel, Normalize
from certify import reference
from certify.config import DataSource, ModelSource


def load_model(source: ModelSource, device: str = "cpu") -> nn.Module:
    """The model that a configuration names, in evaluation mode on ``device``.

    Raises:
        InvalidConfiguration: none or several sources are named, or a file or function cannot be used.
        InvalidModel: the weights do not fit the model.
    """
    named = [name for name in ("network", "build", "exported") if getattr(source, name) is not None]
    if len(named) != 1:
        raise InvalidConfiguration(
            f"[model] must name exactly one of network, build and exported, got {', '.join(named) or 'none'}"
        )
    if source.weights is not None and source.build is None:
        raise InvalidConfiguration("[model] weights belong to a model named by build")
    if source.network is not None:
        model: nn.Module = reference.load(source.network, count=1).model
    elif source.exported is not None:
        model = _load_exported(source.exported)
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
        try:
            with np.load(source.file, allow_pickle=False) as stored:
                missing = {"x", "y"} - set(stored.files)
                if missing:
                    raise InvalidConfiguration(
                        f"data file {source.file} must hold arrays x and y, but has {', '.join(stored.files) or 'none'}"
                    )
                x, y = torch.from_numpy(stored["x"]), torch.from_numpy(stored["y"])
        except (OSError, ValueError, TypeError) as error:
            if isinstance(error, InvalidConfiguration):
                raise
            raise InvalidConfiguration(f"data file {source.file} cannot be read: {error}") from error
    if len(x) != len(y):
        raise InvalidConfiguration(f"data file {source.file} must hold one label per input, got {len(x)} and {len(y)}")
    if source.count is not None and source.count > len(x):
        raise InvalidConfiguration(f"[data] count is {source.count}, but there are {len(x)} inputs")
    weight = next(like.parameters(), torch.zeros(()))
    x = x[: source.count].to(weight.dtype) / source.divide_by
    return x.to(weight.device), y[: source.count].to(weight.device)


def torch_device(name: str) -> torch.device:
    """The device of that name, if this machine has it.

    Raises:
        InvalidConfiguration: no such device.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidConfiguration(f"device {name!r} cannot be used on this machine: {reason}") from error
    return device


def _build(reference_to_function: str) -> nn.Module:
    module_name, _, function_name = reference_to_function.rpartition(":")
    if not module_name:
        raise InvalidConfiguration(f"[model] build must be module:function, got {reference_to_function!r}")
    try:
        function: Callable[[], object] = getattr(_import(module_name), function_name)
        model = function()
    except Exception as error:  # whatever a foreign module raises
        raise InvalidConfiguration(
            f"[model] build {reference_to_function!r} failed: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise InvalidModel(f"{reference_to_function} must return a torch.nn.Module, got {type(model).__name__}")
    return model


def _import(name: str) -> ModuleType:
    path = Path(name)
    if path.suffix != ".py":
        return importlib.import_module(name)
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if specification is None or specification.loader is None:
        raise ImportError(f"{name} is no Python file")
    module = importlib.util.module_from_spec(specification)
    sys.modules[path.stem] = module
    specification.loader.exec_module(module)
    return module


def _load_weights(model: nn.Module, file: str) -> None:
    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
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


def _load_exported(file: str) -> nn.Module:
    try:
        return torch.export.load(file).module()
    except Exception as error:  # a damaged archive fails in many ways
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InvalidConfiguration(f"exported model {file} cannot be read: {reason}") from error
