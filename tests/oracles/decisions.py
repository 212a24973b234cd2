"""Linear networks as ONNX files, of which the least output over a box is known, and searches that only pretend."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles.onnx_models import made, node
from torch import Tensor

from bounds.search.branch_and_bound import search
from bounds.search.problem import SearchResult

SEARCH = f"{search.__module__}.{search.__name__}"


class Linear:
    """``y = W x + b`` in an ONNX file, with a box of inputs.

    Attributes:
        corner: (1, F), where the first output is least.
        least: the first output there, in float32.
    """

    def __init__(self, path: Path, inputs: int, *, outputs: int = 3, seed: int = 0) -> None:
        draw = np.random.default_rng(seed)
        self.path = path
        self.weight = draw.normal(size=(inputs, outputs)).astype(np.float32)
        self.bias = draw.normal(size=outputs).astype(np.float32)
        nodes = [node("Gemm", "x w b", "y")]
        path.write_bytes(made(nodes, {"x": (1, inputs)}, {"w": self.weight, "b": self.bias}).SerializeToString())
        self.lower = torch.from_numpy(draw.uniform(-1, 0, inputs).astype(np.float32))
        self.upper = self.lower + torch.from_numpy(draw.uniform(0.1, 1, inputs).astype(np.float32))
        self.corner = torch.where(torch.from_numpy(self.weight[:, 0]) > 0, self.lower, self.upper)[None]
        self.least = float(self.answer(self.corner)[0, 0])

    def answer(self, x: Tensor) -> Tensor:
        """What onnxruntime says."""
        runtime = pytest.importorskip("onnxruntime")
        session = runtime.InferenceSession(str(self.path), providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, {"x": x.numpy()})[0])

    def below(self, threshold: float, sign: str = "<=") -> str:
        """The property that the first output lies below a threshold."""
        sides = zip(self.lower.tolist(), self.upper.tolist(), strict=True)
        return property_of(list(sides), f"(assert ({sign} Y_0 {threshold!r}))", outputs=len(self.bias))


def property_of(sides: Sequence[tuple[float, float]], rest: str, *, outputs: int = 1) -> str:
    """A text of version 1.0."""
    lines = [f"(declare-const X_{i} Real)" for i in range(len(sides))]
    lines += [f"(declare-const Y_{i} Real)" for i in range(outputs)]
    lines += [f"(assert (<= {low!r} X_{i} {high!r}))" for i, (low, high) in enumerate(sides)]
    return "\n".join([*lines, rest])


def identity(path: Path, inputs: int = 1) -> Path:
    """``y = x`` in an ONNX file."""
    path.write_bytes(made([node("Identity", "x", "y")], {"x": (1, inputs)}).SerializeToString())
    return path


def pretend(monkeypatch: pytest.MonkeyPatch, answer: SearchResult | Exception | Callable[..., Any]) -> list[dict]:
    """Put something else in the place of the search; its calls are listed."""
    calls: list[dict] = []

    def instead(graph: Any, box: Any, cases: Any, **options: Any) -> SearchResult:
        calls.append({"graph": graph, "box": box, "cases": cases} | options)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, SearchResult) else answer(calls[-1])

    monkeypatch.setattr(SEARCH, instead)
    monkeypatch.setattr("bounds.solvers.mixed_integer.is_small", lambda graph, box: False)
    return calls


UNKNOWN = SearchResult("unknown", reason="it only pretends")
