"""Precision that bounds compute in, and networks that they refuse for theirs.

Float32 sets are bounded in float64: in float32, rounding errors cost deep networks their certificates. A layer of n
terms loses about ``n 2**-24`` of the sum of their absolute values. Over the width of the intervals that is little, over
nine layers of 200 neurons it is more than most margins; in float64 it is nothing.
"""

import torch

from bounds.errors import InvalidInput, UnsupportedLayer
from bounds.graph.captured import Graph
from bounds.numerics import converted_down, reduced_precision
from bounds.sets.balls import Interval, PerturbationSet

# Compute capabilities of CUDA devices that compute float64 at half the speed of float32; others need 32 times as long.
FAST_IN_DOUBLE = ((6, 0), (7, 0), (8, 0), (9, 0), (10, 0))


def in_double(ball: PerturbationSet, sound: str) -> PerturbationSet:
    """The set in float64, unless rounding errors are left out anyway, or the device is slow there.

    Sets of half precision are no exception where rounding errors are left out: there they are no small thing.
    """
    left_out = sound == "real" and ball.center.dtype == torch.float32
    if left_out or ball.center.dtype == torch.float64 or not _computes_double(ball.center.device):
        return ball
    return ball.double()


def _computes_double(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) in FAST_IN_DOUBLE
    return device.type == "cpu"


def rounded_outward(bounds: Interval, dtype: torch.dtype) -> Interval:
    """The smallest interval with ends in ``dtype`` that holds another one."""
    return Interval(converted_down(bounds.lower, dtype), -converted_down(-bounds.upper, dtype))


def require_rounding(sound: str, *, pooled: bool) -> None:
    """Refuse what would leave out the errors of weights."""
    if sound != "rounding":
        raise InvalidInput(f"sound must be 'rounding' for a network whose weights lie in a box, got {sound!r}")
    if not pooled:
        raise InvalidInput("a network whose weights lie in a box has no encoding and no Lipschitz constant: bound it")


def require_float32(graph: Graph, device: torch.device) -> None:
    """Refuse networks whose float32 execution is not what their graph says."""
    if settings := reduced_precision(device):
        raise InvalidInput(
            f"sound='deployed' speaks of IEEE float32, but the network runs with {', '.join(settings)}: switch that "
            f"off here and where it is deployed, or use sound='rounding', which speaks of real arithmetic"
        )
    for name, weight in graph.program.state_dict.items():
        if weight.is_floating_point() and weight.dtype != torch.float32:
            raise InvalidInput(
                f"sound='deployed' speaks of a float32 network, but {name} is {weight.dtype}: convert the model with "
                f"model.float(), or use sound='rounding'"
            )
    if inexact := graph.inexact:
        raise UnsupportedLayer(
            f"how {', '.join(sorted(inexact))} rounds in float32 is not known, so sound='deployed' has no bound: "
            f"use sound='rounding', which speaks of the network in real arithmetic"
        )
