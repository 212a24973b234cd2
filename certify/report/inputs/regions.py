"""Regions of classes in a plane, as outlines between the points at which the classes are known."""

import math

import numpy as np
import torch
from torch import Tensor

HALF = 1000  # units of an outline from the middle to a side
Ring = list[int]  # x, y, x, y, ... of one closed line


def regions_of(logits: Tensor, label: int) -> list[Ring]:
    """Closed lines around the points at which a class has the largest logit.

    Between neighbouring points the margin of the class is interpolated linearly, so that lines of two classes that meet
    are the same. A ring inside another is a hole.

    Args:
        logits: (G, G, K) by first and second coordinate.
        label: the class.
    """
    from matplotlib.figure import Figure

    known = logits.detach().cpu().double()
    others = known.index_fill(2, torch.tensor([label], device="cpu"), -math.inf).amax(2)
    margin = known[..., label] - others
    if not (margin > 0).any():
        return []
    places = np.linspace(-HALF, HALF, len(margin))
    top = float(margin.nan_to_num(0.0, 0.0, 0.0).max()) + 1.0
    field = margin.clamp(max=top).T.numpy()  # its rows are those of the second coordinate
    drawn = Figure().subplots().contourf(places, places, field, levels=[0.0, 2 * top])
    rings = [np.asarray(polygon, dtype=float) for path in drawn.get_paths() for polygon in path.to_polygons()]
    return [[round(part) for part in ring.flatten().tolist()] for ring in rings if len(ring) > 3]
