"""Details of single inputs: the numbers of the records, rounded to their safe side, in order, with the gap named."""

import base64
import io
import json
import math
from decimal import Decimal

import numpy as np
import pytest
import torch
from oracles.pages import ATTACK, COUNT, IBP, MANIFEST, SMOOTHED, SMOOTHING, attacked, certified, pairs_of, record
from PIL import Image

from certify import Evaluation
from certify.promises import Promise
from certify.report import Line
from certify.report.embedding import embedded_json
from certify.report.inputs import axes as axes_module
from certify.report.inputs import details
from certify.report.inputs.axes import Axis, axes_of
from certify.report.inputs.pictures import as_picture, change_uri, picture_uri

AWKWARD = [0.1, 1 / 3, 2 / 3, 0.99999, 1.00005, 1e-9, 9.9996e-6, 12345.678, 123456.5, 5e-324]
CLEVER = {"status": "fitted", "estimated_distance": 0.0465, "capped": False, "reach": 1.0}


def payload(*records: dict, tensors: dict | None = None, manifest: dict | None = None) -> dict:
    """What a script reads, after its way through JSON."""
    page = Evaluation(manifest or MANIFEST, records, tensors or {}).page()
    data = json.loads(embedded_json(page.inputs))
    for entry in data["inputs"].values():
        entry["axes"] = [unpacked(axis, data["words"]) for axis in entry["axes"]]
    return data


def unpacked(axis: list, words: list[str]) -> dict:
    norm, about, marks, (tone, low, high, name) = axis
    ends = [marks[place][1] if place >= 0 else "" for place in (low, high)]
    return {
        "norm": words[norm],
        "about": words[about],
        "marks": [[line, words[kind], text, words[status]] for line, text, kind, status in marks],
        "gap": [words[tone], *ends, words[name].format(low=ends[0], high=ends[1])],
    }


def first_axis(*records: dict, index: int = 0) -> dict:
    return payload(*records)["inputs"][str(index)]["axes"][0]


def one_row(method: str, norm: str, **row: object) -> dict:
    return record(method, norm, [row], str(row.pop("subject", "base")))


def printed(text: str) -> Decimal:
    return Decimal(text.removeprefix("≈ ").split(" ")[0].replace("∞", "inf"))


# Axes


def test_numbers_are_those_of_a_query():
    """Second way to the same numbers: rows of the dataframe, by index, norm, subject and method."""
    evaluation = Evaluation(MANIFEST, [IBP, SMOOTHING, ATTACK])
    table = evaluation.to_dataframe()
    data = payload(IBP, SMOOTHING, ATTACK)
    names = {"the model itself": "base", "the smoothed classifier": SMOOTHED}
    norms = {"l2": 2.0, "l∞": math.inf}
    seen = 0
    for index, entry in data["inputs"].items():
        for axis in entry["axes"]:
            for line, kind, text, _ in axis["marks"]:
                method = data["methods"][line]["method"]
                (row,) = table.query(
                    "index == @index and norm == @norm and subject == @subject and method == @method",
                    local_dict={
                        "index": int(index),
                        "norm": norms[axis["norm"]],
                        "subject": names[axis["about"]],
                        "method": method,
                    },
                ).to_dict("records")
                value = row["attack_distance"] if kind == "witness" else row["certified_radius"]
                seen += 1
                if math.isinf(value):
                    assert text == "—"
                else:
                    assert float(printed(text)) == pytest.approx(value, rel=2e-3)
    assert seen == len(table) == 3 * COUNT


def test_certificates_are_rounded_down_and_distances_up():
    data = payload(certified("ibp", "inf", AWKWARD), attacked("inf", AWKWARD))
    for index, value in enumerate(AWKWARD):
        (axis,) = data["inputs"][str(index)]["axes"]
        shown = {kind: printed(text) for _, kind, text, _ in axis["marks"]}
        assert shown["proof"] <= Decimal(value) <= shown["witness"]
        assert axis["gap"][0] == "closed"
        low, high = map(printed, axis["gap"][1:3])
        assert low <= Decimal(value) <= high


def test_rounding_to_the_nearest_is_seen(monkeypatch: pytest.MonkeyPatch):
    """The mutant of the test above."""
    monkeypatch.setattr(axes_module, "bound", lambda line, value: f"{value:.4g}")
    with pytest.raises(AssertionError):
        test_certificates_are_rounded_down_and_distances_up()


def test_eight_bit_images_have_levels_too():
    configuration = {**MANIFEST["configuration"], "on_grid": True}
    data = payload(certified("ibp", "inf", [0.031]), manifest={**MANIFEST, "configuration": configuration})
    (mark,) = data["inputs"]["0"]["axes"][0]["marks"]
    assert mark[2] == "0.03099 (7.90/255)"  # the double is a little below .031


@pytest.mark.parametrize(
    ("records", "tone", "name"),
    [
        ([certified("ibp", "2", [0.5]), attacked("2", [0.75])], "open", "gap: between 0.5 proved and 0.75 found"),
        ([certified("ibp", "2", [0.5])], "open", "gap: 0.5 proved, no adversarial example was sought"),
        (
            [certified("ibp", "2", [0.5]), attacked("2", [math.inf])],
            "open",
            "gap: 0.5 proved, no adversarial example was found",
        ),
        ([attacked("2", [0.75])], "open", "gap: nothing is certified, 0.75 found"),
        ([certified("ibp", "2", [0.75]), attacked("2", [0.75])], "closed", "no gap: 0.75 proved, and 0.75 found"),
        (
            [certified("ibp", "2", [0.875]), attacked("2", [0.75])],
            "contradiction",
            "contradiction: 0.875 proved, but an adversarial example at 0.75: one of the two is wrong",
        ),
        (
            [certified("vote", "2", [0.5], alpha=0.01), certified("ibp", "2", [0.25]), attacked("2", [0.75])],
            "open",
            "gap: between 0.5 with probability 0.99 and 0.75 found",
        ),
        (
            [one_row("attack", "2", status="misclassified", prediction=2, attack_distance=0.0, adversarial_label=2)],
            "wrong",
            "no gap: the classifier is wrong here without any perturbation",
        ),
        (
            [one_row("smoothing", "2", status="abstained", certified_radius=0.0, alpha=0.01)],
            "wrong",
            "no gap: the classifier abstains here",
        ),
    ],
)
def test_the_gap_is_named(records: list[dict], tone: str, name: str):
    gap = first_axis(*records)["gap"]
    assert (gap[0], gap[3]) == (tone, name)


def test_only_one_classifier_and_norm_share_an_axis():
    """A smoothed radius beside a witness of the model would look like a contradiction."""
    smoothed = certified("smoothing", "inf", [0.9], alpha=0.001, subject=SMOOTHED)
    axes = payload(smoothed, attacked("inf", [0.2]), attacked("2", [0.1]))["inputs"]["0"]["axes"]
    assert [(axis["norm"], axis["about"], len(axis["marks"])) for axis in axes] == [
        ("l2", "the model itself", 1),
        ("l∞", "the model itself", 1),
        ("l∞", "the smoothed classifier", 1),
    ]
    assert "contradiction" not in json.dumps(axes)


def test_a_nearer_adversarial_example_of_another_norm_counts():
    """As in :meth:`certify.Evaluation.check`: what counts is where it lies, not in which norm it was sought."""
    other = attacked("2", [0.5])
    other["rows"][0]["distances"]["inf"] = 0.125
    axis = payload(certified("ibp", "inf", [0.0625]), attacked("inf", [0.25]), other)["inputs"]["0"]["axes"][1]
    assert [mark[1:] for mark in axis["marks"]] == [
        ["proof", "0.0625", "proved"],
        ["witness", "0.125", "found in l2"],
        ["witness", "0.25", "found"],
    ]
    assert axis["gap"][3] == "gap: between 0.0625 proved and 0.125 found"
    other["rows"][0]["distances"]["inf"] = 0.375
    axis = payload(certified("ibp", "inf", [0.0625]), attacked("inf", [0.25]), other)["inputs"]["0"]["axes"][1]
    assert axis["gap"][3] == "gap: between 0.0625 proved and 0.25 found"


def test_an_input_that_falsified_a_certificate_is_rounded_up():
    """It is an adversarial example, though it stands in the row of a certificate."""
    verified = record(
        "verify",
        "inf",
        [{"status": "not certified", "certified_radius": 0.0, "alpha": 0.0, "distances": {"inf": 1 / 3}}],
    )
    axis = first_axis(verified)
    assert [mark[1:3] for mark in axis["marks"]] == [["proof", "0"], ["witness", "0.3334"]]
    assert printed(axis["gap"][2]) >= Decimal(1 / 3)


def test_a_proof_that_keeps_features_has_an_axis_of_its_own():
    kept = certified("ibp", "inf", [0.375])
    kept["rows"][0]["frozen"] = "age"
    found = attacked("inf", [0.25])
    axes = payload(kept, found)["inputs"]["0"]["axes"]
    assert [(axis["about"], axis["gap"][0]) for axis in axes] == [
        ("the model itself", "open"),
        ("the model itself, age kept", "open"),
    ]
    found["rows"][0]["frozen"] = "age"  # such a witness refutes this proof, and counts without it too
    axes = payload(kept, found, certified("crown", "inf", [0.125]))["inputs"]["0"]["axes"]
    assert [(axis["about"], axis["gap"][0]) for axis in axes] == [
        ("the model itself", "open"),
        ("the model itself, age kept", "contradiction"),
    ]
    assert axes[0]["gap"][2] == "0.25"


def test_marks_stand_in_order_and_what_has_no_number_last():
    clever = {**record("clever", "inf", [CLEVER]), "kind": "estimate"}
    refused = record("crown", "inf", [{"status": "unsupported", "reason": "no"}])
    axis = first_axis(attacked("inf", [0.0625]), refused, certified("ibp", "inf", [0.03125]), clever)
    assert [(kind, text) for _, kind, text, _ in axis["marks"]] == [
        ("proof", "0.03125"),
        ("estimate", "≈ 0.0465"),
        ("witness", "0.0625"),
        ("unsupported", "—"),
    ]
    assert axis["gap"][3] == "gap: between 0.03125 proved and 0.0625 found"  # which an estimate has no say in


def test_infinite_and_missing_numbers_pass():
    line = Line(2.0, "attack", "base", Promise(kind="witness"), ())
    row = {"kind": "witness", "status": "not found", "correct": True, "attack_distance": math.inf, "prediction": 0}
    (axis,) = axes_of([line], {0: row})
    assert isinstance(axis, Axis)
    assert math.isnan(axis.marks[0].value)
    assert axis.marks[0].text == "—"
    assert axis.best() is None


# Pictures


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGBA")).astype(float)


@pytest.mark.parametrize("shape", [(5, 7), (1, 5, 7), (3, 5, 7), (5, 7, 3), (5, 7, 1)])
def test_pictures_show_the_values(shape: tuple[int, ...]):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    shown = as_picture(x)
    assert shown is not None
    drawn = pixels(picture_uri(shown, 0.0, 1.0))
    expected = shown.numpy() * 255
    assert drawn.shape[:2] == (5, 7)
    assert np.abs(drawn[..., :3] - expected.reshape(5, 7, -1)).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("shape", [(11,), (2, 5, 7), (1, 1, 5, 7), (1, 7), (5, 7, 4)])
def test_other_inputs_are_no_pictures(shape: tuple[int, ...]):
    assert as_picture(torch.zeros(shape)) is None


def test_a_change_is_clear_where_nothing_changes_and_the_denser_the_larger_it_is():
    difference = torch.tensor([[0.0, 0.001, 0.004], [-0.001, -0.004, 0.0]]).double()
    uri, factor = change_uri(difference, 1.0)
    assert factor == 100
    opacity = pixels(uri)[..., 3]
    assert np.abs(opacity - (2 * 100 * difference.abs() * 255).numpy()).max() <= 2
    reds = pixels(uri)[..., 0] > pixels(uri)[..., 2]
    assert reds[0, 2]
    assert not reds[1, 1]
    colored, factor = change_uri(torch.tensor([[[0.0] * 3, [0.25, 0.0, -0.5]]] * 2).double(), 1.0)
    assert factor == 1
    assert pixels(colored)[0].tolist() == [[128.0, 128.0, 128.0, 0.0], [191.0, 128.0, 0.0, 255.0]]
    assert pixels(change_uri(torch.zeros(2, 2).double(), 1.0)[0])[..., 3].max() == 0


def test_pictures_are_capped_evenly_and_the_page_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(details, "PICTURED", 3)
    data = payload(IBP, ATTACK, tensors=pairs_of((1, 5, 7)))
    assert [index for index, entry in data["inputs"].items() if "view" in entry] == ["0", "6", "11"]
    assert "pictures of 3 of 12" in data["left_out"]
    monkeypatch.setattr(details, "INPUTS", 5)
    data = payload(IBP, ATTACK, tensors=pairs_of((1, 5, 7)))
    assert len(data["inputs"]) == 5
    assert "numbers of 5 of 12 inputs" in data["left_out"]
    monkeypatch.undo()
    assert payload(IBP, ATTACK, tensors=pairs_of((1, 5, 7)))["left_out"] == ""


def test_pictures_stay_within_their_size(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(details, "CHARACTERS", 5000)
    views = [entry for entry in payload(ATTACK, tensors=pairs_of((3, 9, 9)))["inputs"].values() if "view" in entry]
    sizes = [len(json.dumps({key: entry[key] for key in ("view", "neighbours", "logits")})) for entry in views]
    assert 0 < sum(sizes) <= 5000


# Features, tokens, logits


def test_features_that_change_the_most_are_named():
    clean = torch.zeros(COUNT, 30)
    adversarial = clean.clone()
    adversarial[:, [3, 20]] = torch.tensor([0.5, -0.25])
    tensors = {ATTACK["unit"]: {"clean": clean, "adversarial": adversarial}}
    named = {**MANIFEST, "features": [f"column {i}" for i in range(30)]}
    view = payload(ATTACK, tensors=tensors, manifest=named)["inputs"]["0"]["view"]
    assert (view["kind"], view["features"], len(view["rows"])) == ("features", 30, 12)
    changed = [row for row in view["rows"] if row[1] != row[2][0]]
    assert changed == [["column 3", "0", ["0.5"]], ["column 20", "0", ["-0.25"]]]
    shaped = {ATTACK["unit"]: {name: value.view(-1, 2, 3, 5) for name, value in tensors[ATTACK["unit"]].items()}}
    view = payload(ATTACK, tensors=shaped)["inputs"]["0"]["view"]
    assert [row[0] for row in view["rows"] if row[1] != row[2][0]] == ["[0, 0, 3]", "[1, 1, 0]"]


def test_tokens_have_their_share_of_the_change():
    clean = torch.zeros(COUNT, 3, 4)
    adversarial = clean.clone()
    adversarial[:, 0, 0], adversarial[:, 2] = 0.5, 0.5
    evaluation = Evaluation(MANIFEST, [ATTACK], {ATTACK["unit"]: {"clean": clean, "adversarial": adversarial}})
    view = evaluation.page(tokens=[["a", "fine", "film"]] * COUNT).inputs["inputs"][0]["view"]
    assert view == {"kind": "tokens", "tokens": ["a", "fine", "film"], "shares": [[0.5, 0.0, 1.0]]}


def test_logits_are_those_stored_and_older_runs_have_none():
    tensors = pairs_of((1, 5, 7))
    assert payload(ATTACK, tensors=tensors)["inputs"]["0"]["logits"] is None
    logits = torch.tensor([[0.5, 3.0, -1.0, math.nan, 2.0, 1.0, 0.0, -math.inf]]).expand(COUNT, -1)
    stored = {ATTACK["unit"]: {**tensors[ATTACK["unit"]], "logits": logits, "adversarial_logits": -logits}}
    table = payload(ATTACK, tensors=stored)["inputs"]["0"]["logits"]
    assert table["classes"] == 8
    assert [row[:2] for row in table["rows"]] == [[0, "0.5"], [1, "3"], [4, "2"], [5, "1"], [6, "0"]]
    assert [row[2] for row in table["rows"]] == [["-0.5"], ["-3"], ["-2"], ["-1"], ["-0"]]
