"""Curvature, Hessians, planes and frequencies: spheres, dense Hessians, closed forms, SciPy's transform."""

import math

import pytest
import torch
from oracles.halfspace import Halfspace, generator
from oracles.linear import LinearClassifier
from scipy import fft, stats
from torch import Tensor

from bounds import InvalidInput, RatioLaw, geometry, nearest_boundary


def on_sphere(radius: float, shape: tuple[int, ...]) -> Tensor:
    points = torch.randn(4, *shape, generator=generator(), dtype=torch.float64)
    return radius * points / points.flatten(1).norm(dim=1).view(-1, *[1] * len(shape))


@pytest.mark.parametrize("shape", [(10,), (2, 3, 5)])
def test_a_sphere_has_curvature_one_over_its_radius_whatever_function_has_it_as_level(shape: tuple[int, ...]):
    """The mutant leaves out the projection onto tangents, and then the function matters."""

    def warped(x: Tensor) -> Tensor:
        u = x.flatten(1).norm(dim=1) / 3 - 1
        return (u + 0.7 * u**2) * (2 + torch.sin(x.flatten(1)[:, 0])) + u**3

    points = on_sphere(3.0, shape)
    found = geometry.boundary_curvature(warped, points, generator=generator(1))
    torch.testing.assert_close(found.mean, torch.full((4,), 1 / 3).double(), rtol=1e-3, atol=0)
    assert (found.error < 1e-3).all()
    torch.testing.assert_close(found.size, found.mean, rtol=1e-2, atol=0)
    directions = torch.randn(4, *shape, generator=generator(2), dtype=torch.float64)
    torch.testing.assert_close(geometry.normal_curvature(warped, points, directions), found.mean, rtol=1e-6, atol=0)
    _, length = geometry._normals(warped, points)
    bent = (directions * geometry._hessian_product(warped, points, directions)).flatten(1).sum(1)
    mutant = bent / directions.flatten(1).square().sum(1) / length
    assert (mutant - 1 / 3).abs().max() > 1e-2


@pytest.mark.slow
def test_mean_curvature_of_an_ellipsoid_against_the_dense_shape_operator():
    axes = torch.linspace(0.5, 2.0, 8, dtype=torch.float64)
    points = on_sphere(1.0, (8,)) / axes
    found = geometry.boundary_curvature(
        lambda x: (x * axes).square().sum(1), points, probes=2000, generator=generator()
    )
    for i, point in enumerate(points):
        gradient = 2 * axes**2 * point
        normal = gradient / gradient.norm()
        projector = torch.eye(8).double() - torch.outer(normal, normal)
        shape = projector @ torch.diag(2 * axes**2) @ projector / gradient.norm()
        exact = shape.trace() / 7
        assert found.size[i] == pytest.approx(float((shape.square().sum() / 7).sqrt()), rel=0.05)
        assert abs(found.mean[i] - exact) < 5 * found.error[i]
        assert found.error[i] < 0.02 * exact


def test_eigenvalues_against_a_dense_hessian():
    matrix = torch.randn(12, 12, generator=generator(), dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        return torch.logsumexp(x.flatten(1) @ matrix.T, 1)

    point = torch.randn(1, 3, 4, generator=generator(1), dtype=torch.float64)
    dense = torch.autograd.functional.hessian(lambda flat: loss(flat.view(1, 3, 4))[0], point.flatten())
    values, vectors = geometry.hessian_eigenvalues(loss, point, count=3)
    exact = torch.linalg.eigvalsh(dense)
    torch.testing.assert_close(values, exact[exact.abs().argsort()[-3:]].sort().values)
    torch.testing.assert_close(vectors.flatten(1) @ dense, values[:, None] * vectors.flatten(1))


def test_curvature_bounds_of_quadratic_losses():
    """Between the two lies the exact distance, which a dense search along all directions of a plane finds."""
    angles = torch.linspace(0, 2 * math.pi, 20_001, dtype=torch.float64)
    circle = torch.stack([angles.cos(), angles.sin()], 1)
    for seed in range(30):
        root = torch.randn(2, 2, generator=generator(seed), dtype=torch.float64)
        hessian = (root + root.T) / 2 + 0.3 * torch.eye(2).double()
        gradient = torch.randn(2, generator=generator(seed + 99), dtype=torch.float64)
        values, vectors = torch.linalg.eigh(hessian)
        if values[-1] <= 0:
            continue
        bound = geometry.curvature_bounds(0.7, gradient, float(values[-1]), vectors[:, -1])
        a, b = 0.5 * ((circle @ hessian) * circle).sum(1), circle @ gradient
        roots = (b.square() + 4 * a * 0.7).clamp(min=0).sqrt()
        ends = torch.where(b + roots > 0, 2 * 0.7 / (b + roots), math.inf)
        ends = torch.where(b.square() + 4 * a * 0.7 >= 0, ends, math.inf)
        exact = float(ends.min())
        assert bound.lower <= exact * (1 + 1e-6)
        assert exact <= bound.upper * (1 + 1e-6)
    line = geometry.curvature_bounds(1.0, torch.tensor([2.0, 0.0]), 1e-12, torch.tensor([1.0, 0.0]))
    assert line == pytest.approx((0.5, 0.5))
    assert geometry.curvature_bounds(0.0, torch.zeros(2), 1.0, torch.ones(2)) == (0, 0)


def test_cross_section_of_a_halfspace():
    model = Halfspace(torch.randn(6, generator=generator(), dtype=torch.float64), bias=0.3)
    x = torch.randn(6, generator=generator(1), dtype=torch.float64)
    distance, label = float(model.distance(x[None])), int(model(x[None]).argmax())
    toward = nearest_boundary(model, x[None]).perturbation[0]
    section = geometry.cross_section(
        model, x, toward, torch.ones(6).double(), extent=1.9 * distance, grid=41, batch_size=7
    )
    beyond = section.coordinates > distance
    assert (section.label[beyond] == 1 - label).all()
    assert (section.label[~beyond] == label).all()
    slope = 2 * float(model.linear.weight[1].detach().norm())
    expected = slope * (distance - section.coordinates)[:, None].expand(41, 41)
    torch.testing.assert_close(section.margin, expected, rtol=1e-9, atol=1e-9)
    with pytest.raises(InvalidInput, match="must not be parallel"):
        geometry.cross_section(model, x, toward, 2 * toward, extent=1.0)


def test_frequencies_are_those_of_the_cosine_transform():
    like = torch.zeros(1, dtype=torch.float64)
    basis = geometry.frequency_basis((2, 6, 7), size=3, offset=2, like=like)
    flat = basis.flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(18).double())
    image = torch.randn(2, 6, 7, generator=generator(), dtype=torch.float64)
    block = torch.from_numpy(fft.dctn(image.numpy(), axes=(1, 2), norm="ortho"))[:, 2:5, 2:5]
    torch.testing.assert_close((flat @ image.flatten()).sort().values, block.flatten().sort().values)
    with pytest.raises(InvalidInput, match="offset must be at most 3"):
        geometry.frequency_basis((2, 6, 7), size=3, offset=4, like=like)


def test_margins_in_frequencies_of_a_linear_model_and_their_null_quantiles():
    model = LinearClassifier(36, 2, torch.float64, generator())
    x = torch.rand(5, 1, 6, 6, generator=generator(1), dtype=torch.float64)
    basis = geometry.frequency_basis((1, 6, 6), size=2, offset=1, like=x)
    _, normals = model.gaps(x)
    normal = normals.norm(dim=2).argmax(1)
    kept = torch.stack([basis.flatten(1) @ normals[i, normal[i]] for i in range(5)]).norm(dim=1)
    exact = model.distance(x, 2) * normals.norm(dim=2).amax(1) / kept
    torch.testing.assert_close(nearest_boundary(model, x, basis=basis).distance, exact, rtol=1e-9, atol=0)
    low, high = (
        geometry.margin_quantiles(model.distance(x, 2), features=36, dimension=4, probability=p) for p in (1e-4, 0.9999)
    )
    assert ((low < exact) & (exact < high)).all()
    torch.testing.assert_close(high / model.distance(x, 2), RatioLaw(36, 4).quantile(0.9999).expand(5))


def test_spectrum_of_normals():
    normals = torch.tensor([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    values = geometry.normal_spectrum(normals)
    torch.testing.assert_close(values, torch.tensor([math.sqrt(2), 1.0, 0.0]).double())
    with pytest.raises(InvalidInput, match="length above 0"):
        geometry.normal_spectrum(torch.zeros(2, 3))


def test_change_of_a_gradient_in_closed_form():
    """The gradient of a quadratic changes by the Hessian times the step; a kink is seen, and a multiple is not."""
    axes = torch.tensor([1.0, -3.0, 0.5]).double()
    x = torch.tensor([[1.0, 2.0, -4.0]], dtype=torch.float64)

    def quadratic(points: Tensor) -> Tensor:
        return 0.5 * (points.square() * axes).sum(1)

    unit = (axes * x).sign() / math.sqrt(3)
    exact = 0.2 * (axes * unit).norm(dim=1) / (axes * x).norm(dim=1)
    found = geometry.gradient_change(quadratic, x, step=0.2)
    torch.testing.assert_close(found, exact)
    torch.testing.assert_close(geometry.gradient_change(lambda p: -7 * quadratic(p), x, step=0.2), exact)

    def bent(points: Tensor) -> Tensor:  # at 3 along the second entry, which a step moves by step / sqrt(2)
        return points[:, 0] + 0.1 * points[:, 1] + 2 * (points[:, 1] - 3).relu()

    assert geometry.gradient_change(bent, x, step=1.4) == 0
    assert geometry.gradient_change(bent, x, step=1.5) == pytest.approx(2 / math.sqrt(1.01))
    with pytest.raises(InvalidInput, match="gradient must not vanish"):
        geometry.gradient_change(quadratic, torch.zeros(1, 3).double(), step=0.1)


def test_paired_ratios_have_the_interval_of_scipy_and_see_what_unpaired_ones_do_not():
    second = torch.randn(20, generator=generator(), dtype=torch.float64).mul(3).exp()
    first = 1.2 * second * torch.randn(20, generator=generator(1), dtype=torch.float64).mul(0.1).exp()
    found = geometry.paired_ratio(first, second, alpha=0.1)
    expected = stats.ttest_rel(first.log(), second.log()).confidence_interval(0.9)
    assert (math.log(found.low), math.log(found.high)) == pytest.approx((expected.low, expected.high))
    assert 1 < found.low < found.ratio < found.high
    unpaired = stats.ttest_ind(first.log(), second.log()).confidence_interval(0.9)
    assert unpaired.low < 0
    with pytest.raises(InvalidInput, match="must be above 0"):
        geometry.paired_ratio(first, second - second)


def test_what_has_no_curvature():
    flat = geometry.boundary_curvature(lambda x: x.flatten(1).sum(1), torch.rand(2, 5), generator=generator())
    assert flat.mean.tolist() == [0, 0]
    with pytest.raises(InvalidInput, match="gradient must not vanish"):
        geometry.boundary_curvature(lambda x: x.square().sum(1), torch.zeros(1, 3), generator=generator())
