"""Inputs from arrays, images, tables and data sets: the right numbers under the right classes, or one clear line."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from oracles.labelled_data import LIKE, data, refused
from PIL import Image

import bounds
import certify
from bounds import InvalidConfiguration
from certify.configuration.config import read_config
from certify.configuration.data.inputs import load_data
from certify.configuration.data.subsets import stratified
from certify.configuration.keys import DataSource

X = np.arange(24, dtype=np.uint8).reshape(4, 2, 3, 1)
Y = np.array([2, 0, 1, 1])


# ----------------------------------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize(
    ("arrays", "keys"),
    [
        ({"images": X, "labels": Y}, {}),
        ({"x_test": X, "y_test": Y}, {}),
        ({"arr_0": X, "arr_1": Y}, {}),
        ({"y": X, "target": Y}, {}),
        ({"X": X, "Y": Y[:, None]}, {}),
        ({"X": X, "y": Y, "logits": np.ones((3, 2))}, {}),
        ({"x": X, "y": Y, "x_train": X + 1, "y_train": Y + 1}, {}),
        ({"x": X, "y": Y + 1, "names": np.array(["a", 1], object), "classes": Y}, {"labels": "classes"}),
        ({"a": X, "b": X + 1, "y": Y}, {"inputs": "a"}),
        ({"a": X, "b": X + 1, "y": Y, "z": Y + 1}, {"inputs": "a", "labels": "y"}),
    ],
)
def test_arrays_of_any_names_are_found(arrays: dict, keys: dict, tmp_path: Path):
    np.savez(tmp_path / "data.npz", **arrays)
    x, y = data(file=str(tmp_path / "data.npz"), divide_by=255, **keys)
    assert torch.equal(x, torch.from_numpy(X).float() / 255)
    assert y.tolist() == Y.tolist()


@pytest.mark.parametrize(
    ("arrays", "keys", "message"),
    [
        ({"a": X, "b": X, "y": Y}, {}, r"has a \(4, 2, 3, 1\) uint8, .* several pairs fit: name two, such as"),
        ({"a": X, "y": Y[:3]}, {}, r"y \(3,\) int64, of which no two fit"),
        ({"a": X}, {}, "of which no two fit"),
        (
            {"a": X, "y": Y},
            {"inputs": "images"},
            r"inputs must be an array of .*, got 'images': it has a \(4, 2, 3, 1\)",
        ),
        ({"a": X, "y": Y}, {"labels": "z"}, "labels must be an array of .*, got 'z'"),
        ({"a": X, "y": Y}, {"inputs": ["a"]}, r"inputs must be an array of .*, got \['a'\]"),
    ],
)
def test_arrays_that_are_not_clear_are_listed(arrays: dict, keys: dict, message: str, tmp_path: Path):
    np.savez(tmp_path / "data.npz", **arrays)
    refused(message, file=str(tmp_path / "data.npz"), divide_by=255, **keys)


def test_two_files_of_arrays_are_a_pair(tmp_path: Path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    (tmp_path / "config.toml").write_text(
        '[model]\nnetwork = "ibp"\n[data]\nfile = "x.npy"\ny = "y.npy"\ndivide_by = 255\nsample = 2\nseed = 1\n'
    )
    source = read_config(tmp_path / "config.toml").data
    assert source.labels == str(tmp_path.resolve() / "y.npy")
    found = load_data(source, LIKE)
    assert torch.equal(found.x, torch.from_numpy(X).float()[found.place] / 255)
    assert found.y.tolist() == Y[found.place].tolist()
    refused("holds inputs alone: name their classes", file=str(tmp_path / "x.npy"))


def test_images_with_channels_last_are_turned(tmp_path: Path):
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    found = data(file=str(tmp_path / "data.npz"), divide_by=255, channels_last=True)
    assert torch.equal(found.x, torch.from_numpy(X).float().permute(0, 3, 1, 2) / 255)
    np.savez(tmp_path / "flat.npz", x=X.reshape(4, 6), y=Y)
    refused(
        r"channels_last is for images .*, got x of shape \(4, 6\)", file=str(tmp_path / "flat.npz"), channels_last=True
    )


def test_bytes_without_a_divisor_are_no_inputs(tmp_path: Path):
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    refused(r"declared range \[0, 1\], got values from 0 to 23: .*divide_by = 255", file=str(tmp_path / "data.npz"))
    assert data(file=str(tmp_path / "data.npz"), high=255.0).x.max() == 23


# ----------------------------------------------------------------------------------------------------------- images


def painted(folder: Path, name: str, values: np.ndarray) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(folder / name)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three classes, whose images tell class and place by their grey level."""
    folder = tmp_path / "images"
    for k, name in enumerate(("dog", "cat", "10")):
        for i in range(k + 2):
            painted(folder, f"{name}/{i}.png", np.full((2, 3), 10 * k + i, np.uint8))
    (folder / ".hidden").mkdir()
    (folder / "dog" / "notes.txt").write_text("no image")
    (folder / "readme.md").write_text("no class")
    return folder


def test_images_of_class_folders_are_inputs(images: Path):
    found = data(folder=str(images))
    assert found.classes == ("10", "cat", "dog")
    assert found.x.shape == (9, 1, 2, 3)
    assert found.y.tolist() == [0] * 4 + [1] * 3 + [2] * 2
    levels = (found.x[:, 0, 0, 0] * 255).round().tolist()
    assert levels == [20, 21, 22, 23, 10, 11, 12, 0, 1]
    assert "2 files that are no image of a class were left out" in found.notes
    assert "classes in sorted order: 0 10, 1 cat, 2 dog" in found.notes


def test_classes_have_the_order_of_the_model_if_it_is_given(images: Path):
    found = data(folder=str(images), classes=["dog", "bird", "10", "cat"])
    assert found.y.tolist() == [2] * 4 + [3] * 3 + [0] * 2
    assert found.classes == ("dog", "bird", "10", "cat")
    refused("classes must name every class of folder .*: cat, dog is missing", folder=str(images), classes=["10"])


def test_only_those_images_are_read_that_are_asked_for(images: Path):
    (images / "dog" / "1.png").write_bytes(b"no image")
    assert len(data(folder=str(images), count=8).x) == 8
    refused(r"image .*dog.1\.png cannot be read: .*: repair it, or move it away", folder=str(images))


def test_class_folders_that_are_numbers_are_a_trap_that_is_told(tmp_path: Path):
    for k in range(11):
        painted(tmp_path, f"{k}/a.png", np.zeros((2, 2), np.uint8))
    found = data(folder=str(tmp_path))
    assert found.classes[:3] == ("0", "1", "10")
    assert any("class folders are numbers, sorted as texts" in note for note in found.notes)
    assert not any(
        "sorted as texts" in note for note in data(folder=str(tmp_path), classes=[*map(str, range(11))]).notes
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: painted(folder, "dog/9.png", np.zeros((3, 3), np.uint8)),
            r"one size, got 3x2 grey in .* and 3x3",
        ),
        (lambda folder: painted(folder, "dog/9.png", np.zeros((2, 3, 3), np.uint8)), "3x2 grey in .* and 3x2 RGB in"),
        (
            lambda folder: painted(folder, "dog/9.png", np.zeros((2, 3), np.uint16)),
            r"9\.png cannot be used: .* got mode I",
        ),
        (lambda folder: (folder / "empty").mkdir(), "must have images in each class, got none in empty"),
    ],
)
def test_images_that_do_not_fit_are_named(change: object, message: str, images: Path):
    change(images)
    refused(message, folder=str(images))


def test_a_folder_without_class_folders_is_refused(tmp_path: Path):
    painted(tmp_path, "a.png", np.zeros((2, 2), np.uint8))
    refused(r"a folder for each class, got .* with 1 files alone: move", folder=str(tmp_path))
    refused("there is none", folder=str(tmp_path / "none"))


# -------------------------------------------------------------------------------------------------------- data sets


class Stored:
    """Documented of ``datasets.Dataset``: columns by name, rows by number, features with the names of classes."""

    def __init__(self, columns: dict, names: list | None = None) -> None:
        self.columns, self.column_names = columns, list(columns)
        self.features = {name: SimpleNamespace(names=names) if name == "label" else object() for name in columns}

    def __getitem__(self, key: str | int) -> object:
        if isinstance(key, str):
            return self.columns[key]
        return {name: values[key] for name, values in self.columns.items()}


PICTURES = [Image.fromarray(np.full((2, 3), level, np.uint8)) for level in (5, 6, 7)]
WHOLE = Stored({"image": PICTURES, "label": [1, 0, 1], "id": ["a", "b", "b"]}, ["cat", "dog"])


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Documented: ``datasets.load_from_disk(path)`` gives a data set, or a mapping of several."""
    module = ModuleType("datasets")
    folders = {
        "one": WHOLE,
        "two": {"train": None, "test": WHOLE},
        "vectors": Stored({"x": [[1, 2], [3, 4]], "y": [0, 1]}),
    }
    module.load_from_disk = lambda folder: folders[Path(folder).name]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def test_a_data_set_on_disk_gives_images_and_classes(library: ModuleType):
    for keys in ({"dataset": "one"}, {"dataset": "two", "split": "test"}):
        found = data(**keys)
        assert (found.x[:, 0, 0, 0] * 255).round().tolist() == [5, 6, 7]
        assert found.x.shape == (3, 1, 2, 3)
        assert found.y.tolist() == [1, 0, 1]
        assert found.classes == ("cat", "dog")
    assert data(dataset="one", classes=["dog", "cat"]).y.tolist() == [0, 1, 0]
    assert data(dataset="one", sample=2, stratum="id").place.tolist()[0] in (0, 1)
    assert data(dataset="vectors", high="none").x.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"dataset": "two"}, "split must name a part of two, got none: there are train, test"),
        ({"dataset": "two", "split": "dev"}, "split must be one of train, test, got 'dev'"),
        ({"dataset": "one", "split": "test"}, "one has one part alone"),
        ({"dataset": "one", "inputs": "picture"}, "inputs must name a column, got 'picture': there are image, label"),
        ({"dataset": "one", "inputs": "id"}, "column id, row 0 cannot be used"),
        ({"dataset": "none"}, "dataset none cannot be read: 'none': write it with save_to_disk"),
    ],
)
def test_data_sets_that_are_not_clear_are_refused(keys: dict, message: str, library: ModuleType):
    refused(message, **keys)


def test_a_missing_library_of_data_sets_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused("needs the package datasets, which is not installed: pip install datasets", dataset="one")


# ---------------------------------------------------------------------------------------------------------- subsets


def test_a_sample_is_that_of_its_seed(images: Path):
    places = {seed: data(folder=str(images), sample=5, seed=seed).place.tolist() for seed in range(6)}
    assert all(place == sorted(set(place)) and len(place) == 5 for place in places.values())
    assert len({tuple(place) for place in places.values()}) > 3
    assert data(folder=str(images), sample=5, seed=3).place.tolist() == places[3]


def test_a_part_of_the_inputs_is_spread_over_them(images: Path):
    (images / "dog" / "1.png").write_bytes(b"no image")  # which is not looked at
    assert load_data(DataSource(folder=str(images)), LIKE, 4).place.tolist() == [0, 3, 6]
    assert load_data(DataSource(folder=str(images), count=8), LIKE, 50).place.tolist() == [*range(8)]


@pytest.mark.parametrize("count", [1, 3, 7, 20, 41, 60])
def test_strata_have_shares_as_near_to_theirs_as_whole_numbers_can_be(count: int):
    strata = torch.tensor([0] * 31 + [1] * 20 + [2] * 7 + [3] * 2)[
        torch.randperm(60, generator=torch.Generator().manual_seed(0))
    ]
    drawn = stratified(strata, count, torch.Generator().manual_seed(1))
    assert drawn.tolist() == sorted(set(drawn.tolist()))
    assert len(drawn) == count
    shares = strata[drawn].bincount(minlength=4).double()
    assert ((shares - strata.bincount() * count / 60).abs() < 1).all()
    if count == 7:  # 3.62, 2.33, 0.82 and 0.23: those with the largest remainders get one more
        assert shares.tolist() == [4, 2, 1, 0]


def test_every_row_of_a_stratum_is_drawn_alike_often():
    """Each of 12 rows is drawn 100 of 400 times on average; 5.2 deviations of 8.7 leave 2e-6 for an alarm, once."""
    strata, counts = torch.tensor([0, 1, 1] * 4), torch.zeros(12)
    for seed in range(400):
        counts[stratified(strata, 3, torch.Generator().manual_seed(seed))] += 1
    assert (counts - 100).abs().max() < 5.2 * 8.7


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"file": "a.npz", "folder": "b"}, "must name one source, got file and folder: leave all but one out"),
        ({"count": 3, "sample": 4}, "count or sample, got count = 3 and sample = 4"),
        ({"stratum": "label"}, "stratum needs a sample, got 'label' alone"),
        ({"folder": "a", "divide_by": 255}, "divide_by needs a file: images of a folder or a data set lie"),
    ],
)
def test_keys_of_data_must_fit_each_other(keys: dict, message: str):
    with pytest.raises(InvalidConfiguration, match=message):
        DataSource(**keys)


def test_reference_images_may_be_sampled_by_class():
    found = data(sample=20, stratum="label", seed=2)
    assert found.y.bincount().tolist() == pytest.approx([2] * 10, abs=1)
    assert torch.equal(found.x, certify.reference.images()[0][found.place])
    assert bounds.checks.inputs(found.x, found.low, found.high) is found.x
