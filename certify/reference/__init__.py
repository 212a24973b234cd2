"""The embedded default: four small trained networks and the first 1,000 Fashion-MNIST test images.

Trained and stored by ``examples/train_reference.py``. The images are Zalando's, under the MIT licence in
``LICENSE-fashion-mnist`` next to them.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bounds import checks

FOLDER = Path(__file__).parent
NETWORKS = ("plain", "noise", "pgd", "ibp")
CLASSES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


class Reference(NamedTuple):
    """A reference network with images (N, 1, 28, 28) in [0, 1] and their labels (N,)."""

    model: nn.Sequential
    x: Tensor
    y: Tensor


def architecture() -> nn.Sequential:
    """The one architecture of all reference networks, 53,090 parameters, not trained."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(784, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def load(name: str = "ibp", count: int = 1000) -> Reference:
    """A reference network in evaluation mode, with the first ``count`` test images and labels.

    Args:
        name: how it was trained: ``"plain"``, with Gaussian ``"noise"`` of sigma 0.25, against ``"pgd"`` at
            l-infinity 0.1, or by interval bounds (``"ibp"``) at l-infinity 0.1, with noise of up to sigma 0.25 as well.
        count: number of images, from 1 to 1000.

    Raises:
        InvalidInput: an unknown name or a count out of range.

    >>> model, x, y = load("plain", 8)
    >>> model(x).argmax(1)
    tensor([9, 2, 1, 1, 6, 1, 4, 6])
    """
    checks.one_of("name", name, NETWORKS)
    with torch.device("meta"):  # weights on the way to being replaced need no memory and no random numbers
        model = architecture()
    model.load_state_dict(load_file(FOLDER / f"{name}.safetensors"), assign=True)
    return Reference(model.eval(), *images(count))


def images(count: int = 1000) -> tuple[Tensor, Tensor]:
    """The first ``count`` test images as float32 (count, 1, 28, 28) in [0, 1], and their labels as int64."""
    checks.at_most("count", checks.at_least("count", count, 1), 1000)
    with np.load(FOLDER / "fashion_test_1000.npz") as stored:
        x, y = torch.from_numpy(stored["x"][:count]), torch.from_numpy(stored["y"][:count])
    return x.unsqueeze(1).float() / 255, y.long()


def accuracies() -> dict[str, dict[str, float]]:
    """Accuracies of each network on the whole test set of 10,000 images, measured when it was stored."""
    stated: dict[str, dict[str, float]] = json.loads((FOLDER / "accuracies.json").read_text())
    return stated
