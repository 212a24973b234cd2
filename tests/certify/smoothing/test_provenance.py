"""Records say what their draws are a function of, and what the statement is about."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from oracles.halfspace import Halfspace, generator
from torch import Tensor

from certify import SmoothedClassifier
from certify.results import Drawn
from certify.smoothing import CenterSmoothing, Gaussian, SmoothedRegressor, certify_incrementally, certify_top_k
from certify.smoothing.drawing.bits import DRAWS_VERSION
from certify.smoothing.drawing.votes import draw_run_seed

X = torch.tensor([[0.2, 0.4, 0.6], [0.0, 1.0, 0.2]])
MODEL, HALF = Halfspace(torch.ones(3)), Halfspace(torch.ones(3)).bfloat16()
OPTIONS = {"noise_group": 2, "grid": 255}
CLASSIFIER = SmoothedClassifier(MODEL, Gaussian(0.5), num_classes=2, **OPTIONS)
REGRESSOR = SmoothedRegressor(MODEL, Gaussian(0.5), **OPTIONS)
NAME = "smoothed(gaussian(sigma=0.5), grid=255)"


def incremental(*, first_index: int, generator: torch.Generator) -> Drawn:
    original = CLASSIFIER.certify(X, n=100, first_index=first_index)
    return certify_incrementally(CLASSIFIER, HALF, original, X, n=100, generator=generator)


def center(**options: object) -> Drawn:
    def distance(first: Tensor, second: Tensor) -> Tensor:
        return (first - second).abs().sum(1)

    return CenterSmoothing(MODEL, distance, Gaussian(0.5), **OPTIONS).certify(X, 0.1, n=100, **options)


CALLS = {
    "certify": (lambda **options: CLASSIFIER.certify(X, n=100, **options), NAME),
    "certify_at": (lambda **options: CLASSIFIER.certify_at(X, 0.1, max_samples=100, **options), NAME),
    "incremental": (incremental, NAME),
    "top-k": (
        lambda **options: certify_top_k(CLASSIFIER, X, torch.tensor([1, 1]), 1, n=100, **options),
        f"top-1 of {NAME}",
    ),
    "regression": (lambda **options: REGRESSOR.certify(X, 0.1, n=100, **options), f"quantile(p=0.5) of {NAME}"),
    "center": (center, f"center of {NAME}"),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_record_names_its_draws_and_its_subject(name: str):
    call: Callable[..., Drawn]
    call, subject = CALLS[name]
    record = call(first_index=7, generator=generator(5))
    expected = {
        "subject": subject,
        "domain": "any input",
        "sampling_error": record.sampling_error,
        "draws_version": DRAWS_VERSION,
        "seed": draw_run_seed(generator(5)),
        "first_index": 7,
        "noise_group": 2,
        "sampling": "integers on the grid 1/255",
        "precision": "bfloat16" if name == "incremental" else "float32",
    }
    assert 0 <= record.sampling_error < 1e-11  # integers on a grid are drawn almost exactly
    assert set(expected) == {field.name for field in dataclasses.fields(Drawn)} - {"label"}
    table = record.to_dataframe()
    for field, value in expected.items():
        assert getattr(record, field) == value
        assert (table[field] == value).all()
