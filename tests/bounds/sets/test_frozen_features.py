"""Features that no perturbation may change: as good as constants of the network, in every norm and by every method."""

import functools
import math

import pytest
import torch
from oracles.halfspace import generator
from oracles.networks import dense, randomized
from oracles.selection import some
from torch import Tensor, nn

from bounds import Graph, InvalidInput, LpBall, SparseBall, capture, linear_minimum, margin_bounds, milp_margins
from bounds.sets.balls import PerturbationSet
from certify import certified_radius, verify

FREE, ALL = 5, 8
FROZEN = torch.arange(ALL) >= FREE
NORMS = (0.0, 1.0, 1.5, 2.0, math.inf)
METHODS = ("ibp", "crown_ibp", "crown")


def folded(model: nn.Sequential, x: Tensor) -> nn.Sequential:
    """The network of the free entries, for one input (1, F) whose other entries are constants."""
    first = model[0]
    assert isinstance(first, nn.Linear)
    smaller = nn.Linear(FREE, first.out_features, dtype=torch.float64).requires_grad_(False)
    smaller.weight.copy_(first.weight[:, :FREE])
    smaller.bias.copy_(first.bias + first.weight[:, FREE:] @ x[0, FREE:])
    return nn.Sequential(smaller, *model[1:])


@functools.cache
def problem() -> tuple[nn.Sequential, Tensor, Tensor]:
    model = dense(nn.ReLU(), ALL, 12, 10, 3).requires_grad_(False)
    x = torch.rand(2, ALL, generator=generator(), dtype=torch.float64)
    return model, x, model(x).argmax(1)


@functools.cache
def graphs() -> list[Graph]:
    """Graphs of the network, and of those of the free entries of each input; captured once."""
    model, x, _ = problem()
    smaller = [folded(model, row[None]) for row in x]
    return [capture(model, x), *(capture(network, x[:, :FREE]) for network in smaller)]


def around(x: Tensor, norm: float, size: float, *, boxed: bool = True, mask: Tensor | None = None) -> PerturbationSet:
    if norm == 0:
        return SparseBall(x, 2, frozen_features=mask)
    return LpBall(x, size, norm, *((0.0, 1.0) if boxed else (None, None)), frozen_features=mask)


@pytest.mark.parametrize("boxed", [True, False])
@pytest.mark.parametrize("norm", NORMS)
def test_frozen_entries_drop_out_of_a_minimum(norm: float, boxed: bool):
    """The move of a linear function over the whole set is that over the set of the free entries."""
    _, x, _ = problem()
    rows = torch.randn(2, 6, ALL, generator=generator(1), dtype=torch.float64)
    found = linear_minimum(rows, around(x, norm, 0.4, boxed=boxed, mask=FROZEN))
    free = linear_minimum(rows[..., :FREE], around(x[:, :FREE], norm, 0.4, boxed=boxed))
    fixed = (rows[..., FREE:] * x[:, None, FREE:]).sum(2)
    torch.testing.assert_close(found, free + fixed, rtol=0, atol=1e-12)
    whole = linear_minimum(rows, around(x, norm, 0.4, boxed=boxed))
    assert (found >= whole - 1e-12).all()
    assert (found > whole + 1e-3).any()  # the mask does matter


@pytest.mark.parametrize(("norm", "boxed"), [(0.0, True), (1.0, False), (1.5, True), (2.0, False), (math.inf, True)])
@pytest.mark.parametrize("method", METHODS)
def test_bounds_are_those_of_a_network_of_the_free_entries(method: str, norm: float, boxed: bool):
    """The smaller network is the whole problem; the mask does matter."""
    model, x, y = problem()
    layers = method == "ibp" and norm >= 1.5  # intervals of layers in turn
    networks = [model, *(folded(model, row[None]) for row in x)] if layers else graphs()
    found = margin_bounds(networks[0], around(x, norm, 0.2, boxed=boxed, mask=FROZEN), y, method)
    for row, smaller in enumerate(networks[1:]):
        one = slice(row, row + 1)
        expected = margin_bounds(smaller, around(x[one, :FREE], norm, 0.2, boxed=boxed), y[one], method)
        torch.testing.assert_close(found[one], expected, rtol=0, atol=1e-9)
    assert not torch.allclose(found, margin_bounds(networks[0], around(x, norm, 0.2, boxed=boxed), y, method))


@pytest.mark.parametrize("norm", [1.0, math.inf])
def test_exact_minima_move_free_entries_alone(norm: float):
    model, x, y = problem()
    model, smaller, *_ = graphs()
    found = milp_margins(model, around(x[:1], norm, 0.3, mask=FROZEN), y[:1])
    expected = milp_margins(smaller, around(x[:1, :FREE], norm, 0.3), y[:1])
    torch.testing.assert_close(found.proved, expected.proved, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.reached, expected.reached, rtol=0, atol=1e-8)
    assert not torch.allclose(found.reached, milp_margins(model, around(x[:1], norm, 0.3), y[:1]).reached)


@pytest.mark.slow
@pytest.mark.parametrize("norm", some([0.0, 1.0, math.inf], [1.0]))
def test_certified_radii_and_verdicts(norm: float):
    model, x, y = problem()
    radius = certified_radius(model, x, y, norm=norm, frozen_features=FROZEN).radius
    alone = certified_radius(folded(model, x[:1]), x[:1, :FREE], y[:1], norm=norm).radius
    torch.testing.assert_close(radius[:1], alone, rtol=3e-3, atol=0)
    assert radius.mean() >= certified_radius(model, x, y, norm=norm).radius.mean()
    epsilon = {0.0: FREE, 1.0: 20.0, 2.0: 8.0, math.inf: 4.0}[norm]
    options = {"norm": norm, "epsilon": epsilon, "frozen_features": FROZEN, "low": -4.0, "high": 4.0}
    options["generator"] = generator()
    verdict = verify(model, x, y, **options)
    assert verdict.falsified.any()
    assert torch.equal(verdict.adversarial[:, FREE:], x[:, FREE:])
    everything = verify(model, x, y, **options | {"frozen_features": torch.ones(ALL, dtype=torch.bool)})
    assert everything.verified.all()


def test_a_captured_convolution_with_frozen_pixels_holds_for_samples():
    """Windows of coefficients know nothing of masks; without the mask bounds are looser."""
    model = nn.Sequential(nn.Conv2d(1, 3, 3, 2, 1), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten())
    model = randomized(model.append(nn.Linear(16, 3))).double().requires_grad_(False)
    x = torch.rand(2, 1, 8, 8, generator=generator(2), dtype=torch.float64)
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:, :4] = True
    y, graph = model(x).argmax(1), capture(model, x)
    for norm in (1.0, 2.0, math.inf):
        ball, whole = (LpBall(x, 0.5, norm, None, None, frozen_features=part) for part in (mask, None))
        found = margin_bounds(graph, ball, y, "crown")
        assert found.mean() > margin_bounds(graph, whole, y, "crown").mean() + 1e-3
        noise = torch.randn(500, 2, 1, 8, 8, generator=generator(3), dtype=torch.float64).masked_fill(mask, 0.0)
        noise = noise * 0.5 / torch.linalg.vector_norm(noise.flatten(2), norm, dim=2)[..., None, None, None]
        logits = model((x + noise).flatten(0, 1)).unflatten(0, (500, 2))
        margins = (logits.gather(2, y.expand(500, 2)[..., None]) - logits).amin(0)
        assert (margins >= found - 1e-9).all()


@pytest.mark.parametrize("kind", [LpBall, SparseBall])
def test_bad_masks_are_refused(kind: type):
    _, x, _ = problem()
    with pytest.raises(InvalidInput, match="frozen_features must be a boolean tensor"):
        kind(x, 1, frozen_features=FROZEN.float())
    with pytest.raises(InvalidInput, match="frozen_features must broadcast to one input"):
        kind(x, 1, frozen_features=FROZEN[:3])
