"""Inputs in other units than the noise: images of 8 bits that nobody divided by 255."""

import math
import warnings

import pytest
import torch
from oracles.halfspace import Halfspace, generator
from torch import nn

import bounds
from bounds import InvalidInput
from certify import SmoothedClassifier, certified_radius
from certify.attacks import minimal_perturbation, robust_accuracy
from certify.smoothing import Gaussian, GeneralizedGaussian, Laplace, SmoothedRegressor, Uniform, certify_top_k


def model() -> nn.Module:
    return Halfspace(torch.randn(36, generator=generator()))


def smoothed(**options: object) -> SmoothedClassifier:
    return SmoothedClassifier(model(), options.get("noise", Gaussian(0.25)), num_classes=2)


CALLS = {
    "predict": lambda x: smoothed().predict(x, n=10),
    "certify": lambda x: smoothed().certify(x, n=10),
    "certify_at": lambda x: smoothed().certify_at(x, radius=0.1, max_samples=100),
    "laplace": lambda x: smoothed(noise=Laplace(0.25)).certify(x, n=10),
    "uniform": lambda x: smoothed(noise=Uniform(0.5)).certify(x, n=10),
    "generalized": lambda x: smoothed(noise=GeneralizedGaussian(0.25, 36, 4)).certify(x, n=10),
    "top k": lambda x: certify_top_k(smoothed(), x, x.new_zeros(len(x)).long(), k=1, n=10),
    "regression": lambda x: SmoothedRegressor(model(), Gaussian(0.25)).certify(x, radius=0.1, n=10),
    "clever": lambda x: bounds.clever(model(), x, norm=2, radius=1.0, num_batches=2, batch_size=2, resamples=0),
    "local_lipschitz": lambda x: bounds.local_lipschitz(model(), x, norm=2, radius=1.0, steps=1, restarts=1),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.slow
def test_images_from_0_to_255_are_told(call: str):
    """As they are and after a resize; not in [0, 1], and not standardised."""
    x = torch.linspace(0, 255, 72).view(2, 1, 6, 6)
    for raw in (x.round(), x):
        with pytest.warns(UserWarning, match=r"x holds values from 0 to 255, but .* is in units of x: .*divide them"):
            CALLS[call](raw)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CALLS[call](x / 255)
        CALLS[call](x / 51 - 2.5)


def test_noise_in_the_units_of_the_inputs_is_not_told():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        smoothed(noise=Gaussian(64.0)).certify(torch.linspace(0, 255, 72).view(2, 36), n=10)


BYTES = torch.arange(72, dtype=torch.uint8).view(2, 36)
REFUSING = {
    "certify": lambda x: smoothed().certify(x),
    "predict": lambda x: smoothed().predict(x),
    "certify_at": lambda x: smoothed().certify_at(x, radius=0.1),
    "sample": lambda x: Gaussian(0.25).sample(x),
    "certified_radius": lambda x: certified_radius(model(), x, torch.zeros(2).long(), norm=2),
    "clever": lambda x: bounds.clever(model(), x, norm=2, radius=1.0),
    "noise_ratio_test": lambda x: bounds.noise_ratio_test(model(), x),
    "minimal_perturbation": lambda x: minimal_perturbation(model(), x, torch.zeros(2).long(), norm=2),
    "robust_accuracy": lambda x: robust_accuracy(model(), x, torch.zeros(2).long(), norm=math.inf, epsilon=0.1),
}


@pytest.mark.parametrize("call", REFUSING)
def test_integers_of_8_bits_are_refused_with_the_division(call: str):
    """The advice was x.float(): followed, it gave certificates around inputs from 0 to 255."""
    with pytest.raises(
        InvalidInput, match=r"got torch\.uint8: images of 8 bits become numbers in \[0, 1\] by x\.float\(\) / 255"
    ):
        REFUSING[call](BYTES)
    with pytest.raises(InvalidInput, match=r"got torch\.int64: convert with x\.float\(\)"):
        REFUSING[call](BYTES.long())


def test_a_loader_is_no_tensor():
    """torch.as_tensor of it, which was the advice, fails."""
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.rand(4, 36)))
    for call in (smoothed().certify, smoothed().predict, Gaussian(0.25).sample):
        with pytest.raises(
            InvalidInput, match=r"x must be a torch tensor, got DataLoader: pass x and y of .*certify.collect"
        ):
            call(loader)
    with pytest.raises(InvalidInput, match=r"got list: use torch\.as_tensor\(x\)"):
        smoothed().certify([[0.0] * 36])
