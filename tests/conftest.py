"""Fixtures of the whole suite."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Reference data beside the repository; what needs it is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("no reference data in ../shared/data beside the repository")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """The tensors of the tests are small: more threads would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
