"""Fixtures of the whole suite."""

import gc
import importlib.util
import os
import random
import zlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

from bounds import Normalize

# Each of the processes that share the work has a core for itself, and so have the programs that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Modules and tests are there to stay: no search for garbage goes through them again and again.

    Networks that are captured leave much of it, so that the searches took a fifth of the time.
    """
    gc.disable()
    result = yield
    gc.freeze()
    gc.enable()
    return result


@pytest.fixture
def without_garbage_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what statsmodels calls after each correction of Holm: a search of most of a second where torch is loaded."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


# ---------------------------------------------------------------------------------------------------- seeds and order


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options under which the suite has to pass as well: other random numbers, another order."""
    group = parser.getgroup("randomness")
    group.addoption("--seed", type=int, default=0, help="shifts the seeds of all tests and fixtures")
    group.addoption(
        "--shuffle", type=int, default=None, metavar="SEED", help="runs modules, and tests in each, shuffled"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Examples of hypothesis are fixed like all other random numbers, and shifted with them."""
    settings.register_profile("seeded", derandomize=config.getoption("seed") == 0)
    settings.load_profile("seeded")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Shuffle modules, and tests within each, so that fixtures of a module are still made once."""
    seed = config.getoption("shuffle")
    if seed is not None:
        source = random.Random(seed)
        modules = sorted({item.path for item in items})
        place = dict(zip(source.sample(modules, len(modules)), range(len(modules)), strict=True))
        source.shuffle(items)
        items.sort(key=lambda item: place[item.path])


def _seed(config: pytest.Config, name: str) -> None:
    """Every global source of random numbers, by what is about to run alone."""
    seed = (zlib.crc32(name.encode()) + config.getoption("seed")) % 2**32
    if torch.cuda.is_available():
        torch.manual_seed(seed)
    else:  # without a device, torch keeps a stack trace of each call, which takes a tenth of a millisecond and more
        torch.default_generator.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # the global source is the point
    random.seed(seed)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef, request: pytest.FixtureRequest) -> None:
    """A fixture draws the same numbers whichever test asks for it first."""
    _seed(request.config, f"{fixturedef.baseid}::{fixturedef.argname}[{request.param_index}]")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """A test draws the same numbers whatever ran before it."""
    _seed(item.config, item.nodeid)


# --------------------------------------------------------------------------------------------------------------- data


SHARED = Path(__file__).parents[2] / "shared" / "data"


class Published(NamedTuple):
    """A trained network of others, with test images (N, C, H, W) in [0, 1] and labels."""

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
def published(shared_data: Path) -> Callable[..., Published]:
    """Loader of trained networks: of a name and a number of images, the network with the first test images.

    Of CIFAR-10, with the first of an unbiased subset: ``first100`` or ``sdp200``.
    """
    folder = shared_data / "networks"
    spec = importlib.util.spec_from_file_location("published_networks", folder / "arch.py")
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)

    def load(name: str, count: int, subset: str = "") -> Published:
        _, body, architecture, _ = reader.load(folder / "models" / f"{name}.safetensors")
        scaling = architecture.get("normalize")
        model = nn.Sequential(Normalize(scaling["mean"], scaling["std"]), body) if scaling else body
        source = "cifar10_test_subset" if "cifar" in name else "fashion_test" if "fashion" in name else "mnist_test"
        with np.load(folder / "data" / f"{source}.npz") as stored:
            images, labels = stored["images"], stored["labels"]
            if subset == "sdp200":
                order = np.argsort(stored["sdp_position"], kind="stable")
                order = order[stored["sdp_position"][order] >= 0]
            else:
                order = np.flatnonzero(stored["first100"]) if subset == "first100" else np.arange(len(images))
        x = torch.from_numpy(images[order[:count]]).float() / 255
        x = x.permute(0, 3, 1, 2) if x.ndim == 4 else x.unsqueeze(1)
        return Published(model, x.contiguous(), torch.from_numpy(labels[order[:count]]).long())

    return load
