"""The search for unsafe inputs: it finds what is known to be there, and claims nothing where nothing is."""

import time
from pathlib import Path

import pytest
import torch
from oracles.decisions import UNKNOWN, Linear, pretend, property_of
from oracles.halfspace import generator
from oracles.onnx_models import made, node
from torch import Tensor

import bounds
from certify import decide
from certify.verification import falsifier
from certify.verification.deployed import Deployed
from certify.verification.falsifier import Falsifier
from certify.verification.representable import Representable


def searched(path: Path, text: str, *, seconds: float = 60.0) -> tuple[object, list[int], list[Tensor]]:
    """What a search returns, and what it gave to the replay, which confirms by the exact rule."""
    prop = bounds.read_vnnlib(text)
    network = Deployed(path, prop)
    points = Representable(prop, network.dtype, network.device)
    tried: list[Tensor] = []

    def confirm(x: Tensor) -> object:
        tried.append(x)
        y = network.outputs(x)
        hits = prop.is_unsafe(x, y).nonzero()[:, 0].tolist()
        return (x[hits[:1]], y[hits[:1]]) if hits else None

    found, order = Falsifier(network, prop, points, confirm, time.monotonic() + seconds, generator()).search()
    return found, order, tried


@pytest.mark.parametrize("inputs", [1, 2, 5, 40])
def test_a_corner_that_alone_is_unsafe_is_found(tmp_path: Path, inputs: int):
    """Linear networks: the least output is that of one corner, and only a rounding more is asked for."""
    for seed in range(3):
        linear = Linear(tmp_path / "net.onnx", inputs, seed=seed)
        found, _, _ = searched(linear.path, linear.below(linear.least + 1e-5))
        assert found is not None
        x, y = found
        assert float(y[0, 0]) <= linear.least + 1e-5
        assert (x >= linear.lower).all()
        assert (x <= linear.upper).all()
        missed = (x - linear.corner).abs() * torch.from_numpy(linear.weight[:, 0]).abs()
        assert float(missed.sum()) < 1e-4


@pytest.mark.parametrize("inputs", [1, 5, 40])
def test_nothing_is_claimed_of_a_network_that_is_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: int):
    pretend(monkeypatch, UNKNOWN)
    linear = Linear(tmp_path / "net.onnx", inputs, seed=inputs)
    below = linear.below(linear.least - 1e-4)
    found, _, tried = searched(linear.path, below)
    assert (found, tried) == (None, [])
    assert inputs > 1 or decide(linear.path, below).verdict == "unknown"


def test_all_points_are_numbers_of_the_network_inside_their_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Sides between numbers of float32, one box of a single number, steps that would leave every box."""
    linear = Linear(tmp_path / "net.onnx", 3)
    sides = "".join(f"(and (<= {0.1 * i} X_0 {0.1 * i + 0.05}) (<= 0.5 X_1 0.5) (<= Y_0 -99))" for i in range(1, 4))
    text = property_of([(-1.0, 1.0)] * 3, f"(assert (or {sides}))", outputs=3)
    prop = bounds.read_vnnlib(text)
    seen: list[Tensor] = []
    outputs = Deployed.outputs

    def watched(self: Deployed, x: Tensor) -> Tensor:
        seen.append(x.detach().flatten(1))
        return outputs(self, x)

    monkeypatch.setattr(Deployed, "outputs", watched)
    found, order, _ = searched(linear.path, text)
    assert found is None
    assert sorted(order) == [0, 1, 2]
    x = torch.cat(seen).double()
    inside = [((x >= box.lower) & (x <= box.upper)).all(1) for box in prop.boxes]
    assert torch.stack(inside).any(0).all()
    assert all(place.sum() > 500 for place in inside)


def test_boxes_come_in_the_order_of_danger(tmp_path: Path):
    linear = Linear(tmp_path / "net.onnx", 2)
    corner = list(zip(linear.lower.tolist(), linear.upper.tolist(), strict=True))
    top = corner[0][1]
    sides = "".join(
        f"(and (<= X_0 {top - i * 1e-3}) (<= Y_0 {linear.least - gap}))" for i, gap in enumerate([3.0, 1.0, 2.0])
    )
    text = property_of(corner, f"(assert (or {sides}))", outputs=3)
    _, order, _ = searched(linear.path, text)
    gaps = [linear.least - float(box.cases[0].offsets) for box in bounds.read_vnnlib(text).boxes]
    assert [round(gaps[place]) for place in order] == [1, 2, 3]


def test_several_rows_at_once_are_met(tmp_path: Path):
    """A conjunction that a thin wedge of the box meets: none of its rows alone leads there."""
    linear = Linear(tmp_path / "net.onnx", 10, seed=2)
    inside = torch.lerp(linear.lower, linear.upper, torch.rand(10, generator=generator(5)))[None]
    y = linear.answer(inside)[0].tolist()
    rows = " ".join(f"(<= Y_{i} {value + 1e-3!r}) (>= Y_{i} {value - 1e-3!r})" for i, value in enumerate(y))
    corner = list(zip(linear.lower.tolist(), linear.upper.tolist(), strict=True))
    found, _, _ = searched(linear.path, property_of(corner, f"(assert (and {rows}))", outputs=3))
    assert found is not None


def test_steps_have_no_gradients_and_are_searched_all_the_same(tmp_path: Path):
    """``sign(x - 0.4)`` of each of six entries, summed: unsafe where five are above, which 7 % of a box are."""
    path = tmp_path / "net.onnx"
    nodes = [node("Sub", "x c", "d"), node("Sign", "d", "s"), node("ReduceSum", "s a", "y", keepdims=0)]
    constants = {"c": [[0.7]], "a": [1]}
    path.write_bytes(made(nodes, {"x": (1, 6)}, constants).SerializeToString())
    found, _, _ = searched(path, property_of([(0.0, 1.0)] * 6, "(assert (>= Y_0 5.0))"))
    assert found is not None


def test_a_share_of_the_time_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    linear = Linear(tmp_path / "net.onnx", 5)
    monkeypatch.setattr(falsifier, "ROUNDS", ((10**6, 8),))
    began = time.monotonic()
    found, _, _ = searched(linear.path, linear.below(linear.least - 1), seconds=0.2)
    assert found is None
    assert time.monotonic() - began < 0.4
