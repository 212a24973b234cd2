"""Runs of wrong programs: each formula behind a record is made wrong in turn, and the audit refutes the run."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import certify
from bounds.numerics import round_up
from certify.attacks.search import driver
from certify.evaluation import rows
from certify.methods import IntervalBounds, Method, MinimalPerturbation, Smoothing
from certify.methods import proofs as methods_of_proofs
from certify.smoothing import Gaussian, Laplace, Uniform
from certify.smoothing.classifiers import classifier, estimation
from certify.smoothing.classifiers.classifier import SmoothedClassifier
from certify.smoothing.drawing.votes import Sampling, Stage
from certify.smoothing.noises import base

Patch = pytest.MonkeyPatch
SMOOTHING = Smoothing(n=400)


def data() -> tuple[nn.Module, Tensor, Tensor]:
    """A linear classifier of three classes that is sure of most inputs, and inputs on the grid."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(4, 3)
    with torch.no_grad():
        model.weight.copy_(6 * torch.eye(3, 4))
        model.bias.zero_()
    x = torch.randint(0, 256, (6, 4), generator=generator) / 255
    return model, x, x[:, :3].argmax(1)


def refuted(folder: Path, method: Method, norm: float = 2) -> set[str]:
    """The checks that refute the run of a method by the program as it is now."""
    model, x, y = data()
    certify.evaluate(model, x, y, norms=norm, methods=method, output=folder)
    return {finding.check for finding in certify.audit(folder, model, x, y, sample=1).refuted}


def with_other_alpha(patch: Patch) -> None:
    right = estimation.clopper_pearson_lower
    patch.setattr(
        estimation, "clopper_pearson_lower", lambda counts, n, alpha: right(counts, n, alpha=min(10 * alpha, 0.5))
    )


def with_other_sequential_alpha(patch: Patch) -> None:
    right = classifier.sequential_lower
    patch.setattr(classifier, "sequential_lower", lambda counts, n, alpha: right(counts, n, alpha=2 * alpha))


def with_whole_alpha_for_both(patch: Patch) -> None:
    for name in ("clopper_pearson_lower", "clopper_pearson_upper"):
        right = getattr(estimation, name)
        patch.setattr(estimation, name, lambda counts, n, alpha, right=right: right(counts, n, alpha=2 * alpha))


def with_wider_sigma(patch: Patch) -> None:
    right = Gaussian._radius
    patch.setattr(Gaussian, "_radius", lambda self, p: right(Gaussian(1.02 * self.sigma), p))


def with_logistic_quantile(patch: Patch) -> None:
    patch.setattr(Gaussian, "_radius", lambda self, p: self.sigma * torch.log(p / (1 - p)))


def with_radii_rounded_up(patch: Patch) -> None:
    patch.setattr(base, "round_down", lambda value, *_: round_up(value, 1e-15))


def with_probabilities_rounded_up(patch: Patch) -> None:
    right = estimation.lowered
    patch.setattr(estimation, "lowered", lambda lower, error: right(lower, error) * (1 + 1e-11))


def with_the_label_of_the_estimate(patch: Patch) -> None:
    right = SmoothedClassifier._without_estimate

    def wrong(self: SmoothedClassifier, selection: Tensor, sampling: Sampling, **settings: object) -> object:
        start = right(self, selection, sampling, **settings)  # type: ignore[arg-type]
        return dataclasses.replace(start, label=(start.label + 1) % self.num_classes)

    patch.setattr(SmoothedClassifier, "_without_estimate", wrong)


def with_selection_and_estimate_on_the_same_draws(patch: Patch) -> None:
    right = Sampling.votes
    patch.setattr(Sampling, "votes", lambda self, classes, draws, stage, **more: right(
        self, classes, draws, Stage.SELECTION, **more))  # fmt: skip


def with_votes_of_one_draw_twice(patch: Patch) -> None:
    right = Sampling.votes
    patch.setattr(Sampling, "votes", lambda self, classes, draws, stage, **more: (
        2 * right(self, classes, draws // 2, stage, **more)))  # fmt: skip


def with_laplace_of_one_tail(patch: Patch) -> None:
    patch.setattr(Laplace, "_radius", lambda self, p: -self.scale * torch.log(1 - p))


def with_uniform_of_twice_the_width(patch: Patch) -> None:
    right = Uniform._radius
    patch.setattr(Uniform, "_radius", lambda self, p: 2 * right(self, p))


def with_distances_rounded_down(patch: Patch) -> None:
    right = rows.distance
    for place in (rows, driver):  # or the record would state two of them
        patch.setattr(place, "distance", lambda points, x, norm: right(points, x, norm) * (1 - 1e-12))


def with_larger_radii(patch: Patch) -> None:
    right = methods_of_proofs.certified_radius

    def wrong(*arguments: object, **settings: object) -> object:
        found = right(*arguments, **settings)  # type: ignore[arg-type]
        return dataclasses.replace(found, radius=1.05 * found.radius)

    patch.setattr(methods_of_proofs, "certified_radius", wrong)


TWO_CLASS, SEQUENTIAL = Smoothing(n=400, bound="two-class"), Smoothing(n=400, tolerance=0.01)
LAPLACE, UNIFORM = Smoothing(n=400, noise=Laplace(0.2)), Smoothing(n=400, noise=Uniform(0.5))
WRONG: list[tuple[Callable[[Patch], None], Method, float, str]] = [
    (with_other_alpha, SMOOTHING, 2, "probabilities of smoothing"),
    (with_other_sequential_alpha, SEQUENTIAL, 2, "probabilities of smoothing"),
    (with_whole_alpha_for_both, TWO_CLASS, 2, "probabilities of smoothing"),
    (with_wider_sigma, SMOOTHING, 2, "radii of smoothing"),
    (with_logistic_quantile, SMOOTHING, 2, "radii of smoothing"),
    (with_radii_rounded_up, SMOOTHING, 2, "radii of smoothing"),
    (with_probabilities_rounded_up, SMOOTHING, 2, "probabilities of smoothing"),
    (with_the_label_of_the_estimate, SMOOTHING, 2, "labels of smoothing"),
    (with_selection_and_estimate_on_the_same_draws, SMOOTHING, 2, "votes drawn again"),
    (with_votes_of_one_draw_twice, SMOOTHING, 2, "votes drawn again"),
    (with_laplace_of_one_tail, LAPLACE, 1, "radii of smoothing"),
    (with_uniform_of_twice_the_width, UNIFORM, 1, "radii of smoothing"),
    (with_distances_rounded_down, MinimalPerturbation(steps=5, restarts=1), 2, "distances of witnesses"),
    (with_larger_radii, IntervalBounds(), math.inf, "proofs of bounds"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("wrong", "method", "norm", "check"), WRONG, ids=[wrong[0].__name__ for wrong in WRONG])
def test_the_run_of_a_wrong_program_is_refuted(
    wrong: Callable[[Patch], None], method: Method, norm: float, check: str, tmp_path: Path, monkeypatch: Patch
):
    wrong(monkeypatch)
    assert check in refuted(tmp_path / "run", method, norm)


@pytest.mark.slow
@pytest.mark.parametrize("method", [SMOOTHING, TWO_CLASS, SEQUENTIAL, LAPLACE, UNIFORM], ids=str)
def test_the_run_of_the_program_itself_holds(method: Smoothing, tmp_path: Path):
    assert refuted(tmp_path / "run", method, method.randomization.norm) == set()
