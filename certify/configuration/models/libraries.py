"""Networks of model libraries, where these are installed, with the normalisation that belongs to their weights."""

from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from bounds.errors import InvalidConfiguration
from bounds.layers import Logits
from certify.importing import first_line

PACKAGES = {"timm": "timm", "torchvision": "torchvision", "hf": "transformers"}


class FromLibrary(NamedTuple):
    """A network of a library.

    Attributes:
        model: maps inputs to logits.
        mean: per channel, that its weights expect to be subtracted from images in [0, 1]; empty if it is not known.
        std: likewise, what they expect to be divided by.
    """

    model: nn.Module
    mean: list[float]
    std: list[float]


def library_model(library: str, name: str, *, trained: bool = True, num_classes: int | None = None) -> FromLibrary:
    """A network by its name in a library.

    Args:
        library: ``"timm"``, ``"torchvision"``, or ``"hf"`` for a folder that ``save_pretrained`` wrote.
        name: of the network, or the folder.
        trained: whether to take the library's weights, which timm and torchvision look for in their caches and fetch
            if they are not there. Without them the normalisation is not known.
        num_classes: logits, where they are not those of the library's weights.

    Raises:
        InvalidConfiguration: the library is not installed, or does not make the network.
    """
    makers = {"timm": _timm, "torchvision": _torchvision, "hf": _transformers}
    package = _package(library, name)
    if library == "hf" and not Path(name).is_dir():
        raise InvalidConfiguration(
            f"[model] network hf: must be a folder on disk, got {name!r}: save_pretrained writes one"
        )
    try:
        return makers[library](package, name, trained, {} if num_classes is None else {"num_classes": num_classes})
    except InvalidConfiguration:
        raise
    except Exception as error:  # whatever a library raises
        raise InvalidConfiguration(
            f"[model] network {library}:{name} failed: {type(error).__name__}: {first_line(error)}"
        ) from error


def _package(library: str, name: str) -> Any:  # noqa: ANN401  # a module
    package = PACKAGES[library]
    try:
        return import_module(package)
    except ImportError as error:
        raise InvalidConfiguration(
            f"[model] network {library}:{name} needs the package {package}, which is not installed: "
            f"pip install {package}, or name a function that builds the network with [model] build"
        ) from error


def _timm(timm: Any, name: str, trained: bool, classes: dict[str, int]) -> FromLibrary:  # noqa: ANN401
    model = timm.create_model(name, pretrained=trained, **classes)
    stated = getattr(model, "pretrained_cfg", {}) if trained else {}
    return FromLibrary(model, [*stated.get("mean", ())], [*stated.get("std", ())])


def _torchvision(torchvision: Any, name: str, trained: bool, classes: dict[str, int]) -> FromLibrary:  # noqa: ANN401
    models = torchvision.models
    if not trained:
        return FromLibrary(models.get_model(name, weights=None, **classes), [], [])
    weights = models.get_model_weights(name).DEFAULT
    stated = weights.transforms()
    return FromLibrary(models.get_model(name, weights=weights, **classes), [*stated.mean], [*stated.std])


def _transformers(transformers: Any, folder: str, trained: bool, classes: dict[str, int]) -> FromLibrary:  # noqa: ANN401
    """A classifier of images from a folder; nothing is fetched, and no code of the folder is run."""
    if not trained or classes:
        raise InvalidConfiguration(
            f"[model] network hf:{folder} has weights and classes of its own: leave weights and num_classes out"
        )
    options = {"local_files_only": True, "trust_remote_code": False}
    model = transformers.AutoModelForImageClassification.from_pretrained(folder, **options)
    processor = transformers.AutoImageProcessor.from_pretrained(folder, **options)
    return FromLibrary(Logits(model), *_normalisation(processor))


def _normalisation(processor: Any) -> tuple[list[float], list[float]]:  # noqa: ANN401  # of any library
    """The mean and deviation that make of images in [0, 1] what an image processor makes of bytes.

    It multiplies bytes by a factor f, subtracts 1 if it has an offset, and then normalises: so
    ``(255 f x - offset - mean) / std`` is ``(x - (offset + mean) / 255 f) / (std / 255 f)``.
    """
    rescaled = getattr(processor, "do_rescale", True)
    scale = 255 * float(processor.rescale_factor if rescaled else 1.0)
    scale = 1.0 if abs(scale - 1) < 1e-9 else scale  # the usual 1/255 in floating point
    offset = float(bool(rescaled and getattr(processor, "rescale_offset", False)))
    normal = getattr(processor, "do_normalize", False)
    mean, std = (list(processor.image_mean), list(processor.image_std)) if normal else ([0.0], [1.0])
    if not normal and scale == 1 and not offset:
        return [], []
    return [(offset + value) / scale for value in mean], [value / scale for value in std]
