"""Sums of products: matrix products with more to them, and Einstein sums."""

import string
from collections.abc import Sequence

from torch import Tensor


def einsum(equation: str, operands: Sequence[Tensor], *, path: list[int] | None = None) -> Tensor:
    """Einstein sum of any operands, in pairs from the last ones to the first."""
    letters, out = _terms(equation, [x.ndim for x in operands])
    terms = [_without_repeats(part, x) for part, x in zip(letters, operands, strict=True)]
    while len(terms) > 2:
        (first, left), (second, right) = terms[-2:]
        others = out + "".join(part for part, _ in terms[:-2])
        wanted = "".join(dict.fromkeys(letter for letter in first + second if letter in others))
        terms[-2:] = [(wanted, _of_two(first, left, second, right, wanted))]
    if len(terms) == 2:
        (first, left), (second, right) = terms
        return _of_two(first, left, second, right, out)
    ((first, x),) = terms
    return _summed(first, x, out).permute([_kept(first, out).index(letter) for letter in out])


def _terms(equation: str, ndims: list[int]) -> tuple[list[str], str]:
    """The letters of every operand and of the result, with letters of their own for the dimensions of an ellipsis."""
    given, arrow, out = equation.replace(" ", "").partition("->")
    letters = given.split(",")
    if not arrow:
        out = "..." * ("..." in given) + "".join(sorted(x for x in set(given) - {",", "."} if given.count(x) == 1))
    free = [letter for letter in string.ascii_letters if letter not in equation]
    hidden = [ndim - len(part) + 3 if "..." in part else 0 for part, ndim in zip(letters, ndims, strict=True)]
    names = "".join(free[: max(hidden)])
    written = [part.replace("...", names[len(names) - count :]) for part, count in zip(letters, hidden, strict=True)]
    return written, out.replace("...", names)


def _without_repeats(letters: str, x: Tensor) -> tuple[str, Tensor]:
    """The diagonal of dimensions with the same letter, which comes where the first of them was."""
    for letter in dict.fromkeys(letters):
        while letters.count(letter) > 1:
            first = letters.index(letter)
            second = letters.index(letter, first + 1)
            x = x.diagonal(0, first, second).movedim(-1, first)
            letters = letters[:second] + letters[second + 1 :]
    return letters, x


def _of_two(first: str, left: Tensor, second: str, right: Tensor, out: str) -> Tensor:
    # The dimension of inputs is the first one of the result, and that of the first factor.
    if out and out[0] not in first:
        first, left, second, right = second, right, first, left
    left, right = _summed(first, left, second + out), _summed(second, right, first + out)
    first, second = _kept(first, second + out), _kept(second, first + out)
    shared = [letter for letter in first if letter in second]
    if any(letter in out for letter in shared):
        return _product_and_sum(first, left, second, right, out)
    own, others = _kept(first, out), _kept(second, out)
    left = left.permute([first.index(letter) for letter in [*own, *shared]])
    right = right.permute([second.index(letter) for letter in [*shared, *others]])
    sizes = right.shape[len(shared) :]
    if len(shared) != 1:
        left, right = left.reshape(*left.shape[: len(own)], -1), right.reshape(-1, *sizes)
    product = left @ right if len(sizes) < 2 else (left @ right.reshape(right.shape[0], -1)).unflatten(-1, sizes)
    found = own + others
    return product.permute([found.index(letter) for letter in out])


def _kept(letters: str, wanted: str) -> str:
    return "".join(letter for letter in letters if letter in wanted)


def _summed(letters: str, x: Tensor, wanted: str) -> Tensor:
    """A sum over the dimensions that nothing else has."""
    dims = [i for i, letter in enumerate(letters) if letter not in wanted]
    return x.sum(dims) if dims else x


def _product_and_sum(first: str, left: Tensor, second: str, right: Tensor, out: str) -> Tensor:
    """All products of entries, with the dimensions of the result first, and the sum over the rest."""
    letters = out + "".join(letter for letter in first if letter not in out)

    def aligned(own: str, x: Tensor) -> Tensor:
        x = x.permute([own.index(letter) for letter in letters if letter in own])
        for i, letter in enumerate(letters):
            if letter not in own:
                x = x.unsqueeze(i)
        return x

    product = aligned(first, left) * aligned(second, right)
    dims = list(range(len(out), len(letters)))
    return product.sum(dims) if dims else product


def add_product(x: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """A matrix product and what is added to it."""
    return beta * x + alpha * (left @ right)
