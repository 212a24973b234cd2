"""The embedded default: what it is, and that it does what is stated of it."""

import gzip
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from bounds import InvalidInput, LpBall, margin_bounds
from certify import reference

FASHION = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package dataset-fashion-mnist puts it


@pytest.mark.parametrize("name", reference.NETWORKS)
def test_stated_accuracies_fit_the_images_that_are_shipped(name: str):
    """Stated on 10,000 images, recomputed on the first 1,000: apart by no more than chance allows."""
    model, x, y = reference.load(name)
    with torch.no_grad():
        right = {"clean": model(x).argmax(1) == y}
        noisy = x + 0.25 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        right["noise_0.25"] = model(noisy).argmax(1) == y
        margins = margin_bounds(model, LpBall(x.double(), 0.1), y).scatter(1, y[:, None], 1.0)
        right["ibp_0.1"] = (margins > 0).all(1)
    stated = reference.accuracies()[name]
    for what, hits in right.items():
        p = stated[what]
        count = int(hits.sum())
        assert scipy.stats.binomtest(count, 1000, p).pvalue > 1e-6 if 0 < p < 1 else count == 1000 * p, what


def test_each_training_does_what_it_is_for():
    stated = reference.accuracies()
    assert stated["plain"]["clean"] >= 0.863
    assert stated["noise"]["clean"] >= 0.870
    assert stated["ibp"]["clean"] >= 0.822
    assert stated["ibp"]["ibp_0.1"] >= 0.706
    for what, best in (("clean", "plain"), ("noise_0.25", "noise"), ("ibp_0.1", "ibp")):
        assert max(stated, key=lambda name: stated[name][what]) == best


def test_architecture_and_images():
    model, x, y = reference.load("plain", 7)
    assert sum(weight.numel() for weight in model.parameters()) == 53_090
    assert not model.training
    assert x.shape == (7, 1, 28, 28)
    assert x.dtype == torch.float32
    assert (float(x.min()), float(x.max())) == (0.0, 1.0)
    assert torch.equal(x * 255, (x * 255).round())  # on the grid of 8-bit images
    assert y.dtype == torch.int64


def test_the_package_stays_small_and_carries_the_licence_of_the_images():
    files = [path for path in reference.FOLDER.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2_000_000
    assert "Copyright (c) 2017 Zalando SE" in (reference.FOLDER / "LICENSE-fashion-mnist").read_text()


def test_bad_names_and_counts_are_refused():
    with pytest.raises(InvalidInput, match="name must be one of plain, noise, pgd, ibp, got 'vgg'"):
        reference.load("vgg")
    with pytest.raises(InvalidInput, match="count must be at most 1000, got 1001"):
        reference.load("ibp", 1001)
    with pytest.raises(InvalidInput, match="count must be an integer of at least 1, got 0"):
        reference.images(0)


@pytest.mark.slow
@pytest.mark.skipif(not FASHION.exists(), reason="the Fashion-MNIST files are not installed")
def test_images_and_accuracies_against_the_whole_test_set():
    pixels = gzip.decompress((FASHION / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((FASHION / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:]
    x = torch.from_numpy(np.frombuffer(pixels, np.uint8).reshape(-1, 1, 28, 28).copy()).float() / 255
    y = torch.from_numpy(np.frombuffer(labels, np.uint8).astype(np.int64))
    first, first_labels = reference.images()
    assert torch.equal(x[:1000], first)
    assert torch.equal(y[:1000], first_labels)
    for name in reference.NETWORKS:
        model = reference.load(name, 1).model
        with torch.no_grad():
            accuracy = float((model(x).argmax(1) == y).double().mean())
        assert math.isclose(accuracy, reference.accuracies()[name]["clean"], abs_tol=2e-4)
