"""Proofs of the audit's own: networks as matrices, bounds below all that sampling finds, and no false proof."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certify.auditing.certificates.counterexamples import counterexample
from certify.auditing.certificates.networks import MOST_OF_BLOCK, Affine, LayeredNetwork, TooLarge, Unknown, network_of
from certify.auditing.certificates.proofs import PROOFS, Reprover
from certify.auditing.certificates.proving import Prover, Region, margin_rows
from certify.auditing.tally import Tally

NORMS = [0, 1, 2, 3, math.inf]


class Residual(nn.Module):
    """Convolutions with batch normalisation around a sum, and a head of every affine operation there is."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.last = nn.BatchNorm2d(3), nn.Linear(21, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - 0.4) / 0.5
        hidden = F.relu(self.one(x))
        hidden = F.relu(self.norm(self.two(hidden)) + hidden)
        pooled = F.avg_pool2d(hidden, 2).permute(0, 2, 3, 1).flatten(1)
        means = hidden.mean((2, 3))
        return self.last(torch.cat([pooled, means, 3 * means, 1 - means], 1))


def models(seed: int) -> list[tuple[nn.Module, tuple[int, ...]]]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        dense = nn.Sequential(nn.Flatten(), nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
        residual = Residual().eval()
        residual.norm.running_mean.normal_()
        residual.norm.running_var.uniform_(0.5, 2)
        return [(dense, (5,)), (residual, (2, 4, 4))]


def values_of(network: LayeredNetwork, x: Tensor) -> Tensor:
    """Logits (K,) from the matrices."""
    blocks = {0: x.flatten()}

    def of(rows: Affine) -> Tensor:
        return rows.constant[0] + sum(matrix @ blocks[key] for key, (matrix, _) in rows.blocks.items())

    for number, layer in enumerate(network.layers, start=1):
        blocks[number] = of(layer).clamp(min=0)
    return of(network.logits)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_matrices_are_the_network(seed: int):
    for model, shape in models(seed):
        x = torch.rand(4, *shape, generator=torch.Generator().manual_seed(seed))
        network = network_of(model, x)
        wanted = model.double()(x.double())
        for row, logits in zip(x.double(), wanted, strict=True):
            torch.testing.assert_close(values_of(network, row), logits, atol=1e-12, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", [nn.Sequential(nn.Linear(3, 3), nn.Sigmoid()), nn.Sequential(nn.Linear(3, 3), nn.Softmax(1))], ids=str
)
def test_other_layers_are_named_and_not_guessed(model: nn.Module):
    with pytest.raises(Unknown, match="is neither an affine layer nor ReLU"):
        network_of(model, torch.rand(1, 3))


def region_of(center: Tensor, norm: float, radius: float, frozen: Tensor | None = None) -> Region:
    sides = torch.zeros_like(center), torch.ones_like(center)
    return Region.of(center, radius, norm, *sides, frozen)


def points_of(region: Region, count: int, generator: torch.Generator) -> Tensor:
    """Points of a region, many of them at its ends."""
    low, high, center = region.low, region.high, region.center
    drawn = torch.rand(count, len(center), generator=generator, dtype=torch.float64)
    drawn = torch.where(torch.rand(drawn.shape, generator=generator) < 0.5, drawn.round(), drawn)
    delta = low + drawn * (high - low) - center
    if region.norm == 0:
        kept = torch.rand(delta.shape, generator=generator).argsort(1) < region.radius
        return center + torch.where(kept, delta, 0.0)
    kept = torch.rand(delta.shape, generator=generator) < torch.rand(count, 1, generator=generator)
    delta = torch.where(kept, delta, 0.0)
    size = torch.linalg.vector_norm(delta, region.norm, dim=1, keepdim=True)
    return center + delta * (region.radius / size.clamp(min=1e-30)).clamp(max=1)


@pytest.mark.parametrize("norm", NORMS)
def test_linear_functions_are_bounded_below_all_points_and_nearly_reached(norm: float):
    generator = torch.Generator().manual_seed(int(min(norm, 9)))
    for _ in range(20):
        center = torch.rand(4, generator=generator, dtype=torch.float64)
        rows = torch.randn(5, 4, generator=generator, dtype=torch.float64)
        frozen = torch.rand(4, generator=generator) < 0.2
        region = region_of(center, norm, 2 if norm == 0 else 0.4, frozen)
        least, _ = region.least(rows)
        found = points_of(region, 4000, generator) @ rows.T
        assert bool((least <= found.amin(0) + 1e-12).all())
        if norm in (0, 1, 2, math.inf):
            assert bool((found.amin(0) - least <= 0.12 * (rows @ center - least) + 1e-9).all())


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("lines", [False, True])
def test_bounds_lie_below_what_sampling_finds(norm: float, lines: bool):
    generator = torch.Generator().manual_seed(0)
    for model, shape in models(1):
        x = torch.rand(1, *shape, generator=generator).double()
        network, exact = network_of(model, x), model.double()
        label = int(exact(x).argmax())
        for radius in (1, 2) if norm == 0 else (0.05, 0.3):
            region = region_of(x.flatten(), norm, radius)
            prover = Prover(network, region, lines)
            margins = margin_rows(network.logits, label)
            points = points_of(region, 2000, generator).view(-1, *shape)
            logits = exact(points).detach()
            leads = logits[:, [label]] - logits[:, [k for k in range(logits.shape[1]) if k != label]]
            for bound in (prover._interval(margins), prover.lower(margins)):
                assert bool((bound <= leads.amin(0)).all())
            if bool((leads <= 0).any()):
                assert prover.proves(label) == ""


@pytest.mark.slow
def test_splits_prove_what_lines_do_not_and_nothing_false():
    """A network of one entry whose margin is exact: |x - 1/2| / 2 + 1/100 is above 0 everywhere, lines say -0.24."""
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        model[0].bias.copy_(torch.tensor([-0.5, 0.5]))
        model[2].weight.copy_(torch.tensor([[0.5, 0.5], [0.0, 0.0]]))
    for offset, proved in ((0.01, True), (0.0, False), (-0.01, False)):
        with torch.no_grad():
            model[2].bias.copy_(torch.tensor([offset, 0.0]))
        x = torch.tensor([[0.25]])
        region = region_of(x.double().flatten(), math.inf, 0.6)
        assert (Prover(network_of(model, x), region, lines=True).proves(0) != "") == proved
        found = counterexample(model.double(), region, 0, torch.Size([1]))
        assert (found is not None) == (offset < 0)
        model.float()


def one_layer(generator: torch.Generator, hidden: int) -> LayeredNetwork:
    """Two inputs, some entries of ReLU, two classes."""
    weight, last = (torch.randn(size, generator=generator, dtype=torch.float64) for size in ((hidden, 2), (2, hidden)))
    offset = -weight @ torch.rand(2, generator=generator, dtype=torch.float64)  # so that each entry bends in the box
    layer = Affine({0: (weight, weight.abs())}, (offset, offset.abs()))
    zero = torch.zeros(2, dtype=torch.float64)
    return LayeredNetwork([layer], Affine({1: (last, last.abs())}, (zero, zero)), 2.0**-46)


@pytest.mark.slow
def test_nothing_false_is_proved_of_many_tiny_networks():
    """The lead is least a little below 0, and a little above it, on a grid: bounds have next to no room to be wrong."""
    generator, proved = torch.Generator().manual_seed(0), 0
    line = torch.linspace(0, 1, 41, dtype=torch.float64)
    points = torch.cartesian_prod(line, line)
    region = region_of(torch.full((2,), 0.5, dtype=torch.float64), math.inf, 0.5)
    for hidden in [1, 2, 3, 4] * 25:
        network = one_layer(generator, hidden)
        hidden_values = (points @ network.layers[0].blocks[0][0].T + network.layers[0].constant[0]).clamp(min=0)
        logits_there = hidden_values @ network.logits.blocks[1][0].T
        least = float((logits_there[:, 0] - logits_there[:, 1]).amin())
        for wanted in (-1e-3, 0.05):
            shift = torch.tensor([wanted - least, 0.0], dtype=torch.float64)
            logits = network.logits._replace(constant=(shift, shift.abs()))
            prover = Prover(network._replace(logits=logits), region, lines=True)
            assert float(prover.lower(margin_rows(logits, 0))) <= wanted + 1e-12
            assert not (wanted < 0 and prover.proves(0))
            proved += wanted > 0 and prover.proves(0) != ""
    assert proved >= 60


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "check"), [(0.999, "confirmed"), (1.05, "refuted")])
def test_exact_radii_of_linear_models_are_told_from_larger_ones(factor: float, check: str):
    """The distance to the boundary of a linear model is known: |lead| / norm of the difference of two rows."""
    generator = torch.Generator().manual_seed(3)
    model = nn.Linear(6, 2)
    with torch.no_grad():
        model.weight.copy_(torch.randn(2, 6, generator=generator))
        model.bias.zero_()
    x = torch.rand(5, 6, generator=generator)
    logits, apart = model(x).double().detach(), (model.weight[0] - model.weight[1]).double().detach()
    reprover = Reprover(model, x, 0, (None, None))
    for norm, dual in ((2.0, 2.0), (math.inf, 1.0)):
        tally = Tally()
        for index, row in enumerate(logits):
            radius = float((row[0] - row[1]).abs() / torch.linalg.vector_norm(apart, dual)) * factor
            stated = {"index": index, "certified_radius": radius, "prediction": int(row.argmax())}
            reprover.judge(tally, {"unit": "u", "method": "crown", "norm": str(norm)}, {}, stated, None)
        assert sum(tally.confirmed.values()) == (len(x) if check == "confirmed" else 0)
        assert [finding.check for finding in tally.refuted] == [PROOFS] * (len(x) if check == "refuted" else 0)


def unaffordable(size: int, **_: object) -> Tensor:
    raise MemoryError(f"a matrix of {size} rows and columns")


@pytest.mark.slow
def test_no_matrix_is_made_of_an_input_that_is_too_large(monkeypatch: pytest.MonkeyPatch):
    """The one of an image of 3 x 224 x 224 has 181 GB."""
    monkeypatch.setattr(torch, "eye", unaffordable)
    with pytest.raises(TooLarge):
        network_of(nn.Linear(MOST_OF_BLOCK + 1, 2), torch.zeros(1, MOST_OF_BLOCK + 1))
    with pytest.raises(MemoryError):
        network_of(nn.Linear(MOST_OF_BLOCK, 2), torch.zeros(1, MOST_OF_BLOCK))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layers", "entries"),
    [
        ([nn.Conv1d(1, 1, 1), nn.ReLU(), nn.AvgPool1d(25_000), nn.Linear(1, 2)], 25_000),
        ([nn.AvgPool1d(1_000), nn.Linear(17, 1_000)], 17_000),
    ],
    ids=["neurons", "classes"],
)
def test_what_the_checker_cannot_afford_is_not_judged(layers: list[nn.Module], entries: int):
    tally, model = Tally(), nn.Sequential(*layers, nn.Flatten())
    reprover = Reprover(model, torch.zeros(1, 1, entries), 0, (0.0, 1.0))
    row = {"index": 0, "certified_radius": 1e-9, "prediction": int(model(reprover.x).argmax())}
    reprover.judge(tally, {"unit": "u", "norm": "2", "method": "crown"}, {}, row, None)
    assert [finding.reason for finding in tally.unjudged] == [
        "no proof of the audit's own: the network is too large for the checker of proofs"
    ]
    small = Reprover(nn.Linear(2, 2), torch.zeros(1, 2), 0, (0.0, 1.0))
    assert not isinstance(small.affordable, str)
