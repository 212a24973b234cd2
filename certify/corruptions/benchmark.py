"""Corruptions by name: eight quick ones, and those of ImageNet-C."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from certify.corruptions.blurs import (
    defocus_blur,
    elastic_transform,
    glass_blur,
    random_motion_blur,
    wide_gaussian_blur,
    zoom_blur,
)
from certify.corruptions.digital import low_contrast, pixelate, saturate, speckle_noise, value_brightness
from certify.corruptions.simple import (
    brightness,
    contrast,
    gaussian_blur,
    gaussian_noise,
    impulse_noise,
    jpeg,
    motion_blur,
    shot_noise,
)
from certify.corruptions.weather import fog, frost, snow, spatter

Corruption = Callable[[Tensor, int, torch.Generator | None], Tensor]  # images (N, C, H, W) in [0, 1], severity, source

CORRUPTIONS: Mapping[str, Corruption] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "gaussian_blur": gaussian_blur,
    "motion_blur": motion_blur,
    "contrast": contrast,
    "brightness": brightness,
    "jpeg": jpeg,
}

IMAGENET_C: Mapping[str, Corruption] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": random_motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "brightness": value_brightness,
    "contrast": low_contrast,
    "elastic_transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg_compression": jpeg,
}

# Set aside by the benchmark for validation.
EXTRA: Mapping[str, Corruption] = {
    "speckle_noise": speckle_noise,
    "gaussian_blur": wide_gaussian_blur,
    "spatter": spatter,
    "saturate": saturate,
}
