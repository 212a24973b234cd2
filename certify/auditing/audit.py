"""The audit of a run: what its records say, each by itself, and what model and data say of them."""

import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from bounds import WeightBox
from bounds.circumstances import isolated
from bounds.errors import InvalidConfiguration
from bounds.sets.orders import order_of
from certify.auditing.certificates.copies import CopyReprover, certified_rows, with_copies
from certify.auditing.certificates.proofs import PROOFS, Reprover, provable
from certify.auditing.certificates.rerunning import can_run_again, run_again
from certify.auditing.changes.judge import ChangeJudge
from certify.auditing.material import IDENTITY, find_material, identified, judge_answers
from certify.auditing.sets import Evidence, SetJudge
from certify.auditing.smoothed.noises import noise_of_table
from certify.auditing.smoothed.redrawing import AGAIN, computes_alike, redraw
from certify.auditing.smoothed.votes import audit_drawing, audit_votes
from certify.auditing.structure import CHAIN, INPUTS, audit_structure
from certify.auditing.tally import AuditReport, Finding, Tally
from certify.auditing.transformations.judge import TransformationJudge
from certify.auditing.witnesses import Alone, Box, audit_witnesses
from certify.changes.sets import ChangeSet
from certify.evaluation.storage.proofs import is_proof, stored_proof
from certify.evaluation.storage.run_directory import RunDirectory
from certify.evaluation.storage.stored import require_values
from certify.methods import Method, Problem, QuantisedCopy, Smoothing
from certify.methods.copies import Copy
from certify.methods.frozen import WithFrozenFeatures
from certify.methods.sets.kinds import all_sets
from certify.semantic.sets import TransformationSet
from certify.sets.stated import StatedSet
from certify.smoothing.drawing.bits import DRAWS_VERSION
from certify.stored_inputs import Rows, StoredInputs

FILES, ESTIMATES = "files of tensors", "estimates"
Record = dict[str, Any]
JUDGES: Mapping[type[StatedSet], type[SetJudge[Any]]] = {
    TransformationSet: TransformationJudge,
    ChangeSet: ChangeJudge,
}


@isolated
def audit(
    path: Path | str,
    model: nn.Module | Path | str | None = None,
    inputs: Rows | None = None,
    labels: Tensor | None = None,
    *,
    sample: float = 0.1,
    seed: int = 0,
    records_only: bool = False,
    copies: Mapping[str, Copy | WeightBox] = MappingProxyType({}),
    changes: Sequence[ChangeSet] = (),
) -> AuditReport:
    """Derive anew what a run states, by other code and in exact arithmetic, and count what holds.

    From the records alone: the hash chain; units, inputs and labels against the manifest; statuses; for smoothing,
    votes, labels, probabilities and radii; the distances of adversarial examples. With model and data: their hashes,
    the classes of the model, each adversarial example alone in two precisions, the votes of a sample of units drawn
    again, and certificates of the model proved again, or refuted, by the audit's own bounds: all of them where the
    network is small, else a sample.

    Args:
        path: run directory, finished or not.
        model: the model; a file of weights, ``.onnx`` or ``.pt2`` in place of the one that the manifest names; or None
            for that one.
        inputs: (N, *D), all inputs of the run, or :class:`certify.StoredInputs`; None for those that the manifest
            names, or that the run keeps.
        labels: (N,), their labels.
        sample: share of the units that are drawn again, and of the proofs in larger networks; from 0 to 1.
        seed: of the choice of the sample.
        records_only: leave model and data alone, even where the manifest names them.
        copies: quantised copies that the run was given from Python, by the names of their methods.
        changes: sets of changes that the run was given from Python, of whose words it knows no more than the digest.

    Returns:
        Numbers of statements that were confirmed, refuted and not judged, with reasons.

    Raises:
        InvalidConfiguration: there is no run, or a line of it cannot be read, or lacks what its kind of result needs.
        InvalidInput: a copy, or a set, that is not that of the run.
    """
    started = time.perf_counter()
    if not 0 <= sample <= 1:
        raise InvalidConfiguration(f"sample must be a share from 0 to 1, got {sample}: pass 0.1")
    run = RunDirectory.read(path)
    tally, lines = Tally(), run.lines()
    require_values(lines, run.path / "records.jsonl")
    faults = run.chain_faults(lines)
    for unit, reason in faults or ():
        tally.refute(CHAIN, reason, unit)
    if faults is None:
        tally.leave(CHAIN, "the run is not chained: an earlier version wrote it")
    elif not faults:
        tally.confirm(CHAIN, len(lines))
    audit_structure(tally, run.manifest, lines)
    chosen = _Audit(run, tally, sample, random.Random(seed), copies, changes)
    scope = chosen.judge(None if records_only else (model, inputs, labels))
    return AuditReport(
        path=str(path),
        chained=faults is not None,
        scope=tuple(scope),
        confirmed=dict(tally.confirmed),
        refuted=tuple(tally.refuted),
        unjudged=tuple(tally.unjudged),
        seconds=time.perf_counter() - started,
    )


def refutations(path: Path | str) -> list[Finding]:
    """Statements of a run that its own records refute, without model and data; empty if all hold.

    Raises:
        InvalidConfiguration: there is no run, or a line of it cannot be read.
    """
    return list(audit(path, records_only=True).refuted)


class _Audit:
    """One audit of one run, record by record."""

    def __init__(
        self,
        run: RunDirectory,
        tally: Tally,
        sample: float,
        lot: random.Random,
        copies: Mapping[str, Copy | WeightBox],
        changes: Sequence[ChangeSet],
    ) -> None:
        self.run, self.tally, self.sample, self.lot, self.copies = run, tally, sample, lot, copies
        self.manifest = run.manifest
        self.records = list(run.records().values())
        self.sets = {str(over): over for over in all_sets(self.manifest["configuration"], changes)}
        kinds = {name: next(kind for kind in JUDGES if isinstance(over, kind)) for name, over in self.sets.items()}
        self.judges = {name: JUDGES[kinds[name]](over) for name, over in self.sets.items()}
        self.tables: Mapping[str, Any] = self.manifest["configuration"].get("methods", {})

    def judge(self, given: tuple[Any, Rows | None, Tensor | None] | None) -> Iterator[str]:
        """Judge all records; sentences on what was at hand."""
        found = None
        if given is None:
            yield "model and data were left alone"
        else:
            material = find_material(self.manifest, *given, stored=self._kept())
            if isinstance(material, str):
                self.tally.leave(IDENTITY, material)
                yield f"without the model: {material}"
            elif (found := identified(self.tally, self.manifest, material, list(self.sets.values()))) is None:
                yield "model or data are not those of the run, so nothing was computed with them"
        problem = found[0] if found else None
        self._judge_smoothing(problem)
        self._judge_files(problem)
        if found:
            with _threads_of(self.manifest):
                yield from self._judge_with_model(*found)
        yield "estimates promise nothing, and are not derived anew"

    def _table(self, record: Record) -> Mapping[str, Any]:
        table = self.tables.get(record["method"], {})
        return table if isinstance(table, Mapping) else {}

    def _is_smoothing(self, record: Record) -> bool:
        kind = self._table(record).get("class", record["method"])
        return bool(kind == "smoothing" and record["kind"] == "certificate")

    def _tensors(self, record: Record) -> dict[str, Tensor] | None:
        try:
            return self.run.tensors(record["unit"], mapped=True)
        except InvalidConfiguration:
            return None

    def _kept(self) -> tuple[Rows, Tensor] | None:
        """All inputs and labels, where units of attacks keep them."""
        stated = self.manifest["configuration"]
        places = range(stated.get("first_index", 0), stated.get("first_index", 0) + stated.get("inputs", 0))
        kept: dict[int, tuple[Tensor, int]] = {}
        for record in self.records:
            if record["kind"] == "witness" and not all(row["index"] in kept for row in record["rows"]):
                clean = (self._tensors(record) or {}).get("clean")
                if clean is not None and len(clean) == len(record["rows"]):
                    kept |= {row["index"]: (x, row["label"]) for row, x in zip(record["rows"], clean, strict=True)}
        if not places or any(index not in kept for index in places):
            return None
        inputs = StoredInputs(lambda rows: torch.stack([kept[places[row]][0] for row in rows]), len(places))
        return inputs, torch.tensor([kept[index][1] for index in places])

    def _judge_smoothing(self, problem: Problem | None) -> None:
        for record in filter(self._is_smoothing, self.records):
            if "draws_version" in self.manifest:
                audit_drawing(self.tally, record)
            inputs: dict[int, Sequence[float]] = {}
            if problem is not None and "box" in str(noise_of_table(self._table(record))):
                places = [row["index"] - problem.first_index for row in record["rows"]]
                known = [place for place in places if 0 <= place < len(problem.x)]
                rows = problem.x[torch.tensor(known)].double().cpu().flatten(1).tolist()
                inputs = {problem.first_index + place: row for place, row in zip(known, rows, strict=True)}
            audit_votes(self.tally, record, self._table(record), inputs)

    def _judge_files(self, problem: Problem | None) -> None:
        """Adversarial examples, and the clean inputs that are stored with them."""
        stated = self.manifest["configuration"]
        low, high = stated.get("low"), stated.get("high")
        box = Box(low, high, not (isinstance(low, str) or isinstance(high, str)))
        if problem is not None:
            box = Box(problem.low, problem.high, True)
        alone = None if problem is None else Alone(problem.model)
        for record in self.records:
            if record["kind"] == "estimate":
                self.tally.leave(ESTIMATES, "estimates are not derived anew", record["unit"])
            judge = self.judges.get(record["norm"])
            if not self._is_stated(record):
                self.tally.refute(FILES, "the manifest does not state its set", record["unit"])
                continue
            if judge is not None and record["kind"] == "certificate":
                judge.judge_ranges(self.tally, record)
            points = record["kind"] == "witness" or any("verdict" in row for row in record["rows"])
            if not points and record["kind"] != "random" and not any("proof" in row for row in record["rows"]):
                continue
            tensors = self._judge_tensors(record)
            if tensors is not None and judge is not None and record["kind"] == "random":
                judge.judge_draws(self.tally, record, tensors, self._table(record).get("alpha", 0.05))
            if tensors is None or not points:
                continue
            if problem is not None and "clean" in tensors:
                self._judge_clean(record, tensors["clean"], problem)
            audit_witnesses(self.tally, record, tensors, box, alone, judge)

    def _is_stated(self, record: Record) -> bool:
        """Whether it is about a norm, or about a set of perturbations that the manifest states."""
        return record["norm"] in self.sets or not isinstance(order_of(record["norm"]), str)

    def _judge_tensors(self, record: Record) -> dict[str, Tensor] | None:
        """The tensors of a record; None where they are not those that it states."""
        tensors = self._tensors(record)
        if tensors is None:
            self.tally.refute(FILES, "its tensors are missing, or not those that were stored", record["unit"])
            return None
        if record["kind"] == "witness" and not tensors:
            self.tally.refute(FILES, "it names no tensors", record["unit"])
            return None
        if any(len(tensor) != len(record["rows"]) for name, tensor in tensors.items() if not is_proof(name)):
            self.tally.refute(FILES, "its tensors have another number of rows", record["unit"])
            return None
        self.tally.confirm(FILES)
        for row in record["rows"]:
            if "proof" in row:
                proof = stored_proof(row, tensors)
                self.tally.judge(FILES, isinstance(proof, bytes), str(proof[:80]), record["unit"], row["index"])
        return tensors

    def _judge_clean(self, record: Record, clean: Tensor, problem: Problem) -> None:
        for row, x in zip(record["rows"], clean, strict=True):
            place = row["index"] - problem.first_index
            same = 0 <= place < len(problem.x) and torch.equal(problem.x[place].cpu(), x)
            self.tally.judge(INPUTS, same, "its clean input is not that of the data", record["unit"], row["index"])

    def _judge_with_model(self, problem: Problem, methods: Sequence[Method]) -> Iterator[str]:
        judge_answers(self.tally, problem, [(record["unit"], row) for record in self.records for row in record["rows"]])
        by_name = {method.name: method for method in with_copies(methods, self.copies)}
        alike = computes_alike(self.manifest)
        places = range(problem.first_index, problem.first_index + len(problem.x))
        whole = [record for record in self.records if _is_about(record, places, problem.num_classes)]
        smoothing = [
            record for record in whole if self._is_smoothing(record) and type(by_name[record["method"]]) is Smoothing
        ]
        drawn = self._some(smoothing)
        made_by = self.manifest.get("draws_version", 1)
        if smoothing and made_by != DRAWS_VERSION:
            for record in smoothing:
                reason = f"its noise is of version {made_by}, and this release draws version {DRAWS_VERSION} alone"
                self.tally.leave(AGAIN, reason, record["unit"])
            smoothing = []
        for place, record in enumerate(smoothing):
            try:
                redraw(self.tally, record, by_name[record["method"]], problem, place in drawn, alike)  # type: ignore[arg-type]
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                self.tally.leave(AGAIN, f"it cannot be drawn again: {' '.join(str(error).split())}", record["unit"])
        if smoothing:
            yield f"{len(drawn)} of {len(smoothing)} units of smoothing were drawn again, of all others the selection"
        known = [record for record in whole if record["method"] in by_name and self._is_stated(record)]
        yield from self._judge_proofs(problem, by_name, known)
        yield from self._judge_copies(problem, by_name, known)
        yield from self._run_again(problem, by_name, known, alike)

    def _some(self, items: Sequence[Any]) -> set[int]:
        """Places of a sample of the items; at least one, unless none is asked for."""
        return set(self.lot.sample(range(len(items)), math.ceil(self.sample * len(items))))

    def _judge_proofs(
        self, problem: Problem, methods: Mapping[str, Method], records: Sequence[Record]
    ) -> Iterator[str]:
        reprover = Reprover(problem.model, problem.x, problem.first_index, (problem.low, problem.high))
        self._judge_sets(problem, records, reprover)
        rows = [(record, row) for record in records for row in provable(record) if record["norm"] not in self.sets]
        chosen = set(range(len(rows))) if reprover.small and self.sample > 0 else self._some(rows)
        for place in sorted(chosen):
            record, row = rows[place]
            frozen = _frozen(methods[record["method"]], problem)
            tensors = (self._tensors(record) or {}) if "proof" in row else {}
            reprover.judge(self.tally, record, self._table(record), row, frozen, tensors)
        if len(chosen) < len(rows):
            self.tally.leave(PROOFS, f"{len(rows) - len(chosen)} certificates are not in the sample")
        if rows:
            yield f"{len(chosen)} of {len(rows)} certificates of the model were to be proved again"

    def _judge_sets(self, problem: Problem, records: Sequence[Record], reprover: Reprover) -> None:
        """Judge the certificates of sets of perturbations: all by what is cheap, and a sample by proofs."""
        rows = [(record, row) for record in records for row in provable(record) if record["norm"] in self.sets]
        if not rows:
            return
        asked = Evidence(problem, Alone(problem.model).leads, reprover, self.lot.getrandbits(31))
        chosen = set(range(len(rows))) if reprover.small and self.sample > 0 else self._some(rows)
        for place, (record, row) in enumerate(rows):
            judge = self.judges[record["norm"]]
            judge.judge_certificate(self.tally, record, row, asked, sampled=place in chosen)

    def _judge_copies(
        self, problem: Problem, methods: Mapping[str, Method], records: Sequence[Record]
    ) -> Iterator[str]:
        reprover, rows = CopyReprover(problem), []
        for record in records:
            rows += [(record, row) for row in certified_rows(record, methods[record["method"]])]
        chosen = self._some(rows)
        for place in sorted(chosen):
            (record, row), method = rows[place], methods[rows[place][0]["method"]]
            assert isinstance(method, QuantisedCopy)
            reprover.judge(self.tally, record, self._table(record), row, method, _frozen(method, problem))
        if rows:
            yield f"{len(chosen)} of {len(rows)} certificates with a quantised copy were to be proved for each network"

    def _run_again(
        self, problem: Problem, methods: Mapping[str, Method], records: Sequence[Record], alike: bool
    ) -> Iterator[str]:
        units = [
            record
            for record in records
            if (provable(record) or record["kind"] == "random" or certified_rows(record, methods[record["method"]]))
            and can_run_again(methods[record["method"]])
        ]
        again = self._some(units)
        for place in sorted(again):
            order = self.sets.get(units[place]["norm"]) or order_of(units[place]["norm"])
            run_again(self.tally, units[place], methods[units[place]["method"]], problem, alike, order)
        if units:
            yield f"{len(again)} of {len(units)} units of certificates and random draws were run again"


def _is_about(record: Record, places: range, num_classes: int) -> bool:
    """Whether a record is about successive inputs of the run and classes of the model; others are refuted elsewhere."""
    rows = record["rows"]
    first = rows[0]["index"] if rows else 0
    named = [row.get("prediction") for row in rows]
    known = all(name is None or -1 <= name < num_classes for name in named)
    return known and all(row["index"] in places and row["index"] == first + i for i, row in enumerate(rows))


def _frozen(method: Method, problem: Problem) -> Tensor | None:
    """The features of a flat input that a method leaves as they are; None if there are none."""
    mask = method.mask(problem) if isinstance(method, WithFrozenFeatures) else None
    return None if mask is None else mask.expand(problem.x.shape[1:]).flatten().cpu()


@contextmanager
def _threads_of(manifest: Mapping[str, Any]) -> Iterator[None]:
    """The number of threads of the run, as it changes the last bits of sums."""
    before, wanted = torch.get_num_threads(), manifest.get("threads")
    torch.set_num_threads(wanted if isinstance(wanted, int) and wanted > 0 else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
