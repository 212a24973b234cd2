"""Parts of a problem: unsafe sets together with what splits say of neurons, and the best planes found so far."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Domains:
    """N parts of a problem; one row of each tensor for each.

    Attributes:
        case: (N,), place of the unsafe set.
        low: (N, total) float32, what splits say of the values in front of functions; -inf where nothing.
        high: likewise, inf where nothing.
        multiplier: (N, total) float32, of the constraints that splits say: above 0 of the upper, below 0 of the lower.
        weight: (N, M), whose softmax weighs the inequalities of the set.
        bound: (N,) float64, a lower bound on the distance of outputs from the set.
        choice: (N, k), neurons that are worth a split, the best first; -1 for none.
        parameters: of the planes of each function, in the order of spans, (N, *shape) float32 each.
    """

    case: Tensor
    low: Tensor
    high: Tensor
    multiplier: Tensor
    weight: Tensor
    bound: Tensor
    choice: Tensor
    parameters: tuple[tuple[Tensor, ...], ...]

    def __len__(self) -> int:
        return len(self.case)

    def __getitem__(self, index: Tensor) -> "Domains":
        own = (part[index] for part in self._tensors())
        return Domains(*own, tuple(tuple(part[index] for part in parts) for parts in self.parameters))

    def __add__(self, other: "Domains") -> "Domains":
        own = (torch.cat(pair) for pair in zip(self._tensors(), other._tensors(), strict=True))
        pairs = zip(self.parameters, other.parameters, strict=True)
        return Domains(*own, tuple(tuple(map(torch.cat, zip(*pair, strict=True))) for pair in pairs))

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.case, self.low, self.high, self.multiplier, self.weight, self.bound, self.choice

    @property
    def memory(self) -> int:
        """Bytes that a row takes."""
        parts = [*self._tensors(), *(part for parts in self.parameters for part in parts)]
        return sum(part[:1].numel() * part.element_size() for part in parts)

    def children(self, neuron: Tensor, point: Tensor) -> "Domains":
        """Both sides of a split of one neuron (N,) of each domain at a point (N,): first all below, then all above."""
        both = self[torch.arange(len(self), device=neuron.device).repeat(2)]
        place, value = neuron[:, None], point.to(self.low)[:, None]
        high = torch.cat([self.high.scatter(1, place, value), self.high])
        low = torch.cat([self.low, self.low.scatter(1, place, value)])
        return Domains(
            both.case, low, high, both.multiplier, both.weight, both.bound, both.choice, both.parameters
        )
