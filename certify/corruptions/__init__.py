"""Common corruptions of images by name, and what they do to a model: accuracies, mCE, flip rates."""

from certify.corruptions.accuracy import SEVERITIES, CorruptionAccuracy, corruption_accuracy
from certify.corruptions.benchmark import CORRUPTIONS, EXTRA, IMAGENET_C, Corruption
from certify.corruptions.blurs import (
    defocus_blur,
    elastic_transform,
    glass_blur,
    random_motion_blur,
    wide_gaussian_blur,
    zoom_blur,
)
from certify.corruptions.digital import low_contrast, pixelate, saturate, speckle_noise, value_brightness
from certify.corruptions.error import CorruptionError, corruption_error
from certify.corruptions.sequences import CIFAR_SEQUENCES, SEQUENCES, FlipRates, Frames, flip_rates
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

__all__ = [
    "CIFAR_SEQUENCES",
    "CORRUPTIONS",
    "EXTRA",
    "IMAGENET_C",
    "SEQUENCES",
    "SEVERITIES",
    "Corruption",
    "CorruptionAccuracy",
    "CorruptionError",
    "FlipRates",
    "Frames",
    "brightness",
    "contrast",
    "corruption_accuracy",
    "corruption_error",
    "defocus_blur",
    "elastic_transform",
    "flip_rates",
    "fog",
    "frost",
    "gaussian_blur",
    "gaussian_noise",
    "glass_blur",
    "impulse_noise",
    "jpeg",
    "low_contrast",
    "motion_blur",
    "pixelate",
    "random_motion_blur",
    "saturate",
    "shot_noise",
    "snow",
    "spatter",
    "speckle_noise",
    "value_brightness",
    "wide_gaussian_blur",
    "zoom_blur",
]
