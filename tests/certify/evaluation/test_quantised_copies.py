"""Rows of a network and its quantised copy in an evaluation: what they speak of, what refutes them, and their audit."""

import copy
import math
from pathlib import Path

import pytest
import torch
from oracles.halfspace import generator
from safetensors.torch import save_file
from torch import Tensor, nn

import certify
from bounds import InvalidConfiguration, InvalidInput, WeightBox
from certify import QuantisedTensor
from certify.auditing.certificates.copies import CopyReprover
from certify.auditing.structure import _judge_contradictions
from certify.auditing.tally import Tally
from certify.evaluation.summaries.comparisons import contradictions
from certify.methods import Problem, QuantisedCopy
from certify.methods.copies import copy_digest
from certify.methods.tables import methods_from, table_of


def linear() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()


def int8(model: nn.Module, bits: int = 5) -> dict[str, QuantisedTensor]:
    weight = model.state_dict()["1.weight"]
    scale = float(weight.abs().max()) / (2 ** (bits - 1) - 1)
    return {"1.weight": QuantisedTensor(values=(weight / scale).round().to(torch.int8), scale=scale)}


def exact(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """Radii in l2 of a linear network without a box."""
    weight, bias = model[1].weight.double(), model[1].bias.double()
    logits = x.double() @ weight.T + bias
    others = torch.ones(len(x), 3, dtype=torch.bool).scatter(1, labels[:, None], False)
    lead = logits.gather(1, labels[:, None]) - logits
    slope = (weight[labels][:, None] - weight).norm(dim=2)
    return (lead / slope)[others].view(len(x), 2).amin(1).clamp(min=0).detach()


@pytest.mark.slow
def test_radii_of_a_linear_network_and_its_copy():
    model, x = linear(), torch.randn(8, 4, generator=generator())
    labels, weights = model(x).argmax(1), int8(model)
    second = copy.deepcopy(model)
    second[1].weight.data = (weights["1.weight"].values * weights["1.weight"].scale).float()
    wanted = {"norm": 2.0, "epsilon": None, "low": None, "high": None, "tolerance": 1e-4}
    alone = certify.certified_quantised(model, weights, x, labels, **wanted, weights="copy")
    both = certify.certified_quantised(model, weights, x, labels, **wanted)
    of_copy, of_model = (exact(one, x, labels) for one in (second, model))
    torch.testing.assert_close(alone.radius, of_copy, rtol=2e-4, atol=1e-5)
    assert (alone.radius <= of_copy + 1e-6).all()
    assert (both.radius <= torch.minimum(of_copy, of_model) + 1e-6).all()
    assert (both.radius > 0.3 * torch.minimum(of_copy, of_model))[of_copy > 0.3].all()
    assert torch.equal(both.abstained, ~both.verified)
    asked = certify.certified_quantised(model, weights, x, labels, norm=2.0, epsilon=both.radius, low=None, high=None)
    assert asked.verified[both.verified].all()


def test_a_copy_is_known_by_its_digest(tmp_path: Path):
    model = linear()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    save_file(state, tmp_path / "copy.safetensors")
    other = {name: value + 0.001 * (name == "1.bias") for name, value in state.items()}
    scaled = {"1.weight": QuantisedTensor(values=int8(model)["1.weight"].values, scale=0.5)}
    copies = [state, other, int8(model), scaled, model, WeightBox.around(model, 0.1), WeightBox.around(model, 0.2)]
    digests = [copy_digest(one) for one in copies]
    assert len(set(digests)) == len(copies)
    assert digests == [copy_digest(copy.deepcopy(one)) for one in copies]
    method = QuantisedCopy(copy=tmp_path / "copy.safetensors")
    assert method.copy.sha256 == digests[0]
    (again,) = methods_from({"quantised_copy": table_of(method)})
    assert again.copy.found().keys() == state.keys()
    (configured,) = methods_from({"quantised_copy": {"copy": "copy.safetensors"}}, tmp_path)
    assert configured.copy.sha256 == digests[0]
    save_file(other, tmp_path / "copy.safetensors")
    with pytest.raises(InvalidConfiguration, match="holds another one"):
        again.copy.found()
    (told,) = methods_from({"quantised_copy": table_of(QuantisedCopy(copy=state))})
    with pytest.raises(InvalidConfiguration, match="no more than its digest"):
        told.copy.found()
    for wrong in (3, {}, None):
        with pytest.raises(InvalidInput, match="copy must be a module"):
            QuantisedCopy(copy=wrong)
    with pytest.raises(InvalidConfiguration, match="cannot be read"):
        QuantisedCopy(copy=tmp_path / "none.safetensors")


@pytest.mark.slow
def test_a_run_and_its_audit(tmp_path: Path):
    model, x = linear(), torch.rand(6, 4, generator=generator())
    labels, weights = model(x).argmax(1), int8(model)
    labels[0] = (labels[0] + 1) % 3  # the model is wrong there
    methods = ["crown", QuantisedCopy(copy=weights), QuantisedCopy(copy=weights, weights="copy", name="alone")]
    certify.evaluate(model, x, labels, norms=math.inf, methods=methods, output=tmp_path / "run")
    run = certify.Evaluation.load(tmp_path / "run")
    table = run.to_dataframe().set_index(["method", "index"]).certified_radius
    assert (table["quantised_copy"] <= table["alone"] * 1.02).all()
    assert (table["quantised_copy"] <= table["crown"] * 1.02).all()
    subjects = set(run.to_dataframe().subject)
    assert subjects == {"base", "quantised copy", "base, quantised copy and all between"}
    found = certify.audit(
        tmp_path / "run", model, x, labels, sample=1.0, copies=dict.fromkeys(["quantised_copy", "alone"], weights)
    )
    assert not found.refuted
    assert found.confirmed["methods run again"] == 18
    certified = (run.to_dataframe().certified_radius > 0).groupby(run.to_dataframe().method).sum()
    wanted = certified["crown"] + 2 * certified["quantised_copy"] + certified["alone"]
    assert sum(count for name, count in found.confirmed.items() if name.startswith("proofs of bounds by")) == wanted
    lines = (tmp_path / "run" / "records.jsonl").read_text()
    (tmp_path / "run" / "records.jsonl").write_text(lines.replace("base, quantised copy and all between", "base"))
    others = certify.audit(tmp_path / "run", model, x, labels, sample=1.0, copies={"quantised_copy": weights})
    assert any("promise is not that of its method" in one.reason for one in others.refuted)
    (tmp_path / "run" / "records.jsonl").write_text(lines)
    blind = certify.audit(tmp_path / "run", model, x, labels, sample=1.0)
    assert any("copies=" in one.reason for one in blind.unjudged)
    with pytest.raises(InvalidInput, match="must be the copy of the run"):
        certify.audit(tmp_path / "run", model, x, labels, copies={"alone": int8(model, 3)})
    with pytest.raises(InvalidInput, match="by names of methods"):
        certify.audit(tmp_path / "run", model, x, labels, copies={"crown": weights})


@pytest.mark.parametrize("far", ["copy", "model"])
def test_an_example_of_either_network_refutes_a_radius(far: str):
    model, x = linear(), torch.randn(12, 4, generator=generator())
    labels, weights = model(x).argmax(1), int8(model, 3)
    second = copy.deepcopy(model)
    second[1].weight.data = (weights["1.weight"].values * weights["1.weight"].scale).float()
    of_copy, of_model = (exact(one, x, labels) for one in (second, model))
    farther, nearer = (of_copy, of_model) if far == "copy" else (of_model, of_copy)
    place = int((farther - nearer).argmax())
    radius = float(farther[place] * 0.9 + nearer[place] * 0.1)  # true of one network alone
    problem = Problem(model=model, x=x, y=labels, low=None, high=None, num_classes=3, seed=0, batch_size=8)
    record = {"unit": "u", "method": "quantised_copy", "norm": "2"}
    row = {"index": place, "certified_radius": radius, "prediction": int(labels[place])}
    tally = Tally()
    CopyReprover(problem).judge(tally, record, {}, row, QuantisedCopy(copy=weights), None)
    assert [finding.index for finding in tally.refuted] == [place]
    assert sum(tally.confirmed.values()) == 1


def test_examples_of_the_model_refute_what_speaks_of_it_too():
    about = {"index": 0, "norm": 2.0, "correct": True}
    witness = {**about, "kind": "witness", "subject": "base", "method": "attack", "distances": {"2": 0.1}}
    names = {"base, quantised copy and all between": 1, "quantised copy": 0, "base": 1}
    for subject, count in names.items():
        row = {**about, "kind": "certificate", "subject": subject, "method": "m", "certified_radius": 0.2}
        assert len(contradictions([witness, row])) == count
        stated = {**row, "norm": "2", "label": 1, "prediction": 1, "status": "certified"}
        found = Tally()
        records = [
            {"kind": "witness", "rows": [witness]},
            {"kind": "certificate", "norm": "2", "unit": "u", "rows": [stated]},
        ]
        _judge_contradictions(found, records)
        assert len(found.refuted) == count
