r"""Linear bounds (CROWN, DeepPoly, Fast-Lin, alpha-CROWN) of any captured network.

The planes around a function need bounds of the nodes before it. These come from intervals, and for :func:`crown` from
backward passes wherever a function is open: an entry is a row of its own there.

References:
    Zhang et al. (2018), Efficient neural network robustness certification with general activation functions,
    arXiv:1811.00866; Singh et al. (2019), An abstract domain for certifying neural networks, POPL.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from bounds import checks
from bounds.circumstances import isolated
from bounds.graph.captured import Graph, Source
from bounds.linear.alpha import optimized
from bounds.linear.backward import Backward
from bounds.linear.network import Network
from bounds.memory import MEMORY, in_chunks, keep_freed_memory
from bounds.numerics import ieee_arithmetic
from bounds.operations.affine import AFFINE, Affine
from bounds.operations.functions import FUNCTIONS, Maker, Tables
from bounds.operations.node import entries
from bounds.operations.transposes import divided, multiplied, reshaped, subtracted, summed
from bounds.rows import Dense, Units, wanted_first
from bounds.sets.balls import Interval, PerturbationSet

# Rows that share a window cost less: so many more of them are bounded rather than each on its own.
MORE_ROWS = 1.6
SEPARATE = (divided, multiplied, reshaped, subtracted, summed)  # transposes of operations entry by entry


@isolated
@ieee_arithmetic()
def crown(
    model: Source | Graph,
    ball: PerturbationSet,
    *,
    table: Mapping[str, Affine] = AFFINE,
    functions: Mapping[str, Maker] = FUNCTIONS,
    sound: str = "rounding",
    memory: int = MEMORY,
) -> Interval:
    """Linear bounds on the outputs of a network over a ball, never looser than :func:`crown_ibp` and intervals.

    Holds for every input of the ball, for the network in evaluation mode. Computed in the dtype of ``ball.center``,
    float64 at best. Conditions: IEEE arithmetic, no TF32, no autocast; for ``sound="deployed"`` also no overflow and
    convolutions that sum products, unlike Winograd's.

    Args:
        model: maps (N, *D) to (N, K), of any code that ``torch.export`` follows; a program from ``torch.export``; or
            its captured graph, which saves the time of capturing.
        ball: N perturbation sets: :class:`LpBall`, :class:`Box` or :class:`SparseBall`.
        table: affine operations, :data:`bounds.operations.AFFINE` or a copy with more.
        functions: makers of the functions of other operations, :data:`bounds.FUNCTIONS` or a copy with more.
        sound: what the bounds include. ``"rounding"``: the network in real arithmetic, all rounding errors of the
            bounds themselves subtracted. ``"real"``: the same without these errors, a proof up to rounding.
            ``"deployed"``: the float32 network as it runs, under any order of summation.
        memory: bytes that the coefficients may take; a larger problem is cut into parts.

    Returns:
        Bounds of shape (N, K).

    Raises:
        UnsupportedLayer: an operation without a rule, with its place in the source code.
        InvalidInput: a bad argument.
    """
    with torch.no_grad():
        network = Network(model, ball, Tables(table, functions), sound)
        loose = LinearBounds(network, memory=memory)
        bounds = loose.output()
        return LinearBounds(network, tighten=True, memory=memory).output() & bounds


@isolated
@ieee_arithmetic()
def crown_ibp(
    model: Source | Graph,
    ball: PerturbationSet,
    *,
    table: Mapping[str, Affine] = AFFINE,
    functions: Mapping[str, Maker] = FUNCTIONS,
    sound: str = "rounding",
    memory: int = MEMORY,
) -> Interval:
    """Like :func:`crown`, with intervals alone in front of every function: one backward pass, cheaper and looser.

    Gradients reach the weights where they are enabled.

    References:
        Zhang et al. (2020), Towards stable and efficient training of verifiably robust neural networks,
        arXiv:1906.06316.
    """
    return LinearBounds(Network(model, ball, Tables(table, functions), sound), memory=memory).output()


@isolated
@ieee_arithmetic()
def fast_lin(
    model: Source | Graph,
    ball: PerturbationSet,
    *,
    table: Mapping[str, Affine] = AFFINE,
    functions: Mapping[str, Maker] = FUNCTIONS,
    sound: str = "rounding",
    memory: int = MEMORY,
) -> Interval:
    """Like :func:`crown`, with parallel lines around every function: about half the work, and looser.

    References:
        Weng et al. (2018), Towards fast computation of certified robustness for ReLU networks, arXiv:1804.09699; the
        same bounds as Wong and Kolter (2018), arXiv:1711.00851.
    """
    with torch.no_grad():
        network = Network(model, ball, Tables(table, functions), sound)
        return LinearBounds(network, tighten=True, parallel=True, memory=memory).output()


@isolated
@ieee_arithmetic()
def alpha_crown(
    model: Source | Graph,
    ball: PerturbationSet,
    steps: int = 20,
    *,
    table: Mapping[str, Affine] = AFFINE,
    functions: Mapping[str, Maker] = FUNCTIONS,
    sound: str = "rounding",
    memory: int = MEMORY,
) -> Interval:
    """Like :func:`crown`, with the planes of every function chosen by some steps of ascent; never looser.

    Every bound, also of inner nodes, has planes of its own, which serve it best.

    Args:
        model: see :func:`crown`.
        ball: likewise.
        steps: of ascent for each bound; rows that no longer gain end sooner.
        table: likewise.
        functions: likewise.
        sound: likewise.
        memory: likewise.

    References:
        Xu et al. (2021), Fast and complete: enabling complete verification with rapid and massively parallel incomplete
        verifiers, arXiv:2011.13824.
    """
    checks.at_least("steps", steps, 0)
    with torch.no_grad():
        network = Network(model, ball, Tables(table, functions), sound)
        bounds = LinearBounds(network, memory=memory).output()
        bounds = bounds & LinearBounds(network, tighten=True, memory=memory).output()
        return bounds & LinearBounds(network, tighten=True, steps=steps, memory=memory).output()


METHODS = ("ibp", "crown_ibp", "fast_lin", "crown", "alpha_crown")


@ieee_arithmetic()
def linear_margins(
    model: Source | Graph,
    ball: PerturbationSet,
    labels: Tensor,
    method: str,
    *,
    steps: int = 20,
    table: Mapping[str, Affine] = AFFINE,
    functions: Mapping[str, Maker] = FUNCTIONS,
    sound: str = "rounding",
    memory: int = MEMORY,
) -> Tensor:
    """Lower bounds (N, K) on ``logit_label - logit_k``, with the difference folded into the network; 0 at the label.

    Gradients reach the weights with ``"ibp"`` and ``"crown_ibp"``, where they are enabled.
    """
    with torch.set_grad_enabled(torch.is_grad_enabled() and method in ("ibp", "crown_ibp")):
        return _margins(Network(model, ball, Tables(table, functions), sound), labels, method, steps, memory)


def _margins(network: Network, labels: Tensor, method: str, steps: int, memory: int) -> Tensor:
    rows = margin_rows(network, labels)
    if method in ("ibp", "crown_ibp"):
        margins = LinearBounds(network, memory=memory).functions(rows, intervals=method == "ibp")
    elif method == "fast_lin":
        margins = LinearBounds(network, tighten=True, parallel=True, memory=memory).functions(rows)
    else:
        loose = LinearBounds(network, memory=memory)
        margins = torch.maximum(loose.functions(rows, intervals=True), loose.functions(rows))
        margins = torch.maximum(margins, LinearBounds(network, tighten=True, memory=memory).functions(rows))
        if method == "alpha_crown" and not bool(((margins > 0) | (rows == 0).all(2)).all()):  # not all is proved yet
            best = LinearBounds(network, tighten=True, steps=steps, memory=memory)
            margins = torch.maximum(margins, best.functions(rows, target=0.0))
    return margins.scatter(1, labels.to(rows.device, torch.int64)[:, None], 0.0)


def margin_rows(network: Network, labels: Tensor) -> Tensor:
    """The functions ``logit_label - logit_k`` of the outputs, for :meth:`LinearBounds.functions`, (N, K, K)."""
    value = network.nodes["output"].value.reshape(len(network.ball.center), -1)
    label = checks.labels(labels, len(value), value.shape[1]).to(value.device)
    identity = torch.eye(value.shape[1], dtype=value.dtype, device=value.device)
    return identity[label].unsqueeze(1) - identity


class LinearBounds:
    """Linear bounds of a network, once all its intervals are known.

    Args:
        network: its intervals are replaced.
        tighten: improve intervals by backward passes wherever a function is open.
        parallel: planes with the same slopes below and above.
        steps: of ascent for the planes of each bound.
        memory: bytes for coefficients.
    """

    def __init__(
        self,
        network: Network,
        *,
        tighten: bool = False,
        parallel: bool = False,
        steps: int = 0,
        memory: int = MEMORY,
    ) -> None:
        keep_freed_memory()
        self.network = network
        self.steps = steps
        self.memory = memory
        self.backward = Backward(network, parallel=parallel)
        box = network.ball.is_box
        straight: set[str] = set()  # nodes with no function between the input and them
        separate: set[str] = set()  # of these, with one entry of the input behind each of theirs at most
        for name in network.order:
            network.propagate(name)
            node = network.nodes[name]
            if name not in network.functions and straight.issuperset(node.parents):
                straight.add(name)
            if node.operation == "input" or (
                len(node.parents) == 1
                and separate.issuperset(node.parents)
                and name in straight
                and self._is_entrywise(name)
            ):
                separate.add(name)
            if not (network.consumers(name) or name == "output") or name in separate or node.batch != 0:
                continue
            # Of an affine image of a ball that is no box, intervals know little and backward bounds all; of one
            # affine operation on a box, intervals know all.
            if name in straight and not box:
                self._tighten(name, everywhere=True)
            elif (
                tighten
                and name != "output"
                and not (box and len(node.parents) == 1 and separate.issuperset(node.parents))
            ):
                self._tighten(name, everywhere=False)

    def _is_entrywise(self, name: str) -> bool:
        return self.network.rules[name].transpose in SEPARATE

    def output(self) -> Interval:
        """Linear bounds (N, K) on the outputs, where intervals are not tighter."""
        value, interval = self.network.nodes["output"].value, self.network.intervals["output"]
        size = len(self.network.ball.center)
        index = torch.arange(value.numel() // max(1, size), device=value.device).expand(size, -1)
        linear = self._of_entries("output", index, self.network.ball)
        return linear & Interval(*(end.reshape(size, -1) for end in (interval.lower, interval.upper)))

    def functions(self, rows: Tensor, *, target: float = torch.inf, intervals: bool = False) -> Tensor:
        """Lower bounds (N, R) of linear functions (N, R, K) of the outputs; with ``intervals``, from these alone."""
        value = self.network.nodes["output"].value
        values = rows.reshape(*rows.shape[:2], *value.shape[1:])

        def bound(part: slice) -> Tensor:
            start, ball = Dense(values[:, part]), self.network.ball
            if self.steps:
                return optimized(self.backward, "output", start, ball, steps=self.steps, both=False, target=target)
            return self.backward.bounds("output", start, ball, intervals=intervals)

        return torch.cat(list(in_chunks(bound, values.shape[1], self._rows_at_once)), 1)

    def _tighten(self, name: str, everywhere: bool) -> None:
        """Replace an interval by linear bounds, everywhere or where a function of it is open."""
        network, interval = self.network, self.network.intervals[name]
        wanted = torch.ones_like(interval.lower, dtype=torch.bool)
        if not everywhere:
            wanted = torch.stack([self._open(name, key) for key in network.consumers(name)]).any(0)
        index, group = _places(wanted)
        if index.numel() == 0:
            return
        # The box of valid inputs is in the interval already.
        better = self._of_entries(name, index, network.ball.without_box(), group)
        lower, upper = (end.reshape(len(end), -1) for end in (interval.lower, interval.upper))
        lower = lower.scatter(1, index, torch.maximum(lower.gather(1, index), better.lower))
        upper = upper.scatter(1, index, torch.minimum(upper.gather(1, index), better.upper))
        network.intervals[name] = Interval(lower.view_as(interval.lower), upper.view_as(interval.upper))

    def _open(self, name: str, consumer: str) -> Tensor:
        """Where bounds of a node are worth having for a function of it."""
        network = self.network
        parents = network.nodes[consumer].parents
        for parent in parents:
            if parent not in network.intervals:  # another parent comes later: all may matter
                return torch.ones_like(network.intervals[name].lower, dtype=torch.bool)
        opened = network.functions[consumer].open(*network.parents(consumer))
        return torch.stack([part for part, parent in zip(opened, parents, strict=True) if parent == name]).any(0)

    def _of_entries(self, name: str, index: Tensor, region: PerturbationSet, group: int = 1) -> Interval:
        """Linear bounds (N, R) on the entries of a node with the given places (N, R) in a row, in groups of a place."""
        value = self.network.nodes[name].value
        groups = index.unflatten(1, (-1, group))

        def bound(part: slice) -> Tensor:
            start = Units(groups[:, part].flatten(1), tuple(value.shape[1:]), value, group)
            if self.steps:
                found = optimized(self.backward, name, start, region, steps=self.steps, both=True)
            else:
                found = self.backward.bounds(name, start, region, both=True)
            return torch.stack(found.chunk(2, 1))

        at_once = lambda: max(1, self._rows_at_once(name) // group)  # noqa: E731
        lower, upper = torch.cat(list(in_chunks(bound, groups.shape[1], at_once)), 2)
        return Interval(lower, -upper)

    def _rows_at_once(self, name: str = "output") -> int:
        """How many rows to bound at once; of nodes before, the widest is taken until it is known what rows need."""
        network = self.network
        before = network.order[: network.order.index(name) + 1]
        widest = self.backward.widest.get(name) or max(entries(network.nodes[key].value) for key in before)
        value = network.nodes[name].value
        tensors = 24 if self.steps else 16  # of the size of the coefficients of one node, at the same time
        return max(1, self.memory // (tensors * 2 * widest * max(1, len(value)) * value.element_size()))


def _places(wanted: Tensor) -> tuple[Tensor, int]:
    """Entries (N, R) of a row that include all that are wanted, (N, *shape), and how many in turn share a place.

    Inputs with fewer such entries have others bounded as well. In a map, rows of one place share their window: they
    are taken together unless that means many more of them.
    """
    flat = wanted.reshape(len(wanted), -1)  # a node may be one number
    most = int(flat.sum(1).max()) if flat.numel() else 0
    if wanted.ndim == 4 and most:
        here = wanted.flatten(2)  # (N, C, places)
        places, group = int(here.any(1).sum(1).max()), int(here.sum(1).max())
        if places * group <= MORE_ROWS * most:
            place = wanted_first(here.any(1), places)
            channel = wanted_first(
                here.transpose(1, 2).gather(1, place[..., None].expand(-1, -1, here.shape[1])), group
            )
            return (channel * here.shape[2] + place[..., None]).flatten(1), group
    return wanted_first(flat, most), 1
