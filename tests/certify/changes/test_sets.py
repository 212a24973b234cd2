"""Sets of few changes as an evaluation names, stores and reads them."""

import json
import math
import pickle
from pathlib import Path

import pytest
import torch
from oracles.changed_rows import FEATURES, FEW, rows, texts
from oracles.feature_tables import listed_rows
from safetensors.torch import save_file

import bounds
import certify
from bounds.errors import InvalidConfiguration, InvalidInput
from bounds.sets.orders import NamedSet, order_of
from certify.changes.sets import ChangeSet
from certify.curves import CertifiedAccuracyCurve, round_radii

PLACE = "[[changes]]"
MANY = [
    bounds.Category([0, 1, 2]),
    bounds.Category([3, 4], on=[2.5, 1.5], off=[-0.5, -0.25], dropped=True, direction="up"),
    bounds.Levels(5, torch.arange(5) / 10, steps=2),
    bounds.Levels(6, [-1.0, 0.5, 3.0], direction="down"),
    bounds.Numeric(7, 0.0, 1.0, reach=0.25),
]


def test_a_set_is_read_back_from_its_table_and_its_name_is_its_own():
    given = [certify.ChangedFeatures(MANY, 2), certify.ChangedFeatures(MANY, 2, frozen=[3, 1]), texts()[1], FEW]
    for over in given:
        again = ChangeSet.of_table(json.loads(json.dumps(over.table())), PLACE)
        assert (again, again.table()) == (over, over.table())
        sent = pickle.loads(pickle.dumps(over))
        assert (sent, sent.table(), sent.reach) == (over, over.table(), over.at_most)
        assert order_of(str(over)).unit == "changes"
    others = [
        certify.ChangedFeatures(MANY, 3),
        certify.ChangedFeatures(MANY[:4], 2),
        certify.ChangedFeatures([*MANY[:4], bounds.Numeric(7, 0.0, 1.0, reach=0.2500001)], 2),
        certify.ChangedFeatures(MANY, 2, frozen=[1]),
        certify.ChangedWords(texts()[1].words, at_most=1),
    ]
    assert len({*given, *others}) == len(given) + len(others)
    groups = ChangeSet.of_table({"groups": [[0, 1, 2], [3, 4, 5]], "at_most": 1}, PLACE)
    assert groups == certify.ChangedFeatures([[0, 1, 2], bounds.Category([3, 4, 5])], at_most=1)


def test_the_set_around_inputs_is_the_one_of_bounds():
    x = rows()
    for frozen in ((), (0, 12)):
        region = certify.ChangedFeatures(FEATURES, 2, frozen).around(x)
        for place, row in enumerate(x):
            mask = torch.zeros(15, dtype=torch.bool)
            mask[list(frozen)] = True
            every = listed_rows(row, FEATURES, 3, mask)
            inside = region.rows(torch.full((len(every),), place)).contains(every.double())
            assert inside.tolist() == [fewer(one, row) <= 2 for one in every]


def fewer(one: torch.Tensor, row: torch.Tensor) -> int:
    columns = [list(f.columns) if isinstance(f, bounds.Category) else [f.column] for f in FEATURES]
    return sum(bool((one[c] != row[c]).any()) for c in columns)


def test_words_are_known_by_their_vectors(tmp_path: Path):
    _, over, x, tokens = texts()
    embedding, synonyms = over.words.found()
    assert over.words.tokens(x).tolist() == tokens.tolist()
    direct = bounds.SynonymSet.of_tokens(embedding, tokens, synonyms, 2)
    region = over.around(x)
    assert torch.equal(region.center, direct.center)
    assert torch.equal(region.hull().lower, direct.hull().lower)
    assert torch.equal(region.hull().upper, direct.hull().upper)
    save_file({"embedding": embedding, "synonyms": synonyms}, tmp_path / "words.safetensors")
    filed = ChangeSet.of_table({"words": "words.safetensors", "at_most": 2}, PLACE, tmp_path)
    assert filed == over
    assert torch.equal(filed.around(x).substitutes, region.substitutes)
    with pytest.raises(InvalidInput, match="word 1 of row 0 is no vector"):
        over.around(torch.cat([x[:, :1], x[:, 1:] + 1], 1))
    twice = certify.ChangedWords((torch.zeros(2, 2), torch.tensor([[1], [-1]])), at_most=1)
    with pytest.raises(InvalidInput, match="the vector of several words"):
        twice.around(torch.zeros(1, 1, 2))
    known = ChangeSet.of_table({"words": {"sha256": over.words.sha256}, "at_most": 2}, PLACE)
    with pytest.raises(InvalidConfiguration, match="no more than their digest"):
        known.around(x)
    save_file({"embedding": embedding + 1, "synonyms": synonyms}, tmp_path / "words.safetensors")
    with pytest.raises(InvalidConfiguration, match="holds others"):
        filed.around(x)


WRONG = {
    "no table": ("groups", "must be a table"),
    "nothing": ({"at_most": 1}, "one of features, groups and words"),
    "two kinds": ({"at_most": 1, "groups": [[0, 1]], "features": []}, "one of features, groups and words"),
    "no number": ({"groups": [[0, 1]]}, "must have at_most"),
    "none": ({"at_most": 0, "groups": [[0, 1]]}, "at_most must be"),
    "unknown key": ({"at_most": 1, "groups": [[0, 1]], "mask": [0]}, "maybe frozen, got"),
    "no features": ({"at_most": 1, "features": []}, "features must"),
    "unknown kind": ({"at_most": 1, "features": [{"kind": "date"}]}, "tables of kind category, levels, numeric"),
    "missing": ({"at_most": 1, "features": [{"kind": "levels", "column": 1}]}, "must have column, values"),
    "no column": ({"at_most": 1, "features": [{"kind": "levels", "column": 0.5, "values": [1]}]}, "whole numbers"),
    "text": ({"at_most": 1, "features": [{"kind": "numeric", "column": 0, "low": 0, "high": [[]]}]}, "must hold"),
    "frozen": ({"at_most": 1, "groups": [[0, 1]], "frozen": 3}, "frozen must be a list"),
    "no file": ({"at_most": 1, "words": "missing.safetensors"}, "must be .safetensors"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_table_is_refused_in_one_line(case: str):
    table, message = WRONG[case]
    with pytest.raises(InvalidConfiguration, match=message) as error:
        ChangeSet.of_table(table, PLACE)
    assert str(error.value).startswith(PLACE)
    assert "\n" not in str(error.value)


def test_wrong_arguments_are_refused():
    for given in ((), [3], "features", None):
        with pytest.raises(InvalidInput, match="features"):
            certify.ChangedFeatures(given, 1)
    for words in (torch.zeros(2, 2), (torch.zeros(2), {}), (torch.zeros(2, 2), {5: [0]}), (torch.zeros(2, 2), [[0]])):
        with pytest.raises(InvalidInput):
            certify.ChangedWords(words, 1)
    with pytest.raises(InvalidInput, match="frozen must be places from 0 to 14"):
        certify.ChangedFeatures(FEATURES, 1, frozen=[15]).around(rows())
    with pytest.raises(InvalidInput, match="changes must be"):
        certify.evaluate(torch.nn.Linear(15, 2), rows(), changes=[[0, 1]], norms=())


def test_radii_of_numbers_of_changes_are_whole():
    over = NamedSet("at most 3 of 4 features 12345678, changes")
    about = {"norm": over, "subject": "base", "method": "change_bounds"}
    for limits in ([1.0, 2.0, 3.0], [0.0, 1.0, -math.inf], [1.0, 40.0]):
        curve = CertifiedAccuracyCurve(limit=torch.tensor(limits, dtype=torch.float64), **about)
        radii = round_radii([curve])
        assert all(radius % 1 == 0 for radius in radii)
        assert len(radii) > 1
