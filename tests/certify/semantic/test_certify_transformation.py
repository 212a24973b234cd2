"""Certificates of transformations: linear models in closed form, dense grids, and networks of all kinds."""

from typing import Any

import pytest
import torch
from oracles.halfspace import Halfspace, generator
from torch import Tensor, nn

import certify
from bounds.errors import InvalidInput, InvalidModel
from certify import attacks, reference
from certify.semantic import (
    Blur,
    Compose,
    Photometric,
    Rotation,
    Scale,
    SemanticCertificate,
    Shear,
    Transformation,
    Translation,
    certify_transformation,
)
from certify.semantic.noise import noise_changes


def halfspace(threshold: float, seed: int = 1) -> tuple[nn.Module, Tensor]:
    """A linear model of class 1 where a weighted sum of pixels is above the threshold, and one image."""
    shape = (2, 5, 6)
    weight = torch.randn(torch.Size(shape).numel(), generator=generator(seed), dtype=torch.float64)
    x = torch.rand(1, *shape, generator=generator(2), dtype=torch.float64)
    return Halfspace(weight, -threshold), x


def scores(model: nn.Module, x: Tensor, which: Transformation, values: Tensor) -> Tensor:
    return model(which.apply(x.expand(len(values), *x.shape[1:]), values))[:, 1].detach()


RANGES: dict[str, Transformation] = {
    "rotation": Rotation((-7.0, 9.0), "border"),
    "translation": Translation((-1.5, 1.5), (0.0, 0.0)),
    "scale": Scale((0.9, 1.15)),
    "shear": Shear((-0.2, 0.1)),
    "blur": Blur((0.0, 1.2)),
    "brightness": Photometric(brightness=(-0.3, 0.2)),
    "contrast": Photometric(contrast=(0.7, 1.3)),
    "gamma": Photometric(gamma=(0.6, 1.6)),
}


def varying(which: Transformation, count: int) -> Tensor:
    """Parameters on a dense grid of the one that varies."""
    shares = torch.linspace(0, 1, count, dtype=torch.float64)
    return which.within(shares[:, None].expand(-1, len(which.parameters)))


@pytest.mark.parametrize(
    "name", ["rotation", *(pytest.param(name, marks=pytest.mark.slow) for name in list(RANGES)[1:])]
)
def test_a_linear_model_is_proved_up_to_its_least_score(name: str):
    which = RANGES[name]
    model, x = halfspace(0.0)
    least = float(scores(model, x, which, varying(which, 4001)).min())
    for threshold, proved in ((least - 0.02, True), (least + 0.02, False)):
        model, _ = halfspace(threshold)
        label = torch.tensor([1])
        found = certify_transformation(model, x, label, which)
        assert bool(found.verified) is proved
        assert bool(found.broken) is not proved
        assert float(found.radius) == which.reach if proved else float(found.radius) < which.reach


def _identity(which: Transformation) -> Tensor:
    return torch.tensor([[part.identity for part in which.parameters]], dtype=torch.float64)


def test_two_parameters_are_proved_where_every_point_of_a_grid_is():
    which = Translation((-1.0, 1.0), (-0.5, 1.0))
    model, x = halfspace(0.0)
    shares = torch.linspace(0, 1, 61, dtype=torch.float64)
    least = float(scores(model, x, which, which.within(torch.cartesian_prod(shares, shares))).min())
    for threshold, proved in ((least - 1e-6, True), (least + 1e-6, False)):
        found = certify_transformation(halfspace(threshold)[0], x, torch.tensor([1]), which)
        assert bool(found.verified) is proved  # vertices are exact


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rotation", "scale", "contrast"])
def test_the_radius_ends_where_the_model_does(name: str):
    """Between the largest radius without an error on a dense grid and that less the width of the last pieces."""
    which = RANGES[name]
    model, x = halfspace(0.0, 5)
    values = varying(which, 8001)
    found = scores(model, x, which, values)
    clean = float(scores(model, x, which, _identity(which)))
    model, _ = halfspace(0.7 * float(found.min()) + 0.3 * clean, 5)
    distance = which.distance(values)
    exact = float(distance[scores(model, x, which, values) <= 0].min()) * which.reach
    certificate = certify_transformation(model, x, torch.tensor([1]), which)
    assert exact - 0.1 * which.reach <= float(certificate.radius) <= exact
    assert float(which.distance(certificate.parameters)) * which.reach >= exact * (1 - 1e-3)
    assert scores(model, x, which, certificate.parameters).item() <= 0


@pytest.mark.slow
@pytest.mark.parametrize("network", ["ibp", "plain"])
def test_no_angle_of_a_fine_grid_breaks_a_proof(network: str):
    model, x, y = reference.load(network, 5)
    which = Rotation((-10.0, 10.0))
    found = certify_transformation(model, x, y, which)
    assert int(found.verified.sum()) > 0
    assert (found.verified | found.broken).all()
    for degrees in torch.linspace(-10, 10, 201, dtype=torch.float64):
        values = degrees.expand(len(x), 1)
        with torch.no_grad():
            wrong = model(which.apply(x, values)).argmax(1) != y
        assert not (wrong & (degrees.abs() <= found.radius)).any()


def network(channels: int, kind: str) -> nn.Module:
    torch.manual_seed(3)
    if kind == "residual":
        return nn.Sequential(Residual(channels), nn.Flatten(), nn.LazyLinear(4))
    act = {"smooth": nn.GELU(), "convolutional": nn.ReLU()}[kind]
    return nn.Sequential(nn.Conv2d(channels, 4, 3, stride=2), act, nn.Flatten(), nn.LazyLinear(4))


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.inner(x))


def tried(model: nn.Module, x: Tensor, which: Transformation, **options: Any) -> SemanticCertificate:
    """The certificate of the model's own classes, held against random parameters."""
    with torch.no_grad():
        y = model(x).argmax(1)
    found = certify_transformation(model, x, y, which, **options)
    layout = {"channels_last": options.get("channels_last", False)}
    drawn = certify.semantic.random_transformations(model, x, y, which, draws=40, generator=generator(5), **layout)
    assert not (~drawn.right & (drawn.distance <= found.radius[:, None])).any()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["convolutional", "smooth", "residual"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_colour_rectangles_in_several_networks(kind: str, dtype: torch.dtype):
    model = network(3, kind).eval()
    x = torch.rand(2, 3, 5, 7, generator=generator(4), dtype=dtype)
    model(x[:1].float())
    model = model.to(dtype)
    for which in (Translation((-0.3, 0.3)), Compose(Scale((0.98, 1.02)), Photometric((0.97, 1.03)))):
        found = tried(model, x.contiguous(memory_format=torch.channels_last), which, tolerance=0.2)
        assert found.verified.any()


class Last(nn.Module):
    """A model of images with their channels last, and one of images without channels."""

    def __init__(self, inner: nn.Module, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.inner, self.dims = inner, dims

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.permute(self.dims) if len(self.dims) == 4 else x.unsqueeze(1))


@pytest.mark.slow
def test_layouts_are_the_same_images():
    inner, x = network(2, "convolutional").double(), torch.rand(2, 2, 6, 7, generator=generator(4), dtype=torch.float64)
    inner(x)
    which = Compose(Rotation((-3.0, 1.0)), Photometric(brightness=(0.0, 0.05)))
    first = tried(inner, x, which)
    last = tried(Last(inner, (0, 3, 1, 2)), x.movedim(1, 3), which, channels_last=True)
    assert torch.allclose(first.margin, last.margin, atol=1e-10)
    grey = network(1, "convolutional").double()
    grey(x[:, :1])
    with_channel, without = (tried(m, z, which) for m, z in ((grey, x[:, :1]), (Last(grey, ()), x[:, 0])))
    assert torch.allclose(with_channel.margin, without.margin, atol=1e-10)


@pytest.mark.slow
def test_one_logit_and_bfloat16():
    torch.manual_seed(1)
    one = nn.Sequential(nn.Flatten(), nn.Linear(30, 1))
    x = torch.rand(2, 1, 5, 6, generator=generator(3))
    with pytest.raises(InvalidModel, match="TwoClasses"):
        certify_transformation(one, x, None, Rotation((-1.0, 1.0)))
    assert tried(certify.TwoClasses(one), x, Rotation((-1.0, 1.0))).verified.any()
    small = nn.Sequential(nn.Flatten(), nn.Linear(30, 3)).bfloat16()
    found = tried(small, x.bfloat16(), Rotation((-1.0, 1.0)))
    assert found.pieces.sum() > 0  # rounding of pixels to 8 bits is within the sets, and may cost the proof


@pytest.mark.slow
def test_noise_on_top_is_part_of_the_statement():
    model, x = halfspace(0.0)
    which = Translation((-0.5, 0.0), (0.0, 0.0))
    weight = model.linear.weight[1].detach().view(x.shape[1:])
    shares = torch.linspace(0, 1, 101, dtype=torch.float64)
    images = which.apply(x.expand(101, -1, -1, -1), which.within(shares[:, None].expand(-1, 2)))
    worst = (images - 0.03 * weight.sign()).clamp(0, 1)
    least = float(model(worst)[:, 1].detach().min())
    for threshold, proved in ((least - 0.05, True), (least + 1e-3, False)):
        found = certify_transformation(halfspace(threshold)[0], x, torch.tensor([1]), which, epsilon=0.03)
        assert bool(found.verified) is proved
    plain = certify_transformation(halfspace(least - 0.05)[0], x, torch.tensor([1]), which)
    other = certify_transformation(halfspace(least - 0.05)[0], x, torch.tensor([1]), which, epsilon=0.1, norm=2)
    lengths = [float(plain.margin), float(other.margin)]
    assert lengths[0] - lengths[1] == pytest.approx(2 * 0.1 * float(weight.norm()), rel=1e-6)


def test_noise_that_changes_the_class_is_found_within_its_radius():
    """At rest, the score falls by 0.03 times the length of the weights in l1, and by no more."""
    model, x = halfspace(0.0)
    x, which = 0.2 + 0.6 * x, Photometric(brightness=(-1e-6, 1e-6))
    fall = 0.03 * float(model.linear.weight[1].detach().abs().sum())
    score = float(model(x)[0, 1].detach())
    for threshold, broken in ((score - fall * 0.99, True), (score - fall * 1.01, False)):
        model, _ = halfspace(threshold)
        found = certify_transformation(model, x, torch.tensor([1]), which, epsilon=0.03)
        assert (bool(found.broken), bool(found.verified)) == (broken, not broken)
        assert bool(found.radius < which.reach) is broken
        assert bool(noise_changes(model, x, torch.tensor([1]), 0.03, 0.0, 1.0)) is broken


@pytest.mark.slow
def test_splits_of_neurons_prove_what_halving_leaves_open():
    """No attack breaks what is proved, and without splits, or with too few parts for one, it stays open."""
    model, x, y = reference.load("plain", 4)
    x, y, which = x[3:], y[3:], Rotation((-5.0, -4.5))
    settings: dict[str, Any] = {"epsilon": 0.02, "tolerance": 0.9}
    for most_parts, proved in ((0, False), (8, False), (600, True)):
        found = certify_transformation(model, x, y, which, most_parts=most_parts, **settings)
        assert (bool(found.verified), bool(found.broken)) == (proved, False)
        assert (float(found.radius) == which.reach) is proved
        assert (float(found.margin) > 0) is proved
        assert (int(found.open_pieces) == 0) is proved
    witness = attacks.transformation(model, x, y, which, epsilon=0.02)
    assert witness.distance.isinf().all()
    late = certify_transformation(model, x, y, which, most_parts=600, timeout=1e-9, **settings)
    assert not late.verified.any()


@pytest.mark.slow
def test_what_is_wrong_already_and_what_time_leaves_open():
    model, x = halfspace(0.0)
    wrong = certify_transformation(model, x, 1 - model(x).argmax(1), Rotation((-5.0, 5.0)))
    assert (float(wrong.radius), bool(wrong.verified), bool(wrong.broken), int(wrong.pieces)) == (0, False, True, 0)
    late = certify_transformation(model, x, None, Rotation((-5.0, 5.0)), timeout=1e-9)
    assert (bool(late.verified), bool(late.broken), float(late.radius)) == (False, False, 0.0)
    assert int(late.open_pieces) > 0
    assert len(certify_transformation(model, x[:0], None, Rotation((-5.0, 5.0)))) == 0
    assert "open_pieces" in late.to_dataframe()


def test_ranges_that_do_not_hold_the_identity_and_quarter_turns():
    """Of a model that sums all pixels, which a quarter turn does not change."""
    weight = torch.ones(36, dtype=torch.float64)
    x = torch.rand(1, 1, 6, 6, generator=generator(2), dtype=torch.float64)
    total = float(x.sum())
    for threshold, proved in ((total - 1e-6, True), (total + 1e-6, False)):
        found = certify_transformation(Halfspace(weight, -threshold), x, torch.tensor([1]), Rotation((90.0, 90.0)))
        assert bool(found.verified) is proved


def test_a_radius_within_which_the_range_has_no_image_is_0():
    """The mean is above 0.4 from an offset of 0.1 on, and always with the contrast that is fixed."""
    x = torch.full((1, 1, 2, 3), 0.3, dtype=torch.float64)
    model, y = Halfspace(torch.full((6,), 1 / 6, dtype=torch.float64), -0.4), torch.tensor([0])
    cases = {
        Photometric(brightness=(0.12, 0.2)): 0.0,  # all are wrong
        Photometric(brightness=(0.05, 0.2)): 0.1,
        Photometric(brightness=(-0.2, -0.1)): 0.2,  # all are right
        Photometric(contrast=(2.0, 2.0), brightness=(-0.01, 0.01)): 0.0,
    }
    for which, exact in cases.items():
        found = certify_transformation(model, x, y, which)
        assert exact - 0.01 <= float(found.radius) <= exact


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transformation": (-5, 5)}, "certify.semantic"),
        ({"method": "none"}, "method"),
        ({"pieces": 0}, "pieces"),
        ({"timeout": -1}, "timeout"),
        ({"epsilon": -0.1}, "epsilon"),
        ({"most_parts": -1}, "most_parts"),
        ({"x": torch.rand(1, 60)}, "images"),
        ({"transformation": Photometric(gamma=(0.5, 1)), "low": None}, "low"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], message: str):
    model, x = halfspace(0.0)
    call = {"x": x, "transformation": Rotation((-1.0, 1.0)), "labels": None} | change
    with pytest.raises(InvalidInput, match=message):
        certify_transformation(model, call.pop("x"), call.pop("labels"), call.pop("transformation"), **call)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Rotation((5.0, -5.0)),
        lambda: Rotation(5.0),
        lambda: Rotation((0.0, float("nan"))),
        lambda: Rotation((0, 1), "reflect"),
        lambda: Scale((0.0, 1.0)),
        lambda: Compose(),
        lambda: Compose(Photometric((0.9, 1.1)), Rotation((0.0, 1.0))),
        lambda: Compose(Rotation((0.0, 1.0)), Shear((0.0, 1.0), "border")),
        lambda: Compose(Translation((0.0, 1.0)), Photometric((0.9, 1.1), (0.0, 0.1))),
    ],
)
def test_bad_ranges_and_orders_are_refused(make: Any):
    with pytest.raises(InvalidInput):
        make()


@pytest.mark.slow
def test_an_attack_and_the_certificate_meet():
    model, x, y = reference.load("ibp", 6)
    which = Rotation((-10.0, 10.0))
    witness = attacks.transformation(model, x, y, which, points=41, steps=2)
    certificate = certify_transformation(model, x, y, which, tolerance=0.05)
    assert (certificate.radius <= witness.distance).all()
    assert (certificate.verified | witness.found).all()
