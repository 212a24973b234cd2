"""Whether a property holds of a network: an unsafe input that was replayed, a proof, or neither."""

import math
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property, partial

import torch
from torch import Generator, Tensor, nn

from bounds import BoundsError, Graph, InvalidModel, Property, UnsupportedLayer, capture, checks, read_vnnlib
from bounds.circumstances import isolated
from bounds.memory import MEMORY, WAITING, out_of_memory
from bounds.models import frozen
from bounds.vnnlib.records import UnsafeCase
from certify.verification.deadlines import share
from certify.verification.decision import SOUND, Decision
from certify.verification.deployed import Deployed, Source
from certify.verification.falsifier import NEARLY, Falsifier, Witness
from certify.verification.proving.recording import Recorded
from certify.verification.representable import Representable
from certify.verification.searches import Limits, searched
from certify.verification.unsafe_sets import UnsafeSets

ATTACK_SHARE = 0.1  # of the time
REFINED_SHARE = 0.1  # of the time of the search, for descents from what it sees
HARDNESS = ("", "bounds", "input splits", "neuron splits", "mixed-integer programme")
REPLAYED = 16  # inputs of one call of the search that are replayed, the best first


@isolated
def decide(
    model: Source,
    property: Property | str | os.PathLike[str],
    *,
    timeout: float | None = None,
    sound: str = "rounding",
    attack: bool = True,
    generator: Generator | None = None,
    memory: int = MEMORY,
    waiting: int = WAITING,
    proof: str | os.PathLike[str] | None = None,
) -> Decision:
    """Whether some input is unsafe by a property: ``"sat"`` with the input, ``"unsat"`` proved, or neither.

    An attack looks for an unsafe input first; what it leaves open is searched by branch and bound, one box after
    another, those first that the attack came nearest to.

    **"sat" is said of what runs.** The input consists of numbers of the network's dtype, lies in the box without any
    tolerance, and the network gave the unsafe answer to it: onnxruntime for the path of an ONNX file where it is
    installed, the module in PyTorch otherwise. **"unsat" is proved** of all real inputs of the boxes as they are
    written, for the arithmetic that ``sound`` names. The two differ by rounding at most: an input that is unsafe in
    float32 alone is ``"sat"`` by the first and may be provably safe by the second.

    Args:
        model: a module that takes inputs of the shape that the property writes, put in evaluation mode meanwhile; a
            graph from :func:`bounds.capture` or :func:`bounds.from_onnx`; or the path of an ONNX file, which may be
            compressed by gzip.
        property: the property, or a path or text that :func:`bounds.read_vnnlib` reads.
        timeout: seconds after which the answer is ``"timeout"``; None for no limit.
        sound: ``"rounding"``, ``"real"`` or ``"deployed"``, see :func:`bounds.crown`.
        attack: whether to look for unsafe inputs before the search, which also finds some by itself.
        generator: source of the attack's random points.
        memory: bytes that the search may take for coefficients.
        waiting: bytes that sub-problems may take that wait; where they are more, the answer is ``"unknown"``.
        proof: file for a proof of the verdict that :func:`certify.check_proof` accepts, within the same time; the
            network and the property must be paths then. A verdict stands without a proof too, which
            ``Decision.without_proof`` explains.

    Returns:
        The decision. What cannot be searched, since the bounds know no rule for an operation, is ``"unknown"`` with the
        reason.

    Raises:
        InvalidInput: a bad argument, a property of other inputs or outputs than the network has.
        InvalidModel: no network, a damaged file.
        InvalidProperty: see :func:`bounds.read_vnnlib`.

    Example:
        >>> import torch, bounds, certify
        >>> prop = bounds.Property.of_robustness(torch.tensor([[0.6, 0.4]]), 0, epsilon=0.05, num_classes=2)
        >>> certify.decide(torch.nn.Identity(), prop).verdict
        'unsat'
    """
    start = time.monotonic()
    checks.one_of("sound", sound, SOUND)
    deadline = math.inf if timeout is None else start + checks.positive("timeout", timeout)
    checks.generator(generator)
    limits = Limits(checks.at_least("memory", memory, 1), checks.at_least("waiting", waiting, 1))
    record = None if proof is None else Recorded(proof, model, property, sound, deadline)
    prop = property if isinstance(property, Property) else read_vnnlib(property)
    made = partial(_decision, start, sound, record)
    if not prop.boxes:
        return made("unsat", decided_by="property")
    try:
        network = Deployed(model, prop)
    except UnsupportedLayer as error:
        return made("unknown", reason=_line(error))
    task = _Task(network, prop, deadline, sound, limits, generator, record)
    with frozen(network.module):
        if (reason := task.disagreement()) != "":
            return made("unknown", reason=reason)
        order: Iterable[int] = range(len(prop.boxes))
        if attack and network.refusal == "":
            end = deadline if timeout is None else min(deadline, time.monotonic() + ATTACK_SHARE * timeout)
            try:
                witness, order = replace(task.falsifier, deadline=end).search()
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                witness = None  # the search may need less
            if witness is not None:
                return made("sat", witness, decided_by="attack")
        verdict, decided_by, reason = task.searched(order)
        return made(verdict, task.witness, decided_by=decided_by, domains=task.domains, reason=reason)


class _Task:
    """One network and one property: what is asked of the search, and what it answered so far.

    Attributes:
        points: inputs that the network can be given.
        falsifier: the search for an unsafe input.
        witness: an unsafe input with the answer to it, or None.
        domains: sub-problems that were bounded.
    """

    def __init__(
        self,
        network: Deployed,
        prop: Property,
        deadline: float,
        sound: str,
        limits: Limits,
        generator: Generator | None,
        record: Recorded | None = None,
    ) -> None:
        self._network, self._prop, self._record = network, prop, record
        self._deadline, self._sound, self._limits = deadline, sound, limits
        self._mixed = any(bool((case.on_inputs != 0).any()) for box in prop.boxes for case in box.cases)
        self.points = Representable(prop, network.dtype, network.device)
        self.falsifier = Falsifier(network, prop, self.points, self.confirm, deadline, generator)
        self.witness: Witness | None = None
        self.domains = 0
        self._sets = 0, UnsafeSets.of(prop.boxes[0].cases, network.device)  # of the box that is searched
        self._began, self._refining = time.monotonic(), 0.0

    def disagreement(self) -> str:
        """Why answers in PyTorch do not stand for the network as it runs; empty where they do."""
        middle = self.points.lower[0] + (self.points.upper[0] / 2 - self.points.lower[0] / 2)
        return self._network.differs(middle.view(self._network.shape))

    def confirm(self, x: Tensor) -> Witness | None:
        """The first of inputs (N, F) that is unsafe with what the network as it runs answers to it."""
        if self._network.refusal != "":
            return None
        for row in x.detach().view(-1, *self._network.shape).unbind():
            try:
                with torch.no_grad():
                    y = self._network.replay(row)
            except InvalidModel as error:
                self._network.refusal = _line(error)
                return None
            if bool(self._prop.is_unsafe(row, y)):
                return row.clone(), y
        return None

    def searched(self, order: Iterable[int]) -> tuple[str, str, str]:
        """The verdict on all boxes, what decided it, and why nothing did.

        Every box gets an equal share of the time that is left, so that one that is hard does not hide an unsafe input
        of another. Boxes whose share was too small are searched again while there is time.
        """
        try:
            _ = self._graph
        except Exception as error:  # whatever fails, nothing is proved
            return "unknown", "", _line(error)
        hardest, reasons, waiting = 0, list[str](), list(order)
        while waiting and time.monotonic() < self._deadline:
            late: list[int] = []
            for place, box in enumerate(waiting):
                status, decided_by, reason = self._tried(box, len(waiting) - place)
                if self.witness is not None:
                    return "sat", decided_by, ""
                if status == "proved":
                    hardest = max(hardest, HARDNESS.index(decided_by) if decided_by in HARDNESS else 1)
                elif status == "timeout":
                    late.append(box)
                else:
                    reasons.append(reason)
            waiting = late
        if waiting:
            return "timeout", "", "the time was over before every box was decided"
        if reasons:
            return "unknown", "", next(filter(None, reasons), "the search ended without an answer")
        return "unsat", HARDNESS[hardest], ""

    def _tried(self, box: int, waiting: int) -> tuple[str, str, str]:
        """Status, means and reason of the search of one of the boxes that wait; that of an error if there is one."""
        if time.monotonic() >= self._deadline:
            return "timeout", "", ""
        try:
            return self._box(box, share(self._deadline, waiting))
        except Exception as error:
            return "unknown", "", _line(error)

    def _box(self, place: int, deadline: float) -> tuple[str, str, str]:
        """Status, means and reason of the search of one box."""
        box = self._prop.boxes[place]
        if any(case.rounded for case in box.cases):
            return "unknown", "", "the property has coefficients that no float64 number is equal to"
        record = None if self._record is None else self._record.of_box(box)
        found = searched(
            self._graph,
            box.box(self._network.shape),
            [self._specification(case) for case in box.cases],
            deadline=deadline,
            sound=self._sound,
            check=partial(self._check, place),
            limits=self._limits,
            record=record,
        )
        if record is not None and found.status == "proved":
            record.finish(found.decided_by)
        self.domains += found.domains
        if found.status == "proved" or self.witness is not None:
            return found.status, found.decided_by, ""
        reason = found.reason
        if bool(self.points.empty[place]):
            entry = int((self.points.lower[place] > self.points.upper[place]).nonzero()[0])
            reason = f"no {self.points.kind(entry)} lies within the bounds of input {entry}: nothing can be replayed"
        elif found.status == "counterexample":
            reason = self._network.refusal or "an input that the search found is not confirmed when it is run"
        return ("timeout" if found.status == "timeout" else "unknown"), "", reason

    def _check(self, place: int, candidates: Tensor) -> Tensor | None:
        """One of the candidates (N, *D) for a box, moved to an input that the network can be given and is unsafe."""
        if self.witness is not None:
            return self.witness[0]
        if bool(self.points.empty[place]) or len(candidates) == 0:
            return None
        x = self.points.inside(candidates.detach().flatten(1), place)
        if self._sets[0] != place:
            self._sets = place, UnsafeSets.of(self._prop.boxes[place].cases, self._network.device)
        with torch.no_grad():
            parts = [self._sets[1].every(part, self._network.outputs(part)) for part in x.split(self.falsifier.rows)]
        missed = torch.cat([part.amin(0) for part in parts])
        order = missed.argsort()
        self.witness = self.confirm(x[order[missed[order] <= NEARLY][:REPLAYED]])
        now = time.monotonic()
        if self.witness is None and self._refining <= REFINED_SHARE * (now - self._began):
            self.witness = self.falsifier.refine(place, x[order[:1]])
            self._refining += time.monotonic() - now
        return None if self.witness is None else self.witness[0]

    @cached_property
    def _graph(self) -> Graph:
        """The network; with its inputs before its outputs, if the property relates them."""
        if not self._mixed:
            return self._network.graph()
        example = torch.zeros(self._network.shape, dtype=self._network.dtype, device=self._network.device)
        return capture(_WithInputs(self._network), example)

    def _specification(self, case: UnsafeCase) -> tuple[Tensor, Tensor]:
        """The rows of a case for the graph."""
        if not self._mixed:
            return case.specification()
        if len(case.offsets) == 0:
            zero = case.offsets.new_zeros(1, self._prop.num_inputs + self._prop.num_outputs)
            return zero, zero[:, 0]
        return torch.cat([case.on_inputs, case.on_outputs], 1), case.offsets_above


class _WithInputs(nn.Module):
    """A network whose outputs follow its inputs, (N, F + K)."""

    def __init__(self, network: Deployed) -> None:
        super().__init__()
        self.network = network.module

    def forward(self, x: Tensor) -> Tensor:
        """Inputs and outputs."""
        return torch.cat([x.flatten(1), self.network(x).flatten(1)], 1)


def _decision(
    start: float,
    sound: str,
    record: Recorded | None,
    verdict: str,
    witness: Witness | None = None,
    *,
    decided_by: str = "",
    domains: int = 0,
    reason: str = "",
) -> Decision:
    x, y = (None, None) if witness is None else witness
    path, without = ("", "") if record is None else record.written(verdict, witness)
    return Decision(
        verdict=verdict,
        input=x,
        output=y,
        decided_by=decided_by,
        domains=domains,
        seconds=time.monotonic() - start,
        sound=sound,
        reason=reason,
        proof=path,
        without_proof=without,
    )


def _line(error: Exception) -> str:
    """The message in one line; errors that are not raised on purpose also say what they are."""
    message = " ".join(str(error).split())
    return message if isinstance(error, BoundsError) else f"{type(error).__name__}: {message}"
