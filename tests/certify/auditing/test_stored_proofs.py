"""Proofs that a run stores with its radii: the audit accepts them, and nothing that was put in their place."""

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from oracles.audited_runs import Tampered
from safetensors.torch import load_file, save_file
from torch import nn

import certify
from certify.auditing.certificates.proofs import PROOFS, STORED
from certify.methods import CompleteSearch, proofs
from certify.proofs.files import Proof, packed, unpacked

UNIT = "complete/inf/0-3"
Edit = Callable[[Tampered], None]


def model_and_data() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
        x = torch.rand(3, 5)
    return model, x, model(x).argmax(1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, x, y = model_and_data()
    path = tmp_path_factory.mktemp("proved") / "run"
    with pytest.MonkeyPatch.context() as patch:  # what is searched for does not matter here, and takes long
        patch.setattr(proofs, "certified_radius", by_lines)
        certify.evaluate(model, x, y, norms=[2, math.inf], methods=[CompleteSearch()], output=path)
    return path


def by_lines(*given: object, method: str, timeout: float, generator: object, **settings: object) -> certify.Certificate:
    return certify.certified_radius(*given, method="crown", **settings)


class Run(Tampered):
    """A run without files of its model."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = json.loads((path / "manifest.json").read_text())
        self.lines = [json.loads(line) for line in (path / "records.jsonl").read_text().splitlines()]


def copied(run: Path, folder: Path) -> Run:
    shutil.copytree(run, folder / "run")
    return Run(folder / "run")


def edited(change: Callable[[dict, dict], None]) -> Edit:
    """A change of row and tensors of the first input, with hashes stated anew."""

    def edit(run: Tampered) -> None:
        row = run.row("complete", "inf")

        def of_tensors(tensors: dict) -> None:
            change(row, tensors)
            if (proof := tensors.get(f"proof_{row['index']}")) is not None:
                row["proof"] = hashlib.sha256(proof.numpy().tobytes()).hexdigest()

        file = run.tensors("complete", "inf")
        tensors = load_file(file)
        of_tensors(tensors)
        save_file(tensors, file)
        run.line("complete", "inf")["tensors_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()

    return edit


def of_another_input(row: dict, tensors: dict) -> None:
    tensors["proof_0"] = tensors["proof_1"].clone()


def of_another_norm(run: Tampered) -> None:
    other = load_file(run.tensors("complete", "2"))
    edited(lambda row, tensors: tensors.update(proof_0=other["proof_0"]))(run)


def without_a_leaf(row: dict, tensors: dict) -> None:
    proof = unpacked(tensors["proof_0"].numpy().tobytes())
    ((sets, tree), *rest) = proof.trees
    content = packed(Proof(proof.header, ((sets, replace(tree, kind=tree.kind[:-1])), *rest)))
    tensors["proof_0"] = torch.frombuffer(bytearray(content), dtype=torch.uint8)


def in_one_byte(run: Tampered) -> None:
    row = run.row("complete", "inf")
    row["proof"] = "0" * 64


EDITS: dict[str, Edit] = {
    "the proof of another input": edited(of_another_input),
    "the proof of another norm": of_another_norm,
    "a proof without its last leaf": edited(without_a_leaf),
    "no proof at all": edited(lambda row, tensors: tensors.pop("proof_0")),
    "another hash": in_one_byte,
    "a larger radius": edited(lambda row, tensors: row.update(certified_radius=1.05 * row["certified_radius"])),
    "a smaller radius": edited(lambda row, tensors: row.update(certified_radius=0.95 * row["certified_radius"])),
    "files without bytes": lambda run: run.tensors("complete", "inf").write_bytes(b""),
    "no file": lambda run: run.tensors("complete", "inf").unlink(),
}


@pytest.mark.slow
def test_stored_proofs_are_accepted_by_the_checker(run: Path, tmp_path: Path):
    report = certify.audit(run, *model_and_data(), sample=1.0)
    assert report.holds, str(report)
    assert report.confirmed[STORED] == 6
    rows = [
        row
        for record in certify.Evaluation.load(run).records
        for row in record["rows"]
        if record["method"] == "complete"
    ]
    assert all(len(row["proof"]) == 64 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", EDITS)
def test_what_stands_in_place_of_a_proof_is_refuted(name: str, run: Path, tmp_path: Path):
    tampered = copied(run, tmp_path)
    EDITS[name](tampered)
    tampered.write(relink=True)
    report = certify.audit(tampered.path, *model_and_data(), sample=1.0)
    assert not report.holds
    assert any(finding.unit == UNIT for finding in report.refuted)


@pytest.mark.slow
def test_without_its_proof_a_radius_is_proved_by_the_audit_itself(run: Path, tmp_path: Path):
    tampered = copied(run, tmp_path)
    tampered.row("complete", "inf").pop("proof")
    tampered.write(relink=True)
    report = certify.audit(tampered.path, *model_and_data(), sample=1.0)
    assert report.holds
    assert report.confirmed[STORED] == 5


@pytest.mark.slow
def test_another_box_in_the_manifest_is_refuted(run: Path, tmp_path: Path):
    tampered = copied(run, tmp_path)
    tampered.manifest["configuration"]["high"] = 2.0
    tampered.write(relink=True)
    report = certify.audit(tampered.path, *model_and_data(), sample=1.0)
    assert {finding.check for finding in report.refuted} >= {STORED}


@pytest.mark.slow
def test_a_model_that_the_checker_cannot_read_is_not_judged_by_proofs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _, x, _ = model_and_data()
    model = nn.Sequential(nn.Linear(5, 6), nn.GELU(), nn.Linear(6, 3))
    y = model(x).argmax(1)
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(proofs, "certified_radius", by_lines)
        found = certify.evaluate(model, x, y, norms=[math.inf], methods=[CompleteSearch()], output=path)
    assert all("gelu" in row["without_proof"] for row in found.records[0]["rows"] if row["certified_radius"] > 0)
    report = certify.audit(path, model, x, y, sample=1.0)
    assert report.holds
    assert {finding.reason for finding in report.unjudged if finding.check == PROOFS} == {
        "no proof of the audit's own: gelu is a layer that proofs do not know"
    }
