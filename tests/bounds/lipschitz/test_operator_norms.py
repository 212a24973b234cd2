"""Operator norms, and their products along branches, against singular values and the convolution of the plane."""

import math

import numpy as np
import pytest
import torch
from oracles.selection import crossed
from torch import Tensor, nn

from bounds import UnsupportedLayer, lipschitz_bound
from bounds.lipschitz.operator_norms import exact, matrix_norm, plane_norm, spectral_norm, without_stride
from bounds.relaxations.activations import gelu, relu, silu, tanh
from bounds.relaxations.derivative_range import slope_range
from bounds.relaxations.elementary import square
from bounds.relaxations.steps_and_waves import sign
from bounds.sets.balls import Interval

SLACK = 1 + 1e-9


def test_norms_of_matrices_are_singular_values_from_above():
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 7), (20, 5), (40, 40)):
        matrix = torch.randn(shape, generator=generator, dtype=torch.float64)
        true = float(torch.linalg.matrix_norm(matrix, 2))
        assert true <= spectral_norm(exact(matrix)) <= true * (1 + 1e-9)
        assert true <= plane_norm(matrix[:, :, None, None], 6) <= true * 1.05
        for order, numpy_order in ((1, 1), (math.inf, np.inf)):
            true = np.linalg.norm(matrix.numpy(), numpy_order)
            assert true <= matrix_norm(exact(matrix), order) <= true * (1 + 1e-9)
        x = torch.randn(shape[1], 500, generator=generator, dtype=torch.float64)
        for order in (1.5, 3):
            ratio = torch.linalg.vector_norm(matrix @ x, order, dim=0) / torch.linalg.vector_norm(x, order, dim=0)
            assert float(ratio.max()) <= matrix_norm(exact(matrix), order)


@pytest.mark.parametrize(("stride", "padding", "size"), [(1, 1, 3), (2, 1, 4), (1, 0, 2), (3, 2, 5)])
def test_zero_padded_convolutions_lie_below_the_convolution_of_the_plane(stride, padding, size):
    layer = nn.Conv2d(2, 3, size, stride, padding).double()
    matrix = torch.func.jacrev(lambda x: layer(x[None]).flatten())(torch.zeros(2, 9, 11, dtype=torch.float64)).detach()
    true = float(torch.linalg.matrix_norm(matrix.flatten(1), 2))
    kernel = without_stride(layer.weight.detach(), (stride, stride))
    assert true <= plane_norm(kernel, 4) <= 1.35 * true
    assert plane_norm(kernel, 4) <= plane_norm(kernel, 1) * SLACK
    model = nn.Sequential(layer, nn.Flatten())
    assert float(lipschitz_bound(model, 2, x=torch.zeros(1, 2, 9, 11))) == pytest.approx(true, rel=1e-6)
    large = float(
        lipschitz_bound(nn.Sequential(nn.Conv2d(2, 3, 3, 1, 1).double(), nn.Flatten()), 2, x=torch.zeros(1, 2, 80, 90))
    )
    assert math.isfinite(large)


class Moved(nn.Module):
    """A linear function of the inputs plus a constant."""

    def __init__(self, constant: float) -> None:
        super().__init__()
        self.constant = constant
        self.layer = nn.Linear(3, 2, bias=False).double()
        self.layer.weight.data = torch.tensor([[1.0, 2.0, -1.0], [0.5, -3.0, 1.0]]).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.constant - (x + self.constant * torch.ones_like(x[:1])))


@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_a_large_constant_changes_no_norm(norm: float):
    x = torch.zeros(1, 3, dtype=torch.float64)
    plain, moved = (float(lipschitz_bound(Moved(constant), norm, x=x)) for constant in (0.0, 1e17))
    assert moved == pytest.approx(plain, rel=1e-6)


def matrix_of(layer: nn.Module, shape: tuple[int, ...]) -> np.ndarray:
    """The matrix of a layer without its bias, a column for each entry of the input."""
    size = math.prod(shape)
    images = layer(torch.eye(size, dtype=torch.float64).view(size, *shape)) - layer(torch.zeros(1, *shape).double())
    return images.detach().flatten(1).T.numpy()


@crossed(
    ("order", [1, 2, 3, math.inf]),
    (
        ("layers", "shape"),
        [
            ([nn.Linear(7, 30), nn.ReLU(), nn.Linear(30, 3)], (7,)),
            ([nn.Linear(5, 40, bias=False), nn.Tanh(), nn.Linear(40, 60), nn.ReLU(), nn.Linear(60, 2)], (5,)),
            ([nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(150, 2)], (1, 5, 5)),
            ([nn.Conv1d(2, 9, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)], (2, 6)),
            ([nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 1)], (6,)),
        ],
    ),
)
def test_the_product_of_norms_is_just_that_where_layers_expand(
    layers: list[nn.Module], shape: tuple[int, ...], order: float
):
    """Against singular values; a bound by sums of absolute values is several times larger where outputs are many."""
    product, model, example = 1.0, nn.Sequential(), torch.zeros(1, *shape).double()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for layer in layers:
            if hasattr(layer, "weight"):
                layer.reset_parameters()
                matrix = matrix_of(layer.double(), shape)
                norms = {kind: np.linalg.norm(matrix, kind) for kind in (1, 2, math.inf)}
                norms[3] = norms[2] ** (2 / 3) * norms[math.inf] ** (1 / 3)
                product *= norms[order]
            shape = tuple(layer(torch.zeros(1, *shape).double()).shape[1:])
            model.append(layer)
    found = lipschitz_bound(model, order, "product", x=example).item()
    assert product * (1 - 1e-12) <= found <= product * (1 + 1e-9)


@pytest.mark.slow
def test_products_along_branches_and_pools():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x + torch.relu(self.inner(x))

    model = nn.Sequential(Residual(), nn.Linear(4, 2)).double()
    norms = [float(torch.linalg.matrix_norm(layer.weight.detach(), 2)) for layer in (model[0].inner, model[1])]
    x = torch.zeros(1, 4)
    assert float(lipschitz_bound(model, 2, x=x)) == pytest.approx((1 + norms[0]) * norms[1], rel=1e-9)
    with pytest.raises(UnsupportedLayer, match="branches"):
        lipschitz_bound(model, 2, "sdp", x=x)
    pool = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 2)).double()
    true = float(torch.linalg.matrix_norm(pool[2].weight.detach(), 2))
    assert float(lipschitz_bound(pool, 2, x=torch.zeros(1, 1, 4, 4))) == pytest.approx(true, rel=1e-9)


def test_a_falling_function_is_as_steep_as_it_falls():
    model = nn.Sequential(nn.Linear(1, 1), nn.PReLU(init=-2.0)).double()
    nn.init.ones_(model[0].weight)
    assert float(lipschitz_bound(model, 2, x=torch.zeros(1, 1))) == pytest.approx(2, rel=1e-9)


def test_slopes_are_bounded_everywhere_and_inside():
    for function in (relu(), tanh(), silu(), gelu()):
        whole = Interval(torch.tensor([-math.inf, -1.0, 0.5]).double(), torch.tensor([math.inf, 2.0, 0.5]).double())
        found = slope_range(function, whole)
        x = torch.linspace(-30, 30, 200_001, dtype=torch.float64)
        quotient = function.value(x).diff() / x.diff()
        inside = (x[:-1] >= -1) & (x[1:] <= 2)
        assert found.lower[0] <= quotient.min() + 1e-12
        assert found.upper[0] >= quotient.max() - 1e-12
        assert found.upper[0] <= quotient.max() + 1e-6
        assert found.lower[1] <= quotient[inside].min() + 1e-9
        assert found.upper[2] - found.lower[2] < 1e-12
    everything = Interval(torch.tensor([-math.inf]).double(), torch.tensor([math.inf]).double())
    assert slope_range(square(), everything).upper.isinf().all()
    with pytest.raises(UnsupportedLayer, match="no slopes"):
        slope_range(sign(), everything)
