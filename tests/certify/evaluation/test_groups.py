"""Groups of inputs: accuracy in each, the worst one named, whatever says which input belongs where."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles.compared import NOT, attacked, evaluation, proved, smoothed
from torch import nn

from bounds import InvalidConfiguration, InvalidInput, ManifestMismatch, clopper_pearson_interval
from bounds.statistics.groups import equality_test
from bounds.statistics.paired import holm
from certify import Evaluation, evaluate
from certify.configuration.config import Config, config_of_manifest, read_config
from certify.configuration.groups import load_groups
from certify.methods import IntervalBounds

SITES = ["north"] * 10 + ["south"] * 14
RADII = [0.5] * 9 + [NOT] + [0.5] * 4 + [0.1] * 10


def by_hand() -> Evaluation:
    return evaluation(proved(RADII), attacked([0.7] * 20 + [0.3] * 4), smoothed(RADII[::-1]))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval()


def problem(count: int = 6) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    model, x = network(), torch.rand(count, 4, generator=torch.Generator().manual_seed(1))
    return model, x, model(x).argmax(1)


def test_counts_are_those_of_a_query():
    found, rows = by_hand().by_group(SITES, radius=0.4), by_hand().to_dataframe()
    rows["site"] = rows["index"].map(dict(enumerate(SITES)))
    assert len(found.table) == 3 * 2
    for line in found.to_dataframe().itertuples():
        part = rows[(rows.method == line.method) & (rows.site == line.group)]
        counted = (
            part.attack_distance > 0.4 if line.method == "attack" else part.correct & (part.certified_radius >= 0.4)
        )
        assert (line.inputs, line.count, line.accuracy) == (len(part), counted.sum(), counted.mean())
        ends = clopper_pearson_interval(torch.tensor(line.count), line.inputs, confidence=0.95**0.5)
        assert (line.lower, line.upper) == tuple(map(float, ends))


def test_the_worst_group_is_named_and_the_groups_are_tested():
    found = by_hand().by_group(SITES, radius=0.4)
    test = found.tests.set_index("method").loc["ibp"]
    assert (test.worst, test.best) == ("south", "north")
    assert test.p_value == equality_test([9, 4], [10, 14])[0]
    assert found.tests.p_holm.tolist() == holm(found.tests.p_value.tolist())
    (sentence,) = (line for line in found.sentences() if line.startswith("ibp"))
    assert sentence.startswith("ibp in l2 at radius 0.4: worst group 'south' with 28.5 % (")
    assert "best 'north' with 90.0 %" in sentence
    assert "the groups differ (exact permutation test" in sentence
    assert str(found) == "\n".join(found.sentences())
    assert repr(found) == "GroupAccuracies(by group: 2 groups, 3 methods and norms)"
    assert "<li>" in found._repr_html_()


def test_upper_bounds_are_rounded_up_and_lower_ones_down():
    words = by_hand().by_group(SITES, radius=0.4).words().set_index(["method", "group"]).accuracy
    assert words["ibp", "south"] == "28.5"  # 4 of 14
    assert words["attack", "south"] == "71.5"  # 10 of 14


def test_the_radius_that_is_chosen_does_not_depend_on_the_groups():
    """So permutations of the groups leave it where it is, and the test is exact."""
    run, reverse = by_hand(), SITES[::-1]
    radii = [set(run.by_group(groups).table.radius) for groups in (SITES, reverse, [0, 1] * 12)]
    assert radii[0] == radii[1] == radii[2]
    assert radii[0] == {0.15}  # half of the inputs have a radius of 0.5, the others of 0.1: the first above it
    by_norm = run.by_group(SITES, radius={2.0: 0.3})
    assert set(by_norm.table.radius) == {0.3}


def test_groups_come_from_labels_columns_and_arrays():
    run = by_hand()
    assert sorted(set(run.by_group().table.group)) == [0, 1, 2]
    assert run.by_group("label").table.equals(run.by_group().table)
    for groups in (np.array(SITES), torch.tensor([0] * 10 + [1] * 14), tuple(SITES)):
        assert (
            run.by_group(groups, radius=0.4).table["count"].tolist()
            == run.by_group(SITES, radius=0.4).table["count"].tolist()
        )


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (SITES[:5], "one entry per input, 24, got 5"),
        ("site", "groups must name a column with one whole number or text per input, such as label, got 'site'"),
        ("status", "got 'status'"),
        ([0.5] * 24, "whole numbers or texts, got 0.5: write it as text"),
        ([None] * 24, "whole numbers or texts, got None"),
    ],
)
def test_what_is_no_group_is_refused(groups: object, said: str):
    with pytest.raises(InvalidInput, match=said):
        by_hand().by_group(groups)


def test_radii_are_checked():
    with pytest.raises(InvalidInput, match="radius must be a finite number of at least 0, got -1"):
        by_hand().by_group(SITES, radius=-1.0)
    with pytest.raises(InvalidInput, match="one for each norm, 2, lacks 2"):
        by_hand().by_group(SITES, radius={1.0: 0.5})


def test_estimates_and_refusals_have_no_groups(tmp_path: Path):
    """Page and exports do without, where no method bounds anything, and whoever asks is told."""
    shared = {"base_prediction": 0, "subject": "base", "status": "unsupported", "reason": "no rule", "group": "a"}
    rows = [{"index": i, "label": i, **shared} for i in range(3)]
    run = evaluation({**proved([0.1] * 3), "kind": "unsupported", "rows": rows})
    assert run.stated_groups() is None
    run.to_html(tmp_path / "page.html")
    assert {path.name for path in run.export(tmp_path, "csv")} == {"rows.csv", "curves.csv", "summary.csv"}
    with pytest.raises(InvalidInput, match="need certificates or witnesses"):
        run.by_group()


@pytest.mark.slow
def test_an_evaluation_keeps_its_groups(tmp_path: Path):
    model, x, y = problem()
    sites = ["a", "b", "b", "a", "b", "a"]
    options = {"methods": [IntervalBounds()], "norms": 2, "output": tmp_path / "run", "first_index": 3}
    run = evaluate(model, x, y, groups=sites, **options)
    assert run.to_dataframe().set_index("index").group.to_dict() == dict(enumerate(sites, start=3))
    assert Evaluation.load(tmp_path / "run").by_group().table.equals(run.by_group().table)
    assert set(run.by_group().table.group) == {"a", "b"}
    run.to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "Groups of inputs" in page
    assert "worst group &#39;" in page
    with pytest.raises(ManifestMismatch, match="groups_sha256"):
        evaluate(model, x, y, groups=sites[::-1], **options)
    with pytest.raises(InvalidInput, match="one entry per input, 6, got 2"):
        evaluate(model, x, y, groups=["a", "b"])
    with pytest.raises(InvalidInput, match='groups must be "label" or one whole number'):
        evaluate(model, x, y, groups="site")


@pytest.mark.slow
def test_without_groups_nothing_changes(tmp_path: Path):
    model, x, y = problem()
    run = evaluate(model, x, y, methods=[IntervalBounds()], norms=2)
    assert run.stated_groups() is None
    assert "groups_sha256" not in run.manifest
    assert "group" not in run.to_dataframe()
    run.to_html(tmp_path / "page.html")
    assert "Groups of inputs" not in (tmp_path / "page.html").read_text()
    by_class = evaluate(model, x, y, methods=[IntervalBounds()], norms=2, groups="label")
    assert by_class.to_dataframe().group.tolist() == y.tolist()


def test_a_configuration_names_groups(tmp_path: Path):
    arrays = {"x": np.zeros((5, 4), np.float32), "y": np.arange(5), "site": np.array(list("abcab")), "map": np.eye(5)}
    np.savez(tmp_path / "data.npz", **arrays)

    def configured(line: str, data: str = '[data]\nfile = "data.npz"\ncount = 4') -> Config:
        (tmp_path / "config.toml").write_text(f'{line}\n[model]\nnetwork = "ibp"\n{data}\n')
        return read_config(tmp_path / "config.toml")

    assert load_groups(configured("")) is None
    assert load_groups(configured('groups = "label"')) == "label"
    assert load_groups(configured('groups = "site"')) == list("abca")
    with pytest.raises(
        InvalidConfiguration, match=r"an array \(N,\) of the data file, one of label, site, y, got 'map'"
    ):
        load_groups(configured('groups = "map"'))
    assert load_groups(configured('groups = "site"'), torch.tensor([4, 0])) == list("ba")
    (tmp_path / "data.csv").write_text("a,site,y\n0.1,north,0\n0.2,south,1\n")
    table = configured('groups = "site"', '[data]\nfile = "data.csv"')
    assert load_groups(table) == ["north", "south"]
    with pytest.raises(InvalidConfiguration, match="one of a, label, site, y, got 'town'"):
        load_groups(configured('groups = "town"', '[data]\nfile = "data.csv"'))
    (tmp_path / "data.npz").write_bytes(b"damaged")
    with pytest.raises(InvalidConfiguration, match=r"data\.npz cannot be read"):
        load_groups(configured('groups = "site"'))
    with pytest.raises(InvalidConfiguration, match='groups must be "label" unless'):
        load_groups(configured('groups = "site"', ""))
    config = configured('groups = "site"')
    stored = {"norms": ["2"], "methods": {"ibp": {}}}
    manifest = {"source": config.source(), "configuration": {**stored, "batch_size": 9}, "seed": 0}
    assert config_of_manifest(json.loads(json.dumps(manifest))).groups == "site"
