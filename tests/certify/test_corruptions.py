"""Corruptions of images: Pillow's compression, SciPy's filters, laws of noise; accuracies counted by hand."""

import io

import numpy as np
import pytest
import torch
from oracles.devices import elsewhere
from oracles.halfspace import generator
from scipy import ndimage
from torch import Tensor, nn

from bounds import InvalidInput, clopper_pearson_interval
from certify import corruptions
from certify.corruptions import CORRUPTIONS, corruption_accuracy


def images(count: int = 3, shape: tuple[int, int, int] = (1, 28, 21)) -> Tensor:
    """Smooth images of 8 bits."""
    x = torch.rand(count, *shape, generator=generator(), dtype=torch.float64)
    return (255 * torch.nn.functional.avg_pool2d(x, 5, 1, 2)).round() / 255


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_compression_is_that_of_pillow(severity: int):
    """Within two steps of 255, but for coefficients halfway between two steps; the mutant has another table."""
    image_module = pytest.importorskip("PIL.Image")
    x = images(1)
    buffer = io.BytesIO()
    picture = image_module.fromarray((255 * x[0, 0]).to(torch.uint8).numpy())
    picture.save(buffer, format="JPEG", quality=(25, 18, 15, 10, 7)[severity - 1])
    theirs = torch.from_numpy(np.asarray(image_module.open(buffer)).copy()).double()

    def agreement(severity: int) -> float:
        return float(((255 * corruptions.jpeg(x, severity)[0, 0] - theirs).abs() <= 2).double().mean())

    assert agreement(severity) > 0.85
    assert agreement({1: 3, 3: 1, 5: 3}[severity]) < 0.6


@pytest.mark.parametrize("severity", [1, 5])
def test_blurs_are_those_of_scipy(severity: int):
    x = images(2, (3, 28, 21))
    sigma = (0.4, 0.6, 0.8, 1.1, 1.5)[severity - 1]
    reach = int(np.ceil(3 * sigma))
    theirs = ndimage.gaussian_filter(x.numpy(), sigma, axes=(2, 3), mode="nearest", radius=reach)
    torch.testing.assert_close(corruptions.gaussian_blur(x, severity), torch.from_numpy(theirs))
    theirs = ndimage.uniform_filter1d(x.numpy(), 2 * severity + 1, axis=3, mode="nearest")
    torch.testing.assert_close(corruptions.motion_blur(x, severity), torch.from_numpy(theirs))


def test_noises_have_their_laws():
    """Grey images are corrupted, so that nothing is clipped: spread, share and mean within five standard errors."""
    x = torch.full((4, 1, 100, 100), 0.5, dtype=torch.float64)
    noisy = corruptions.gaussian_noise(x, 1, generator())
    assert abs(float((noisy - x).std()) - 0.08) < 5 * 0.08 / (2 * x.numel()) ** 0.5
    shot = corruptions.shot_noise(x, 1, generator())
    assert abs(float(shot.var()) - 0.5 / 60) < 5 * 0.5 / 60 * (2.1 / x.numel()) ** 0.5
    hit = corruptions.impulse_noise(x, 5, generator())
    assert abs(float((hit != 0.5).double().mean()) - 0.27) < 5 * (0.27 / x.numel()) ** 0.5
    assert set(hit.unique().tolist()) == {0.0, 0.5, 1.0}


def test_contrast_and_brightness():
    x = images()
    low = corruptions.contrast(x, 5)
    torch.testing.assert_close(low.mean((1, 2, 3)), x.mean((1, 2, 3)))
    torch.testing.assert_close(low.std((1, 2, 3)), 0.15 * x.std((1, 2, 3)))
    torch.testing.assert_close(corruptions.brightness(x, 2), (x + 0.2).clamp(max=1))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_images_stay_images_and_higher_severity_is_farther(name: str):
    x = images().float()
    moved = [CORRUPTIONS[name](x, severity, generator()) for severity in corruptions.SEVERITIES]
    for image in moved:
        assert image.shape == x.shape
        assert image.dtype == x.dtype
        assert image.min() >= 0
        assert image.max() <= 1
    distances = [float((image - x).norm()) for image in moved]
    assert distances == sorted(distances)
    assert distances[0] > 0


class Bright(nn.Module):
    """Class 1 where the mean is above 1/2."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([0.5 - mean, mean - 0.5], 1)


def test_accuracy_is_counted_as_by_hand():
    means = torch.tensor([0.05, 0.15, 0.25, 0.45, 0.8])
    x = means.view(-1, 1, 1, 1).expand(5, 1, 8, 8).contiguous()
    y = (means > 0.5).long()
    chosen = {"brightness": corruptions.brightness}
    found = corruption_accuracy(Bright(), x, y, corruptions=chosen, batch_size=2)
    expected = [[(mean + step > 0.5) == (mean > 0.5) for mean in means.tolist()] for step in (0.1, 0.2, 0.3, 0.4)]
    assert found.correct["brightness"][:4].tolist() == expected
    assert found.clean.all()
    robust = torch.tensor([True, False, False, False, True])
    table = found.to_dataframe({"attacked": robust}, alpha=0.1)
    assert table.name.tolist() == ["clean", *["brightness"] * 5, "attacked"]
    low, high = clopper_pearson_interval(robust.sum(), 5, confidence=0.9)
    assert table.iloc[-1].tolist() == ["attacked", 0, 0.4, float(low), float(high)]
    assert found.mean_accuracy() == pytest.approx(float(found.correct["brightness"].double().mean()))


def test_bad_input_and_devices():
    x, y = images().float(), torch.zeros(3, dtype=torch.long)
    for change, message in (
        ({"severities": [0]}, "severities must lie between 1 and 5"),
        ({"x": x[:, 0]}, "x must hold images"),
        ({"x": 2 + x}, "x must lie in the declared range"),
    ):
        with pytest.raises(InvalidInput, match=message):
            corruption_accuracy(Bright(), **{"x": x, "labels": y, **change})
    source = generator()
    with elsewhere():
        found = corruption_accuracy(Bright(), x, y, severities=[2], generator=source)
    assert found.clean.device == x.device
