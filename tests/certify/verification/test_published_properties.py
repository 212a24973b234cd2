"""Published properties with known verdicts: no "sat" row is ever "unsat", and with the attack all are found."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from oracles.halfspace import generator

import bounds
from certify import decide

FAMILIES = ("test21", "tllverifybench", "safenlp_2024", "rl_benchmarks", "mnist_fc")
SECONDS = 1.0  # of a search: a wrong proof would come early


class Row(NamedTuple):
    """A network with a property."""

    onnx: Path
    vnnlib: Path
    final: str


def rows(folder: Path, final: str) -> Iterator[Row]:
    with (folder / "expected.csv").open(newline="") as file:
        for line in csv.DictReader(file):
            vnnlib = folder / line["vnnlib"]
            if line["final"] == final:
                yield Row(folder / line["onnx"], vnnlib if vnnlib.exists() else Path(f"{vnnlib}.gz"), final)


# Every so many rows: all of them take minutes.
STEPS = [pytest.param(10, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.combinations)]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_sat_row_is_proved_without_the_attack(shared_data: Path, family: str, step: int):
    found = [
        decide(row.onnx, row.vnnlib, timeout=SECONDS, attack=False).verdict
        for row in list(rows(shared_data / "verification" / family, "sat"))[::step]
    ]
    assert len(found) > 0
    assert "unsat" not in found


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("family", FAMILIES)
def test_sat_rows_are_found_and_no_unsat_row_is(shared_data: Path, family: str, step: int):
    folder = shared_data / "verification" / family
    missed = []
    for row in list(rows(folder, "sat"))[::step]:
        found = decide(row.onnx, row.vnnlib, timeout=60, generator=generator())
        assert found.verdict != "unsat", row
        if found.verdict == "sat":
            assert bounds.read_vnnlib(row.vnnlib).is_unsafe(found.input, found.output).all()
        else:
            missed.append(row)
    assert len(missed) <= (1 if family == "mnist_fc" else 0), missed
    for row in list(rows(folder, "unsat"))[: 20 // step]:
        assert decide(row.onnx, row.vnnlib, timeout=SECONDS, generator=generator()).verdict != "sat", row
