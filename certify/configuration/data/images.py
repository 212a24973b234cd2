"""Inputs from a folder of images with a folder for each class."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from bounds.errors import InvalidConfiguration, InvalidInput
from certify.configuration.data.labelled import Chooser, LabelledInputs, named_classes
from certify.configuration.keys import DataSource
from certify.importing import first_line
from certify.loaders import pixels
from certify.stored_inputs import Read, rows_held

if TYPE_CHECKING:
    from certify.configuration.data.arrays import Array

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".pgm", ".ppm"}


def from_folder(source: DataSource, choose: Chooser, most: float = math.inf) -> LabelledInputs:
    """Images as numbers in [0, 1], (N, channels, height, width), and their classes.

    Classes are numbered in the sorted order of their folders' names, as texts. Only the images that are chosen are
    read. Hidden files are left out, and so is what is no image. Inputs of more bytes than ``most`` are read when they
    are needed.

    Raises:
        InvalidConfiguration: no such folder, one that is empty or holds images next to class folders, an image that
            cannot be read, or images of different sizes.
    """
    folder = Path(str(source.folder))
    files, names, notes = _listing(folder, source.classes)
    labels, classes = named_classes(f"folder {folder}", names, source.classes)
    place = choose(labels, {})
    x = rows_held(_reader([files[i] for i in place.tolist()]), len(place), most)
    if source.classes is None:
        notes.append(f"classes in sorted order: {', '.join(f'{i} {name}' for i, name in enumerate(classes))}")
        if all(name.isdecimal() for name in classes) and list(classes) != sorted(classes, key=int):
            notes.append(
                f"class folders are numbers, sorted as texts: {classes[1]!r} is class 1; if it is class "
                f"{int(classes[1])} of the model, list them with [data] classes"
            )
    return LabelledInputs(x=cast(Tensor, x), y=labels[place], place=place, classes=classes, notes=tuple(notes))


def _listing(folder: Path, classes: Sequence[str] | None) -> tuple[list[Path], list[str], list[str]]:
    """The images with the names of their classes, in sorted order, and what was left out."""
    if not folder.is_dir():
        raise InvalidConfiguration(f"[data] folder must be a folder of class folders, got {folder}: there is none")
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__")))
    inside = [path for path in entries if path.is_dir()]
    if not inside:
        raise InvalidConfiguration(
            f"[data] folder must hold a folder for each class, got {folder} with {len(entries)} files alone: move the "
            "images of each class into a folder of its name"
        )
    files, names, other = [], [], 0
    for directory in inside:
        within = sorted(path for path in directory.rglob("*") if path.is_file() and not path.name.startswith("."))
        images = [path for path in within if path.suffix.lower() in SUFFIXES]
        other += len(within) - len(images)
        if not images and (classes is None or directory.name in classes):
            raise InvalidConfiguration(
                f"[data] folder {folder} must have images in each class, got none in {directory.name}: known are "
                f"{', '.join(sorted(SUFFIXES))}"
            )
        files += images
        names += [directory.name] * len(images)
    loose = len(entries) - len(inside) + other
    return files, names, [f"{loose} files that are no image of a class were left out"] * bool(loose)


def _reader(files: Sequence[Path]) -> Read:
    """A function that reads some of the images."""
    first = files[0], _read(files[:1])[0].shape

    def read(places: list[int]) -> Tensor:
        return torch.from_numpy(_read([files[place] for place in places], first)).float() / 255

    return read


def _read(files: Sequence[Path], like: tuple[Path, Sequence[int]] | None = None) -> "Array":
    """The images as bytes, (N, channels, height, width), which must agree in size, and with that of a file."""
    from PIL import Image

    images: list[Array] = []
    for file in files:
        try:
            with Image.open(file) as opened:
                image = pixels(opened)
        except InvalidInput as error:
            raise InvalidConfiguration(f"image {file} cannot be used: {error}") from error
        except Exception as error:  # a damaged image fails in many ways
            raise InvalidConfiguration(
                f"image {file} cannot be read: {first_line(error)}: repair it, or move it away"
            ) from error
        like = (file, image.shape) if like is None else like
        if image.shape != like[1]:
            raise InvalidConfiguration(
                f"images must have one size, got {_size(like[1])} in {like[0]} and {_size(image.shape)} in {file}: "
                "resize them as the model's training did"
            )
        images.append(image)
    return np.stack(images)


def _size(shape: Sequence[int]) -> str:
    channels, height, width = shape
    return f"{width}x{height} {'grey' if channels == 1 else 'RGB'}"
