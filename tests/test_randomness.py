"""Random numbers of tests: their own, whatever ran before, and others with ``--seed``."""

import random
import zlib

import numpy as np
import pytest
import torch


@pytest.fixture
def drawn() -> torch.Tensor:
    return torch.rand(3)


@pytest.mark.parametrize("turn", [0, 1])
def test_every_test_draws_its_own_numbers(request: pytest.FixtureRequest, drawn: torch.Tensor, turn: int):
    """From all three global sources, by its name; a fixture by its own."""

    def seed(name: str) -> int:
        return (zlib.crc32(name.encode()) + request.config.getoption("seed")) % 2**32

    def first(name: str) -> torch.Tensor:
        return torch.rand(3, generator=torch.Generator().manual_seed(seed(name)))

    assert torch.equal(torch.rand(3), first(request.node.nodeid))
    assert np.random.rand() == np.random.RandomState(seed(request.node.nodeid)).rand()  # noqa: NPY002
    assert random.random() == random.Random(seed(request.node.nodeid)).random()
    assert torch.equal(drawn, first(f"{request.node.nodeid.split('::')[0]}::drawn[0]"))
