"""Mistakes that people make: one line names the argument, the rule, the value and the remedy."""

import math
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles.commands import refusal
from torch import nn

import bounds
import certify
from bounds.errors import BoundsError

NETWORK = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))

class Whole(nn.Sequential):
    pass
"""
X = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3)).eval()


class Outputs(nn.Module):
    """A network that returns its logits under a key."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.network(x)}


def scripted(file: Path) -> None:
    """Archive that TorchScript makes of a network, as far as its kind can be told."""
    with zipfile.ZipFile(file, "w") as archive:
        for part in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"net/{part}", b"")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "my_network.py").write_text(NETWORK)
    np.savez(tmp_path / "data.npz", x=X.numpy(), y=Y.numpy())
    np.save(tmp_path / "x.npy", X.numpy())
    np.savez(tmp_path / "several.npz", x_train=X.numpy(), y_train=Y.numpy(), x_test=X.numpy(), y_test=Y.numpy())
    (tmp_path / "text.npz").write_text("no archive")
    torch.save(network(), tmp_path / "whole.pt")
    torch.save({"epoch": 1, "model": network().state_dict(), "ema": network().state_dict()}, tmp_path / "two.pt")
    torch.save({"lr": 0.1}, tmp_path / "nothing.pt")
    torch.save({f"net.{name}": value for name, value in nn.Linear(2, 2).state_dict().items()}, tmp_path / "other.pt")
    (tmp_path / "bad.pt2").write_bytes(b"no program")
    scripted(tmp_path / "scripted.pt")
    return tmp_path


def _required(**changed: object) -> str:
    """A threshold as text."""
    keys = {"method": "ibp", "norm": 2, "radius": 0.1, "at_least": 0.5} | changed
    return "[[require]]\n" + "".join(f"{key} = {value!r}\n" for key, value in keys.items())


BUILT = 'build = "my_network:make"'
DATA = '[data]\nfile = "data.npz"\n'
IN_FILES = {
    "npz that is no archive": (
        f'[model]\n{BUILT}\n[data]\nfile = "text.npz"',
        ["data file", "text.npz", "no .npz file", "write it with numpy.savez(file, x=x, y=y)"],
    ),
    "npy alone": (f'[model]\n{BUILT}\n[data]\nfile = "x.npy"', ["x.npy", "holds inputs alone", 'labels = "y.npy"']),
    "several pairs of arrays": (
        f'[model]\n{BUILT}\n[data]\nfile = "several.npz"',
        ["x_train (4, 3, 2, 2) float32", "y_test (4,) int64", 'inputs = "x_train" and labels = "y_train"'],
    ),
    "weights without a network": (
        f'[model]\nweights = "two.pt"\n{DATA}',
        ["[model] weights", "two.pt", "numbers without a network", 'build = "my_network:make"'],
    ),
    "a whole module": (
        f'[model]\n{BUILT}\nweights = "whole.pt"\n{DATA}',
        ["whole.pt", "a whole pickled module", "Linear", "torch.save(model.state_dict(), file)", "[model] build"],
    ),
    "two state dicts": (
        f'[model]\n{BUILT}\nweights = "two.pt"\n{DATA}',
        ["two.pt", "several state dicts that fit", "model, ema", 'key = "model"'],
    ),
    "no state dict": (f'[model]\n{BUILT}\nweights = "nothing.pt"\n{DATA}', ["nothing.pt", "no state dict", "lr"]),
    "another network": (
        f'[model]\n{BUILT}\nweights = "other.pt"\n{DATA}',
        ["other.pt", "do not fit", "lacks 1.bias, 1.weight, 3.bias, 3.weight", "unknown"],
    ),
    "unknown place": (
        f'[model]\n{BUILT}\nweights = "two.pt"\nkey = "net"\n{DATA}',
        ["[model] key", "'net'", "model, ema"],
    ),
    "TorchScript": (
        f'[model]\n{BUILT}\nweights = "scripted.pt"\n{DATA}',
        ["scripted.pt", "TorchScript", "torch.save(model.state_dict(), file)", "torch.export.save"],
    ),
    "no exported program": (
        f'[model]\nexported = "bad.pt2"\n{DATA}',
        ["exported model", "bad.pt2", "write it with torch.export.save"],
    ),
    "norm with its letter": (
        f'norms = ["l2"]\n[model]\n{BUILT}\n{DATA}',
        ["norms must be a list", 'a number of at least 0 or "inf"', "['l2']", 'write [2, "inf"]'],
    ),
    "unknown key": (
        f"[model]\n{BUILT}\nweight = 1\n{DATA}",
        ["[model]", "'weight'", "did you mean weights?", "known are network, build, weights, key"],
    ),
    "unknown table": (
        f"[model]\n{BUILT}\n{DATA}[modell]",
        ["'modell'", "did you mean model?", "known are model, data"],
    ),
    "unknown method": (
        f"[model]\n{BUILT}\n{DATA}[methods.crowns]",
        ["[methods.crowns] must be one of smoothing, ibp", "got 'crowns'"],
    ),
    "sigma of 0": (
        f"[model]\n{BUILT}\n{DATA}[methods.smoothing]\nsigma = 0",
        ["[methods.smoothing] sigma must be a number above 0, got 0: the default is 0.25"],
    ),
    "alpha of 0": (
        f"[model]\n{BUILT}\n{DATA}[methods.smoothing]\nalpha = 0",
        ["[methods.smoothing] alpha must be a number above 0 and below 1, got 0: the default is 0.001"],
    ),
    "alpha of 1": (
        f"[model]\n{BUILT}\n{DATA}[methods.smoothing]\nalpha = 1",
        ["[methods.smoothing] alpha must be a number above 0 and below 1, got 1: the default is 0.001"],
    ),
    "n of 0": (
        f"[model]\n{BUILT}\n{DATA}[methods.smoothing]\nn = 0",
        ["[methods.smoothing] n must be a whole number of at least 1, got 0: the default is 10000"],
    ),
    "negative epsilon": (
        f"[model]\n{BUILT}\n{DATA}[methods.verify]\nepsilon = -0.1",
        ["[methods.verify] epsilon must be a number above 0, got -0.1: write 0.1"],
    ),
    "a text for a number": (
        f"[model]\n{BUILT}\n[data]\nfile = 'data.npz'\ncount = 'all'",
        ["[data] count must be a whole number of at least 1, got 'all': leave it out"],
    ),
    "no threshold": (
        f'[[require]]\nmethod = "ibp"\nnorm = 2\nradius = 0.1\n[model]\n{BUILT}\n{DATA}',
        ["[[require]] at_least must be given: it is a number of at least 0 and of at most 1, such as 0.5"],
    ),
    "no model": (DATA, ["[model] must be given: a table with some of the keys network, build, weights, key"]),
    "half of a normalisation": (
        f"[model]\n{BUILT}\nmean = [0.5]\n{DATA}",
        ["[model] needs both mean and std, or neither, got mean = [0.5]: add std"],
    ),
    "no reference to a function": (
        f'[model]\nbuild = "my_network.make"\n{DATA}',
        ["[model] build must be module:name, got 'my_network.make': write \"my_module:name\""],
    ),
    "no such module": (
        f'[model]\nbuild = "nothing:make"\n{DATA}',
        ["[model] build 'nothing:make' failed", "put nothing.py next to the configuration, or install it"],
    ),
    "no such network": (
        f'[model]\nnetwork = "resnet18"\n{DATA}',
        ["[model] network must be one of plain, noise, pgd, ibp, or timm:NAME", "got 'resnet18'", "build"],
    ),
    "norm between 0 and 1": (
        f"norms = [0.5]\n[model]\n{BUILT}\n{DATA}",
        ['norms must be 0 or at least 1, got [0.5]: write [2, "inf"]'],
    ),
    "single brackets": (
        f"{_required().replace('[[require]]', '[require]')}[model]\n{BUILT}\n{DATA}",
        ["[[require]] must stand in double brackets, got [require]"],
    ),
    "an estimate as a threshold": (
        f"{_required(method='clever')}[model]\n{BUILT}\n{DATA}[methods.clever]\n[methods.ibp]",
        ["[[require]] method must be one that proves or attacks, got 'clever'", "this run has ibp"],
    ),
    "percent for a share": (
        f"{_required(at_least=50)}[model]\n{BUILT}\n{DATA}",
        ["[[require]] at_least must be a number of at least 0 and of at most 1, got 50: write 0.5"],
    ),
    "percent for a level": (
        f"{_required()}level = 95\n[model]\n{BUILT}\n{DATA}",
        ["[[require]] level must be a number above 0 and below 1, got 95: the default is 0.95"],
    ),
    "a fraction for a radius": (
        f"{_required(radius='8/255')}[model]\n{BUILT}\n{DATA}",
        ["[[require]] radius must be a number of at least 0, got '8/255': write 0.1"],
    ),
    "an unknown population": (
        f"{_required()}about = 'all'\n[model]\n{BUILT}\n{DATA}",
        ['[[require]] about must be one of "population", "these inputs", got \'all\''],
    ),
    "an unknown key of a threshold": (
        f"{_required()}atleast = 1\n[model]\n{BUILT}\n{DATA}",
        ["[[require]] must have known keys only, got 'atleast' (did you mean at_least?): known are method, norm"],
    ),
}


@pytest.mark.parametrize("case", IN_FILES)
def test_a_mistake_in_a_configuration_is_told_in_one_line(case: str, project: Path):
    text, parts = IN_FILES[case]
    (project / "config.toml").write_text(text)
    line = refusal("run", "config.toml", "--output", "out", cwd=project)
    assert [part for part in parts if part not in line] == [], line
    assert not (project / "out").exists()
    assert "weights_only" not in line
    assert "allow_pickle" not in line


def statistics() -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), network()).eval()


IN_PYTHON: dict[str, tuple[Callable[[], object], list[str]]] = {
    "epsilon of NaN": (
        lambda: certify.verify(network(), X, Y, norm=2, epsilon=math.nan),
        ["epsilon must be", "got nan"],
    ),
    "double inputs": (
        lambda: certify.evaluate(network(), X.double(), Y),
        ["float64", "float32", "x.float()"],
    ),
    "half inputs": (lambda: certify.evaluate(network(), X.half(), Y), ["float16", "float32", "x.float()"]),
    "a dictionary": (
        lambda: certify.evaluate(Outputs(), X, Y),
        ["must return logits of shape (N, K), got dict", "output['logits']"],
    ),
    "channels last": (
        lambda: certify.evaluate(nn.Sequential(nn.Conv2d(3, 2, 1), network()), torch.rand(4, 8, 9, 3), Y),
        ["x of shape (5, 8, 9, 3)", "x.permute(0, 3, 1, 2)"],
    ),
    "batch statistics": (
        lambda: certify.evaluate(statistics(), X, Y),
        ["depend on the other rows", "batch statistics", "track_running_stats"],
    ),
    "norms as a text": (lambda: certify.evaluate(network(), X, Y, norms=["l2"]), ["norm must be", "got 'l2'"]),
    "no methods": (
        lambda: certify.evaluate(network(), X, Y, methods=[]),
        ["methods must name at least one, got []", '"standard"'],
    ),
    "a norm with its letter": (
        lambda: certify.certified_radius(network(), X, Y, norm="l2"),
        ["norm must be at least 1", "got 'l2': pass its order, such as 2 or math.inf"],
    ),
    "percent for a probability": (
        lambda: bounds.clopper_pearson_interval(torch.tensor(3), 4, confidence=95),
        ["confidence must lie strictly between 0 and 1, got 95: write 95 % as 0.95"],
    ),
    "no norms": (
        lambda: certify.evaluate(network(), X, Y, norms=[]),
        ["norms must name at least one", "norms=(2, math.inf)"],
    ),
    "an unknown method": (
        lambda: certify.evaluate(network(), X, Y, methods=["crowns"]),
        ["methods must be one of quick, standard, thorough, smoothing, ibp", "got 'crowns'"],
    ),
    "a loader for a tensor": (
        lambda: certify.certified_radius(network(), torch.utils.data.TensorDataset(X, Y), Y, norm=2),
        ["x must be a torch tensor, got TensorDataset", "certify.collect"],
    ),
    "bytes": (
        lambda: certify.evaluate(network(), (X * 255).byte(), Y),
        ["x must be a floating-point tensor, got torch.uint8", "x.float() / 255"],
    ),
    "no draws": (lambda: certify.methods.Smoothing(n=0), ["Smoothing n must be", "at least 1, got 0"]),
}


@pytest.mark.parametrize("case", IN_PYTHON)
def test_a_mistake_in_python_is_told_in_one_line(case: str):
    call, parts = IN_PYTHON[case]
    with pytest.raises(BoundsError) as caught:
        call()
    line = str(caught.value)
    assert [part for part in parts if part not in line] == [], line
    assert "\n" not in line


def test_a_byte_order_mark_is_no_mistake(project: Path):
    """Some editors begin every file with one; it made the first key unknown."""
    from certify.configuration.config import read_config

    (project / "config.toml").write_bytes(b"\xef\xbb\xbfseed = 3\n[model]\n" + BUILT.encode())
    assert read_config(project / "config.toml").seed == 3
