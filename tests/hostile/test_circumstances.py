"""Every public function says the same whatever state of torch surrounds it, and leaves nothing behind."""

import inspect
from collections.abc import Callable, Iterable
from functools import cache

import pytest
import torch
from hostile import calls_of_bounds, calls_of_certify, calls_of_counting, calls_of_training
from hostile.calls_of_bounds import Call, Case, case
from hostile.circumstances import (
    HALVES,
    MODELS,
    MODES,
    UnderAutocast,
    altered,
    asking_for_gradients,
    fresh,
    halved,
)
from hostile.results import assert_same, nothing_left_behind
from oracles.selection import some
from torch import Tensor

import bounds
import certify
from bounds import BoundsError
from certify import attacks, corruptions, poisoning, semantic, smoothing, surveys, testing, training, verified_training

OF_TRAINING = calls_of_training.DEPLOYED | calls_of_training.OTHERS | calls_of_training.PURE
OF_COUNTING = calls_of_counting.OF_BOUNDS | calls_of_counting.DEPLOYED | calls_of_counting.COUNTING
CALLS: dict[str, Call] = {**calls_of_bounds.CALLS, **calls_of_certify.CALLS, **OF_TRAINING, **OF_COUNTING}
CALLS |= calls_of_counting.PURE
RECORDS = calls_of_bounds.RECORDS | calls_of_certify.RECORDS | calls_of_training.RECORDS
RECORDS |= calls_of_counting.COUNTING_RECORDS
PACKAGES = {
    "bounds": bounds,
    "bounds.geometry": bounds.geometry,
    "bounds.noise_theorems": bounds.noise_theorems,
    "bounds.separation": bounds.separation,
    "bounds.transport": bounds.transport,
    "certify": certify,
    "attacks": attacks,
    "corruptions": corruptions,
    "poisoning": poisoning,
    "semantic": semantic,
    "smoothing": smoothing,
    "surveys": surveys,
    "testing": testing,
    "training": training,
    "verified_training": verified_training,
}

shared_case = cache(case)
DEPLOYED = calls_of_certify.DEPLOYED | calls_of_training.DEPLOYED | calls_of_counting.DEPLOYED
PURE = calls_of_bounds.PURE | calls_of_certify.PURE | calls_of_training.PURE | calls_of_counting.PURE
WITH_MODEL = [name for name in CALLS if name not in PURE and not name.startswith(("smoothing.Cons", "smoothing.Ens"))]
WEAKER = {"no_grad", "inference_mode"}  # than inference_mode and autocast
# Searches whose nearest points need gradients through ReLUs that are off, and what shows bounds that need a graph.
SEEING = {"attacks.robustness_figures", "certify.compare", "testing.assert_no_regression"}
every_call = pytest.mark.parametrize("name", CALLS)

# Of those that run a model: one of each kind, for the default run.
QUICK = ["bounds.alpha_crown", "bounds.crown.deployed", "bounds.ibp", "bounds.capture", "bounds.lipschitz_bound"]
QUICK += ["bounds.specification_bounds", "bounds.nearest_boundary", "bounds.geometry.hessian_eigenvalues"]
QUICK += ["attacks.pgd", "attacks.fast_adaptive_boundary", "smoothing.SmoothedClassifier.certify_at"]
QUICK += ["smoothing.CenterSmoothing.certify", "smoothing.certify_top_k", "smoothing.macer_loss"]
QUICK += ["certify.certified_radius", "corruptions.gaussian_noise", "verified_training.robust_loss"]


def pairs(names: Iterable[str], circumstances: Iterable[str]) -> pytest.MarkDecorator:
    """Every call in every circumstance; weekly in those of which a stricter one is tried daily."""
    weekly = {name: [pytest.mark.combinations] if name in WEAKER else [] for name in MODES}
    product = [
        pytest.param(name, circumstance, marks=weekly.get(circumstance, []), id=f"{name}-{circumstance}")
        for circumstance in circumstances
        for name in names
    ]
    return pytest.mark.parametrize(("name", "circumstance"), product)


@cache
def ordinary(name: str, *, under_autocast: bool = False) -> object:
    """The result in ordinary circumstances; of a model that brings its own autocast along, for what speaks of it."""
    usual = shared_case()
    if under_autocast and name in DEPLOYED:
        usual = altered(usual, UnderAutocast(usual.model))
    return CALLS[name](usual)


def is_autocast(mode: str) -> bool:
    return "autocast" in mode


def check_mode(name: str, mode: str) -> None:
    _possible(name)
    expected = ordinary(name, under_autocast=is_autocast(mode))
    with MODES[mode]():
        own = fresh(shared_case()) if mode != "default device meta" else shared_case()
        with nothing_left_behind(own):
            found = CALLS[name](own)
    assert_same(found, expected)


def _possible(name: str) -> None:
    if name == "attacks.autoattack":
        pytest.importorskip("pyautoattack")


# --------------------------------------------------------------------------------------------------- the table itself


def public(package: str) -> set[str]:
    module = PACKAGES[package]
    names = getattr(module, "__all__", None)
    if names is not None:
        return set(names)
    own = {key: value for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    return {key for key, value in own.items() if callable(value) and not key.startswith("_")}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_public_name_is_forgotten(package: str):
    covered = {name.removeprefix(f"{package}.").split(".")[0] for name in CALLS if name.startswith(f"{package}.")}
    modules = {key for key, value in vars(PACKAGES[package]).items() if inspect.ismodule(value)}
    elsewhere = {"certify": smoothing.__all__, "training": [*smoothing.__all__, *public("verified_training")]}
    missing = public(package) - covered - RECORDS - modules - set(elsewhere.get(package, ()))
    assert missing == set()


def test_the_comparison_can_fail():
    with pytest.raises(AssertionError):
        assert_same((torch.ones(2), "a"), (torch.ones(2) * 1.001, "a"))
    with pytest.raises(AssertionError):
        assert_same(torch.ones(2), torch.ones(2).double())
    usual = fresh(shared_case())
    with pytest.raises(AssertionError), nothing_left_behind(usual):
        torch.rand(1)
    with pytest.raises(AssertionError), nothing_left_behind(usual):
        usual.x.add_(1)


# ------------------------------------------------------------------------------------------------------ circumstances


@pytest.mark.parametrize("name", some(CALLS, [*PURE, *QUICK]))
def test_inference_mode_and_autocast_change_nothing(name: str):
    check_mode(name, "inference_mode and autocast")


@pytest.mark.slow
@pairs(CALLS, [mode for mode in MODES if mode != "inference_mode and autocast"])
def test_modes_change_nothing(name: str, circumstance: str):
    check_mode(name, circumstance)


@pytest.mark.slow
@every_call
def test_inputs_that_ask_for_gradients_change_nothing(name: str):
    _possible(name)
    own = asking_for_gradients(shared_case())
    with nothing_left_behind(own):
        found = CALLS[name](own)
    assert_same(found, ordinary(name))


def check_model(name: str, own: Case) -> object:
    """The result, or None where one clear line refuses the model."""
    _possible(name)
    refusal = "a sentence that names what is refused"
    try:
        with nothing_left_behind(own):
            return CALLS[name](own)
    except BoundsError as error:
        refusal = str(error)
    assert "\n" not in refusal
    assert len(refusal) > 30
    return None


@pytest.mark.slow
@pairs(WITH_MODEL, MODELS)
def test_models_of_every_kind_are_understood_or_refused_in_one_line(name: str, circumstance: str):
    usual = shared_case()
    found = check_model(name, altered(fresh(usual), MODELS[circumstance](usual.model)))
    hidden = circumstance == "scripted" and name in SEEING  # a script shows nobody its ReLUs: other points are found
    if found is not None and "unsupported" not in str(found) and not hidden:  # such rows are an evaluation's clear line
        assert_same(found, ordinary(name))


@pytest.mark.slow
@pairs([*WITH_MODEL, "bounds.random_basis"], HALVES)
def test_models_of_half_precision_are_understood_or_refused_in_one_line(name: str, circumstance: str):
    check_model(name, halved(shared_case(), HALVES[circumstance]))


# ---------------------------------------------------------------------------------------------------- what is left over


class Interrupted(Exception):
    """Raised within a forward pass."""


def stop_at(count: int) -> Callable[..., None]:
    left = [count]

    def hook(*_: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Interrupted

    return hook


@pytest.mark.slow
@pytest.mark.parametrize("passes", [1, 2, 5])
@pytest.mark.parametrize("name", WITH_MODEL)
def test_an_interruption_leaves_nothing_behind(name: str, passes: int):
    _possible(name)
    own = altered(fresh(shared_case()), calls_of_bounds.network().train())
    for weight in list(own.model.parameters())[::2]:
        weight.requires_grad_(False)
    handle = own.model.register_forward_pre_hook(stop_at(passes))
    try:
        with torch.no_grad(), nothing_left_behind(own):
            CALLS[name](own)
    except (Interrupted, BoundsError):
        pass
    handle.remove()


# --------------------------------------------------------------------------------------------------------- what is said


def test_records_name_the_precision_that_the_model_ran_in():
    usual = shared_case()
    names = ["smoothing.SmoothedClassifier.certify", "smoothing.SmoothedClassifier.certify_at"]
    names += ["smoothing.SmoothedRegressor.certify", "smoothing.CenterSmoothing.certify", "smoothing.certify_top_k"]
    names += ["smoothing.certify_incrementally"]
    seen = set()
    usual.model[1].register_forward_hook(lambda _, inputs, output: seen.add(output.dtype))
    for name in names:
        seen.clear()
        assert CALLS[name](usual).precision == "float32"
        assert seen == {torch.float32}
        seen.clear()
        with torch.autocast("cpu", torch.bfloat16):
            assert CALLS[name](usual).precision == "bfloat16 (autocast)"
        assert seen == {torch.bfloat16}
    double = usual._replace(model=calls_of_bounds.network().double(), x=usual.x.double())
    with torch.autocast("cpu", torch.bfloat16):  # which leaves double precision alone
        assert CALLS[names[0]](double).precision == "float64"


def test_attacks_are_as_strong_under_inference_mode():
    usual = shared_case()
    options = {"norm": torch.inf, "epsilon": 0.4, "steps": 5}
    outside = attacks.pgd(usual.model, usual.x, usual.y, **options, generator=torch.Generator().manual_seed(0))
    assert outside.found.any()
    with torch.inference_mode():
        inside = attacks.pgd(
            usual.model, usual.x.clone(), usual.y, **options, generator=torch.Generator().manual_seed(0)
        )
    assert torch.equal(inside.adversarial, outside.adversarial)


def test_operations_without_a_deterministic_algorithm_warn():
    """Such as cumulative sums on a GPU, which projections in l_1 are made of; on a CPU ``put_`` stands in for them."""

    def level(points: Tensor) -> Tensor:
        first = torch.zeros_like(points).put_(torch.arange(2), points.new_ones(2))
        return (first * points).flatten(1).sum(1)

    usual = shared_case()
    with MODES["deterministic algorithms"](), nothing_left_behind(usual):
        with pytest.raises(RuntimeError, match="deterministic"):
            level(usual.x)
        with pytest.warns(UserWarning, match="deterministic"):
            bounds.geometry.gradient_change(level, usual.x[:1], step=0.1)
        assert not torch.is_deterministic_algorithms_warn_only_enabled()


def test_a_graph_bound_under_inference_mode_serves_outside():
    usual = case()
    with torch.inference_mode():
        graph = bounds.capture(usual.model, usual.x.clone())
        inside = bounds.alpha_crown(graph, bounds.LpBall(usual.x.clone(), 0.05))
        graph.bind(usual.x)
    outside = bounds.alpha_crown(graph, bounds.LpBall(usual.x, 0.05))
    assert_same(inside, outside)
    assert not inside.lower.is_inference()
    bounds.crown_ibp(graph, usual.ball).lower.sum().backward()
    assert all(weight.grad is not None for weight in usual.model.parameters())


@pytest.mark.parametrize("name", ["bounds.alpha_crown", "bounds.crown_ibp", "bounds.lipschitz_bound"])
def test_a_model_made_under_inference_mode_is_bounded(name: str):
    usual = shared_case()
    found = check_model(name, altered(usual, MODELS["made in inference mode"](usual.model)))
    assert found is not None
    assert_same(found, ordinary(name))


def test_tensors_of_inference_mode_that_nobody_finds_are_refused_in_one_line():
    usual = shared_case()
    model = MODELS["unregistered weights"](MODELS["made in inference mode"](usual.model))
    model.hidden = [MODELS["made in inference mode"](usual.model)]
    with pytest.raises(bounds.InvalidModel, match=r"copy\.deepcopy\(model\)"):
        attacks.pgd(model, usual.x, usual.y, norm=2, epsilon=0.1)
