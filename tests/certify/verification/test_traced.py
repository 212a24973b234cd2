"""Networks of PyTorch as the checker reads them: the same function, and unknown layers are named."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certify.proofs.errors import Unreadable
from certify.proofs.radii import fingerprint
from certify.verification.proving import traced as module
from certify.verification.proving.traced import traced


class Function(nn.Module):
    """A function as a network."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.last = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.norm(self.one((x - 0.4) / 0.3)))
        return self.last(F.relu(self.two(hidden) + hidden).mean((2, 3)))


def networks() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        residual = Residual()
        residual.norm.running_mean.normal_()
        residual.norm.running_var.uniform_(0.5, 2)
        pooled = nn.Sequential(nn.Conv2d(2, 4, 3, padding="same"), nn.LeakyReLU(0.3), nn.MaxPool2d(2))
        deep = [nn.Sigmoid(), nn.AvgPool2d(2, 1, padding=1, count_include_pad=False), nn.Flatten(), nn.Linear(64, 5)]
        rounded_up = [nn.MaxPool2d(3, 2, ceil_mode=True), nn.Flatten()]
        return {
            "residual": (residual.eval(), (3, 4, 4)),
            "pooled": (nn.Sequential(*pooled, *deep, nn.Tanh(), nn.ReLU6()), (2, 6, 6)),
            "counted": (nn.Sequential(nn.AvgPool2d(3, 2, padding=1), nn.Flatten(), nn.Linear(8, 3)), (2, 4, 4)),
            "adaptive": (nn.Sequential(nn.Conv2d(2, 4, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()), (2, 6, 6)),
            "transposed": (nn.Sequential(nn.ConvTranspose2d(2, 4, 3, 2, 1), *rounded_up), (2, 4, 4)),
            "grouped": (nn.Sequential(nn.Conv1d(4, 6, 3, groups=2, dilation=2), nn.MaxPool1d(2), nn.Flatten()), (4, 9)),
            "narrow": (nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).bfloat16(), (3, 4)),
            "joined": (Function(lambda x: torch.cat([2 * x.flatten(1), 1 - x.flip(1)[:, :, 0], x.sum(2)], 1)), (3, 4)),
            "cut": (Function(lambda x: (x.chunk(2, 1)[0] - x[:, 1:2] / 3).relu().flatten(1).clamp(0.1, 0.4)), (4, 3)),
            "product": (Function(lambda x: -x.flatten(1) @ torch.ones(12, 3, dtype=x.dtype) + 1), (3, 4)),
        }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", networks())
def test_the_checker_reads_the_same_function(name: str):
    model, shape = networks()[name]
    network = traced(model, torch.rand(2, *shape))
    x = torch.randn(20, *shape, generator=torch.Generator().manual_seed(1)).double()
    wanted = torch.cat([model.double()(one[None]) for one in x]).flatten(1).detach().numpy()
    assert network.values(x.flatten(1).numpy()) == pytest.approx(wanted, abs=1e-12)
    assert fingerprint(network) == fingerprint(traced(model, torch.rand(1, *shape)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Softmax(1), "softmax is a layer that proofs do not know"),
        (nn.GELU(), "gelu is a layer that proofs do not know"),
        (Function(lambda x: x * x), "combines two numbers that depend on the input"),
        (Function(lambda x: x - x.mean(0)), "a sum over the batch"),
        (Function(lambda x: x if x.sum() > 0 else -x), "the model cannot be exported"),
    ],
    ids=str,
)
def test_what_is_not_known_is_named(layer: nn.Module, message: str):
    with pytest.raises(Unreadable, match=message):
        traced(nn.Sequential(nn.Linear(4, 3), layer), torch.rand(1, 4))


@pytest.mark.slow
def test_a_network_that_was_read_wrongly_is_refused(monkeypatch: pytest.MonkeyPatch):
    rule = module.TRANSLATIONS["linear"]
    wrong = {**module.TRANSLATIONS, "linear": lambda *given: rule(*given[:4])}  # without its offset
    monkeypatch.setattr(module, "TRANSLATIONS", wrong)
    with pytest.raises(Unreadable, match="gives other answers"):
        traced(nn.Linear(4, 3), torch.rand(1, 4))


@pytest.mark.slow
def test_every_number_changes_the_fingerprint():
    model = nn.Sequential(nn.Linear(4, 3), nn.LeakyReLU(0.1), nn.Linear(3, 2))
    x, found = torch.rand(1, 4), set()
    for place in range(4):
        with torch.no_grad():
            if place:
                list(model.parameters())[place].view(-1)[0] += 1e-3
        found.add(fingerprint(traced(model, x)))
    model[1] = nn.LeakyReLU(0.2)
    assert len(found | {fingerprint(traced(model, x))}) == 5
