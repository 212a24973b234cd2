"""Clean against certified accuracy: which models no other one surpasses in both, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bounds import checks

RESAMPLES = 4000
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class TradeOff:
    """Clean and certified accuracy of models on the same inputs, with bootstrap regions.

    Attributes:
        clean: (M,) clean accuracies.
        certified: (M,) certified accuracies.
        on_front: (M,) bool, whether no other model is at least as good in both and better in one.
        share_on_front: (M,) share of the resamples in which that is so.
        outlines: (M, 65, 2) points (clean, certified) around the region of each model, a closed ellipse that holds the
            share ``confidence`` of its resamples.
        confidence: that share.
    """

    clean: FloatArray
    certified: FloatArray
    on_front: NDArray[np.bool_]
    share_on_front: FloatArray
    outlines: FloatArray
    confidence: float


def trade_off(
    clean: Sequence[Tensor], certified: Sequence[Tensor], *, confidence: float = 0.95, seed: int = 0
) -> TradeOff:
    """The trade-off of M models that were asked about the same N inputs.

    Inputs are drawn anew with replacement, the same ones for all models, so what the models share cancels out. A share
    of 0 or 1 does not vary under resampling: there the region is flat, and says nothing about other inputs.

    Args:
        clean: M times (N,) bool, whether the clean input is right.
        certified: M times (N,) bool, whether it is also certified.
        confidence: share of the resamples within a region, and probability that it holds the truth, in the limit of
            many inputs.
        seed: of the resampling; equal seeds give equal regions.
    """
    checks.probability("confidence", confidence)
    outcomes = torch.stack([*clean, *certified], dim=1).cpu().numpy()  # (N, 2M)
    count, models = len(outcomes), len(clean)
    # Inputs of the same outcomes are exchangeable: it is enough to draw how often each of these comes up.
    patterns, numbers = np.unique(outcomes, axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(count, numbers / count, size=RESAMPLES) @ patterns / count  # (RESAMPLES, 2M)
    points = np.stack([drawn[:, :models], drawn[:, models:]], axis=2)  # (RESAMPLES, M, 2)
    centre = outcomes.mean(0).reshape(2, models).T  # (M, 2)
    return TradeOff(
        clean=centre[:, 0],
        certified=centre[:, 1],
        on_front=_on_front(centre[None])[0],
        share_on_front=_on_front(points).mean(0),
        outlines=np.stack([_outline(points[:, i], centre[i], confidence) for i in range(models)]),
        confidence=confidence,
    )


def _on_front(points: FloatArray) -> NDArray[np.bool_]:
    """(R, M) bool, which of (R, M, 2) points no other of their row surpasses."""
    ours, others = points[:, :, None], points[:, None, :]
    surpassed: NDArray[np.bool_] = np.all(others >= ours, axis=-1) & np.any(others > ours, axis=-1)
    front: NDArray[np.bool_] = np.logical_not(np.any(surpassed, axis=2))
    return front


def _outline(points: FloatArray, centre: FloatArray, confidence: float) -> FloatArray:
    """(65, 2), an ellipse around ``centre`` of the shape of the points (R, 2), so large as to hold that share."""
    values, axes = np.linalg.eigh(np.cov(points.T))
    lengths = np.sqrt(values.clip(min=0))
    moved = (points - centre) @ axes
    # A direction without spread has no length to be measured by, and needs none.
    scaled = np.divide(moved, lengths, out=np.zeros_like(moved), where=lengths > 1e-9)
    reach = np.quantile(np.hypot(scaled[:, 0], scaled[:, 1]), confidence)
    turn = np.linspace(0, 2 * np.pi, 65)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    outline: FloatArray = centre + (reach * lengths * circle) @ axes.T
    return outline
