"""An evaluation with all that a page shows: kinds of promises, norms, groups, names of classes, and awkward values."""

import math

import torch
from oracles.pages import MANIFEST, attacked, certified, pairs_of

from certify import Evaluation

CLASSES = ["cat", "dog", "<b>owl</b>"]
BUSY_COUNT = 130  # more than two pages of rows


def evaluated(count: int = BUSY_COUNT) -> Evaluation:
    """Proofs, smoothing and attacks in two norms, with ties, zeros, an abstention, wrong predictions and groups."""
    generator = torch.Generator().manual_seed(3)
    radii = (torch.rand(count, generator=generator, dtype=torch.float64) * 40).round().div(100)
    radii[:3] = 0.0
    records = [
        certified("ibp", "2", radii.tolist()),
        certified("smoothing", "2", (2 * radii).tolist(), alpha=0.001, subject="smoothed(gaussian(sigma=0.25))"),
        attacked("2", [math.inf if i % 7 == 0 else round(float(r) + 0.05, 2) for i, r in enumerate(radii)]),
        certified("ibp", "inf", (radii / 10).tolist()),
    ]
    records[1]["rows"][5].update(status="abstained", certified_radius=0.0)
    for record in records:
        for i, row in enumerate(record["rows"]):
            row["group"] = "ab"[i % 2]
            if i % 11 == 4:  # wrong
                row.update(label=(row["label"] + 1) % 3, status="misclassified", attack_distance=0.0)
                row.pop("certified_radius", None) if record["kind"] == "witness" else None
    manifest = {**MANIFEST, "classes": CLASSES}
    return Evaluation(manifest, records, pairs_of((1, 5, 7)))


BUSY = evaluated()
