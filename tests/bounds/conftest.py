"""Fixtures of the tests of the lower floor."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """These tensors are so small that two threads take four times as long, waiting for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Rectified(NamedTuple):
    """A recorded network of rectifiers, its input and label, bounds of others, and values that attacks reached."""

    model: nn.Module
    x: Tensor
    label: Tensor
    bounds: dict[str, np.ndarray]
    attacks: dict[str, np.ndarray]


@pytest.fixture(scope="session")
def rectified(shared_data: Path) -> Callable[[str], Rectified]:
    """Loader of recorded networks by name, with optima of their linear and mixed-integer programmes."""
    folder = shared_data / "bounds"
    spec = importlib.util.spec_from_file_location("recorded_networks", folder / "nets.py")
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)
    exact = dict(np.load(folder / "exact_relu.npz"))

    def load(name: str) -> Rectified:
        arrays = dict(np.load(folder / f"{name}.npz"))
        model, _ = reader.build(name)
        model.load_state_dict({k[2:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("w/")})
        label = torch.from_numpy(arrays["y"]).argmax(1)
        own = {key.removeprefix(f"{name}/"): value for key, value in exact.items() if key.startswith(f"{name}/")}
        return Rectified(model, torch.from_numpy(arrays["x"]), label, own, arrays)

    return load
