"""The model and the data that a configuration names."""

import sys
from typing import Any

import torch
from torch import nn

from bounds.errors import InvalidConfiguration, InvalidModel
from bounds.layers import Logits, Normalize
from bounds.onnx.reading import from_onnx
from certify import reference
from certify.configuration.data.inputs import load_data as load_data
from certify.configuration.keys import ModelSource
from certify.configuration.models.checkpoints import load_weights
from certify.configuration.models.exported import load_exported
from certify.configuration.models.libraries import FromLibrary, library_model
from certify.importing import first_line, importable, imported

ALL_DEVICES = ":*"  # behind the kind of a device
KINDS = ("network", "build", "exported", "onnx")


def load_model(source: ModelSource, device: str = "cpu") -> nn.Module:
    """The model that a source names, in evaluation mode on ``device``.

    A normalisation, of the source or of the library that the model comes from, is its first layer: so radii have the
    units of the raw input.

    Raises:
        InvalidConfiguration: none or several sources are named, or a file or function cannot be used.
        InvalidModel: the weights do not fit the model.
    """
    _require_one(source)
    if (source.mean is None) != (source.std is None):
        (name, given), lacking = (("mean", source.mean), "std") if source.std is None else (("std", source.std), "mean")
        raise InvalidConfiguration(f"[model] needs both mean and std, or neither, got {name} = {given}: add {lacking}")
    found = _found(source)
    model, mean, std = found.model, source.mean or found.mean, source.std or found.std
    if source.weights is not None:
        load_weights(model, source.weights, source.key)
    if _returns_an_object(model):
        model = Logits(model)
    if mean and std:
        model = nn.Sequential(Normalize(mean, std), model)
    if source.exported is None:
        model.eval()
    else:  # which has no modes, and refuses the call
        model.training = False
    return model.to(torch_device(device))


def _require_one(source: ModelSource) -> None:
    named = [name for name in KINDS if getattr(source, name) is not None]
    if not named and source.weights is not None:
        raise InvalidConfiguration(
            f"[model] weights {source.weights} are numbers without a network: name the function that builds it, such "
            'as build = "my_network:make"'
        )
    if len(named) != 1:
        raise InvalidConfiguration(
            f"[model] must name exactly one of network, build, exported and onnx, got {', '.join(named) or 'none'}"
        )
    fits = source.build is not None or source.library[0] in ("timm", "torchvision")
    for key in ("weights", "num_classes"):
        if getattr(source, key) is not None and not fits:
            raise InvalidConfiguration(
                f"[model] {key} belong to a model named by build, or by timm: or torchvision: in network; {named[0]} "
                "has its own"
            )
    if source.num_classes is not None and source.build is not None:
        raise InvalidConfiguration("[model] num_classes is for timm: and torchvision:; build knows its own")
    if source.key is not None and source.weights is None:
        raise InvalidConfiguration(f"[model] key needs weights, in which to look for {source.key!r}")


def _found(source: ModelSource) -> FromLibrary:
    """The model as it is made, and the normalisation that its library states."""
    library, name = source.library
    if library:
        return library_model(library, name, trained=source.weights is None, num_classes=source.num_classes)
    if source.network is not None:
        if source.network not in reference.NETWORKS:
            raise InvalidConfiguration(
                f"[model] network must be one of {', '.join(reference.NETWORKS)}, or timm:NAME, torchvision:NAME or "
                f"hf:FOLDER, got {source.network!r}: a network of your own is named by build"
            )
        return FromLibrary(reference.load(source.network, count=1).model, [], [])
    if source.exported is not None:
        return FromLibrary(load_exported(source.exported), [], [])
    if source.onnx is not None:
        return FromLibrary(from_onnx(source.onnx).module(), [], [])
    return FromLibrary(_build(str(source.build)), [], [])


def _returns_an_object(model: nn.Module) -> bool:
    """Whether a model is one of transformers, which was imported if it was made."""
    kind = getattr(sys.modules.get("transformers"), "PreTrainedModel", None)
    return isinstance(kind, type) and isinstance(model, kind)


def stated_normalisation(model: nn.Module) -> str:
    """The normalisation that a model begins with, in words; empty if it begins with another layer."""
    if not (isinstance(model, nn.Sequential) and len(model) and isinstance(model[0], Normalize)):
        return ""
    mean, std = ([round(value, 6) for value in values.tolist()] for values in (model[0].mean, model[0].std))
    return f"normalisation: part of the model, mean {mean}, std {std}"


def torch_device(name: str) -> torch.device:
    """The device of that name, if this machine has it; the first one for all of a kind, such as ``cuda:*``.

    Raises:
        InvalidConfiguration: no such device.
    """
    try:
        device = torch.device(name.replace(ALL_DEVICES, ":0"))
        float(torch.zeros(1, device=device) + 1)  # "meta" has tensors, but no numbers in them
    except Exception as error:  # each kind of device has its own way to be missing
        raise InvalidConfiguration(f"device {name!r} cannot be used on this machine: {first_line(error)}") from error
    return device


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
