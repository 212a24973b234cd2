"""The first function of a pass: constants as products of a layer, and rows for as many channels as a place needs."""

import pytest
import torch
from oracles.halfspace import generator
from torch import Tensor, nn

from bounds import LpBall, capture
from bounds.linear.network import Network
from bounds.linear.passes.backward import Backward
from bounds.linear.refined import RefinedNetwork
from bounds.rows import UnitRows

MAPS = (2, 5, 4)
LAYERS = {
    "linear": (lambda: [nn.Linear(7, 6)], (7,)),
    "deep": (lambda: [nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 6)], (7,)),
    "flattened": (lambda: [nn.Flatten(), nn.Linear(40, 6)], MAPS),
    "strided": (lambda: [nn.Conv2d(2, 3, (3, 2), stride=2, padding=1)], MAPS),
    "grouped": (lambda: [nn.Conv2d(2, 4, 3, padding="same", groups=2, bias=False)], MAPS),
    "transposed": (lambda: [nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1)], MAPS),
}


@torch.no_grad()
@pytest.mark.parametrize("sound", ["real", "rounding"])
@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_constants_of_entries_are_those_of_rows_with_these_coefficients(kind: str, parallel: bool, sound: str):
    """Rows that are given as coefficients are summed up one by one."""
    make, shape = LAYERS[kind]
    torch.manual_seed(0)
    model = nn.Sequential(nn.LeakyReLU(0.1), *make()).double()
    x = torch.randn(3, *shape, dtype=torch.float64, generator=generator(0))
    network = Network(capture(model, x), LpBall(x, 0.6, low=None, high=None), sound=sound)
    backward = Backward(RefinedNetwork(network).refine(), parallel=parallel)
    (name,) = network.nodes["output"].parents
    value = network.nodes[name].value
    index = torch.stack([torch.randperm(value[0].numel(), generator=generator(i))[:5] for i in range(len(x))])
    start = UnitRows(index, tuple(value.shape[1:]), value)
    entries, rows = (backward.bounds(name, part, network.ball, both=True) for part in (start, start.expanded()))
    torch.testing.assert_close(entries, rows, rtol=1e-12, atol=1e-12)
    assert backward._layer_constants  # the first of both took the short way


def uneven() -> tuple[nn.Sequential, Tensor]:
    """Two convolutions, the second of which has a known sign in more channels on the left than on the right."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    model = nn.Sequential(*model, nn.Flatten(), nn.Linear(8 * 36, 3)).double()
    x = torch.rand(2, 1, 6, 6, dtype=torch.float64, generator=generator(2))
    return model, x * torch.linspace(0, 12, 6, dtype=torch.float64)


@torch.no_grad()
@pytest.mark.parametrize("steps", [0, 2])
def test_rows_in_groups_of_different_sizes_bound_all_that_is_wanted(steps: int, monkeypatch: pytest.MonkeyPatch):
    """Few groups at once leave rows out, all at once do not; and some are left out."""
    model, x = uneven()
    network = Network(capture(model, x), LpBall(x, 0.5, low=None, high=None))
    (name,) = (key for key, node in network.nodes.items() if node.value.shape[1:] == (8, 6, 6) and key in network.rules)
    counts: list[int] = []
    bounds = Backward.bounds

    def counted(self: Backward, node: str, start: UnitRows, *args: object, **settings: object) -> Tensor:
        counts.append(start.count if node == name else 0)
        return bounds(self, node, start, *args, **settings)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(Backward, "bounds", counted)
    found, rows = [], []
    for memory in (2**26, 2**16):
        counts.clear()
        found.append(RefinedNetwork(network, tighten=True, steps=steps, memory=memory).refine().intervals[name])
        rows.append(sum(counts))
    torch.testing.assert_close(found[0].lower, found[1].lower, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[0].upper, found[1].upper, rtol=1e-9, atol=1e-9)
    assert steps or rows[1] < rows[0]
