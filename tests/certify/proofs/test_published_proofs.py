"""Published properties that hold: each proof is accepted, and is a small file."""

import csv
from pathlib import Path

import pytest

from certify import check_proof, decide

KILOBYTES = 100
ROWS = {
    "test21": (0, 1, 2, 4),
    "rl_benchmarks": (0, 30, 112, 117),
    "safenlp_2024": (4, 9, 10),
    "tllverifybench": (3,),
    "mnist_fc": (0, 4, 6),
}


@pytest.mark.slow
@pytest.mark.parametrize(("family", "row"), [(family, row) for family, rows in ROWS.items() for row in rows])
def test_proofs_of_published_properties_are_accepted(shared_data: Path, family: str, row: int, tmp_path: Path):
    folder = shared_data / "verification" / family
    with (folder / "instances.csv").open(newline="") as file:
        onnx, vnnlib, _ = list(csv.reader(file))[row]
    text = folder / vnnlib if (folder / vnnlib).exists() else folder / f"{vnnlib}.gz"
    found = decide(folder / onnx, text, timeout=120, attack=False, proof=tmp_path / "row.proof")
    assert (found.verdict, found.without_proof) == ("unsat", "")
    report = check_proof(found.proof, folder / onnx, text)
    assert (report.accepted, report.verdict) == (True, "unsat"), report
    assert (tmp_path / "row.proof").stat().st_size < KILOBYTES * 1000
