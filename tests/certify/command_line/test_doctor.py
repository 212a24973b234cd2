"""The doctor: what it finds is there, it finds nothing where all is well, and its configuration runs."""

import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles.commands import certify, refusal
from PIL import Image
from torch import Tensor, nn

from bounds import Normalize
from certify.command_line.diagnosis import symptoms
from certify.command_line.diagnosis.symptoms import Answers
from certify.configuration.data.labelled import LabelledInputs
from certify.configuration.keys import DataSource

NETWORK = """
from torch import nn

def make():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3)
    )
"""
CLASSES = ("cross", "bar", "post")


def pictures(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Bars, posts and crosses of 8 x 8 bytes, (N, 1, 8, 8) in [0, 1]; classes in the sorted order of their names."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3  # bar, cross, post
    x = 0.3 * torch.rand(count, 1, 8, 8, generator=generator)
    place = torch.randint(8, (count,), generator=generator)
    for i in range(count):
        if y[i] != 2:
            x[i, 0, place[i]] += 0.6
        if y[i] != 0:
            x[i, 0, :, place[i]] += 0.6
    return (x.clamp(max=1) * 255).round() / 255, y


def made() -> nn.Module:
    namespace: dict = {}
    exec(NETWORK, namespace)
    return namespace["make"]()


def trained(prepared: Callable[[Tensor], Tensor] = lambda x: x) -> nn.Module:
    """A network that was trained on pictures which were prepared so."""
    torch.manual_seed(0)
    model, (x, y) = made(), pictures(240, seed=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(prepared(x)), y).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return trained()


def write_images(folder: Path, x: Tensor, y: Tensor, names: tuple[str, ...] = tuple(sorted(CLASSES))) -> None:
    for i, (image, label) in enumerate(zip(x, y.tolist(), strict=True)):
        file = folder / names[label] / f"{i:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image[0] * 255).round().byte().numpy()).save(file)


@pytest.mark.slow
def test_from_weights_and_images_to_a_page_and_a_gate_that_passes(network: nn.Module, tmp_path: Path):
    """A stranger has a checkpoint, the function of its network, and a folder of images; nothing else is written."""
    (tmp_path / "my_network.py").write_text(NETWORK)
    torch.save(
        {"epoch": 7, "state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "w.pt"
    )
    write_images(tmp_path / "images", *pictures(60))
    told = certify(
        *("doctor", "--model", "w.pt", "--build", "my_network:make", "--data", "images", "--output", "certify.toml"),
        cwd=tmp_path,
    )
    assert "classes in sorted order: 0 bar, 1 cross, 2 post" in told
    assert "problem" not in told
    text = (tmp_path / "certify.toml").read_text()
    assert text.count("\n") <= 12
    settings = tomllib.loads(text)
    assert settings["model"] == {"build": "my_network:make", "weights": "w.pt"}
    assert settings["data"] == {"folder": "images", "sample": 50, "stratum": "label"}
    assert settings["require"][0]["at_least"] > 0.3
    told = certify("run", "certify.toml", "--output", "out", cwd=tmp_path)
    assert "/255)" in told
    assert "note: classes in sorted order: 0 bar, 1 cross, 2 post" in told
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "/255)" in page
    certify("check", "out", cwd=tmp_path)
    stricter = text.replace(f"at_least = {settings['require'][0]['at_least']}", "at_least = 1.0").replace(
        f"radius = {settings['require'][0]['radius']}", "radius = 0.5"
    )
    (tmp_path / "stricter.toml").write_text(stricter)
    certify("run", "stricter.toml", "--output", "out", cwd=tmp_path, expect=1)  # or the gate could not fail


@pytest.mark.slow
def test_what_is_found_stands_in_the_configuration(tmp_path: Path):
    """Bytes with channels last that nobody divided, a normalisation that nobody named: all are in the file."""
    (tmp_path / "my_network.py").write_text(NETWORK)
    torch.save(trained(lambda x: (x - 0.1307) / 0.3081).state_dict(), tmp_path / "w.pt")
    x, y = pictures(24)
    bytes_ = (x.permute(0, 2, 3, 1) * 255).round().byte()
    np.savez(tmp_path / "data.npz", images=bytes_.numpy(), labels=y.numpy())
    told = certify(
        *("doctor", "--model", "w.pt", "--build", "my_network:make", "--data", "data.npz", "--output", "certify.toml"),
        cwd=tmp_path,
    )
    assert "images of 8 bits need divide_by = 255" in told
    settings = tomllib.loads((tmp_path / "certify.toml").read_text())
    assert settings["data"] == {"file": "data.npz", "channels_last": True, "divide_by": 255}
    assert "a normalisation that is missing" in told
    assert set(settings["model"]) == {"build", "weights", "mean", "std"}
    told = certify("doctor", "certify.toml", cwd=tmp_path)
    assert "problem" not in told
    assert "normalisation: part of the model, mean [0.1307], std [0.3081]" in told


def test_a_configuration_without_faults_is_left_alone(network: nn.Module, tmp_path: Path):
    (tmp_path / "my_network.py").write_text(NETWORK)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    x, y = pictures(30)
    np.savez(tmp_path / "data.npz", x=x.numpy(), y=y.numpy())
    (tmp_path / "config.toml").write_text(
        '[model]\nbuild = "my_network:make"\nweights = "w.pt"\n[data]\nfile = "data.npz"\n[methods.ibp]\n'
    )
    told = certify("doctor", "config.toml", cwd=tmp_path)
    assert "problem" not in told
    assert "methods: ibp" in told
    assert "ready to run" not in told
    assert "must have a configuration or --model" in refusal(
        "doctor", "config.toml", "--data", "data.npz", cwd=tmp_path
    )
    assert "must have a model for data.npz" in refusal("doctor", "--data", "data.npz", cwd=tmp_path)


# --------------------------------------------------------------------------------------------------------- symptoms


def shown(x: Tensor, y: Tensor, classes: tuple[str, ...] = ()) -> LabelledInputs:
    return LabelledInputs(x=x, y=y, classes=classes)


NORMALISATIONS = {"MNIST": (0.1307, 0.3081), "from -1 to 1": (0.5, 0.5), "from 0 to 255": (0.0, 1 / 255)}


@pytest.mark.slow
@pytest.mark.parametrize("name", NORMALISATIONS)
def test_a_missing_normalisation_is_found(name: str):
    """Its name may be that of another one with which the network does as well; its accuracy says so."""
    mean, std = NORMALISATIONS[name]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()  # without biases that could take it in
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(3, 64) / 8)
        model[1].bias.copy_(-model[1].weight.sum(1) * (0.3 - mean) / std)
    x, _ = pictures(300)
    y = model((x - mean) / std).argmax(1)
    found = symptoms.normalisation(model, shown(x, y), 100)
    right = (model(x).argmax(1) == y).double().mean()
    if right > 0.9:
        assert found is None
        return
    assert "a normalisation that is missing" in found.sentence
    fitted = nn.Sequential(Normalize(found.model["mean"], found.model["std"]), model)
    assert (fitted(x).argmax(1) == y).double().mean() > right + 0.05


def test_a_normalisation_that_stands_twice_is_found():
    x, _ = pictures(300)
    inner = nn.Sequential(
        Normalize([0.5], [0.1]), nn.Flatten(), nn.Linear(64, 3, bias=False), nn.Tanh(), nn.Linear(3, 3)
    )
    torch.manual_seed(0)
    for weight in inner.parameters():
        nn.init.normal_(weight)
    y = inner(x).argmax(1)
    twice = nn.Sequential(Normalize([0.5], [0.1]), inner).eval()
    found = symptoms.normalisation(twice, shown(x, y), 100)
    assert "leave mean and std of [model] out" in found.sentence
    assert found.model == {"mean": None, "std": None}
    before = (x - 0.5) / 0.5  # in the data as well
    usual = nn.Sequential(Normalize([0.5], [0.5]), *list(inner)[1:])
    found = symptoms.normalisation(nn.Sequential(nn.Identity(), usual), shown(before, usual(x).argmax(1)), 100)
    assert "inputs are normalised twice" in found.sentence


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_classes_in_another_order_are_found(share: float, network: nn.Module):
    """Also where some answers are wrong; the remedy puts the names in the order of the model."""
    x, y = pictures(150)
    predicted = network(x).argmax(1)
    wrong = torch.rand(150, generator=torch.Generator().manual_seed(0)) < share
    predicted = torch.where(wrong, 0, predicted)
    moved = torch.tensor([2, 0, 1])[y]  # the labels of folders called c, a, b for bars, crosses and posts
    found = symptoms.class_order(Answers(predicted, moved), 3, shown(x, moved, ("a", "b", "c")))
    assert found.data == {"classes": ["c", "a", "b"]}
    assert symptoms.class_order(Answers(predicted, y), 3, shown(x, y, ("a", "b", "c"))) is None
    nameless = symptoms.class_order(Answers(predicted, moved), 3, shown(x, moved))
    assert "of the labels, in the model 0 is 1, 1 is 2, 2 is 0" in nameless.sentence
    assert nameless.data == {}


def test_nothing_is_found_in_answers_by_chance():
    """The best order of 10 classes fits 40 random answers of 200 where 20 are right by chance: no finding."""
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        predicted, labels = (torch.randint(10, (200,), generator=generator) for _ in range(2))
        answers = Answers(predicted, labels)
        assert symptoms.class_order(answers, 10, shown(torch.zeros(200, 1), labels)) is None
        assert symptoms.guessing(answers) is not None
    assert symptoms.guessing(Answers(labels, labels)) is None


def test_a_trained_network_has_no_symptoms(network: nn.Module):
    x, y = pictures(120)
    assert symptoms.normalisation(network, shown(x, y), 50) is None
    assert symptoms.guessing(Answers(network(x).argmax(1), y)) is None
    assert list(symptoms.training_layers(network)) == []
    assert "first layer (Conv2d): values from" in symptoms.first_layer(network, x)


@pytest.mark.parametrize(
    ("x", "source", "message", "change"),
    [
        ([[0.0, 1.0]], DataSource(), None, {}),
        ([[0.0, 255.0]], DataSource(file="a.npz"), "divide_by = 255", {"divide_by": 255.0}),
        ([[0.0, 1 / 255]], DataSource(file="a.npz", divide_by=255), "divided by 255 twice", {"divide_by": 1.0}),
        ([[-2.1, 2.6]], DataSource(file="a.npz"), "mean and std under [model]", {"low": "none", "high": "none"}),
        ([[0.0, 3.7]], DataSource(file="a.npz"), "low and high", {"low": "none", "high": "none"}),
        ([[0.0, 3.7]], DataSource(file="a.npz", high=4.0), None, {}),
        ([[-9.0, 3.7]], DataSource(file="a.npz", low="none", high="none"), None, {}),
    ],
)
def test_a_range_that_does_not_fit_is_found(x: list, source: DataSource, message: str | None, change: dict):
    found = symptoms.unfit_range(torch.tensor(x), source, table=False)
    assert (found is None) == (message is None)
    if found is not None:
        assert message in found.sentence
        assert found.data == change


class Stubborn(nn.Dropout):
    """A layer that stays random whatever is asked, for averages over its answers."""

    def train(self, mode: bool = True) -> "Stubborn":
        return super().train(True)


def test_layers_that_act_as_in_training_are_found():
    model = nn.Sequential(
        nn.BatchNorm2d(1, track_running_stats=False), nn.BatchNorm2d(1), nn.InstanceNorm2d(1), Stubborn()
    )
    found = [finding.sentence for finding in symptoms.training_layers(model.eval())]
    assert found == [
        "0 (BatchNorm2d) has no running statistics, so inputs of a batch change each other's answers",
        "1 (BatchNorm2d) has never seen a batch: were its weights loaded?",
        "3 (Stubborn) stays in training mode after eval(): its answers may be random",
    ]


@pytest.mark.slow
def test_operations_without_a_rule_are_named_with_their_line(tmp_path: Path):
    (tmp_path / "odd.py").write_text(
        "from torch import nn\nfrom oracles.unbounded import LogGamma\n\ndef make():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3), LogGamma())\n"
    )
    x, y = pictures(12)
    np.savez(tmp_path / "data.npz", x=x.numpy(), y=y.numpy())
    told = certify("doctor", "--build", "odd:make", "--data", "data.npz", cwd=tmp_path)
    (line,) = [line for line in told.splitlines() if line.startswith("problem: aten.lgamma")]
    assert "unbounded.py" in line
    assert "[methods.attack]" in told
