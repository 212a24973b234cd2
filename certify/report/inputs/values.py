"""Inputs that are no pictures: a table of their features, or a list of their tokens, with what changes."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FEATURES = 12  # of a table, at most: those that change the most


def feature_table(clean: Tensor, neighbours: Sequence[Tensor], names: Sequence[str]) -> dict[str, Any]:
    """Features of an input with their values in each adversarial example.

    Args:
        clean: (*D), the input.
        neighbours: (*D) each.
        names: of all features in their order; others are named by their place.
    """
    flat = clean.detach().cpu().double().flatten()
    others = [other.detach().cpu().double().flatten() for other in neighbours]
    largest = torch.stack([(other - flat).abs() for other in others]).nan_to_num().amax(0) if others else flat.abs() * 0
    chosen = sorted(largest.topk(min(FEATURES, len(flat))).indices.tolist())
    return {
        "kind": "features",
        "rows": [
            [_name(place, clean.shape, names), _word(flat[place]), [_word(other[place]) for other in others]]
            for place in chosen
        ],
        "features": len(flat),
    }


def token_list(tokens: Sequence[str], clean: Tensor, neighbours: Sequence[Tensor]) -> dict[str, Any]:
    """Tokens of an input (T, *D), and by adversarial example how much of the whole change each has, from 0 to 1."""
    shares = []
    for other in neighbours:
        sizes = (other - clean).detach().cpu().double().nan_to_num().flatten(1).norm(dim=1)
        largest = float(sizes.max()) or 1.0
        shares.append([round(size / largest, 2) for size in sizes.tolist()])
    return {"kind": "tokens", "tokens": list(tokens), "shares": shares}


def logit_table(
    clean: Tensor | None, neighbours: Sequence[Tensor | None], classes: Sequence[int], most: int
) -> dict[str, Any] | None:
    """Logits of an input and of its adversarial examples, of the largest ones and of some classes; None without any.

    Args:
        clean: (K,) or None, where a run has not stored them.
        neighbours: of the adversarial examples, likewise.
        classes: that are shown in any case.
        most: classes besides these, at most.
    """
    if clean is None:
        return None
    top = clean.double().nan_to_num(-math.inf).topk(min(most, len(clean))).indices.tolist()
    chosen = sorted({*top, *(each for each in classes if 0 <= each < len(clean))})
    rows = [[each, _word(clean[each]), [_word(other[each]) if other is not None else "" for other in neighbours]]
            for each in chosen]  # fmt: skip
    return {"rows": rows, "classes": len(clean)}


def _name(place: int, shape: Sequence[int], names: Sequence[str]) -> str:
    if place < len(names):
        return names[place]
    if len(shape) == 1:
        return f"feature {place}"
    places: list[str] = []
    for length in reversed(shape):
        place, rest = divmod(place, length)
        places.insert(0, str(rest))
    return f"[{', '.join(places)}]"


def _word(value: Tensor) -> str:
    """Four digits, to the nearest: values of features and logits bound nothing."""
    return f"{float(value):.4g}".replace("inf", "∞")
