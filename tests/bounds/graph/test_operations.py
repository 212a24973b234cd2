"""Every operation and its options, in networks of one operation: exact at a point, enclosing, tight to first order.

Tightness has a closed form: in a tiny ball of radius r a smooth function reaches ``f(x) +- r |J|_q``.
"""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from oracles.halfspace import generator
from oracles.networks import randomized
from oracles.one_operation import CASES, SLOW_CASES, Case, Made
from torch import Tensor, nn

from bounds import Interval, LpBall, UnsupportedLayer, alpha_crown, capture, crown, crown_ibp, ibp

BATCH = 3

BALLS = ((math.inf, (0.2, 0.7)), (2, (0.1, 1.0)), (1, (0.2, 1.5)))  # a norm, and radii that are bounded together
METHODS: dict[str, Callable[..., Interval]] = {
    "ibp": ibp,
    "crown_ibp": crown_ibp,
    "crown": crown,
    "alpha_crown": partial(alpha_crown, steps=3),
}


def points(ball: LpBall, count: int) -> Tensor:
    """Points of each ball (count, N, *D): corners and vertices, others of the sphere, and of the inside."""
    shape = (count, *ball.center.shape)
    step = torch.randn(shape, generator=generator(7), dtype=ball.center.dtype)
    if ball.norm == math.inf:
        step = torch.where(
            torch.rand(count, generator=generator(8)).view(-1, *[1] * (len(shape) - 1)) < 0.6,
            step.sign(),
            step.clamp(-1, 1),
        )
    elif ball.norm == 1:  # vertices have one entry
        flat = step.flatten(2)
        vertex = F.one_hot(flat.abs().argmax(2), flat.shape[2]) * flat.sign()
        step = torch.where(torch.rand(count, generator=generator(8)).view(-1, 1, 1) < 0.6, vertex, flat).view(shape)
    size = torch.linalg.vector_norm(step.flatten(2), ball.norm, dim=2)
    share = torch.rand(count, generator=generator(9), dtype=step.dtype).mul(2).clamp(max=1).view(-1, 1)
    return ball.center + step * (share * ball.radii / size).view(count, len(ball.center), *[1] * (len(shape) - 2))


def made(case: Case) -> tuple[nn.Module, Tensor]:
    model = randomized(case.build(), seed=1).double().eval()
    return model, torch.randn(BATCH, *case.shape, generator=generator(2), dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_CASES)])
def test_an_operation(name: str):
    """In one harness, since capturing takes longest."""
    case = (CASES | SLOW_CASES)[name]
    model, x = made(case)
    graph = capture(model, x)
    check_point(model, graph, x)
    for norm, sizes in BALLS if name in SLOW_CASES else [(math.inf, (0.2,))]:
        radii = torch.outer(torch.tensor(sizes), torch.tensor([1.0, 0.5, 0.1])).flatten().double()
        ball = LpBall(torch.cat([x] * len(sizes)), radii, norm=norm, low=None, high=None)
        check_enclosed_and_ordered(model, graph, ball)
    if case.smooth:
        for norm in (math.inf, 2) if name in SLOW_CASES else (math.inf,):
            check_first_order(model, graph, LpBall(x, 1e-6, norm=norm, low=None, high=None))


def check_point(model: nn.Module, graph: object, x: Tensor) -> None:
    with torch.no_grad():
        y = model(x)
    scale = 1e-9 * (1 + y.abs())
    for sound, slack in (("rounding", 1e-3 * scale), ("real", 0.1 * scale)):
        for method, bound in METHODS.items():
            if sound == "rounding" or method in ("ibp", "crown"):  # in real arithmetic layers are merged, for all alike
                found = bound(graph, LpBall(x, 0.0, low=None, high=None), sound=sound)
                assert ((found.lower <= y + slack) & (y - slack <= found.upper)).all(), (method, sound)
                assert (found.upper - found.lower <= scale).all(), (method, sound, (found.upper - found.lower).max())


def check_enclosed_and_ordered(model: nn.Module, graph: object, ball: LpBall) -> None:
    with torch.no_grad():
        x = points(ball, 200)
        y = model(x.flatten(0, 1)).view(200, len(ball.center), -1)
    found = {method: bound(graph, ball) for method, bound in METHODS.items()}
    for method, interval in found.items():
        slack = 1e-12 * (1 + y.abs())
        assert ((interval.lower <= y + slack) & (y - slack <= interval.upper)).all(), (method, ball.norm)
        assert (interval.upper - interval.lower).isfinite().all(), (method, ball.norm)
    for loose, tight in (("ibp", "crown_ibp"), ("crown_ibp", "crown"), ("crown", "alpha_crown")):
        slack = 1e-9 * (1 + y.abs().amax(0))
        assert (found[tight].lower >= found[loose].lower - slack).all(), (loose, tight)
        assert (found[tight].upper <= found[loose].upper + slack).all(), (loose, tight)


def check_first_order(model: nn.Module, graph: object, ball: LpBall) -> None:
    found = crown(graph, ball)
    for row, (x, radius) in enumerate(zip(ball.center, ball.radii, strict=True)):
        jacobian = torch.autograd.functional.jacobian(lambda z: model(z[None])[0], x).flatten(1)
        reach = radius * torch.linalg.vector_norm(jacobian, ball.dual_norm, dim=1)
        width = (found.upper - found.lower)[row]
        assert (width <= 2.02 * reach + 1e-9).all(), (ball.norm, (width / reach).max())


class Fixed(nn.Module):
    """Takes one input at a time, and multiplies tensors of different ranks."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.view(2, 3) * x.view(6)[:3].sigmoid()).view(1, 6)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_factors_of_different_ranks_keep_to_their_row(count: int):
    """Two inputs used to be mixed: the dimension of inputs met another one of size two."""
    x = torch.randn(count, 2, 3, generator=generator(3), dtype=torch.float64)
    model, ball = Fixed(), LpBall(x, 0.1, low=None, high=None)
    found = crown(model, ball)
    for point in points(ball, 50):
        y = torch.cat([model(row) for row in point.split(1)])
        assert ((found.lower <= y + 1e-12) & (y - 1e-12 <= found.upper)).all()


@pytest.mark.parametrize(
    "mix", [lambda x: x.flip(0), lambda x: x.roll(1, 0), lambda x: x.cumsum(0), lambda x: x - x.amax(0)]
)
def test_answers_that_depend_on_other_rows_are_refused(mix: Callable[[Tensor], Tensor]):
    """Rows that are only moved leave no trace in shapes: bounds used to speak of another input."""
    with pytest.raises(UnsupportedLayer, match="rest of the batch"):
        capture(Made(mix), torch.rand(3, 4, generator=generator(1)))


def test_constants_of_the_code_follow_the_precision_of_the_inputs():
    """A float32 model, bounded in float64, that makes a matrix on its way."""
    model = Made(lambda x, part: part(x) @ (2 * torch.eye(3)), nn.Linear(4, 3))
    x = torch.rand(2, 4, generator=generator(1), dtype=torch.float64)
    found = crown(model, LpBall(x, 0.0))
    torch.testing.assert_close(found.lower, model(x.float()).double(), rtol=1e-5, atol=1e-5)


def test_intervals_of_softmax_are_exact():
    """Closed form: an entry is largest where it is at its upper end and the others at their lower ones."""
    x = torch.randn(3, 5, generator=generator(1), dtype=torch.float64)
    found = ibp(nn.Softmax(1), LpBall(x, 0.3, low=None, high=None))
    apart = 2 * torch.eye(5, dtype=torch.float64) - 1
    for sign, end in ((1, found.upper), (-1, found.lower)):
        best = (x.unsqueeze(1) + sign * 0.3 * apart).softmax(2).diagonal(dim1=1, dim2=2)
        torch.testing.assert_close(end, best, rtol=1e-9, atol=0)
    huge = ibp(nn.Softmax(1), LpBall(x, 1e3, low=None, high=None))
    assert ((huge.lower >= -1e-12) & (huge.upper <= 1 + 1e-12)).all()
