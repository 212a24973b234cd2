"""Records of a decision, from which a proof is written that a checker accepts which shares no code with the search."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from bounds import InvalidInput
from bounds.search.branch_and_bound import FEW_INPUTS
from bounds.search.domains import Domains
from bounds.search.problem import Problem
from bounds.search.split_bounds import SplitBounds
from bounds.vnnlib.records import UnsafeBox, UnsafeCase
from certify.proofs.checking import require_sizes
from certify.proofs.cutting import cut_tree
from certify.proofs.errors import ProofError
from certify.proofs.files import Proof, Tree, content_of, header_of, write
from certify.proofs.leaves import Goal
from certify.proofs.networks.functions import Function, Relu
from certify.proofs.networks.maps import Array
from certify.proofs.networks.reading import float_type, loaded, read_network
from certify.proofs.properties import UnsafeSet, read_property
from certify.proofs.splitting import FoundLeaves, SplitTree
from certify.verification.proving.proof_trees import Trees

MOST_REFUSED, HOPELESS = 256, 0.9  # leaves, and share of all, after which the search goes on without a record
ORIGIN = re.compile(r"node '(.*)'$")


class ProofRecord(Trees):
    """The trees by which a decision about files is proved, and the file that they become.

    Args:
        network: path of the ONNX file.
        text: path of the property.
        sound: arithmetic that the decision is about.

    Raises:
        ProofError: there can be no proof, with the reason.
    """

    def __init__(self, network: str | os.PathLike[str], text: str | os.PathLike[str], sound: str) -> None:
        require_real(sound)
        self._content, self._text = content_of(network), content_of(text)
        self._float_type = float_type(loaded(self._content))
        super().__init__(read_network(self._content), read_property(self._text))
        require_sizes(self.network, self.property)

    def of_box(self, box: UnsafeBox) -> "BoxRecord":
        """The record of the search of one box."""
        low, high = box.outer_lower.numpy() + 0.0, box.outer_upper.numpy() + 0.0
        sets = self.property.sets
        same = [
            place
            for group in self._groups
            if np.array_equal(sets[group[0]].low, low) and np.array_equal(sets[group[0]].high, high)
            for place in group
        ]
        places = [next((place for place in same if _is_same(sets[place], case)), -1) for case in box.cases]
        return BoxRecord(self, places)

    def write_proved(self, path: str | os.PathLike[str], deadline: float) -> str:
        """Write the proof that nothing is unsafe; why there is none, or nothing."""
        try:
            return self._written(path, "unsat", self.whole(deadline), None)
        except ProofError as error:
            return str(error)

    def write_found(self, path: str | os.PathLike[str], x: Tensor, y: Tensor) -> str:
        """Write the proof that an input is unsafe; why there is none, or nothing."""
        witness = x.detach().cpu().flatten().numpy(), y.detach().cpu().flatten().numpy()
        return self._written(path, "sat", (), witness)

    def _written(
        self,
        path: str | os.PathLike[str],
        verdict: str,
        trees: tuple[tuple[tuple[int, ...], Tree], ...],
        witness: tuple[Array, Array] | None,
    ) -> str:
        header = header_of(verdict, self._content, self._text, self._float_type)
        try:
            write(path, Proof(header, trees, witness))
        except ProofError as error:
            return str(error)
        return ""


def require_real(sound: str) -> None:
    """Refuse the arithmetic of the network as it runs.

    Raises:
        ProofError: that one.
    """
    if sound == "deployed":
        raise ProofError("proofs are about real arithmetic: use the sound mode 'rounding'")


@dataclass(eq=False)
class BoxRecord:
    """The record of one box, as :class:`bounds.search.recording.Record` says.

    Attributes:
        proof: that it is a part of.
        places: for each case of the box, the place of its unsafe set; -1 where there is none.
    """

    proof: Trees
    places: Sequence[int]
    _trees: dict[int, SplitTree] = field(default_factory=dict)
    _goals: list[Goal] = field(default_factory=list)
    _columns: "list[int] | None" = None
    _offered: int = 0
    _refused: int = 0

    def takes_sets(self, problem: Problem, places: Tensor) -> Tensor:
        """Take sets that one leaf proves; all where the box will be cut or nothing is recorded any more."""
        every = torch.ones_like(places, dtype=torch.bool)
        if self.proof.reason or problem.box.lower.numel() <= FEW_INPUTS:
            return every
        try:
            for row, case in enumerate(places.tolist()):
                every[row] = self._is_leaf(problem, case)
        except Exception as error:  # whatever fails, the verdict stands
            self.gives_up(f"it failed, {type(error).__name__}: {error}")
        return every

    def takes_leaves(self, bounds: SplitBounds, leaves: Domains) -> Tensor:
        """Take leaves that the checker accepts; all where nothing is recorded any more."""
        taken = torch.ones(len(leaves), dtype=torch.bool, device=leaves.case.device)
        try:
            if self._columns is None:
                self._columns = self._matched(bounds)
            if not self.proof.reason:
                self._offer(bounds, leaves, taken)
        except Exception as error:  # whatever fails, the verdict stands
            self.gives_up(f"it failed, {type(error).__name__}: {error}")
            taken[:] = True
        return taken

    def _is_leaf(self, problem: Problem, case: int) -> bool:
        """Whether the checker proves a case without any split; the tree is kept."""
        if (goal := self._goal(problem, case)) is None:
            return True
        with np.errstate(all="ignore"):
            tree = cut_tree(goal, lambda: problem.is_late, cuts=False)
        self.proof.keep(self._place(problem, case), tree)
        return tree is not None

    def _offer(self, bounds: SplitBounds, leaves: Domains, taken: Tensor) -> None:
        """Offer leaves to the checker, and say in ``taken`` which of them it accepts."""
        lower, upper = _slopes(bounds, leaves)
        for case in leaves.case.unique().tolist():
            if (goal := self._goal(bounds.problem, case)) is None:
                continue
            rows = leaves.case == case
            place, own = self._place(bounds.problem, case), rows.cpu().numpy()
            tree = self._trees.setdefault(place, SplitTree(goal))
            found = self._found(bounds.problem, goal, leaves[rows], (lower[own], upper[own]))
            with np.errstate(all="ignore"):
                taken[rows] = torch.from_numpy(tree.accept(found)).to(taken.device)
        self._offered += len(leaves)
        self._refused += int((~taken).sum())
        if self._refused > max(MOST_REFUSED, HOPELESS * self._offered):
            self.gives_up("the checker's bounds are too weak for the leaves of the search")

    def gives_up(self, reason: str) -> None:
        """Record no more."""
        self.proof.reason = self.proof.reason or reason

    def finish(self, decided_by: str) -> None:
        """Keep the trees, whose leaves are all there; a box that the search cut will be cut again."""
        self.proof.cuts |= decided_by == "input splits"
        for place, tree in self._trees.items():
            self.proof.keep(place, tree)

    def _place(self, problem: Problem, case: int) -> int:
        return self.places[case if problem.places is None else int(problem.places[case])]

    def _goal(self, problem: Problem, case: int) -> Goal | None:
        """The goal of a case; all of one box share the intervals of the box."""
        if (place := self._place(problem, case)) < 0:
            return None
        try:
            goal = self.proof.goal([place])
        except ProofError:
            return None
        self._goals.append(goal)
        goal.share(self._goals[0])
        return goal

    def _matched(self, bounds: SplitBounds) -> list[int]:
        """For each neuron of the search its place among those of the checker."""
        network = self.proof.network
        starts = np.cumsum([0, *(network.nodes[place].size for place in network.functions)])
        left, columns = list(enumerate(network.functions)), list[int]()
        for span in bounds.spans:
            origin = ORIGIN.search(bounds.root.nodes[span.name].origin)
            name, size = (origin[1] if origin else None), span.end - span.start
            fitting = [pair for pair in left if network.nodes[pair[1]].size == size]
            if name is not None:  # of files; other graphs have the same functions in the same order
                fitting = [pair for pair in fitting if network.nodes[pair[1]].name == name]
            if not fitting:
                self.gives_up(f"the checker knows no neurons to split at {bounds.root.nodes[span.name].origin}")
                return []
            chosen = fitting[0]
            left.remove(chosen)
            columns += range(starts[chosen[0]], starts[chosen[0]] + size)
        return columns

    def _found(self, problem: Problem, goal: Goal, leaves: Domains, slopes: tuple[Array, Array]) -> FoundLeaves:
        """Leaves of one case in the order of the checker."""
        columns = self._columns
        total = sum(goal.network.nodes[place].size for place in goal.network.functions)
        low = np.full((len(leaves), total), -np.inf)
        high, multiplier = -low, np.zeros_like(low)
        lower, upper = (np.repeat(side, len(leaves), 0) for side in _default_slopes(goal))
        for wide, own in ((low, leaves.low), (high, leaves.high), (multiplier, leaves.multiplier)):
            wide[:, columns] = own.double().cpu().numpy()
        lower[:, columns], upper[:, columns] = slopes
        share = leaves.weight.double().softmax(1).cpu().numpy()
        weights = share @ _rows_of(problem.rows[int(leaves.case[0])], goal.sets[0])
        return FoundLeaves(low, high, multiplier, weights, lower, upper)


def _default_slopes(goal: Goal) -> tuple[Array, Array]:
    """Slopes (1, T) of neurons that the search does not know, such as those behind a function of its own."""
    pairs = [(np.zeros((1, 0)), np.zeros((1, 0)))]
    for place in goal.network.functions:
        node = goal.network.nodes[place]
        low, high = goal.root.low[node.parents[0]], goal.root.high[node.parents[0]]
        assert isinstance(node.function, Function)  # by which they are found
        lower, upper = node.function.default_slopes(low, high)
        if isinstance(node.function, Relu):
            lower = np.clip(lower, node.function.negative_slope, 1.0)
        pairs.append((lower, upper))
    lower, upper = (np.concatenate(side, 1) for side in zip(*pairs, strict=True))
    return lower, upper


def _slopes(bounds: SplitBounds, leaves: Domains) -> tuple[Array, Array]:
    """Slopes (N, total) of the lines below and above functions in leaves."""
    network, _ = bounds.view(leaves)
    lower, upper = [], []
    for span, numbers in zip(bounds.spans, leaves.parameters[: len(bounds.spans)], strict=True):
        parameters = tuple(part.double() for part in numbers)
        found = network.functions[span.name].planes(parameters, *network.parents(span.name))
        shape = network.parents(span.name)[0].lower.shape
        lower.append(found.lower_slopes[0].expand(shape).flatten(1))
        upper.append(found.upper_slopes[0].expand(shape).flatten(1))
    sides = (torch.cat(side, 1).nan_to_num(0.0, 0.0, 0.0).cpu().numpy() for side in (lower, upper))
    below, above = sides
    return below, above


def _rows_of(rows: Tensor, target: UnsafeSet) -> Array:
    """For each of rows (M, K) of the search, 1 at the row of an unsafe set with its coefficients, (M, R)."""
    given = rows.cpu().numpy()
    own = np.concatenate([target.on_inputs, target.on_outputs], 1)[:, -given.shape[1] :]
    same: Array = (given[:, None] == own[None]).all(2).astype(np.float64)
    return same


def _is_same(target: UnsafeSet, case: UnsafeCase) -> bool:
    """Whether an unsafe set is what a case says."""
    rows = torch.cat([case.on_inputs, case.on_outputs], 1)
    plain = (case.on_outputs != 0).any(1) | ((case.on_inputs != 0).sum(1) > 1)  # others are sides of the box
    found = {
        (*row, offset) for row, offset in zip(rows[plain].tolist(), case.offsets_above[plain].tolist(), strict=True)
    }
    own = np.concatenate([target.on_inputs, target.on_outputs, target.offsets[:, None]], 1)
    return {tuple(row) for row in own.tolist()} == found


def why_no_proof(network: str | os.PathLike[str], text: str | os.PathLike[str], sound: str) -> str:
    """Why no proof can be written about a network and a property; empty where one can."""
    try:
        ProofRecord(network, text, sound)
    except ProofError as error:
        return str(error)
    return ""


class Recorded:
    """The proof that was asked for with a decision, as long as there can be one.

    Args:
        path: file for it.
        network: that the decision is about.
        text: the property.
        sound: the arithmetic.
        deadline: in seconds of ``time.monotonic()``.

    Raises:
        InvalidInput: the network or the property is no path.
    """

    def __init__(
        self, path: str | os.PathLike[str], network: object, text: object, sound: str, deadline: float
    ) -> None:
        for name, value in (("model", network), ("property", text)):
            if not isinstance(value, str | os.PathLike) or (isinstance(value, str) and "(" in value):
                raise InvalidInput(f"{name} must be a path for a proof, which names its file, got {_kind(value)}")
        self._path, self._deadline = path, deadline
        self._record: ProofRecord | None = None
        self._reason = ""
        try:
            self._record = ProofRecord(network, text, sound)  # type: ignore[arg-type]  # paths, as was checked
        except ProofError as error:
            self._reason = str(error)

    def of_box(self, box: UnsafeBox) -> "BoxRecord | None":
        """The record of the search of one box."""
        return None if self._record is None else self._record.of_box(box)

    def written(self, verdict: str, witness: tuple[Tensor, Tensor] | None) -> tuple[str, str]:
        """The path of the proof, or nothing and why there is none."""
        reason = self._reason or "nothing was decided"
        try:
            if self._record is not None and verdict == "unsat":
                reason = self._record.write_proved(self._path, self._deadline)
            elif self._record is not None and witness is not None:
                reason = self._record.write_found(self._path, *witness)
        except Exception as error:  # whatever fails, the verdict stands
            reason = f"it failed, {type(error).__name__}: {error}"
        return ("", " ".join(reason.split())) if reason else (str(self._path), "")


def _kind(value: object) -> str:
    return "a text" if isinstance(value, str) else type(value).__name__
