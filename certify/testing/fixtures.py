"""Fixtures of the pytest plugin."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import torch

    from certify.reference import Reference


@pytest.fixture(scope="session")
def certify_reference() -> "Callable[[str, int], Reference]":
    """Loader of the embedded networks: of a name and a number of images, a network with images and labels.

    See :func:`certify.reference.load`.
    """
    from certify.reference import load

    return load


@pytest.fixture
def certify_generator() -> "torch.Generator":
    """A random generator on the CPU with a fixed seed, new for each test."""
    import torch

    return torch.Generator().manual_seed(0)
