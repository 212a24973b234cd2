"""A bound speaks of one fixed function of one input: what draws numbers or looks at other inputs is refused by name."""

import math
import random
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from oracles.halfspace import generator
from oracles.selection import some
from torch import Tensor, nn

import bounds
from bounds import (
    Box,
    Graph,
    Interval,
    InvalidInput,
    InvalidModel,
    LpBall,
    UnsupportedLayer,
    alpha_crown,
    capture,
    crown,
    crown_ibp,
    explain,
    fast_lin,
    forward_linear,
    ibp,
    lipschitz_bound,
    lp_margins,
    margin_bounds,
    milp_margins,
    sdp_margins,
)
from bounds.relaxations import elementary

X = torch.rand(4, 4, generator=generator(1))
BALL = LpBall(X, 0.1)
LABELS = torch.zeros(4, dtype=torch.int64)


class Made(nn.Module):
    """A function in front of a linear layer; its forward pass is where operations stand."""

    def __init__(self, function: Callable[[Tensor], Tensor], behind: bool = False) -> None:
        super().__init__()
        self.function, self.behind = function, behind
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.behind:
            return self.function(self.linear(x))
        return self.linear(self.function(x))


def attention(x: Tensor, p: float) -> Tensor:
    x = x.unsqueeze(1)
    return F.scaled_dot_product_attention(x, x, x, dropout_p=p).squeeze(1)


def drawn(x: Tensor) -> Tensor:
    """Written into a tensor that the output is made of, without gradients: a program within the program."""
    with torch.no_grad():
        noise = torch.zeros(4).normal_()
    return x + noise


RANDOM: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda x: F.dropout(x, 0.3, training=True),
    "alpha_dropout": lambda x: F.alpha_dropout(x, 0.3, training=True),
    "feature_dropout": lambda x: F.dropout1d(x.unsqueeze(1), 0.3, training=True).squeeze(1),
    "rrelu": lambda x: F.rrelu(x - 0.5, training=True),
    "rrelu_": lambda x: F.rrelu_(x - 0.5, training=True),
    "scaled_dot_product_attention": lambda x: attention(x, 0.3),
    "bernoulli": lambda x: x * torch.bernoulli(torch.full_like(x, 0.5)),
    "bernoulli_": lambda x: x * torch.empty_like(x).bernoulli_(0.5),
    "multinomial": lambda x: x[:, torch.multinomial(torch.ones(4), 4)],
    "rand": lambda x: x + torch.rand(4),
    "randn": lambda x: x * torch.randn(()),
    "rand_like": lambda x: x + torch.rand_like(x),
    "randn_like": lambda x: x + 1e-6 * torch.randn_like(x),
    "randint": lambda x: x + torch.randint(0, 9, (4,)),
    "randperm": lambda x: x[:, torch.randperm(4)],
    "normal_": drawn,
    "uniform_": lambda x: x + torch.empty(4).uniform_(),
    "poisson": lambda x: torch.poisson(x.abs()),
    "exponential_": lambda x: F.gumbel_softmax(x),
}


@pytest.mark.parametrize(
    "name", some(RANDOM, {"dropout", "rrelu", "scaled_dot_product_attention", "bernoulli_", "randperm", "normal_"})
)
def test_random_numbers_are_refused_by_operation(name: str):
    """They were dropped, or drawn once and taken for a constant: all outputs lay outside of the bounds."""
    model = Made(RANDOM[name]).eval()
    with pytest.raises(UnsupportedLayer, match=rf"aten\.{name}\.\w+ draws random numbers.*evaluation mode"):
        capture(model, X)


def test_the_line_of_source_code_is_named():
    class Here(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.rrelu(x, training=True)

    with pytest.raises(UnsupportedLayer, match=r"test_conditions\.py\", line \d+, in forward return F\.rrelu"):
        capture(Here(), X)
    (missing,) = explain(Here(), X).missing
    assert missing.operation == "aten.rrelu.default"
    assert "draws random numbers" in missing.remedy
    assert "in forward return F.rrelu" in missing.origin


DOUBLE = LpBall(X.double(), 0.1)
ENTRIES: dict[str, Callable[[nn.Module], object]] = {
    "ibp": lambda m: ibp(m, BALL),
    "crown": lambda m: crown(m, BALL),
    "crown_ibp": lambda m: crown_ibp(m, BALL),
    "fast_lin": lambda m: fast_lin(m, BALL),
    "alpha_crown": lambda m: alpha_crown(m, BALL),
    "forward_linear": lambda m: forward_linear(m, BALL),
    "margin_bounds": lambda m: margin_bounds(m, BALL, LABELS),
    "lp_margins": lambda m: lp_margins(m, DOUBLE, LABELS),
    "milp_margins": lambda m: milp_margins(m, DOUBLE, LABELS),
    "sdp_margins": lambda m: sdp_margins(m, DOUBLE, LABELS),
    "specification_bounds": lambda m: bounds.specification_bounds(m, BALL, [(torch.eye(4), torch.zeros(4))]),
    "lipschitz_bound": lambda m: lipschitz_bound(m, x=X),
}


class Always(nn.Dropout):
    """Drops out whatever the mode."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.3, training=True)


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_refuses_random_numbers(entry: str):
    """In a sequential network too, whose known layers intervals walk through one by one."""
    model = nn.Sequential(nn.Linear(4, 4), Always(), nn.ReLU()).eval()
    with pytest.raises(UnsupportedLayer, match="draws random numbers"):
        ENTRIES[entry](model)


SWITCHED_OFF = {
    "dropout": lambda x: F.dropout(x, 0.3, training=False),
    "dropout of nothing": lambda x: F.dropout(x, 0.0, training=True),
    "rrelu": lambda x: F.rrelu(x - 0.5),
    "attention": lambda x: attention(x, 0.0),
}


@pytest.mark.parametrize("name", some(SWITCHED_OFF, {"dropout of nothing", "rrelu"}))
def test_what_is_switched_off_is_bounded(name: str):
    model = Made(SWITCHED_OFF[name]).eval()
    found = crown(model, LpBall(X.double(), 0.0))
    torch.testing.assert_close(found.lower, model(X).double(), rtol=1e-5, atol=1e-5)


def test_numbers_of_python_are_seen_though_the_program_holds_them_as_constants():
    stream = random.Random(3)
    with pytest.raises(UnsupportedLayer, match="two forward passes of the model over the same inputs differ"):
        capture(Made(lambda x: x * stream.random()), X)


# ------------------------------------------------------------------------------------------------------- other inputs

COUPLED: dict[str, Callable[[Tensor], Tensor]] = {
    "copies of inputs": lambda x: x.tile(2, 1)[::2],
    "roll by 1": lambda x: x.roll(1, 0),
    "roll by 2": lambda x: x.roll(2, 0),
    "roll by 3": lambda x: x.roll(3, 0),
    "roll by 5": lambda x: x.roll(-5, 0),
    "roll of all": lambda x: x.roll(4),
    "flip, small": lambda x: x + 1e-4 * x.flip(0),
    "flip, smaller than rounding": lambda x: x + 1e-12 * x.flip(0),
    "mean, small": lambda x: x - 1e-6 * x.mean(0),
    "mean, counted from the end": lambda x: x - x.mean(-2),
    "mean of all": lambda x: x - x.mean(),
    "statistics": lambda x: F.batch_norm(x, None, None, training=True),
    "statistics where none are stored": nn.BatchNorm1d(4, track_running_stats=False).eval(),
    "softmax": lambda x: x.softmax(0),
    "cumsum": lambda x: x.cumsum(0),
    "sort": lambda x: x.sort(0).values,
    "first": lambda x: x + 1e-9 * x[:1],
    "pick": lambda x: x[torch.tensor([0])] + x,
    "norm": lambda x: F.normalize(x, dim=0),
    "product": lambda x: x @ x.T @ x,
    "through a reshape": lambda x: x.reshape(-1).flip(0).view(-1, 4),
    "places in the batch": lambda x: x + torch.arange(len(x))[:, None],
}


@pytest.mark.parametrize(
    "name",
    some(
        COUPLED,
        {
            "roll by 2",
            "flip, smaller than rounding",
            "mean, counted from the end",
            "statistics",
            "sort",
            "product",
            "through a reshape",
        },
    ),
)
def test_answers_that_depend_on_other_rows_are_refused_at_any_scale(name: str):
    """Two rows rolled by two stay where they are, and a small share of another row passed an absolute tolerance."""
    with pytest.raises(UnsupportedLayer, match="rest of the batch"):
        capture(Made(lambda x: COUPLED[name](x) * 1e-20, behind=True), X)


INDEPENDENT: dict[str, Callable[[Tensor], Tensor]] = {
    "copies of features": lambda x: x.tile(1, 2)[:, :4] + x.repeat(1, 3)[:, 2:6] + x.tile(2)[:, :4],
    "constant": lambda x: x * 0,
    "huge": lambda x: x.relu() * 1e30,
    "tiny": lambda x: x.relu() * 1e-30,
    "copies in the batch": lambda x: torch.cat([x, x.flip(1)], 0).view(2, -1, 4).mean(0),
    "class token": lambda x: torch.cat([torch.ones(1, 1, 4).expand(len(x), -1, -1), x[:, None]], 1).mean(1),
    "sequence first": lambda x: x[:, None].transpose(0, 1).mean(0),
    "positions": lambda x: x + torch.arange(4),
    "own rows": lambda x: x[torch.arange(len(x))],
    "shape of one": lambda x: x + x[0].new_ones(4),
    "type of one": lambda x: x + torch.ones(4).type_as(x[0]),
}


@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=pytest.mark.slow), torch.bfloat16])
@pytest.mark.parametrize(
    "name", some(INDEPENDENT, {"constant", "copies of features", "huge", "tiny", "copies in the batch", "own rows"})
)
def test_independent_rows_are_taken_whatever_they_are_made_of(name: str, dtype: torch.dtype):
    assert isinstance(capture(Made(INDEPENDENT[name], behind=True).to(dtype), X), Graph)


# --------------------------------------------------------------------------------------------------- models and sets

OUTPUTS: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "dict": (lambda x: {"loss": x.sum(), "logits": x}, r"got dict: .*output\['logits'\]"),
    "tuple": (lambda x: (x,), r"got tuple: .*output\[0\]"),
    "object": (lambda x: SimpleNamespace(logits=x), r"got SimpleNamespace: .*output\.logits"),
    "nothing": (lambda x: None, "got NoneType"),
}


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("entry", ["ibp", "lipschitz_bound"])
def test_outputs_that_are_no_tensor_are_told_with_what_to_return(name: str, entry: str):
    function, message = OUTPUTS[name]
    with pytest.raises(InvalidModel, match=message):
        ENTRIES[entry](Made(function, behind=True))


def test_a_generator_in_the_forward_pass_is_told():
    model = Made(lambda x: x + torch.rand(4, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(UnsupportedLayer, match="is no tensor but such as a random generator: keep what it makes"):
        crown(model, LpBall(X, 0.1))


@pytest.mark.parametrize("entry", ENTRIES)
def test_functions_and_classes_are_no_models(entry: str):
    with pytest.raises(InvalidModel, match=r"must be a torch\.nn\.Module, got function: wrap it"):
        ENTRIES[entry](lambda x: x)
    with pytest.raises(InvalidModel, match="got the class ReLU: call it"):
        ENTRIES[entry](nn.ReLU)


SETS: dict[str, Callable[[nn.Module | Graph, object], object]] = {
    "ibp": ibp,
    "crown": crown,
    "forward_linear": forward_linear,
    "margin_bounds": lambda m, ball: margin_bounds(m, ball, LABELS),
    "milp": bounds.milp_bounds,
    "specification": lambda m, ball: bounds.specification_bounds(m, ball, [(torch.eye(4), torch.zeros(4))]),
    "lipschitz": lambda m, ball: lipschitz_bound(m, 2, "recurjac", ball),
}


@pytest.mark.parametrize("entry", SETS)
def test_intervals_are_no_sets_and_features_have_to_fit(entry: str):
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4)).double()
    with pytest.raises(InvalidInput, match=r"got Interval: use bounds\.Box\(lower, upper\)"):
        SETS[entry](model, Interval(X, X))
    other = LpBall(torch.rand(4, 6, generator=generator(1)).double(), 0.1)
    for network in (model, capture(model, X)):
        with pytest.raises(InvalidInput, match=r"does not accept x of shape|x must fit|x must have shape \(N, 4\)"):
            SETS[entry](network, other)


@pytest.mark.filterwarnings("ignore:`torch.jit.:DeprecationWarning", "ignore:`torch.jit.:FutureWarning")
def test_scripted_models_are_told_the_way_out_and_compiled_ones_unwrapped():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4)).eval()
    expected = crown(model, BALL)
    compiled = crown(torch.compile(model, backend="eager"), BALL)
    assert torch.equal(compiled.lower, expected.lower)
    for scripted in (torch.jit.script(model), torch.jit.trace(model, X), torch.jit.freeze(torch.jit.script(model))):
        for call in (lambda m: crown(m, BALL), lambda m: lipschitz_bound(m, x=X), lambda m: ibp(m, BALL)):
            with pytest.raises(UnsupportedLayer, match=r"TorchScript model has no Python code.*pass the nn.Module"):
                call(scripted)


# ---------------------------------------------------------------------------------------------------- rules of others


@torch.library.custom_op("certify_tests::grow", mutates_args=())
def grow(x: Tensor) -> Tensor:
    """The exponential function, as an operation that nobody knows."""
    return x.exp()


@grow.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@pytest.mark.slow
def test_functions_of_the_caller_bound_what_has_no_rule():
    """Against the same network with an operation that has one."""
    own, known = Made(grow, behind=True), Made(torch.exp, behind=True)
    with pytest.raises(
        UnsupportedLayer, match=r"functions=bounds\.FUNCTIONS \| \{'certify_tests\.grow\.default': maker"
    ):
        crown(own, BALL)
    functions = bounds.FUNCTIONS | {"certify_tests.grow.default": lambda node: elementary.exp()}
    assert explain(own, X, functions=functions).supported
    own, known = capture(own, X), capture(known, X)
    for method in (ibp, crown, crown_ibp, fast_lin, partial(alpha_crown, steps=1), forward_linear):
        found, expected = method(own, BALL, functions=functions), method(known, BALL)
        assert torch.equal(found.lower, expected.lower)
        assert torch.equal(found.upper, expected.upper)
    for method in ("ibp", "crown"):
        found = margin_bounds(own, BALL, LABELS, method, functions=functions)
        assert torch.equal(found, margin_bounds(known, BALL, LABELS, method))
    box = Box(X[:1].double(), X[:1].double() + 0.1)
    exact, expected = bounds.lp_margins(own, box, LABELS[:1], functions=functions), lp_margins(known, box, LABELS[:1])
    torch.testing.assert_close(exact, expected)


@pytest.mark.parametrize(("low", "high"), [(0.5, -0.5), (1, 1), (math.inf, 0.0), (0.2, 0.6)])
def test_clamp_with_exchanged_sides_is_the_upper_one_as_in_torch(low: float, high: float):
    made = Made(lambda x: x.clamp(low, high), behind=True)
    model = capture(made, X)
    assert explain(model, X).supported
    points = X + 0.1 * torch.linspace(-1, 1, 41).view(-1, 1, 1)
    values = made(points.flatten(0, 1)).view(41, *X.shape)
    for method in (ibp, crown, fast_lin, forward_linear):
        found = method(model, LpBall(X, 0.1, low=None, high=None))
        assert ((found.lower <= values) & (values <= found.upper)).all()
        assert low < high or (found.upper - found.lower < 1e-6).all()


def test_a_radius_for_each_feature_is_a_box():
    with pytest.raises(InvalidInput, match=r"radius must be a number.*radius per feature use bounds\.Box"):
        LpBall(X, torch.rand(4, 4))
