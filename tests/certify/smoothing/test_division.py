"""Votes counted in several places: the same forward passes, and so the same votes."""

from functools import partial

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from certify.smoothing.drawing.distributions import NormalEntries
from certify.smoothing.drawing.division import NOISE_BLOCK, counted_by, pieces_of
from certify.smoothing.drawing.votes import Sampling, Stage


class Recording(nn.Module):
    """Keeps every batch that it is given, and names the class of the larger entry."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[bytes] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(x.numpy().tobytes())
        return x


def sampling(rows: int, batch_size: int, model: nn.Module | None = None, chosen: Tensor | None = None) -> Sampling:
    x = torch.linspace(-1, 1, 2 * rows, dtype=torch.float32).view(rows, 2)
    indices = range(7, 7 + rows)
    noise = NormalEntries(1.0)
    return Sampling(
        model=model or Recording(),
        x=x,
        distribution=noise,
        seed=3,
        indices=indices,
        batch_size=batch_size,
        chosen=chosen,
    )


def part_of(whole: Sampling, rows: slice) -> Sampling:
    found = sampling(len(whole.x), whole.batch_size, whole.model)
    return Sampling(
        model=found.model,
        x=found.x[rows],
        distribution=found.distribution,
        seed=found.seed,
        indices=found.indices[rows],
        batch_size=found.batch_size,
    )


@given(
    rows=st.integers(1, 5),
    draws=st.integers(1, 900),
    batch_size=st.sampled_from([50, 100, 130, 200, 250, 330, 1000]),
    at_least=st.integers(1, 9),
)
@example(rows=1, draws=225, batch_size=130, at_least=9)  # the last two steps share a forward pass
def test_pieces_have_the_forward_passes_of_the_whole(rows: int, draws: int, batch_size: int, at_least: int):
    """Every batch of a part is one of the whole, bit for bit, and none is missing: so no logit can differ."""
    whole = sampling(rows, batch_size)
    votes = whole.votes(2, draws, Stage.ESTIMATION)
    model, together = Recording(), torch.zeros_like(votes)
    for piece in pieces_of(rows, draws, batch_size, at_least):
        assert piece.first % NOISE_BLOCK == 0
        part = part_of(sampling(rows, batch_size, model), piece.rows)
        together[piece.rows] += part.votes(2, piece.draws, Stage.ESTIMATION, first_block=piece.first // NOISE_BLOCK)
    assert model.batches == whole.model.batches  # type: ignore[union-attr]
    assert torch.equal(together, votes)


@pytest.mark.parametrize(
    ("rows", "draws", "batch_size", "workers", "pieces"),
    [(1, 100_000, 1000, 8, 8), (1, 100_000, 1024, 16, 16), (10, 100_000, 1000, 8, 5), (3, 10_000, 1000, 8, 9)],
)
def test_large_calls_are_cut_as_often_as_asked(rows: int, draws: int, batch_size: int, workers: int, pieces: int):
    found = pieces_of(rows, draws, batch_size, workers)
    assert len(found) == pieces
    work = [(piece.rows.stop - piece.rows.start) * piece.draws for piece in found]
    assert max(work) <= 1.4 * sum(work) / len(work)


def test_votes_are_counted_elsewhere_while_asked_for():
    asked = []

    def count(name: str, *arguments: object) -> Tensor:
        asked.append((name, *arguments[1:]))
        return torch.ones(1)

    with counted_by(partial(count, "there")):
        assert sampling(2, 100).votes(2, 300, Stage.SELECTION, first_block=4).equal(torch.ones(1))
        with counted_by(None):
            assert sampling(2, 100).votes(2, 300, Stage.SELECTION).sum() == 600
    assert asked == [("there", 2, 300, Stage.SELECTION, 4)]
    assert sampling(2, 100).votes(2, 300, Stage.SELECTION).sum() == 600
