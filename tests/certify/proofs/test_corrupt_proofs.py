"""Proofs that are corrupt: each is refused with the reason."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles.commands import certify, refusal
from oracles.decisions import property_of
from oracles.onnx_models import made, node
from oracles.proof_cases import Query, hard_query, proved, query_of

from certify import ProofReport, check_proof, decide
from certify.proofs import files
from certify.proofs.trees import CLIP_HIGH, CLIP_LOW, CUT, LEAF, InputTree, NeuronTree

Change = Callable[[files.Proof], files.Proof]


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> tuple[Query, files.Proof]:
    """A proof that splits neurons."""
    folder = tmp_path_factory.mktemp("split")
    query = query_of(folder, "relu", 20, pair=True, share=0.6)
    assert proved(query, folder / "net.proof").leaves > 2
    return query, files.read(folder / "net.proof")


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> tuple[Query, files.Proof]:
    """A proof that cuts boxes and clips them."""
    folder = tmp_path_factory.mktemp("cut")
    query = query_of(folder, "residual", 3, pair=True)
    assert proved(query, folder / "net.proof").leaves > 2
    return query, files.read(folder / "net.proof")


def changed(proof: files.Proof, change: Callable[[Any], dict[str, Any]]) -> files.Proof:
    """The proof with some arrays of its first tree replaced."""
    (sets, tree), *rest = proof.trees
    return dataclasses.replace(proof, trees=((sets, dataclasses.replace(tree, **change(tree))), *rest))


def report_on(proof: files.Proof, query: Query, folder: Path) -> ProofReport:
    files.write(folder / "corrupt.proof", proof)
    return check_proof(folder / "corrupt.proof", *query)


def _set(array: np.ndarray, place: Any, value: float) -> np.ndarray:
    array = array.copy()
    array[place] = value
    return array


SPLITS: dict[str, tuple[Callable[[NeuronTree], dict[str, Any]], str]] = {
    "missing leaf": (lambda t: {"kind": t.kind[:-1]}, "no leaf"),
    "a leaf too many": (lambda t: {"kind": np.append(t.kind, np.uint8(LEAF))}, "behind its end"),
    "a split becomes a leaf": (lambda t: {"kind": _set(t.kind, 0, LEAF)}, "behind its end"),
    "slope above 1": (
        lambda t: {"exact": _set(t.exact, 0, 0), "slopes": np.full((1, t.codes.shape[1]), 1.5, np.float32)},
        "a slope is outside",
    ),
    "slope below 0": (
        lambda t: {"exact": _set(t.exact, 0, 0), "slopes": np.full((1, t.codes.shape[1]), -0.5, np.float32)},
        "a slope is outside",
    ),
    "slope that is none": (
        lambda t: {"exact": _set(t.exact, 0, 0), "slopes": np.full((1, t.codes.shape[1]), np.nan, np.float32)},
        "a slope is outside",
    ),
    "negative multiplier": (lambda t: {"multipliers": -t.multipliers - 1}, "a multiplier is below 0"),
    "endless multiplier": (lambda t: {"multipliers": np.full_like(t.multipliers, np.inf)}, "a multiplier is below 0"),
    "negative weight": (lambda t: {"weights": _set(t.weights, (0, 1), -1.0)}, "a weight is below 0"),
    "no weight": (lambda t: {"weights": t.weights * 0}, "its bound is not above 0"),
    "another inequality": (lambda t: {"weights": t.weights[:, ::-1].copy()}, "its bound is not above 0"),
    "swapped sides": (
        lambda t: {"codes": t.codes[::-1].copy(), "multipliers": t.multipliers[::-1].copy()},
        "its bound is not above 0",
    ),
    "another neuron": (lambda t: {"neuron": np.roll(t.neuron, 1)}, "its bound is not above 0"),
    "no neuron": (lambda t: {"neuron": t.neuron + 1000}, "cannot be split"),
    "a point that is none": (lambda t: {"point": t.point * np.nan}, "cannot be split"),
    "a table too short": (lambda t: {"codes": t.codes[:-1]}, "codes have the shape"),
    "numbers of another type": (lambda t: {"weights": t.weights.astype(np.float64)}, "an array of float64"),
}


@pytest.mark.parametrize("name", SPLITS)
def test_corrupt_splits_are_refused(split: tuple[Query, files.Proof], name: str, tmp_path: Path):
    change, reason = SPLITS[name]
    report = report_on(changed(split[1], change), split[0], tmp_path)
    assert not report.accepted
    assert reason in report.reason
    assert report.where.startswith("tree 0")


def test_the_first_leaf_that_fails_is_named(split: tuple[Query, files.Proof], tmp_path: Path):
    report = report_on(changed(split[1], lambda t: {"weights": _set(t.weights, 2, 0.0)}), split[0], tmp_path)
    assert (report.where, report.verdict) == ("tree 0, leaf 2", "unsat")


def _without_cuts(tree: InputTree) -> dict[str, Any]:
    return {"kind": np.zeros(1, np.uint8), "place": tree.place[:0], "point": tree.point[:0]}


def _clipped(tree: InputTree) -> dict[str, Any]:
    """A root that is clipped, where no plane says so."""
    return {"kind": np.append(np.uint8(CLIP_HIGH), _without_cuts(tree)["kind"]), "place": tree.place[:1],
            "point": np.array([-0.2])}  # fmt: skip


CUTS: dict[str, tuple[Callable[[InputTree], dict[str, Any]], str]] = {
    "missing leaf": (lambda t: {"kind": t.kind[:-1]}, "have no leaf"),
    "a leaf that claims a bound": (_without_cuts, "its bounds do not prove it"),
    "a clip without its plane": (_clipped, "no plane excludes it"),
    "a cut outside of the box": (lambda t: {"point": t.point + 100}, "cannot be cut"),
    "a cut that is none": (lambda t: {"point": t.point * np.nan}, "cannot be cut"),
    "a cut of no input": (lambda t: {"place": t.place - 100}, "cannot be cut"),
    "an unknown node": (lambda t: {"kind": _set(t.kind, 0, 9)}, "cannot be cut"),
    "a cut without its point": (lambda t: {"point": t.point[:-1]}, "points"),
}


@pytest.mark.parametrize("name", CUTS)
def test_corrupt_cuts_are_refused(cut: tuple[Query, files.Proof], name: str, tmp_path: Path):
    change, reason = CUTS[name]
    report = report_on(changed(cut[1], change), cut[0], tmp_path)
    assert not report.accepted
    assert reason in report.reason


HEADERS: dict[str, tuple[Change, str]] = {
    "no tree": (lambda p: dataclasses.replace(p, trees=()), "has no tree"),
    "an unsafe set that is none": (
        lambda p: dataclasses.replace(p, trees=(((5,), p.trees[0][1]),)),
        "does not have",
    ),
    "another hash": (lambda p: dataclasses.replace(p, header=p.header | {"network": "0" * 64}), "another network"),
    "another arithmetic": (lambda p: dataclasses.replace(p, header=p.header | {"arithmetic": "real"}), "arithmetic"),
    "another type": (lambda p: dataclasses.replace(p, header=p.header | {"float_type": "float16"}), "float16"),
    "another verdict": (lambda p: dataclasses.replace(p, header=p.header | {"verdict": "holds"}), "holds"),
    "another version": (lambda p: dataclasses.replace(p, header=p.header | {"version": 2}), "version 2"),
    "a witness that is missing": (lambda p: dataclasses.replace(p, header=p.header | {"verdict": "sat"}), "damaged"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_corrupt_headers_are_refused(cut: tuple[Query, files.Proof], name: str, tmp_path: Path):
    change, reason = HEADERS[name]
    report = report_on(change(cut[1]), cut[0], tmp_path)
    assert not report.accepted
    assert reason in report.reason


@pytest.mark.parametrize("kept", [0, 10, 300, 0.5, 0.99])
def test_truncated_files_are_refused(split: tuple[Query, files.Proof], kept: float, tmp_path: Path):
    files.write(tmp_path / "whole.proof", split[1])
    content = (tmp_path / "whole.proof").read_bytes()
    (tmp_path / "corrupt.proof").write_bytes(content[: int(kept if kept > 1 else kept * len(content))])
    report = check_proof(tmp_path / "corrupt.proof", *split[0])
    assert not report.accepted
    assert "damaged" in report.reason


def forged(proof: files.Proof, query: Query) -> files.Proof:
    """The proof with the hashes of other files."""
    contents = query.network.read_bytes(), query.text.read_bytes()
    return dataclasses.replace(proof, header=files.header_of("unsat", *contents, "float32"))


def test_a_proof_does_not_fit_another_network_property_or_box(split: tuple[Query, files.Proof], tmp_path: Path):
    import onnx

    (network, text), proof = split
    model = onnx.load(network)
    for weight in model.graph.initializer:
        if weight.name == "b2":
            weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) - 1, "b2"))
    first = next(line for line in text.read_text().splitlines() if line.endswith("X_0 0.0))") or "<= " in line)
    last = text.read_text().splitlines()[-1]
    other = Query(tmp_path / "other.onnx", tmp_path / "other.vnnlib")
    shifted = text.read_text().replace(first, first.replace("(<= -", "(<= -9"))
    for content, property_text in (
        (model.SerializeToString(), text.read_text()),
        (network.read_bytes(), text.read_text().replace(last, "(assert (<= Y_0 100.0)) (assert (<= Y_1 100.0))")),
        (network.read_bytes(), shifted),
    ):
        other.network.write_bytes(content)
        other.text.write_text(property_text)
        assert "another" in report_on(proof, other, tmp_path).reason
        report = report_on(forged(proof, other), other, tmp_path)
        assert not report.accepted
        assert report.where.startswith("tree 0, leaf")


def test_both_sides_of_a_split_must_be_proved(tmp_path: Path):
    """``relu(x)`` exceeds 0.5, but not below 0: a checker that looks there alone would take this."""
    query = Query(tmp_path / "relu.onnx", tmp_path / "relu.vnnlib")
    query.network.write_bytes(made([node("Relu", "x", "y")], {"x": (1, 1)}).SerializeToString())
    query.text.write_text(property_of([(-1.0, 1.0)], "(assert (>= Y_0 0.5))"))
    one = {"multipliers": np.zeros(1, np.float32), "weights": np.ones((1, 1), np.float32)}
    one |= {"codes": np.zeros((1, 1), np.uint8), "exact": np.full(1, -1, np.int32)}
    one |= {"slopes": np.zeros((0, 1), np.float32), "smooth": np.zeros((1, 2, 0), np.float32)}
    at = {"neuron": np.zeros(1, np.int32), "point": np.zeros(1)}
    half = NeuronTree(kind=np.array([CUT, LEAF], np.uint8), **at, **one)
    both = {name: np.concatenate([array, array]) for name, array in one.items()}
    whole = NeuronTree(kind=np.array([CUT, LEAF, LEAF], np.uint8), **at, **both)
    boxes = InputTree(np.array([CUT, LEAF], np.uint8), np.zeros(1, np.int32), np.array([0.25]))
    clip = InputTree(np.array([CLIP_LOW, LEAF], np.uint8), np.zeros(1, np.int32), np.array([-0.5]))
    for tree, reason in ((half, "no leaf"), (whole, "not above 0"), (boxes, "no leaf"), (clip, "do not prove it")):
        report = report_on(forged(files.Proof({}, (((0,), tree),)), query), query, tmp_path)
        assert not report.accepted
        assert reason in report.reason
    whole = dataclasses.replace(whole, multipliers=np.full(2, 3.0, np.float32))
    assert not report_on(forged(files.Proof({}, (((0,), whole),)), query), query, tmp_path).accepted


@pytest.mark.parametrize("tree", ["split", "cut"])
def test_no_numbers_prove_what_is_false(tree: str, request: pytest.FixtureRequest, tmp_path: Path):
    """The proof of another property, with arrays changed by chance, where a counterexample is known."""
    (network, text), proof = request.getfixturevalue(tree)
    lines = text.read_text().splitlines()
    row = next(place for place, line in enumerate(lines) if "Y_0" in line and "assert" in line)
    least = float(lines[row].split()[-1].rstrip(")"))
    lines[row] = f"(assert (<= Y_0 {least + 3.0!r}))"
    false = Query(network, tmp_path / "false.vnnlib")
    false.text.write_text("\n".join([*lines[: row + 1], "(assert (<= Y_1 100.0))"]))
    assert decide(*false, generator=torch.Generator().manual_seed(0)).verdict == "sat"
    draw, reasons = np.random.default_rng(0), set()
    for _ in range(15):
        report = report_on(forged(changed(proof, lambda t: disturbed(t, draw)), false), false, tmp_path)
        assert not report.accepted
        reasons.add(report.reason)
    assert len(reasons) > 2


def disturbed(tree: Any, draw: np.random.Generator) -> dict[str, Any]:
    """One or two arrays of a tree, with an entry replaced, entries exchanged, or some of them lost."""
    found = {}
    for name in draw.choice([each.name for each in dataclasses.fields(tree)], 2):
        array = getattr(tree, name).copy()
        if array.size and draw.random() < 0.4:
            array.reshape(-1)[draw.integers(array.size)] = draw.integers(0, 4)
        elif draw.random() < 0.5:
            array = draw.permutation(array)
        else:
            array = array[: draw.integers(len(array) + 1)]
        found[str(name)] = array
    return found


def test_false_witnesses_are_refused(tmp_path: Path):
    query = hard_query(tmp_path, "relu", 3, share=1.2)
    decide(*query, timeout=30, proof=tmp_path / "net.proof", generator=torch.Generator().manual_seed(0))
    proof = files.read(tmp_path / "net.proof")
    x, y = proof.witness
    words, imaginary = x.astype(str), x + np.complex64(1j)  # which are no points of the box
    for witness, reason in (
        ((x + 9, y), "not unsafe"),
        ((x, y + 9), "not unsafe"),
        ((x, y - 9), "another one"),
        ((x * np.nan, y), "not finite"),
        ((x[:-1], y), "another number"),
        ((words, y), "not real numbers"),
        ((imaginary, y), "not real numbers"),
    ):
        report = report_on(dataclasses.replace(proof, witness=witness), query, tmp_path)
        assert not report.accepted
        assert reason in report.reason


def test_the_command_accepts_and_refuses(split: tuple[Query, files.Proof], tmp_path: Path):
    query, proof = split
    files.write(tmp_path / "net.proof", proof)
    assert certify("check-proof", "net.proof", *query, cwd=tmp_path).splitlines()[0] == "accepted: unsat"
    files.write(tmp_path / "net.proof", changed(proof, SPLITS["missing leaf"][0]))
    told = certify("check-proof", "net.proof", *query, cwd=tmp_path, expect=3)
    assert told.startswith("refused: tree 0, node ")
    assert "cannot be read" in refusal("check-proof", "nothing.proof", *query, cwd=tmp_path)
    assert "one query" in refusal("verify", "--instances", "a.csv", "--proof", "net.proof", cwd=tmp_path)
