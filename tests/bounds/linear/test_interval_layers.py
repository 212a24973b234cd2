"""Networks that interval bounds take, how the table of rules grows, and what is refused with which words."""

import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bounds import DEFAULT_RULES, Interval, InvalidInput, LpBall, UnsupportedLayer, ibp, margin_bounds
from bounds.numerics import converted_down


def ball(*shape: int, norm: float = math.inf) -> LpBall:
    return LpBall(torch.full((2, *shape), 0.5), 0.1, norm)


class Doubled(nn.Sequential):
    """Looks like a sequential network, runs as another function."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Named(nn.Sequential):
    """A sequential network with a constructor of its own: as good as any."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


class Custom(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.square()


class Leaky(nn.ReLU):
    """A subclass of a known layer that computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return x - 1


def with_hook(model: nn.Module, before: bool = False) -> nn.Module:
    if before:
        model.register_forward_pre_hook(lambda module, arguments: (arguments[0] * 3,))
    else:
        model.register_forward_hook(lambda module, arguments, output: output * 3)
    return model


def with_own_forward(layer: nn.Module) -> nn.Module:
    original = layer.forward
    layer.forward = lambda x: original(x) * 3
    return layer


REFUSED: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "sigmoid": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Identity(), nn.Sigmoid()), nn.Linear(4, 2)),
        "layer 1.1 of type Sigmoid has no interval rule",
        "pass rules=DEFAULT_RULES | {Sigmoid: rule}",
    ),
    "custom": (
        lambda: nn.Sequential(nn.Linear(3, 2), Custom()),
        "layer 1 of type Custom has no interval rule",
        "build the network as nn.Sequential of Conv2d, Dropout, Flatten, Identity, Linear, Normalize, ReLU",
    ),
    "not sequential": (Custom, "layer (the model itself) of type Custom", "build the network as nn.Sequential"),
    "own forward in a subclass": (
        lambda: nn.Sequential(Doubled(nn.Linear(3, 2))),
        "layer 0 of type Doubled has no interval rule",
        "DEFAULT_RULES | {Doubled: rule}",
    ),
    "subclass of a known layer": (
        lambda: nn.Sequential(nn.Linear(3, 4), Leaky(), nn.Linear(4, 2)),
        "layer 1 of type Leaky has no interval rule",
        "{Leaky: rule}",
    ),
    "training-mode statistics": (
        lambda: nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)),
        "layer 1 of type BatchNorm1d",
        "{BatchNorm1d: rule}",
    ),
    "hook": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Sequential(with_hook(nn.ReLU())), nn.Linear(4, 2)),
        "layer 1.0 has forward hooks",
        "remove them",
    ),
    "hook on the model": (lambda: with_hook(Named()), "layer (the model itself) has forward hooks", "remove them"),
    "hook before": (lambda: nn.Sequential(with_hook(nn.Linear(3, 2), True)), "layer 0 has forward hooks", "remove"),
    "replaced forward": (
        lambda: nn.Sequential(nn.Linear(3, 4), with_own_forward(nn.ReLU()), nn.Linear(4, 2)),
        "layer 1 has forward hooks or a forward of its own",
        "remove them",
    ),
    "parametrised weight": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))),
        "layer 0 of type ParametrizedLinear",
        "rule",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_rules_of_the_caller_refuse_unknown_layers_with_path_and_remedy(case: str):
    """Catches a layer that is skipped: the bounds would be those of another network."""
    build, place, remedy = REFUSED[case]
    inputs, labels, rules = ball(3), torch.tensor([0, 1]), dict(DEFAULT_RULES)
    for method in (ibp, lambda *arguments, rules: margin_bounds(*arguments, labels, rules=rules)):
        with pytest.raises(UnsupportedLayer) as error:
            method(build(), inputs, rules=rules)
        assert place in str(error.value)
        assert remedy in str(error.value)
        assert isinstance(error.value, NotImplementedError)


PADDED = {
    mode: (lambda mode=mode: nn.Sequential(nn.Flatten(), nn.Unflatten(1, (1, 1, 3)), padded(mode), nn.Flatten()))
    for mode in ("circular", "reflect", "replicate")
}


def padded(mode: str) -> nn.Conv2d:
    return nn.Conv2d(1, 2, (1, 3), padding=(0, 1), padding_mode=mode)


@pytest.mark.parametrize("case", [*REFUSED, *PADDED])
@pytest.mark.parametrize(
    "norm", [pytest.param(1.0, marks=pytest.mark.slow), pytest.param(2.0, marks=pytest.mark.slow), math.inf]
)
def test_what_is_no_sequence_of_known_layers_is_captured_and_bounded_as_it_runs(case: str, norm: float):
    """Catches a hook, an own forward pass or a mode of padding that the bounds do not know of."""
    build = PADDED[case] if case in PADDED else REFUSED[case][0]
    model = build().double()
    center = torch.full((2, 3), 0.5, dtype=torch.float64)
    radius = torch.tensor([0.1, 0.0], dtype=torch.float64)  # a ball, and a point
    found = ibp(model, LpBall(center, radius, norm))
    model.eval()
    step = torch.randn(300, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    step = radius[:, None] * step / torch.linalg.vector_norm(step, norm, dim=2, keepdim=True)
    outputs = model((center + step).flatten(0, 1)).view(300, 2, -1)
    assert (outputs[:, 0] >= found.lower[0]).all()
    assert (outputs[:, 0] <= found.upper[0]).all()
    torch.testing.assert_close(found.lower[1], outputs[0, 1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.upper[1], outputs[0, 1], rtol=1e-9, atol=1e-9)


def test_sequential_networks_of_another_name_and_empty_ones_are_taken():
    model = Named()
    plain = nn.Sequential(*model)
    assert torch.equal(ibp(model, ball(3)).lower, ibp(plain, ball(3)).lower)
    assert torch.equal(ibp(nn.Sequential(model), ball(3)).lower, ibp(plain, ball(3)).lower)
    assert torch.equal(
        ibp(nn.Sequential(), ball(3)).lower, converted_down(ball(3).double().hull().lower, torch.float32)
    )
    assert torch.equal(ibp(model[0], ball(3)).lower, ibp(nn.Sequential(model[0]), ball(3)).lower)  # one bare layer


# -------------------------------------------------------------------------------------------------- table of rules


class Negation(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return -x


def negation_interval(_: nn.Module, interval: Interval) -> Interval:
    return Interval(-interval.upper, -interval.lower)


@pytest.mark.parametrize("norm", [2.0, math.inf])
def test_a_table_with_one_more_rule(norm: float):
    """The rule is used wherever the layer stands; the table of the library stays as it is."""
    rules = DEFAULT_RULES | {Negation: negation_interval}
    linear = nn.Linear(3, 4)
    negated = nn.Linear(3, 4)
    negated.load_state_dict({name: -value for name, value in linear.state_dict().items()})
    tail = nn.Sequential(nn.ReLU(), nn.Linear(4, 2))
    ours = ibp(nn.Sequential(linear, nn.Sequential(Negation(), tail)), ball(3, norm=norm), rules=rules)
    theirs = ibp(nn.Sequential(negated, tail), ball(3, norm=norm))
    torch.testing.assert_close(ours.lower, theirs.lower, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.upper, theirs.upper, rtol=1e-5, atol=1e-5)
    assert Negation not in DEFAULT_RULES
    leading = ibp(nn.Sequential(Negation(), linear), ball(3, norm=norm), rules=rules)
    logits = linear(-ball(3).center)
    assert (leading.lower < logits).all()  # a ball behind an unknown layer is no ball any more
    assert (leading.upper > logits).all()
    labels = torch.tensor([1, 0])
    margins = margin_bounds(nn.Sequential(linear, Negation()), ball(3), labels, rules=rules)
    logits = ibp(negated, ball(3))  # nothing to fold into: differences of bounds
    differences = (logits.lower.gather(1, labels[:, None]) - logits.upper).scatter(1, labels[:, None], 0.0)
    torch.testing.assert_close(margins, differences, rtol=1e-5, atol=1e-5)


def test_a_rule_of_the_caller_for_linear_layers_is_respected():
    """Catches a last layer folded by our arithmetic although the caller replaced its rule."""

    def wide(layer: nn.Module, interval: Interval) -> Interval:
        proper = DEFAULT_RULES[nn.Linear](layer, interval)
        return Interval(proper.lower - 7, proper.upper + 7)

    model, labels = nn.Sequential(nn.Linear(3, 2)), torch.tensor([0, 1])
    ours = margin_bounds(model, ball(3), labels, rules=DEFAULT_RULES | {nn.Linear: wide})
    usual = margin_bounds(model, ball(3), labels)
    off = torch.tensor([[False, True], [True, False]])
    assert (ours[off] <= usual[off] - 13.9).all()


def test_a_table_without_linear_layers_refuses_them():
    rules = {kind: rule for kind, rule in DEFAULT_RULES.items() if kind is not nn.Linear}
    with pytest.raises(UnsupportedLayer, match="layer 0 of type Linear"):
        margin_bounds(nn.Sequential(nn.Linear(3, 2)), ball(3), torch.tensor([0, 1]), rules=rules)


# --------------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0]), "labels must have shape (2,), got (1,)"),
        (
            torch.eye(2, dtype=torch.int64),
            "labels must have shape (2,), got (2, 2): pass class indices, not one-hot rows",
        ),
        (torch.tensor([0.0, 1.0]), "labels must be integers, got torch.float32: convert with labels.long()"),
        (torch.tensor([True, False]), "labels must be integers, got torch.bool"),
        (torch.tensor([0, 2]), "labels must be class indices from 0 to 1, got 2 in row 1"),
        (torch.tensor([-1, 0]), "labels must be class indices from 0 to 1, got -1 in row 0"),
    ],
)
@pytest.mark.parametrize("folded", [True, False])
def test_wrong_labels_are_refused(labels: Tensor, message: str, folded: bool):
    """Catches -1 read as the last class, and classes counted from 1."""
    model = nn.Sequential(nn.Linear(3, 2)) if folded else nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    with pytest.raises(InvalidInput, match=re.escape(message)):
        margin_bounds(model, ball(3), labels)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.uint8])
def test_labels_of_any_integer_type(dtype: torch.dtype):
    model, labels = nn.Sequential(nn.Linear(3, 2)), torch.tensor([1, 0])
    assert torch.equal(margin_bounds(model, ball(3), labels.to(dtype)), margin_bounds(model, ball(3), labels))


def test_an_unknown_method_is_refused():
    with pytest.raises(InvalidInput, match=r"method must be one of .*ibp.*, got 'nonsense'"):
        margin_bounds(nn.Sequential(nn.Linear(3, 2)), ball(3), torch.tensor([0, 1]), "nonsense")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_prove_nothing(value: float):
    for position in (0, 2):
        model = Named()
        with torch.no_grad():
            model[position].weight[0, 0] = value
        margins = margin_bounds(model, ball(3), torch.tensor([0, 1]))
        assert not (margins > 0).any()


def test_autocast_changes_nothing():
    """It would compute a bound for float32 in bfloat16, with the rounding terms of float32."""
    ball, layer = LpBall(torch.rand(2, 4, generator=torch.Generator().manual_seed(0)), 0.1), nn.Linear(4, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ibp(layer, ball)
    assert torch.equal(found.lower, ibp(layer, ball).lower)
