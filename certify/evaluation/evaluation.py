"""All methods on the same inputs: per input and norm, what is proved beside what was broken."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bounds import NoiseRatioTest, checks
from bounds.checks import Limit
from bounds.circumstances import isolated
from certify.curves import AccuracyCurve, AttackedAccuracyCurve, CertifiedAccuracyCurve
from certify.evaluation.manifest import manifest_of
from certify.evaluation.run_directory import RunDirectory
from certify.evaluation.units import run_unit, units_of
from certify.methods import STANDARD, Method, Problem
from certify.models import frozen, probe
from certify.report import Page, norm_name, render

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[str, int, int], None]  # name of the unit just finished, units done, units in all


@dataclass(frozen=True)
class Contradiction:
    """A certified radius above the distance of a re-checked adversarial example: one of the two is wrong."""

    index: int
    norm: float
    subject: str
    method: str
    radius: float
    distance: float

    def __str__(self) -> str:
        return (
            f"input {self.index}: {self.method} certifies {self.radius!r} of the {self.subject} classifier in "
            f"{norm_name(self.norm)}, but an adversarial example lies at {self.distance!r}"
        )


@dataclass(frozen=True)
class Outside:
    """An estimate below what is proved, or above what was found: no error, since it promises nothing, but a flag."""

    index: int
    norm: float
    method: str
    estimate: float
    certified: float
    distance: float
    capped: bool  # the estimate is the radius of its points, and says no more than that nothing was seen within

    def __str__(self) -> str:
        below = self.estimate < self.certified
        against = (
            f"below the certified radius {self.certified!r}" if below else f"above the witness at {self.distance!r}"
        )
        size = f"{self.estimate!r} (capped)" if self.capped else repr(self.estimate)
        return f"input {self.index}: {self.method} estimates {size} in {norm_name(self.norm)}, {against}"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Results of one evaluation, as they stand on disk.

    Attributes:
        manifest: versions, device, seed, configuration, hashes of weights and data.
        records: one mapping per finished unit, with its rows.
        tensors: by unit, the clean and adversarial inputs that attacks stored.
    """

    manifest: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    tensors: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path | str) -> "Evaluation":
        """The evaluation stored in a run directory, finished or not."""
        run = RunDirectory.read(path)
        records = run.records()
        return cls(run.manifest, list(records.values()), {unit: run.tensors(unit) for unit in records})

    def save(self, path: Path | str) -> None:
        """Store everything in a run directory; units that are there already are left alone."""
        run = RunDirectory.open(path, self.manifest)
        present = run.records()
        for record in self.records:
            if record["unit"] not in present:
                run.append(record, self.tensors.get(record["unit"]))

    def rows(self) -> list[dict[str, Any]]:
        """One mapping per input, norm and method, in plain numbers; see :meth:`to_dataframe`."""
        rows = []
        for record in self.records:
            for row in record["rows"]:
                shared = {
                    "norm": float(record["norm"]),
                    "method": record["method"],
                    "kind": record["kind"],
                    "seconds": record["seconds"] / len(record["rows"]),
                }
                distance = math.inf if row["status"] == "not found" else row.get("attack_distance")
                rows.append({**row, **shared, "attack_distance": distance})
        return sorted(rows, key=lambda row: (row["norm"], row["method"], row["index"]))

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per input, norm and method.

        ``certified_radius``, ``estimated_distance`` and ``attack_distance`` never share a row: each kind of result
        leaves the others empty (NaN). ``attack_distance`` is infinite where nothing was found.
        """
        import pandas as pd

        rows = self.rows()
        columns = [*_COLUMNS, *sorted({name for row in rows for name in row} - set(_COLUMNS))]
        numbers = ["certified_radius", "estimated_distance", "attack_distance", "alpha"]
        return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(numbers, float))

    def curves(self) -> list[AccuracyCurve]:
        """Certified and attacked accuracy against the radius, one curve per method and norm that has results."""
        grouped: dict[tuple[float, str, str], list[dict[str, Any]]] = {}
        for row in self.rows():
            if row["kind"] in ("certificate", "witness"):
                grouped.setdefault((row["norm"], row["subject"], row["method"]), []).append(row)
        return [_curve(rows, *key) for key, rows in sorted(grouped.items())]

    def clean_accuracy(self) -> float:
        """Share of inputs that the model itself classifies correctly."""
        right = {row["index"]: row["base_prediction"] == row["label"] for row in self.rows()}
        return float(sum(right.values()) / len(right))

    def summary(self) -> "pd.DataFrame":
        """One row per norm and method: what it promises, how often it succeeded, the cost.

        ``median`` is that of the radii or distances over the inputs that the subject classifies correctly.
        """
        import pandas as pd

        grouped: dict[tuple[float, str], list[dict[str, Any]]] = {}
        for row in self.rows():
            grouped.setdefault((row["norm"], row["method"]), []).append(row)
        lines = []
        for (norm, method), rows in grouped.items():
            kind = rows[0]["kind"]
            right = [row for row in rows if row.get("prediction") == row["label"]]
            values = [row.get(_VALUES.get(kind, "attack_distance")) for row in right]
            statuses = [row["status"] for row in rows]
            lines.append(
                {
                    "norm": norm_name(norm),
                    "method": method,
                    "subject": rows[0]["subject"],
                    "promise": _promise(rows[0]),
                    "inputs": len(rows),
                    "correct": None if kind == "unsupported" else len(right),
                    "certified": statuses.count("certified") if kind == "certificate" else None,
                    "broken": statuses.count("found") if kind == "witness" else None,
                    "median": float(pd.Series(values, dtype=float).median()),
                    "seconds": sum(row["seconds"] for row in rows),
                }
            )
        return pd.DataFrame(lines).astype(dict.fromkeys(["correct", "certified", "broken"], "Int64"))

    def check(self) -> list[Contradiction]:
        """Certificates refuted by a witness of the same subject, found in whatever norm; empty if all agree."""
        nearest = self._nearest_witnesses()
        found = []
        for row in self._comparable():
            key = (row["index"], row["norm"], row["subject"])
            if row["certified_radius"] > nearest[key]:
                found.append(Contradiction(*key, row["method"], row["certified_radius"], nearest[key]))
        return found

    def outside(self) -> list[Outside]:
        """Estimates that lie outside what is proved and what was found, of the same input, norm and classifier."""
        nearest = self._nearest_witnesses()
        proved: dict[tuple[int, float, str], float] = {}
        for row in self.rows():
            if row["kind"] == "certificate" and row["prediction"] == row["label"]:
                key = (row["index"], row["norm"], row["subject"])
                proved[key] = max(row["certified_radius"], proved.get(key, 0.0))
        found = []
        for row in self.rows():
            estimate = row.get("estimated_distance")
            key = (row["index"], row["norm"], row["subject"])
            low, high = proved.get(key, 0.0), nearest.get(key, math.inf)
            if estimate is not None and not low <= estimate <= high:
                found.append(Outside(row["index"], row["norm"], row["method"], estimate, low, high, row["capped"]))
        return found

    def comparisons(self) -> int:
        """Number of certificates for which a witness of the same input and subject is known."""
        return len(self._comparable())

    def unfinished(self) -> tuple[int, int] | None:
        """Units of work done and in all, or None if the run is complete."""
        done, units = len(self.records), self.manifest["configuration"]["units"]
        return None if done >= units else (done, units)

    def _comparable(self) -> list[dict[str, Any]]:
        """Rows of certificates of the right class for which there is a witness."""
        nearest = self._nearest_witnesses()
        # A radius around a wrong prediction says nothing about the distance at which it becomes wrong.
        rows = [row for row in self.rows() if row["kind"] == "certificate" and row["prediction"] == row["label"]]
        return [row for row in rows if (row["index"], row["norm"], row["subject"]) in nearest]

    def _nearest_witnesses(self) -> dict[tuple[int, float, str], float]:
        """Smallest distance of a witness by input, norm and subject; each witness counts in all norms of the run."""
        nearest: dict[tuple[int, float, str], float] = {}
        for row in self.rows():
            for norm, distance in row.get("distances", {}).items():
                key = (row["index"], float(norm), row["subject"])
                nearest[key] = min(distance, nearest.get(key, math.inf))
        return nearest

    def missed_requirements(self) -> list[str]:
        """The thresholds of the run's configuration that its results miss, a sentence each."""
        curves = {(curve.method, curve.norm): curve for curve in self.curves()}
        missed = []
        for wanted in self.manifest["source"].get("require", []):
            norm = float(wanted["norm"])
            name = f"{wanted['method']} in {norm_name(norm)} at radius {wanted['radius']:g}"
            curve = curves.get((wanted["method"], norm))
            if curve is None:
                missed.append(f"{name} has no result, at least {wanted['at_least']:g} is required")
            elif (share := float(curve.at(wanted["radius"]))) < wanted["at_least"]:
                missed.append(f"{name} reaches {share:g}, at least {wanted['at_least']:g} is required")
        return missed

    def to_html(self, path: Path | str, *, noise: NoiseRatioTest | None = None) -> None:
        """Write the page: one self-contained HTML file.

        Args:
            path: of the file.
            noise: what :func:`bounds.noise_ratio_test` found for the model, to have a section of the page.
        """
        Path(path).write_text(render(self._page(noise)), encoding="utf-8")

    def _page(self, noise: NoiseRatioTest | None) -> Page:
        pairs = []
        for record in self.records:
            stored = self.tensors.get(record["unit"]) or {}
            if "adversarial" in stored:
                pairs += [
                    (row, float(record["norm"]), clean, adversarial)
                    for row, clean, adversarial in zip(
                        record["rows"], stored["clean"], stored["adversarial"], strict=True
                    )
                ]
        return Page(
            manifest=self.manifest,
            curves=self.curves(),
            clean_accuracy=self.clean_accuracy(),
            summary=self.summary(),
            rows=self.to_dataframe(),
            contradictions=[str(contradiction) for contradiction in self.check()],
            outside=[str(estimate) for estimate in self.outside()],
            comparisons=self.comparisons(),
            unfinished=self.unfinished(),
            pairs=pairs,
            noise=noise,
        )


_COLUMNS = [
    *["index", "label", "base_prediction", "prediction", "subject", "norm", "method", "status"],
    *["certified_radius", "estimated_distance", "attack_distance", "alpha", "seconds"],
]
_VALUES = {"certificate": "certified_radius", "estimate": "estimated_distance"}


@isolated
def evaluate(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    norms: Sequence[float] = (2, math.inf),
    methods: Sequence[Method] | str = "standard",
    low: Limit = 0.0,
    high: Limit = 1.0,
    seed: int = 0,
    batch_size: int = 1000,
    output: Path | str | None = None,
    source: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Run every method on the same inputs, in every norm it serves.

    Certificates of the model itself and of the smoothed classifier, estimates if :class:`certify.methods.Clever` is
    asked for, and re-checked adversarial examples of the model, each in its own rows. A method that cannot treat the
    model gives rows of status ``"unsupported"``; the others go on.

    Args:
        model: maps (N, *D) to logits (N, K), deterministic and row by row.
        x: (N, *D), floating, finite, inside the box.
        labels: (N,) correct classes.
        norms: orders of norms, at least 1; 0 counts changed entries.
        methods: settings from :mod:`certify.methods`, or ``"standard"`` for smoothing, interval bounds and the
            minimum-norm attack with their defaults.
        low: lower side of the box: a number, a tensor that broadcasts to one input, or None.
        high: upper side of the box, likewise.
        seed: run seed of all random draws.
        batch_size: rows of a forward pass, at most.
        output: run directory. Every finished unit of work is stored at once; if the directory holds a part of
            the same run, only the rest is computed.
        source: where model and data came from, for the manifest.
        progress: called after every unit.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.
        ManifestMismatch: ``output`` holds another run.
        InvalidConfiguration: ``output`` cannot be written.
    """
    checks.inputs(x, low, high)
    checks.at_least("number of inputs", len(x), 1)
    checks.at_least("seed", seed, 0)
    chosen = list(STANDARD) if isinstance(methods, str) else list(methods)
    if isinstance(methods, str):
        checks.one_of("methods", methods, ("standard",))
    with frozen(model):
        num_classes = probe(model, x, batch_size=min(batch_size, len(x)))
        problem = Problem(
            model=model,
            x=x.detach(),
            y=checks.labels(labels, len(x), num_classes).to(x.device),
            low=low,
            high=high,
            num_classes=num_classes,
            seed=seed,
            batch_size=checks.at_least("batch_size", batch_size, 1),
        )
        with torch.no_grad():
            logits = torch.cat([model(part) for part in problem.x.split(batch_size)])
    # A row without finite logits has no class.
    base = logits.argmax(1).masked_fill(~logits.isfinite().all(1), -1).tolist()
    # Attacks also count changed entries, which is no norm: order 0.
    orders = list(dict.fromkeys(0.0 if norm == 0 else checks.norm(norm) for norm in norms))
    units = units_of(chosen, orders, len(x))
    manifest = manifest_of(problem, logits, chosen, orders, len(units), source)
    run = None if output is None else RunDirectory.open(output, manifest)
    records = {} if run is None else run.records()
    tensors = {} if run is None else {unit: run.tensors(unit) for unit in records}
    for done, unit in enumerate(units, start=1):
        name = unit.name
        if name not in records:
            records[name], tensors[name] = run_unit(unit, problem, base, orders)
            if run is not None:
                run.append(records[name], tensors[name])
        if progress is not None:
            progress(name, done, len(units))
    return Evaluation(manifest if run is None else run.manifest, [records[unit.name] for unit in units], tensors)


def _curve(rows: Sequence[Mapping[str, Any]], norm: float, subject: str, method: str) -> AccuracyCurve:
    kind: type[AccuracyCurve] = CertifiedAccuracyCurve
    if rows[0]["kind"] == "witness":
        kind = AttackedAccuracyCurve
        limits = [row["attack_distance"] for row in rows]
    else:
        counts = ("certified", "not certified")
        limits = [row["certified_radius"] if row["status"] in counts else -math.inf for row in rows]
    limit = torch.tensor(limits, dtype=torch.float64)
    alpha = max(row.get("alpha") or 0.0 for row in rows)
    return kind(limit=limit, norm=norm, subject=subject, method=method, alpha=alpha)


def _promise(row: Mapping[str, Any]) -> str:
    """What the numbers of a method promise."""
    if row["kind"] == "unsupported":
        return "none: a layer is not supported"
    if row["kind"] == "witness":
        alpha = row.get("alpha")
        return f"upper bound with probability {1 - alpha:g}" if alpha else "upper bound, re-checked"
    if row["kind"] == "estimate":
        return f"none: an estimate, of points within {row['reach']:g}"
    return f"lower bound with probability {1 - row['alpha']:g}" if row["alpha"] > 0 else "lower bound, proved"
