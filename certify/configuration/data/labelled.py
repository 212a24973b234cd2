"""Labelled inputs, as they were read: with what is known of them besides their numbers."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bounds.checks import Limit
from bounds.errors import InvalidConfiguration, InvalidInput

Chooser = Callable[[Tensor, Mapping[str, Any]], Tensor]  # from all labels and columns, the places of those to read


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelledInputs:
    """Inputs and their classes; unpacks as ``x, y = ...``.

    Attributes:
        x: (N, *D), inputs; :class:`certify.StoredInputs` where :func:`certify.load_data` was told to hold no more.
        y: (N,) int64, classes.
        low: lower side of the box of valid inputs.
        high: upper side.
        place: (N,) int64, place of each input in its source.
        classes: names of the classes in the order of ``y``; empty if they have none.
        features: names of the entries of an input, of a table; empty elsewhere.
        groups: by categorical column of a table, the places of the features that it became: one of them is 1 and the
            others are 0.
        notes: sentences about how the source was read.
    """

    x: Tensor
    y: Tensor
    low: Limit = 0.0
    high: Limit = 1.0
    place: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64, device="cpu"))
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Tensor]:
        """The inputs, then the classes."""
        return iter((self.x, self.y))

    def frozen(self, *columns: str) -> Tensor:
        """Mask (D,) of the features of some columns, for ``frozen_features=``: True where nothing changes.

        Raises:
            InvalidInput: no such column.
        """
        mask = torch.zeros(len(self.features), dtype=torch.bool, device=self.x.device)
        for column in columns:
            if column not in self.groups and column not in self.features:
                known = [*self.groups, *(name for name in self.features if "=" not in name)]
                raise InvalidInput(f"column must be one of {', '.join(known) or 'none'}, got {column!r}")
            mask[list(self.groups.get(column, ())) or [self.features.index(column)]] = True
        return mask


def named_classes(what: str, values: list[Any], order: list[str] | None) -> tuple[Tensor, tuple[str, ...]]:
    """Classes (N,) of values that name them, and the names in the order of their numbers.

    Args:
        what: the values are, for messages.
        values: one of each input.
        order: of the names; sorted, if it is not given.

    Raises:
        InvalidConfiguration: a value that is not in the order.
    """
    texts = [str(value) for value in values]
    names = sorted(set(texts)) if order is None else order
    if missing := sorted(set(texts) - set(names)):
        raise InvalidConfiguration(
            f"[data] classes must name every class of {what}, got {', '.join(names)}: {', '.join(missing)} is missing"
        )
    number = {name: i for i, name in enumerate(names)}
    return torch.tensor([number[text] for text in texts], dtype=torch.int64, device="cpu"), tuple(names)
