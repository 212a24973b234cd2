"""Every public call that takes tensors or networks runs on an accelerator, and keeps the host from waiting in loops.

The accelerator is made of the CPU (see ``oracles/accelerator.py``), so that a machine without one finds the mistakes.
"""

import dataclasses
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import accelerated_confidence, accelerated_training
from oracles.accelerator import Waits, accelerator, back, there
from oracles.survey_calls import survey_calls
from torch import Tensor, nn

import bounds
import certify
from bounds import geometry, noise_theorems, separation, transport
from certify import attacks, corruptions, semantic, smoothing, testing
from certify import verified_training as training

Place = Callable[[Any], Any]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 12), nn.ReLU(), nn.Linear(12, 4)
    ).eval()


def smooth() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 4)).eval()


MODEL, SMOOTH = small(), smooth()
X = torch.rand(3, 1, 8, 8, generator=generator())
Y = MODEL(X).argmax(1)
BOX = {"low": 0.0, "high": 1.0}
INF, TWO = {"norm": math.inf, "epsilon": 0.05}, {"norm": 2, "epsilon": 0.3}
DENSE = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4))
TINY = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).double()
POINTS, AT = torch.tensor([[0.2, 0.3], [0.7, 0.1]], dtype=torch.float64), torch.tensor([0, 1])
EVERY_KIND = [
    certify.methods.Smoothing(n=500, n0=50),
    certify.methods.LinearBounds(),
    certify.methods.MinimalPerturbation(steps=4, restarts=1),
]
VECTOR = torch.linspace(-1, 1, 64).view(1, 8, 8)


def ball(t: Place, norm: float = math.inf, epsilon: float = 0.02) -> bounds.LpBall:
    return bounds.LpBall(t(X.double()), epsilon, norm=norm, low=0.0, high=1.0)


def smoothed(t: Place, noise: Any = None, **options: Any) -> certify.SmoothedClassifier:
    return certify.SmoothedClassifier(t(MODEL), noise or smoothing.Gaussian(0.25), num_classes=4, **options)


def certificate(t: Place) -> certify.SmoothingCertificate:
    return smoothed(t).certify(t(X), n=500, alpha=0.01, generator=generator())


def property_file() -> Path:
    inputs = "".join(f"(declare-const X_{i} Real)(assert (>= X_{i} 0.4))(assert (<= X_{i} 0.45))" for i in range(64))
    path = Path(tempfile.mkdtemp()) / "property.vnnlib"
    path.write_text(
        inputs + "(declare-const Y_0 Real)(declare-const Y_1 Real)(declare-const Y_2 Real)"
        "(declare-const Y_3 Real)(assert (>= Y_0 Y_1))"
    )
    return path


def loss(training_loss: Callable[..., Tensor]) -> Callable[[Place, int], Tensor]:
    """The gradient of the first weight, as training needs it."""

    def gradient(t: Place, k: int) -> Tensor:
        model = t(small())
        value = training_loss(t, model, k)
        value.backward()
        return next(model.parameters()).grad

    return gradient


# Each takes where its tensors live and a factor for its steps or draws.
CALLS: dict[str, Callable[[Place, int], Any]] = {
    "bounds.ibp": lambda t, k: bounds.ibp(t(MODEL), ball(t)),
    "bounds.crown_ibp": lambda t, k: bounds.crown_ibp(t(MODEL), ball(t)),
    "bounds.fast_lin": lambda t, k: bounds.fast_lin(t(MODEL), ball(t)),
    "bounds.crown": lambda t, k: bounds.crown(t(MODEL), ball(t, 2)),
    "bounds.crown, smooth": lambda t, k: bounds.crown(t(SMOOTH), ball(t)),
    "bounds.alpha_crown": lambda t, k: bounds.alpha_crown(t(MODEL), ball(t), steps=2 * k),
    "bounds.forward_linear": lambda t, k: bounds.forward_linear(t(MODEL), ball(t)),
    "bounds.margin_bounds": lambda t, k: bounds.margin_bounds(t(MODEL), ball(t, 1), t(Y)),
    "bounds.specification_bounds": lambda t, k: bounds.specification_bounds(
        t(MODEL), ball(t), [(t(torch.eye(4)[:2].double()), t(torch.zeros(2).double()))], steps=2 * k
    ),
    "bounds.SparseBall": lambda t, k: bounds.crown(t(MODEL), bounds.SparseBall(t(X.double()), 2, low=0.0, high=1.0)),
    "bounds.HullOfBoxes": lambda t, k: bounds.crown(
        t(MODEL), bounds.HullOfBoxes(t(X.double())[:, None] - 0.01, t(X.double())[:, None] + 0.01)
    ),
    "bounds.Box": lambda t, k: bounds.crown(t(MODEL), bounds.Box(t(X.double()) - 0.01, t(X.double()) + 0.01)),
    "bounds.linear_minimum": lambda t, k: bounds.linear_minimum(t(torch.ones(3, 2, 1, 8, 8).double()), ball(t, 2)),
    "bounds.capture": lambda t, k: bounds.ibp(bounds.capture(t(MODEL), t(X)), ball(t)),
    "bounds.explain": lambda t, k: str(bounds.explain(t(MODEL), t(X))),
    "bounds.compare_engines": lambda t, k: (
        bounds.compare_engines(
            t(MODEL),
            bounds.LpBall(t(X), 0.02, norm=math.inf),
            t(Y),
            methods=["ibp"],
            samples=10 * k,
            generator=generator(),
        ).least
    ),
    "bounds.lp_bounds": lambda t, k: bounds.lp_bounds(t(TINY), bounds.LpBall(t(POINTS), 0.1, norm=1)),
    "bounds.lp_margins": lambda t, k: bounds.lp_margins(t(TINY), bounds.LpBall(t(POINTS), 0.1, norm=1), t(AT)),
    "bounds.milp_bounds": lambda t, k: bounds.milp_bounds(t(TINY), bounds.LpBall(t(POINTS), 0.1, norm=1)),
    "bounds.milp_margins": lambda t, k: bounds.milp_margins(t(TINY), bounds.LpBall(t(POINTS), 0.1, norm=1), t(AT)),
    "bounds.sdp_margins": lambda t, k: bounds.sdp_margins(t(TINY), bounds.LpBall(t(POINTS), 0.1, norm=math.inf), t(AT)),
    "bounds.lipschitz_bound": lambda t, k: bounds.lipschitz_bound(t(MODEL), 2, x=t(X)),
    "bounds.margin_lipschitz": lambda t, k: bounds.margin_lipschitz(t(MODEL), 2, t(Y), x=t(X)),
    "bounds.lipschitz_radius": lambda t, k: bounds.lipschitz_radius(t(X[0, 0]), t(1 + X[1, 0])),
    "bounds.local_lipschitz": lambda t, k: bounds.local_lipschitz(
        t(MODEL), t(X[:1]), norm=2, radius=0.3, steps=3 * k, restarts=2, generator=generator()
    ),
    "bounds.clever": lambda t, k: bounds.clever(
        t(MODEL), t(X), norm=2, radius=0.3, num_batches=10 * k, batch_size=8, generator=generator(), resamples=3, **BOX
    ),
    "bounds.clever_curve": lambda t, k: bounds.clever_curve(
        t(MODEL), t(X), norm=1, radii=[0.1, 0.3], num_batches=10 * k, batch_size=8, generator=generator(), resamples=3
    ),
    "bounds.clever_second_order": lambda t, k: bounds.clever_second_order(
        t(SMOOTH), t(X), radius=0.3, num_batches=10 * k, batch_size=4, iterations=3, generator=generator(), resamples=3
    ),
    "bounds.nearest_boundary": lambda t, k: bounds.nearest_boundary(t(MODEL), t(X), steps=5 * k),
    "bounds.noise_radius": lambda t, k: bounds.noise_radius(
        t(MODEL), t(X), norm=2, epsilon=0.1, limit=5.0, draws=50 * k, generator=generator()
    ),
    "bounds.random_basis": lambda t, k: bounds.random_basis(t(X), 2, 3, generator=generator()),
    "bounds.random_crossings": lambda t, k: bounds.random_crossings(
        t(MODEL), t(X), directions=5, limit=3.0, bisections=10 * k, generator=generator()
    ),
    "bounds.traced_crossings": lambda t, k: bounds.traced_crossings(
        t(MODEL), t(X), directions=5 * k, limit=3.0, generator=generator()
    ),
    "bounds.clopper_pearson_lower": lambda t, k: bounds.clopper_pearson_lower(t(Y), 5),
    "bounds.clopper_pearson_upper": lambda t, k: bounds.clopper_pearson_upper(t(Y), 5),
    "bounds.sequential_lower": lambda t, k: bounds.sequential_lower(t(Y), t(Y + 4)),
    "bounds.log_evidence_below": lambda t, k: bounds.log_evidence_below(t(Y), t(Y + 4), t(X[:, 0, 0, 0].double())),
    "bounds.log_evidence_above": lambda t, k: bounds.log_evidence_above(t(Y), t(Y + 4), t(X[:, 0, 0, 0].double())),
    "bounds.geometry.boundary_curvature": lambda t, k: geometry.boundary_curvature(
        level(t), t(X[:2]).flatten(1), probes=4 * k, generator=generator()
    ),
    "bounds.geometry.normal_curvature": lambda t, k: geometry.normal_curvature(
        level(t), t(X).flatten(1), t(VECTOR.flatten().expand(3, -1))
    ),
    "bounds.geometry.gradient_change": lambda t, k: geometry.gradient_change(level(t), t(X).flatten(1), step=0.1),
    "bounds.geometry.hessian_eigenvalues": lambda t, k: geometry.hessian_eigenvalues(
        level(t), t(X[:1]).flatten(1), count=2
    ),
    "bounds.geometry.cross_section": lambda t, k: geometry.cross_section(
        t(MODEL), t(X[0]), t(VECTOR), t(VECTOR**2), extent=1.0, grid=5 * k
    ),
    "bounds.geometry.normal_spectrum": lambda t, k: geometry.normal_spectrum(t(X)),
    "bounds.geometry.frequency_basis": lambda t, k: geometry.frequency_basis((1, 8, 8), size=2, offset=0, like=t(X)),
    "bounds.geometry.cosine_transform": lambda t, k: geometry.cosine_transform(8, t(X)),
    "bounds.geometry.paired_ratio": lambda t, k: geometry.paired_ratio(t(X[0, 0, 0]), t(1 + X[1, 0, 0])).ratio,
    "bounds.transport.adversarial_error_bound": lambda t, k: transport.adversarial_error_bound(
        t(X.flatten(1)), t(torch.tensor([0, 1, 0])), epsilon=1.0, norm=2
    ),
    "bounds.transport.least_adversarial_error": lambda t, k: transport.least_adversarial_error(
        t(X), t(torch.tensor([0, 1, 2])), epsilon=2.5, norm=2
    ),
    "bounds.transport.gaussian_adversarial_error": lambda t, k: transport.gaussian_adversarial_error(
        t(X[0]), t(X[1]), t(torch.eye(64)), epsilon=0.1, norm=2, iterations=5
    ),
    "bounds.separation.separation": lambda t, k: separation.separation(t(X), t(torch.tensor([0, 1, 0])), norm=2),
    "bounds.separation.invariance_check": lambda t, k: separation.invariance_check(
        certificate(t), t(X), t(torch.tensor([0, 1, 0]))
    ),
    "bounds.geometry.alignment": lambda t, k: geometry.alignment(t(X), t(X.flip(0) - 0.5)),
    "bounds.geometry.energy_share": lambda t, k: geometry.energy_share(t(X), t(X.flip(0) - 0.5), dimension=2),
    "bounds.geometry.normal_rank": lambda t, k: geometry.normal_rank(
        t(torch.cat([X, 1 - X])), draws=19 * k, alpha=0.05, generator=generator()
    ),
    "bounds.noise_theorems.distinguishability_bound": lambda t, k: noise_theorems.distinguishability_bound(
        t(X.flatten(1)), t(torch.tensor([0, 1, 0]))
    ),
    "certify.certified_radius": lambda t, k: certify.certified_radius(
        t(MODEL), t(X), t(Y), norm=2, method="crown", tolerance=0.05
    ),
    "certify.verify": lambda t, k: certify.verify(t(MODEL), t(X), t(Y), **INF, generator=generator()),
    "certify.decide": lambda t, k: certify.decide(t(DENSE), bounds.read_vnnlib(property_file())).verdict,
    "certify.lipschitz_certificate": lambda t, k: certify.lipschitz_certificate(t(MODEL), t(X), t(Y), norm=2),
    "certify.CertifiedAccuracyCurve": lambda t, k: certify.CertifiedAccuracyCurve.from_certificate(
        certificate(t), t(Y)
    ).at([0.0, 0.1]),
    "certify.SmoothedClassifier.certify": lambda t, k: smoothed(t).certify(
        t(X), n=500 * k, alpha=0.01, generator=generator()
    ),
    "certify.SmoothedClassifier.certify, Laplace": lambda t, k: smoothed(t, smoothing.Laplace(0.25)).certify(
        t(X), n=500 * k, alpha=0.01, generator=generator()
    ),
    "certify.SmoothedClassifier.certify_at": lambda t, k: smoothed(t).certify_at(
        t(X), radius=0.1, alpha=0.01, generator=generator()
    ),
    "certify.SmoothedClassifier.predict": lambda t, k: smoothed(t).predict(
        t(X), n=500 * k, alpha=0.01, generator=generator()
    ),
    "certify.evaluate": lambda t, k: certify.evaluate(t(MODEL), t(X), t(Y), methods=EVERY_KIND).check(),
    "certify.smoothing.certify_top_k": lambda t, k: smoothing.certify_top_k(
        smoothed(t), t(X), t(Y), 2, n=500 * k, alpha=0.01, generator=generator()
    ),
    "certify.smoothing.certify_incrementally": lambda t, k: smoothing.certify_incrementally(
        smoothed(t), t(MODEL), certificate(t), t(X), n=500 * k, alpha=0.01, generator=generator()
    ),
    "certify.smoothing.certified_accuracy_at_least": lambda t, k: str(
        smoothing.certified_accuracy_at_least(certificate(t), t(Y), [0.1])
    ),
    "certify.smoothing.DerandomizedSplitting": lambda t, k: smoothing.DerandomizedSplitting(
        t(MODEL), levels=4, num_classes=4, seed=1
    ).certify(t((X * 3).round() / 3)),
    "certify.smoothing.PatchSmoothedClassifier": lambda t, k: smoothing.PatchSmoothedClassifier(
        t(two_channels()), smoothing.ColumnAblation(3), num_classes=4
    ).certify(t(X)),
    "certify.smoothing.SmoothedRegressor": lambda t, k: smoothing.SmoothedRegressor(
        t(MODEL), smoothing.Gaussian(0.25)
    ).certify(t(X), n=500 * k, alpha=0.01, radius=0.1, generator=generator()),
    "certify.smoothing.gaussian_augmentation_loss": loss(
        lambda t, model, k: smoothing.gaussian_augmentation_loss(model, t(X), t(Y), sigma=0.2, generator=generator())
    ),
    "certify.smoothing.macer_loss": loss(
        lambda t, model, k: smoothing.macer_loss(model, t(X), t(Y), sigma=0.2, weight=1.0, generator=generator())
    ),
    "certify.smoothing.consistency_loss": loss(
        lambda t, model, k: smoothing.consistency_loss(model, t(X), t(Y), sigma=0.2, weight=1.0, generator=generator())
    ),
    "certify.smoothing.smoothadv_loss": loss(
        lambda t, model, k: smoothing.smoothadv_loss(
            model, t(X), t(Y), sigma=0.2, epsilon=0.1, steps=2 * k, generator=generator()
        )
    ),
    "certify.verified_training.ibp_loss": loss(
        lambda t, model, k: training.ibp_loss(model, bounds.LpBall(t(X), 0.02, norm=math.inf), t(Y), kappa=0.5)
    ),
    "certify.verified_training.crown_ibp_loss": loss(
        lambda t, model, k: training.crown_ibp_loss(
            model, bounds.LpBall(t(X), 0.02, norm=math.inf), t(Y), kappa=0.5, beta=0.5
        )
    ),
    "certify.verified_training.fused_crown_ibp_loss": loss(
        lambda t, model, k: training.fused_crown_ibp_loss(
            model, bounds.LpBall(t(X), 0.02, norm=math.inf), t(Y), kappa=0.5, beta=0.5
        )
    ),
    "certify.corruptions.corruption_accuracy": lambda t, k: corruptions.corruption_accuracy(
        t(MODEL), t(X), t(Y), severities=[1], generator=generator()
    ),
    **survey_calls(MODEL, SMOOTH, X, Y),
    "certify.testing.assert_sound_bounds": lambda t, k: testing.assert_sound_bounds(
        t(MODEL), bounds.LpBall(t(X), 0.02, norm=math.inf), samples=20, steps=3 * k, generator=generator()
    ),
}
ATTACKS = {
    "minimal_perturbation": ({"norm": 2}, "steps"),
    "deepfool": ({"norm": 2}, "steps"),
    "superdeepfool": ({"norm": 2, "rounds": 2}, ""),
    "fast_adaptive_boundary": ({"norm": 2}, "steps"),
    "carlini_wagner": ({"norm": 2}, "steps"),
    "sparsefool": ({"norm": 1}, "steps"),
    "boundary_walk": ({"norm": 2, "probes": 4}, "steps"),
    "fgsm": (INF, ""),
    "random_fgsm": (INF, ""),
    "iterative_fgsm": (INF, "steps"),
    "pgd": (TWO, "steps"),
    "apgd": (TWO, "steps"),
    "targeted_apgd": (INF, "steps"),
    "square": (INF, "queries"),
    "robust_accuracy": (INF, "steps"),
    "noise_accuracy": (INF, "draws"),
    "universal_perturbation": (INF, "steps"),
    "gradient_masking": (INF | {"queries": 20}, "steps"),
    "transformation": ({"transformation": semantic.Rotation((-5.0, 5.0)), "points": 5, "epsilon": 0.01}, "steps"),
}


def level(t: Place) -> Callable[[Tensor], Tensor]:
    model = t(SMOOTH)
    return lambda z: model(z.view(-1, 1, 8, 8))[:, 0]


def two_channels() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(128, 4)).eval()


def attack(name: str) -> Callable[[Place, int], Any]:
    options, amount = ATTACKS[name]

    def run(t: Place, k: int) -> Any:
        more = {amount: 4 * k} if amount else {}
        if name not in ("fgsm", "transformation"):
            more["generator"] = generator()
        return getattr(attacks, name)(t(MODEL), t(X), t(Y), **options, **more)

    return run


CALLS |= {f"certify.attacks.{name}": attack(name) for name in ATTACKS} | accelerated_confidence.CALLS
CALLS |= accelerated_training.CALLS

# How often the host may wait in one call for three inputs, however many steps and draws it takes.
WAITS = 60
MORE_WAITS = {
    "bounds.SparseBall": 80,  # sorted entries are counted
    "bounds.clever_curve": 90,  # a fit for each of two radii
    "bounds.compare_engines": 100,  # two engines
    **dict.fromkeys(["bounds.lp_bounds", "bounds.lp_margins", "bounds.milp_bounds"], 250),  # programmes are solved on
    **dict.fromkeys(["bounds.milp_margins", "bounds.sdp_margins"], 250),  # the host
    "certify.certified_radius": 250,  # whether rows are settled, once a radius
    "certify.semantic.certify_transformation": 400,  # pieces are halved in rounds, each bounded by several methods
    "certify.surveys.subspace_radius": 250,  # likewise
    "certify.surveys.certified_cross_section": 250,  # whether cells are proved, once a size of them
    "certify.surveys.latent_robustness": 400,  # a certified radius, and an attack
    "certify.transfer_matrix": 150,  # attacks on each of two models
    "certify.lipschitz_certificate": 80,  # constants of each layer
    "certify.verify": 150,  # a ladder of methods and an attack
    "certify.SmoothedClassifier.certify_at": 150,  # whether to go on, once a look at the draws
    "certify.smoothing.certify_incrementally": 100,  # two certificates
    "certify.attacks.robust_accuracy": 100,  # four attacks
    "certify.attacks.gradient_masking": 250,  # a dozen attacks
    "certify.evaluate": 600,  # four methods, two norms
    **accelerated_confidence.WAITS,
    **accelerated_training.WAITS,
}
GROWTH = 6  # more waits with three times the steps: some attacks ask after 1, 2, 4, 8, ... steps


DRAWING = {name for name in CALLS if name.startswith("certify.attacks") or "generator" in CALLS[name].__code__.co_names}
DRAWING |= {name for name in CALLS if name.startswith("certify.smoothing") and name.endswith("loss")}
DRAWING |= {*accelerated_training.DRAWING, *accelerated_confidence.DRAWING}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_on_the_accelerator(name: str):
    """It runs, makes the host wait no more often than it may, and finds the numbers of the CPU where it draws none."""
    with accelerator() as few:
        found = CALLS[name](there, 1)
    with accelerator() as many:
        CALLS[name](there, 3)
    assert few.total() <= MORE_WAITS.get(name, WAITS), few.lines
    assert many.total() <= few.total() + GROWTH, Waits(many - few).lines
    if name not in DRAWING:
        expected = CALLS[name](lambda value: value, 1)
        with accelerator():
            for a, b in zip(tensors(found), tensors(expected), strict=True):
                torch.testing.assert_close(back(a), b, rtol=1e-6, atol=1e-9, equal_nan=True)


def tensors(value: object) -> list[Tensor]:
    """All tensors in a result."""
    if isinstance(value, Tensor):
        return [value]
    if dataclasses.is_dataclass(value):
        return [each for field in dataclasses.fields(value) for each in tensors(getattr(value, field.name))]
    if isinstance(value, tuple | list):
        return [each for part in value for each in tensors(part)]
    return []


ELSEWHERE = {  # files, plain numbers, a library that knows no such device, or made of those above
    *("noise_ratio_test", "from_onnx", "read_vnnlib", "affine_ratio_law", "clopper_pearson_interval"),
    *("autoattack", "fooling_rate", "robustness_figures"),
    *("smoothed_minimal_perturbation", "smoothed_robust_accuracy"),
}


def test_every_public_function_of_bounds_and_attacks_is_there():
    called = {name.split(",")[0].split(".")[-1] for name in CALLS}
    functions = {name for name in attacks.__all__ if name.islower()} | {
        name for name in bounds.__all__ if name.islower() and callable(getattr(bounds, name))
    }
    assert functions - called == ELSEWHERE
