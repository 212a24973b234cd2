"""Assertions about a trained network for your own test suite, and a pytest plugin with fixtures.

The plugin is found by pytest where this package is installed. It imports torch when an assertion is called or a fixture
asked for, and not before. Assertions can be called without pytest, too, and return what they found. In a test they also
leave their numbers, which ``pytest --junitxml`` writes as properties of the test.

Each one states its false-alarm rate: the probability that it fails although what it asserts is true.
"""

from certify.testing.assertions import assert_certified, assert_noise_law, assert_sound_bounds
from certify.testing.fixtures import certify_generator, certify_reference
from certify.testing.gates import assert_certified_accuracy, assert_no_regression
from certify.testing.recording import pytest_runtest_protocol
from certify.testing.smoothing_assertions import assert_smoothing_guarantee

__all__ = [
    "assert_certified",
    "assert_certified_accuracy",
    "assert_no_regression",
    "assert_noise_law",
    "assert_smoothing_guarantee",
    "assert_sound_bounds",
    "certify_generator",
    "certify_reference",
    "pytest_runtest_protocol",
]
