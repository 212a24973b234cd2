"""Decisions on properties: nothing is "sat" that was not replayed, nothing "unsat" that was not proved."""

import gzip
import re
import time
from pathlib import Path

import pytest
import torch
from oracles.decisions import UNKNOWN, Linear, identity, pretend, property_of
from oracles.halfspace import generator
from oracles.onnx_models import made, node
from torch import nn

import bounds
from bounds.search.problem import SearchResult
from certify import Decision, decide
from certify.verification.deployed import OnnxSession


@pytest.fixture
def linear(tmp_path: Path) -> Linear:
    return Linear(tmp_path / "net.onnx", 6)


def proved(by: str = "bounds") -> SearchResult:
    return SearchResult("proved", domains=3, decided_by=by)


# ------------------------------------------------------------------------------------------------------------- proofs


def test_what_every_box_is_proved_for_is_unsat(linear: Linear, monkeypatch: pytest.MonkeyPatch):
    means = iter(["input splits", "bounds", "neuron splits", "bounds"])
    calls = pretend(monkeypatch, lambda call: proved(next(means)))
    sides = "".join(f"(and (<= {i} X_0 {i + 1}) (<= Y_0 -1e6))" for i in range(4))
    text = property_of([(-9.0, 9.0)] * 6, f"(assert (or {sides}))", outputs=3)
    found = decide(linear.path, text, generator=generator())
    assert (found.verdict, found.decided_by, found.domains) == ("unsat", "neuron splits", 12)
    assert (found.input, found.output, found.reason) == (None, None, "")
    assert len(calls) == 4
    assert {float(call["box"].lower.flatten()[0]) for call in calls} == {0.0, 1.0, 2.0, 3.0}


@pytest.mark.parametrize("status", ["unknown", "timeout", "counterexample"])
def test_one_box_that_is_not_proved_leaves_all_open(linear: Linear, monkeypatch: pytest.MonkeyPatch, status: str):
    ends = iter([proved(), SearchResult(status, reason="because"), proved()])

    def end(call: dict) -> SearchResult:
        time.sleep(max(call["deadline"] - time.monotonic(), 0) if status == "timeout" else 0)
        return next(ends, SearchResult(status, reason="because"))

    calls = pretend(monkeypatch, end)
    sides = "".join(f"(and (<= {i} X_0 {i + 1}) (<= Y_0 -1e6))" for i in range(3))
    text = property_of([(-9.0, 9.0)] * 6, f"(assert (or {sides}))", outputs=3)
    found = decide(linear.path, text, attack=False, timeout=0.3)
    assert found.verdict == ("timeout" if status == "timeout" else "unknown")
    assert found.decided_by == ""
    reasons = {"unknown": "because", "timeout": "the time was over", "counterexample": "is not confirmed"}
    assert reasons[status] in found.reason
    assert len(calls) == 3 or status == "timeout"  # another box may be violated


def test_a_hard_box_leaves_time_for_the_others(linear: Linear, monkeypatch: pytest.MonkeyPatch):
    """The first box would take all of it; it is searched again when the others are done."""
    lows: list[float] = []

    def end(call: dict) -> SearchResult:
        lows.append(float(call["box"].lower.flatten()[0]))
        left = call["deadline"] - time.monotonic()
        if lows[-1] > 0 or left > 0.5:
            return proved()
        time.sleep(left)
        return SearchResult("timeout")

    pretend(monkeypatch, end)
    sides = "".join(f"(and (<= {i} X_0 {i + 1}) (<= Y_0 -1e6))" for i in range(4))
    text = property_of([(-9.0, 9.0)] * 6, f"(assert (or {sides}))", outputs=3)
    assert decide(linear.path, text, attack=False, timeout=1.2).verdict == "unsat"
    assert sorted(lows) == [0.0, 0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("error", [bounds.UnsupportedLayer("no rule for\n this"), IndexError("a defect")])
def test_errors_of_the_search_are_no_verdict(linear: Linear, monkeypatch: pytest.MonkeyPatch, error: Exception):
    pretend(monkeypatch, error)
    found = decide(linear.path, linear.below(-1e6))
    assert found.verdict == "unknown"
    assert "\n" not in found.reason
    assert found.reason in ("no rule for this", "IndexError: a defect")


def test_interrupts_pass(linear: Linear, monkeypatch: pytest.MonkeyPatch):
    def interrupted(call: dict) -> SearchResult:
        raise KeyboardInterrupt

    pretend(monkeypatch, interrupted)
    with pytest.raises(KeyboardInterrupt):
        decide(linear.path, linear.below(-1e6))


def test_a_property_without_boxes_holds(linear: Linear):
    found = decide(linear.path, property_of([(0.0, 1.0)] * 6, "(assert false)", outputs=3))
    assert (found.verdict, found.decided_by) == ("unsat", "property")


def test_the_search_is_given_boxes_that_are_rounded_outward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls = pretend(monkeypatch, proved())
    text = property_of([(0.1, 0.7)], "(assert (>= Y_0 0.8))")
    decide(identity(tmp_path / "net.onnx"), text, sound="deployed", timeout=9, memory=2**20)
    (call,) = calls
    assert call["box"].upper.dtype == torch.float64
    assert float(call["box"].lower) < 0.1 <= float(torch.nextafter(call["box"].lower, torch.ones(1).double()))
    assert (call["sound"], call["memory"]) == ("deployed", 2**20)
    assert 8 < call["deadline"] - time.monotonic() < 9
    ((rows, offsets),) = call["cases"]
    assert (rows.tolist(), offsets.shape) == ([[-1.0]], (1,))


# ---------------------------------------------------------------------------------------------------------- witnesses


def test_a_tie_counts_and_only_where_the_row_is_not_strict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pretend(monkeypatch, UNKNOWN)
    path = identity(tmp_path / "net.onnx")
    assert decide(path, property_of([(0.0, 0.5)], "(assert (>= Y_0 0.5))")).verdict == "sat"
    assert decide(path, property_of([(0.0, 0.5)], "(assert (> Y_0 0.5))")).verdict == "unknown"


def test_what_float64_alone_confirms_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The largest input is unsafe in real numbers, and lies between two numbers of float32."""
    top = 0.1 + 1e-10
    text = property_of([(0.0, top)], f"(assert (>= Y_0 {top!r}))")
    tried = []

    def optimistic(call: dict) -> SearchResult:
        tried.append(call["check"](torch.tensor([[top], [0.05]], dtype=torch.float64)))
        return SearchResult("counterexample", torch.tensor([[top]], dtype=torch.float64))

    pretend(monkeypatch, optimistic)
    found = decide(identity(tmp_path / "net.onnx"), text)
    assert tried == [None]
    assert (found.verdict, found.input) == ("unknown", None)
    assert "not confirmed" in found.reason


def test_a_candidate_a_rounding_outside_is_moved_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    low, high = 0.1, 0.7  # float32 has no such numbers: the nearest to 0.1 is above it, that to 0.7 below
    text = property_of([(low, high)], "(assert (or (<= Y_0 0.1000001) (>= Y_0 0.6999999)))")
    outside = torch.tensor([[low], [high]]).nextafter(torch.tensor([[-1.0], [1.0]]))
    pretend(
        monkeypatch,
        lambda call: SearchResult("counterexample", call["check"](outside.double()), 5, "input splits"),
    )
    found = decide(identity(tmp_path / "net.onnx"), text, attack=False)
    assert (found.verdict, found.decided_by, found.domains) == ("sat", "input splits", 5)
    assert low <= float(found.input) <= high
    assert bounds.read_vnnlib(text).is_unsafe(found.input, found.output).all()


def test_a_box_without_a_number_of_the_network_is_never_sat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pretend(monkeypatch, SearchResult("counterexample"))
    found = decide(identity(tmp_path / "net.onnx"), property_of([(0.1, 0.1)], "(assert (<= Y_0 1.0))"))
    assert found.verdict == "unknown"
    assert found.reason == "no number of torch.float32 lies within the bounds of input 0: nothing can be replayed"


def test_integers_are_replayed_as_integers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pretend(monkeypatch, UNKNOWN)
    head = "(declare-network N (declare-input X int8 [1,1]) (declare-output Y float32 [1,1]))"
    head += "(assert (<= 0.2 X[0,0] 3.5))"
    path = identity(tmp_path / "net.onnx")
    assert decide(path, f"{head}(assert (<= 0.4 Y[0,0] 0.6))").verdict == "unknown"
    found = decide(path, f"{head}(assert (>= Y[0,0] 2.5))")
    assert (found.verdict, found.input.tolist()) == ("sat", [[3.0]])


@pytest.mark.parametrize("where", ["everywhere", "at the corner"])
def test_what_onnxruntime_does_not_confirm_is_not_sat(linear: Linear, monkeypatch: pytest.MonkeyPatch, where: str):
    """PyTorch finds an unsafe input, onnxruntime gives another answer to it."""
    honest = OnnxSession.__call__

    def another(session: OnnxSession, x: torch.Tensor) -> torch.Tensor:
        y = honest(session, x)
        return y + 9 if where == "everywhere" or float(y[0, 0]) < linear.least + 0.05 else y

    pretend(monkeypatch, proved())
    text = linear.below(linear.least + 0.01)
    assert decide(linear.path, text, generator=generator()).verdict == "sat"
    monkeypatch.setattr(OnnxSession, "__call__", another)
    found = decide(linear.path, text, generator=generator())
    assert found.verdict == ("unknown" if where == "everywhere" else "unsat")  # the search says that it is proved
    assert ("disagree by 9" in found.reason) == (where == "everywhere")


def test_rows_of_inputs_and_outputs_are_attacked_and_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``y = x``, unsafe where y falls below 0.5 and x + y rises above 0.9: only as far as 0.45."""
    path = identity(tmp_path / "net.onnx")
    text = property_of([(0.0, 1.0)], "(assert (and (<= Y_0 0.4501) (>= (+ X_0 Y_0) 0.9)))")
    pretend(monkeypatch, UNKNOWN)
    found = decide(path, text, generator=generator())
    assert found.verdict == "sat"
    assert 0.45 <= float(found.input) <= 0.4501


# ---------------------------------------------------------------------------------------------- networks and arguments


def test_files_graphs_and_modules_are_decided_alike(linear: Linear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pretend(monkeypatch, UNKNOWN)
    packed = tmp_path / "net.onnx.gz"
    packed.write_bytes(gzip.compress(linear.path.read_bytes()))
    module = nn.Linear(6, 3)
    module.load_state_dict({"weight": torch.from_numpy(linear.weight).T.clone(), "bias": torch.from_numpy(linear.bias)})
    text = linear.below(linear.least + 1e-3)
    networks = [linear.path, str(packed), bounds.from_onnx(linear.path), module, module.double()]
    for network in networks:
        found = decide(network, bounds.read_vnnlib(text), generator=generator())
        assert (found.verdict, found.decided_by) == ("sat", "attack")
        assert found.input.dtype == (torch.float64 if network is module else torch.float32)
    assert module.training
    assert all(weight.requires_grad for weight in module.parameters())


def test_several_inputs_come_in_the_order_of_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``y = a - b``, which is largest where a is largest: another order would have it elsewhere."""
    pretend(monkeypatch, UNKNOWN)
    path = tmp_path / "net.onnx"
    path.write_bytes(made([node("Sub", "a b", "y")], {"a": (1,), "b": (1,)}).SerializeToString())
    head = "(declare-network N (declare-input A float32 [1]) (declare-input B float32 [1])"
    head += " (declare-output Y float32 [1])) (assert (<= 0 A[0] 1)) (assert (<= 10 B[0] 11))"
    found = decide(path, f"{head} (assert (>= Y[0] -9))")
    assert (found.verdict, found.input.tolist()) == ("sat", [[1.0, 10.0]])
    assert decide(path, f"{head} (assert (>= Y[0] 9))").verdict == "unknown"


def test_what_does_not_fit_is_refused_in_one_line(linear: Linear, tmp_path: Path):
    with pytest.raises(bounds.InvalidInput, match="speaks of 2 inputs, but the network has 6"):
        decide(linear.path, property_of([(0.0, 1.0)] * 2, "(assert (<= Y_0 0.0))", outputs=3))
    with pytest.raises(bounds.InvalidInput, match="speaks of 1 outputs, but the network has 3"):
        decide(linear.path, property_of([(0.0, 1.0)] * 6, "(assert (<= Y_0 0.0))"))
    with pytest.raises(bounds.InvalidModel, match=r"nowhere\.onnx cannot be read"):
        decide(tmp_path / "nowhere.onnx", linear.below(0.0))
    with pytest.raises(bounds.InvalidModel, match=r"must be a torch\.nn\.Module, got int"):
        decide(3, linear.below(0.0))
    with pytest.raises(bounds.InvalidInput, match="timeout"):
        decide(linear.path, linear.below(0.0), timeout=0)
    with pytest.raises(bounds.InvalidInput, match="sound"):
        decide(linear.path, linear.below(0.0), sound="loud")


def test_an_unknown_operator_is_unknown_with_its_name(tmp_path: Path):
    path = tmp_path / "net.onnx"
    path.write_bytes(made([node("Det", "x", "y")], {"x": (1, 2, 2)}).SerializeToString())
    found = decide(path, property_of([(0.0, 1.0)] * 4, "(assert (<= Y_0 0.0))"))
    assert found.verdict == "unknown"
    assert "Det" in found.reason


class Slow(nn.Module):
    """A network that takes a tenth of a second."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.02)
        return x.sum(1, keepdim=True)


def test_time_limits_are_kept(monkeypatch: pytest.MonkeyPatch):
    def waiting(call: dict) -> SearchResult:
        time.sleep(max(call["deadline"] - time.monotonic(), 0))
        return SearchResult("timeout")

    pretend(monkeypatch, waiting)
    monkeypatch.setattr("certify.verification.deployed.capture", lambda model, x: None)
    found = decide(Slow(), property_of([(0.0, 1.0)] * 4, "(assert (>= Y_0 5.0))"), timeout=0.4)
    assert found.verdict == "timeout"
    assert 0.4 <= found.seconds < 0.5


# ------------------------------------------------------------------------------------------------------------- records

ENTRY = re.compile(r"\(([XY])_(\d+) (\S+?)\)")


def test_the_result_file_is_read_back_and_holds_a_witness(linear: Linear):
    text = linear.below(linear.least + 1e-3)
    found = decide(linear.path, text, generator=generator())
    first, _, rest = found.to_competition().partition("\n")
    assert first == "sat"
    assert rest.startswith("((X_0 ")
    assert rest.endswith("))\n")
    values = {"X": {}, "Y": {}}
    for letter, place, number in ENTRY.findall(rest):
        values[letter][int(place)] = float(number)
    assert [list(side) for side in values.values()] == [list(range(6)), list(range(3))]
    x, y = (torch.tensor([list(side.values())], dtype=torch.float64) for side in values.values())
    assert bounds.read_vnnlib(text).is_unsafe(x, y).all()
    assert torch.equal(x.float().double(), x)
    torch.testing.assert_close(linear.answer(x.float()).double(), y)
    assert Decision(verdict="unsat").to_competition() == "unsat\n"


def test_a_decision_is_a_row_of_a_table(linear: Linear):
    found = decide(linear.path, linear.below(linear.least + 1e-3), generator=generator())
    frame = found.to_dataframe()
    assert list(frame.columns) == list(vars(found))
    assert frame.loc[0, "verdict"] == "sat"
    assert frame.loc[0, "input"] == found.input.flatten().tolist()
    assert Decision(verdict="unknown", reason="none").to_dataframe().loc[0, "input"] is None


class Alone(nn.Module):
    """A network for one input at a time, in training mode unless it is told otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 1:
            raise ValueError("one at a time")
        return self.drop(self.norm(x)).sum().view(1, 1)


def test_a_module_for_one_input_at_a_time_comes_back_as_it_was(monkeypatch: pytest.MonkeyPatch):
    pretend(monkeypatch, UNKNOWN)
    module = Alone()
    found = decide(module, property_of([(0.0, 1.0)] * 3, "(assert (>= Y_0 2.9))"), generator=generator())
    assert found.verdict == "sat"
    assert module.training
    assert module.norm.running_mean.abs().sum() == 0
    assert module.norm.num_batches_tracked == 0
