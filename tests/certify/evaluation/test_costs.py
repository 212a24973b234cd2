"""Costs that a probe measures, and units of any size, which change no result."""

import logging

import pytest
import torch
from oracles.simulated import CLOCK, Simulated, problem
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from certify import Cost, CostEstimate, Evaluation, estimate_cost, evaluate
from certify.evaluation.budget.meter import metered
from certify.evaluation.budget.operations import operations_of, unit_sizes_of
from certify.methods import (
    Clever,
    CompleteSearch,
    IntervalBounds,
    LinearBounds,
    Lipschitz,
    Method,
    MinimalPerturbation,
    RandomNoise,
    SmoothedAttack,
    Smoothing,
    Verify,
)
from certify.report.columns import VALUES


def network() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    x = torch.rand(7, 4, generator=torch.Generator().manual_seed(1))
    return model, x, model(x).argmax(1)


def test_a_probe_foretells_seconds_by_a_line():
    model, x, y = problem(100)
    methods = [Simulated(name="a", fixed=0.3, each=0.01), Simulated(name="b", each=2.5)]
    estimate = estimate_cost(model, x, y, methods=methods, norms=2, clock=CLOCK.restart())
    seconds = {cost.method: cost.seconds for cost in estimate.costs}
    assert seconds == pytest.approx({"a": 5 * 0.3 + 100 * 0.01, "b": 250.0})
    assert estimate.seconds == pytest.approx(252.5)
    assert estimate.probe_seconds == pytest.approx(CLOCK())
    assert "about 4 min 12 s in all, by a probe of 4 inputs" in str(estimate)
    table = estimate.to_dataframe().set_index("method")
    assert table.seconds.tolist() == pytest.approx([2.5, 250.0])
    assert table.forward_passes.tolist() == [200.0, 200.0]  # two calls of the model in each run


@pytest.mark.parametrize("draws", [500, 4000])
def test_passes_are_counted_and_extended_by_what_grows(draws: int):
    """More draws than the probe makes cost so many more passes, and what is done but once costs it once."""
    model, x, y = network()
    passes = []
    hook = model.register_forward_hook(lambda module, given, output: passes.append(len(output)))
    chosen = [Smoothing(n=draws, n0=100)]
    evaluate(model, x, y, norms=2, methods=chosen)
    hook.remove()
    (cost,) = estimate_cost(model, x, y, norms=2, methods=chosen).costs
    assert cost.forward_passes == pytest.approx(draws + 100, rel=0.15)
    assert sum(passes) == pytest.approx(cost.forward_passes * 7, rel=0.15)
    assert cost.backward_passes == 0


def test_hooks_see_rows_forward_and_backward():
    model, x, _ = network()
    with metered(model, x.device, CLOCK) as spent:
        CLOCK.now += 2
        logits = model(x.requires_grad_())
        logits.sum().backward(retain_graph=True)
        logits[:, 0].sum().backward()
        with torch.no_grad():
            model(x[:3])
    assert (spent.seconds, spent.forward, spent.backward) == (2, 10, 14)
    model(x)
    assert spent.forward == 10  # the hook is gone


def test_peak_memory_is_that_of_the_body():
    model, x, _ = network()
    with metered(model, x.device, CLOCK) as spent:
        held = torch.ones(2**25)  # 128 MiB, touched
        del held
    with metered(model, x.device, CLOCK) as little:
        torch.ones(8)
    if spent.memory is None:
        pytest.skip("the peak cannot be told here")
    assert 120 * 2**20 < spent.memory < 200 * 2**20
    assert little.memory < 32 * 2**20


def sized(methods: list, norms: tuple[float, ...], size: int) -> CostEstimate:
    """Costs by which every unit has so many inputs, where a budget lets them decide."""
    about = {"inputs": 7, "fixed": 0.0, "per_input": 30 / size, "rows_per_unit": 100}
    return CostEstimate(costs=tuple(Cost(method=each.name, norm=norm, **about) for each in methods for norm in norms))


AGES = "1000h"


def timeless(evaluation: Evaluation) -> list[dict]:
    return [{**row, "seconds": 0.0} for row in evaluation.rows()]


EVERY_METHOD = [
    *(Smoothing(n=200, n0=20), IntervalBounds(), LinearBounds(tolerance=0.1), Lipschitz(), RandomNoise(draws=50)),
    *(Clever(num_batches=3, batch_size=10), MinimalPerturbation(steps=5, restarts=2)),
    *(SmoothedAttack(steps=2, restarts=1, draws=4, n=100), CompleteSearch(tolerance=0.05)),
]


@pytest.mark.slow
@pytest.mark.parametrize("method", EVERY_METHOD, ids=[method.name for method in EVERY_METHOD])
def test_results_do_not_depend_on_the_size_of_units(method: Method):
    """Draws belong to the place of an input; what is left is the rounding of sums over batches."""
    model, x, y = network()
    norm = method.norms[-1]
    options = {"norms": norm, "methods": [method], "seed": 5}
    whole = evaluate(model, x[:5], y[:5], **options)
    parts = evaluate(model, x[:5], y[:5], **options, costs=sized([method], (norm,), 2), budget=AGES)
    assert [len(record["rows"]) for record in parts.records] == [2, 2, 1]
    for one, other in zip(whole.rows(), parts.rows(), strict=True):
        assert (one["index"], one["status"], one.get("counts")) == (
            other["index"],
            other["status"],
            other.get("counts"),
        )
        for name in VALUES.values():
            if one[name] is not None:
                assert other[name] == pytest.approx(one[name], rel=1e-3), name


@pytest.mark.parametrize("per_input", [9.0, 1e4])
@pytest.mark.slow
def test_no_clock_decides_the_bits_of_a_run(per_input: float):
    """Fast and starved machines: in units of other sizes, products of matrices round in other ways."""
    model, x, y = network()
    methods = [LinearBounds(tolerance=0.1), MinimalPerturbation(steps=5, restarts=2), Smoothing(n=200, n0=20)]
    about = {"inputs": 7, "fixed": 0.0, "per_input": per_input, "rows_per_unit": 100}
    costs = CostEstimate(costs=tuple(Cost(method=method.name, norm=2.0, **about) for method in methods))
    options = {"norms": 2, "methods": methods, "seed": 5}
    one, other = evaluate(model, x, y, **options), evaluate(model, x, y, **options, costs=costs)
    assert [record["unit"] for record in one.records] == [record["unit"] for record in other.records]
    assert timeless(one) == timeless(other)
    assert one.tensors.keys() == other.tensors.keys()
    for name, stored in one.tensors.items():
        assert all(torch.equal(value, other.tensors[name][key]) for key, value in stored.items())


@pytest.mark.parametrize("method", [Smoothing(n=200, n0=20), RandomNoise(draws=50)], ids=["smoothing", "noise"])
def test_draws_of_an_input_are_the_same_in_units_of_any_size(method: Method, monkeypatch: pytest.MonkeyPatch):
    model, x, y = network()
    options = {"norms": 2, "methods": [method], "seed": 5, "batch_size": 100}
    whole = evaluate(model, x, y, **options)
    monkeypatch.setattr(type(method), "rows_per_unit", 3)
    parts = evaluate(model, x, y, **options)
    assert [len(record["rows"]) for record in parts.records] == [3, 3, 1]
    assert timeless(whole) == timeless(parts)


LAYERS = {
    "linear": (nn.Linear(5, 7), (4, 5)),
    "convolution": (nn.Conv2d(6, 12, 3, groups=3), (6, 9, 8)),
    "transposed": (nn.ConvTranspose2d(3, 5, 3, stride=2), (3, 7, 8)),
    "several": (nn.Sequential(nn.Conv1d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)), (2, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_operations_are_those_that_torch_counts(name: str):
    layer, shape = LAYERS[name]
    x = torch.rand(2, *shape)
    with FlopCounterMode(display=False) as expected:
        layer(x)
    assert operations_of(layer, x) == expected.get_total_flops() > 0


def test_units_of_large_networks_hold_fewer_inputs():
    """As many as divide the most, whatever the machine; a method whose units cannot be divided keeps its own."""
    methods = [IntervalBounds(), LinearBounds(), Clever(), Verify(epsilon=0.1)]
    wide = nn.Linear(1000, 100_000, bias=False, device="meta")

    def sizes(operations: float) -> list[int]:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("certify.evaluation.budget.operations.LIGHT", 2e8 / operations)
            return list(unit_sizes_of(methods, wide, torch.empty(1, 1000, device="meta")).values())

    assert sizes(1.0) == [100, 10, 5, Verify.rows_per_unit]
    assert sizes(3.0) == [25, 2, 1, Verify.rows_per_unit]
    assert sizes(1e9) == [1, 1, 1, Verify.rows_per_unit]


def test_a_run_keeps_the_units_that_it_began_with(tmp_path):
    model, x, y = network()
    chosen = [IntervalBounds()]
    options = {"norms": 2, "methods": chosen, "output": tmp_path / "run"}
    first = evaluate(model, x, y, costs=sized(chosen, (2.0,), 2), budget=AGES, **options)
    assert [record["unit"] for record in first.records] == ["ibp/2/0-2", "ibp/2/2-4", "ibp/2/4-6", "ibp/2/6-7"]
    lines = (tmp_path / "run/records.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "run/records.jsonl").write_bytes(b"".join(lines[:2]))
    again = evaluate(model, x, y, **options)  # another machine may be quicker
    assert [record["unit"] for record in again.records] == [record["unit"] for record in first.records]
    finished = estimate_cost(model, x, y, norms=2, methods=chosen, output=tmp_path / "run")
    assert finished.costs == ()
    assert str(finished).startswith("nothing was measured")


def test_a_logger_tells_of_every_unit(caplog: pytest.LogCaptureFixture):
    model, x, y = problem(40)
    methods = [Simulated(name="a", each=1.0)]
    costs = estimate_cost(model, x, y, methods=methods, norms=2, clock=CLOCK.restart())
    with caplog.at_level(logging.INFO, logger="certify"):
        evaluate(model, x, y, methods=methods, norms=2, clock=CLOCK.restart(), costs=costs)
    assert caplog.messages == [
        "[1/2] a/2/0-20: 20 s done, about 20 s left",
        "[2/2] a/2/20-40: 40 s done, about 0.00 s left",
    ]
