"""Inputs of a disk: what indices mean, as of a tensor, and files and data sets that are no inputs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from bounds.errors import InvalidInput
from certify import StoredInputs

X = torch.arange(24.0).reshape(4, 6)
STORED = StoredInputs(lambda places: X[places], len(X))
TAKEN: list[Any] = [
    *(0, -1, np.int64(2), slice(None, None, 2), slice(3, 1, -1), [1, -4, 1], range(2), np.array([3, 0])),
    *(torch.tensor([2, 0]), torch.tensor([True, False, False, True]), np.array([False, True, True, False])),
    *([True, False, False, True], torch.zeros(4, dtype=torch.bool), []),
]


@pytest.mark.parametrize("rows", TAKEN, ids=repr)
def test_rows_are_those_of_a_tensor(rows: Any):
    expected = X[list(range(4))[rows] if isinstance(rows, slice) else list(rows) if isinstance(rows, range) else rows]
    assert torch.equal(STORED[rows], expected)


@pytest.mark.parametrize("rows", [4, -5, [0, 9], [-7], torch.tensor([-5])], ids=repr)
def test_places_outside_are_no_rows_as_loops_expect(rows: Any):
    with pytest.raises(IndexError, match="there is no row"):
        STORED[rows]
    assert torch.equal(torch.stack(list(STORED)), X)


@pytest.mark.parametrize("rows", [(0, 1), (slice(None), 0), None, "a", torch.tensor([1.5]), [True, False]], ids=repr)
def test_what_is_no_index_of_rows_is_refused(rows: Any):
    with pytest.raises(InvalidInput, match="rows are taken by"):
        STORED[rows]


def test_rows_of_another_shape_or_dtype_than_the_first_are_refused():
    for other in (torch.zeros(1, 3), torch.zeros(1, 2, dtype=torch.float64), torch.zeros(2, 2), torch.tensor(0.0)):
        stored = StoredInputs(lambda places, other=other: torch.zeros(1, 2) if places == [0] else other, 2)
        with pytest.raises(InvalidInput, match=r"read must give a tensor of shape \(1, 2\)"):
            stored[1]


ARRAYS = {
    "complex": (X.numpy() + 1j, {}, "real numbers"),
    "words": (X.numpy().astype(str), {}, "real numbers"),
    "dates": (X.numpy().astype("M8[s]"), {}, "real numbers"),
    "sequences": (np.zeros((3, 4, 5)), {"channels_last": True}, r"\(N, height, width, channels\)"),
    "divisor": (X.numpy(), {"divide_by": 0.0}, "divide_by must be"),
    "integers": (X.numpy(), {"dtype": torch.int64}, "dtype must be a floating dtype"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_files_that_hold_no_inputs_are_refused(name: str, tmp_path: Path):
    array, options, message = ARRAYS[name]
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(InvalidInput, match=message):
        StoredInputs.of_file(tmp_path / "x.npy", **options)


def test_files_that_vanish_or_become_shorter_are_noticed(tmp_path: Path):
    path = tmp_path / "x.npy"
    np.save(path, X.numpy())
    stored = StoredInputs.of_file(path)
    np.save(path, X[:2].numpy())
    for _ in range(2):
        with pytest.raises(InvalidInput, match="vanished or is shorter"):
            stored[3]
        path.unlink(missing_ok=True)
    np.savez(tmp_path / "x.npz", X)
    path.write_bytes(b"")
    for wrong in (path, tmp_path / "x.npz", tmp_path):
        with pytest.raises(InvalidInput, match=r"cannot be read|must hold one array"):
            StoredInputs.of_file(wrong)


class Items(Dataset[Any]):
    """A data set of a list."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> Any:
        return self.items[place]


@pytest.mark.parametrize(
    "item",
    [(X[0],), (X[0], torch.tensor([0, 1])), (X[0], 1.7), ("image", 0), 5],
    ids=["alone", "row", "part", "word", "5"],
)
def test_items_that_are_no_pairs_are_refused(item: Any):
    with pytest.raises(InvalidInput, match="items of data must be pairs of a tensor and a class"):
        StoredInputs.of_dataset(Items(item))


def test_items_of_several_shapes_are_refused_where_they_meet():
    stored, labels = StoredInputs.of_dataset(Items((X[0], 1), (X[0, :2], 0)))
    assert labels.tolist() == [1, 0]
    with pytest.raises(InvalidInput, match="item 1 has another"):
        stored[:2]
