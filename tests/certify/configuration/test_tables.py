"""Inputs from tables: features in groups, classes by number or name, or one clear line."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from oracles.labelled_data import data, refused
from torch import nn

import certify
from bounds import InvalidInput

TABLE = pd.DataFrame(
    {
        "age": [30, 41, 25, 60],
        "colour": ["red", "blue", "red", "green"],
        "grade": [3, 1, 3, 2],
        "target": ["yes", "no", "no", "yes"],
        "site": ["a", "b", "a", "b"],
        "weight": [0.5, 1.5, 2.5, 3.5],
    }
)
NUMBERS = [[30, 0.5], [41, 1.5], [25, 2.5], [60, 3.5]]
COLOURS = [[0, 0, 1], [1, 0, 0], [0, 0, 1], [0, 1, 0]]


@pytest.fixture
def table(tmp_path: Path) -> str:
    TABLE.to_csv(tmp_path / "table.csv", index=False)
    return str(tmp_path / "table.csv")


def test_categories_become_features_in_groups(table: str):
    """Against pandas, which puts them last: so the columns are asked for in that order."""
    found = data(file=table, inputs=["age", "weight", "colour"])
    expected = pd.get_dummies(TABLE[["age", "weight", "colour"]], columns=["colour"]).to_numpy(np.float32)
    assert found.x.numpy().tolist() == expected.tolist()
    assert found.features == ("age", "weight", "colour=blue", "colour=green", "colour=red")
    assert found.groups == {"colour": (2, 3, 4)}
    assert found.y.tolist() == [1, 0, 0, 1]
    assert found.classes == ("no", "yes")
    assert (found.low, found.high) == (None, None)
    assert (found.x[:, list(found.groups["colour"])].sum(1) == 1).all()


def test_features_stand_in_the_order_of_the_columns(table: str):
    found = data(file=table, stratum="site", sample=4, categorical=["grade"])
    assert found.features == (
        *("age", "colour=blue", "colour=green", "colour=red"),
        *("grade=1", "grade=2", "grade=3", "weight"),
    )
    assert found.groups == {"colour": (1, 2, 3), "grade": (4, 5, 6)}
    assert found.frozen("grade", "age").tolist() == [True, *[False] * 3, *[True] * 3, False]
    with pytest.raises(InvalidInput, match="column must be one of colour, grade, age, weight, got 'sex'"):
        found.frozen("sex")


def test_frozen_columns_do_not_change(table: str):
    """Groups are kept so that bounds and attacks leave them alone."""
    found = data(file=table, inputs=["age", "colour"], low="data", high="data")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    y, mask, box = model(found.x).argmax(1), found.frozen("colour"), {"low": found.low, "high": found.high}
    assert found.low.tolist() == [25, 0, 0, 0]
    assert found.high.tolist() == [60, 1, 1, 1]
    attack = certify.attacks.minimal_perturbation(
        model, found.x, y, norm=2, frozen_features=mask, steps=5, restarts=1, **box
    )
    assert torch.equal(attack.adversarial[:, 1:], found.x[:, 1:])
    radius = certify.certified_radius(model, found.x, y, norm=2, method="ibp", frozen_features=mask, **box).radius
    assert (radius <= attack.distance).all()


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        ([3, 0, 1, 1], None, [3, 0, 1, 1]),
        ([1.0, 0.0, 1.0, 2.0], None, [1, 0, 1, 2]),
        ([True, False, True, True], None, [1, 0, 1, 1]),
        ([-1, 1, 1, -1], ["-1", "1"], [0, 1, 1, 0]),
        (["b", "a", "c", "a"], ["c", "b", "a"], [1, 2, 0, 2]),
    ],
)
def test_classes_of_a_table_are_numbers_or_names(labels: list, classes: list | None, expected: list, tmp_path: Path):
    pd.DataFrame({"a": [1.0, 2, 3, 4], "label": labels}).to_csv(tmp_path / "table.csv", index=False)
    assert data(file=str(tmp_path / "table.csv"), classes=classes).y.tolist() == expected


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"labels": "answer"}, "labels must be a column, got 'answer': there are age, colour"),
        ({"labels": "weight"}, "whole numbers or names, got weight with 0.5: .*cut a quantity into some"),
        ({"inputs": ["age", "sex"]}, "inputs must be columns of features, got 'sex'"),
        ({"categorical": ["target"]}, "categorical must be columns of features, got 'target': there are age"),
        ({"inputs": []}, "must have columns of features besides target, got none"),
        ({"sample": 2, "stratum": "sex"}, "stratum must be one of age, colour, .*label, got 'sex'"),
        ({"count": 5}, "count must be from 1 to 4, the inputs there are, got 5"),
        ({"low": [0.0]}, "low must be one number, or one for each of 8 features, got 1"),
    ],
)
def test_columns_that_are_not_there_are_told(keys: dict, message: str, table: str):
    refused(message, file=table, **keys)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "labels must name the column of the classes of .*: there are a, b"),
        ("a,label\n1,0\n,1\n,1\n", "column a must have a value in each row, got none in 2, first in row 1"),
        ("a,label\n1,\n", "column label must have a value in each row"),
        ("", "cannot be read as a table: .*its first line must name the columns"),
        ("a,label\n", "at least one row"),
        ("label\n1\n", "must have columns of features besides label"),
    ],
)
def test_tables_with_gaps_are_refused(text: str, message: str, tmp_path: Path):
    (tmp_path / "table.csv").write_text(text)
    refused(message, file=str(tmp_path / "table.csv"))


def test_parquet_is_read_or_its_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "table.parquet"
    file.write_bytes(b"PAR1")

    def missing(path: str) -> pd.DataFrame:
        raise ImportError("Unable to find a usable engine")

    monkeypatch.setattr(pd, "read_parquet", missing)
    refused("needs the package pyarrow, which is not installed: pip install pyarrow, or write", file=str(file))
    monkeypatch.setattr(pd, "read_parquet", lambda path: TABLE)
    assert data(file=str(file), inputs="age").x.flatten().tolist() == [30, 41, 25, 60]
