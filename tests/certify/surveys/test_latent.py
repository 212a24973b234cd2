"""Robustness in latent spaces: a plane behind a linear decoder by hand, and sampled codes of a convolutional one."""

import copy

import pytest
import torch
from matplotlib.figure import Figure
from oracles.halfspace import Halfspace, generator
from torch import nn

from bounds import InvalidInput, InvalidModel
from certify.surveys import latent_robustness

NORMAL = torch.tensor([1.0, 2.0, -1.0])


def stretched() -> nn.Linear:
    decoder = nn.Linear(3, 3)
    decoder.weight.data = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.5, 0.0], [0.0, 1.0, 3.0]])
    decoder.bias.data = torch.tensor([0.1, -0.2, 0.3])
    return decoder.eval()


def drawing() -> tuple[nn.Module, nn.Module]:
    """A decoder from 4 numbers to images of 8 x 8, and a network of images."""
    torch.manual_seed(5)
    decoder = nn.Sequential(
        nn.Linear(4, 32), nn.ReLU(), nn.Unflatten(1, (2, 4, 4)), nn.ConvTranspose2d(2, 1, 4, 2, 1), nn.Sigmoid()
    )
    return decoder.eval(), nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 3)).eval()


@pytest.mark.parametrize(
    ("norm", "dual"),
    [pytest.param(1, torch.inf, marks=pytest.mark.slow), (2, 2), pytest.param(torch.inf, 1, marks=pytest.mark.slow)],
)
def test_distances_behind_a_linear_decoder_are_those_of_the_plane(norm: float, dual: float):
    model, decoder = Halfspace(NORMAL, 0.2), stretched()
    codes = torch.randn(5, 3, generator=generator())
    labels = model(decoder(codes)).argmax(1)
    found = latent_robustness(model, decoder, codes, labels, norm=norm, tolerance=1e-3, steps=10, generator=generator())
    slope = decoder.weight.detach().double().T @ NORMAL.double()
    decoded = copy.deepcopy(decoder).double()(codes.double()).detach()
    exact = model.distance(decoded) * NORMAL.double().norm() / slope.norm(p=dual)
    assert (found.certificate.radius <= exact * (1 + 1e-12)).all()
    torch.testing.assert_close(found.certificate.radius, exact, rtol=5e-3, atol=0)
    torch.testing.assert_close(found.witness.distance, exact, rtol=2e-3, atol=1e-5)
    assert found.correct.all()
    if norm == 2:
        move = exact * (decoder.weight.detach().double() @ slope).norm() / slope.norm()
        torch.testing.assert_close(found.shift, move, rtol=5e-3, atol=1e-4)


@pytest.mark.slow
def test_no_code_within_a_proved_radius_has_another_class():
    """Behind rectifiers, transposed convolutions and a sigmoid; the nearest errors lie beyond, and come close."""
    decoder, model = drawing()
    codes = torch.randn(4, 4, generator=generator(1))
    labels = model(decoder(codes)).argmax(1)
    labels[3] = (labels[3] + 1) % 3
    found = latent_robustness(model, decoder, codes, labels, steps=10, noise=0.5, generator=generator())
    radius = found.certificate.radius
    assert found.correct.tolist() == [True, True, True, False]
    assert (radius[:3] > 0).all()
    assert radius[3] == found.witness.distance[3] == 0
    assert (radius[:3] < found.witness.distance[:3]).all()
    directions = nn.functional.normalize(torch.randn(2000, 1, 4, generator=generator()), dim=2)
    points = codes[:3] + directions * radius[:3, None].float() * torch.rand(2000, 3, 1, generator=generator()).sqrt()
    assert (model(decoder(points.flatten(0, 1))).argmax(1).view(2000, 3) == labels[:3]).all()
    table = found.to_dataframe([0.0, float(radius[:3].min())])
    assert table.kind.tolist() == ["clean", "noise", *["attacked", "certified"] * 2]
    assert table.accuracy.drop(1).tolist() == [0.75] * 5
    assert found.plot(Figure().subplots()).has_data()


def test_metrics_of_generative_models_are_those_of_a_plane():
    """Behind a linear decoder: scaled norms, and the accuracy under local noise by the normal law."""
    model, decoder = Halfspace(NORMAL, 6.0), stretched()
    codes = torch.randn(2000, 3, generator=generator())
    labels = model(decoder(codes)).argmax(1)
    options = {"method": "ibp", "tolerance": 0.5, "steps": 3, "batch_size": 2000, "noise_scale": 2.0}
    found = latent_robustness(model, decoder, codes, labels, generator=generator(), **options)
    value = found.metrics().set_index("metric").value
    assert value["latent accuracy"] == 1
    slope = decoder.weight.detach().double().T @ NORMAL.double()
    along, start = codes.double() @ slope, float((NORMAL @ decoder.bias).detach()) + 6.0
    shrunk = along / 5**0.5 + start  # mean of the margin of noisy codes
    stays = torch.special.ndtr((along + start).sign() * shrunk / (2 * float(slope.norm()) / 5**0.5))
    share = float(stays.mean())
    assert value["local latent noise accuracy"] == pytest.approx(share, abs=5 * (share * (1 - share) / 2000) ** 0.5)
    scaled = found.witness.distance / 3**0.5
    torch.testing.assert_close(found.scaled_distance, scaled)
    assert value["latent perturbation"] == pytest.approx(float(scaled.mean()))
    longer = found.witness.adversarial.double().norm(dim=1) - codes.double().norm(dim=1)
    assert value["rise of the latent norm"] == pytest.approx(float(longer.mean()) / 3**0.5, abs=1e-6)
    change = (decoder(found.witness.adversarial).double() - decoder(codes).double()).detach()
    assert value["input perturbation, l2"] == pytest.approx(float(change.norm(dim=1).mean()) / 3**0.5, rel=1e-4)
    assert value["input perturbation, l1"] == pytest.approx(float(change.abs().mean()), rel=1e-4)
    assert found.to_dataframe().radius.max() > 0
    assert "2000 of 2000 decoded codes" in found.sentences()[0]


def test_bad_arguments():
    decoder, model = drawing()
    codes, labels = torch.zeros(2, 4), torch.tensor([0, 1])
    for change, message in (
        ({"norm": 3}, "norm must be"),
        ({"noise_scale": 0.0}, "noise_scale must be"),
        ({"noise": 0.0}, "noise must be"),
        ({"codes": codes[:0], "labels": labels[:0]}, "at least one"),
        ({"sound": "deployed"}, "sound must be one of"),
    ):
        with pytest.raises(InvalidInput, match=message):
            latent_robustness(model, decoder, **{"codes": codes, "labels": labels, **change})
    with pytest.raises(InvalidModel):
        latent_robustness(model, lambda z: z, codes, labels)
