"""Perturbation sets: what every set tells the bounding methods; balls in a box, boxes, and few changed entries."""

from bounds.sets.balls.base import Interval, PerturbationSet, tells_members
from bounds.sets.balls.kinds import Box, LpBall, SparseBall, outer_box, perturbation_set

__all__ = [
    "Box",
    "Interval",
    "LpBall",
    "PerturbationSet",
    "SparseBall",
    "outer_box",
    "perturbation_set",
    "tells_members",
]
