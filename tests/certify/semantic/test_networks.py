"""Networks of many kinds under every transformation: no random parameters within a radius change the class."""

import pytest
import torch
from oracles.halfspace import generator
from torch import Tensor, nn

import certify
from certify.semantic import (
    Blur,
    Photometric,
    Rotation,
    Scale,
    Shear,
    Transformation,
    Translation,
    certify_transformation,
    random_transformations,
)

SMALL: tuple[Transformation, ...] = (
    Rotation((-1.0, 2.0)),
    Translation((-0.2, 0.1), padding="border"),
    Scale((0.97, 1.02)),
    Shear((-0.02, 0.04), "cyclic"),
    Photometric((0.95, 1.05), (-0.02, 0.03)),
    Photometric(gamma=(0.9, 1.1)),
    Blur((0.0, 0.4)),
)


class Attention(nn.Module):
    """Attention among the columns of an image, with a residual connection and a norm over features."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(15, 6) for _ in range(3))
        self.out, self.norm, self.last = nn.Linear(6, 15), nn.LayerNorm(15), nn.Linear(15, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, 2).transpose(1, 2)  # (N, 7, 15)
        weights = (self.query(tokens) @ self.key(tokens).transpose(1, 2) / 6**0.5).softmax(-1)
        mixed = self.norm(tokens + self.out(weights @ self.value(tokens)))
        return self.last(mixed.mean(1))


def network(kind: str) -> nn.Module:
    torch.manual_seed(7)
    convolutions = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Conv2d(4, 2, 3), nn.Tanh(), nn.Flatten()]
    kinds = {
        "attention": Attention,
        "smooth": lambda: nn.Sequential(*convolutions, nn.Linear(6, 3)),
        "one logit": lambda: certify.TwoClasses(nn.Sequential(nn.Flatten(), nn.Linear(105, 1))),
        "bfloat16": lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(30, 3)).bfloat16(),
        "pooled": lambda: nn.Sequential(nn.Conv2d(3, 4, 2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 3)),
    }
    return kinds[kind]().eval()


@pytest.mark.slow
@pytest.mark.combinations
@pytest.mark.parametrize("kind", ["attention", "smooth", "one logit", "bfloat16", "pooled"])
def test_no_random_transformation_breaks_a_proof(kind: str):
    model = network(kind)
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    x = torch.rand(2, 3, 5, 7, generator=generator(8)).to(dtype)
    proved = 0
    for which in SMALL:
        found = certify_transformation(model, x, None, which, tolerance=0.3, timeout=3)
        drawn = random_transformations(model, x, found.label, which, draws=50, generator=generator(9))
        assert not (~drawn.right & (drawn.distance <= found.radius[:, None])).any()
        proved += int(found.verified.sum())
    assert proved > 0
