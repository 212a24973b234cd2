"""Certificates of transformations."""

from dataclasses import dataclass

import torch
from torch import Tensor

from certify.results import Certificate


@dataclass(frozen=True, eq=False, kw_only=True)
class SemanticCertificate(Certificate):
    """Ranges of transformations that are proved not to change the prediction, one row per input.

    ``radius`` says how far: the class is proved for all parameters of the range whose distance from the identity is at
    most that; it is 0 where the range has none that are as near. Distances of several parameters with different units
    or reach are shares of the range of each.

    Attributes:
        verified: (N,) bool, True where the label is proved for all parameters of the range.
        broken: (N,) bool, True where the model, run on an image within the range, gives another class.
        parameters: (N, k) float64, of the image nearest to the identity that did, with noise on top or without; NaN
            where there is none.
        fraction: (N,) float64, the radius as a share of the whole range.
        margin: (N,) float64, the least proved lead of the label over all pieces that were bounded; minus infinity where
            none was.
        open_pieces: (N,) int64, pieces of the range that are neither proved nor known to be broken.
        pieces: (N,) int64, pieces that were bounded.
        transformation: the transformation, in words.
        unit: of the radius: ``"degrees"``, ``"pixels"``, ``"factor"``, ``"input units"`` or ``"share of the range"``.
        reach: the radius of the whole range.
        epsilon: radius of the ball of noise on top, in units of the input; its norm is ``noise_norm``.
        noise_norm: order of its norm.
    """

    verified: Tensor
    broken: Tensor
    parameters: Tensor
    fraction: Tensor
    margin: Tensor
    open_pieces: Tensor
    pieces: Tensor
    transformation: str
    unit: str
    reach: float
    epsilon: float = 0.0
    noise_norm: float = torch.inf
