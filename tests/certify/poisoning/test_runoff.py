"""Run-off elections against enumeration of all changed classifiers and all orders in which they may rank classes."""

from collections.abc import Sequence
from itertools import combinations, permutations, product

import pytest
import torch
from oracles.halfspace import generator
from torch import Tensor

from bounds import InvalidInput
from certify.poisoning import certify_poisoning, certify_runoff, spread_partitions

Ranking = tuple[int, ...]


def elected(rankings: Sequence[Ranking]) -> int:
    """The winner, where each classifier ranks all classes from best to worst."""
    votes = [ranking[0] for ranking in rankings]
    a, b = sorted(sorted(range(len(rankings[0])), key=lambda k: (-votes.count(k), k))[:2])
    for_a = sum(ranking.index(a) < ranking.index(b) for ranking in rankings)
    return a if 2 * for_a >= len(rankings) else b


def ranked(logits: Tensor) -> list[Ranking]:
    return [tuple(sorted(range(len(row)), key=lambda k: (-row[k], k))) for row in logits.tolist()]


def brute_force(rankings: list[Ranking], spread: Tensor) -> int:
    """Most parts whose classifiers may rank as they please without any change of the winner."""
    label, orders = elected(rankings), list(permutations(range(len(rankings[0]))))
    for size in range(1, len(spread) + 1):
        for chosen in combinations(range(len(spread)), size):
            free = spread[list(chosen)].any(0).tolist()
            ways = (orders if one else [ranking] for ranking, one in zip(rankings, free, strict=True))
            if any(elected(one) != label for one in product(*ways)):
                return size - 1
    return len(spread)


def drawn(rows: int, classifiers: int, classes: int, seed: int) -> Tensor:
    """Logits with one or two favourites, and with ties."""
    logits = torch.randint(0, 4, (rows, classifiers, classes), generator=generator(seed)).double()
    favour = torch.rand(rows, 1, classes, generator=generator(seed + 1))
    return logits + (4 * favour).round()


@pytest.mark.parametrize(
    ("classifiers", "classes", "rows"),
    [
        (4, 3, 30),
        (2, 3, 30),
        (1, 2, 5),
        pytest.param(7, 3, 60, marks=pytest.mark.slow),
        pytest.param(5, 4, 12, marks=pytest.mark.slow),
    ],
)
def test_one_part_each_is_exact_against_enumeration(classifiers: int, classes: int, rows: int):
    logits = drawn(rows, classifiers, classes, seed=classifiers)
    found = certify_runoff(logits)
    assert found.label.tolist() == [elected(ranked(row)) for row in logits]
    exact = [brute_force(ranked(row), torch.eye(classifiers, dtype=torch.bool)) for row in logits]
    assert found.radius.tolist() == exact


@pytest.mark.parametrize("names", list(permutations(range(3))))
@pytest.mark.parametrize(
    "rankings",
    [
        4 * [(0, 1, 2)] + 3 * [(1, 0, 2)] + 3 * [(2, 0, 1)],  # 0 wins every second round, and is hardly in it
        6 * [(0, 1, 2)]
        + 3 * [(1, 0, 2)]
        + [(2, 0, 1)]
        + 4 * [(2, 1, 0)],  # one voter of 2 is best for 1 in both rounds
        8 * [(0, 1, 2)] + 3 * [(1, 0, 2)] + 5 * [(2, 1, 0)],  # who changes for the first round is no use in the second
    ],
)
def test_what_decides_each_round_is_exact_whatever_the_classes_are_called(rankings: list[Ranking], names: Ranking):
    renamed = [tuple(names[k] for k in ranking) for ranking in rankings]
    logits = torch.tensor([[[-ranking.index(k) for k in range(3)] for ranking in renamed]]).double()
    exact = brute_force(renamed, torch.eye(len(renamed), dtype=torch.bool))
    assert certify_runoff(logits).radius.tolist() == [exact]


@pytest.mark.parametrize("spread", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_finite_aggregation_never_exceeds_enumeration(spread: int):
    reached, logits = spread_partitions(5, spread, seed=3), drawn(12, 5, 3, seed=5)
    found = certify_runoff(logits, spread=reached).radius
    exact = torch.tensor([brute_force(ranked(row), reached) for row in logits])
    assert (found <= exact).all()
    assert (found == exact).double().mean() > 0.5
    assert (certify_runoff(logits).radius > exact).any()  # as if each part reached one classifier


def test_bounds_of_pairs_are_at_most_the_exact_number():
    """A spread of 1 asks for the lower bound where the exact number is known, at a size that nobody enumerates."""
    logits = torch.randn(200, 60, 6, generator=generator(8)) + 0.8 * torch.randn(200, 1, 6, generator=generator(9))
    exact, found = certify_runoff(logits), certify_runoff(logits, spread=spread_partitions(60, 1))
    assert (found.radius <= exact.radius).all()
    assert (found.radius == exact.radius).double().mean() > 0.7
    assert (found.radius >= 0).all()
    plurality = certify_poisoning(logits.argmax(2), 6)
    assert exact.radius.mean() > plurality.radius.mean()
    assert torch.equal(exact.counts, plurality.counts)


def test_two_classes_are_a_plain_vote():
    logits = torch.randn(50, 9, 2, generator=generator(10))
    assert torch.equal(certify_runoff(logits).radius, certify_poisoning(logits.argmax(2), 2).radius)


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (torch.zeros(2, 3), "logits must have shape"),
        (torch.zeros(2, 3, 1), "logits must have shape"),
        (torch.zeros(2, 3, 4, dtype=torch.int64), "logits must be floating"),
        (torch.full((2, 3, 4), torch.nan), "got NaN"),
    ],
)
def test_bad_logits_are_refused(logits: Tensor, message: str):
    with pytest.raises(InvalidInput, match=message):
        certify_runoff(logits)


def test_no_inputs_have_no_certificates():
    assert len(certify_runoff(torch.zeros(0, 3, 4))) == 0
