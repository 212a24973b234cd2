"""Sums of products: matrix products with more to them, and Einstein sums."""

from torch import Tensor


def einsum(equation: str, operands: list[Tensor], *, path: list[int] | None = None) -> Tensor:
    """Einstein sum of one or two operands, each with letters of its own; others have no bounds."""
    given, _, out = equation.replace(" ", "").partition("->")
    letters = given.split(",")
    if "->" not in equation:
        out = "".join(sorted(letter for letter in set(given) - {","} if given.count(letter) == 1))
    if "." in equation or len(letters) > 2 or any(len(set(part)) < len(part) for part in letters):
        return NotImplemented  # type: ignore[no-any-return]  # export takes it for an operation that stays as it is
    if len(letters) == 1:
        return _summed(letters[0], operands[0], out).permute([_kept(letters[0], out).index(letter) for letter in out])
    # The dimension of inputs is the first one of the result, and that of the first factor.
    if out and out[0] not in letters[0]:
        letters, operands = letters[::-1], operands[::-1]
    first, second = letters
    left, right = _summed(first, operands[0], second + out), _summed(second, operands[1], first + out)
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
    product = (left @ right.reshape(len(right), -1)).unflatten(-1, sizes) if len(sizes) != 1 else left @ right
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
