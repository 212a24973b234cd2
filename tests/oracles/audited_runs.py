"""A small run with everything that an audit looks at, and a way to tamper with it."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from oracles.commands import certify
from safetensors.torch import load_file, save_file
from torch import nn

from certify.evaluation.storage import chain
from certify.evaluation.storage.continuing import INFORMATIVE

Lines = list[dict[str, Any]]
NETWORK = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 10), nn.Linear(10, 3)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)))
"""
CONFIG = """
norms = [2, "inf"]
groups = "label"
[methods.smoothing]
n = 500
[methods.ibp]
[methods.crown]
[methods.attack]
steps = 10
restarts = 1
[model]
build = "audited_net:Net"
weights = "w.safetensors"
[data]
file = "data.npz"
divide_by = 255
"""
COUNT = 12


def make_run(folder: Path) -> Path:
    """A finished run of a command in a folder of its own, with a network, weights, data and one wrong label."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (COUNT, 6), generator=generator)
    y = x[:, :3].argmax(1)
    first, last = nn.Linear(6, 10), nn.Linear(10, 3)
    with torch.no_grad():
        for layer in (first, last):
            layer.weight.copy_(0.1 * torch.randn(layer.weight.shape, generator=generator))
            layer.bias.zero_()
        first.weight[:3, :3] += torch.eye(3)
        last.weight[:, :3] += 8 * torch.eye(3)
        right = last(torch.relu(first(x / 255))).argmax(1)
    y = right.clone()
    y[3] = (y[3] + 1) % 3
    weights = {f"{name}.{key}": value for name, layer in (("first", first), ("last", last)) for key, value in
               layer.state_dict().items()}  # fmt: skip
    save_file(weights, folder / "w.safetensors")
    np.savez(folder / "data.npz", x=x.to(torch.uint8).numpy(), y=y.numpy())
    (folder / "audited_net.py").write_text(NETWORK)
    (folder / "config.toml").write_text(CONFIG)
    certify("run", "config.toml", "--output", "run", cwd=folder)
    return folder / "run"


def copy_of(run: Path, folder: Path) -> "Tampered":
    """The run and its files in another folder, whose names the manifest does not know apart."""
    shutil.copytree(run.parent, folder, dirs_exist_ok=True)
    return Tampered(folder / "run")


class Tampered:
    """A run that is about to be changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest, self.lines = read_run(path)
        for key, name in (("build", "audited_net:Net"), ("weights", "w.safetensors")):
            self.manifest["source"]["model"][key] = str(path.parent / name)
        self.manifest["source"]["model"]["build"] = f"{path.parent}/audited_net.py:Net"
        self.manifest["source"]["data"]["file"] = str(path.parent / "data.npz")

    def line(self, method: str, norm: str = "2") -> dict[str, Any]:
        """The first record of a method in a norm."""
        return next(line for line in self.lines if (line["method"], line["norm"]) == (method, norm))

    def row(self, method: str, norm: str = "2", **wanted: object) -> dict[str, Any]:
        """The first row of it that has such values."""
        lines = [line for line in self.lines if (line["method"], line["norm"]) == (method, norm)]
        rows = [row for line in lines for row in line["rows"]]
        return next(row for row in rows if all(row[key] == value for key, value in wanted.items()))

    def tensors(self, method: str, norm: str = "2") -> Path:
        """The file of its tensors."""
        return self.path / "tensors" / f"{self.line(method, norm)['unit'].replace('/', '_')}.safetensors"

    def replace_tensors(self, method: str, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
        """Change stored tensors, and state their new hash."""
        file, tensors = self.tensors(method), load_file(self.tensors(method))
        change(tensors)
        save_file(tensors, file)
        self.line(method)["tensors_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()

    def write(self, *, relink: bool = False) -> None:
        """Write manifest and lines; with new links, as somebody does who knows how."""
        write_run(self.path, self.manifest, linked_anew(self.manifest, self.lines) if relink else self.lines)


def tampered(run: Path, folder: Path, edit: Callable[[Lines, dict[str, Any]], None]) -> Path:
    """A copy of a run with other lines or another manifest, linked anew as somebody does who knows how."""
    shutil.copytree(run, folder)
    manifest, lines = read_run(folder)
    edit(lines, manifest)
    write_run(folder, manifest, linked_anew(manifest, lines))
    return folder


def read_run(path: Path) -> tuple[dict[str, Any], Lines]:
    """Manifest and lines as they are stored."""
    lines = (path / "records.jsonl").read_text().splitlines()
    return json.loads((path / "manifest.json").read_text()), [json.loads(line) for line in lines]


def linked_anew(manifest: dict[str, Any], lines: Lines) -> Lines:
    """The lines as a chain that begins with the manifest."""
    last, found = chain.start_of(manifest, INFORMATIVE), []
    for line in lines:
        found.append(chain.linked(line, last))
        last = found[-1]["sha256"]
    return found


def write_run(path: Path, manifest: dict[str, Any], lines: Lines) -> None:
    """Store manifest and lines."""
    (path / "manifest.json").write_text(json.dumps(manifest))
    (path / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
