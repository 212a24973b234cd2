"""Proof by intervals over small pieces that no image within a range of parameters has another class."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from certify.auditing.certificates.networks import LayeredNetwork
from certify.auditing.certificates.proving import least_margins
from certify.auditing.transformations.ranges import Range

BATCH = 64  # pieces that are bounded at once
Boxes = Callable[[Range], tuple[Range, Tensor]]  # of inputs (B, d) for pieces (B, k), and which of them hold


def is_proved(network: LayeredNetwork, boxes: Boxes, ends: Range, label: int, seconds: float) -> bool:
    """Whether a label leads for all parameters in a range, which is halved until intervals show it.

    Args:
        network: in matrices.
        boxes: around the inputs of pieces.
        ends: (1, k), the range.
        label: that has to lead.
        seconds: after which it is given up.
    """
    end, widths = time.monotonic() + seconds, ends.high - ends.low
    waiting = ends
    while len(waiting.low) and time.monotonic() < end:
        piece, waiting = Range(*(x[-BATCH:] for x in waiting)), Range(*(x[:-BATCH] for x in waiting))
        found, hold = boxes(piece)
        proved = hold & (least_margins(network, found.low, found.high, label) > 0)
        left = Range(*(x[~proved] for x in piece))
        if bool(((left.high - left.low) <= 1e-9 * widths).all(1).any()):
            return False
        waiting = Range(*(torch.cat(pair) for pair in zip(waiting, _halves(left, widths), strict=True)))
    return not len(waiting.low)


def _halves(pieces: Range, widths: Tensor) -> Range:
    """Both halves of each piece, cut along the parameter that is widest for its range."""
    axis = ((pieces.high - pieces.low) / widths.clamp(min=1e-300)).argmax(1, keepdim=True)
    middle = pieces.low + (pieces.high - pieces.low) / 2
    cut = torch.zeros_like(middle, dtype=torch.bool).scatter(1, axis, True)
    low = torch.cat([pieces.low, torch.where(cut, middle, pieces.low)])
    return Range(low, torch.cat([torch.where(cut, middle, pieces.high), pieces.high]))
