"""Fixtures of the whole suite."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bounds import Normalize

# Each of the processes that share the work has a core for itself, and so have the programs that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

SHARED = Path(__file__).parents[2] / "shared" / "data"


class Published(NamedTuple):
    """A trained network of others, with MNIST or Fashion-MNIST test images (N, 1, 28, 28) in [0, 1] and labels."""

    model: nn.Sequential
    x: Tensor
    y: Tensor


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Reference data beside the repository; what needs it is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("no reference data in ../shared/data beside the repository")
    return SHARED


@pytest.fixture(scope="session")
def published(shared_data: Path) -> Callable[[str, int], Published]:
    """Loader of trained networks: of a name and a number of images, the network with the first test images."""
    folder = shared_data / "networks"
    spec = importlib.util.spec_from_file_location("published_networks", folder / "arch.py")
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)

    def load(name: str, count: int) -> Published:
        _, body, architecture, _ = reader.load(folder / "models" / f"{name}.safetensors")
        scaling = architecture.get("normalize")
        model = nn.Sequential(Normalize(scaling["mean"], scaling["std"]), body) if scaling else body
        source = "fashion_test" if "fashion" in name else "mnist_test"
        with np.load(folder / "data" / f"{source}.npz") as stored:
            images, labels = stored["images"][:count], stored["labels"][:count]
        x = torch.from_numpy(images).unsqueeze(1).float() / 255
        return Published(model, x, torch.from_numpy(labels).long())

    return load
