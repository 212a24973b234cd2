"""Columns that no perturbation changes: by name in a file, in every method that can keep features."""

from pathlib import Path

import pytest
import torch
from oracles.commands import certify, records, refusal

from bounds.errors import InvalidConfiguration
from certify import DataSource
from certify.configuration.config import read_config
from certify.configuration.data.inputs import load_data
from certify.configuration.frozen_columns import methods_for

TABLE = """age,sex,income,label
0.2,f,0.3,0
0.8,m,0.4,1
0.5,f,0.9,1
0.1,m,0.2,0
"""
NETWORK = """
import torch
from torch import nn

def make():
    network = nn.Linear(4, 2)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[-3.0, 1.0, -1.0, -2.0], [3.0, -1.0, 1.0, 2.0]]))
        network.bias.copy_(torch.tensor([3.0, -3.0]))
    return network
"""
CONFIG = """
norms = ["inf"]
[model]
build = "my_network:make"
[data]
file = "table.csv"
frozen = {frozen}
[methods.ibp]
{own}
[methods.attack]
steps = 5
[methods.smoothing]
n = 100
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "table.csv").write_text(TABLE)
    (tmp_path / "my_network.py").write_text(NETWORK)
    return tmp_path


def write(project: Path, frozen: str, own: str = "") -> Path:
    (project / "config.toml").write_text(CONFIG.format(frozen=frozen, own=own))
    return project / "config.toml"


def test_names_become_places_of_features(project: Path):
    """The places of a categorical column are all its features, as :meth:`LabelledInputs.frozen` has them."""
    config = read_config(write(project, '["age", "sex"]'))
    data = load_data(config.data, torch.nn.Linear(4, 2))
    methods, said = methods_for(config, data)
    by_name = {method.name: method for method in methods}
    expected = {"shape": [4], "places": [0, 1, 2]}
    assert by_name["ibp"].frozen_features == by_name["attack"].frozen_features == expected
    assert not hasattr(by_name["smoothing"], "frozen_features")
    assert said == "age and sex keep their values in ibp and attack; smoothing may change all features"


def test_a_method_keeps_its_own_features_and_nothing_is_said_without(project: Path):
    config = read_config(write(project, '["age"]', "frozen_features = [3]"))
    methods, _ = methods_for(config, load_data(config.data, torch.nn.Linear(4, 2)))
    assert {method.name: getattr(method, "frozen_features", None) for method in methods}["ibp"] == [3]
    config = read_config(write(project, "[]"))
    assert methods_for(config, load_data(config.data, torch.nn.Linear(4, 2))) == (config.chosen_methods(), "")


@pytest.mark.slow
def test_radii_are_those_of_the_features_that_are_left(project: Path):
    """Closed form of an affine network: the margin over twice the weight of income, the only free feature."""
    write(project, '["age", "sex"]')
    told = certify("run", "config.toml", "--output", "out", cwd=project)
    assert "age and sex keep their values" in told
    x = torch.tensor([[0.2, 1, 0, 0.3], [0.8, 0, 1, 0.4], [0.5, 1, 0, 0.9], [0.1, 0, 1, 0.2]])
    margin = (x @ torch.tensor([3.0, -1.0, 1.0, 2.0]) - 3).abs() / 2.0
    found = {record["method"]: record["rows"] for record in records(project / "out")}
    radii = torch.tensor([row["certified_radius"] for row in found["ibp"]])
    right = [row["prediction"] == row["label"] for row in found["ibp"]]
    assert any(right)
    torch.testing.assert_close(radii[right], margin[right], rtol=2e-3, atol=0)
    for row, (certificate, correct) in zip(found["attack"], zip(radii.tolist(), right, strict=True), strict=True):
        assert row["frozen"].startswith("3 of 4 entries frozen")
        assert not correct or certificate <= row["attack_distance"] <= certificate * 1.02
    assert "note: age and sex keep" in certify("resume", "out", cwd=project)


@pytest.mark.parametrize(
    ("frozen", "change", "parts"),
    [
        (
            '["height"]',
            ("", ""),
            ["[data] frozen must be columns of features, got 'height': there are age, sex, income"],
        ),
        ('["label"]', ("", ""), ["got 'label': there are age, sex, income"]),
        ('["sex"]', ("frozen =", 'inputs = ["age", "income"]\nfrozen ='), ["got 'sex': there are age, income"]),
        (
            '["age"]',
            ("table.csv", "data.npz"),
            ["[data] frozen must name columns of a table, got ['age']", "frozen_features"],
        ),
        ('"age"', ("", ""), ["[data] frozen must be a list, each entry a text, got 'age'"]),
    ],
    ids=["unknown", "label", "no input", "no table", "no list"],
)
def test_what_is_no_column_is_told_in_one_line(project: Path, frozen: str, change: tuple[str, str], parts: list[str]):
    path = write(project, frozen)
    path.write_text(path.read_text().replace(*change) if change[0] else path.read_text())
    line = refusal("run", "config.toml", cwd=project)
    assert [part for part in parts if part not in line] == [], line


def test_from_python_the_key_is_checked_too(project: Path):
    with pytest.raises(InvalidConfiguration, match="frozen must name columns of a table"):
        DataSource(frozen=["age"])
