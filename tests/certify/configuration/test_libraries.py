"""Networks of model libraries, against stand-ins that have the documented interface of each."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import certify
from bounds import InvalidConfiguration, Normalize
from certify.configuration.config import read_config
from certify.configuration.keys import ModelSource
from certify.configuration.sources import load_model

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
X = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))


def network(classes: int = 5) -> nn.Sequential:
    torch.manual_seed(classes)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, classes))


def normalised(x: Tensor) -> Tensor:
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Documented: ``timm.create_model(name, pretrained=False, num_classes=...)``, ``model.pretrained_cfg``."""
    module = ModuleType("timm")
    module.asked = []

    def create_model(model_name: str, pretrained: bool = False, **options: int) -> nn.Module:
        module.asked.append((model_name, pretrained, options))
        if model_name == "unknown":
            raise RuntimeError("Unknown model (unknown)\nmore")
        model = network(**({"classes": options["num_classes"]} if options else {}))
        model.pretrained_cfg = {"mean": tuple(MEAN), "std": tuple(STD), "input_size": (3, 2, 2)}
        return model.train()

    module.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", module)
    return module


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Documented: ``models.get_model(name, weights=...)``, ``models.get_model_weights(name).DEFAULT.transforms()``."""
    module = ModuleType("torchvision")
    weights = SimpleNamespace(DEFAULT=SimpleNamespace(transforms=lambda: SimpleNamespace(mean=MEAN, std=STD)))
    module.asked = []

    def get_model(name: str, weights: object = None, **options: int) -> nn.Module:
        module.asked.append((name, weights, options))
        return network(**({"classes": options["num_classes"]} if options else {}))

    module.models = SimpleNamespace(get_model=get_model, get_model_weights=lambda name: weights)
    module.default = weights.DEFAULT
    monkeypatch.setitem(sys.modules, "torchvision", module)
    return module


class PreTrainedModel(nn.Module):
    """Stand-in of that class of transformers: a call returns an object with ``logits``."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.network(pixel_values), loss=None)


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Documented: ``AutoModelForImageClassification`` and ``AutoImageProcessor``, ``from_pretrained`` of each."""
    module = ModuleType("transformers")
    usual = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": MEAN, "image_std": STD}
    module.processor, module.asked = SimpleNamespace(**usual), []

    def made(result: object) -> SimpleNamespace:
        def from_pretrained(folder: str, **options: bool) -> object:
            module.asked.append((folder, options))
            return result

        return SimpleNamespace(from_pretrained=from_pretrained)

    module.PreTrainedModel = PreTrainedModel
    module.AutoModelForImageClassification = made(PreTrainedModel())
    module.AutoImageProcessor = made(module.processor)
    monkeypatch.setitem(sys.modules, "transformers", module)
    return module


def test_timm_gives_its_network_with_its_normalisation(timm: ModuleType):
    model = load_model(ModelSource(network="timm:resnet18.a1"))
    assert timm.asked == [("resnet18.a1", True, {})]
    assert not model.training
    assert isinstance(model[0], Normalize)
    assert torch.allclose(model(X), network()(normalised(X)), atol=1e-5)


def test_torchvision_gives_its_network_with_its_normalisation(torchvision: ModuleType):
    model = load_model(ModelSource(network="torchvision:resnet18"))
    assert torchvision.asked == [("resnet18", torchvision.default, {})]
    assert torch.allclose(model(X), network()(normalised(X)), atol=1e-5)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_own_weights_come_without_a_normalisation_and_with_their_classes(
    library: str, timm: ModuleType, torchvision: ModuleType, tmp_path: Path
):
    """Nobody knows which normalisation they were trained with."""
    own = network(3)
    with torch.no_grad():
        own[1].weight.mul_(2)
    torch.save({"model": own.state_dict()}, tmp_path / "own.pt")
    source = ModelSource(network=f"{library}:resnet18", weights=str(tmp_path / "own.pt"), num_classes=3)
    assert torch.equal(load_model(source)(X), own(X))
    assert sys.modules[library].asked[0][1] in (False, None)
    assert sys.modules[library].asked[0][2] == {"num_classes": 3}


@pytest.mark.slow
def test_a_folder_of_transformers_gives_logits_of_raw_images(transformers: ModuleType, tmp_path: Path):
    (tmp_path / "vit").mkdir()
    (tmp_path / "config.toml").write_text('[model]\nnetwork = "hf:vit"\n')
    model = load_model(read_config(tmp_path / "config.toml").model)
    folder = str(tmp_path.resolve() / "vit")
    assert transformers.asked == [(folder, {"local_files_only": True, "trust_remote_code": False})] * 2
    assert torch.allclose(model(X), network()(normalised(X)), atol=1e-5)
    radii = certify.certified_radius(model, X, model(X).argmax(1), norm=2).radius  # bounds see through the wrapper
    assert (radii > 0).all()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"do_normalize": False}, lambda x: x),
        ({"do_rescale": False, "do_normalize": True}, lambda x: normalised(255 * x)),
        ({"rescale_factor": 1 / 127.5, "rescale_offset": True}, lambda x: normalised(2 * x - 1)),
        ({"rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False}, lambda x: 2 * x - 1),
        ({"do_rescale": False, "do_normalize": False}, lambda x: 255 * x),
    ],
)
def test_what_an_image_processor_does_is_part_of_the_model(
    settings: dict, expected: object, transformers: ModuleType, tmp_path: Path
):
    """Processors begin with bytes: what they do to 255 x must be what the model does to x."""
    vars(transformers.processor).update(settings)
    model = load_model(ModelSource(network=f"hf:{tmp_path}"))
    assert torch.allclose(model(X), network()(expected(X)), atol=1e-3, rtol=1e-4)


def test_a_network_of_transformers_that_a_function_builds_gives_logits(transformers: ModuleType, tmp_path: Path):
    (tmp_path / "own_vit.py").write_text(
        "from transformers import AutoModelForImageClassification as Model\n"
        "def make():\n    return Model.from_pretrained('a')\n"
    )
    model = load_model(ModelSource(build=f"{tmp_path}/own_vit.py:make"))
    assert torch.equal(model(X), network()(X))


def test_stated_values_replace_those_of_the_library(timm: ModuleType):
    model = load_model(ModelSource(network="timm:resnet18", mean=[0.5], std=[0.5]))
    assert torch.allclose(model(X), network()(2 * X - 1), atol=1e-5)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (ModelSource(network="timm:unknown"), "network timm:unknown failed: RuntimeError: Unknown model"),
        (ModelSource(network="hf:nowhere"), "network hf: must be a folder on disk, got 'nowhere'"),
        (ModelSource(network="resnet18"), r"\[model\] network must be one of plain, .* timm:NAME, .* got 'resnet18'"),
    ],
)
def test_what_a_library_does_not_make_is_told_in_one_line(
    source: ModelSource, message: str, timm: ModuleType, transformers: ModuleType
):
    with pytest.raises(ValueError, match=message) as caught:
        load_model(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "package"), [("timm:a", "timm"), ("torchvision:a", "torchvision"), ("hf:a", "transformers")]
)
def test_a_missing_library_is_named(name: str, package: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InvalidConfiguration, match=rf"needs the package {package}, .*: pip install {package}, or"):
        load_model(ModelSource(network=name))
