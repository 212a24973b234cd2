"""Published files against an evaluation of their assertions as they stand, and against checked counterexamples."""

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles.halfspace import generator
from oracles.selection import some
from oracles.vnnlib_formulas import assertions, holds
from torch import Tensor

from bounds import Property, read_vnnlib

BENCHMARKS = ["mnist_fc", "oval21", "rl_benchmarks", "safenlp_2024", "test21", "tllverifybench"]


@pytest.fixture(params=some(BENCHMARKS, ["test21", "tllverifybench"]))
def folder(request: pytest.FixtureRequest, shared_data: Path) -> Path:
    found = shared_data / "verification" / request.param
    if not found.is_dir():
        pytest.skip(f"no {request.param} among the reference data")
    return found


def points(found: Property, count: int) -> tuple[Tensor, Tensor]:
    """Inputs in the box, at its corners, and just outside; outputs among which there are ties."""
    draw = generator(2)
    (box,) = found.boxes
    share = torch.rand(count, found.num_inputs, generator=draw, dtype=torch.float64)
    share[::3] = share[::3].round()
    x = (box.lower + (box.upper - box.lower) * share).clamp(box.lower, box.upper)
    x = torch.where(share == 1, box.upper, torch.where(share == 0, box.lower, x))
    x[::10, 0] = torch.nextafter(box.upper[0], torch.tensor(torch.inf, dtype=torch.float64))
    y = torch.randn(count, found.num_outputs, generator=draw, dtype=torch.float64) * 3
    y[::2] = y[::2].round()
    y[1::4, 0] = y[1::4].amin(1)
    y[3::4, -1] = y[3::4].amax(1)
    offsets = torch.cat([case.offsets for case in box.cases])
    y[::5, 0] = offsets[torch.randint(len(offsets), (len(y[::5]),), generator=draw)]
    return x, y


def test_files_say_what_their_formulas_say(folder: Path):
    seen = np.zeros(2, int)
    files = sorted(folder.rglob("*.vnnlib.gz"))
    assert files
    for file in files:
        text = gzip.decompress(file.read_bytes()).decode()
        found = read_vnnlib(file)
        x, y = points(found, 400)
        expected = holds(assertions(text), x, y)
        assert found.is_unsafe(x, y).tolist() == expected.tolist(), file.name
        assert read_vnnlib(found.to_vnnlib()).is_unsafe(x, y).tolist() == expected.tolist(), file.name
        seen += np.bincount(expected, minlength=2)
    assert seen.min() > 5


def test_checked_counterexamples_are_unsafe(folder: Path):
    """Each lies in its box up to float32 rounding, and is moved into it before the network is run."""
    runtime = pytest.importorskip("onnxruntime")
    if not (folder / "witness.npz").exists():
        pytest.skip(f"no counterexamples of {folder.name}")
    with np.load(folder / "witness.npz") as witnesses, (folder / "expected.csv").open() as expected:
        verdicts = {(row["onnx"], row["vnnlib"]): row["final"] for row in csv.DictReader(expected)}
        met = 0
        for (onnx, vnnlib), verdict in verdicts.items():
            key = f"{onnx}|{vnnlib}".replace("/", "__")
            if verdict != "sat" or key not in witnesses:
                continue
            found = read_vnnlib(folder / f"{vnnlib.removesuffix('.gz')}.gz")
            session = runtime.InferenceSession(folder / onnx, providers=["CPUExecutionProvider"])
            (place,) = session.get_inputs()
            (box,) = found.boxes
            x = torch.from_numpy(witnesses[key]).double().reshape(1, -1)
            assert (x - x.clamp(box.lower, box.upper)).abs().max() <= 1e-6
            x = x.clamp(box.lower, box.upper)
            shape = [size if isinstance(size, int) else 1 for size in place.shape]
            (y, *_) = session.run(None, {place.name: x.float().numpy().reshape(shape)})
            assert found.is_unsafe(x, torch.from_numpy(y).reshape(1, -1)).all(), key
            met += 1
    assert met > 0
