"""Bounds of float32 sets, computed in float64: in float32, rounding errors cost deep networks their certificates.

A layer of n terms loses about ``n 2**-24`` of the sum of their absolute values. Over the width of the intervals that is
little, over nine layers of 200 neurons it is more than most margins; in float64 it is nothing.
"""

import torch

from bounds.numerics import converted_down
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
