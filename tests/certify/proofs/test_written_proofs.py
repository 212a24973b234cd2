"""Proofs that are written: for every verdict, and accepted as they are."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles.commands import certify
from oracles.decisions import property_of
from oracles.modules import ROOT
from oracles.onnx_models import made, node
from oracles.proof_cases import KINDS, SHARES, hard_query, proved, query_of

from certify import ProofReport, check_proof, decide
from certify.proofs import files
from certify.proofs.trees import InputTree, NeuronTree


@pytest.mark.slow
@pytest.mark.parametrize("pair", [False, True], ids=["row", "pair"])
@pytest.mark.parametrize("inputs", SHARES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_proof_is_accepted(tmp_path: Path, kind: str, inputs: int, pair: bool):
    for seed in range(3):
        report = proved(query_of(tmp_path, kind, inputs, seed=seed, pair=pair), tmp_path / "net.proof")
        assert report == ProofReport(True, "unsat", report.leaves)
        assert report.leaves > 0


@pytest.mark.parametrize(("kind", "tree"), [("residual", InputTree), ("relu", NeuronTree)])
def test_a_proof_of_many_leaves_is_accepted(tmp_path: Path, kind: str, tree: type):
    query = query_of(tmp_path, kind, 3 if tree is InputTree else 20, pair=True)
    report = proved(query, tmp_path / "net.proof")
    assert report.accepted
    assert report.leaves > 1
    assert isinstance(files.read(tmp_path / "net.proof").trees[0][1], tree)


def test_a_witness_is_replayed(tmp_path: Path):
    query = hard_query(tmp_path, "relu", 3, share=1.2)
    found = decide(*query, timeout=30, proof=tmp_path / "net.proof", generator=torch.Generator().manual_seed(0))
    assert (found.verdict, found.proof) == ("sat", str(tmp_path / "net.proof"))
    assert check_proof(found.proof, *query) == ProofReport(True, "sat", 1)


@pytest.mark.parametrize("compressed", ["network", "text"])
def test_files_may_be_compressed_after_the_proof(tmp_path: Path, compressed: str):
    import gzip

    query = query_of(tmp_path, "relu", 3)
    proved(query, tmp_path / "net.proof")
    path = getattr(query, compressed)
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert check_proof(tmp_path / "net.proof", *query).accepted


@pytest.mark.slow
def test_a_network_that_the_checker_does_not_read_gets_its_verdict(tmp_path: Path):
    nodes = [node("Relu", "x", "h"), onnx_softmax(), node("Gemm", "p w", "y")]
    network, text = tmp_path / "net.onnx", tmp_path / "a.vnnlib"
    network.write_bytes(made(nodes, {"x": (1, 2)}, {"w": np.eye(2)}).SerializeToString())
    text.write_text(property_of([(0.0, 1.0)] * 2, "(assert (>= Y_0 1.5))", outputs=2))
    found = decide(network, text, proof=tmp_path / "net.proof")
    assert (found.verdict, found.proof) == ("unsat", "")
    assert found.without_proof == "operator Softmax (node 'soft') is not one that proofs know"
    assert not (tmp_path / "net.proof").exists()
    told = certify("verify", network, text, "--proof", "net.proof", cwd=tmp_path)
    assert told.splitlines()[0] == f"no proof can be written: {found.without_proof}"
    assert told.splitlines()[1] == "unsat"


def onnx_softmax() -> Any:
    import onnx

    return onnx.helper.make_node("Softmax", ["h"], ["p"], name="soft", axis=1)


def test_only_files_can_be_proved_about(tmp_path: Path):
    query = query_of(tmp_path, "relu", 3)
    for model, prop in ((torch.nn.Identity(), query.text), (query.network, query.text.read_text())):
        with pytest.raises(ValueError, match="must be a path for a proof"):
            decide(model, prop, proof=tmp_path / "net.proof")
    found = decide(*query, sound="deployed", proof=tmp_path / "net.proof", attack=False)
    assert "real arithmetic" in found.without_proof


@pytest.mark.slow
def test_a_search_without_a_record_is_as_it_was(tmp_path: Path):
    query = query_of(tmp_path, "relu", 20, pair=True)
    plain, recorded = decide(*query, attack=False), decide(*query, attack=False, proof=tmp_path / "net.proof")
    assert plain.verdict == recorded.verdict == "unsat"
    assert (plain.proof, plain.without_proof) == ("", "")


def test_the_command_writes_a_proof(tmp_path: Path):
    query = query_of(tmp_path, "relu", 3)
    told = certify("verify", *query, "--proof", "net.proof", cwd=tmp_path)
    assert told.splitlines()[0] == "unsat"
    assert "proof: net.proof, " in told
    assert check_proof(tmp_path / "net.proof", *query).accepted


@pytest.mark.slow
def test_the_checker_imports_neither_torch_nor_the_bounds(tmp_path: Path):
    query = query_of(tmp_path, "relu", 20)
    proved(query, tmp_path / "net.proof")
    program = (
        "import sys, certify; report = certify.check_proof(*sys.argv[1:]); "
        "print(report.accepted, [name for name in ('torch', 'bounds', 'scipy') if name in sys.modules])"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "net.proof"), *map(str, query)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "True []"
