"""Labelled inputs of a user's own ``Dataset`` or ``DataLoader``, as tensors."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SubsetRandomSampler

from bounds import checks
from bounds.errors import InvalidInput

INPUTS = ("x", "image", "images", "img", "inputs", "pixel_values", "features")  # keys of batches that are mappings
LABELS = ("y", "label", "labels", "target", "targets")


def is_loader(value: object) -> TypeGuard["DataLoader[Any] | Dataset[Any]"]:
    """Whether a value is a ``DataLoader`` or a ``Dataset`` of torch."""
    return isinstance(value, DataLoader | Dataset)


def collect(data: "DataLoader[Any] | Dataset[Any]", count: int | None = None) -> tuple[Tensor, Tensor]:
    """Inputs (N, *D) and labels (N,) of a ``Dataset`` or ``DataLoader``, in its order.

    Each item, or batch of a loader, holds an input and a class: as a pair, or under keys such as ``image`` and
    ``label``. Images of PIL become numbers in [0, 1].

    Args:
        data: with a fixed order; items must be the same each time, so it should not augment them.
        count: only the first so many inputs.

    Raises:
        InvalidInput: neither a data set nor a loader, one that shuffles or is empty, items without an input and a
            class, or of different shapes.
    """
    if not is_loader(data):
        raise InvalidInput(f"data must be a torch Dataset or DataLoader, got {type(data).__name__}: pass x and labels")
    if count is not None:
        checks.at_least("count", count, 1)
    sampler = getattr(data, "sampler", None)
    if isinstance(sampler, RandomSampler | SubsetRandomSampler):
        raise InvalidInput(
            f"data must come in a fixed order, got a DataLoader with {type(sampler).__name__}: build it with "
            "shuffle=False"
        )
    xs: list[Tensor] = []
    ys: list[Tensor] = []
    have = 0
    for x, y in _batches(data):
        if xs and x.shape[1:] != xs[0].shape[1:]:
            raise InvalidInput(
                f"data must hold inputs of one shape, got {tuple(xs[0].shape[1:])} and then {tuple(x.shape[1:])} at "
                f"input {have}: resize them in the data set"
            )
        xs.append(x)
        ys.append(y)
        have += len(x)
        if count is not None and have >= count:
            break
    if not xs:
        raise InvalidInput("data must hold at least one input, got none")
    return torch.cat(xs)[:count], torch.cat(ys)[:count]


def _batches(data: "DataLoader[Any] | Dataset[Any]") -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs (B, *D) and classes (B,), of a loader as they come, of a data set one by one."""
    if isinstance(data, DataLoader):
        for batch in data:
            x, y = _pair(batch)
            yield _batch(x, y)
        return
    for item in _items(data):
        x, y = _pair(item)
        yield _tensor(x).unsqueeze(0), _tensor(y).reshape(1)


def _items(data: "Dataset[Any]") -> Iterable[Any]:
    if isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
        return iter(data)
    return (data[i] for i in range(len(data)))  # many have no iterator, and raise no IndexError either


def _batch(x: object, y: object) -> tuple[Tensor, Tensor]:
    inputs, labels = _tensor(x), _tensor(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels.squeeze(1)
    if labels.ndim != 1 or len(inputs) != len(labels):
        raise InvalidInput(
            f"data must give inputs (B, *D) and classes (B,), got shapes {tuple(inputs.shape)} and "
            f"{tuple(labels.shape)}: one class for each input"
        )
    return inputs, labels


def _pair(item: object) -> tuple[object, object]:
    """The input and the class of an item or batch."""
    if isinstance(item, Mapping):
        found = [[item[key] for key in names if key in item] for names in (INPUTS, LABELS)]
        if all(len(values) == 1 for values in found):
            return found[0][0], found[1][0]
        raise InvalidInput(
            f"data must give an input and a class, got the keys {', '.join(map(str, item))}: give pairs (x, y), or "
            f"one of {', '.join(INPUTS)} and one of {', '.join(LABELS)}"
        )
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    size = f" of {len(item)}" if isinstance(item, tuple | list) else ""
    raise InvalidInput(f"data must give pairs of an input and a class, got a {type(item).__name__}{size}: give (x, y)")


def _tensor(value: object) -> Tensor:
    """A tensor of an item: as it is, of an array or a number, or of an image."""
    if isinstance(value, Tensor):
        return value
    if hasattr(value, "getbands"):
        return torch.from_numpy(pixels(value)).float() / 255
    try:
        return torch.as_tensor(value, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInput(
            f"data must give tensors, arrays, numbers or images, got {type(value).__name__}: convert it in the data set"
        ) from error


def pixels(image: Any) -> "np.ndarray[Any, np.dtype[np.uint8]]":  # noqa: ANN401  # of Pillow
    """The bytes of an image of Pillow, (channels, height, width): one channel for grey, three for colour.

    Raises:
        InvalidInput: an image that is neither, or with transparent parts, or of more than 8 bits.
    """
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode == "1":
        image = image.convert("L")
    if image.mode in ("LA", "RGBA") and image.getchannel("A").getextrema() == (255, 255):
        image = image.convert(image.mode.removesuffix("A"))
    if image.mode not in ("L", "RGB"):
        raise InvalidInput(
            f"images must be grey or RGB, of 8 bits and opaque, got mode {image.mode}: convert them, such as by "
            'image.convert("RGB")'
        )
    array = np.array(image, dtype=np.uint8)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))
