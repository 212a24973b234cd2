"""The ranges that decompositions state: attained by extreme points, and by nothing beyond."""

import math

import pytest
import torch
from torch import Tensor, nn

from bounds import LpBall, capture, crown, ibp

EPSILON = 1e-12
SIZES = (2, 3, 4, 7)


def extreme(count: int, *, centered: bool) -> Tensor:
    """The row of numbers with mean square 1 (and mean 0) with the largest first entry, scaled by 5."""
    rest = -1.0 if centered else 0.0
    return torch.tensor([[5.0] + [5 * rest] * (count - 1)], dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("centered", [True, False], ids=["layer norm", "rms norm"])
def test_standardised_values_reach_the_end_of_their_range(centered: bool, count: int):
    """A range of the root of ``n - 2`` instead of ``n - 1`` would exclude this point."""
    kind = nn.LayerNorm if centered else nn.RMSNorm
    model = kind(count, eps=EPSILON, elementwise_affine=False)
    point = extreme(count, centered=centered)
    reached = model(point)[0, 0].item()
    limit = math.sqrt(count - 1 if centered else count)
    assert reached == pytest.approx(limit, rel=1e-9)
    graph = capture(model, point)
    for bound in (ibp, crown):
        found = bound(graph, LpBall(torch.zeros(1, count).double(), 5.0, low=None, high=None))
        for end in (found.upper, -found.lower):
            assert reached <= end[0, 0].item() <= limit * (1 + 2e-6)


@pytest.mark.slow
def test_a_cosine_reaches_1():
    class Cosine(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.cosine_similarity(x, torch.ones_like(x))[:, None]

    for sign in (1.0, -1.0):
        found = crown(Cosine(), LpBall(torch.full((1, 3), sign).double(), 0.0, low=None, high=None))
        assert found.lower.item() <= sign <= found.upper.item()
        assert found.upper.item() - found.lower.item() < 1e-5


@pytest.mark.parametrize("count", SIZES)
def test_softmax_reaches_0_and_1(count: int):
    point, model = 400 * extreme(count, centered=True), nn.Softmax(1)
    reached = model(point)[0]
    assert reached.tolist() == [1.0] + [0.0] * (count - 1)
    graph = capture(model, point)
    for bound in (ibp, crown):
        found = bound(graph, LpBall(torch.zeros(1, count).double(), 2000.0, low=None, high=None))
        assert (found.lower[0] <= reached).all()
        assert (reached <= found.upper[0]).all()
        assert -1e-9 <= found.lower.min() <= found.upper.max() <= 1 + 1e-9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_unit_that_is_added_to_a_mean_square_is_that_of_torch(dtype: torch.dtype):
    """Half precision may take the epsilon of the wider dtype which it computes in, where none is given."""
    model = nn.RMSNorm(4).to(dtype)
    x = torch.tensor([[1e-4, 2e-4, -1e-4, 3e-4]], dtype=dtype)
    with torch.no_grad():
        found, value = ibp(model, LpBall(x.double(), 0.0, low=None, high=None)), model(x).double()
    assert ((value - found.upper).abs() <= 1e-2 * value.abs()).all()
    assert ((value - found.lower).abs() <= 1e-2 * value.abs()).all()
