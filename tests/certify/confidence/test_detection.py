import math

import matplotlib.pyplot as plt
import pytest
import torch
from oracles.halfspace import generator

import certify
from bounds import InvalidInput
from certify.report.studies import shown_studies
from certify.report.words import rounded_down


def permuted(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1)[:, torch.randperm(784, generator=generator(1))].view_as(x)


@pytest.mark.slow
def test_the_three_curves_lie_in_order():
    model, x, _ = certify.reference.load("ibp", 30)
    found = certify.ood_detection(
        model, x, permuted(x), 0.05, method="crown_ibp", most_parts=0, steps=10, restarts=1, generator=generator()
    )
    assert (found.clean.outside <= found.attacked.outside).all()
    assert (found.attacked.outside <= found.proved.outside).all()
    assert found.proved.auc <= found.attacked.auc < found.clean.auc
    assert found.proved.auc > 0.5
    assert found.proved.fpr() >= found.attacked.fpr() >= found.clean.fpr()
    table = found.to_dataframe()
    assert table.curve.tolist() == ["clean", "attacked", "proved"]
    assert (table.auc_lower <= table.auc).all()
    assert (table.auc <= table.auc_upper).all()
    assert len(found.plot(plt.figure().gca()).lines) == 3


def test_known_inputs_count_with_no_more_than_they_have():
    model, x, _ = certify.reference.load("plain", 5)
    found = certify.ood_detection(model, x, permuted(x), 0.0, method="ibp", steps=1, restarts=1, generator=generator())
    exact = model.double()(x.double()).softmax(1).amax(1)
    assert (found.clean.inside <= exact).all()
    torch.testing.assert_close(found.clean.inside, exact, atol=1e-9, rtol=0)


class Steeper(torch.nn.Module):
    """Logits without weights, three times as large in float64, in which sets of inputs are bounded."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.sum(1), 1 - x.sum(1)], 1) * (3.0 if x.dtype == torch.float64 else 1.0)


@pytest.mark.parametrize("most_parts", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_network_without_weights_is_that_of_the_dtype_of_its_inputs(most_parts: int):
    x = torch.tensor([[0.6, 0.3], [0.5, 0.2]])
    settings = {"method": "ibp", "most_parts": most_parts, "steps": 1, "restarts": 1}
    found = certify.ood_detection(Steeper(), x, x, 0.01, **settings)
    exact = torch.sigmoid(2 * x.double().sum(1) - 1)
    torch.testing.assert_close(found.clean.inside, exact, atol=1e-9, rtol=0)
    assert (found.proved.outside >= exact).all()
    torch.testing.assert_close(found.proved.outside, torch.sigmoid(2 * x.double().sum(1) - 0.96), atol=1e-6, rtol=0)


def test_inputs_of_another_kind_are_refused():
    model, x, _ = certify.reference.load("plain", 2)
    with pytest.raises(InvalidInput, match="outside must be like inside"):
        certify.ood_detection(model, x, x.double(), 0.1)
    with pytest.raises(InvalidInput, match="at least one input"):
        certify.ood_detection(model, x, x[:0], 0.1)
    with pytest.raises(InvalidInput, match="epsilon"):
        certify.ood_detection(model, x, x, math.nan)


@pytest.mark.slow
def test_splits_raise_the_proved_area_and_never_pass_the_attack():
    model, x, _ = certify.reference.load("ibp", 60)
    wanted = {"method": "crown_ibp", "steps": 10, "restarts": 1}
    plain, split = (
        certify.ood_detection(model, x, permuted(x[:6]), 0.05, **wanted, most_parts=most, generator=generator())
        for most in (0, 2)
    )
    assert plain.proved.auc < split.proved.auc <= split.attacked.auc
    assert (split.proved.outside <= plain.proved.outside).all()
    late = certify.ood_detection(model, x, permuted(x[:6]), 0.05, **wanted, timeout=1e-9, generator=generator())
    assert torch.equal(late.proved.outside, plain.proved.outside)
    (section,) = shown_studies({"Other inputs": split})
    assert f"at least {rounded_down(split.proved.auc)} by proof" in section["sentences"][0]
    assert [row["curve"] for row in section["rows"]] == ["clean", "attacked", "proved"]
