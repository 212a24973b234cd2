"""Constants computed from weights: their rounding against exact fractions and many digits, and what is refused."""

from fractions import Fraction

import mpmath
import pytest
import torch
from torch import Tensor, nn

from bounds import LpBall, UnsupportedLayer, crown, ibp
from bounds.graph.capturing import capture

X = torch.tensor([[0.3, -0.7, 1.1]], dtype=torch.float64)
POINT = LpBall(X, 0.0, low=None, high=None)


class Cancelling(nn.Module):
    """``x ((1 + c) - c)``, the identity in real arithmetic."""

    def __init__(self, c: float) -> None:
        super().__init__()
        self.register_buffer("one", torch.ones(3, dtype=torch.float64))
        self.register_buffer("c", torch.full((3,), c, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x * ((self.one + self.c) - self.c)


@pytest.mark.parametrize("bound", [ibp, crown])
@pytest.mark.parametrize("c", [1.0, 1e5 / 3, 1e9 / 3, 1e12 / 3])
def test_what_cancellation_takes_is_part_of_the_bound(c: float, bound):
    """The folded factor is wrong by up to 3e-5: bounds around it alone exclude the truth."""
    found = bound(Cancelling(c), POINT)
    assert ((found.lower <= X) & (found.upper >= X)).all()
    assert (found.upper - found.lower).max() < 1e-13 + 1e-14 * c


@pytest.mark.parametrize("bound", [ibp, crown])
def test_what_loses_all_digits_is_refused(bound):
    with pytest.raises(UnsupportedLayer, match=r"aten\.sub\.Tensor, loses its digits to cancellation"):
        bound(Cancelling(1e17), POINT)


class Factor(nn.Module):
    """``x`` times a function of two weights."""

    def __init__(self, function, a: Tensor, b: Tensor) -> None:
        super().__init__()
        self.function, self.a, self.b = function, nn.Parameter(a), nn.Parameter(b)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.function(self.a, self.b)


def high(x: float) -> mpmath.mpf:
    exact = Fraction(x)
    return mpmath.mpf(exact.numerator) / exact.denominator


def rows(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([a, b], 1)[:, None]


FUNCTIONS = {
    "quotient": (lambda a, b: a / b, lambda a, b: a / b),
    "mean removed": (lambda a, b: a - (a + b) * 0.5, lambda a, b: a - (a + b) / 2),
    "root": (lambda a, b: (a * a + b * b).sqrt(), lambda a, b: mpmath.sqrt(a * a + b * b)),
    "power": (lambda a, b: (a + b) ** -0.5, lambda a, b: 1 / mpmath.sqrt(a + b)),
    "waves": (lambda a, b: torch.sin(a) + torch.cos(b), lambda a, b: mpmath.sin(a) + mpmath.cos(b)),
    "exponential": (lambda a, b: torch.exp(a - b), lambda a, b: mpmath.exp(a - b)),
    "sum of products": (lambda a, b: torch.bmm(rows(a, b), rows(a, b).mT).flatten(), lambda a, b: a * a + b * b),
    "quotient of what cancels": (lambda a, b: a / ((a + b) - a), lambda a, b: a / b),
    "moves": (lambda a, b: (a * b).tile(2).roll(200).flip(0)[:200].flip(0), lambda a, b: a * b),
    "inverse": (lambda a, b: (a * b - 1e-3).reciprocal(), lambda a, b: 1 / (a * b - high(1e-3))),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_errors_of_operations_cover_what_they_lose(name: str, dtype: torch.dtype):
    """The constant as computed in a dtype, against fifty digits, for operands over many scales."""
    ours, exact = FUNCTIONS[name]
    draw = torch.Generator().manual_seed(0)
    a, b = (10 ** (2 * torch.rand(200, generator=draw, dtype=dtype) - 1) for _ in range(2))
    model = Factor(ours, a, b).to(dtype)
    graph = capture(model, torch.ones(1, 200, dtype=dtype))
    (constant,) = graph.bind(torch.ones(1, 200, dtype=torch.float64))[last(graph)].constants
    computed = ours(a, b)
    allowed = constant.error(dtype)
    with mpmath.workdps(50):
        lost = [
            abs(high(y) - exact(high(p), high(q)))
            for y, p, q in zip(computed.tolist(), a.tolist(), b.tolist(), strict=True)
        ]
        assert all(miss <= high(most) for miss, most in zip(lost, allowed.tolist(), strict=True))
        assert any(miss > high(most) / 200 for miss, most in zip(lost, allowed.tolist(), strict=True))


def last(graph) -> str:
    """The last product."""
    return [name for name in graph.bind(torch.ones(1, 200, dtype=torch.float64)) if name.startswith("mul")][-1]


def test_weights_that_the_dtype_of_the_ball_does_not_hold():
    """A float64 weight bounded in float32 is rounded on the way in."""
    model = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(1 + 2.0**-25)
    ball = LpBall(torch.ones(1, 1), 0.0, low=None, high=None)
    found = crown(capture(model, ball.center), ball)
    assert found.lower.double().item() <= 1 + 2.0**-25 <= found.upper.double().item()


@pytest.mark.slow
def test_operations_whose_rounding_is_not_known_are_named():
    model = nn.utils.parametrizations.orthogonal(nn.Linear(3, 3)).double()
    with pytest.raises(
        UnsupportedLayer, match=r"aten\.matrix_exp\.default, rounds in a way that is not known.*remove_p"
    ):
        crown(model, POINT)
    assert crown(model, POINT, sound="real").lower.isfinite().all()
    nn.utils.parametrize.remove_parametrizations(model, "weight")
    assert crown(model, POINT).lower.isfinite().all()


@pytest.mark.slow
def test_complex_constants_and_integers_keep_what_they_are():
    """Integers are exact; a complex number of which too few digits are kept, or whose error moves along, is not."""
    turn = torch.polar(torch.ones(3, dtype=torch.float64), X[0])

    class Turned(nn.Module):
        def __init__(self, computed: bool) -> None:
            super().__init__()
            self.computed = computed
            self.register_buffer("angle", X[0])
            self.register_buffer("turn", turn)

        def forward(self, x: Tensor) -> Tensor:
            turn = torch.polar(torch.ones_like(self.angle), self.angle).reshape(1, 3) if self.computed else self.turn
            places = (torch.arange(3) * 2 + 1) % 3  # an exact permutation
            return torch.view_as_real(torch.complex(x, 0 * x) * turn).flatten(1)[:, places]

    found = ibp(Turned(computed=False), POINT)
    exact = torch.view_as_real(torch.complex(X, 0 * X) * turn).flatten(1)[:, [1, 0, 2]]
    assert ((found.lower <= exact) & (found.upper >= exact)).all()
    assert (found.upper - found.lower).max() < 1e-13
    narrow = ibp(Turned(computed=False), LpBall(X.float(), 0.0, low=None, high=None))
    exact = torch.view_as_real(torch.complex(X.float().double(), 0 * X) * turn).flatten(1)[:, [1, 0, 2]]
    assert ((narrow.lower.double() <= exact) & (narrow.upper.double() >= exact)).all()
    with pytest.raises(UnsupportedLayer, match=r"aten\.polar\.default, rounds in a way that is not known"):
        ibp(Turned(computed=True), POINT)
