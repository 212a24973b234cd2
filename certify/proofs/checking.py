"""The checker: whether a proof shows what its verdict says of a network and a property."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from certify.proofs.balls import Ball
from certify.proofs.bounding import ENTRIES
from certify.proofs.errors import Refused, Unreadable
from certify.proofs.files import ARITHMETIC, Proof, Tree, content_hash, content_of, read
from certify.proofs.leaves import Goal, negative_slopes
from certify.proofs.networks.networks import Network
from certify.proofs.networks.reading import float_type, input_shapes, loaded, read_network
from certify.proofs.properties import Property, read_property
from certify.proofs.trees import InputTree, NeuronTree, leaves_of, parts_of

TOLERANCE = 1e-3, 1e-4  # relative and absolute, of a witness's outputs in other arithmetic


@dataclass(frozen=True)
class ProofReport:
    """Whether a proof was accepted.

    Attributes:
        accepted: whether it shows its verdict.
        verdict: ``"unsat"`` or ``"sat"``; empty where the file does not say.
        leaves: that were accepted.
        where: the part that fails, such as ``"tree 0, leaf 17"``; empty where none does, or the file as a whole.
        reason: why it fails, one line.
    """

    accepted: bool
    verdict: str = ""
    leaves: int = 0
    where: str = ""
    reason: str = ""


def check_proof(
    proof: str | os.PathLike[str], network: str | os.PathLike[str], property: str | os.PathLike[str]
) -> ProofReport:
    """Whether a file proves its verdict about a network and a property.

    The checker shares no code with the search that wrote the file: it reads network and property by itself, and derives
    every interval and intercept by itself, with numpy in float64 and all rounding errors on the safe side. It takes
    from the file how boxes and neurons are split, slopes and multipliers, of which every choice is sound.

    A proof of ``"unsat"`` is about real arithmetic on the numbers that the files hold. A witness of ``"sat"`` must lie
    in its box, and be unsafe with the outputs that the file says, which must be those that the checker computes, up to
    0.1 % and 1e-4.

    Args:
        proof: file that ``certify verify --proof`` or :func:`certify.decide` wrote.
        network: ONNX file, which gzip may have compressed.
        property: VNN-LIB file, likewise.

    Returns:
        The report; a proof that is damaged or does not hold is not accepted, with the reason.

    Raises:
        ValueError: a file that cannot be read.
    """
    content, text = content_of(network), content_of(property)
    verdict = ""
    try:
        found = read(proof)
        verdict = str(found.header.get("verdict", ""))
        _require_subject(found, content, text)
        prop = read_property(text)
        with np.errstate(all="ignore"):  # what is not finite is refused
            leaves = _replayed(found, content, prop) if verdict == "sat" else _proved(found, content, prop)
    except Refused as error:
        return ProofReport(False, verdict, error.leaves, error.where, error.reason)
    except Unreadable as error:
        return ProofReport(False, verdict, reason=str(error))
    return ProofReport(True, verdict, leaves)


def _require_subject(proof: Proof, content: bytes, text: bytes) -> None:
    """Refuse a proof about something else."""
    header = proof.header
    if header.get("network") != content_hash(content):
        raise Refused("the proof is about another network")
    if header.get("property") != content_hash(text):
        raise Refused("the proof is about another property")
    if header.get("verdict") not in ("sat", "unsat") or header.get("arithmetic") != ARITHMETIC:
        raise Refused(f"the verdict {header.get('verdict')!r} in arithmetic {header.get('arithmetic')!r} is unknown")
    if header.get("float_type") != float_type(loaded(content)):
        raise Refused(f"the network is not one of {header.get('float_type')!r}")


def require_sizes(network: Network, prop: Property) -> None:
    """Refuse a property of other inputs or outputs."""
    sizes = network.nodes[0].size, network.nodes[-1].size
    if sizes != (prop.inputs, prop.outputs):
        raise Unreadable(f"the property has {prop.inputs} inputs and {prop.outputs} outputs, the network {sizes}")


def _proved(proof: Proof, content: bytes, prop: Property) -> int:
    """The number of leaves of a proof that shows that nothing is unsafe."""
    network = read_network(content)
    require_sizes(network, prop)
    return check_trees(network, prop, proof.trees)


def check_trees(
    network: Network, prop: Property, trees: Sequence[tuple[Sequence[int], Tree]], ball: Ball | None = None
) -> int:
    """The number of leaves of trees, which are those of all unsafe sets; with a ball, of inputs that lie in it too.

    Raises:
        Refused: a leaf fails, or an unsafe set has no tree.
    """
    missing, leaves, goals = set(range(len(prop.sets))), 0, dict[bytes, Goal]()
    for number, (places, tree) in enumerate(trees):
        try:
            if not places or not set(places) <= set(range(len(prop.sets))):
                raise Refused("it is about unsafe sets that the property does not have")
            goal = Goal(network, [prop.sets[place] for place in places], ball)
            for count in check_tree(goal, tree, goals):
                leaves += count
        except Refused as error:
            where = f"tree {number}, {error.where}" if error.where else f"tree {number}"
            raise Refused(error.reason, where, leaves) from None
        missing -= set(places)
    if missing:
        raise Refused(f"unsafe set {min(missing)} of the property has no tree", leaves=leaves)
    return leaves


def check_tree(goal: Goal, tree: Tree, known: dict[bytes, Goal]) -> Iterator[int]:
    """Numbers of leaves that are accepted, some at a time.

    Args:
        goal: what has to be proved.
        tree: the proof.
        known: goals whose intervals of the whole box are known, by their boxes.

    Raises:
        Refused: a leaf fails.
    """
    boxes = {each.low.tobytes() + each.high.tobytes() for each in goal.sets}
    if len(boxes) != 1:
        raise Refused("its unsafe sets have different boxes")
    if isinstance(tree, InputTree):
        yield from _check_inputs(goal, tree)
        return
    if len(goal.sets) != 1:
        raise Refused("it splits neurons for several unsafe sets at once")
    goal.share(known.setdefault(boxes.pop(), goal))
    yield from _check_neurons(goal, tree)


def rows_at_once(network: Network, rows: int) -> int:
    """Number of boxes or leaves that are bounded together."""
    return int(np.clip(ENTRIES // (rows * max(node.size for node in network.nodes)), 1, 128))


def _check_inputs(goal: Goal, tree: InputTree) -> Iterator[int]:
    """Check the leaves of a tree of cuts, and what is clipped away."""
    parts = parts_of(tree, *goal.box)
    at_once = rows_at_once(goal.network, max(node.size for node in goal.network.nodes))
    bases = {id(clip.base): clip.base for clip in parts.clips}
    clips: dict[int, list[int]] = {}
    for number, clip in enumerate(parts.clips):
        clips.setdefault(id(clip.base), []).append(number)
    for some in _batches(list(bases), at_once):
        found = goal.planes(*_stacked([bases[each] for each in some]))
        pairs = [(row, number) for row, each in enumerate(some) for number in clips[each]]
        chosen = type(found)(*(part[[row for row, _ in pairs]] for part in found))
        lost = _stacked([parts.clips[number][1:] for _, number in pairs])
        _require(goal.excluded(chosen, *lost), [f"clip {number}" for _, number in pairs], "no plane excludes it")
    for first, some in enumerate(_batches(parts.leaves, at_once)):
        low, high = _stacked(some)
        names = [f"leaf {first * at_once + row}" for row in range(len(some))]
        _require(goal.proved(goal.planes(low, high).least), names, "its bounds do not prove it")
        yield len(some)


def _check_neurons(goal: Goal, tree: NeuronTree) -> Iterator[int]:
    """Check the leaves of a tree of splits."""
    if tree.weights.shape[1] != len(goal.offsets):
        raise Refused(f"it has {tree.weights.shape[1]} weights for {len(goal.offsets)} inequalities")
    for first, leaves in leaves_of(tree, negative_slopes(goal.network), rows_at_once(goal.network, 1)):
        bound, empty = goal.weighted(leaves)
        names = [f"leaf {first + row}" for row in range(len(bound))]
        _require((bound > 0) | empty, names, "its bound is not above 0")
        yield len(bound)


def _require(accepted: Any, names: Sequence[str], reason: str) -> None:  # noqa: ANN401  # an array
    if not accepted.all():
        raise Refused(reason, names[int(np.argmin(accepted))])


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _stacked(boxes: Sequence[Any]) -> tuple[Any, Any]:
    return np.stack([low for low, _ in boxes]), np.stack([high for _, high in boxes])


def _replayed(proof: Proof, content: bytes, prop: Property) -> int:
    """1 if the witness is unsafe, and the network answers it as the proof says."""
    assert proof.witness is not None  # the file was read so
    x, y = (each.reshape(-1) for each in proof.witness)
    if any(each.dtype.kind not in "fiu" or each.dtype.itemsize > np.dtype(np.float64).itemsize for each in (x, y)):
        raise Refused(f"the witness holds {x.dtype} and {y.dtype}, which are not real numbers of at most 64 bits")
    if len(x) != prop.inputs or len(y) != prop.outputs or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise Refused("the witness has another number of inputs or outputs, or numbers that are not finite")
    point = [Fraction(float(value)) for value in (*x, *y)]
    if not any(each.holds(point) for each in prop.sets):
        raise Refused("the witness is not unsafe by the property")
    answer = _answer(content, x)
    relative, absolute = TOLERANCE
    off = float(np.abs(answer - y).max()) if answer.shape == y.shape else np.inf
    if not off <= absolute + relative * float(np.abs(y).max()):
        raise Refused(f"the network's answer to the witness is another one, by {off:g}")
    return 1


def _answer(content: bytes, x: Any) -> Any:  # noqa: ANN401  # arrays
    """The outputs for one input; by the reference implementation where the checker does not read the network."""
    try:
        return read_network(content).values(x[None].astype(np.float64))[0]
    except Unreadable:
        from onnx.reference import ReferenceEvaluator

        model, given, start = loaded(content), {}, 0
        for name, shape in input_shapes(model).items():
            size = int(np.prod(shape, dtype=np.int64))
            given[name] = x[start : start + size].reshape(shape)
            start += size
        try:
            found = ReferenceEvaluator(model).run(None, given)
        except Exception as error:  # of many kinds
            raise Unreadable(f"the network cannot be evaluated: {' '.join(str(error).split())[:80]}") from error
        return np.concatenate([np.asarray(each, np.float64).reshape(-1) for each in found])
