"""Methods that :func:`certify.evaluate` can run: each is its settings and one call.

To add a method, write a class like these, give it a name and the norms it serves, and pass it to
``evaluate(methods=[...])`` or name it in a configuration.
"""

from certify.methods.base import Method, Problem
from certify.methods.checked import Checked, Count, Positive, Probability
from certify.methods.choice import BY_NAME, METHODS, STANDARD, Choice, chosen_methods, methods_of
from certify.methods.copies import QuantisedCopy
from certify.methods.presets import PRESETS, Space
from certify.methods.proofs import (
    CompleteSearch,
    IntervalBounds,
    LinearBounds,
    LinearBoundsBehindIntervals,
    Lipschitz,
    OptimisedLinearBounds,
    ProvedRadius,
    Verify,
)
from certify.methods.random_noise import RandomNoise
from certify.methods.searches import Clever, MinimalPerturbation, estimate_of
from certify.methods.sets.changes import ChangeBounds, CounterfactualAttack, RandomChanges
from certify.methods.sets.transformations import RandomTransformations, TransformationAttack, TransformationBounds
from certify.methods.smoothed import SmoothedAttack, Smoothing

__all__ = [
    "BY_NAME",
    "METHODS",
    "PRESETS",
    "STANDARD",
    "ChangeBounds",
    "Checked",
    "Choice",
    "Clever",
    "CompleteSearch",
    "Count",
    "CounterfactualAttack",
    "IntervalBounds",
    "LinearBounds",
    "LinearBoundsBehindIntervals",
    "Lipschitz",
    "Method",
    "MinimalPerturbation",
    "OptimisedLinearBounds",
    "Positive",
    "Probability",
    "Problem",
    "ProvedRadius",
    "QuantisedCopy",
    "RandomChanges",
    "RandomNoise",
    "RandomTransformations",
    "SmoothedAttack",
    "Smoothing",
    "Space",
    "TransformationAttack",
    "TransformationBounds",
    "Verify",
    "chosen_methods",
    "estimate_of",
    "methods_of",
]
