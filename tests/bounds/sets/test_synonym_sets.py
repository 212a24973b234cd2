"""Texts with few replaced words: minima, hulls and members against all texts."""

import itertools

import pytest
import torch
from oracles.feature_tables import network
from oracles.halfspace import generator
from torch import Tensor

import bounds
from bounds.errors import InvalidInput

WORDS, SIZE = 4, 3
EMBEDDING = torch.randn(9, SIZE, generator=generator(1), dtype=torch.float64)
TOKENS = torch.tensor([[0, 3, 5, 0], [8, 1, 2, 7]])
SYNONYMS = {0: [1, 2], 3: [4], 8: [0, 7, 5], 1: [1, 6], 7: [2]}


def texts(changes: int | Tensor, **options: object) -> bounds.SynonymSet:
    return bounds.SynonymSet.of_tokens(EMBEDDING, TOKENS, SYNONYMS, changes, **options)


def all_texts(row: int, changes: int, frozen: tuple[int, ...] = ()) -> Tensor:
    tokens = TOKENS[row].tolist()
    options = [[t, *([] if i in frozen else SYNONYMS.get(t, []))] for i, t in enumerate(tokens)]
    found = {c for c in itertools.product(*options) if sum(a != b for a, b in zip(c, tokens, strict=True)) <= changes}
    return EMBEDDING[torch.tensor(sorted(found))]


@pytest.mark.parametrize("changes", range(5))
@pytest.mark.parametrize("frozen", [(), (0, 3)], ids=["free", "frozen"])
def test_minima_hulls_and_members_are_those_of_all_texts(changes: int, frozen: tuple[int, ...]):
    mask = torch.tensor([place in frozen for place in range(WORDS)])
    region = texts(changes, frozen_features=mask)
    a = torch.randn(2, 7, WORDS, SIZE, generator=generator(2), dtype=torch.float64)
    least, hull = bounds.linear_minimum(a, region), region.hull()
    for row in range(2):
        points = all_texts(row, changes, frozen)
        exact = torch.einsum("rle,tle->rt", a[row], points).amin(1)
        assert (least[row] <= exact).all()
        assert torch.allclose(least[row], exact, rtol=1e-12)
        assert torch.equal(hull.lower[row], points.amin(0))
        assert torch.equal(hull.upper[row], points.amax(0))
        more = all_texts(row, WORDS)
        here = region.rows(torch.full((len(more),), row)).contains(more)
        assert here.sum() == len(points)


def test_points_and_moves_lead_to_what_the_minimum_rests_on():
    region = texts(2)
    a = torch.randn(2, 9, WORDS * SIZE, generator=generator(3), dtype=torch.float64)
    fall, choice = region.lowest(a)
    every = region.rows(torch.arange(2).repeat_interleave(9))
    points = every.points(choice.flatten(0, 1))
    assert every.contains(points).all()
    moved = region.center.flatten(1)[:, None] + region.moves(choice)
    assert torch.allclose(points.flatten(1).view(2, 9, -1), moved, atol=1e-15)
    assert torch.allclose((a * (region.center.flatten(1)[:, None] - moved)).sum(2), fall)


def test_a_table_of_synonyms_says_the_same_as_lists():
    table = torch.full((9, 3), -1)
    for token, others in SYNONYMS.items():
        table[token, : len(others)] = torch.tensor(others)
    a = torch.randn(2, 5, WORDS, SIZE, generator=generator(4), dtype=torch.float64)
    other = bounds.SynonymSet.of_tokens(EMBEDDING, TOKENS, table, 2)
    assert torch.equal(bounds.linear_minimum(a, texts(2)), bounds.linear_minimum(a, other))


def test_texts_without_synonyms_are_points():
    region = bounds.SynonymSet.of_tokens(EMBEDDING, TOKENS, {}, 3)
    a = torch.randn(2, 5, WORDS, SIZE, generator=generator(4), dtype=torch.float64)
    exact = torch.einsum("nrle,nle->nr", a, EMBEDDING[TOKENS])
    assert torch.allclose(bounds.linear_minimum(a, region), exact)
    assert torch.equal(region.hull().lower, EMBEDDING[TOKENS])


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("deep", "ibp"),
        *(pytest.param(kind, "alpha_crown", marks=pytest.mark.slow) for kind in ("smooth", "expanding", "residual")),
    ],
)
def test_no_text_is_below_the_margins(kind: str, method: str):
    model = network(kind, WORDS * SIZE).double()
    labels = torch.tensor([1, 2])
    graph = bounds.capture(model, EMBEDDING[TOKENS])
    for changes in (1, 2, 4):
        margins = bounds.margin_bounds(graph, texts(changes), labels, method, steps=3).detach()
        for row in range(2):
            logits = model(all_texts(row, changes)).detach()
            least = (logits[:, labels[row]][:, None] - logits).amin(0)
            assert (margins[row] <= least).all()


def test_what_does_not_fit_is_refused():
    x, others = EMBEDDING[TOKENS], EMBEDDING[TOKENS][:, :, None].expand(-1, -1, 2, -1)
    wrong = [
        lambda: bounds.SynonymSet(x.flatten(1), others, 1),
        lambda: bounds.SynonymSet(x, others.float(), 1),
        lambda: bounds.SynonymSet(x, others[:, 1:], 1),
        lambda: bounds.SynonymSet(x, others, 1, allowed=torch.ones(2, WORDS, 2)),
        lambda: bounds.SynonymSet(x, others * torch.inf, 1),
        lambda: bounds.SynonymSet.of_tokens(EMBEDDING, TOKENS + 5, SYNONYMS, 1),
        lambda: bounds.SynonymSet.of_tokens(EMBEDDING, TOKENS, {0: [9]}, 1),
        lambda: bounds.SynonymSet.of_tokens(EMBEDDING, TOKENS.double(), SYNONYMS, 1),
    ]
    for make in wrong:
        with pytest.raises(InvalidInput):
            make()
