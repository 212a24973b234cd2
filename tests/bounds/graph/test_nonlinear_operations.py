"""Operations that are written as others or have functions of their own: enclosing, and tight to first order.

The oracle is the module itself at corners and points of a box; tightness has a closed form, ``f(x) +- r |J|_1``.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from oracles.halfspace import generator
from oracles.one_operation import Made
from torch import Tensor, nn

from bounds import Interval, LpBall, UnsupportedLayer, alpha_crown, capture, crown, crown_ibp, explain, ibp

BATCH, SAMPLES = 3, 200
LIMITS = torch.tensor([0.3, 1.4, 0.5, 0.2, 0.9])
EXPONENTS = torch.tensor([0.5, 2.0, 2.0, -1.0, 3.0])
POINTS = torch.tensor([[1.0, 0, 0, 0.5, 0], [0, -1.0, 2.0, 0, 0], [0, 0, 0, 0, 3.0]])


class Case(NamedTuple):
    """A network of one operation, and the shape of one input."""

    function: Callable[..., Tensor]
    parts: tuple[Callable[[], nn.Module], ...] = ()
    shape: tuple[int, ...] = (5,)
    smooth: bool = True  # so that small balls are bounded to first order


def sequence(function: Callable[..., Tensor], part: Callable[[], nn.Module]) -> Case:
    return Case(function, (part,), (3, 4))


def first(x: Tensor, part: nn.Module) -> Tensor:
    return part(x)[0]


def last_state(x: Tensor, part: nn.Module) -> Tensor:
    """The final state of both directions, as classifiers take it."""
    _, state = part(x)
    state = state[0] if isinstance(state, tuple) else state
    return torch.cat([state[-2], state[-1]], 1)


def steps_of(x: Tensor, cell: nn.Module) -> Tensor:
    state = torch.zeros(x.shape[0], 3, dtype=x.dtype)
    state = (state, state) if isinstance(cell, nn.LSTMCell) else state
    for step in range(x.shape[1]):
        state = cell(x[:, step], state)
    return state[0] if isinstance(state, tuple) else state


def of_one(function: Callable[[Tensor], Tensor], *, smooth: bool = True) -> Case:
    return Case(function, smooth=smooth)


CASES = {  # in the part that runs by default
    "largest few": of_one(lambda x: x.topk(2, 1).values),
    "remainder": of_one(lambda x: x.remainder(0.4), smooth=False),
}
SLOW_CASES = {
    "step of an lstm": Case(first, (lambda: nn.LSTMCell(5, 2),)),
    "power of tensors": of_one(lambda x: (x + 4) ** EXPONENTS.to(x)),
    "lstm": sequence(first, lambda: nn.LSTM(4, 2, batch_first=True)),
    "lstm, two layers and directions": sequence(
        last_state, lambda: nn.LSTM(4, 2, 2, batch_first=True, bidirectional=True)
    ),
    "lstm, sequence first, projected": sequence(
        lambda x, part: part(x.transpose(0, 1))[0][-1], lambda: nn.LSTM(4, 3, proj_size=2)
    ),
    "gru": sequence(first, lambda: nn.GRU(4, 2, 2, batch_first=True, bias=False)),
    "gru, last state": sequence(last_state, lambda: nn.GRU(4, 2, batch_first=True, bidirectional=True)),
    "rnn": sequence(first, lambda: nn.RNN(4, 3, batch_first=True)),
    "rnn with relu": sequence(first, lambda: nn.RNN(4, 3, batch_first=True, nonlinearity="relu")),
    "lstm cell": sequence(steps_of, lambda: nn.LSTMCell(4, 3)),
    "gru cell": sequence(steps_of, lambda: nn.GRUCell(4, 3)),
    "rnn cell": sequence(steps_of, lambda: nn.RNNCell(4, 3)),
    "rnn cell with relu": sequence(steps_of, lambda: nn.RNNCell(4, 3, nonlinearity="relu")),
    "bilinear": Case(lambda x, part: part(x, x.flip(1)), (lambda: nn.Bilinear(5, 5, 3),)),
    "bilinear with a constant": Case(
        lambda x, part: part(x, LIMITS.to(x).expand_as(x)), (lambda: nn.Bilinear(5, 5, 3),)
    ),
    **{
        name: of_one(function)
        for name, function in {
            "clamp with tensors": lambda x: x.clamp(-LIMITS.to(x), LIMITS.to(x)),
            "clamp with data": lambda x: x.clamp(-x.flip(1).abs() - 0.1, x.flip(1).abs() + 0.2),
            "clamp below a tensor": lambda x: x.clamp_max(LIMITS.to(x)),
            "smallest few": lambda x: x.topk(2, 1, largest=False).values,
            "sorted": lambda x: x.sort(1, descending=True)[0] * LIMITS.to(x),
            "median": lambda x: x.median(1, keepdim=True).values,
            "second smallest": lambda x: x.kthvalue(2, 1, keepdim=True).values,
            "quantile": lambda x: x.quantile(0.3, 1, keepdim=True),
            "largest so far": lambda x: x.cummax(1).values,
            "smallest so far": lambda x: x.cummin(1).values,
            "least and largest": lambda x: torch.stack(x.aminmax(dim=1), 1),
            "product": lambda x: x.prod(1, keepdim=True),
            "products so far": lambda x: x.cumprod(1),
            "power of a constant": lambda x: 0.7**x,
            "power of constants": lambda x: LIMITS.to(x) ** x,
            "power of data": lambda x: (x + 4) ** x.flip(1),
            "exp2": torch.exp2,
            "log2 and log10": lambda x: (x + 4).log2() - (x + 4).log10(),
            "sinh and cosh": lambda x: x.sinh() + x.cosh(),
            "tan": lambda x: (x / 4).tan(),
            "asin": lambda x: (x / 4).asin(),
            "acos": lambda x: (x / 4).acos(),
            "asinh": torch.asinh,
            "acosh": lambda x: (x + 6).acosh(),
            "atanh": lambda x: (x / 4).atanh(),
            "angle": lambda x: torch.atan2(x, x.flip(1) + 4),
            "logit": lambda x: (x / 8 + 0.5).logit(),
            "logit within limits": lambda x: x.sigmoid().logit(0.1),
            "erfc and ndtr": lambda x: x.erfc() + torch.special.ndtr(x),
            "distances": lambda x: torch.cdist(x, POINTS.to(x)),
            "sums of distances": lambda x: torch.cdist(x, POINTS.to(x), p=1),
            "largest distances": lambda x: torch.cdist(x, POINTS.to(x), p=math.inf),
            "pairwise distance": lambda x: F.pairwise_distance(x, x.flip(1) + 3, keepdim=True),
            "cosine similarity": lambda x: F.cosine_similarity(x + 2, LIMITS.to(x)[None], dim=1).unsqueeze(1),
            "hypotenuse": lambda x: torch.hypot(x, x.flip(1) + 3),
            "norm of order 3": lambda x: x.norm(3, dim=1, keepdim=True),
            "variance and mean": lambda x: torch.stack(torch.var_mean(x, 1), 1),
            "deviation and mean": lambda x: torch.stack(torch.std_mean(x, 1), 1),
            "logcumsumexp": lambda x: x.logcumsumexp(1),
            "logaddexp2": lambda x: torch.logaddexp2(x, x.flip(1)),
            "addcmul and addcdiv": lambda x: torch.addcmul(x, x, x.flip(1), value=0.5) + torch.addcdiv(x, x, x + 4),
            "xlogy": lambda x: torch.xlogy(x, x + 4),
            "other names": lambda x: torch.absolute(torch.special.expit(x)) + torch.arctan(x) + torch.clip(x, -1, 1),
        }.items()
    },
    **{
        name: of_one(function, smooth=False)
        for name, function in {
            "round": lambda x: (3 * x).round(),
            "round to decimals": lambda x: x.round(decimals=1),
            "trunc": lambda x: (3 * x).trunc(),
            "frac": lambda x: (3 * x).frac(),
            "fmod": lambda x: x.fmod(-0.4),
            "remainder by tensors": lambda x: x.remainder(LIMITS.to(x)),
            "floor division": lambda x: x // 0.3 + torch.div(x, 0.7, rounding_mode="trunc"),
        }.items()
    },
}

METHODS: dict[str, Callable[..., Interval]] = {
    "ibp": ibp,
    "crown_ibp": crown_ibp,
    "crown": crown,
    "alpha_crown": lambda graph, ball: alpha_crown(graph, ball, steps=2),
}


def sampled(model: nn.Module, x: Tensor, radius: float | Tensor) -> Tensor:
    """Outputs (S, N, K) at corners of the box and within."""
    step = torch.rand(SAMPLES, *x.shape, generator=generator(7), dtype=x.dtype).mul(2).sub(1)
    step[: SAMPLES // 2] = step[: SAMPLES // 2].sign()
    with torch.no_grad():
        return model((x + radius * step).flatten(0, 1)).view(SAMPLES, len(x), -1)


def assert_enclosed(model: nn.Module, graph: object, x: Tensor, *sizes: float, slack: float = 1e-11) -> None:
    """Balls of several sizes, bounded together."""
    radius = torch.tensor(sizes, dtype=x.dtype).repeat_interleave(len(x))
    x = torch.cat([x] * len(sizes))
    y = sampled(model, x, radius.view(-1, *[1] * (x.ndim - 1)))
    margin = slack * (1 + y.abs())
    for method, bound in METHODS.items():
        if method == "alpha_crown" and model.parts:  # unrolled networks take minutes
            continue
        found = bound(graph, LpBall(x, radius, low=None, high=None))
        assert ((found.lower <= y + margin) & (y - margin <= found.upper)).all(), (method, radius)
        assert (found.upper - found.lower).isfinite().all(), (method, radius)


def made(case: Case) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = Made(case.function, *(part() for part in case.parts)).double().eval()
    return model, torch.randn(BATCH, *case.shape, generator=generator(2), dtype=torch.float64)


@pytest.mark.parametrize("name", [*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_CASES)])
def test_an_operation(name: str):
    case = (CASES | SLOW_CASES)[name]
    model, x = made(case)
    graph = capture(model, x)
    assert explain(graph, x).supported
    for sizes in ((0.0,), (0.05, 0.5)):
        assert_enclosed(model, graph, x, *sizes)
    if case.smooth:
        found = crown(graph, LpBall(x, 1e-6, low=None, high=None))
        for row, point in enumerate(x):
            jacobian = torch.autograd.functional.jacobian(lambda z: model(z[None])[0], point).flatten(1)
            width = (found.upper - found.lower)[row]
            assert (width <= 2.02e-6 * jacobian.abs().sum(1) + 1e-9).all()


class Block(nn.Module):
    """A pre-norm block of a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.behind = nn.LayerNorm(4), nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.dense = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.dense(self.behind(x))


class VisionTransformer(nn.Module):
    """Patches, a class token, positions, two blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 4, 2, 2)
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.positions = nn.Parameter(torch.randn(1, 5, 4))
        self.blocks, self.norm, self.head = nn.Sequential(Block(), Block()), nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


def encoder(**options: object) -> nn.Module:
    layers = nn.TransformerEncoderLayer(4, 2, 5, batch_first=True, dropout=0.1, **options)
    return Made(lambda x, part: part(x), nn.TransformerEncoder(layers, 2, enable_nested_tensor=False))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (VisionTransformer, (1, 4, 4)),
        (encoder, (3, 4)),
        (lambda: encoder(norm_first=True, activation="gelu"), (3, 4)),
    ],
    ids=["vision transformer", "encoder", "encoder, norm first"],
)
def test_a_transformer_encloses_and_is_tight_in_small_balls(build: Callable[[], nn.Module], shape: tuple[int, ...]):
    torch.manual_seed(0)
    model, x = build().double().eval(), torch.rand(2, *shape, generator=generator(2), dtype=torch.float64)
    graph = capture(model, x)
    assert explain(graph, x).supported
    for radius in (1e-6, 1e-3):
        y = sampled(model, x, radius)
        for bound in (ibp, crown_ibp, crown):
            found = bound(graph, LpBall(x, radius, low=None, high=None))
            assert ((found.lower <= y + 1e-12) & (y - 1e-12 <= found.upper)).all()
        if radius < 1e-3:  # of crown, the last; normalised numbers bend where their spread is small
            assert ((found.upper - found.lower) <= 6 * (y.amax(0) - y.amin(0))).all()


@pytest.mark.slow
def test_fake_quantisation_encloses():
    """Torch computes it in float32 whatever the input."""
    scales = torch.tensor([0.1, 0.2, 0.05, 0.3, 0.07])
    for function in (
        lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 3, -10, 20),
        lambda x: torch.fake_quantize_per_tensor_affine(x, torch.tensor(0.1), torch.tensor(3), -10, 20),
        lambda x: torch.fake_quantize_per_channel_affine(x, scales, torch.zeros(5, dtype=torch.int32), 1, -10, 20),
    ):
        model, x = Made(function).eval(), torch.randn(BATCH, 5, generator=generator(2))
        graph = capture(model, x)
        for radius in (0.0, 0.05, 0.5):
            assert_enclosed(model, graph, x, radius, slack=1e-5)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.one_hot(x.argmax(1), 5).to(x),
        lambda x: x.topk(2, 1).indices.to(x),
        lambda x: (-LIMITS.to(x)) ** x,
        pytest.param(lambda x: x.gather(1, x.argsort(1)), marks=pytest.mark.slow),
        pytest.param(lambda x: x.mode(1, keepdim=True).values, marks=pytest.mark.slow),
        pytest.param(lambda x: x.erfinv(), marks=pytest.mark.slow),
    ],
)
def test_places_of_entries_and_a_few_more_are_refused(function: Callable[[Tensor], Tensor]):
    x = torch.rand(2, 5, generator=generator(1))
    with pytest.raises(UnsupportedLayer):
        crown(Made(function), LpBall(x, 0.1))


@pytest.mark.slow
def test_beyond_a_domain_there_is_no_finite_bound():
    """Angles around the origin and on the negative half of the axis are known to lie within pi, no more."""

    def function(x: Tensor) -> Tensor:
        powers = x ** LIMITS.to(x)
        undefined = [x.log2(), x.asin(), (x + 1).acosh(), (3 * x).tan(), x.logit(), powers]
        return torch.cat([*undefined, torch.atan2(x, x - 0.7), torch.atan2(x, x - 9)], 1)

    x = torch.full((2, 5), 0.5, dtype=torch.float64)
    worst = torch.tensor([math.inf] * 30 + [math.pi] * 10).double()
    graph = capture(Made(function), x)
    for bound in (ibp, crown):
        found = bound(graph, LpBall(x, 0.6, low=None, high=None))
        assert (found.upper >= worst - 1e-6).all()
        assert (found.lower <= -worst + 1e-6).all()


def test_constants_are_sorted_as_torch_does():
    """Places of constants are no data, and index arithmetic in integers keeps to integers."""

    def function(x: Tensor) -> Tensor:
        weights = LIMITS.to(x)
        order = weights.argsort(descending=True)
        largest, places = weights.topk(3)
        places = places // 1 + torch.arange(3) % 1
        return x[:, order] * weights.sort().values + x[:, places].sum(1, keepdim=True) * largest.sum()

    model, x = Made(function).eval(), torch.rand(2, 5, generator=generator(1), dtype=torch.float64)
    found = ibp(model, LpBall(x, 0.0))
    torch.testing.assert_close(found.lower, model(x), rtol=1e-9, atol=1e-9)
