"""Counting certificates of partition ensembles against enumeration of all votes and of all changed training sets."""

from itertools import combinations, product

import pytest
import torch
from oracles.devices import elsewhere
from oracles.halfspace import generator
from torch import Tensor

from bounds import InvalidInput
from certify import CertifiedAccuracyCurve
from certify.poisoning import certify_poisoning, hash_partition, spread_partitions, training_rows
from certify.smoothing.derandomized.counting import lead


def winner(votes: tuple[int, ...], classes: int) -> int:
    return max(range(classes), key=lambda k: (votes.count(k), -k))


def brute_force(votes: list[int], classes: int, spread: Tensor) -> int:
    """Most parts whose classifiers may vote as they please without any change of the winner, by enumeration."""
    label, parts = winner(tuple(votes), classes), range(len(spread))
    for size in range(1, len(spread) + 1):
        for chosen in combinations(parts, size):
            free = spread[list(chosen)].any(0).tolist()
            ways = (range(classes) if one else [vote] for vote, one in zip(votes, free, strict=True))
            if any(winner(one, classes) != label for one in product(*ways)):
                return size - 1
    return len(spread)


def drawn(rows: int, classifiers: int, classes: int, seed: int) -> Tensor:
    """Votes with a favourite; some for no class."""
    source = generator(seed)
    votes = torch.randint(-1, classes, (rows, classifiers), generator=source)
    favourite = torch.randint(classes, (rows, 1), generator=source)
    return torch.where(torch.rand(rows, classifiers, generator=source) < 0.5, favourite, votes)


def test_one_part_each_is_exact_against_enumeration():
    votes = drawn(40, 5, 3, seed=1)
    found = certify_poisoning(votes, 3)
    exact = [brute_force(row, 3, torch.eye(5, dtype=torch.bool)) for row in votes.tolist()]
    assert found.radius.tolist() == exact
    assert found.label.tolist() == [winner(tuple(row), 3) for row in votes.tolist()]
    assert len(set(exact)) > 2


def test_one_part_each_is_half_of_the_lead():
    """Levine and Feizi's formula, at a size that nobody enumerates."""
    votes = drawn(300, 250, 7, seed=2)
    found = certify_poisoning(votes, 7)
    label, gap = lead(found.counts)
    assert torch.equal(found.label, label)
    assert torch.equal(found.radius, (gap // 2).double())
    assert int(found.radius.max()) > 40


@pytest.mark.parametrize("spread", [2, 3])
def test_finite_aggregation_never_exceeds_enumeration_and_often_meets_it(spread: int):
    reached, votes = spread_partitions(6, spread, seed=3), drawn(25, 6, 3, seed=spread)
    found = certify_poisoning(votes, 3, spread=reached)
    exact = torch.tensor([brute_force(row, 3, reached) for row in votes.tolist()])
    assert (found.radius <= exact).all()
    assert (found.radius == exact).double().mean() > 0.6
    assert int(found.radius.max()) >= 1
    forgotten = certify_poisoning(votes, 3).radius  # the mutant: as if each part reached one classifier
    assert (forgotten > exact).any()


def test_a_spread_of_one_is_partition_aggregation():
    votes = drawn(50, 9, 4, seed=4)
    alone = certify_poisoning(votes, 4, spread=spread_partitions(9, 1))
    assert torch.equal(alone.radius, certify_poisoning(votes, 4).radius)
    assert alone.method == "finite aggregation"


def test_ties_go_to_the_smaller_class():
    found = certify_poisoning(torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0], [0, 0, 0, 1], [-1, -1, -1, -1]]), 2)
    assert found.label.tolist() == [0, 1, 0, 0]
    assert found.radius.tolist() == [0.0, 0.0, 1.0, 0.0]  # 3 to 1: class 1 loses the tie that class 0 would win
    assert found.changed_rows.tolist() == [0, 0, 0, 0]


def test_parts_that_reach_too_little_never_change_anything():
    reached = torch.tensor([[True, False, False, False, False]])
    assert certify_poisoning(torch.zeros(1, 5, dtype=torch.int64), 2, spread=reached).radius.tolist() == [float("inf")]


def test_curve_with_exact_intervals():
    found = certify_poisoning(drawn(60, 11, 3, seed=5), 3)
    labels = torch.zeros(60, dtype=torch.int64)
    curve = CertifiedAccuracyCurve.from_certificate(found, labels)
    assert curve.unit == "training rows inserted or deleted"
    for rows in (0, 1, 3):
        right = ((found.label == 0) & (found.radius >= rows)).double().mean()
        assert float(curve.at(rows)) == pytest.approx(float(right))
        low, high = curve.interval(rows)
        assert low < right < high
    assert len(found.to_dataframe()) == 60


# ------------------------------------------------------------------------------------------------------------- parts


def test_a_part_depends_on_the_row_alone():
    rows = torch.randn(40, 3, generator=generator(6))
    part = hash_partition(rows, 7)
    order = torch.randperm(40, generator=generator(7))
    assert torch.equal(hash_partition(rows[order], 7), part[order])
    assert torch.equal(hash_partition(rows[:5], 7), part[:5])
    assert not torch.equal(hash_partition(rows, 7, salt=1), part)
    assert set(part.tolist()) == set(range(7))
    same = torch.tensor([[0.0, 1.0], [-0.0, 1.0]])
    assert len(set(hash_partition(same, 1000).tolist())) == 1


def test_labels_are_left_out_unless_they_are_given():
    rows, zeros = torch.ones(20, 2), torch.zeros(20, dtype=torch.int64)
    assert len(set(hash_partition(rows, 50).tolist())) == 1
    assert len(set(hash_partition(rows, 50, labels=torch.arange(20)).tolist())) > 5
    assert len(set(hash_partition(rows, 50, labels=zeros).tolist())) == 1


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float64, torch.bool, torch.int64])
def test_rows_of_any_dtype(dtype: torch.dtype):
    rows = (torch.arange(60).view(20, 3) % 7).to(dtype)
    assert hash_partition(rows, 5).shape == (20,)
    assert hash_partition(rows[:0], 5).shape == (0,)


def test_spreads_reach_as_many_classifiers_as_they_say():
    reached = spread_partitions(12, 4, seed=1)
    assert (reached.sum(0) == 4).all()
    assert (reached.sum(1) == 4).all()
    part = torch.arange(12)
    rows = torch.stack([training_rows(part, reached, i) for i in range(12)], 1)
    assert torch.equal(rows, reached)


def nearest(train: Tensor, labels: Tensor, point: float) -> int:
    """Nearest neighbour, the smaller label of equals: a deterministic function of the set of rows; -1 for none."""
    if len(train) == 0:
        return -1
    distance = (train[:, 0] - point).abs()
    return int(labels[distance == distance.min()].min())


def predicted(rows: list[tuple[float, int]], points: list[float], spread: Tensor) -> Tensor:
    train = torch.tensor([[x] for x, _ in rows], dtype=torch.float64).view(-1, 1)
    labels = torch.tensor([y for _, y in rows], dtype=torch.int64)
    part = hash_partition(train, len(spread))
    chosen = [training_rows(part, spread, i) for i in range(spread.shape[1])]
    return torch.tensor([[nearest(train[c], labels[c], p) for c in chosen] for p in points])


@pytest.mark.slow
@pytest.mark.parametrize("spread", [1, 2])
def test_no_change_of_the_training_set_within_the_certificate_changes_a_prediction(spread: int):
    """Every deletion of one row, insertion of one row, and both, with the whole ensemble trained anew."""
    reached, points = spread_partitions(7, spread, seed=2), [-0.5, 0.1, 0.6]
    x = torch.randn(24, generator=generator(8), dtype=torch.float64)
    rows = [(float(value), int(value > 0)) for value in x]
    found = certify_poisoning(predicted(rows, points, reached), 2, spread=reached)
    pool = [(float(p) + shift, label) for p in points for shift in (0.0, 1e-3) for label in (0, 1)]
    changed = torch.zeros(3, 3, dtype=torch.bool)
    for deleted in [None, *range(len(rows))]:
        for inserted in [None, *pool]:
            kept = [row for i, row in enumerate(rows) if i != deleted] + ([] if inserted is None else [inserted])
            size = (deleted is not None) + (inserted is not None)
            label = certify_poisoning(predicted(kept, points, reached), 2, spread=reached).label
            changed[size] |= label != found.label
    assert found.radius.max() >= 1
    for size in (1, 2):
        assert not (changed[size] & (found.radius >= size)).any()
    assert changed.any() or found.radius.min() >= 2


# ------------------------------------------------------------------------------------------------- devices and errors


def test_on_another_device():
    votes, reached, rows = drawn(9, 6, 3, seed=1), spread_partitions(6, 2), torch.randn(5, 2)
    with elsewhere():
        certify_poisoning(votes, 3)
        certify_poisoning(votes, 3, spread=reached)
        training_rows(hash_partition(rows, 6), spread_partitions(6, 2), 0)


def test_parts_that_reach_too_few_classifiers_may_change_altogether():
    found = certify_poisoning(torch.zeros(1, 3, dtype=torch.int64), 2, spread=torch.tensor([[True, False, False]]))
    assert found.radius.item() == torch.inf
    assert found.changed_rows.item() == torch.iinfo(torch.int64).max


def test_bad_arguments():
    votes = torch.zeros(2, 4, dtype=torch.int64)
    assert certify_poisoning(votes[:0], 3).radius.shape == (0,)
    for bad, message in (
        (votes.float(), "votes must be integers"),
        (votes + 3, "votes must be class indices from 0 to 2"),
        (votes - 2, "votes must be class indices from 0 to 2"),
        (votes[0], "votes must have shape"),
    ):
        with pytest.raises(InvalidInput, match=message):
            certify_poisoning(bad, 3)
    with pytest.raises(InvalidInput, match="spread must be a boolean tensor"):
        certify_poisoning(votes, 3, spread=torch.ones(4, 3, dtype=torch.bool))
    with pytest.raises(InvalidInput, match="spread must be a boolean tensor"):
        certify_poisoning(votes, 3, spread=torch.ones(0, 4, dtype=torch.bool))
    with pytest.raises(InvalidInput, match="spread must be at most 4"):
        spread_partitions(4, 5)
    with pytest.raises(InvalidInput, match="part must hold numbers from 0 to 3"):
        training_rows(torch.tensor([4]), spread_partitions(4, 1), 0)
    with pytest.raises(InvalidInput, match="parts must be an integer"):
        hash_partition(torch.zeros(2, 2), 0)
