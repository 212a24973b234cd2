"""Data sets and loaders of torch: their inputs in their order, or one line that says what is wrong with them."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import certify
from bounds import InvalidInput
from certify import reference
from certify.loaders import collect, pixels

X = torch.rand(7, 2, 3, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2, 0])
WHOLE = TensorDataset(X, Y)


class Items(Dataset):
    """A data set of given items, which has no iterator and raises no IndexError."""

    def __init__(self, items: list) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> object:
        return self.items[i % len(self.items)]


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(WHOLE)


FORMS = {
    "data set": WHOLE,
    "loader": DataLoader(WHOLE, batch_size=3),
    "single": DataLoader(WHOLE),
    "stream": Stream(),
    "loader of a stream": DataLoader(Stream(), batch_size=2),
    "numbers": Items([(x.numpy(), int(y)) for x, y in WHOLE]),
    "keys": Items([{"image": x, "label": y, "path": "a"} for x, y in WHOLE]),
    "loader of keys": DataLoader(Items([{"pixel_values": x, "labels": y} for x, y in WHOLE]), batch_size=4),
    "columns": DataLoader(TensorDataset(X, Y.unsqueeze(1)), batch_size=3),
}


@pytest.mark.parametrize("form", FORMS)
def test_inputs_arrive_in_their_order(form: str):
    for count in (None, 1, 4, 7, 100):
        x, y = collect(FORMS[form], count)
        assert torch.equal(x, X[:count])
        assert torch.equal(y, Y[:count])


def test_a_subset_is_a_data_set():
    x, y = collect(Subset(WHOLE, [5, 0]))
    assert torch.equal(x, X[[5, 0]])
    assert y.tolist() == [2, 0]


def test_images_become_numbers_in_the_unit_interval():
    bytes_ = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    x, _ = collect(Items([(Image.fromarray(bytes_), 1)]))
    assert torch.equal(x, torch.from_numpy(bytes_.transpose(2, 0, 1)).float()[None] / 255)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            DataLoader(WHOLE, shuffle=True),
            "fixed order, got a DataLoader with RandomSampler: build it with shuffle=False",
        ),
        (Items([(X[0], 1), (X[0, :1], 1)]), r"inputs of one shape, got \(2, 3\) and then \(1, 3\) at input 1"),
        (Items([X[0]]), r"pairs of an input and a class, got a Tensor: give \(x, y\)"),
        (Items([(X[0], 1, 2)]), "got a tuple of 3"),
        (Items([{"a": 1, "b": 2}]), "got the keys a, b: give pairs"),
        (Items([{"image": 1, "img": 1, "label": 2}]), "got the keys image, img, label"),
        (Items([]), "at least one input, got none"),
        (DataLoader(TensorDataset(X, X), batch_size=2), r"classes \(B,\), got shapes \(2, 2, 3\) and \(2, 2, 3\)"),
        ([(X[0], 1)], "must be a torch Dataset or DataLoader, got list"),
        (Items([("a", 1)]), "must give tensors, arrays, numbers or images, got str"),
    ],
)
def test_what_has_no_inputs_and_classes_is_refused(data: object, message: str):
    with pytest.raises(InvalidInput, match=message):
        collect(data)


def test_an_evaluation_takes_them_and_gives_the_same_rows():
    model, x, y = reference.load("ibp", 5)
    options = {"norms": 2, "methods": "ibp"}
    expected = certify.evaluate(model, x, y, **options)
    for data in (TensorDataset(x, y), DataLoader(TensorDataset(x, y), batch_size=2)):
        found = certify.evaluate(model, data, **options)
        assert found.manifest["data_sha256"] == expected.manifest["data_sha256"]
        assert [row["certified_radius"] for row in found.rows()] == [row["certified_radius"] for row in expected.rows()]
    with pytest.raises(InvalidInput, match="labels must be left out where x is a data set or loader"):
        certify.evaluate(model, TensorDataset(x, y), y, **options)


def test_without_labels_statements_are_about_predictions():
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    x = torch.rand(16, 6)
    predicted = model(x).argmax(1)
    rows = certify.evaluate(model, x, norms=2, methods="ibp").rows()
    assert [row["label"] for row in rows] == predicted.tolist()
    assert all(row["correct"] for row in rows)
    for function, options in (
        (certify.certified_radius, {"norm": 2, "method": "ibp"}),
        (certify.lipschitz_certificate, {"norm": 2}),
    ):
        assert torch.equal(function(model, x, **options).radius, function(model, x, predicted, **options).radius)
    options = {"norm": 2, "epsilon": 1e-3, "method": "ibp"}
    assert torch.equal(
        certify.verify(model, x, **options).verified, certify.verify(model, x, predicted, **options).verified
    )


def test_a_row_without_a_prediction_has_no_radius():
    class Broken(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, torch.where(x > 0.5, torch.inf, x - 1)], 1)

    x = torch.tensor([[0.1], [0.9]])
    predicted, labels = certify.models.predictions_and_labels(Broken(), x, None, 2, 10)
    assert predicted.tolist() == [0, -1]
    assert labels.tolist() == [0, 0]


def image(mode: str) -> Image.Image:
    base = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) * 20)
    if mode == "RGBA":
        made = base.convert("RGB")
        made.putalpha(255)
        return made
    return base.convert(mode)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("P", 3), ("1", 1), ("RGBA", 3), ("LA", 1)])
def test_pixels_are_those_of_the_image(mode: str, channels: int):
    found = pixels(image(mode))
    assert found.shape == (channels, 3, 4)
    assert found.dtype == np.uint8
    if mode != "1":
        assert (found == np.arange(12).reshape(3, 4) * 20).all()


def test_images_without_a_clear_meaning_are_refused():
    clear = image("L").convert("RGB")
    clear.putalpha(Image.fromarray(np.full((3, 4), 7, np.uint8)))
    for made in (clear, Image.fromarray(np.zeros((3, 4), np.uint16)), image("CMYK")):
        with pytest.raises(InvalidInput, match="images must be grey or RGB, of 8 bits and opaque, got mode"):
            pixels(made)
