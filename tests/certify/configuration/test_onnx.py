"""A model of a configuration that is an ONNX file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from oracles.commands import certify, records, refusal, write
from oracles.onnx_models import made, node

import bounds
from certify.configuration.config import ModelSource, read_config
from certify.configuration.sources import load_model


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a network in a file, inputs that it classifies, and a configuration."""
    drawn = np.random.default_rng(0)
    nodes = [
        node("Flatten", "x", "flat"),
        node("Gemm", "flat w0 b0", "p", transB=1),
        node("Relu", "p", "h"),
        node("Gemm", "h w1 b1", "y", transB=1),
    ]
    constants = {"w0": drawn.normal(size=(8, 12)), "b0": drawn.normal(size=8), "w1": drawn.normal(size=(3, 8))}
    model = made(nodes, {"x": (1, 3, 4)}, constants | {"b1": drawn.normal(size=3)}, opset=13)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    x = drawn.integers(0, 256, size=(6, 3, 4), dtype=np.uint8)
    labels = bounds.from_onnx(model).module()(torch.from_numpy(x).float() / 255).argmax(1)
    np.savez(tmp_path / "data.npz", x=x, y=labels.numpy())
    write(tmp_path, model='onnx = "net.onnx"')
    return tmp_path


def test_the_file_lies_next_to_the_configuration(project: Path):
    source = read_config(project / "config.toml").model
    assert source == ModelSource(onnx=str(project.resolve() / "net.onnx"))
    model = load_model(source)
    assert not model.training
    assert model(torch.rand(5, 3, 4)).shape == (5, 3)


@pytest.mark.slow
def test_a_run_certifies_and_attacks_it(project: Path):
    certify("run", "config.toml", "--output", "out", cwd=project)
    found = {record["method"] for record in records(project / "out")}
    assert found == {"smoothing", "ibp", "attack"}
    certify("check", "out", cwd=project)


def test_what_cannot_be_read_is_told_in_one_line(project: Path):
    (project / "net.onnx").write_bytes((project / "net.onnx").read_bytes()[:-40])
    assert "net.onnx is damaged" in refusal("run", "config.toml", cwd=project)
    (project / "net.onnx").unlink()
    assert "net.onnx cannot be read: No such file" in refusal("run", "config.toml", cwd=project)
