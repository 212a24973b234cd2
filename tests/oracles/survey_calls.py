"""Calls of surveys and corruptions that run on a pretended accelerator too: ``t`` puts things there, ``k`` scales."""

from collections.abc import Callable
from typing import Any

import torch
from oracles.halfspace import generator
from torch import Tensor, nn

import certify
from bounds import geometry
from certify import corruptions, surveys


def survey_calls(model: nn.Module, smooth: nn.Module, x: Tensor, y: Tensor) -> dict[str, Callable[[Any, int], Any]]:
    """By name, of images (3, 1, 8, 8) and two models of them."""
    return {
        "certify.corruptions.corruption_accuracy, ImageNet-C": lambda t, k: corruptions.corruption_accuracy(
            t(model),
            t(x),
            t(y),
            corruptions={**corruptions.IMAGENET_C, **corruptions.EXTRA},
            severities=[1, 5],
            generator=generator(),
        ),
        "certify.corruptions.flip_rates": lambda t, k: corruptions.flip_rates(
            t(model), t(x), frames=5, generator=generator()
        ),
        "certify.transfer_matrix": lambda t, k: certify.transfer_matrix(
            {"a": t(model), "b": t(smooth)}, t(x), t(y), norm=2, witnesses=None, generator=generator()
        ),
        "certify.surveys.span_accuracy": lambda t, k: surveys.span_accuracy(
            t(model), t(x), t(y), t(x.flip(0)), draws=3, generator=generator()
        ),
        "certify.surveys.subspace_radius": lambda t, k: surveys.subspace_radius(
            t(model), t(x), basis=t(geometry.frequency_basis((1, 8, 8), size=2, offset=1, like=x)), tolerance=0.1
        ),
        "certify.surveys.frequency_margins": lambda t, k: surveys.frequency_margins(
            t(model), t(x), size=2, offsets=[0], method=None, steps=2 * k
        ),
        "certify.surveys.certified_cross_section": lambda t, k: surveys.certified_cross_section(
            t(model), t(x[0]), t(x[1]), t(x[2]), extent=0.5, grid=4
        ),
        "certify.surveys.latent_robustness": lambda t, k: surveys.latent_robustness(
            t(model), t(nn.Identity().eval()), t(x), t(y), tolerance=0.1, steps=3 * k, generator=generator()
        ),
        "certify.surveys.loss_surface": lambda t, k: surveys.loss_surface(
            t(model), t(x), t(y), t(x), t(x.roll(1, 0)), extent=0.5, grid=4 * k
        ),
        "certify.surveys.noise_error_relation": lambda t, k: surveys.noise_error_relation(
            t(model), t(x), t(y), sigma=1.0, distance=t(torch.ones(3)), draws=20 * k, generator=generator()
        ),
    }
