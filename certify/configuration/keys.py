"""Keys of ``[model]`` and ``[data]``: where a model and labelled inputs come from."""

from pathlib import Path
from typing import Literal, Self

import msgspec

from bounds.errors import InvalidConfiguration
from certify.importing import in_folder
from certify.methods.checked import Checked, Count, Positive

TABLES = (".csv", ".parquet")  # ends of the names of their files
LIBRARIES = ("timm", "torchvision", "hf")
Side = float | list[float] | Literal["none", "data"]


class Table(Checked, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A table of the file; an unknown key is an error."""


class ModelSource(Table, frozen=True):
    """Source of the model: exactly one of ``network``, ``build``, ``exported`` and ``onnx``.

    Attributes:
        network: name of a reference network; or ``timm:NAME``, ``torchvision:NAME`` or ``hf:FOLDER`` for a network of
            a library that is installed, with the normalisation that belongs to it.
        build: ``module:function``, called without arguments; the module may lie next to the configuration.
        weights: a state dict for the model that ``build`` or a library makes: ``.safetensors``, or a ``.pt`` or
            ``.pth`` file, in which a checkpoint may hold more.
        key: place of the state dict in a checkpoint, such as ``"model"`` or ``"ema.state_dict"``, or the prefix that
            the names of its entries have.
        num_classes: logits of the network that ``timm`` or ``torchvision`` makes for ``weights``.
        exported: a ``.pt2`` file of ``torch.export``, exported with a dynamic batch dimension.
        onnx: an ONNX file, see :func:`bounds.from_onnx`.
        mean: per-channel mean that the model expects to be subtracted, with ``std``.
        std: per-channel standard deviation.
    """

    network: str | None = None
    build: str | None = None
    weights: str | None = None
    key: str | None = None
    num_classes: Count | None = None
    exported: str | None = None
    onnx: str | None = None
    mean: list[float] | None = None
    std: list[Positive] | None = None

    @property
    def library(self) -> tuple[str, str]:
        """The library of the network and the name that it has there; empty if it is none of a library."""
        library, _, name = (self.network or "").partition(":")
        return (library, name) if library in LIBRARIES else ("", "")

    def within(self, folder: Path) -> Self:
        """The source with its relative paths starting from a folder."""
        library, name = self.library
        return msgspec.structs.replace(
            self,
            network=f"hf:{folder / name}" if library == "hf" else self.network,
            build=None if self.build is None else in_folder(self.build, folder),
            weights=_within(folder, self.weights),
            exported=_within(folder, self.exported),
            onnx=_within(folder, self.onnx),
        )


class DataSource(Table, frozen=True):
    """Source of the inputs: one of ``file``, ``folder`` and ``dataset``; without any, the reference images.

    Attributes:
        file: ``.npz`` with arrays of any names, ``.npy`` with the inputs, or a table in ``.csv`` or ``.parquet``.
        folder: a folder of images, with a folder for each class.
        dataset: a folder that ``datasets.Dataset.save_to_disk`` wrote.
        inputs: name of the array or column of the inputs; of a table, the columns that are features, in their order.
        labels: name of the array or column of the classes; the file of them, where ``file`` is ``.npy``.
        split: of a dataset that has several.
        categorical: columns of a table to be one-hot besides those that hold text.
        frozen: columns of a table that no perturbation changes, in every method that can keep features and names none
            of its own.
        classes: names of the classes in the order of the model's logits; sorted, if they are not given.
        channels_last: whether images in an array are (N, height, width, channels).
        count: only the first so many inputs.
        sample: only so many inputs, drawn at random and kept in their order.
        seed: of that drawing.
        stratum: column or array by which the sample is drawn in proportion, ``"label"`` for the classes; a column of a
            table that is named here is no feature, unless ``inputs`` lists it.
        divide_by: divisor of the inputs of a file, 255 for images stored as bytes.
        low: lower end of the range of valid inputs, after division: a number, one for each feature, ``"data"`` for the
            smallest value of each feature among these inputs, or ``"none"``. 0 if not given, and none for a table.
        high: upper end, likewise; 1 if not given, and none for a table.
    """

    file: str | None = None
    folder: str | None = None
    dataset: str | None = None
    inputs: str | list[str] | None = None
    labels: str | None = None
    split: str | None = None
    categorical: list[str] | None = None
    frozen: list[str] | None = None
    classes: list[str] | None = None
    channels_last: bool = False
    count: Count | None = None
    sample: Count | None = None
    seed: int = 0
    stratum: str | None = None
    divide_by: Positive = 1.0
    low: Side | None = None
    high: Side | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        named = [name for name in ("file", "folder", "dataset") if getattr(self, name) is not None]
        if len(named) > 1:
            raise InvalidConfiguration(f"[data] must name one source, got {' and '.join(named)}: leave all but one out")
        low, high = 0.0 if self.low is None else self.low, 1.0 if self.high is None else self.high
        numbers = isinstance(low, int | float) and isinstance(high, int | float)
        if numbers and not low < high:  # type: ignore[operator]  # numbers
            raise InvalidConfiguration(f"[data] low must be below high, got low = {low:g}, high = {high:g}")
        if self.file is None and self.divide_by != 1:
            remedy = "images of a folder or a data set" if named else "the reference images"
            raise InvalidConfiguration(f"[data] divide_by needs a file: {remedy} lie in [0, 1] already")
        if self.frozen and not (self.file or "").lower().endswith(TABLES):
            raise InvalidConfiguration(
                f"[data] frozen must name columns of a table, got {self.frozen} for {self.file or 'inputs'}, which has "
                "none: give places as frozen_features of a method"
            )
        if self.count is not None and self.sample is not None:
            raise InvalidConfiguration(
                f"[data] must have count or sample, got count = {self.count} and sample = {self.sample}: count takes "
                "the first inputs, sample draws some of all"
            )
        if self.stratum is not None and self.sample is None:
            raise InvalidConfiguration(f"[data] stratum needs a sample, got {self.stratum!r} alone: set sample = 100")

    def within(self, folder: Path) -> Self:
        """The source with its relative paths starting from a folder."""
        apart = self.labels if (self.file or "").endswith(".npy") else None
        return msgspec.structs.replace(
            self,
            file=_within(folder, self.file),
            folder=_within(folder, self.folder),
            dataset=_within(folder, self.dataset),
            labels=self.labels if apart is None else _within(folder, apart),
        )


def _within(folder: Path, file: str | None) -> str | None:
    return None if file is None else str(folder / file)
