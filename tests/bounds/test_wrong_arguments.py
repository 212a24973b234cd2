"""Arguments of a wrong kind: one line that names the argument, for estimates, noise and smoothing alike."""

import math

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn

import bounds
import certify
from bounds import InvalidInput, checks, noise_theorems
from certify import SmoothedClassifier, smoothing
from certify.corruptions import corruption_accuracy

MODEL = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
LAZY = nn.Sequential(nn.Linear(16, 4), nn.LazyLinear(3))
BALL = bounds.LpBall(torch.full((2, 16), 0.5), 0.1)
X, Y = torch.linspace(0, 1, 32).view(2, 16), torch.tensor([0, 1])
NOISE = smoothing.Gaussian(0.25)


def smoothed(**options: object) -> SmoothedClassifier:
    return SmoothedClassifier(**{"model": MODEL, "noise": NOISE, "num_classes": 3} | options)


def corrupted(**options: object) -> object:
    return corruption_accuracy(MODEL, X.view(2, 1, 4, 4), Y, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: corrupted(severities=()), "severities must hold at least one, got none"),
        (lambda: corrupted(severities=3), r"severities must be a sequence, got 3: put a single one into a list"),
        (lambda: corrupted(severities=[0]), "severities must lie between 1 and 5"),
        (lambda: corrupted(corruptions={}), "corruptions must be a mapping from names to at least one"),
        (lambda: corrupted(corruptions=["jpeg"]), "corruptions must be a mapping from names to at least one"),
        (lambda: bounds.clever_curve(MODEL, X, norm=2, radii=()), "radii must hold at least one, got none"),
        (lambda: bounds.clever_curve(MODEL, X, norm=2, radii=0.5), "radii must be a sequence, got 0.5"),
        (lambda: bounds.clever([1.0], X, norm=2, radius=1.0), "the model must be a torch.nn.Module"),
        (lambda: bounds.clever(MODEL, [1.0], norm=2, radius=1.0), "x must be a torch tensor, got list"),
        (
            lambda: bounds.clever(MODEL, X, norm=2, radius=1.0, generator=3),
            "generator must be a torch.Generator or None",
        ),
        (lambda: bounds.noise_ratio_test(MODEL, X, generator=3), "generator must be a torch.Generator or None, got 3"),
        (lambda: bounds.noise_ratio_test(MODEL, X, dimensions=()), "dimensions must hold at least one"),
        (lambda: bounds.noise_ratio_test(MODEL, X, dimensions=4), "dimensions must be a sequence, got 4"),
        (lambda: bounds.noise_ratio_test(MODEL, X, minimal=(X,)), "minimal must be a tensor or a pair of tensors"),
        (lambda: bounds.noise_ratio_test(MODEL, X, minimal=0.5), "minimal must be a tensor or a pair of tensors"),
        (lambda: bounds.noise_ratio_test(MODEL, X, batch_size="all"), "batch_size must be an integer of at least 2"),
        (lambda: bounds.random_crossings(MODEL, X, directions=2, limit="far"), "limit must be a finite number above 0"),
        (lambda: bounds.random_crossings(MODEL, X, directions=2, limit=1.0, generator=0), "generator must be"),
        (lambda: bounds.noise_radius(MODEL, X, norm=2, epsilon=0.1, limit=1.0, grid=None), "grid must be an integer"),
        (lambda: bounds.nearest_boundary(MODEL, X, target=3), "labels must be class indices from 0 to 2, got 3"),
        (lambda: bounds.nearest_boundary(MODEL, X, target=0.5), "target must be an integer of at least 0"),
        (lambda: smoothed(noise=0.25), r"noise must be a noise such as Gaussian\(sigma=0\.25\), got 0\.25"),
        (lambda: smoothed(grid="fine"), "grid must be one of auto, got 'fine'"),
        (lambda: smoothed(grid=2.5), "grid must be an integer of at least 1, got 2.5"),
        (lambda: smoothed().certify(X, generator=3), r"got 3: use torch\.Generator\(\)\.manual_seed\(seed\)"),
        (lambda: smoothing.InNorm(0.25, math.inf, dimension=16), "noise must be a noise such as"),
        (lambda: smoothing.certify_top_k(MODEL, X, Y, k=1), "smoothed must be a SmoothedClassifier, got Sequential"),
        (lambda: smoothing.CertifiedAccuracyEnvelope([], Y), "certificates must hold at least one, got none"),
        (lambda: smoothing.CertifiedAccuracyEnvelope([3], Y), "certificate must be a Certificate, .*got 3"),
        (lambda: smoothing.certificate_table({}, Y), "certificates must be a mapping from names to at least one"),
        (lambda: smoothing.average_certified_radius(Y, Y), "certificate must be a Certificate"),
        (lambda: smoothing.Ensemble([]), "models must hold at least one, got none"),
        (lambda: noise_theorems.lp_noise_factor(torch.zeros(3), 2), "weight must be finite and not 0"),
        (lambda: noise_theorems.lp_noise_radius(10, 1.0, norm=2, epsilon="x"), "epsilon must lie strictly between"),
        (lambda: noise_theorems.gaussian_noise_factors(0.1, flatness="x"), "flatness must be a finite number"),
        (lambda: noise_theorems.distinguishability_bound(X, [0, 1]), "y must be a torch tensor"),
        (lambda: noise_theorems.mean_distance_bound(Y.double(), Y[:1], tau=1.0), r"signs must have shape \(2,\)"),
        (lambda: noise_theorems.flat_ratio_bound("x", 3, delta=0.1), "features must be an integer of at least 1"),
    ],
)
def test_one_line_names_the_argument(call, message: str):
    with pytest.raises(InvalidInput, match=message) as failure:
        call()
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("memory", [0, -1, 1e9, "1GB", None, True])
@pytest.mark.parametrize(
    "call",
    [
        lambda memory: bounds.ibp(MODEL, BALL, memory=memory),
        lambda memory: bounds.crown(MODEL, BALL, memory=memory),
        lambda memory: bounds.forward_linear(MODEL, BALL, memory=memory),
        lambda memory: bounds.margin_bounds(MODEL, BALL, Y, "ibp", memory=memory),
        lambda memory: bounds.linear_forms(MODEL, BALL, torch.eye(3).expand(2, 3, 3), memory=memory),
        lambda memory: certify.certified_radius(MODEL, X, Y, norm=2, memory=memory),
        lambda memory: certify.verify(MODEL, X, Y, norm=2, epsilon=0.1, memory=memory),
        lambda memory: certify.confidence_bound(MODEL, BALL, memory=memory),
        lambda memory: certify.certified_universal_accuracy(MODEL, X, Y, norm=2, epsilon=0.1, memory=memory),
    ],
)
def test_memory_is_a_number_of_bytes(call, memory: object):
    with pytest.raises(InvalidInput, match="memory must be an integer of at least 1, got"):
        call(memory)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_refused_before_anything_asks_for_their_shape():
    with pytest.raises(InvalidInput, match="x must be a dense tensor that holds numbers, got a nested tensor"):
        certify.certified_radius(MODEL, torch.nested.nested_tensor(list(X)), torch.zeros(len(X)).long(), norm=2)


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (LAZY, X, "the model must have weights, but 1.weight of a lazy layer has none yet"),
        (MODEL, X.to_sparse(), r"x must be a dense tensor .* got torch.sparse_coo: use x.to_dense\(\)"),
        (MODEL, X.to("meta"), "x must be a dense tensor that holds numbers, got a meta tensor"),
    ],
)
def test_neither_model_nor_inputs_without_numbers_are_served(model: nn.Module, x: torch.Tensor, message: str):
    for call in (
        lambda: certify.certified_radius(model, x, norm=2),
        lambda: smoothed(model=model).certify(x, n=10),
        lambda: certify.attacks.minimal_perturbation(model, x, Y, norm=2),
    ):
        with pytest.raises(bounds.BoundsError, match=message):
            call()


def test_what_is_no_axes_is_told():
    figure, axes = plt.subplots(2)
    assert checks.axes(axes[0]) is axes[0]
    assert checks.axes(None) is axes[1]  # pyplot's current one
    for wrong, name in ((figure, "Figure"), (axes, "ndarray")):
        with pytest.raises(InvalidInput, match=f"ax must be one matplotlib Axes, got {name}"):
            checks.axes(wrong)
    plt.close(figure)
