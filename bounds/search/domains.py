"""Parts of a problem: unsafe sets together with what splits say of neurons, and the best planes found so far."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

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
        parameters: of the planes of each function, in the order of names, (N, *shape) float32 each.
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
        return _of([part[index] for part in self.tensors()], self)

    def __add__(self, other: "Domains") -> "Domains":
        return _of([torch.cat(pair) for pair in zip(self.tensors(), other.tensors(), strict=True)], self)

    def tensors(self) -> list[Tensor]:
        """All of them, in order."""
        own = [self.case, self.low, self.high, self.multiplier, self.weight, self.bound, self.choice]
        return own + [part for parts in self.parameters for part in parts]

    def each(self) -> "Iterator[Domains]":
        """The domains one by one."""
        for place in range(len(self)):
            yield self[torch.tensor([place], device=self.case.device)]

    @property
    def memory(self) -> int:
        """Bytes that a row takes."""
        return sum(part[:1].numel() * part.element_size() for part in self.tensors())

    def children(self, neuron: Tensor, point: Tensor) -> "Domains":
        """Both sides of a split of one neuron (N,) of each domain at a point (N,): first all below, then all above."""
        place, value = neuron[:, None], point.to(self.low)[:, None]
        below = replace(self, high=self.high.scatter(1, place, value))
        return below + replace(self, low=self.low.scatter(1, place, value))


def regrouped(parts: Iterable[Tensor], like: Sequence[Sequence[Tensor]]) -> tuple[tuple[Tensor, ...], ...]:
    """Tensors in a row, in groups as others are."""
    rest = iter(parts)
    return tuple(tuple(next(rest) for _ in own) for own in like)


def _of(parts: Sequence[Tensor], like: Domains) -> Domains:
    case, low, high, multiplier, weight, bound, choice, *numbers = parts
    return Domains(case, low, high, multiplier, weight, bound, choice, regrouped(numbers, like.parameters))
