"""Weights from files of all kinds: the right numbers arrive, and nothing in a file runs or is guessed."""

import argparse
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from bounds import InvalidConfiguration, InvalidModel
from certify.configuration.data.inputs import load_data
from certify.configuration.keys import DataSource, ModelSource
from certify.configuration.models.checkpoints import load_weights
from certify.configuration.sources import load_model

SHARED = Path(__file__).parents[4] / "shared" / "data" / "verification" / "pth_models"


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3))


@pytest.fixture(scope="module")
def trained() -> nn.Sequential:
    """A network whose numbers differ from those of a fresh one everywhere, also in what it counted."""
    torch.manual_seed(1)
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(2):
        model(torch.rand(8, 1, 5, 5)).square().sum().backward()
        optimizer.step()
    return model.eval()


def prefixed(model: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value for name, value in model.state_dict().items()}


def adam(model: nn.Module) -> dict:
    """The state of an optimiser, which holds mappings of names to tensors too."""
    optimizer = torch.optim.Adam(model.parameters())
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    copy = [weight.detach().clone() for weight in model.parameters()]
    optimizer.step()
    with torch.no_grad():
        for weight, before in zip(model.parameters(), copy, strict=True):
            weight.copy_(before)
            weight.grad = None
    return optimizer.state_dict()


FORMS: dict[str, Callable[[nn.Module], object]] = {
    "state dict": lambda model: model.state_dict(),
    "state_dict": lambda model: {"epoch": 3, "state_dict": model.state_dict()},
    "model": lambda model: {"model": model.state_dict(), "optimizer": adam(model), "scheduler": {"last": 1}},
    "net": lambda model: {"net": model.state_dict(), "acc": 93.1},
    "deep": lambda model: {"run": {"best": {"weights": model.state_dict()}}},
    "parallel": lambda model: {"state_dict": prefixed(model, "module.")},
    "compiled": lambda model: prefixed(model, "_orig_mod."),
    "twice wrapped": lambda model: prefixed(model, "module.model."),
    "uncounted": lambda model: {name: value for name, value in model.state_dict().items() if "num_" not in name},
    "alien": lambda model: {"state_dict": model.state_dict(), "other": {"a.weight": torch.ones(2)}},
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_gives_its_weights(form: str, legacy: bool, trained: nn.Module, tmp_path: Path):
    file = str(tmp_path / "weights.pt")
    torch.save(FORMS[form](trained), file, _use_new_zipfile_serialization=not legacy)
    model = network()
    x = torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(model.eval()(x), trained(x))
    load_weights(model, file)
    assert torch.equal(model.eval()(x), trained(x))


def test_a_place_is_named_where_several_fit(trained: nn.Module, tmp_path: Path):
    file, ema = str(tmp_path / "weights.pth"), network()
    torch.save({"model": {"a": trained.state_dict()}, "ema": prefixed(ema, "module.")}, file)
    with pytest.raises(InvalidConfiguration, match=r"several state dicts that fit the model, model\.a, ema: .* key = "):
        load_weights(network(), file)
    for key, expected in (("model.a", trained), ("ema", ema)):
        model = network()
        load_weights(model, file, key)
        assert torch.equal(model[0].weight, expected[0].weight)
    with pytest.raises(InvalidConfiguration, match=r"key must be the place .*, got 'b': those in .* are model\.a, ema"):
        load_weights(network(), file, "b")


def test_what_is_left_over_is_not_dropped_silently(trained: nn.Module, tmp_path: Path):
    """It may be a normalisation that belongs to the network."""
    file = str(tmp_path / "weights.pt")
    torch.save(prefixed(trained, "model.") | {"normalize.mean": torch.ones(1)}, file)
    with pytest.raises(InvalidModel, match=r"has unknown .*; if model or normalize is the model, write \[model\] key"):
        load_weights(network(), file)
    model = network()
    load_weights(model, file, "model")
    assert torch.equal(model[4].weight, trained[4].weight)
    torch.save(trained.state_dict() | {"5.weight": torch.ones(1)}, file)
    with pytest.raises(InvalidModel, match=r"the file has unknown 5\.weight$"):
        load_weights(network(), file)


def test_weights_of_another_network_are_refused_with_the_differences(trained: nn.Module, tmp_path: Path):
    file = str(tmp_path / "weights.pt")
    less = {name: value for name, value in prefixed(trained, "module.").items() if not name.startswith("module.4")}
    torch.save({"state_dict": less}, file)
    with pytest.raises(InvalidModel, match=r"the file lacks 4\.bias, 4\.weight$"):
        load_weights(network(), file)
    other = nn.Sequential(*network()[:4], nn.Linear(18, 5))
    torch.save(other.state_dict(), file)
    with pytest.raises(InvalidModel, match=r"4\.weight is \(5, 18\) instead of \(3, 18\), 4\.bias is"):
        load_weights(network(), file)


class Touch:
    """A pickled thing that makes a folder when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("legacy", [False, True])
def test_no_file_of_weights_runs_code(legacy: bool, trained: nn.Module, tmp_path: Path):
    marker, file = tmp_path / "marker", str(tmp_path / "weights.pt")
    content = {"model": trained.state_dict(), "args": Touch(marker)}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InvalidConfiguration, match=r"hold pickled objects \((posix|nt)\.mkdir\), which may run code"):
        load_weights(network(), file)
    assert not marker.exists()
    torch.load(file, weights_only=False)  # or it could not have run
    assert marker.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_a_whole_module_is_refused_with_the_way_out(legacy: bool, trained: nn.Module, tmp_path: Path):
    file = str(tmp_path / "weights.pt")
    torch.save(trained, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        InvalidConfiguration, match=r"a whole pickled module .*torch\.save\(model\.state_dict\(\)"
    ) as caught:
        load_weights(network(), file)
    assert "weights_only" not in str(caught.value)
    torch.save({"model": trained.state_dict(), "args": argparse.Namespace(lr=0.1)}, file)
    with pytest.raises(InvalidConfiguration, match=r"hold pickled objects \(argparse\.Namespace\)"):
        load_weights(network(), file)


@pytest.mark.slow
def test_torchscript_is_refused_with_the_way_out(trained: nn.Module, tmp_path: Path):
    file = str(tmp_path / "weights.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(trained, torch.rand(1, 1, 5, 5)).save(file)
    with pytest.raises(InvalidConfiguration, match=r"TorchScript archive.*torch\.save\(model\.state_dict\(\)"):
        load_weights(network(), file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: "),
        (b"", "cannot be read as a file of torch.save"),
        (b"plain text", "cannot be read as a file of torch.save"),
        (b"PK\x03\x04 cut", "cannot be read as a file of torch.save"),
        (pickle.dumps([1, 2]), "cannot be read as a file of torch.save"),
    ],
)
def test_what_is_no_file_of_weights_is_refused_in_one_line(content: bytes | None, message: str, tmp_path: Path):
    file = tmp_path / "weights.pt"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    with pytest.raises(InvalidConfiguration, match=message) as caught:
        load_weights(network(), str(file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (ModelSource(weights="w.pt"), r"w\.pt are numbers without a network: name the function"),
        (ModelSource(network="ibp", weights="w.pt"), "weights belong to a model named by build"),
        (ModelSource(network="ibp", num_classes=3), "num_classes belong to a model named by build"),
        (ModelSource(build="a:b", num_classes=3), "num_classes is for timm: and torchvision:"),
        (ModelSource(build="a:b", key="model"), "key needs weights"),
        (ModelSource(build="a:b", onnx="c.onnx"), "must name exactly one of network, build, exported and onnx, got"),
    ],
)
def test_keys_of_a_model_must_fit_each_other(source: ModelSource, message: str):
    with pytest.raises(InvalidConfiguration, match=message):
        load_model(source)


def test_the_beginning_of_names_is_a_place_too(trained: nn.Module, tmp_path: Path):
    file = str(tmp_path / "weights.safetensors")
    save_file(prefixed(trained, "module."), file)
    save_file(prefixed(trained, "net.0.") | {"acc": torch.tensor(9)}, f"{tmp_path}/more.safetensors")
    for path, key in ((file, None), (file, "module"), (f"{tmp_path}/more.safetensors", "net")):
        model = network()
        load_weights(model, path, key)
        assert torch.equal(model[0].weight, trained[0].weight)


def perceptron() -> nn.Sequential:
    """The architecture of mnist_6_100, as its file names it."""
    layers = [nn.Flatten(), nn.Linear(784, 100), nn.ReLU()]
    for _ in range(4):
        layers += [nn.Linear(100, 100), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(100, 10))


def convolutional() -> nn.Sequential:
    """The architecture of mnist_cnn_a_adv."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10)),
    )


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="the published weights are not on this machine")
@pytest.mark.parametrize(
    ("name", "build", "key"), [("mnist_cnn_a_adv", convolutional, None), ("mnist_6_100_nat", perceptron, "state_dict")]
)
def test_published_weights_and_images_arrive(
    name: str, build: Callable[[], nn.Module], key: str | None, tmp_path: Path
):
    """Accuracies are the published ones, also of the checkpoint that the weights were taken from."""
    weights = load_file(SHARED / f"{name}.safetensors")
    inner = {entry.removeprefix("state_dict."): value for entry, value in weights.items() if entry != "acc"}
    torch.save({"state_dict": inner, "acc": 9}, tmp_path / "weights.pt")
    for file, place in ((SHARED / f"{name}.safetensors", key), (tmp_path / "weights.pt", None)):
        model = build()
        load_weights(model, str(file), place)
        source = DataSource(file=str(SHARED / "data_mnist_sdp200.npz"), channels_last=True, divide_by=255)
        x, y = load_data(source, model)
        assert x.shape == (200, 1, 28, 28)
        assert float((model(x).argmax(1) == y).double().mean()) > 0.95
