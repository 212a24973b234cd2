"""Inputs that lie on a disk and are read a few rows at a time, in place of a tensor that holds all of them."""

import mmap
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bounds import checks
from bounds.checks import Limit
from bounds.errors import InvalidInput

Read = Callable[[list[int]], Tensor]
IMAGES = 4  # dimensions of arrays of images


class StoredInputs:
    """Inputs (N, *D) that are read when rows of them are taken: ``x[3:5]`` and ``x[places]`` are tensors.

    :func:`certify.evaluate` takes them in place of a tensor, and holds those of one unit of work at a time. Every row
    is compared with what it was when it was first read, so that a file that changes while a run goes on is noticed.

    Args:
        read: gives the rows (n, *D) of a list of n places, floating and on the CPU; the same each time.
        count: N.
        device: on which rows are returned.

    Raises:
        InvalidInput: no rows, or rows of another number, shape or dtype than asked for.

    >>> squares = StoredInputs(lambda places: torch.tensor([[float(place) ** 2] for place in places]), 4)
    >>> squares.shape, squares[1:3].flatten().tolist()
    (torch.Size([4, 1]), [1.0, 4.0])
    """

    def __init__(self, read: Read, count: int, *, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._read = read
        self._seen = np.full(checks.at_least("count", count, 1), -1, dtype=np.int64)
        first = read([0])
        if not isinstance(first, Tensor) or first.ndim < 1:
            raise InvalidInput(f"read must give a tensor of 1 row, got {_shown(first)}")
        self.shape = torch.Size((count, *first.shape[1:]))
        self.dtype = first.dtype
        self._compared([0], first)

    @classmethod
    def of_file(
        cls,
        path: Path | str,
        *,
        divide_by: float = 1.0,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
    ) -> Self:
        """Inputs of a ``.npy`` file.

        Args:
            path: of an array (N, *D).
            divide_by: divisor of all entries, 255 for images stored as bytes.
            dtype: of the rows.
            channels_last: whether the array is (N, height, width, channels).

        Raises:
            InvalidInput: the file cannot be read, or holds no such array.
        """
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise InvalidInput(f"dtype must be a floating dtype of torch, got {dtype}")
        checks.positive("divide_by", divide_by)
        try:
            array = np.load(path, allow_pickle=False, mmap_mode="r")
        except (OSError, EOFError, ValueError, TypeError) as error:
            raise InvalidInput(f"file {path} cannot be read as .npy: {error}: write it with numpy.save") from error
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
            shown = array.dtype if isinstance(array, np.ndarray) else "several arrays"
            raise InvalidInput(
                f"file {path} must hold one array of real numbers, got {shown}: write it with numpy.save"
            )
        if array.ndim < 2 or not len(array) or (channels_last and array.ndim != IMAGES):
            expected = "(N, height, width, channels)" if channels_last else "(N, *D)"
            raise InvalidInput(f"file {path} must hold inputs {expected}, N at least 1, got shape {array.shape}")
        rows = rows_of_array(array, channels_last=channels_last)
        return cls(lambda places: rows(places).to(dtype) / divide_by, len(array))

    @classmethod
    def of_dataset(cls, data: "Dataset[Any]") -> tuple[Self, Tensor]:
        """Inputs of a data set of torch, and its classes (N,), for which each item is read once.

        Args:
            data: with a length; its items are pairs of a tensor (*D) and a class, the same each time.

        Raises:
            InvalidInput: no length, no items, or items of another kind.
        """
        size = getattr(data, "__len__", None)
        if not isinstance(data, Dataset) or size is None:
            raise InvalidInput(f"data must be a torch Dataset with a length, got {type(data).__name__}: use collect")

        def read(places: list[int]) -> Tensor:
            rows = [_pair(data, place)[0] for place in places]
            other = next((place for place, row in zip(places, rows, strict=True) if row.shape != rows[0].shape), None)
            if other is not None:
                raise InvalidInput(f"items of data must have one shape, but item {other} has another: resize it")
            return torch.stack(rows)

        stored = cls(read, size())
        labels = [_pair(data, place)[1] for place in range(len(stored))]
        return stored, torch.tensor(labels, dtype=torch.int64, device="cpu")

    def __len__(self) -> int:
        """N."""
        return len(self._seen)

    @property
    def ndim(self) -> int:
        """Dimensions, those of an input and one more."""
        return len(self.shape)

    def is_floating_point(self) -> bool:
        """Whether entries are floating."""
        return self.dtype.is_floating_point

    def detach(self) -> Self:
        """These inputs: rows have no history."""
        return self

    def to(self, device: torch.device | str) -> "StoredInputs":
        """These inputs with their rows on another device."""
        return self.mapped(lambda rows: rows, device)

    def mapped(self, function: Callable[[Tensor], Tensor], device: torch.device | str = "cpu") -> "StoredInputs":
        """These inputs after a function of some rows (n, *D), on a device."""
        return StoredInputs(lambda places: function(self._read(places)), len(self), device=device)

    def split(self, size: int) -> Iterator[Tensor]:
        """Consecutive rows, so many at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def __getitem__(self, rows: "slice | Tensor | list[int] | int") -> Tensor:
        """Rows (n, *D) of a slice, of places or of a mask (N,), or the row (*D) of one place.

        Raises:
            IndexError: a place that is none of the inputs', by which a loop over them ends.
            InvalidInput: what is no such index.
        """
        if isinstance(rows, int | np.integer) and not isinstance(rows, bool):
            return self[[int(rows)]][0]
        places = self._places(rows)
        if not places:
            return torch.zeros(0, *self.shape[1:], dtype=self.dtype, device=self.device)
        return self._compared(places, self._read(places)).to(self.device)

    def _places(self, rows: "slice | Tensor | list[int] | int") -> list[int]:
        """Places of rows, counted from the front."""
        if isinstance(rows, slice):
            return list(range(*rows.indices(len(self))))
        try:
            given = torch.as_tensor(rows, device="cpu") if not isinstance(rows, tuple) else None
        except (TypeError, ValueError, RuntimeError):
            given = None
        mask = given is not None and given.dtype == torch.bool
        if given is not None and not given.numel() and not mask:
            return []
        if given is None or given.is_floating_point() or given.is_complex() or (mask and given.shape != (len(self),)):
            raise InvalidInput(
                f"rows are taken by a place, a slice, a list of places or a mask ({len(self)},), got {rows}"
            )
        places = (given.nonzero() if mask else given).reshape(-1).tolist()
        outside = [place for place in places if not -len(self) <= place < len(self)]
        if outside:
            raise IndexError(f"there is no row {outside[0]} of {len(self)} inputs")
        return [place % len(self) for place in places]

    def _compared(self, places: list[int], found: object) -> Tensor:
        """Rows that were read, which must be what they were before."""
        expected = (len(places), *self.shape[1:])
        if not isinstance(found, Tensor) or found.shape != expected or found.dtype != self.dtype:
            raise InvalidInput(
                f"read must give a tensor of shape {expected} and {self.dtype}, got {_shown(found)}: rows must be alike"
            )
        for place, row in zip(places, found.detach(), strict=True):
            value = zlib.crc32(row.contiguous().reshape(-1).view(torch.uint8).numpy())
            if self._seen[place] not in (-1, value):
                raise InvalidInput(f"x must stay as it is, but row {place} is not what it was before: restore the file")
            self._seen[place] = value
        return found.detach()


def _pair(data: "Dataset[Any]", place: int) -> tuple[Tensor, int]:
    """The input and the class of an item."""
    item = data[place]
    try:
        x, label = torch.as_tensor(item[0], device="cpu"), float(item[1])
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        raise InvalidInput(
            f"items of data must be pairs of a tensor and a class, got {type(item).__name__} at {place}: {error}"
        ) from error
    if not label.is_integer():
        raise InvalidInput(f"items of data must be pairs of a tensor and a class, got the class {label} at {place}")
    return x, int(label)


def rows_of_array(
    array: "np.ndarray[Any, np.dtype[Any]]",
    places: "np.ndarray[Any, np.dtype[Any]] | None" = None,
    *,
    channels_last: bool = False,
) -> Read:
    """A function that reads rows of an array, of which no more is held in memory where it lies in a file.

    Args:
        array: (N, *D) of numbers.
        places: (M,) rows of it, in the order of the inputs; None for all.
        channels_last: whether the array is (N, height, width, channels).
    """

    def read(rows: list[int]) -> Tensor:
        picked = np.asarray(_mapped_anew(array)[rows if places is None else places[rows]])
        if picked.dtype not in (np.uint8, np.float16, np.float32):  # torch knows neither all types nor byte orders
            picked = picked.astype(np.float64)
        found = torch.from_numpy(np.ascontiguousarray(picked))
        return found.permute(0, 3, 1, 2).contiguous() if channels_last else found

    return read


def _mapped_anew(array: "np.ndarray[Any, np.dtype[Any]]") -> "np.ndarray[Any, np.dtype[Any]]":
    """An array of a file in a mapping of its own: pages that were read count as memory for as long as theirs lasts."""
    if not isinstance(array, np.memmap) or not isinstance(array.base, mmap.mmap):
        return array
    order = "C" if array.flags.c_contiguous else "F"
    file, place = array.filename, array.offset
    try:
        return np.memmap(file, dtype=array.dtype, mode="r", offset=place, shape=array.shape, order=order)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"file {file} has vanished or is shorter than before: restore it: {error}") from error


Rows = Tensor | StoredInputs  # (N, *D), held in memory or read when they are needed


def checked_inputs(x: Rows, low: Limit = None, high: Limit = None) -> Rows:
    """Return inputs that pass :func:`bounds.checks.inputs`; stored ones are looked at part by part."""
    if not isinstance(x, StoredInputs):
        return checks.inputs(x, low, high)
    at_once = checks.rows_at_once(x)
    for start, part in zip(range(0, len(x), at_once), x.split(at_once), strict=True):
        if not bool(part.isfinite().all()):
            row = start + int((~part.isfinite()).flatten(1).any(1).nonzero()[0])
            raise InvalidInput(f"x must be finite, but row {row} holds NaN or infinity: remove or repair it")
        checks.inputs(part, low, high)
    return x


def rows_held(read: Read, count: int, most: float) -> Rows:
    """Rows of a function as a tensor, or read when they are needed where they would take more bytes than ``most``.

    Bytes are those of rows in single precision, in which models mostly take them.
    """
    size = read([0]).numel() * torch.float32.itemsize if count else 0
    return read(list(range(count))) if count * size <= most else StoredInputs(read, count)


def _shown(value: object) -> str:
    return f"shape {tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


def entry_bytes(value: Rows) -> Iterator[memoryview]:
    """Bytes of all entries, some rows at a time: there is no second copy of all."""
    rows = value.reshape(1) if isinstance(value, Tensor) and not value.ndim else value
    for part in rows.split(checks.rows_at_once(rows)) if len(rows) else ():
        yield part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
