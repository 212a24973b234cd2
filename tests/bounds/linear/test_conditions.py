"""Conditions of a guarantee are made true or refused: the arithmetic of products, and the range of float32."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from oracles.selection import some
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import bounds
from bounds import InvalidInput, LpBall, capture
from bounds.numerics import ieee_arithmetic, reduced_precision
from certify import certified_radius, verify

METHODS = ("ibp", "crown_ibp", "fast_lin", "crown", "alpha_crown")
BACKENDS = torch.backends


def settings() -> list[object]:
    parts = BACKENDS.cuda.matmul, BACKENDS.cudnn.conv, BACKENDS.mkldnn.matmul, BACKENDS.mkldnn.conv
    legacy = BACKENDS.cuda.matmul.allow_tf32, BACKENDS.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    halves = BACKENDS.cuda.matmul.allow_bf16_reduced_precision_reduction
    return [*(part.fp32_precision for part in parts), *legacy, halves]


@pytest.fixture
def reduced() -> Iterator[None]:
    """All that a caller may have switched on."""
    with ieee_arithmetic():
        pass  # read once before
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    BACKENDS.cudnn.allow_tf32 = True
    yield
    torch.set_float32_matmul_precision(before)


class Accelerator(TorchDispatchMode):
    """A device whose convolutions and products round their factors to 10 bits where settings allow it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        convolution = "convolution" in name and BACKENDS.cudnn.conv.fp32_precision != "ieee"
        product = any(part in name for part in ("::mm", "::addmm", "::bmm", "::baddbmm", "::mv"))
        if convolution or (product and BACKENDS.cuda.matmul.fp32_precision != "ieee"):
            args = [to_10_bits(part) if isinstance(part, Tensor) else part for part in args]
        return func(*args, **(kwargs or {}))


def to_10_bits(x: Tensor) -> Tensor:
    if x.dtype != torch.float32:
        return x
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp((mantissa * 2**11).round() / 2**11, exponent)


def convolutional() -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten()).eval()
        return model, torch.rand(5, 1, 5, 5)


@pytest.mark.parametrize("method", METHODS)
def test_factors_are_not_rounded_inside_a_bound(method: str):
    """Without the switch, all true logits lie outside."""
    model, x = convolutional()
    graph, ball = capture(model, x), LpBall(x, 1e-7)
    true = model.double()(x.double())
    bound = {"alpha_crown": lambda *args: bounds.alpha_crown(*args, steps=1)}.get(method) or getattr(bounds, method)
    model.float()
    with Accelerator():
        found = bound(graph, ball)
        assert ((model(x) - true).abs() > 1e-5).any()  # the device does round
    assert ((found.lower.double() <= true) & (true <= found.upper.double())).all()


with torch.random.fork_rng():
    torch.manual_seed(0)
    SMALL = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).double()
BALL = LpBall(torch.full((1, 2), 0.5).double(), 0.1)
LABEL = SMALL(BALL.center).argmax(1)
UNSAFE = [(torch.eye(2).double(), torch.zeros(2).double())]
CALLS: dict[str, Callable[[nn.Module], object]] = {
    **{method: lambda m, method=method: getattr(bounds, method)(m, BALL) for method in METHODS},
    "forward": lambda m: bounds.forward_linear(m, BALL),
    "margins": lambda m: bounds.margin_bounds(m, BALL, LABEL, "crown"),
    "specifications": lambda m: bounds.specification_bounds(m, BALL, UNSAFE, "crown_ibp"),
    "lp": lambda m: bounds.lp_bounds(m, BALL),
    "lp margins": lambda m: bounds.lp_margins(m, BALL, LABEL),
    "milp": lambda m: bounds.milp_bounds(m, BALL),
    "milp margins": lambda m: bounds.milp_margins(m, BALL, LABEL),
    "sdp": lambda m: bounds.sdp_margins(m, BALL, LABEL),
    "lipschitz": lambda m: bounds.lipschitz_bound(m, 2, "local", BALL),
    "lipschitz margins": lambda m: bounds.margin_lipschitz(m, 2, LABEL, "recurjac", BALL),
    "radius": lambda m: certified_radius(m, BALL.center, LABEL, norm=math.inf, tolerance=0.9),
    "verify": lambda m: verify(m, BALL.center, LABEL, norm=math.inf, epsilon=0.1, attack=False),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_bound_runs_in_ieee_arithmetic_and_restores_settings(call, reduced, monkeypatch):
    """Seen from inside, wherever intervals of a network are made or a layer is bounded."""
    seen = []
    for place, name in (
        (bounds.linear.network.Network, "_propagate"),
        (bounds.linear.intervals._AffineMap, "interval"),
    ):
        inner = getattr(place, name)

        def spied(*args, inner=inner):
            seen.append(settings())
            return inner(*args)

        monkeypatch.setattr(place, name, spied)
    before = settings()
    assert before[2] == "bf16"
    call(SMALL)
    assert seen
    for inside in seen:  # torch.export puts "none" in place of "ieee" for cuDNN, which is the same
        assert not {"tf32", "bf16", True, "high", "medium"} & set(inside)
    assert settings() == before


def test_settings_come_back_after_an_error_and_nested(reduced):
    before = settings()
    with pytest.raises(InvalidInput), ieee_arithmetic():
        bounds.crown(SMALL, BALL, sound="whatever")
    assert settings() == before


def test_a_deployed_network_must_not_round_its_factors(reduced):
    """Its float32 is that of IEEE: on a CPU only the settings of oneDNN count, on CUDA those of cuBLAS and cuDNN."""
    model, x = convolutional()
    with pytest.raises(InvalidInput, match=r"IEEE float32, but the network runs with torch\.backends\.mkldnn\.matmul"):
        bounds.crown(model, LpBall(x, 0.1), sound="deployed")
    assert "torch.backends.cudnn.conv.fp32_precision = 'tf32'" in reduced_precision(torch.device("cuda"))


# ------------------------------------------------------------------------------------------------------------- overflow


class Overflowing(nn.Module):
    """5 in real arithmetic less what is clamped; beyond the largest float32, an infinity comes first, or NaN."""

    def __init__(self, *, not_a_number: bool) -> None:
        super().__init__()
        self.large, self.small, self.nan = nn.Linear(1, 1), nn.Linear(1, 1), not_a_number
        with torch.no_grad():
            for layer, weight in ((self.large, 3e38), (self.small, 1e-38)):
                layer.weight.fill_(weight)
                layer.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.large(x))
        h = self.small(h - h if self.nan else h).clamp(0, 10)
        return torch.cat([5 - h, 0 * h], 1)


@pytest.mark.slow
@pytest.mark.parametrize("not_a_number", some([False, True], [True]))
def test_overflow_is_never_certified(not_a_number: bool):
    model = Overflowing(not_a_number=not_a_number).eval()
    found = model(torch.tensor([[1.15]]))[0]
    assert not found[0] > found[1]  # float32 does not answer 0
    x, labels = torch.tensor([[1.0], [0.2]]), torch.tensor([0, 0])
    for method in METHODS:
        verdict = verify(
            model, x, labels, norm=math.inf, epsilon=0.2, high=2.0, sound="deployed", attack=False, method=method
        )
        assert verdict.verified.tolist() == [False, True], method  # up to 2.1e38 it is fine
        if method not in ("ibp", "crown"):  # the search for a radius takes many of these bounds
            continue
        radius = certified_radius(model, x, labels, norm=math.inf, high=2.0, sound="deployed", method=method).radius
        assert (radius <= torch.finfo(torch.float32).max / 3e38 - x[:, 0].double()).all()
        assert (radius > 0.1).tolist()[1], method
    ball = LpBall(x.double(), 0.2, high=2.0)
    for interval in (bounds.crown(model, ball, sound="deployed"), bounds.forward_linear(model, ball, sound="deployed")):
        assert (interval.lower[0] == -math.inf).all()
        assert (interval.upper[0] == math.inf).all()
        assert interval.lower[1].isfinite().all()
    assert (
        bounds.specification_bounds(
            model, ball, [(torch.tensor([[1.0, -1.0]]), torch.zeros(1))], "crown", sound="deployed"
        )[0]
        < 0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_other_precisions_are_not_deployed_float32(dtype: torch.dtype):
    model = nn.Sequential(nn.Linear(2, 2)).to(dtype)
    with pytest.raises(InvalidInput, match=r"float32 network, but 0\.weight is"):
        bounds.crown(model, BALL, sound="deployed")
