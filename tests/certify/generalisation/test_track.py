"""Checkpoints of linear models, where all is known; built failures; levels and power of the two tests."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from oracles.halfspace import generator
from torch import Tensor, nn

from bounds import InvalidInput
from bounds.statistics.paired import holm, paired_interval
from certify import OverfittingTest, TrackedTraining, track

EPSILON = 0.1


def linear(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 2)).double()


def batch(count: int = 40) -> tuple[Tensor, Tensor]:
    return torch.rand(count, 2, 3, generator=generator(1), dtype=torch.float64), torch.arange(count) % 2


def record(attacked: Tensor, fgsm: Tensor | None = None, training: Tensor | None = None) -> TrackedTraining:
    """A record of given outcomes (E, N)."""
    return TrackedTraining(
        names=tuple(map(str, range(len(attacked)))),
        clean=torch.ones_like(attacked),
        fgsm=attacked if fgsm is None else fgsm,
        attacked=attacked,
        certified=None,
        distance=attacked.double(),
        gradient=attacked.double(),
        training_attacked=training,
        norm=math.inf,
        epsilon=EPSILON,
        method="",
        gap=0.25,
        confidence=0.95,
    )


@pytest.mark.parametrize(("norm", "dual"), [(math.inf, 1), (2.0, 2)])
def test_checkpoints_of_linear_models_are_known(norm: float, dual: float):
    models, (x, y) = [linear(seed) for seed in range(3)], batch()
    options = {"norm": norm, "epsilon": EPSILON, "low": None, "high": None, "method": "ibp" if norm > 2 else None}
    found = track(models, x, y, **options, generator=generator())
    for i, model in enumerate(models):
        weight = (model[1].weight[1] - model[1].weight[0]).detach()
        margin = (2 * y - 1) * (x.flatten(1) @ weight + (model[1].bias[1] - model[1].bias[0]).detach())
        size = torch.linalg.vector_norm(weight, dual)
        assert torch.equal(found.clean[i], margin > 0)
        robust = margin > EPSILON * size
        assert torch.equal(found.fgsm[i], robust)
        assert torch.equal(found.attacked[i], robust)
        assert found.certified is None or torch.equal(found.certified[i], robust)
        torch.testing.assert_close(found.distance[i], margin / size)
        torch.testing.assert_close(found.gradient[i], torch.sigmoid(-margin) * size)
    assert 0 < found.attacked.sum() < found.clean.sum()
    assert found.kinds == (("clean", "fgsm", "attacked") + (("certified",) if norm > 2 else ()))


def test_weights_give_what_networks_give_and_models_stay():
    models, (x, y) = [linear(seed) for seed in range(2)], batch()
    options = {"norm": math.inf, "epsilon": EPSILON, "method": None}
    holder = linear(9).train()
    before = holder[1].weight.detach().clone()
    states = {f"epoch {i}": model.state_dict() for i, model in enumerate(models)}
    one = track(models, x, y, **options, generator=generator())
    other = track(states, x, y, model=holder, **options, generator=generator())
    for name in ("clean", "fgsm", "attacked", "distance", "gradient"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert (one.names, other.names) == (("1", "2"), ("epoch 0", "epoch 1"))
    assert torch.equal(holder[1].weight, before)
    assert holder.training
    assert all(weight.grad is None for weight in holder.parameters())


class Wedge(nn.Module):
    """One input, two classes: the margin rises slowly to the right, and falls steeply beyond 0.5 + ``dip``."""

    def __init__(self, dip: float) -> None:
        super().__init__()
        self.dip = dip

    def forward(self, x: Tensor) -> Tensor:
        move = x[:, 0] - 0.5
        margin = 1 + 0.1 * move - 1e4 * (move - self.dip).relu()
        return torch.stack([torch.zeros_like(margin), margin], 1)


def test_networks_that_resist_one_step_alone_are_flagged():
    x, y = torch.full((200, 1), 0.5), torch.ones(200, dtype=torch.int64)
    models = {"sound": Wedge(1.0), "broken": Wedge(0.2 * EPSILON), "late": Wedge(0.98 * EPSILON)}
    found = track(models, x, y, norm=math.inf, epsilon=EPSILON, method=None, generator=generator())
    assert found.fgsm.all()
    assert found.attacked[0].all()
    assert 0.3 < (~found.attacked[1]).double().mean() < 0.5  # starts beyond the dip, 0.4 of them
    flag = found.catastrophic_overfitting
    assert (flag.flagged, flag.checkpoints) == (True, ("broken",))
    assert "by more than 0.25" in flag.rule
    assert "catastrophic overfitting: found at broken" in str(found)
    again = track(models, x, y, norm=math.inf, epsilon=EPSILON, method=None, generator=generator())
    assert torch.equal(again.attacked, found.attacked)


def test_robust_overfitting_needs_training_inputs_that_do_not_fall():
    attacked = torch.zeros(3, 100, dtype=torch.bool)
    for row, count in enumerate((50, 70, 40)):
        attacked[row, :count] = True
    flag = record(attacked).robust_overfitting
    p = holm([scipy.stats.binom.sf(9, 10, 0.5), scipy.stats.binom.sf(29, 30, 0.5)])
    assert list(flag.figures.values()) == pytest.approx(p)
    assert flag.checkpoints == ("0", "1")
    rising = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=torch.bool)
    assert record(attacked, training=rising).robust_overfitting.checkpoints == ("0", "1")
    assert record(attacked, training=rising[[0, 2, 1]]).robust_overfitting.checkpoints == ("0",)
    assert not record(attacked, training=rising.flip(0)).robust_overfitting.flagged


def test_changes_and_gaps_are_paired_intervals_at_once():
    source = generator(2)
    attacked = torch.rand(4, 60, generator=source) < 0.5
    fgsm = attacked | (torch.rand(4, 60, generator=source) < 0.3)
    found = record(attacked, fgsm)
    table = found.to_dataframe()
    for i in range(4):
        only_fgsm = int((fgsm[i] & ~attacked[i]).sum())
        lower, upper = paired_interval(only_fgsm, 0, 60, 1 - 0.05 / 4)
        assert table.one_step_gap[i] == pytest.approx(only_fgsm / 60)
        assert (table.one_step_gap_lower[i], table.one_step_gap_upper[i]) == pytest.approx((lower, upper))
        if i < 3:
            more, less = int((attacked[3] & ~attacked[i]).sum()), int((attacked[i] & ~attacked[3]).sum())
            ends = paired_interval(more, less, 60, 1 - 0.05 / 3)
            assert table.change_to_last[i] == pytest.approx((more - less) / 60)
            assert (table.change_to_last_lower[i], table.change_to_last_upper[i]) == pytest.approx(ends)
    assert table.attacked_lower[0] < table.attacked[0] < table.attacked_upper[0]
    assert len(found.plot().axes) == 3
    with pytest.raises(InvalidInput, match="was not measured"):
        found.accuracy("certified")


def outcomes(shares: list[float], inputs: int, source: np.random.Generator) -> Tensor:
    return torch.tensor(source.random((len(shares), inputs)) < np.array(shares)[:, None])


@pytest.mark.slow
def test_levels_and_power_of_both_tests():
    """Under the null, 150 runs at level 0.05 flag more than 23 times with probability below 1e-6."""
    assert scipy.stats.binom.sf(23, 150, 0.05) < 1e-6
    source, flags = np.random.default_rng(3), {"overfitting": 0, "catastrophic": 0, "found": 0, "found too": 0}
    for _ in range(150):
        flags["overfitting"] += record(outcomes([0.6] * 4, 80, source)).robust_overfitting.flagged
        one = outcomes([0.8] * 3, 80, source)
        many = one & outcomes([1 - 0.25 / 0.8] * 3, 80, source)  # a gap of exactly 0.25
        flags["catastrophic"] += record(many, one).catastrophic_overfitting.flagged
    for _ in range(20):
        flags["found"] += record(outcomes([0.5, 0.7, 0.4], 150, source)).robust_overfitting.flagged
        one = outcomes([0.8] * 3, 150, source)
        flags["found too"] += record(one & outcomes([0.9, 0.3, 0.9], 150, source), one).catastrophic_overfitting.flagged
    assert flags["overfitting"] <= 23
    assert flags["catastrophic"] <= 23
    assert flags["found"] >= 18
    assert flags["found too"] >= 18


def test_wrong_arguments_are_named():
    models, (x, y) = [linear(0), linear(1)], batch()
    options = {"norm": math.inf, "epsilon": EPSILON, "method": None}
    for given, message in (
        (models[:1], "checkpoints must hold at least 2, got 1"),
        (models[0], "got one network or one set of weights"),
        (models[0].state_dict(), "got one network or one set of weights"),
        ([model.state_dict() for model in models], "pass model="),
        ([models[0], 3], "checkpoint 2 must be a torch.nn.Module"),
        (iter(models), "checkpoints must be a sequence or a mapping"),
    ):
        with pytest.raises(InvalidInput, match=message):
            track(given, x, y, **options)
    with pytest.raises(InvalidInput, match="checkpoint 1 does not fit the model"):
        track([model.state_dict() for model in models], x, y, model=nn.Linear(2, 2), **options)
    with pytest.raises(InvalidInput, match="training must be a pair"):
        track(models, x, y, training=x, **options)
    assert isinstance(record(torch.ones(2, 3, dtype=torch.bool)).robust_overfitting, OverfittingTest)
