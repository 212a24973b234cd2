"""Margins of layers against closed forms and finite differences; networks whose gap margins tell."""

import math

import numpy as np
import pytest
import torch
from oracles.halfspace import generator
from torch import Tensor, nn

from bounds import InvalidInput, InvalidModel
from certify import margin_generalisation
from certify.generalisation.layer_margins import hidden_layers, layer_margins, margin_statistics


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def batch(count: int = 9) -> tuple[Tensor, Tensor]:
    x = torch.rand(count, 3, generator=generator(1), dtype=torch.float64)
    return x, torch.arange(count) % 3


def test_distances_of_a_linear_model_are_exact():
    model, (x, y) = nn.Sequential(nn.Linear(3, 2)).double(), batch()
    y = y % 2
    weight, bias = (model[0].weight[1] - model[0].weight[0]).detach(), (model[0].bias[1] - model[0].bias[0]).item()
    exact = (2 * y - 1) * (x @ weight + bias) / weight.norm() / x.var(0, correction=0).sum().sqrt()
    torch.testing.assert_close(layer_margins(model, x, y, [], 4)[0], exact)
    doubled = nn.Sequential(nn.Linear(3, 2)).double()  # of inputs in other units
    doubled[0].weight.data, doubled[0].bias.data = model[0].weight / 2, model[0].bias
    torch.testing.assert_close(layer_margins(doubled, 2 * x, y, [], 4)[0], exact)


def test_distances_in_hidden_layers_are_those_of_the_rest_of_the_network():
    model, (x, y) = network(), batch()
    found = layer_margins(model, x, y, [model[0], model[2]], 4)
    for place, at in ((1, 1), (2, 3)):
        z = model[:at](x).detach()
        expected = layer_margins(model[at:], z, y, [], 100)[0]
        torch.testing.assert_close(found[place], expected)
    one = layer_margins(model, x[:1].repeat(9, 1) + torch.zeros(9, 1), y[:1].repeat(9), [], 100)
    assert one.isinf().all() or one.abs().min() > 1e6  # inputs that do not vary have no scale
    logits = model(x)
    right = logits.argmax(1) == y
    assert torch.equal(found[0] > 0, right)


def test_gradients_of_distances_are_finite_differences():
    model, (x, y) = network(), batch(4)
    other = model(x).scatter(1, y[:, None], -math.inf).argmax(1)
    scale = x.var(0, correction=0).sum().sqrt()
    for i in range(4):
        margin = lambda p, i=i: (model(p[None])[0, y[i]] - model(p[None])[0, other[i]]).item()  # noqa: E731
        slope = [(margin(x[i] + 1e-6 * e) - margin(x[i] - 1e-6 * e)) / 2e-6 for e in torch.eye(3, dtype=x.dtype)]
        expected = margin(x[i]) / np.linalg.norm(slope) / scale.item()
        assert layer_margins(model, x, y, [], 2)[0, i].item() == pytest.approx(expected, rel=1e-6)


def test_statistics_are_quartiles_and_fences_of_correct_inputs():
    row = torch.tensor([-5.0, 1.0, 2.0, 3.0, 4.0, 100.0, math.inf, 0.0], dtype=torch.float64)
    found = margin_statistics(torch.stack([row, -row.abs()])).exp()
    q = np.percentile([1, 2, 3, 4, 100], [25, 50, 75])
    assert found[0].tolist() == pytest.approx([1.0, *q, q[2] + 1.5 * (q[2] - q[0])])
    assert found[1].isnan().all()


def test_layers_are_evenly_spaced_and_can_be_named():
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(7)))
    assert hidden_layers(model, None) == [model[1], model[3], model[5]]
    assert hidden_layers(model[:2], None) == [model[0]]
    assert hidden_layers(nn.Linear(2, 2), None) == []
    assert hidden_layers(model, ["3"]) == [model[3]]
    with pytest.raises(InvalidInput, match="layers must name modules of every model, got 'x'"):
        hidden_layers(model, ["x"])


def noisy_networks(count: int = 12) -> tuple[dict[str, nn.Module], Tensor, Tensor, Tensor, Tensor]:
    """Networks that err at test inputs the more, the smaller their margins are: built so."""
    source = generator(3)
    x = torch.randn(300, 4, generator=source)
    y = (x[:, 0] > 0).long()
    test_x = torch.randn(2000, 4, generator=source)
    test_y = (test_x[:, 0] > 0).long()
    models = {}
    for i in range(count):
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        with torch.no_grad():
            model[0].weight.copy_(torch.eye(4))
            model[0].weight[1] = -model[0].weight[0]
            model[0].weight[2] = (
                torch.tensor([0.0, 1.0, 0.0, 0.0]) * i / count * 2
            )  # leans on an entry that says nothing
            model[0].bias.zero_()
            model[2].weight.copy_(torch.tensor([[-1.0, 1.0, 0.5, 0.0], [1.0, -1.0, -0.5, 0.0]]))
            model[2].bias.zero_()
        models[f"net {i}"] = model.train()
    kept = torch.stack([model.eval()(x).argmax(1) == y for model in models.values()]).all(0)
    return models, x[kept], y[kept], test_x, test_y


def test_margins_that_tell_the_gap_are_found():
    models, *data = noisy_networks()
    found = margin_generalisation(models, *data, generator=generator())
    assert found.training_accuracy.eq(1).all()
    assert found.gap.max() > 0.1
    assert found.predicts()
    assert found.regression.r2 > 0.8
    assert str(found).startswith("margins predict the gap: leave-one-out R2 0.")
    table = found.to_dataframe()
    assert list(table.network) == list(models)
    np.testing.assert_allclose(table["input q50"], found.features[:, 2].numpy())
    assert found.feature_names[5] == "layer 1 lower_fence"
    assert len(found.plot().axes) == 1


def test_weights_give_what_networks_give_and_models_stay():
    models, *data = noisy_networks(6)
    for model in models.values():
        model.train()
    states = [model.state_dict() for model in models.values()]
    holder = next(iter(models.values()))
    before = {name: value.clone() for name, value in holder.state_dict().items()}
    one = margin_generalisation(list(models.values()), *data, permutations=19, generator=generator())
    other = margin_generalisation(states, *data, model=holder, permutations=19, generator=generator())
    torch.testing.assert_close(one.features, other.features)
    assert one.regression.p_value == other.regression.p_value
    assert all(torch.equal(value, before[name]) for name, value in holder.state_dict().items())
    assert all(model.training and not model._forward_hooks for model in models.values())
    assert not any(module._forward_hooks for model in models.values() for module in model.modules())


def test_what_cannot_be_measured_is_named():
    models, x, y, *test = noisy_networks(6)
    with pytest.raises(InvalidInput, match="at least 5, got 2"):
        margin_generalisation(list(models.values())[:2], x, y, *test)
    with pytest.raises(InvalidInput, match="net 0 has none"):
        margin_generalisation(models, x, 1 - y, *test)
    with pytest.raises(InvalidInput, match="checkpoints must be a sequence"):
        margin_generalisation(models["net 0"], x, y, *test)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.layer(self.layer(x)))

    with pytest.raises(InvalidModel, match="must be called once"):
        margin_generalisation([Twice() for _ in range(5)], x, y, *test)
