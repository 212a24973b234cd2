"""Assertions for test suites: each passes where it should and goes red for a mutant; the plugin loads without torch."""

import dataclasses
import math
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from oracles.halfspace import Halfspace, generator
from scipy import stats
from torch import Tensor, nn

import bounds
from bounds import Interval, InvalidInput, LpBall, clopper_pearson_lower
from certify import SmoothingCertificate
from certify.attacks.studies.reached_logits import reached_logits
from certify.smoothing import Gaussian, Laplace, Noise, SplittingNoise, UniformInBox
from certify.smoothing.classifiers.classifier import SmoothedClassifier
from certify.testing import assert_certified, assert_noise_law, assert_smoothing_guarantee, assert_sound_bounds

ROOT = Path(__file__).parents[2]
OPEN = {"low": None, "high": None}


def halfspace() -> tuple[Halfspace, Tensor, Tensor]:
    model = Halfspace(torch.randn(8, generator=generator(), dtype=torch.float64), bias=0.2)
    x = torch.randn(12, 8, generator=generator(1), dtype=torch.float64)
    return model, x, model(x).argmax(1)


# --------------------------------------------------------------------------------------------------------- certificates


@pytest.mark.slow
def test_certified_inputs_of_a_halfspace():
    """The exact distance decides; beyond it the message shows adversarial examples, and what was wrong as it is."""
    model, x, y = halfspace()
    distance = model.distance(x)
    verdict = assert_certified(model, x, y, norm=2, epsilon=0.999 * distance, **OPEN)
    assert verdict.verified.all()
    with pytest.raises(AssertionError, match=r"0\.0% of 12 inputs .* radius of each row.*less than 100\.0%") as failure:
        assert_certified(model, x, y, norm=2, epsilon=1.01 * distance, generator=generator(), **OPEN)
    assert str(failure.value).count("an adversarial example lies at") == 5
    assert "and 7 more" in str(failure.value)
    middle = float(distance.sort().values[5:7].mean())
    share = float((distance > middle).double().mean())
    assert_certified(model, x, y, norm=2, epsilon=middle, at_least=share, **OPEN)
    with pytest.raises(AssertionError, match="misclassified as"):
        assert_certified(model, x, 1 - y, norm=2, epsilon=0.01, **OPEN)


@pytest.mark.slow
def test_what_is_not_refuted_is_told_apart():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)).double()
    x = torch.rand(6, 8, generator=generator(), dtype=torch.float64)
    y = model(x).argmax(1)
    attacked = bounds.nearest_boundary(model, x).distance
    with pytest.raises(AssertionError, match="not proved and not refuted"):
        assert_certified(model, x, y, norm=2, epsilon=0.97 * attacked, method="ibp", **OPEN)


# --------------------------------------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize("norm", [1, 2, 3.0, math.inf])
def test_sound_bounds_pass_and_narrowed_ones_are_caught(norm: float):
    """Exact bounds of an affine network, and the mutant: 2% off on one side of one logit."""
    model = nn.Linear(6, 3, dtype=torch.float64)
    x = torch.rand(4, 6, generator=generator(), dtype=torch.float64)
    ball = LpBall(x, 0.2, norm=norm, **OPEN)

    def exact(model: nn.Module, ball: LpBall) -> Interval:
        value = model(ball.center).detach()
        reach = 0.2 * model.weight.detach().norm(ball.dual_norm, dim=1)
        return Interval(value - reach, value + reach)

    def narrowed(model: nn.Module, ball: LpBall) -> Interval:
        found = exact(model, ball)
        width = found.upper - found.lower
        width[:, [0, 2]] = 0.0
        return Interval(found.lower, found.upper - (0.02 if norm != 3 else 0.2) * width)

    assert_sound_bounds(model, ball, bound=exact, generator=generator(1))
    assert_sound_bounds(model, ball, generator=generator(1))
    with pytest.raises(AssertionError, match=r"of 12 bounds are not sound\n  row \d, logit 1: bounds"):
        assert_sound_bounds(model, ball, bound=narrowed, steps=30, generator=generator(1))


def test_in_l1_the_best_corner_is_found_where_entries_are_nearly_equal():
    """Projected steps were 3 % short of it."""
    model = nn.Linear(6, 3, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([0.28, -0.33, 0.23, -0.39, 0.335, -0.343]).expand(3, -1))
    ball = LpBall(torch.rand(2, 6, generator=generator(), dtype=torch.float64), 0.2, norm=1, **OPEN)
    low, high = reached_logits(model, ball, 3, samples=0, steps=3, generator=generator())
    with torch.no_grad():
        middle = model(ball.center)
    torch.testing.assert_close(high - middle, torch.full_like(middle, 0.2 * 0.39), rtol=1e-5, atol=0)
    torch.testing.assert_close(middle - low, torch.full_like(middle, 0.2 * 0.39), rtol=1e-5, atol=0)


@pytest.mark.parametrize("box", [{"low": None, "high": None}, {"low": 0.0, "high": 1.0}], ids=["open", "boxed"])
@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_the_best_point_of_a_linear_model_is_found_in_a_step(norm: float, box: dict[str, float | None]):
    """Projected steps were 2 % short of it in l2 where the box was in the way."""
    model = nn.Linear(6, 3, dtype=torch.float64)
    ball = LpBall(torch.rand(20, 6, generator=generator(), dtype=torch.float64), 0.4, norm, **box)
    low, high = reached_logits(model, ball, 3, samples=0, steps=1, generator=generator())
    rows = model.weight.detach().expand(20, -1, -1)
    least, most = bounds.linear_minimum(rows, ball), -bounds.linear_minimum(-rows, ball)
    bias = model.bias.detach()
    torch.testing.assert_close(low - bias, least, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(high - bias, most, rtol=1e-5, atol=1e-5)


def test_bounds_that_are_no_numbers_are_caught_and_the_box_is_kept():
    model = nn.Linear(3, 2)
    x = torch.zeros(2, 3)
    ball = LpBall(x, 0.5, norm=2)  # of which only non-negative points are valid
    with pytest.raises(AssertionError, match="bounds are not sound"):
        assert_sound_bounds(model, ball, bound=lambda model, ball: Interval(*[torch.full((2, 2), math.nan)] * 2))
    with pytest.raises(InvalidInput, match=r"bound must give an interval of shapes \(2, 2\), got \(1, 2\)"):
        assert_sound_bounds(model, ball, bound=lambda model, ball: Interval(*[torch.full((1, 2), 9.0)] * 2))

    def within_box(model: nn.Module, ball: LpBall) -> Interval:
        reach = 0.5 * model.weight.detach().clamp(min=0).norm(dim=1)
        drop = 0.5 * (-model.weight.detach()).clamp(min=0).norm(dim=1)
        value = model(ball.center).detach()
        return Interval(value - drop - 1e-6, value + reach + 1e-6)

    assert_sound_bounds(model, ball, bound=within_box, generator=generator())
    assert next(model.parameters()).dtype == torch.float32


# ------------------------------------------------------------------------------------------------------------ noise law


@pytest.mark.slow
def test_noise_law_of_a_plane_and_of_a_sphere():
    model, x, _ = halfspace()
    found = assert_noise_law(model, x, flat=True, alpha=1e-4, generator=generator())
    assert found.boundary_is_flat

    class Ball(nn.Module):
        def forward(self, points: Tensor) -> Tensor:
            squared = points.square().sum(1)
            return torch.stack([torch.full_like(squared, 2.25), squared], 1)

    inside = x / x.norm(dim=1, keepdim=True)
    with pytest.raises(AssertionError, match=r"does not follow the sqrt\(D\) law\n12 inputs, 200 lines each"):
        assert_noise_law(Ball(), inside, generator=generator())
    with pytest.raises(AssertionError, match="was not measured well enough"):
        assert_noise_law(model, x, minimal=(model.distance(x) / 3, model.distance(x)), generator=generator())

    # Inside and outside of a wide sphere: the curvature cancels in the effective dimension, and only there.
    norms = torch.tensor([44.0, 46.0], dtype=torch.float64).repeat(6)[:, None] / 30
    assert_noise_law(Ball(), norms * inside, generator=generator())
    with pytest.raises(AssertionError, match="the decision boundary is not flat"):
        assert_noise_law(Ball(), norms * inside, flat=True, generator=generator())


# ------------------------------------------------------------------------------------------------------------ smoothing


class TooLong(Gaussian):
    """Gaussian noise with radii half as long again as they may be."""

    def radius_at(self, x: Tensor, p_lower: Tensor, p_upper: Tensor | None = None) -> Tensor:
        return 1.5 * super().radius_at(x, p_lower, p_upper)


def wrong_certificates() -> dict[str, Callable[[SmoothingCertificate], dict]]:
    """Every way to state more than the votes allow, by name: what is replaced in a certificate."""
    return {
        name: (lambda c, changes=changes: {field: change(c) for field, change in changes.items()})
        for name, changes in {
            "long radii": {"radius": lambda c: 1.5 * c.radius},
            "one long radius": {"radius": lambda c: c.radius + 1e-6 * (torch.arange(len(c)) == 3)},
            "no abstentions": {"abstained": lambda c: torch.zeros_like(c.abstained)},
            "abstentions with radii": {"radius": lambda c: torch.where(c.abstained, 0.1, c.radius)},
            "raised p_lower": {"p_lower": lambda c: c.p_lower + 0.01},
            "lowered p_upper": {"p_upper": lambda c: c.p_upper - 0.01},
            "another alpha": {"alpha": lambda c: c.alpha / 10},
            "other labels": {"label": lambda c: 1 - c.label},
            "no labels": {"label": lambda c: c.label + 2},
            "more draws": {"draws": lambda c: 2 * c.draws},
            "draws beyond n": {"n": lambda c: c.n // 2},
            "votes added": {"counts": lambda c: c.counts + 1000},
            "estimated p_upper": {"two_class": lambda c: torch.ones_like(c.two_class)},
            "radii that are no numbers": {"radius": lambda c: c.radius * math.nan},
            "another norm": {"norm": lambda c: math.inf},
            "another classifier": {"subject": lambda c: "smoothed(gaussian(sigma=1.0))"},
        }.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("change", wrong_certificates())
@pytest.mark.parametrize("tolerance", [None, 0.1])
def test_nothing_beyond_its_own_votes_may_be_stated(change: str, tolerance: float | None):
    """Whatever noise draws say later; the true certificate, with some rows that abstain, passes."""
    model, x, _ = halfspace()
    x = torch.cat([x, torch.zeros_like(x[:1])])
    smoothed = SmoothedClassifier(model, Gaussian(0.5), num_classes=2, grid=None)
    certificate = smoothed.certify(x, n=1000, tolerance=tolerance, generator=generator())
    assert certificate.abstained.any()
    assert_smoothing_guarantee(smoothed, x, certificate, perturbations=0, attack=False, generator=generator(1))
    mutant = dataclasses.replace(certificate, **wrong_certificates()[change](certificate))
    if change == "estimated p_upper" and tolerance is not None:
        return  # bounds at every moment leave the rest to the other class either way: no more is stated
    with pytest.raises(AssertionError, match=r"certificates (state more than their own votes allow\n  row|speak)"):
        assert_smoothing_guarantee(smoothed, x, mutant, perturbations=0, attack=False, generator=generator(1))


def test_radii_that_no_votes_allow_are_refused():
    """Five hundred draws at sigma 0.25 certify 0.5513 at most; a radius of 1 used to pass."""
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    x = torch.rand(5, 4)
    smoothed = SmoothedClassifier(model, Gaussian(0.25), num_classes=3)
    certificate = smoothed.certify(x, n=500, generator=generator())
    largest = 0.25 * stats.norm.ppf(0.001 ** (1 / 500))
    assert largest == pytest.approx(0.5513, abs=1e-4)
    for radius in (1.0, 10.0):
        mutant = dataclasses.replace(certificate, radius=torch.full_like(certificate.radius, radius))
        with pytest.raises(
            AssertionError, match=f"(radius is above what its votes allow|states a radius): {radius:g} against"
        ):
            assert_smoothing_guarantee(smoothed, x, mutant, generator=generator(1))


@pytest.mark.parametrize(("bound", "grid"), [("binary", None), ("two-class", "auto")])
def test_an_attack_refutes_radii_of_a_wrong_formula(bound: str, grid: str | None):
    """Votes and radii agree, and random perturbations find nothing in 64 dimensions: the attack has to."""
    model = Halfspace(torch.randn(64, generator=generator()), bias=0.2)
    x = (255 * torch.rand(4, 64, generator=generator(1))).round() / 255
    for noise, passes in ((Gaussian(0.5), True), (TooLong(0.5), False)):
        smoothed = SmoothedClassifier(model, noise, num_classes=2, grid=grid)
        certificate = smoothed.certify(x, n=5000, bound=bound, generator=generator())
        options = {"alpha": 1e-6, "generator": generator(1)}
        if passes:
            assert_smoothing_guarantee(smoothed, x, certificate, **options)
        else:
            assert_smoothing_guarantee(smoothed, x, certificate, attack=False, **options)
            with pytest.raises(AssertionError, match="after an attack within it class"):
                assert_smoothing_guarantee(smoothed, x, certificate, **options)


def test_votes_that_were_never_cast_are_refuted():
    """Two inputs near the boundary, all of whose votes were written for their label."""
    model = Halfspace(torch.ones(1))
    smoothed = SmoothedClassifier(model, Gaussian(1.0), num_classes=2, grid=None)
    x = torch.tensor([[0.1], [0.2]])
    certificate = smoothed.certify(x, n=1000, generator=generator())
    p_lower = clopper_pearson_lower(torch.tensor([1000, 1000]), 1000)
    forged = {"counts": torch.tensor([[0, 1000]] * 2), "p_lower": p_lower, "p_upper": 1 - p_lower + 1e-15}
    forged |= {
        "radius": torch.full((2,), 1e-3).double(),
        "abstained": torch.zeros(2).bool(),
        "label": torch.ones(2).long(),
    }
    with pytest.raises(AssertionError, match=r"row 0: class 1 has a probability of 0\.9931 or more, it says, but"):
        assert_smoothing_guarantee(
            smoothed, x, dataclasses.replace(certificate, **forged), attack=False, generator=generator(1)
        )


@pytest.mark.parametrize("noise", [SplittingNoise(1.0), UniformInBox(1.0), Laplace(0.4)], ids=str)
def test_certificates_of_other_noises_pass(noise: Noise):
    """Certificates that speak of a box are not tried outside of it, where the classifier answers with an error."""
    model = Halfspace(torch.randn(5, generator=generator()), bias=0.1)
    x = (255 * torch.rand(6, 5, generator=generator(1))).round() / 255
    smoothed = SmoothedClassifier(model, noise, num_classes=2)
    certificate = smoothed.certify(x, n=2000, generator=generator())
    assert_smoothing_guarantee(smoothed, x, certificate, alpha=1e-6, generator=generator(1))


def test_true_certificates_pass_and_long_ones_are_refuted_towards_given_points():
    model, x, _ = halfspace()
    smoothed = SmoothedClassifier(model, TooLong(0.5), num_classes=2, grid=None)
    certificate = smoothed.certify(x, n=10_000, generator=generator())
    across = x - 2 * (model.distance(x) * (2 * model(x).argmax(1) - 1))[:, None] * (
        model.linear.weight[1].detach() / model.linear.weight[1].detach().norm()
    )
    options = {"attack": False, "alpha": 1e-6, "perturbations": 0}
    with pytest.raises(AssertionError, match="after a perturbation towards the given point"):
        assert_smoothing_guarantee(smoothed, x, certificate, toward=across, generator=generator(1), **options)
    right = SmoothedClassifier(model, Gaussian(0.5), num_classes=2, grid=None)
    certificate = right.certify(x, n=10_000, generator=generator())
    assert_smoothing_guarantee(right, x, certificate, toward=across, generator=generator(1), **options)


def test_the_false_alarm_rate_of_a_smoothing_guarantee():
    """At the very edge, where the label has a probability of 1/2, alarms are as rare as stated."""
    model = Halfspace(torch.ones(1, dtype=torch.float64))
    smoothed = SmoothedClassifier(model, Gaussian(1.0), num_classes=2, grid=None)
    x = torch.ones(10, 1, dtype=torch.float64)
    certificate = smoothed.certify(x, n=2000, generator=generator())
    p_lower = torch.full((10,), stats.norm.cdf(1.0), dtype=torch.float64)
    enough = int((clopper_pearson_lower(torch.arange(2001), 2000) < p_lower[0]).sum())
    votes = torch.tensor([[2000 - enough, enough]] * 10)
    edge = {"counts": votes, "radius": torch.ones(10).double(), "p_lower": p_lower, "p_upper": 1 - p_lower + 1e-15}
    edge |= {"label": torch.ones(10).long(), "abstained": torch.zeros(10).bool(), "invalid": torch.zeros(10).long()}
    alarms = 0
    for seed in range(40):
        try:
            assert_smoothing_guarantee(
                smoothed,
                x,
                dataclasses.replace(certificate, **edge),
                toward=-x,
                attack=False,
                perturbations=0,
                draws=200,
                alpha=0.2,
                generator=generator(seed),
            )
        except AssertionError as error:
            assert "refute their certificates" in str(error)  # noqa: PT017  # whether there is one is random
            alarms += 1
    assert stats.binomtest(alarms, 40, 0.2, "greater").pvalue > 1e-6


def test_so_few_draws_that_nothing_could_fail_are_refused():
    model, x, _ = halfspace()
    smoothed = SmoothedClassifier(model, Gaussian(0.5), num_classes=2, grid=None)
    certificate = smoothed.certify(x, n=1000, generator=generator())
    with pytest.raises(InvalidInput, match="draws must be more, got 10: not even votes that are all for another"):
        assert_smoothing_guarantee(smoothed, x, certificate, draws=10)
    with pytest.raises(InvalidInput, match=r"at_least must lie in \(0, 1\], got 0"):
        assert_certified(model, x, model(x).argmax(1), norm=2, epsilon=0.1, at_least=0)
    with pytest.raises(InvalidInput, match=r"certificate must be that of SmoothedClassifier\.certify"):
        assert_smoothing_guarantee(smoothed, x, bounds)


def test_nothing_to_test_is_an_error():
    model, x, y = halfspace()
    smoothed = SmoothedClassifier(model, Gaussian(0.5), num_classes=2, grid=None)
    certificate = smoothed.certify(x, n=100, generator=generator())
    nothing = dataclasses.replace(
        certificate, abstained=torch.ones(12, dtype=torch.bool), radius=torch.zeros_like(certificate.radius)
    )
    with pytest.raises(AssertionError, match="nothing to test"):
        assert_smoothing_guarantee(smoothed, x, nothing)
    with pytest.raises(InvalidInput, match="must be in the norm 1, 2"):
        assert_smoothing_guarantee(smoothed, x, dataclasses.replace(certificate, norm=0.0))
    with pytest.raises(InvalidInput, match="at least one input"):
        assert_certified(model, x[:0], y[:0], norm=2, epsilon=0.1)
    with pytest.raises(InvalidInput, match="at least one input"):
        assert_sound_bounds(model, LpBall(x[:0], 0.1, **OPEN))


# --------------------------------------------------------------------------------------------------------------- plugin


def test_importing_the_plugin_does_not_import_torch():
    code = "import sys, certify.testing; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


@pytest.mark.slow
def test_the_example_runs_with_the_plugin():
    """In a process of its own, loaded by name, which is also that of the entry point: once, even if it is installed."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "certify.testing", "examples/test_my_network.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout


def test_the_plugin_is_declared_under_the_name_of_its_module():
    """So that it is loaded once where it is installed and also asked for with -p."""
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert entries == {"certify.testing": "certify.testing"}
