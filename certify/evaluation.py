"""All methods on the same inputs: per input and norm, what is proved beside what was broken."""

import hashlib
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from torch import Tensor, nn

from bounds import InvalidInput, UnsupportedLayer, checks
from bounds.checks import Limit
from certify.curves import AccuracyCurve, AttackedAccuracyCurve, CertifiedAccuracyCurve
from certify.methods import STANDARD, Method, Problem
from certify.models import frozen, predictions, probe
from certify.report import Page, norm_name, render
from certify.results import Certificate, SmoothingCertificate, Witness
from certify.runs import RunDirectory

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
            f"input {self.index}: {self.method} certifies {self.radius:.6g} of the {self.subject} classifier in "
            f"{norm_name(self.norm)}, but an adversarial example lies at {self.distance:.6g}"
        )


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

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per input, norm and method.

        ``certified_radius`` and ``attack_distance`` never share a row: a certificate leaves the second empty
        (NaN), a witness the first. ``attack_distance`` is infinite where nothing was found.
        """
        import pandas as pd

        rows = []
        for record in self.records:
            for row in record["rows"]:
                shared = {
                    "norm": float(record["norm"]),
                    "method": record["method"],
                    "seconds": record["seconds"] / len(record["rows"]),
                }
                distance = math.inf if row["status"] == "not found" else row.get("attack_distance")
                rows.append({**row, **shared, "attack_distance": distance})
        columns = [*_COLUMNS, *sorted({name for row in rows for name in row} - set(_COLUMNS))]
        table = pd.DataFrame(rows, columns=columns)
        numbers = ["certified_radius", "attack_distance", "alpha"]
        table[numbers] = table[numbers].astype(float)
        return table.sort_values(["norm", "method", "index"], ignore_index=True)

    def curves(self) -> list[AccuracyCurve]:
        """Certified and attacked accuracy against the radius, one curve per method and norm that has results."""
        table = self.to_dataframe()
        table = table[table.status != "unsupported"]
        found: list[AccuracyCurve] = []
        for (norm, subject, method), rows in table.groupby(["norm", "subject", "method"], sort=True):
            kind = AttackedAccuracyCurve if rows.certified_radius.isna().all() else CertifiedAccuracyCurve
            if kind is AttackedAccuracyCurve:
                limit = torch.tensor(rows.attack_distance.to_numpy())
            else:
                right = (rows.prediction == rows.label) & (rows.status != "abstained")
                limit = torch.tensor(rows.certified_radius.where(right, -math.inf).to_numpy())
            found.append(kind(limit=limit, norm=float(norm), subject=str(subject), method=str(method)))
        return found

    def clean_accuracy(self) -> float:
        """Share of inputs that the model itself classifies correctly."""
        table = self.to_dataframe().drop_duplicates("index")
        return float((table.base_prediction == table.label).mean())

    def summary(self) -> "pd.DataFrame":
        """One row per norm and method: what it promises, how often it succeeded, the median, the cost."""
        import pandas as pd

        rows = []
        table = self.to_dataframe()
        for (norm, method, subject), part in table.groupby(["norm", "method", "subject"], sort=True):
            certifies = not part.certified_radius.isna().all()
            value = part.certified_radius if certifies else part.attack_distance
            counts = part.status.value_counts()
            rows.append(
                {
                    "norm": norm_name(float(norm)),
                    "method": method,
                    "subject": subject,
                    "promise": _promise(part),
                    "inputs": len(part),
                    "correct": int((part.prediction == part.label).sum()),
                    "certified": int(counts.get("certified", 0)) if certifies else None,
                    "broken": None if certifies else int(counts.get("found", 0)),
                    "median": float(value.median()),
                    "seconds": float(part.seconds.sum()),
                }
            )
        return pd.DataFrame(rows).astype({"certified": "Int64", "broken": "Int64"})

    def check(self) -> list[Contradiction]:
        """Certificates refuted by a witness of the same subject and norm; empty if all agree."""
        table = self.to_dataframe()
        keys = ["index", "norm", "subject"]
        nearest = table[table.attack_distance.notna()].groupby(keys).attack_distance.min()
        certified = table[table.certified_radius > 0].join(nearest, on=keys, rsuffix="_found")
        wrong = certified[certified.certified_radius > certified.attack_distance_found]
        return [
            Contradiction(row.index_, row.norm, row.subject, row.method, row.radius, row.distance)
            for row in wrong.rename(
                columns={"index": "index_", "certified_radius": "radius", "attack_distance_found": "distance"}
            )[["index_", "norm", "subject", "method", "radius", "distance"]].itertuples(index=False)
        ]

    def to_html(self, path: Path | str) -> None:
        """Write the page: one self-contained HTML file."""
        Path(path).write_text(render(self._page()), encoding="utf-8")

    def _page(self) -> Page:
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
            pairs=pairs,
        )


_COLUMNS = (
    "index label base_prediction prediction subject norm method status certified_radius attack_distance alpha seconds"
).split()


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

    Certificates of the model itself and of the smoothed classifier, and re-checked adversarial examples of the
    model, each in its own rows. A method that cannot treat the model gives rows of status ``"unsupported"``;
    the others go on.

    Args:
        model: maps (N, *D) to logits (N, K), deterministic and row by row.
        x: (N, *D), floating, finite, inside the box.
        labels: (N,) correct classes.
        norms: orders of norms.
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
        num_classes = probe(model, x)
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
        base = predictions(model, problem.x, batch_size).tolist()
    units = list(_units(chosen, [checks.norm(norm) for norm in norms], len(x)))
    manifest = _manifest(problem, chosen, norms, source)
    run = None if output is None else RunDirectory.open(output, manifest)
    records = {} if run is None else run.records()
    tensors = {} if run is None else {unit: run.tensors(unit) for unit in records}
    for done, (name, method, norm, rows) in enumerate(units, start=1):
        if name not in records:
            records[name], tensors[name] = _run_unit(problem, base, name, method, norm, rows)
            if run is not None:
                run.append(records[name], tensors[name])
        if progress is not None:
            progress(name, done, len(units))
    return Evaluation(manifest, [records[name] for name, *_ in units], tensors)


def _units(
    methods: Sequence[Method], norms: Sequence[float], count: int
) -> Iterator[tuple[str, Method, float, slice]]:
    """Name, method, norm and rows of each unit of work."""
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        raise InvalidInput(f"methods must have different names, got {', '.join(names)}")
    pairs = [(method, norm) for method in methods for norm in norms if norm in method.norms]
    if not pairs:
        raise InvalidInput(f"none of the methods {', '.join(names)} serves a norm of {list(norms)}")
    for method, norm in pairs:
        for start in range(0, count, method.rows_per_unit):
            rows = slice(start, min(start + method.rows_per_unit, count))
            yield f"{method.name}/{norm:g}/{rows.start}-{rows.stop}", method, norm, rows


def _run_unit(
    problem: Problem, base: list[int], name: str, method: Method, norm: float, rows: slice
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    started = time.perf_counter()
    tensors: dict[str, Tensor] = {}
    try:
        result = method.run(problem, rows, norm)
    except UnsupportedLayer as error:
        details = [{"status": "unsupported", "subject": "base", "reason": str(error)}] * (rows.stop - rows.start)
    else:
        details = _rows_of(result.cpu(), problem.y[rows].cpu())
        if isinstance(result, Witness):
            tensors = {"clean": problem.x[rows].cpu(), "adversarial": result.adversarial.cpu()}
    labels = problem.y[rows].tolist()
    shared = [
        {"index": rows.start + i, "label": labels[i], "base_prediction": base[rows.start + i], **detail}
        for i, detail in enumerate(details)
    ]
    record = {
        "unit": name,
        "method": method.name,
        "norm": f"{norm:g}",
        "seconds": time.perf_counter() - started,
        "rows": shared,
    }
    return record, tensors


def _rows_of(result: Certificate | Witness, labels: Tensor) -> list[dict[str, Any]]:
    """What stands in the record of each row, in plain numbers."""
    rows = []
    for i in range(len(result)):
        row: dict[str, Any] = {"prediction": int(result.label[i]), "subject": result.subject}
        wrong = row["prediction"] != int(labels[i])
        if isinstance(result, Witness):
            found = bool(result.found[i])
            row["status"] = "misclassified" if wrong else "found" if found else "not found"
            row["attack_distance"] = float(result.distance[i]) if found else None
            row["adversarial_label"] = int(result.adversarial_label[i]) if found else None
            row["queries"] = result.queries
        else:
            radius = float(result.radius[i])
            proved = "certified" if radius > 0 else "not certified"
            row["status"] = "abstained" if result.abstained[i] else "misclassified" if wrong else proved
            row["certified_radius"] = radius
            row["alpha"] = result.alpha
        if isinstance(result, SmoothingCertificate):
            row["counts"] = result.counts[i].tolist()
            row["selection_counts"] = result.selection_counts[i].tolist()
            row["p_lower"] = float(result.p_lower[i])
        rows.append(row)
    return rows


def _promise(part: "pd.DataFrame") -> str:
    if (part.status == "unsupported").all():
        return "none: a layer is not supported"
    if part.certified_radius.isna().all():
        return "upper bound, re-checked"
    alpha = float(part.alpha.max())
    return f"lower bound with probability {1 - alpha:g} per input" if alpha > 0 else "lower bound, proved"


def _manifest(
    problem: Problem, methods: Sequence[Method], norms: Sequence[float], source: Mapping[str, Any] | None
) -> dict[str, Any]:
    device = problem.x.device
    weights = [(name, value) for name, value in problem.model.state_dict().items() if isinstance(value, Tensor)]
    return {
        "format": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in ("certify-bounds", "torch", "numpy", "scipy")},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "seed": problem.seed,
        "configuration": {
            "norms": [f"{float(norm):g}" for norm in norms],
            "methods": {method.name: msgspec.to_builtins(method) for method in methods},
            "low": _shown(problem.low),
            "high": _shown(problem.high),
            "batch_size": problem.batch_size,
            "inputs": len(problem.x),
        },
        "source": dict(source or {}),
        "weights_sha256": _digest(weights, str(problem.model)),
        "data_sha256": _digest([("x", problem.x), ("y", problem.y)]),
    }


def _shown(limit: Limit) -> float | str | None:
    """A side of the box for the manifest; per-feature sides by their hash."""
    return _digest([("limit", limit)]) if isinstance(limit, Tensor) else limit


def _digest(tensors: Sequence[tuple[str, Tensor]], text: str = "") -> str:
    """SHA-256 over names, types, shapes and values."""
    digest = hashlib.sha256(text.encode())
    for name, value in tensors:
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
