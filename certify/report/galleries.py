"""Pictures of adversarial neighbours."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from bounds.sets.orders import Order
from certify.report.figures import is_picture, perturbation_picture, picture
from certify.report.results import Classes
from certify.report.words import norm_name, rounded_up

NEIGHBOURS = 6  # pictures per norm, at most
Pair = tuple[Mapping[str, Any], Order, Tensor, Tensor]  # a record, the norm, the clean and the adversarial input


def galleries(
    pairs: Sequence[Pair], limits: Mapping[str, Any], classes: Classes
) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Per norm, the nearest adversarial example of some inputs, from the nearest to the farthest."""
    for norm in sorted({norm for _, norm, _, _ in pairs}):
        found = [pair for pair in pairs if pair[1] == norm and pair[0]["status"] == "found"]
        found = sorted((pair for pair in found if is_picture(pair[2])), key=lambda pair: pair[0]["attack_distance"])
        nearest = list({pair[0]["index"]: pair for pair in reversed(found)}.values())[::-1]
        if nearest:
            steps = min(NEIGHBOURS, len(nearest))
            chosen = [nearest[round(i * (len(nearest) - 1) / max(steps - 1, 1))] for i in range(steps)]
            cards = [_card(row, clean, adversarial, limits, classes) for row, _, clean, adversarial in chosen]
            yield norm_name(norm), cards


def _card(
    row: Mapping[str, Any], clean: Tensor, adversarial: Tensor, limits: Mapping[str, Any], classes: Classes
) -> dict[str, str]:
    low, high = limits.get("low"), limits.get("high")
    if not (isinstance(low, int | float) and isinstance(high, int | float)):  # no box, or one per feature
        low, high = float(clean.min()), float(clean.max())
    perturbation, factor = perturbation_picture(adversarial.double() - clean.double(), span=(high - low) or 1.0)
    return {
        "index": str(row["index"]),
        "label": classes.name(row["label"]),
        "adversarial_label": classes.name(row["adversarial_label"]),
        "distance": rounded_up(row["attack_distance"]),
        "clean": picture(clean, low=low, high=high),
        "adversarial": picture(adversarial, low=low, high=high),
        "perturbation": perturbation,
        "factor": str(factor),
        "signed": "signed" * (clean.ndim == 2 or clean.shape[0] == 1),  # colours for the two signs, white for 0
    }
