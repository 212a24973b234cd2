"""Bounds of auto_LiRPA, where version 0.6 or newer of it can be imported.

They speak of the network in real arithmetic and leave all rounding errors out.

References:
    Xu et al. (2020), Automatic perturbation analysis for scalable certified robustness and beyond, arXiv:2002.12920.
"""

import copy
import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.engines.apart import apart
from bounds.engines.library import library, told
from bounds.errors import BoundsError, InvalidInput, UnsupportedLayer
from bounds.graph.captured import Graph, Source
from bounds.graph.capturing import capture, without_compiler
from bounds.memory import out_of_memory
from bounds.models import frozen
from bounds.numerics import converted_down
from bounds.rows import label_margins
from bounds.sets.balls import Interval, LpBall, PerturbationSet, perturbation_set

METHODS = {"ibp": "IBP", "crown_ibp": "CROWN-IBP", "crown": "CROWN", "alpha_crown": "CROWN-Optimized"}
LARGEST_NORM = 2  # finite; for larger ones, its intervals behind convolutions are too narrow
# Operations through which it knows that the inputs of a round ball move; in front of others it takes them for constant.
MOVING = frozenset({"aten.linear.default", "aten.conv2d.default", "aten.conv2d.padding"})
SHAPING = frozenset({"aten.flatten.using_ints", "aten.view.default", "aten.reshape.default", "aten.permute.default"})


def other_bounds(
    model: Source | Graph, ball: PerturbationSet, method: str, *, steps: int = 20, labels: Tensor | None = None
) -> Interval:
    """Bounds of auto_LiRPA on the outputs, or on the margins (N, K) of labels, in the dtype of the set.

    Sets below float32 are bounded in float32.

    Raises:
        UnsupportedLayer: it fails, with its reason; or the model draws random numbers or mixes inputs.
        InvalidInput: it cannot be imported, or cannot represent the set; a bad argument.
    """
    perturbation_set(ball)
    checks.one_of("method", method, tuple(METHODS))
    library()  # before anything that takes long
    x = ball.center
    graph = capture(model, x)
    rows = None if labels is None else margin_functions(graph, x, labels)
    found = Bounded(model, graph, ball, steps=steps)(method, rows)
    lower, upper = converted_down(found.lower, x.dtype), -converted_down(-found.upper, x.dtype)
    return Interval(lower if labels is None else lower.scatter(1, labels.to(lower.device).long()[:, None], 0.0), upper)


def margin_functions(graph: Graph, x: Tensor, labels: Tensor) -> Tensor:
    """The functions ``logit_label - logit_k`` of the outputs for inputs (N, *D), (N, K, K)."""
    with torch.no_grad():
        return label_margins(graph.bind(x)["output"].value, labels)


class Bounded:
    """A network over a set, handed to auto_LiRPA; the network is copied.

    Args:
        model: the network.
        graph: captured from it.
        ball: N perturbation sets.
        steps: of ascent, for ``"alpha_crown"``.

    Raises:
        UnsupportedLayer: auto_LiRPA fails on the network.
        InvalidInput: it cannot be imported, or cannot represent the set.
    """

    def __init__(self, model: Source | Graph, graph: Graph, ball: PerturbationSet, *, steps: int = 20) -> None:
        self._library = library()
        if not ball.is_box:
            _require_moving_start(graph, ball)
        self._dtype = torch.float64 if ball.center.dtype == torch.float64 else torch.float32
        self._network = copied(model, self._dtype)
        self._ball, self._places = ball, _places(ball, one_by_one=graph.one_by_one)
        self._options: dict[str, Any] = {"optimize_bound_args": {"iteration": steps}}
        self._parts = self._made()

    def __call__(self, method: str, rows: Tensor | None = None) -> Interval:
        """Bounds of the outputs by a method, or lower ones of linear functions (N, R, K) of them."""
        try:
            found = [self._bounds(part, METHODS[method], rows) for part in self._parts]
        except UnsupportedLayer as refusal:
            if "conv_mode" in self._options:
                raise
            # Its local form of convolutions fails on images that are not square and on some constants.
            self._options["conv_mode"] = "matrix"
            self._parts = self._made()
            try:
                return self(method, rows)
            except UnsupportedLayer:
                raise refusal from None
        order = torch.cat(self._places).argsort()
        lower, upper = (torch.cat(sides)[order] for sides in zip(*found, strict=True))
        infinite = torch.full_like(lower, math.inf)
        return Interval(torch.where(lower.isnan(), -infinite, lower), torch.where(upper.isnan(), infinite, upper))

    def _made(self) -> list["_Part"]:
        return [self._part(self._ball.rows(places), places) for places in self._places]

    def _part(self, ball: PerturbationSet, places: Tensor) -> "_Part":
        x = ball.center.to(self._dtype)
        perturbation = _perturbation(ball, self._dtype)
        with apart(x) as errors, frozen(self._network):
            try:
                module = self._library.BoundedModule(self._network, x, bound_opts=self._options, device=x.device)
                around = self._library.BoundedTensor(x, self._library.PerturbationLpNorm(**perturbation))
            except Exception as error:
                raise self._refusal(error, errors) from error
        return _Part(places, x, module, around)

    def _bounds(self, part: "_Part", method: str, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        """Bounds (B, *K) of the outputs of some rows, or lower ones (B, R) of linear functions of them."""
        options: dict[str, Any] = {}
        ascends = method == METHODS["alpha_crown"]
        with apart(part.x) as errors, torch.set_grad_enabled(ascends):
            try:
                expected = self._network(part.x).shape
                if rows is not None:
                    matrix = rows[part.places].to(self._dtype).unflatten(2, expected[1:])
                    options, expected = {"C": matrix, "bound_upper": False}, matrix.shape[:2]
                lower, upper = part.module.compute_bounds(x=(part.around,), method=method, **options)
                if lower.shape != expected:
                    raise ValueError(f"bounds of shape {tuple(lower.shape)} in place of {tuple(expected)}")
            except Exception as error:
                raise self._refusal(error, errors) from error
        lower = lower.detach()
        return lower, torch.full_like(lower, math.inf) if upper is None else upper.detach()

    def _refusal(self, error: Exception, errors: list[str]) -> Exception:
        """The error to raise in place of one of auto_LiRPA."""
        if isinstance(error, BoundsError) or out_of_memory(error):
            return error
        named = [line.removeprefix("Name: ") for line in errors if line.startswith("Name: ")]
        operators = f" ({'; '.join(named)})" if named else ""
        version = getattr(self._library, "__version__", "")
        return UnsupportedLayer(
            f"auto_LiRPA {version} has no bounds of this model: {told(error)}{operators}; use engine='own'"
        )


@dataclass(frozen=True, eq=False)
class _Part:
    """Rows of a set that one perturbation of auto_LiRPA represents.

    Attributes:
        places: of the rows in the set, (B,).
        x: their centres, (B, *D).
        module: the network as auto_LiRPA holds it.
        around: the centres with their perturbation.
    """

    places: Tensor
    x: Tensor
    module: Any
    around: Any


def _places(ball: PerturbationSet, *, one_by_one: bool) -> list[Tensor]:
    """Places of the rows that are bounded together: a norm other than l-infinity has one radius for all of them."""
    every = torch.arange(len(ball.center), device=ball.center.device)
    if one_by_one:
        return list(every.split(1))
    if isinstance(ball, LpBall) and not ball.is_box:
        return [(ball.radii == radius).nonzero()[:, 0] for radius in ball.radii.unique()]
    return [every]


def _perturbation(ball: PerturbationSet, dtype: torch.dtype) -> dict[str, Any]:
    """The arguments of auto_LiRPA's ``PerturbationLpNorm`` for a set.

    Raises:
        InvalidInput: it has none for this set.
    """
    if ball.is_box:
        hull = ball.double().hull()
        return {
            "norm": math.inf,
            "x_L": converted_down(hull.lower, dtype),
            "x_U": -converted_down(-hull.upper, dtype),
        }
    if not isinstance(ball, LpBall):
        raise InvalidInput(f"engine='auto_lirpa' serves LpBall and Box, got {type(ball).__name__}: use engine='own'")
    if ball.low is not None or ball.high is not None:
        raise InvalidInput(
            f"engine='auto_lirpa' cuts no ball of norm={ball.norm:g} by a box, got low and high of "
            f"[{checks.describe(ball.low)}, {checks.describe(ball.high)}]: pass low=None, high=None, or engine='own'"
        )
    if ball.frozen_features is not None:
        raise InvalidInput(
            f"engine='auto_lirpa' moves all features of a ball of norm={ball.norm:g}, got frozen_features: "
            f"use norm=math.inf or engine='own'"
        )
    if ball.norm > LARGEST_NORM:
        raise InvalidInput(
            f"engine='auto_lirpa' serves norms from 1 to {LARGEST_NORM} and math.inf, got {ball.norm:g}: for others "
            f"its intervals behind convolutions do not hold; use engine='own'"
        )
    return {"norm": ball.norm, "eps": float(ball.radii[0])}


def _require_moving_start(graph: Graph, ball: PerturbationSet) -> None:
    """Refuse a network in front of whose first operations the inputs of a round ball would be taken for constant.

    That is so in version 0.7.1, whose bounds by every method were refuted by points behind a normalisation of inputs.
    """
    with torch.no_grad():
        nodes = graph.bind(ball.center)
    inputs = {name for name, node in nodes.items() if node.operation == "input"}
    for name, node in nodes.items():
        if inputs.isdisjoint(node.parents) or node.operation in MOVING:
            continue
        if node.operation not in SHAPING:
            raise UnsupportedLayer(
                f"auto_LiRPA takes inputs of a round ball for constant in {node.operation}, at {node.origin}, so that "
                f"its bounds do not hold: use norm=math.inf, or engine='own'"
            )
        inputs.add(name)


def copied(model: Source | Graph, dtype: torch.dtype) -> nn.Module:
    """A copy of a network that computes in a dtype, for ever in evaluation mode.

    Raises:
        UnsupportedLayer: it cannot be copied.
    """
    network = model.module() if isinstance(model, Graph | torch.export.ExportedProgram) else without_compiler(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about its own internals
            return _Fixed(copy.deepcopy(network).to(dtype))
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        raise UnsupportedLayer(
            f"the model cannot be copied: {told(error)}; pass bounds.capture(model, x), which can be"
        ) from error


class _Fixed(nn.Module):
    """A network in evaluation mode; those from ``torch.export`` refuse to be asked for a mode."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        for module in self.modules():
            module.training = False

    def train(self, mode: bool = True) -> "_Fixed":
        """Nothing changes."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        """The answer of the network."""
        answer: Tensor = self.network(x)
        return answer
