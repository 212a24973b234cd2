"""The engine auto_LiRPA behind our functions: against our own intervals, for what it refuses, and what it leaves."""

import copy
import logging
import math
import sys
import warnings

import pytest
import torch
from oracles import stand_in_engine
from oracles.halfspace import generator
from oracles.networks import dense
from oracles.stand_in_engine import BoundedModule, stand_in
from torch import nn

import bounds
from bounds import Box, InvalidInput, LpBall, SparseBall, UnsupportedLayer
from bounds.engines.library import library

FUNCTIONS = {"ibp": bounds.ibp, "crown_ibp": bounds.crown_ibp, "crown": bounds.crown, "alpha_crown": bounds.alpha_crown}
THEIRS = {"engine": "auto_lirpa", "sound": "real"}
X = torch.rand(3, 4, generator=generator(1), dtype=torch.float64)
MODEL = dense(nn.ReLU(), 4, 7, 5, 3)
RADII = torch.tensor([0.1, 0.3, 0.1], dtype=torch.float64)
SETS = {
    "linf in a box": LpBall(X, RADII),
    "linf": LpBall(X, 0.2, low=None, high=None),
    "frozen": LpBall(X, 0.2, frozen_features=torch.tensor([True, False, False, True])),
    "box": Box(X - 0.1, X + torch.tensor([0.0, 0.1, 0.2, 0.3], dtype=torch.float64)),
    "l2": LpBall(X, RADII, norm=2, low=None, high=None),
    "l1": LpBall(X, RADII, norm=1, low=None, high=None),
}


@pytest.fixture
def engine(monkeypatch):
    """Put a module in the place of auto_LiRPA."""

    def put(*args: object, **kwargs: object) -> None:
        monkeypatch.setitem(sys.modules, "auto_LiRPA", stand_in(*args, **kwargs))

    put()
    return put


class GivenModule(BoundedModule):
    """Takes whatever answers as the network does."""

    def __init__(self, model: nn.Module, x: torch.Tensor, *args: object, **kwargs: object):
        super().__init__(model, x, *args, **kwargs)
        assert torch.allclose(model(x), MODEL(x))
        self.layers = list(MODEL)


def close(found: bounds.Interval, expected: bounds.Interval, tolerance: float = 1e-12) -> bool:
    sides = ((found.lower, expected.lower), (found.upper, expected.upper))
    return all(torch.allclose(one, other, rtol=tolerance, atol=tolerance) for one, other in sides)


@pytest.mark.parametrize("name", SETS)
def test_sets_mean_the_same_to_both_engines(engine, name: str):
    """The stand-in's intervals are a second implementation of ours, in the first layer also of round balls."""
    ball = SETS[name]
    found = bounds.crown(MODEL, ball, **THEIRS)
    assert found.lower.dtype == torch.float64
    if name != "l1":
        assert close(found, bounds.ibp(MODEL, ball, sound="real"))
    if name == "l1":  # our intervals take the l2 ball around it, and are wider for that
        own = bounds.crown(MODEL[:1], ball, sound="real")
        assert close(bounds.ibp(MODEL[:1], ball, **THEIRS), own)


def test_methods_go_by_the_names_of_the_library(engine):
    asked = []

    class AskedModule(GivenModule):
        def compute_bounds(self, *args: object, method: str, **kwargs: object):
            asked.append((method, self.options["optimize_bound_args"]["iteration"], torch.is_grad_enabled()))
            return super().compute_bounds(*args, method=method, **kwargs)

    engine(AskedModule)
    graph = bounds.capture(MODEL, X)
    for function in FUNCTIONS.values():
        assert close(function(graph, SETS["box"], **THEIRS), bounds.ibp(MODEL, SETS["box"], sound="real"))
    bounds.alpha_crown(graph, SETS["box"], 7, **THEIRS)
    names = [("IBP", 20, False), ("CROWN-IBP", 20, False), ("CROWN", 20, False), ("CROWN-Optimized", 20, True)]
    assert asked == [*names, ("CROWN-Optimized", 7, True)]


@pytest.mark.parametrize("name", ["linf in a box", "box", "l2"])
def test_margins_are_folded_into_the_last_layer(engine, name: str):
    labels = torch.tensor([2, 0, 1], dtype=torch.int32)
    found = bounds.margin_bounds(MODEL, SETS[name], labels, "crown", **THEIRS)
    own = bounds.margin_bounds(MODEL, SETS[name], labels, "ibp", sound="real")
    assert torch.allclose(found, own, rtol=1e-12, atol=1e-12)
    assert (found.gather(1, labels.long()[:, None]) == 0).all()
    with pytest.raises(InvalidInput, match="labels must be class indices from 0 to 2, got 3 in row 1"):
        bounds.margin_bounds(MODEL, SETS[name], torch.tensor([0, 3, 0]), "crown", **THEIRS)


@pytest.mark.slow
def test_networks_of_other_kinds_are_handed_over(engine):
    engine(GivenModule)
    program = torch.export.export(MODEL, (X,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    own = bounds.ibp(MODEL, SETS["l2"], sound="real")
    for network in (bounds.capture(MODEL, X), program, torch.compile(MODEL, backend="eager")):
        assert close(bounds.crown(network, SETS["l2"], **THEIRS), own)
    with pytest.raises(UnsupportedLayer, match="draw"):
        bounds.crown(nn.Sequential(MODEL, Drawing()), SETS["l2"], **THEIRS)


class Scaled(nn.Module):
    """Logits times a number that gradients may pass, which Python does not copy."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.factor = MODEL, torch.ones((), dtype=torch.float64, requires_grad=True) * 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * self.factor.detach()


def test_models_that_cannot_be_copied_are_told(engine):
    """The captured graph can be copied: it holds what numbers are computed from."""
    engine(GivenModule)
    with pytest.raises(UnsupportedLayer, match=r"the model cannot be copied: .*; pass bounds.capture\(model, x\)"):
        bounds.crown_ibp(Scaled(), SETS["l2"], **THEIRS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(nn.utils.weight_norm(copy.deepcopy(MODEL[0])), *MODEL[1:])
    model(X)  # its hook computes weights that gradients may pass
    assert close(bounds.crown_ibp(model, SETS["l2"], **THEIRS), bounds.ibp(MODEL, SETS["l2"], sound="real"))
    one = LpBall(X[:1], 0.2, norm=2, low=None, high=None)
    found = bounds.crown(bounds.capture(MODEL, X), one, **THEIRS)
    assert close(found, bounds.ibp(MODEL, one, sound="real"))


class Drawing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_bounds_come_in_the_dtype_of_the_set_rounded_outward(engine, dtype: torch.dtype):
    ball = LpBall(X.to(dtype), 0.1, low=None, high=None)
    model = copy.deepcopy(MODEL).to(dtype)
    found = bounds.crown(model, ball, **THEIRS)
    single = bounds.crown(model, LpBall(ball.center.float(), ball.radii.float(), low=None, high=None), **THEIRS)
    assert found.lower.dtype == found.upper.dtype == dtype
    assert single.lower.dtype == torch.float32
    assert (found.lower.float() <= single.lower).all()
    assert (found.upper.float() >= single.upper).all()
    scale = 32 * torch.finfo(dtype).eps * (1 + single.upper.abs() + single.lower.abs())
    assert (found.upper.float() - single.upper <= scale).all()


# ------------------------------------------------------------------------------------------------ what must be asked


@pytest.mark.parametrize("sound", ["rounding", "deployed"])
def test_what_it_cannot_promise_is_refused(engine, sound: str):
    rule = rf"sound must be 'real' with engine='auto_lirpa', got '{sound}': its bounds leave rounding errors out"
    for function in FUNCTIONS.values():
        with pytest.raises(InvalidInput, match=rule):
            function(MODEL, SETS["linf"], engine="auto_lirpa", sound=sound)
    with pytest.raises(InvalidInput, match=rule):
        bounds.margin_bounds(MODEL, SETS["linf"], torch.tensor([0, 1, 2]), engine="auto_lirpa", sound=sound)
    with pytest.raises(InvalidInput, match=r"got 'rounding'"):  # which is the default
        bounds.crown(MODEL, SETS["linf"], engine="auto_lirpa")


def test_rules_of_our_engine_are_refused(engine):
    for name, function in FUNCTIONS.items():
        for setting in ("table", "functions", *(["rules"] if name == "ibp" else [])):
            with pytest.raises(InvalidInput, match=f"{setting} must be left out with engine='auto_lirpa'"):
                function(MODEL, SETS["linf"], **THEIRS, **{setting: {}})
    with pytest.raises(InvalidInput, match="method must be one of ibp, crown_ibp, crown, alpha_crown, got 'fast_lin'"):
        bounds.margin_bounds(MODEL, SETS["linf"], torch.tensor([0, 1, 2]), "fast_lin", **THEIRS)
    with pytest.raises(InvalidInput, match="engine must be one of own, auto_lirpa, got 'gurobi'"):
        bounds.crown(MODEL, SETS["linf"], engine="gurobi")


class Own(bounds.PerturbationSet):
    center = X

    def hull(self):
        return bounds.Interval(X - 0.1, X + 0.1)

    def largest_gain(self, slopes, reach):
        return (slopes * reach).sum(-1), reach

    def rows(self, index):
        return self


REFUSED = {
    "cuts no ball of norm=2 by a box, got low and high of": LpBall(X, 0.1, norm=2),
    "cuts no ball of norm=1 by a box, got low and high of .*unbounded, 2": LpBall(X, 0.1, norm=1, low=None, high=2.0),
    "moves all features of a ball of norm=2, got frozen_features": LpBall(
        X, 0.1, norm=2, low=None, high=None, frozen_features=torch.tensor(True)
    ),
    "serves norms from 1 to 2 and math.inf, got 3": LpBall(X, 0.1, norm=3, low=None, high=None),
    "serves LpBall and Box, got SparseBall": SparseBall(X, 2),
    "serves LpBall and Box, got Own": Own(),
}


@pytest.mark.parametrize("rule", REFUSED)
def test_sets_that_it_cannot_represent_are_refused(engine, rule: str):
    with pytest.raises(InvalidInput, match=f"^engine='auto_lirpa' {rule}.*$") as caught:
        bounds.crown(MODEL, REFUSED[rule], **THEIRS)
    assert "engine='own'" in str(caught.value)


class Shifted(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - 0.5


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + x


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.slow
def test_round_balls_need_a_linear_layer_or_a_convolution_first(engine, norm: float):
    """Version 0.7.1 takes their inputs for constant elsewhere: points refuted its bounds by every method."""
    ball = LpBall(X, 0.2, norm=norm, low=None, high=None)
    for first, operation in ((Shifted(), "aten.sub.Tensor"), (Residual(), "aten.add.Tensor"), (nn.ReLU(), "aten.relu")):
        with pytest.raises(UnsupportedLayer, match=f"takes inputs of a round ball for constant in {operation}.*, at "):
            bounds.crown(nn.Sequential(first, MODEL), ball, **THEIRS)
    assert bounds.crown(nn.Sequential(nn.Flatten(), MODEL), ball, **THEIRS).lower.isfinite().all()
    assert bounds.crown(nn.Sequential(Shifted(), MODEL), LpBall(X, 0.2), **THEIRS).lower.isfinite().all()


# ----------------------------------------------------------------------------------------------- what can be imported

NEEDED = r"^engine='auto_lirpa' needs auto_LiRPA 0.6 or newer, but "


@pytest.mark.parametrize("version", ["0.3", "0.3.1", "0.5.9", "", None, "unknown"])
def test_old_versions_are_refused(engine, version: str | None):
    engine(version=version)
    with pytest.raises(InvalidInput, match=rf"{NEEDED}found {version or '.*'}: PyPI has only 0.3.*pip install [^\n]*$"):
        bounds.crown(MODEL, SETS["linf"], **THEIRS)


@pytest.mark.parametrize("version", ["0.6", "0.6.0", "0.7.1", "0.10", "1.0"])
def test_new_versions_are_taken(engine, version: str):
    engine(version=version)
    assert bounds.crown(MODEL, SETS["linf"], **THEIRS).lower.isfinite().all()


def test_a_missing_one_is_told_before_anything_else(monkeypatch):
    monkeypatch.setitem(sys.modules, "auto_LiRPA", None)
    with pytest.raises(InvalidInput, match=rf"{NEEDED}none is installed: PyPI has only 0.3[^\n]*$"):
        bounds.crown(nn.Linear(2, 2), SETS["linf"], **THEIRS)


@pytest.mark.parametrize("line", ["import numpy.no_such_part", "raise AttributeError('gone\\nfor long')", "1 / 0"])
def test_an_import_that_fails_is_told_in_one_line(monkeypatch, tmp_path, line: str):
    (tmp_path / "auto_LiRPA.py").write_text(f"import warnings\nwarnings.warn('old')\n{line}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "auto_LiRPA", raising=False)
    with pytest.raises(InvalidInput, match=rf"{NEEDED}the import of the one found.* fails with \w+Error: [^\n]*$"):
        bounds.crown(MODEL, SETS["linf"], **THEIRS)
    assert "auto_LiRPA" not in sys.modules


# ------------------------------------------------------------------------------------------------ what goes wrong there


def test_what_it_does_not_know_is_one_line_that_names_the_operator(engine, capsys):
    engine(stand_in_engine.UnknownModule)
    told = (
        r"^auto_LiRPA 0.7.1 has no bounds of this model: NotImplementedError: There are unsupported operations "
        r"\(onnx::Erf, Attr: \{\}\); use engine='own'$"
    )
    with pytest.raises(UnsupportedLayer, match=told):
        bounds.crown(MODEL, SETS["linf"], **THEIRS)
    assert capsys.readouterr() == ("", "")


def test_the_end_of_memory_stays_what_it_is(engine):
    engine(stand_in_engine.OutOfMemoryModule)
    with pytest.raises(torch.OutOfMemoryError):
        bounds.crown(MODEL, SETS["linf"], **THEIRS)


def test_convolutions_as_matrices_are_the_second_try(engine):
    engine(stand_in_engine.SquareModule)
    assert close(bounds.crown(MODEL, SETS["l2"], **THEIRS), bounds.ibp(MODEL, SETS["l2"], sound="real"))


def test_what_is_not_a_number_proves_nothing(engine):
    engine(stand_in_engine.UndefinedModule)
    found = bounds.crown(MODEL, SETS["linf"], **THEIRS)
    assert (found.lower[:, 0] == -math.inf).all()
    assert (found.upper[:, 0] == math.inf).all()
    assert found.lower[:, 1:].isfinite().all()
    margins = bounds.margin_bounds(MODEL, SETS["linf"], torch.tensor([1, 1, 1]), "crown", **THEIRS)
    assert (margins[:, 0] == -math.inf).all()


def process_state() -> tuple[object, ...]:
    executor, mode = torch._C._jit_set_profiling_executor(True), torch._C._jit_set_profiling_mode(True)
    torch._C._jit_set_profiling_executor(executor)
    torch._C._jit_set_profiling_mode(mode)
    root, own = logging.getLogger(), logging.getLogger("auto_LiRPA")
    return (
        *(list(warnings.filters), torch.get_default_dtype(), root.level, list(root.handlers), list(own.handlers)),
        *(own.propagate, torch.is_grad_enabled(), torch.random.get_rng_state().tolist(), executor, mode),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


def test_nothing_is_left_behind(engine, capsys):
    engine(stand_in_engine.RudeModule)
    model = copy.deepcopy(MODEL).train()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    weights = copy.deepcopy(model.state_dict())
    for warn_only in (None, False, True):
        if warn_only is not None:
            torch.use_deterministic_algorithms(True, warn_only=warn_only)
        try:
            before = process_state()
            bounds.alpha_crown(model, SETS["linf"], **THEIRS)
            assert process_state() == before
        finally:
            torch.use_deterministic_algorithms(False)
    assert capsys.readouterr() == ("", "")
    assert all(torch.equal(part, weights[name]) for name, part in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(weight.requires_grad for weight in model.parameters())
    assert (model[0].weight.grad == 1).all()
    assert model[2].weight.grad is None


def test_the_real_one_agrees_where_it_is_installed():
    """Its intervals are ours; by CROWN, ours are the best of several."""
    try:
        library()
    except InvalidInput as error:
        pytest.skip(str(error))
    for name in ("linf in a box", "l2"):
        assert close(bounds.ibp(MODEL, SETS[name], **THEIRS), bounds.ibp(MODEL, SETS[name], sound="real"), 1e-9)
        own, other = bounds.crown(MODEL, SETS[name], sound="real"), bounds.crown(MODEL, SETS[name], **THEIRS)
        widths = [(found.upper - found.lower).mean() for found in (own, other)]
        assert widths[0] <= widths[1] * (1 + 1e-9) <= 1.2 * widths[0]
