"""Who is compared with whom: curves of models, sorted by what they speak of."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bounds.errors import InvalidInput
from certify.curves import AccuracyCurve, AttackedAccuracyCurve, CertifiedAccuracyCurve
from certify.evaluation.evaluation import Evaluation
from certify.report import norm_name
from certify.report.columns import LEFT_OUT
from certify.report.words import listed

Row = Mapping[str, Any]
PROMISES = ("proved", "with probability", "no attack found")  # in the order of tables and dashes


@dataclass(frozen=True, order=True)
class Panel:
    """Subject of one comparison: statements of different panels do not bound each other.

    Attributes:
        norm: order of the norm.
        kind: ``"base"`` for the models themselves, ``"smoothed"``, or the name of another classifier.
        frozen: name of the features that keep their values; empty where all may change.
    """

    norm: float
    kind: str
    frozen: str = ""

    @property
    def classifiers(self) -> str:
        """The compared classifiers in words."""
        words = {"base": "the models themselves", "smoothed": "smoothed classifiers"}.get(self.kind, self.kind)
        return words + (f", features {self.frozen} kept" if self.frozen else "")

    def __str__(self) -> str:
        return f"{norm_name(self.norm)}, {self.classifiers}"


@dataclass(frozen=True, eq=False, kw_only=True)
class Contender:
    """One model, or one setting of it, with what one kind of promise says of it.

    Attributes:
        panel: subject of the comparison.
        promise: one of :data:`PROMISES`.
        model: its name.
        setting: the smoothing and the method where these tell it from others; else empty.
        methods: whose best result of each input counts.
        curve: certified or attacked accuracy; ``limit`` has one entry per input, in their order.
        right: (N,) bool, whether the classifier names the label for the clean input.
    """

    panel: Panel
    promise: str
    model: str
    setting: str
    methods: tuple[str, ...]
    curve: AccuracyCurve
    right: Tensor

    @property
    def name(self) -> str:
        """The model with its setting."""
        return f"{self.model}, {self.setting}" if self.setting else self.model

    @property
    def bounds_below(self) -> bool:
        """Whether the curve is a lower bound."""
        return isinstance(self.curve, CertifiedAccuracyCurve)

    def counted(self, radius: float) -> Tensor:
        """(N,) bool, the inputs that count at a radius."""
        limit = self.curve.limit
        return limit >= radius if self.bounds_below else limit > radius


def contenders_of(evaluations: Mapping[str, Evaluation], by: str) -> list[Contender]:
    """All contenders of all evaluations, by panel, promise and the order of the models."""
    found = [one for name, evaluation in evaluations.items() for one in _contenders(name, evaluation, by)]
    return sorted(found, key=lambda one: (one.panel, PROMISES.index(one.promise)))


def _contenders(name: str, evaluation: Evaluation, by: str) -> Iterator[Contender]:
    grouped: dict[tuple[Any, ...], list[Row]] = {}
    rows = evaluation.rows()
    indices = sorted({row["index"] for row in rows})
    for row in rows:
        if row["kind"] in ("certificate", "witness"):
            smoothed = row["subject"].startswith("smoothed(")
            panel = Panel(row["norm"], "smoothed" if smoothed else row["subject"], row.get("frozen") or "")
            method = row["method"] if by == "method" else ""
            grouped.setdefault((panel, _promise(row), row["subject"], method), []).append(row)
    for (panel, promise, subject, method), part in grouped.items():
        smoothing = subject.removeprefix("smoothed(").removesuffix(")") if panel.kind == "smoothed" else ""
        curve, right = _best_of(part, panel.norm, indices)
        yield Contender(
            panel=panel,
            promise=promise,
            model=name,
            setting=", ".join(filter(None, [smoothing, method])),
            methods=tuple(sorted({row["method"] for row in part})),
            curve=curve,
            right=right,
        )


def _promise(row: Row) -> str:
    if row["kind"] == "witness":
        return PROMISES[2]
    return PROMISES[1 if row["promise"].alpha > 0 else 0]


def _best_of(rows: Sequence[Row], norm: float, indices: Sequence[int]) -> tuple[AccuracyCurve, Tensor]:
    """Largest certified radius, or nearest adversarial example, of several methods for each input.

    An input that no method treated counts as if nothing was proved, or nothing found. Also (N,) bool, whether the
    clean input is right.
    """
    attacked = rows[0]["kind"] == "witness"
    limits = dict.fromkeys(indices, math.inf if attacked else -math.inf)
    right, alphas = dict.fromkeys(indices, False), dict[str, float]()
    for row in rows:
        index = row["index"]
        right[index] |= row["correct"]
        alphas[row["method"]] = max(row["promise"].alpha, alphas.get(row["method"], 0.0))
        if row["status"] == LEFT_OUT:
            continue
        if attacked:
            limits[index] = min(row["attack_distance"], limits[index])
        else:
            limits[index] = max(row["certified_radius"] if row["correct"] else -math.inf, limits[index])
    kind = AttackedAccuracyCurve if attacked else CertifiedAccuracyCurve
    curve = kind(
        limit=torch.tensor(list(limits.values()), dtype=torch.float64, device="cpu"),
        norm=norm,
        subject=str(rows[0]["subject"]),
        method=", ".join(sorted(alphas)),
        alpha=min(math.fsum(alphas.values()), 1.0),  # the best of several statements is wrong where one of them is
    )
    return curve, torch.tensor(list(right.values()), device="cpu")


def require_comparable(evaluations: Mapping[str, Evaluation]) -> None:
    """Refuse evaluations that do not speak of the same inputs, labels and perturbations.

    Raises:
        InvalidInput: fewer than two, an unfinished one, or two that differ; one line says in what.
    """
    if len(evaluations) < 2:
        raise InvalidInput(f"compare needs at least two evaluations, got {len(evaluations)}")
    (first, reference), *others = evaluations.items()
    for name, evaluation in evaluations.items():
        if not isinstance(evaluation, Evaluation):
            raise InvalidInput(f"{name!r} must be an Evaluation or a run directory, got {type(evaluation).__name__}")
        if units := evaluation.unfinished():
            raise InvalidInput(
                f"{name!r} is unfinished ({units[0]} of {units[1]} units): continue it with certify resume"
            )
        if not evaluation.manifest.get("data_sha256"):
            raise InvalidInput(f"{name!r} does not state data_sha256, the hash of its inputs: make it with evaluate()")
    for name, evaluation in others:
        if difference := _difference(reference, evaluation):
            raise InvalidInput(f"{name!r} cannot be compared with {first!r}: {difference}")


def _difference(first: Evaluation, second: Evaluation) -> str:
    """Whatever keeps two evaluations from being compared; empty if nothing does."""
    hashes = [str(one.manifest["data_sha256"])[:8] for one in (first, second)]
    if first.manifest["data_sha256"] != second.manifest["data_sha256"]:
        inputs = [len(_places(one)) for one in (first, second)]
        about = (
            f"{inputs[1]} against {inputs[0]}" if inputs[0] != inputs[1] else f"SHA-256 {hashes[1]}, not {hashes[0]}"
        )
        return f"other inputs or labels ({about}); evaluate both on the same data"
    if _places(first) != _places(second):
        return "their inputs stand at other places of the data set; evaluate both with the same first_index"
    for side in ("low", "high"):
        here, there = (one.manifest["configuration"].get(side) for one in (first, second))
        if here != there:
            return f"another box of valid inputs ({side} = {there}, not {here}); evaluate both in the same"
    return ""


def _places(evaluation: Evaluation) -> dict[int, int]:
    """Label by place in the data set."""
    return {row["index"]: row["label"] for row in evaluation.rows()}


def require_rivals(contenders: Sequence[Contender], evaluations: Mapping[str, Evaluation]) -> None:
    """Refuse evaluations of which no two have results of one kind about the same.

    Raises:
        InvalidInput: with what there is.
    """
    kinds = [(one.panel, one.promise) for one in contenders]
    if any(kinds.count(kind) > 1 for kind in kinds):
        return
    said = []
    for name, evaluation in evaluations.items():
        own = contenders_of({name: evaluation}, "model")
        has = listed([f"{one.promise} ({one.panel})" for one in own])
        said.append(f"{name!r} has {has or 'no certificate and no witness'}")
    raise InvalidInput(f"nothing to compare: {'; '.join(said)}; evaluate them by the same methods in the same norms")
