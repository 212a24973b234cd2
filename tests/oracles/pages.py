"""Records of certificates and attacks, the page on them, and its elements."""

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import torch
from torch import Tensor

from certify import Evaluation

SMOOTHED = "smoothed(gaussian(sigma=0.25))"
COUNT = 12


def record(method: str, norm: str, rows: list[dict], subject: str = "base") -> dict:
    shared = [{"index": i, "label": i % 3, "base_prediction": i % 3, "subject": subject} for i in range(len(rows))]
    rows = [{"prediction": i % 3, **shared[i], **row} for i, row in enumerate(rows)]
    kinds = {"certified": "certificate", "found": "witness", "not found": "witness", "misclassified": "witness"}
    kind = "certificate" if "certified_radius" in rows[0] else kinds.get(rows[0]["status"], "unsupported")
    unit = f"{method}/{norm}/0-{len(rows)}"
    return {"unit": unit, "method": method, "kind": kind, "norm": norm, "seconds": 1.5, "rows": rows}


def certified(method: str, norm: str, radii: list[float], *, alpha: float = 0.0, subject: str = "base") -> dict:
    rows = [{"status": "certified", "certified_radius": radius, "alpha": alpha} for radius in radii]
    return record(method, norm, rows, subject)


def attacked(norm: str, distances: list[float]) -> dict:
    rows = [
        {
            "status": "found",
            "attack_distance": distance,
            "adversarial_label": (i + 1) % 3,
            "distances": {norm: distance},
        }
        if distance < math.inf
        else {"status": "not found"}
        for i, distance in enumerate(distances)
    ]
    return record("attack", norm, rows)


RADII = [0.01 * 1.618**i for i in range(COUNT)]
IBP = certified("ibp", "inf", [radius / 3 for radius in RADII])
SMOOTHING = certified("smoothing", "2", RADII, alpha=0.001, subject=SMOOTHED)
ATTACK = attacked("inf", [*(radius / 0.7 for radius in RADII[:-1]), math.inf])
MANIFEST = {
    "created": "2026-01-02T03:04:05+00:00",
    "versions": {"certify-bounds": "0.1.0"},
    "seed": 7,
    "configuration": {
        **{"norms": ["2", "inf"], "methods": {"ibp": {"tolerance": 1e-3}}, "low": 0.0, "high": 1.0},
        "units": 1,
    },
    "source": {"model": "plain"},
    "weights_sha256": "ab" * 32,
}


def pairs_of(shape: tuple[int, ...]) -> dict[str, dict[str, Tensor]]:
    clean = torch.rand(COUNT, *shape, generator=torch.Generator().manual_seed(0))
    return {ATTACK["unit"]: {"clean": clean, "adversarial": (clean + 0.02).clamp(0, 1)}}


def page(*records: dict, manifest: dict | None = None, tensors: dict | None = None, tmp_path: Path) -> str:
    path = tmp_path / "report.html"
    Evaluation(manifest or MANIFEST, records, tensors or {}).to_html(path)
    return path.read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Start tags with their attributes, and the text outside of the style sheet, the scripts and their data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        text = re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
        self.feed(re.sub(r"(<script[^>]*>).*?(?=</script>)", r"\1", text, flags=re.DOTALL))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]
