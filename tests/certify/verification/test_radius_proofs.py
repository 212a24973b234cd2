"""Proofs of radii: accepted for what they are about, refused for all else, and none beyond the true radius."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from certify import certified_radius
from certify.proofs.files import Proof, packed, unpacked
from certify.proofs.radii import RadiusStatement, check_radius
from certify.proofs.trees import InputTree
from certify.results import Certificate
from certify.verification.proving.radius_proofs import prove_radii
from certify.verification.proving.traced import traced

NORMS = [1.0, 2.0, 3.0, math.inf]


def certificate(radius: float, label: int, norm: float, sound: str = "rounding") -> Certificate:
    return Certificate(
        label=torch.tensor([label]), radius=torch.tensor([radius], dtype=torch.float64), norm=norm,
        abstained=torch.tensor([False]), alpha=0.0, subject="base", method="complete", sound=sound,
    )  # fmt: skip


def network(inputs: int, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, 12), nn.ReLU(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))


def statement(x: torch.Tensor, radius: float, norm: float, label: int, classes: int = 3) -> RadiusStatement:
    zero = np.zeros(x.numel())
    return RadiusStatement(
        centre=x.double().flatten().numpy(), radius=radius, norm=norm, low=zero, high=zero + 1, frozen=None,
        label=label, classes=classes,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("inputs", [4, 20])  # by cuts of the input, and by splits of neurons
def test_a_proof_is_accepted_for_its_statement_and_for_no_other(inputs: int, norm: float):
    model, x = network(inputs), torch.rand(1, inputs, generator=torch.Generator().manual_seed(3))
    label, known = int(model(x).argmax()), certified_radius(model, x, norm=norm, tolerance=0.05)
    radius = float(known.radius)
    (proof,) = prove_radii(model, x, certificate(radius, label, norm), seconds=20.0)
    assert isinstance(proof, bytes), proof
    read, right = traced(model, x), statement(x, radius, norm, label)
    assert check_radius(proof, read, right).accepted
    moved = right.centre + 1e-6
    for wrong in (
        replace(right, centre=moved), replace(right, label=(label + 1) % 3), replace(right, radius=1.1 * radius),
        replace(right, radius=0.9 * radius), replace(right, high=right.centre), replace(right, norm=7.0),
        replace(right, frozen=np.arange(inputs) == 0),
    ):  # fmt: skip
        report = check_radius(proof, read, wrong)
        assert not report.accepted
        assert report.reason == "the proof is about another input, label, radius or box"
    assert not check_radius(proof[:-20], read, right).accepted
    assert not check_radius(b"", read, right).accepted


@pytest.mark.slow
def test_trees_are_derived_anew_for_the_network_at_hand():
    """A proof that states the right input is refused where its trees do not prove it, of whatever network it was."""
    x = torch.rand(1, 6, generator=torch.Generator().manual_seed(0))
    models = [network(6, seed) for seed in range(8)]
    label = int(models[0](x).argmax())
    model, other = models[0], next(each for each in models if int(each(x).argmax()) != label)
    (proof,) = prove_radii(model, x, certificate(0.02, label, 2.0))
    assert isinstance(proof, bytes)
    stated = statement(x, 0.02, 2.0, label)
    assert check_radius(proof, traced(model, x), stated).accepted
    assert "does not prove" in check_radius(proof, traced(other, x), stated).reason.replace("do not", "does not")
    kept = unpacked(proof)
    emptied = [(sets, tree) for sets, tree in kept.trees][:0]
    assert "has no tree" in check_radius(packed(Proof(kept.header, tuple(emptied))), traced(model, x), stated).reason


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("factor", "proved"), [(1 - 1e-6, True), (1 + 1e-6, False)])
def test_of_a_linear_model_everything_up_to_the_boundary_is_proved_and_nothing_beyond(
    norm: float, factor: float, proved: bool
):
    """The distance to the boundary is |lead| / dual norm of the difference of two rows."""
    generator = torch.Generator().manual_seed(1)
    model = nn.Linear(6, 2).double()
    with torch.no_grad():
        model.weight.copy_(torch.randn(2, 6, generator=generator))
        model.bias.zero_()
    x = torch.rand(1, 6, generator=generator).double()
    apart = (model.weight[0] - model.weight[1]).detach()
    dual = {1.0: math.inf, math.inf: 1.0}.get(norm, norm / (norm - 1) if 1 < norm < math.inf else 1.0)
    lead = float((model(x)[0, 0] - model(x)[0, 1]).abs().detach())
    radius = lead / float(torch.linalg.vector_norm(apart, dual)) * factor
    given = certificate(radius, int(model(x).argmax()), norm)
    (proof,) = prove_radii(model, x, given, low=None, high=None, seconds=1.0)
    assert isinstance(proof, bytes) == proved
    stated = replace(statement(x, radius, norm, int(given.label), 2), low=None, high=None)
    if proved:
        assert isinstance(proof, bytes)
        assert check_radius(proof, traced(model, x), stated).accepted
    whole = InputTree(np.zeros(1, np.uint8), np.zeros(0, np.int32), np.zeros(0))  # a leaf alone
    forged = packed(Proof(stated.header(traced(model, x)), (((0,), whole),)))
    assert check_radius(forged, traced(model, x), stated).accepted == proved


@pytest.mark.slow
def test_why_there_is_no_proof():
    x = torch.rand(2, 4)
    unknown = nn.Sequential(nn.Linear(4, 3), nn.GELU())
    given = certificate(0.1, 0, 2.0)
    given = replace(given, label=torch.tensor([0, 1]), radius=torch.tensor([0.1, 0.0]).double())
    assert prove_radii(unknown, x, given) == ["gelu is a layer that proofs do not know", ""]
    deployed = prove_radii(network(4), x, replace(given, sound="deployed"))
    assert "real arithmetic" in str(deployed[0])
    assert prove_radii(network(4), x, replace(given, norm=0.0))[0] == "proofs are about norms from 1 on"
