"""Radii and verdicts over sets that the caller brings, against closed forms of linear classifiers and balls."""

import math
import re
from dataclasses import replace

import matplotlib as mpl
import pytest
import torch
from oracles.ellipsoids import AXES, Ellipsoid, SearchedEllipsoid, exact_radii
from oracles.unbounded import LogGamma
from torch import Tensor, nn

import bounds
import certify
from bounds import InvalidInput
from bounds.operations.node import Node
from bounds.relaxations.base import NodeFunction
from bounds.relaxations.elementary import exp

mpl.use("agg")
DIMENSIONS = 5


def ellipsoids(x: Tensor, radius: Tensor) -> Ellipsoid:
    return Ellipsoid(x, AXES, radius)


def inputs(count: int = 4) -> Tensor:
    return torch.randn(count, DIMENSIONS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def linear() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(DIMENSIONS, 3).double().eval()


def deep() -> nn.Sequential:
    torch.manual_seed(2)
    return (
        nn.Sequential(nn.Linear(DIMENSIONS, 9), nn.ReLU(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 3)).double().eval()
    )


@pytest.mark.parametrize("method", ["ibp", "crown_ibp", "fast_lin", "crown", "alpha_crown"])
def test_the_radius_of_a_linear_classifier_is_exact_in_ellipsoids(method: str):
    model, x = linear(), inputs()
    label, exact = exact_radii(model, x)
    found = certify.certified_radius(model, x, label, perturbation=ellipsoids, method=method, tolerance=1e-6)
    assert (found.radius <= exact).all()
    torch.testing.assert_close(found.radius, exact, rtol=1e-5, atol=0)
    assert math.isnan(found.norm)
    wrong = certify.certified_radius(model, x, (label + 1) % 3, perturbation=ellipsoids, method=method)
    assert (wrong.radius == 0).all()


@pytest.mark.slow
def test_a_family_of_balls_has_the_radii_of_the_norm():
    model, x = deep(), inputs()
    labels = model(x).argmax(1)
    family = certify.certified_radius(
        model, x, labels, perturbation=lambda x, r: bounds.LpBall(x, r, 2, None, None), tolerance=1e-6, batch_size=3
    )
    norm = certify.certified_radius(model, x, labels, norm=2, low=None, high=None, tolerance=1e-6)
    torch.testing.assert_close(family.radius, norm.radius, rtol=1e-5, atol=0)


def test_a_family_that_never_fails_ends_at_a_finite_radius():
    """A set that stops growing is proved at all radii; one that nothing proves at 0 has none."""
    model, x = linear(), inputs()
    labels = model(x).argmax(1)
    still = certify.certified_radius(model, x, labels, perturbation=lambda x, r: ellipsoids(x, r.clamp(max=1e-3)))
    assert (still.radius == 1e6 * x.abs().amax(1).clamp(min=1)).all()
    wide = certify.certified_radius(model, x, labels, perturbation=lambda x, r: ellipsoids(x, r + 1e3))
    assert (wide.radius == 0).all()


def test_a_curve_of_a_family_names_no_norm():
    model, x = linear(), inputs()
    labels = model(x).argmax(1)
    found = certify.certified_radius(model, x, labels, perturbation=ellipsoids)
    axes = certify.CertifiedAccuracyCurve.from_certificate(found, labels).plot()
    assert axes.get_xlabel() == "radius (of sets without a norm)"


@pytest.mark.slow
@pytest.mark.parametrize("share", [pytest.param(0.99, marks=pytest.mark.slow), 1.01])
def test_the_verdict_on_an_ellipsoid_turns_at_the_exact_radius(share: float):
    """Rows are decided by different methods and batches, so their sets are taken apart."""
    model, x = linear(), inputs()
    label, exact = exact_radii(model, x)
    shares = torch.tensor([share, 0.5, share, 0.5], dtype=torch.float64)
    verdict = certify.verify(model, x, label, perturbation=ellipsoids(x, exact * shares), batch_size=1)
    assert torch.equal(verdict.verified, shares < 1)
    assert not verdict.falsified.any()  # this ellipsoid does not tell which points lie in it
    assert math.isnan(verdict.norm)
    assert verdict.epsilon.isnan().all()
    searched = SearchedEllipsoid(x, AXES, exact * shares)
    verdict = certify.verify(model, x, label, perturbation=searched, batch_size=1)
    assert torch.equal(verdict.verified, shares < 1)
    assert torch.equal(verdict.falsified, shares > 1)
    assert searched.contains(verdict.adversarial)[verdict.falsified].all()
    assert not certify.verify(model, x, label, perturbation=searched, attack=False).falsified.any()


def test_the_verdict_on_a_box_with_frozen_entries_is_exact():
    """By enumeration: a linear classifier keeps its class in a box if it does so at the worst corner."""
    model, x = linear().float(), inputs(40).float()
    labels = model(x).argmax(1)
    low, high = x.double() - 0.3, x.double() + torch.rand(x.shape, generator=torch.Generator().manual_seed(3))
    low[:, 1] = high[:, 1] = x[:, 1].double()
    weight, bias = model.weight.double(), model.bias.double()
    slopes = weight[labels][:, None] - weight
    least = torch.minimum(slopes * low[:, None], slopes * high[:, None]).sum(2) + bias[labels][:, None] - bias
    safe = (least.scatter(1, labels[:, None], math.inf) > 0).all(1)
    box = bounds.Box(low, high)
    verdict = certify.verify(model, x, labels, perturbation=box)
    assert torch.equal(verdict.verified, safe)
    assert torch.equal(verdict.falsified, ~safe)
    assert 0 < int(safe.sum()) < len(safe)
    points = verdict.adversarial.double()
    assert ((low <= points) & (points <= high)).all()
    assert (model(verdict.adversarial).argmax(1) != labels)[~safe].all()
    assert not certify.verify(model, x, labels, perturbation=box, attack=False).falsified.any()


def test_a_witness_outside_the_box_does_not_count(monkeypatch):
    """An attack that leaves the set by a hair falsifies nothing."""
    from certify.verification import verdicts

    honest = verdicts.minimal_perturbation
    model, x = linear(), inputs(1)
    label, slopes = model(x).argmax(1), torch.full_like(x, 2.0)
    wide = bounds.Box(x - slopes, x + slopes)
    assert certify.verify(model, x, label, perturbation=wide).falsified.all()

    def beyond(*arguments: object, **options: object) -> certify.Witness:
        return replace(honest(*arguments, **options), adversarial=x + slopes * (1 + 1e-9))

    monkeypatch.setattr(verdicts, "minimal_perturbation", beyond)
    assert not certify.verify(model, x, label, perturbation=wide).falsified.any()


@pytest.mark.parametrize("call", [certify.certified_radius, certify.verify])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "norm must be given, got None"),
        ({"perturbation": True, "norm": 2}, "norm must be left out with perturbation="),
        ({"perturbation": True, "frozen_features": torch.tensor(True)}, "frozen_features must be left out with pert"),
        ({"perturbation": 3}, "got int"),
        ({"perturbation": "far"}, "that hold their inputs, but that of row 0 does not"),
        ({"perturbation": "float"}, "perturbation must give sets in float64 around inputs of shape (4, 5), got (4, 5)"),
        ({"perturbation": "few"}, "perturbation must give sets in float64 around inputs of shape (4, 5), got (1, 5)"),
    ],
)
def test_mistakes_are_named(call, options: dict, message: str):
    makers = {
        True: ellipsoids,
        "far": lambda x, r: ellipsoids(x + 3, r),
        "float": lambda x, r: Ellipsoid(x.float(), AXES.float(), r.float()),
        "few": lambda x, r: ellipsoids(x[:1], r[:1]),
    }
    if "perturbation" in options:
        made = makers.get(options["perturbation"], options["perturbation"])
        if call is certify.verify and callable(made):
            made = made(inputs(), torch.full((4,), 0.1, dtype=torch.float64))
        options = options | {"perturbation": made}
    with pytest.raises(InvalidInput, match=re.escape(message)):
        call(linear(), inputs(), linear()(inputs()).argmax(1), **options)


def test_a_radius_takes_a_family_and_a_verdict_takes_sets_and_no_epsilon():
    model, x, labels = linear(), inputs(), torch.zeros(4, dtype=torch.long)
    sets = ellipsoids(x, torch.ones(4).double())
    with pytest.raises(InvalidInput, match="perturbation must be a function of x and radius"):
        certify.certified_radius(model, x, labels, perturbation=sets)
    with pytest.raises(InvalidInput, match="epsilon must be left out with perturbation="):
        certify.verify(model, x, labels, perturbation=sets, epsilon=0.1)
    with pytest.raises(InvalidInput, match="epsilon must be given with norm"):
        certify.verify(model, x, labels, norm=2, low=None, high=None)


@pytest.mark.slow
def test_operations_of_ones_own_reach_radii_and_verdicts():
    """Only whether they are asked, not whether what they say is true."""
    model, x = nn.Sequential(LogGamma(), linear()), inputs()
    labels = model(x).argmax(1)
    with pytest.raises(bounds.UnsupportedLayer):
        certify.certified_radius(model, x, labels, norm=math.inf, low=None, high=None)
    seen = []

    def maker(node: Node) -> NodeFunction:
        seen.append(node.operation)
        return exp()

    functions = bounds.FUNCTIONS | {"aten.lgamma.default": maker}
    options = {"norm": math.inf, "low": None, "high": None, "functions": functions, "method": "crown"}
    certify.certified_radius(model, x, labels, **options)
    certify.verify(model, x, labels, epsilon=0.1, attack=False, **options)
    assert set(seen) == {"aten.lgamma.default"}
    with pytest.raises(bounds.UnsupportedLayer, match=r"aten\.add\.Tensor"):
        certify.verify(model, x, labels, epsilon=0.1, attack=False, **options | {"table": {}})
