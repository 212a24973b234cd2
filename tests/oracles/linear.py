"""A linear classifier, which knows its distance to the boundary in every norm."""

import math

import torch
from oracles.halfspace import generator
from torch import Tensor, nn


class LinearClassifier(nn.Module):
    """K classes over inputs of any shape."""

    def __init__(self, features: int, classes: int, dtype: torch.dtype, source: torch.Generator) -> None:
        super().__init__()
        self.linear = nn.Linear(features, classes, dtype=dtype)
        with torch.no_grad():
            self.linear.weight.copy_(torch.randn(classes, features, generator=source, dtype=torch.float64))
            level = self.linear.weight.double().sum(1) / 2  # logits at the centre of the unit box
            self.linear.bias.copy_(torch.randn(classes, generator=source, dtype=torch.float64) / 2 - level)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))

    def gaps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted class (N,), and logit differences to each class (N, K) with their normals (N, K, F)."""
        weight, bias = self.linear.weight.detach().double(), self.linear.bias.detach().double()
        logits = x.flatten(1).double() @ weight.T + bias
        label = logits.argmax(1)
        return logits.gather(1, label[:, None]) - logits, weight[label][:, None] - weight

    def distance(self, x: Tensor, norm: float) -> Tensor:
        """Exact distance to the nearest other class, (N,) float64."""
        gaps, normals = self.gaps(x)
        dual = 1 if norm == math.inf else math.inf if norm == 1 else norm / (norm - 1)
        sizes = torch.linalg.vector_norm(normals, dual, dim=2)
        return torch.where(sizes > 0, gaps / sizes.clamp(min=1e-300), math.inf).amin(1)

    def distance_in_box(self, x: Tensor, norm: float, low: float, high: float) -> Tensor:
        """The distance within a box, by bisection on the multiplier: a clipped step along the normal is best."""
        gaps, normals = self.gaps(x)
        flat = x.flatten(1).double()
        best = torch.full((len(x),), math.inf, dtype=torch.float64)
        for k in range(gaps.shape[1]):
            normal, gap = normals[:, k], gaps[:, k]
            direction = -(normal.sign() if norm == math.inf else normal)
            lower, upper = (
                torch.zeros(len(x), 1, dtype=torch.float64),
                torch.full((len(x), 1), 1e3, dtype=torch.float64),
            )
            for _ in range(100):
                middle = (lower + upper) / 2
                moved = (flat + middle * direction).clamp(low, high) - flat
                crossed = (-(normal * moved).sum(1) >= gap)[:, None]
                lower, upper = torch.where(crossed, lower, middle), torch.where(crossed, middle, upper)
            moved = (flat + upper * direction).clamp(low, high) - flat
            reached = (-(normal * moved).sum(1) >= gap * (1 - 1e-9)) & (normal.abs().sum(1) > 0)
            best = torch.minimum(best, torch.where(reached, moved.norm(norm, dim=1), math.inf))
        return best


Problem = tuple[LinearClassifier, Tensor, Tensor]


def problem(shape: tuple[int, ...], classes: int, batch: int, dtype: torch.dtype = torch.float64) -> Problem:
    """A linear classifier with inputs well inside the unit box, each labelled as it is predicted."""
    source = generator(classes + batch + len(shape))
    model = LinearClassifier(math.prod(shape), classes, dtype, source)
    x = (0.5 + 0.1 * torch.randn(batch, *shape, generator=source, dtype=torch.float64)).clamp(0.2, 0.8).to(dtype)
    return model, x, model(x).argmax(1)


def vectors(features: int, dtype: torch.dtype = torch.float32, batch: int = 5) -> Problem:
    """Three classes over vectors, which are labelled as they are predicted."""
    model = LinearClassifier(features, 3, dtype, generator(2))
    x = (0.5 + 0.1 * torch.randn(batch, features, generator=generator(3), dtype=torch.float64)).to(dtype)
    return model, x, model(x).argmax(1)
