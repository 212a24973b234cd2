"""Holm's and Bonferroni's corrections against exact sums over all counts, statsmodels and binomial tails."""

import itertools

import numpy as np
import pytest
import scipy.stats
import torch
from oracles.halfspace import generator

from bounds import InvalidInput
from bounds.statistics.multiple import CORRECTIONS, familywise_rejections, p_values_of_counts


@pytest.mark.parametrize(("n", "p"), [(1, 0.5), (40, 0.75), (1000, 0.999)])
def test_p_values_are_binomial_tails_rounded_up(n: int, p: float):
    exact = scipy.stats.binom.sf(np.arange(n + 1) - 1, n, p)
    found = p_values_of_counts(n, p).numpy()
    assert (found >= exact * (1 - 1e-12)).all()
    assert np.allclose(found, exact, rtol=1e-8, atol=0)


def test_no_count_speaks_against_a_certain_event():
    assert (p_values_of_counts(10, 1.0) == 1).all()


@pytest.mark.usefixtures("without_garbage_collection")
@pytest.mark.parametrize("correction", CORRECTIONS)
def test_rejections_are_those_of_statsmodels(correction: str):
    from statsmodels.stats.multitest import multipletests

    p = torch.rand(20, 7, generator=generator(1), dtype=torch.float64) ** 2 * 0.06
    theirs = [multipletests(row.numpy(), alpha=0.05, method=correction)[0] for row in p]
    ours = familywise_rejections(p, 0.05, correction)
    assert (ours.numpy() == np.stack(theirs)).all()
    assert 0 < int(ours.sum()) < ours.numel()


def errors(correction: str, alpha: float, *, n: int = 30, truths: int = 3) -> float:
    """Exact probability that a true hypothesis is rejected: independent counts, ``truths`` at their edge, one false."""
    table, edge, high = p_values_of_counts(n, 0.7), scipy.stats.binom.pmf(np.arange(n + 1), n, 0.7), n
    counts = torch.tensor(list(itertools.product(range(12, n + 1), repeat=truths)))  # lower counts are never rejected
    weights = np.prod([edge[counts[:, i]] for i in range(truths)], axis=0)
    p = table[torch.cat([counts, torch.full_like(counts[:, :1], high)], 1)]
    if correction == "none":
        return float(weights[(p[:, :truths] <= alpha).any(1).numpy()].sum())
    return float(weights[familywise_rejections(p, alpha, correction)[:, :truths].any(1).numpy()].sum())


def test_the_familywise_error_holds_exactly_and_without_a_correction_it_does_not():
    assert 0.02 < errors("bonferroni", 0.1) <= errors("holm", 0.1) <= 0.1
    assert errors("none", 0.1) > 0.1


def test_holm_rejects_all_that_bonferroni_does_and_more():
    p = torch.rand(500, 9, generator=generator(2), dtype=torch.float64) ** 4
    holm, bonferroni = (familywise_rejections(p, 0.05, name) for name in ("holm", "bonferroni"))
    assert (holm | ~bonferroni).all()
    assert int(holm.sum()) > int(bonferroni.sum())


def test_order_does_not_matter_and_nan_is_never_rejected():
    p = torch.tensor([[0.001, torch.nan, 0.5, 0.001]], dtype=torch.float64)
    assert familywise_rejections(p, 0.05).tolist() == [[True, False, False, True]]
    assert familywise_rejections(p.flip(1), 0.05).tolist() == [[True, False, False, True]]
    assert familywise_rejections(p[:, :0], 0.05).shape == (1, 0)


def test_holm_stops_at_the_first_hypothesis_that_stands():
    assert not familywise_rejections(torch.tensor([[0.03, 0.04]], dtype=torch.float64), 0.05).any()


def test_bad_arguments():
    with pytest.raises(InvalidInput, match="correction must be one of holm, bonferroni"):
        familywise_rejections(torch.zeros(1, 1), 0.05, "sidak")
    with pytest.raises(InvalidInput, match="alpha must lie strictly between"):
        familywise_rejections(torch.zeros(1, 1), 1.5)
