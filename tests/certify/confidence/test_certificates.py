import math

import matplotlib.pyplot as plt
import pytest
import torch
from oracles.halfspace import generator
from torch import Tensor, nn

import bounds
from certify import confidence_bound
from certify.confidence.certificates import MOST_PAIRED
from certify.report.studies import shown_studies


class Attention(nn.Module):
    """One head over four tokens of three features."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.out = nn.Linear(3, 9), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.mix(x.view(-1, 4, 3)).chunk(3, 2)
        return self.out(((query @ key.mT).softmax(2) @ value).flatten(1))


def network(kind: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    if kind == "deep":
        layers = [part for _ in range(9) for part in (nn.Linear(12, 12), nn.ReLU())]
        return nn.Sequential(*layers, nn.Linear(12, 3)).eval(), torch.rand(2, 12, generator=generator())
    if kind == "many classes":
        classes = MOST_PAIRED + 6
        return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, classes)).eval(), torch.rand(2, 12)
    if kind == "channels last":
        layers = nn.Conv2d(2, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(64, 3)
        model = nn.Sequential(*layers).eval().to(memory_format=torch.channels_last)
        return model, torch.rand(2, 2, 6, 6).to(memory_format=torch.channels_last)
    return Attention().eval(), torch.rand(2, 12, generator=generator())


@pytest.mark.parametrize(
    "kind",
    ["deep", "many classes", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("channels last", "attention"))],
)
@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_no_point_is_surer_or_less_sure(kind: str, method: str):
    model, x = network(kind)
    found = confidence_bound(model, bounds.LpBall(x, 0.02, math.inf), method)
    moves = 0.04 * (torch.rand(200, *x.shape, generator=generator(1)) - 0.5)
    moves[:50] = 0.02 * moves[:50].sign()
    points = (x + moves).clamp(0, 1)
    with torch.no_grad():
        confidence = model(points.flatten(0, 1)).double().softmax(1).unflatten(0, (200, len(x)))
    assert (confidence <= found.upper + 1e-7).all()
    assert (confidence >= found.lower - 1e-7).all()
    assert (confidence.amax(2) <= found.largest + 1e-7).all()
    assert (confidence.amax(2) >= found.least - 1e-7).all()
    assert found.label.tolist() == model(x).argmax(1).tolist()


def test_two_classes_of_a_linear_model_in_closed_form():
    torch.manual_seed(2)
    model = nn.Linear(4, 2).double()
    x = torch.rand(3, 4, generator=generator()).double()
    found = confidence_bound(model, bounds.LpBall(x, 0.3, 2, None, None), "ibp")
    lead = (model(x)[:, 0] - model(x)[:, 1]).detach()
    reach = 0.3 * (model.weight[0] - model.weight[1]).norm().detach()
    torch.testing.assert_close(found.upper[:, 0], (lead + reach).sigmoid(), atol=1e-12, rtol=0)
    torch.testing.assert_close(found.lower[:, 0], (lead - reach).sigmoid(), atol=1e-12, rtol=0)
    assert (found.upper[:, 0] >= (lead + reach).sigmoid()).all()
    assert (found.lower[:, 0] <= (lead - reach).sigmoid()).all()
    torch.testing.assert_close(found.upper[:, 1], 1 - found.lower[:, 0], atol=1e-12, rtol=0)


def test_a_ball_of_one_point_has_its_confidence():
    model, x = network("deep")
    found = confidence_bound(model, bounds.LpBall(x.double(), 0.0), "crown")
    exact = model.double()(x.double()).softmax(1).detach()
    torch.testing.assert_close(found.lower, exact, atol=1e-9, rtol=0)
    torch.testing.assert_close(found.upper, exact, atol=1e-9, rtol=0)
    assert (found.lower <= exact).all()
    assert (exact <= found.upper).all()


@pytest.mark.parametrize("scale", [1e3, 1e30, 1e200])
def test_logits_that_overflow_the_exponential(scale: float):
    model = nn.Linear(2, 3, bias=False).double()
    model.weight.data = scale * torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]).double()
    x = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).double()
    found = confidence_bound(model, bounds.LpBall(x, 0.1), "crown")
    assert ((found.lower >= 0) & (found.lower <= found.upper) & (found.upper <= 1)).all()
    assert found.lower[0, 0] > 1 - 1e-9
    assert (found.upper[0, 1:] > 0).all()  # small, and never none
    assert found.upper[1, 0] == 1
    assert found.lower[1, 0] < 1e-9


def test_the_largest_of_some_numbers_is_at_least_their_share():
    model, x = network("many classes")
    found = confidence_bound(model, bounds.LpBall(x, 1.0), "ibp")
    share = 1 / (MOST_PAIRED + 6)
    assert (found.least <= share).all()
    assert (found.least > share * (1 - 1e-12)).all()
    assert (found.lower.amax(1) < share).all()  # or the line above shows nothing


def test_bad_arguments_are_refused():
    model, x = network("deep")
    with pytest.raises(bounds.InvalidInput, match="ball must be a perturbation set"):
        confidence_bound(model, x)
    with pytest.raises(bounds.InvalidInput, match="at least one input"):
        confidence_bound(model, bounds.LpBall(x[:0], 0.1))
    with pytest.raises(bounds.InvalidModel, match="2"):
        confidence_bound(nn.Linear(12, 1), bounds.LpBall(x, 0.1))


def test_bounds_are_drawn_as_shares_and_told_in_words():
    model, x = network("deep")
    found = confidence_bound(model, bounds.LpBall(x, 0.02), "ibp")
    (section,) = shown_studies({"Confidence": found})
    few, many = int((found.largest < 0.5).sum()), int((found.least > 0.5).sum())
    assert f"{few} are proved" in section["sentences"][0]
    assert f"and {many} more than half" in section["sentences"][0]
    above, below = found.plot(plt.figure().gca()).lines
    assert above.get_xdata().tolist() == [*found.largest.sort().values.tolist(), 1.0]
    assert below.get_ydata().tolist() == [0, 0.5, 1]
