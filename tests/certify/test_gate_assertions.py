"""Assertions of a gate, and the numbers that they leave with a test, as JUnit properties, also of pytest-xdist."""

import dataclasses
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from oracles.certificates import certificate, grouped, zeros
from oracles.compared import NOT, evaluation, proved
from scipy import stats
from torch import nn

from bounds import InvalidInput
from certify.testing import assert_certified, assert_certified_accuracy, assert_no_regression
from certify.testing.recording import record

pytest_plugins = ["pytester"]

TESTS = """
import torch
from certify.results import Certificate
from certify.testing import assert_certified_accuracy

def judge(right, at_least):
    certificate = Certificate(
        label=torch.arange(40) >= right, radius=torch.ones(40, dtype=torch.float64),
        abstained=torch.zeros(40, dtype=torch.bool), norm=2.0, alpha=0.001, subject="base", method="smoothing")
    assert_certified_accuracy(certificate, torch.zeros(40, dtype=torch.bool), radius=0.5, at_least=at_least)

def test_two():
    judge(39, 0.8)
    judge(38, 0.8)

def test_missed():
    judge(20, 0.5)

def test_without():
    pass
"""


def plain(rows: int, right: int, alpha: float = 0.0):
    return certificate([1.0] * rows, alpha=alpha, right=[i < right for i in range(rows)])


# ---------------------------------------------------------------------------------------------------------- assertions


def test_the_bound_decides_and_not_the_estimate():
    found = assert_certified_accuracy(plain(40, 38), zeros(40), radius=0.5, at_least=0.84)
    assert found.bound == pytest.approx(stats.beta.ppf(0.05, 38, 3), rel=1e-9)
    with pytest.raises(
        AssertionError, match=r"certified 38 of 40 inputs \(0\.95\); at least 0\.8508 .* 0\.9 is required"
    ):
        assert_certified_accuracy(plain(40, 38), zeros(40), radius=0.5, at_least=0.9)
    for settings in ({"judge": "estimate"}, {"about": "these inputs"}, {"level": 0.6}):
        assert_certified_accuracy(plain(40, 38), zeros(40), radius=0.5, at_least=0.9, **settings)
    with pytest.raises(AssertionError, match="at least 34 of these 40 inputs"):
        assert_certified_accuracy(plain(40, 38, 0.05), zeros(40), radius=0.5, at_least=0.9, about="these inputs")


def test_shared_noise_is_read_from_the_certificate():
    certain = {"label": zeros(40), "abstained": zeros(40) > 0, "radius": torch.ones(40, dtype=torch.float64)}
    alone, shared = (
        assert_certified_accuracy(
            dataclasses.replace(grouped(40, group, alpha=0.05), **certain), zeros(40), radius=0.5, at_least=0.0
        )
        for group in (1, 10)
    )
    assert shared.bound < alone.bound


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"at_least": 1.5}, r"at_least must lie in \[0, 1\], got 1.5"),
        ({"at_least": 0.5, "level": 95}, "level must lie strictly between 0 and 1, got 95"),
        ({"at_least": 0.5, "about": "all"}, "about must be one of population, these inputs, got 'all'"),
        ({"at_least": 0.5, "judge": "mean"}, "judge must be one of bound, estimate, got 'mean'"),
        ({"at_least": 0.5, "radius": -1.0}, "radius must be"),
    ],
)
def test_bad_arguments_are_refused(settings: dict, said: str):
    with pytest.raises(InvalidInput, match=said):
        assert_certified_accuracy(plain(4, 4), zeros(4), **{"radius": 0.5, **settings})


@pytest.mark.slow
def test_a_verdict_about_the_population_needs_more_than_these_inputs():
    """All of ten inputs are proved: of these inputs that is 1, of their population at least 0.05 ** 0.1."""
    model = nn.Linear(3, 2, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    model.bias.data = torch.tensor([1.0, 0.0], dtype=torch.float64)
    x, about = torch.rand(10, 3, dtype=torch.float64), {"norm": 2, "epsilon": 0.1, "method": "ibp"}
    assert_certified(model, x, zeros(10), **about)
    assert_certified(model, x, zeros(10), at_least=0.74, about="population", **about)
    with pytest.raises(
        AssertionError, match=r"100\.0% of 10 inputs .*; at least 74\.1% of their population, with 0\.95"
    ):
        assert_certified(model, x, zeros(10), at_least=0.75, about="population", **about)
    with pytest.raises(InvalidInput, match="at_least must be below 1 for a statement about the population"):
        assert_certified(model, x, zeros(10), about="population", **about)


def test_a_fall_is_told_with_its_counts(tmp_path: Path):
    before, after = evaluation(proved([0.5] * 12)), evaluation(proved([0.5] * 2 + [NOT] * 10))
    (change,) = assert_no_regression(before, after, radii=[0.1])
    assert (change.gained, change.fell) == (10, False)
    before.save(tmp_path / "before")
    with pytest.raises(AssertionError, match=r"certified accuracy fell\n  l2, .* \(10 lost, 0 gained\)"):
        assert_no_regression(after, tmp_path / "before", radii=[0.1])
    with pytest.raises(InvalidInput, match="it has no certificates of the kind"):
        assert_no_regression(evaluation(proved([0.5] * 12, norm="inf")), before)


# ------------------------------------------------------------------------------------------------------------- numbers


def written(file: Path) -> dict[str, dict[str, str]]:
    """Properties by the name of the test."""
    cases = ElementTree.parse(file).getroot().iter("testcase")
    return {
        case.get("name"): {one.get("name"): one.get("value") for one in case.findall("properties/property")}
        for case in cases
    }


def require_numbers(found: dict[str, dict[str, str]]) -> None:
    two, missed = found["test_two"], found["test_missed"]
    assert found["test_without"] == {}
    assert [name for name in two if name.endswith("assertion")] == ["certify.1.assertion", "certify.2.assertion"]
    assert (two["certify.1.n"], two["certify.1.radius"], two["certify.1.level"]) == ("40", "0.5", "0.95")
    assert (two["certify.1.estimate"], two["certify.2.estimate"]) == ("0.975", "0.95")
    lower = stats.beta.ppf(0.05, 39, 2)
    assert float(two["certify.1.bound"]) == pytest.approx((lower - 0.001) / 0.999, rel=1e-9)
    assert (missed["certify.1.at_least"], missed["certify.1.estimate"]) == ("0.5", "0.5")
    assert float(missed["certify.1.bound"]) < 0.5


def test_numbers_of_assertions_become_properties(pytester: pytest.Pytester):
    """Whether the assertion holds or not; those of a test that runs pytest itself are its own."""
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_inprocess("-p", "certify.testing", "-p", "no:xdist", "--junitxml=tests.xml")
    result.assert_outcomes(passed=2, failed=1)
    require_numbers(written(pytester.path / "tests.xml"))


@pytest.mark.slow
def test_numbers_come_back_from_another_process(pytester: pytest.Pytester):
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess("-p", "certify.testing", "-n", "1", "--junitxml=tests.xml")
    result.assert_outcomes(passed=2, failed=1)
    require_numbers(written(pytester.path / "tests.xml"))


def test_numbers_stay_with_the_test_that_runs(request: pytest.FixtureRequest):
    record("by_hand", radius=0.5, nothing=None)
    record("by_hand", n=3)
    expected = [("certify.1.assertion", "by_hand"), ("certify.1.radius", 0.5), ("certify.2.assertion", "by_hand")]
    assert request.node.user_properties == [*expected, ("certify.2.n", 3)]
