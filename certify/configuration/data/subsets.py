"""A part of the inputs: the first ones, or some drawn at random, by strata if asked for."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bounds.errors import InvalidConfiguration
from certify.configuration.keys import DataSource

Column = "np.ndarray[Any, np.dtype[Any]]"
OF_LABELS = ("label", "labels", "y")  # names of the stratum of the classes


def chosen_rows(source: DataSource, labels: Tensor, columns: Mapping[str, Any]) -> Tensor:
    """Places of the inputs that a source asks for, in ascending order.

    Args:
        source: with ``count``, or with ``sample``, ``seed`` and ``stratum``.
        labels: (N,) of all inputs.
        columns: (N,) arrays by name, of which ``stratum`` may be one.

    Raises:
        InvalidConfiguration: more inputs than there are, or no such stratum.
    """
    there = len(labels)
    for name in ("count", "sample"):
        wanted = getattr(source, name)
        if wanted is not None and wanted > there:
            raise InvalidConfiguration(f"[data] {name} must be from 1 to {there}, the inputs there are, got {wanted}")
    if source.sample is None:
        return torch.arange(there if source.count is None else source.count, device="cpu")
    generator = torch.Generator().manual_seed(source.seed)
    if source.stratum is None:
        return torch.randperm(there, generator=generator)[: source.sample].sort().values
    strata = _strata(source.stratum, labels, columns)
    return stratified(strata, source.sample, generator)


def stratified(strata: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Places (count,) of rows drawn without replacement, from each stratum in proportion to its size.

    Shares are rounded down, and what remains goes to the strata with the largest remainders.

    Args:
        strata: (N,) int64, the stratum of each row.
        count: rows to draw, at most N.
        generator: of the draws.

    >>> drawn = stratified(torch.tensor([0] * 8 + [1] * 4), 3, torch.Generator().manual_seed(0))
    >>> (drawn < 8).sum()
    tensor(2)
    """
    sizes = torch.bincount(strata)
    quotas = sizes * count
    shares = quotas // len(strata)
    largest = (quotas % len(strata)).argsort(descending=True, stable=True)
    shares[largest[: count - int(shares.sum())]] += 1
    drawn = []
    for stratum, share in enumerate(shares.tolist()):
        rows = (strata == stratum).nonzero().squeeze(1)
        drawn.append(rows[torch.randperm(len(rows), generator=generator)[:share]])
    return torch.cat(drawn).sort().values


def _strata(name: str, labels: Tensor, columns: Mapping[str, Any]) -> Tensor:
    if name in columns:
        values: Any = np.asarray(columns[name])
        if values.ndim != 1:
            raise InvalidConfiguration(
                f"[data] stratum {name!r} must have one value for each input, got {values.shape}"
            )
        values = values.astype(str)
    elif name in OF_LABELS:
        values = labels.numpy()
    else:
        known = ", ".join([*columns, "label"])
        raise InvalidConfiguration(f"[data] stratum must be one of {known}, got {name!r}")
    return torch.from_numpy(np.unique(values, return_inverse=True)[1].astype(np.int64))
