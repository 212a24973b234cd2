"""Small networks in ONNX files with properties that bounds of the whole box do not prove."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from oracles.decisions import property_of
from oracles.onnx_models import made, node

from certify import ProofReport, check_proof, decide

GAP = 0.05  # between bound and sampled output, below which there is nothing to split
Draw = np.random.Generator


class Query(NamedTuple):
    """A network with a property, as files."""

    network: Path
    text: Path


def dense(draw: Draw, inputs: int, activation: str) -> tuple[list[Any], dict[str, Any], tuple[int, ...]]:
    """Two hidden layers."""
    sizes = [inputs, 6, 5, 2]
    constants = {f"w{i}": draw.normal(size=pair) / np.sqrt(pair[0]) for i, pair in enumerate(pairwise(sizes))}
    constants |= {f"b{i}": draw.normal(size=size) / 4 for i, size in enumerate(sizes[1:])}
    nodes = [node("Gemm", "x w0 b0", "z0"), node(activation, "z0", "h0"), node("Gemm", "h0 w1 b1", "z1")]
    nodes += [node(activation, "z1", "h1"), node("Gemm", "h1 w2 b2", "y")]
    return nodes, constants, (1, inputs)


def residual(draw: Draw, inputs: int, activation: str) -> tuple[list[Any], dict[str, Any], tuple[int, ...]]:
    """A hidden layer that is added to what a further one makes of it."""
    constants = {"w0": draw.normal(size=(inputs, 5)) / 2, "w1": draw.normal(size=(5, 5)) / 2}
    constants |= {"w2": draw.normal(size=(5, 2)), "b": draw.normal(size=5) / 4}
    nodes = [node("MatMul", "x w0", "z0"), node(activation, "z0", "h0"), node("MatMul", "h0 w1", "z1")]
    nodes += [node("Add", "z1 b", "z2"), node(activation, "z2", "h1"), node("Add", "h0 h1", "s")]
    return [*nodes, node("MatMul", "s w2", "y")], constants, (1, inputs)


def convolutional(draw: Draw, inputs: int, activation: str) -> tuple[list[Any], dict[str, Any], tuple[int, ...]]:
    """A padded, strided convolution and an affine layer, of images with one row."""
    constants = {"w0": draw.normal(size=(2, 1, 1, 3)), "b0": draw.normal(size=2) / 4}
    width = (inputs + 2 - 3) // 2 + 1
    constants["w1"] = draw.normal(size=(2 * width, 2)) / 2
    nodes = [node("Conv", "x w0 b0", "z0", pads=[0, 1, 0, 1], strides=[1, 2]), node(activation, "z0", "h0")]
    return [*nodes, node("Flatten", "h0", "f"), node("MatMul", "f w1", "y")], constants, (1, 1, 1, inputs)


KINDS: dict[str, tuple[Callable[..., Any], str]] = {
    "relu": (dense, "Relu"),
    "leaky": (dense, "LeakyRelu"),
    "sigmoid": (dense, "Sigmoid"),
    "tanh": (dense, "Tanh"),
    "residual": (residual, "Relu"),
    "convolution": (convolutional, "Relu"),
}


def network(kind: str, inputs: int, seed: int) -> Any:
    """A random network."""
    build, activation = KINDS[kind]
    nodes, constants, shape = build(np.random.default_rng(seed), inputs, activation)
    return made(nodes, {"x": shape}, constants)


def hard_query(folder: Path, kind: str, inputs: int, *, seed: int = 0, share: float = 0.6, pair: bool = False) -> Query:
    """A property between the least output that is sampled and what the checker's bounds of the box prove.

    Args:
        folder: for the files.
        kind: of network.
        inputs: number of inputs; with more than 16, neurons are split.
        seed: of the weights; the first of such by hundreds for which bounds leave a gap.
        share: of the way from the bound to the sampled least output, at which the unsafe set ends.
        pair: whether the unsafe set is a conjunction.
    """
    from certify.proofs.bounding import intervals
    from certify.proofs.networks.reading import read_network

    bound = least = 0.0
    while not least - bound > GAP:
        content, draw = network(kind, inputs, seed).SerializeToString(), np.random.default_rng(seed)
        read = read_network(content)
        low = draw.uniform(-1, 0, (1, inputs)).astype(np.float32).astype(np.float64)
        high = low + draw.uniform(0.5, 1.5, (1, inputs)).astype(np.float32)
        inside = low + (high - low) * draw.random((4000, inputs))
        points = np.concatenate([inside, np.where(draw.random((4000, inputs)) < 0.5, low, high)])
        bound, least = float(intervals(read, low, high).low[-1][0, 0]), float(read.values(points)[:, 0].min())
        seed += 100
    end = bound + share * (least - bound)
    rest = f"(assert (<= Y_0 {end!r}))" + ("(assert (<= Y_1 100.0))" if pair else "")
    paths = Query(folder / f"{kind}{inputs}.onnx", folder / f"{kind}{inputs}.vnnlib")
    paths.network.write_bytes(content)
    paths.text.write_text(property_of(list(zip(low[0].tolist(), high[0].tolist(), strict=True)), rest, outputs=2))
    return paths


SHARES = {3: 0.8, 20: 0.4}  # by number of inputs: fewer are sampled better
SHARE_OF_CONVOLUTION = 0.3  # whose least output no sample comes near


def proved(query: Query, path: Path, **settings: Any) -> ProofReport:
    """The report on the proof of a property that holds."""
    found = decide(*query, timeout=30, attack=False, proof=path, **settings)
    assert (found.verdict, found.proof, found.without_proof) == ("unsat", str(path), "")
    return check_proof(path, *query)


def query_of(folder: Path, kind: str, inputs: int, **settings: Any) -> Query:
    share = SHARE_OF_CONVOLUTION if kind == "convolution" else SHARES[inputs]
    return hard_query(folder, kind, inputs, share=settings.pop("share", share), **settings)
