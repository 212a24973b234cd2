"""Models and data from files: what is read is what was meant, and the rest is refused in one sentence."""

import io
import math
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from bounds import InvalidConfiguration, InvalidInput, checks
from certify.configuration.config import Config, DataSource, ModelSource, Requirement, read_config
from certify.configuration.sources import load_data, load_model, torch_device
from certify.methods import IntervalBounds, Method, MinimalPerturbation, Smoothing

LINEAR = nn.Linear(3, 2)
X = np.arange(12).reshape(4, 3)


def stored(folder: Path, **arrays: object) -> DataSource:
    np.savez(folder / "data.npz", **arrays)
    return DataSource(file=str(folder / "data.npz"), divide_by=11)


@pytest.mark.parametrize("dtype", [*"bBhHiIqQefdg", ">f4", ">f8", ">i4", "<u2"])
def test_inputs_of_every_real_type_are_the_same_numbers(dtype: str, tmp_path: Path):
    x, y = load_data(stored(tmp_path, x=X.astype(dtype), y=np.zeros(4, int)), LINEAR)
    assert x.dtype == torch.float32
    assert torch.equal(x, torch.arange(12.0).reshape(4, 3) / 11)
    assert y.tolist() == [0] * 4


@pytest.mark.parametrize("dtype", [*"bBhHiIqQ", ">i4", ">u8"])
def test_labels_of_every_integer_type_are_the_same_classes(dtype: str, tmp_path: Path):
    _, y = load_data(stored(tmp_path, x=X, y=np.array([0, 1, 1, 0]).astype(dtype)), LINEAR)
    assert checks.labels(y, 4, 2).tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("y", [np.zeros(4), np.zeros(4, complex), np.zeros(4, bool), np.full(4, 2**64 - 1, np.uint64)])
def test_other_labels_are_left_to_the_check_of_labels(y: np.ndarray, tmp_path: Path):
    _, labels = load_data(stored(tmp_path, x=X, y=y), LINEAR)
    with pytest.raises(InvalidInput, match="labels must be"):
        checks.labels(labels, 4, 2)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X.astype(complex), "y": np.zeros(4, int)}, "must hold real x and integer y, got complex128 and int64"),
        ({"x": X.astype(str), "y": np.zeros(4, int)}, "must hold real x"),
        ({"x": X, "y": np.array(list("abcd"))}, "must hold real x"),
        (
            {"x": X.astype(object), "y": np.zeros(4, int)},
            "cannot be read: it holds Python objects, .*: save arrays of numbers",
        ),
        ({"x": np.array(1.0), "y": np.zeros(4, int)}, r"must hold x \(N, \*D\) and y \(N,\), got \(\) and \(4,\)"),
        ({"x": X, "y": np.array(1)}, r"got \(4, 3\) and \(\)"),
        ({"x": X[0], "y": np.zeros(3, int)}, r"got \(3,\) and \(3,\)"),
        (
            {"x": X, "labels": np.zeros(4)},
            r"has x \(4, 3\) int64, labels \(4,\) float64, of which no two fit: name two",
        ),
        ({"x": X, "y": np.zeros(3, int)}, "one label per input, got 4 and 3"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays: dict, message: str, tmp_path: Path):
    with pytest.raises(InvalidConfiguration, match=message):
        load_data(stored(tmp_path, **arrays), LINEAR)


def archive(compressed: bool) -> bytes:
    content = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(content, x=np.arange(300.0).reshape(100, 3), y=np.zeros(100, int))
    return content.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_archive_is_refused_or_read_and_never_fails_otherwise(compressed: bool, tmp_path: Path):
    """Cut, or with one byte changed, at many places: zip, zlib, numpy and ast all raise errors of their own."""
    whole, file = archive(compressed), tmp_path / "data.npz"
    flipped = [whole[:i] + bytes([whole[i] ^ 0x55]) + whole[i + 1 :] for i in range(0, len(whole), 7)]
    refused = 0
    for content in [b"", b"text", *(whole[:i] for i in range(0, len(whole), 97)), *flipped]:
        file.write_bytes(content)
        try:
            load_data(DataSource(file=str(file)), LINEAR)
        except InvalidConfiguration:
            refused += 1
    assert refused > len(whole) / 97


def test_counts_are_checked_also_where_no_file_was_read(tmp_path: Path):
    with pytest.raises(InvalidInput, match="DataSource count must be a whole number of at least 1, got -5"):
        DataSource(count=-5)
    with pytest.raises(InvalidConfiguration, match="count must be from 1 to 1000, the inputs there are, got 1001"):
        load_data(DataSource(count=1001), LINEAR)


@pytest.mark.parametrize("name", ["meta", "warp", "", "xla", "hpu", "privateuseone", "cuda:99"])
def test_a_device_that_does_not_compute_is_refused(name: str):
    with pytest.raises(InvalidConfiguration, match=r"cannot be used on this machine: \w"):
        torch_device(name)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Smoothing(n=0), "Smoothing n must be a whole number of at least 1, got 0: the default is 10000"),
        (lambda: Smoothing(sigma=-1), "Smoothing sigma must be a number above 0, got -1: the default is 0.25"),
        (lambda: Smoothing(sigma=math.inf), "Smoothing sigma must be a finite number, got inf"),
        (lambda: Smoothing(sigma=math.nan), "Smoothing sigma must be .*, got nan"),
        (lambda: Smoothing(alpha=1), "Smoothing alpha must be a number above 0 and below 1, got 1"),
        (lambda: Smoothing(n="many"), "Smoothing n must be a whole number of at least 1, got 'many'"),
        (lambda: IntervalBounds(tolerance=0.0), "IntervalBounds tolerance must be a number above 0, got 0.0"),
        (lambda: MinimalPerturbation(steps=0), "MinimalPerturbation steps must be a whole number of at least 1, got 0"),
        (lambda: DataSource(low=1, high=1), "low must be below high"),
        (lambda: DataSource(divide_by=255), "divide_by needs a file"),
        (lambda: Config(model=ModelSource(), seed=2**63), "Config seed must be"),
        (
            lambda: Requirement(method="ibp", norm=math.inf, radius=0.1, at_least=0.5),
            "Requirement norm must be a finite number",
        ),
    ],
)
def test_settings_built_in_python_keep_the_bounds_of_the_file(build, message: str):
    """``msgspec`` looks at values only when it decodes: ``Smoothing(n=0)`` used to pass."""
    with pytest.raises(InvalidInput, match=message):
        build()


def test_settings_that_are_fine_are_fine():
    assert Smoothing(sigma=1).sigma == 1
    assert Config(model=ModelSource(network="ibp"), seed=2**63 - 1).seed == 2**63 - 1
    assert msgspec.convert(msgspec.to_builtins(Smoothing(n=5)), Smoothing) == Smoothing(n=5)

    class Mine(Method, frozen=True, kw_only=True):
        name, norms = "mine", (2.0,)
        weights: torch.Tensor
        transform: object = None

    assert Mine(weights=torch.ones(2)).weights.sum() == 2


PLAIN = """
from torch import nn

def make():
    return nn.Linear(3, 2)
"""
IMPORTING = """
from dataclasses import dataclass
from torch import nn

@dataclass
class Settings:
    width: int = 2

def make():
    from neighbour_of_sib_late import WIDTH
    from neighbour_of_sib import build
    assert WIDTH == Settings().width
    return build()
"""


def built(folder: Path, name: str) -> nn.Module:
    (folder / "config.toml").write_text(f'[model]\nbuild = "{name}:make"\n')
    return load_model(read_config(folder / "config.toml").model)


def test_a_module_may_import_its_neighbours(tmp_path: Path):
    (tmp_path / "sib.py").write_text(IMPORTING)
    (tmp_path / "neighbour_of_sib.py").write_text(PLAIN.replace("make", "build"))
    (tmp_path / "neighbour_of_sib_late.py").write_text("WIDTH = 2")
    before = list(sys.path)
    assert isinstance(built(tmp_path, "sib"), nn.Linear)
    assert sys.path == before


def test_a_module_of_a_common_name_replaces_no_other(tmp_path: Path):
    (tmp_path / "json.py").write_text(PLAIN)
    json = sys.modules["json"]
    assert isinstance(built(tmp_path, "json"), nn.Linear)
    assert sys.modules["json"] is json


@pytest.mark.parametrize("line", ["1 / 0", "import no_such_module", "raise SystemExit(0)", "def"])
def test_a_module_that_fails_is_refused_and_leaves_no_path_behind(line: str, tmp_path: Path):
    """``sys.exit`` in it used to end the whole command as a success."""
    (tmp_path / "fails.py").write_text(line)
    before = list(sys.path)
    with pytest.raises(InvalidConfiguration, match=r"build '.*fails\.py:make' failed: "):
        built(tmp_path, "fails")
    assert sys.path == before


@pytest.mark.parametrize("content", [None, b"", b"not safetensors"])
def test_weights_that_cannot_be_read_are_refused(content: bytes | None, tmp_path: Path):
    (tmp_path / "network_of_three.py").write_text(PLAIN)
    weights = tmp_path / "weights.safetensors"
    weights.mkdir() if content is None else weights.write_bytes(content)
    with pytest.raises(InvalidConfiguration, match="cannot be read as safetensors"):
        load_model(ModelSource(build=f"{tmp_path}/network_of_three.py:make", weights=str(weights)))


def test_a_configuration_may_ask_for_attacks_in_every_norm_and_on_the_smoothed_classifier(tmp_path: Path):
    text = 'norms = [0, 1, "inf"]\n[model]\nnetwork = "ibp"\n[methods.attack]\n[methods.smoothed_attack]\nsigma = 0.5\n'
    (tmp_path / "config.toml").write_text(text)
    config = read_config(tmp_path / "config.toml")
    assert config.norm_orders() == [0.0, 1.0, math.inf]
    assert [method.name for method in config.chosen_methods()] == ["attack", "smoothed_attack"]
    assert config.methods[1].sigma == 0.5
