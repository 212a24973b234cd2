"""The page: one self-contained HTML file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from certify.curves import AccuracyCurve

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, kw_only=True)
class Page:
    """What the page shows.

    Attributes:
        manifest: versions, device, seed, configuration and hashes.
        curves: certified and attacked accuracy curves.
        clean_accuracy: accuracy of the model on the clean inputs.
        summary: one row per norm and method.
        rows: one row per input, norm and method.
        contradictions: sentences; empty if certificates and witnesses agree.
        pairs: for each attacked input its record, the norm, the clean and the adversarial input (*D).
    """

    manifest: Mapping[str, Any]
    curves: Sequence[AccuracyCurve]
    clean_accuracy: float
    summary: "pd.DataFrame"
    rows: "pd.DataFrame"
    contradictions: Sequence[str]
    pairs: Sequence[tuple[Mapping[str, Any], float, Tensor, Tensor]]


def render(page: Page) -> str:
    """The page as HTML."""
    return "<html></html>"
