"""Calls of attacks: dtypes, batches, streams of rows, targets, boxes of rows, grids."""

import inspect
import math
from functools import partial

import pytest
import torch
from oracles.halfspace import generator
from oracles.linear import vectors
from oracles.selection import crossed, some
from torch import Tensor, nn

from bounds import InvalidInput, InvalidModel
from certify import attacks
from certify.attacks.common import passes, threat
from certify.attacks.common.streams import Streams

BUDGET = [name for name in attacks.FIXED_BUDGET if name != "autoattack"]  # which needs ten classes, and a package
NEAREST = {name: norms[-1] for name, norms in attacks.MINIMUM_NORM.items()}
NEAREST |= {"sparsefool": 0, "boundary_walk": 1}
FEW = {"steps": 5, "queries": 20, "rounds": 2, "probes": 5, "searches": 2, "restarts": 2}
problem = partial(vectors, 6)


def run(name: str, model: nn.Module, x: Tensor, y: Tensor, **change):
    """An attack with few steps."""
    attack = getattr(attacks, name)
    few = {key: value for key, value in FEW.items() if key in inspect.signature(attack).parameters}
    norm = {"norm": math.inf, "epsilon": 0.2} if name in BUDGET else {"norm": NEAREST[name]}
    return attack(model, x, y, **{**norm, **few, "generator": generator(), **change})


@crossed(("dtype", [torch.float16, torch.bfloat16]), ("name", [*BUDGET, *NEAREST]))
def test_half_precision(name: str, dtype: torch.dtype):
    """The stored input is what the model misclassifies, in its own dtype; a budget holds for the rounded input."""
    model, x, y = problem(dtype)
    mask = torch.arange(6) == 0
    result = run(name, model, x, y, frozen_features=mask)
    assert result.adversarial.dtype == dtype
    assert result.found.any()
    assert (model(result.adversarial).argmax(1) != y)[result.found].all()
    assert torch.equal(result.adversarial[:, 0], x[:, 0])
    if name in BUDGET:
        assert (result.distance <= 0.2)[result.found].all()
    else:
        exact = model.double().distance(x.double(), max(NEAREST[name], 1))
        assert (result.distance >= 0.99 * exact).all()


class Takes(nn.Module):
    """A model that was exported for one number of rows."""

    def __init__(self, model: nn.Module, rows: int) -> None:
        super().__init__()
        self.model, self.rows = model, rows

    def forward(self, x: Tensor) -> Tensor:
        if len(x) != self.rows:
            raise RuntimeError(f"expected {self.rows} rows, got {len(x)}")
        return self.model(x)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 4])
def test_models_that_take_one_number_of_rows(rows: int):
    model, x, y = problem()
    for name in ("pgd", "robust_accuracy", "minimal_perturbation"):
        fixed, free = (run(name, m, x, y, batch_size=rows) for m in (Takes(model, rows), model))
        torch.testing.assert_close(fixed.distance, free.distance, rtol=1e-3, atol=0)
    attacks.noise_accuracy(Takes(model, rows), x, y, norm=2, epsilon=0.1, batch_size=rows)
    attacks.universal_perturbation(Takes(model, rows), x, y, norm=2, epsilon=0.1, steps=2, batch_size=rows)
    with pytest.raises(InvalidModel, match="expected 4 rows"):
        run("pgd", Takes(model, 4), x, y, batch_size=3)


@pytest.mark.parametrize("name", [*BUDGET, *NEAREST])
def test_all_are_called_alike_and_bad_calls_are_told_what_to_do(name: str):
    model, x, y = problem()
    with pytest.raises(InvalidInput, match=r"labels must hold .* got None: pass those of the data set"):
        run(name, model, x, None)
    with pytest.raises(InvalidInput, match=r"generator must be a torch.Generator or None, got 3: use torch.Gen"):
        run(name, model, x, y, generator=3)


@pytest.mark.parametrize("name", ["random_fgsm", "pgd", "square", "fast_adaptive_boundary"])
def test_rows_draw_from_streams_of_their_own(name: str):
    """Catches draws that a row shares with its batch: alone or among others it gets the same ones."""
    model, x, y = problem(torch.float64, batch=6)
    whole, parts = run(name, model, x, y), run(name, model, x, y, batch_size=2)
    torch.testing.assert_close(parts.distance, whole.distance, rtol=1e-9, atol=0)
    torch.testing.assert_close(parts.adversarial, whole.adversarial, rtol=1e-9, atol=1e-12)


def test_slices_of_a_data_set_attack_like_the_whole():
    model, x, y = problem(torch.float64, batch=6)
    whole = run("minimal_perturbation", model, x, y, norm=1)
    part = run("minimal_perturbation", model, x[4:], y[4:], norm=1, first_index=4)
    torch.testing.assert_close(part.adversarial, whole.adversarial[4:], rtol=1e-9, atol=1e-12)


def test_no_seed_and_row_share_a_stream_and_numbers_follow_their_law():
    keys = torch.cat([Streams.of(generator(seed), 1000, torch.device("cpu")).keys for seed in range(50)])
    assert len(keys.unique()) == len(keys)
    streams, like = Streams.of(generator(), 300, torch.device("cpu")), torch.empty(300, 500)
    assert not torch.equal(streams.uniform(like), streams.uniform(like))
    for draw, variance in ((lambda: streams.uniform(like, -1, 1), 1 / 3), (lambda: streams.normal(like), 1.0)):
        values = draw().double()
        assert abs(float(values.mean())) < 0.012  # 6 deviations of a mean of 150,000 draws are below 0.0155
        assert float(values.var()) == pytest.approx(variance, rel=0.03)
        mixed = torch.corrcoef(values)  # rows against each other: 6 deviations are 0.27
        assert float((mixed - torch.eye(300)).abs().max()) < 0.27
    single = streams.rows(torch.tensor([7])).normal(torch.empty(1, 500))
    assert torch.equal(single, streams.normal(like)[7:8])


@pytest.mark.parametrize("norm", some([0, 1, 2, math.inf], [2]))
def test_targets(norm: float):
    """With three classes each other one has a boundary of its own; of a linear classifier its distance is known."""
    model, x, y = problem(torch.float64)
    aims = (y + 1) % 3
    witness = attacks.minimal_perturbation(
        model, x, y, norm=norm, low=None, high=None, targets=aims, steps=30, generator=generator()
    )
    assert witness.found.all()
    assert torch.equal(model(witness.adversarial).argmax(1), aims)
    free = attacks.minimal_perturbation(model, x, y, norm=norm, low=None, high=None, steps=30, generator=generator())
    assert (witness.distance >= free.distance * (1 - 1e-3)).all()
    assert norm == 0 or (witness.distance > 1.01 * free.distance).any()
    same = free.adversarial_label == aims
    assert (witness.distance[same] <= 1.01 * free.distance[same]).all()
    with pytest.raises(InvalidInput, match="targets must differ from labels, but row 0 asks for"):
        attacks.minimal_perturbation(model, x, y, norm=norm, targets=y)


@pytest.mark.slow
def test_boxes_and_masks_of_rows():
    model, x, y = problem()
    low, high = x - torch.linspace(0.05, 0.4, 5)[:, None], x + 0.1
    mask = torch.rand(5, 6, generator=generator()) < 0.3
    options = {"low": low, "high": high, "frozen_features": mask}
    for name in (*BUDGET, *NEAREST):
        result = run(name, model, x, y, **options)
        assert ((low <= result.adversarial) & (result.adversarial <= high)).all()
        assert torch.equal(result.adversarial[mask], x[mask])
        alone = run(name, model, x[:1], y[:1], low=low[0], high=high[0], frozen_features=mask[0])
        torch.testing.assert_close(alone.distance, result.distance[:1], rtol=0.05, atol=0)
    with pytest.raises(InvalidInput, match="x must lie between low and high, but row 0 does not"):
        run("pgd", model, x, y, low=x + 0.01)


@pytest.mark.parametrize("norm", some([0, 1, 2, math.inf], [math.inf]))
def test_witnesses_on_the_grid_of_8_bit_images(norm: float):
    model, x, _ = problem()
    x = (x * 255).round() / 255
    y = model(x).argmax(1)
    options = {"norm": norm, "steps": 20, "generator": generator()}
    witness, free = (attacks.minimal_perturbation(model, x, y, grid=grid, **options) for grid in (255, None))
    assert witness.found.all()
    assert torch.equal((witness.adversarial * 255).round() / 255, witness.adversarial)
    assert (model(witness.adversarial).argmax(1) != y).all()
    assert (witness.distance >= free.distance * (1 - 1e-3)).all()
    assert (witness.distance <= free.distance + 6 / 255).all()
    with pytest.raises(InvalidInput, match="grid must be an integer of at least 1"):
        attacks.minimal_perturbation(model, x, y, grid=0, norm=norm)


# ---------------------------------------------------------------------------------------------------------------- time

LIMITED = {
    "minimal_perturbation": partial(attacks.minimal_perturbation, norm=2, steps=20),
    "robust_accuracy": partial(attacks.robust_accuracy, norm=2, epsilon=0.1, steps=20),
}


class Clock:
    """A clock that goes on by one with every look at it, which attacks do at every pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.mark.parametrize("name", LIMITED)
def test_a_time_limit_keeps_what_was_found(name: str, monkeypatch: pytest.MonkeyPatch):
    model, x, y = problem(torch.float64)
    y[0] = (y[0] + 1) % 3  # wrong as it is
    clock = Clock()
    for module in (passes, threat):
        monkeypatch.setattr(module, "monotonic", clock)
    limited = LIMITED[name](model, x, y, generator=generator(), timeout=12, batch_size=3)
    whole = LIMITED[name](model, x, y, generator=generator(), batch_size=3)
    assert not whole.unfinished.any()
    assert limited.unfinished.any()
    assert not limited.unfinished[0]
    count = limited.forward_passes if name == "robust_accuracy" else limited.queries_per_row
    assert count.max() <= 12 + 3
    assert (limited.distance >= whole.distance * (1 - 1e-9)).all()
    hit = limited.found
    assert hit[1:].any()
    assert (model(limited.adversarial).argmax(1) != y)[hit].all()
    last = limited.unfinished[3:]  # the second batch met the end of time
    assert (last | hit[3:]).all()


@pytest.mark.parametrize("name", LIMITED)
def test_without_time_nothing_is_found_and_all_is_unfinished(name: str):
    model, x, y = problem(torch.float32)
    found = LIMITED[name](model, x, y, timeout=1e-9)
    assert found.unfinished.all()
    assert not found.found.any()
    again = LIMITED[name](model, x, y, timeout=1e6, generator=generator())
    usual = LIMITED[name](model, x, y, generator=generator())
    assert torch.equal(again.distance, usual.distance)
    assert not again.unfinished.any()
    for wrong in (0, -1.0, math.nan):
        with pytest.raises(InvalidInput, match="timeout must be"):
            LIMITED[name](model, x, y, timeout=wrong)


@pytest.mark.slow
def test_what_a_search_of_some_rows_found_counts_when_time_runs_out(monkeypatch: pytest.MonkeyPatch):
    """A model without slopes is attacked in a part of its own, from whose middle the end comes."""
    linear, x, y = problem(torch.float64)
    model = Rounded(linear)
    y = model(x).argmax(1)
    clock = Clock()
    for module in (passes, threat):
        monkeypatch.setattr(module, "monotonic", clock)
    whole = LIMITED["minimal_perturbation"](model, x, y, generator=generator())
    assert whole.blind.any()
    found = []
    for limit in range(20, 120, 10):
        clock.now = 0.0
        limited = LIMITED["minimal_perturbation"](model, x, y, generator=generator(), timeout=limit)
        assert limited.unfinished.all()
        found.append(int(limited.found.sum()))
    assert found == sorted(found)
    assert found[-1] > 0


class Rounded(nn.Module):
    """A model behind a rounding of its input."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model((4 * x).round() / 4)
