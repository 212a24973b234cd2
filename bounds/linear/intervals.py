r"""Interval bound propagation, for sequential networks layer by layer.

Affine layers map an interval through its centre and radius, :math:`W c + b \pm |W| r` (Gowal et al. 2018,
arXiv:1810.12715, section 3). Rounding is part of the bound: with :math:`n` terms per output, the computed
centre is off by at most :math:`\gamma_n (|W||c| + |b|)`, which is added to the radius. The bounds therefore
hold for the network evaluated in real arithmetic with the given weights. They do not cover the rounding
errors of running that network in lower precision.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bounds import checks
from bounds.circumstances import isolated
from bounds.engines.auto_lirpa import other_bounds
from bounds.engines.choice import OWN, is_own
from bounds.errors import InvalidInput, UnsupportedLayer
from bounds.graph.captured import Graph, Source
from bounds.layers import Normalize
from bounds.linear.network import Network
from bounds.linear.parts import by_inputs, layers_at_once, within_memory
from bounds.linear.precision import in_double, rounded_outward
from bounds.linear.refined import RefinedNetwork
from bounds.memory import MEMORY, out_of_memory
from bounds.numerics import accumulated_error, converted_down, ieee_arithmetic, per_row, underflow, unit_roundoff
from bounds.operations.affine import AFFINE
from bounds.operations.affine import Affine as AffineEntry
from bounds.operations.functions import FUNCTIONS, Maker, Tables
from bounds.sets.balls import Box, Interval, LpBall, PerturbationSet

Rule = Callable[[nn.Module, Interval], Interval]
Affine = nn.Linear | nn.Conv2d


@dataclass(frozen=True)
class _AffineMap:
    """``x -> W x + b`` with the rounding constant of one output (twice, for the bound itself)."""

    apply: Callable[[Tensor, Tensor, Tensor | None], Tensor]  # of x, and of any weight and bias in these places
    weight: Tensor
    bias: Tensor
    terms: int  # products in the sum of one output
    gamma: float

    @classmethod
    def of(cls, layer: Affine, dtype: torch.dtype, *, rounded: bool = True) -> "_AffineMap":
        """The map of a layer, in ``dtype``; its rounding counts as nothing unless ``rounded``."""
        if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
            raise UnsupportedLayer(
                f"Conv2d with padding_mode={layer.padding_mode!r} has no interval rule: use padding_mode='zeros', "
                f"or pass rules=DEFAULT_RULES | {{nn.Conv2d: rule}}"
            )
        weight = layer.weight.to(dtype)
        bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.to(dtype)
        terms = weight[0].numel()
        gamma = 2 * accumulated_error(terms + 6, dtype) if rounded else 0.0
        return cls(partial(_apply_layer, layer), weight, bias, terms, gamma)

    def margins(self, labels: Tensor) -> "_AffineMap":
        """Output ``label`` minus each output of a linear layer, with weights (N, K, F) of their own per row."""
        weight = self.weight[labels][:, None] - self.weight
        bias = self.bias[labels][:, None] - self.bias
        return _AffineMap(_apply_rows, weight, bias, self.terms, 2 * self.gamma)  # 2: the rows are rounded too

    def interval(self, interval: Interval) -> Interval:
        """Bounds behind the map."""
        center, radius = interval.halves(self.gamma)
        return Interval.around(self.apply(center, self.weight, self.bias), self.spread(radius), self.gamma)

    def spread(self, radius: Tensor) -> Tensor:
        """The move of outputs with an input, and all that rounding and underflow may take from bias and sum."""
        lost = self.bias.abs() * self.gamma + underflow(self.bias.dtype)
        return self.apply(radius, self.weight.abs(), lost)


def _apply_layer(layer: Affine, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def _apply_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product = (weight @ x.unsqueeze(2)).squeeze(2)  # (N, K, F) on (N, F)
    return product if bias is None else product + bias


def affine_interval(layer: Affine, interval: Interval, *, rounded: bool = True) -> Interval:
    """Bounds behind a linear or convolutional layer."""
    return _AffineMap.of(layer, interval.lower.dtype, rounded=rounded).interval(interval)


def normalize_interval(layer: Normalize, interval: Interval, *, rounded: bool = True) -> Interval:
    """Bounds behind ``(x - mean) / std``."""
    error = 16 * unit_roundoff(interval.lower.dtype) if rounded else 0.0
    center, radius = interval.halves(error)
    mean, std = layer.per_channel(layer.mean, center), layer.per_channel(layer.std, center)
    return Interval.around((center - mean) / std, radius / std + underflow(std.dtype), error)


def _monotone(layer: nn.Module, interval: Interval) -> Interval:
    """Bounds behind an exact, non-decreasing layer: the layer applied to both ends."""
    return Interval(layer(interval.lower), layer(interval.upper))


def _unchanged(_: nn.Module, interval: Interval) -> Interval:
    return interval


# A method takes its table as an argument: extend it with DEFAULT_RULES | {MyLayer: my_rule}.
DEFAULT_RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: cast(Rule, affine_interval),
    nn.Conv2d: cast(Rule, affine_interval),
    Normalize: cast(Rule, normalize_interval),
    nn.ReLU: _monotone,
    nn.Flatten: _monotone,
    nn.Identity: _unchanged,
    nn.Dropout: _unchanged,  # the network is bounded in evaluation mode
}
_REAL_RULES = DEFAULT_RULES | {
    nn.Linear: cast(Rule, partial(affine_interval, rounded=False)),
    nn.Conv2d: cast(Rule, partial(affine_interval, rounded=False)),
    Normalize: cast(Rule, partial(normalize_interval, rounded=False)),
}


def sequential_layers(
    model: nn.Module, rules: Mapping[type[nn.Module], Rule] = DEFAULT_RULES, path: str = ""
) -> Iterator[nn.Module]:
    """The layers of a network built from ``nn.Sequential``, in order.

    Raises:
        UnsupportedLayer: a layer has no rule, with its path in the model.
    """
    if model._forward_hooks or model._forward_pre_hooks or "forward" in vars(model):
        raise UnsupportedLayer(
            f"layer {path or '(the model itself)'} has forward hooks or a forward of its own: remove them"
        )
    if type(model) in rules:
        yield model
    elif isinstance(model, nn.Sequential) and type(model).forward is nn.Sequential.forward:
        # Not named_children(), which names a layer that is used twice only once.
        for name, child in zip(model._modules, model, strict=True):
            yield from sequential_layers(child, rules, f"{path}.{name}" if path else name)
    else:
        known = ", ".join(sorted(kind.__name__ for kind in rules))
        raise UnsupportedLayer(
            f"layer {path or '(the model itself)'} of type {type(model).__name__} has no interval rule: build "
            f"the network as nn.Sequential of {known}, or pass rules=DEFAULT_RULES | {{{type(model).__name__}: rule}}"
        )


@isolated
@ieee_arithmetic()
def ibp(
    model: Source | Graph,
    ball: PerturbationSet,
    *,
    rules: Mapping[type[nn.Module], Rule] = DEFAULT_RULES,
    table: Mapping[str, AffineEntry] = AFFINE,
    functions: Mapping[str, Maker] = FUNCTIONS,
    sound: str = "rounding",
    memory: int = MEMORY,
    engine: str = OWN,
) -> Interval:
    """Interval bounds on the outputs of a network over a ball.

    Holds for every input of the ball, for the network in evaluation mode. A float32 set is bounded in float64 unless
    ``sound="real"``, see :func:`bounds.crown`. Gradients flow to the weights. TF32, other reduced precision and
    autocast are switched off inside; the condition is IEEE arithmetic.

    A network built from ``nn.Sequential`` of layers in ``rules`` is walked layer by layer; any other one is captured,
    which takes as long as hundreds of passes: pass ``bounds.capture(model, x)`` to do it once.

    Args:
        model: any network that ``torch.export`` follows, or its captured graph.
        ball: N perturbation sets. An l_p norm is used exactly up to the first affine layer.
        rules: bounding rule of each layer type.
        table: affine operations of captured networks.
        functions: makers of the functions of their other operations.
        sound: which rounding errors are included, see :func:`bounds.crown`.
        memory: bytes for the inputs that are bounded at once, see :func:`bounds.crown`.
        engine: ``"own"`` or ``"auto_lirpa"``, see :func:`bounds.crown`.

    Returns:
        Bounds of shape (N, K).

    Raises:
        UnsupportedLayer: a layer without a rule.

    References:
        Gowal et al. (2018), On the effectiveness of interval bound propagation, arXiv:1810.12715, section 3.
    """
    own = {"rules": rules is DEFAULT_RULES, "table": table is AFFINE, "functions": functions is FUNCTIONS}
    if not is_own(engine, sound, **own):
        return other_bounds(model, ball, "ibp")
    layers = layers_in_turn(model, ball, rules, sound)
    if layers is not None and isinstance(ball, LpBall | Box):
        return by_inputs(
            lambda part: rounded_outward(_propagate(layers, *_set_and_rules(part, rules, sound))[0], part.center.dtype),
            *(ball, (), layers_at_once(layers, ball, memory)),
        )
    return _captured_intervals(model, ball, Tables(table, functions), sound=sound, memory=memory)


@within_memory
def _captured_intervals(
    model: Source | Graph, ball: PerturbationSet, tables: Tables, *, sound: str, memory: int
) -> Interval:
    """Intervals (N, K) of the outputs of a captured network."""
    refined = RefinedNetwork(Network(model, ball, tables, sound), memory=memory).refine().intervals["output"]
    bounds = Interval(*(end.reshape(len(ball.center), -1) for end in (refined.lower, refined.upper)))
    return rounded_outward(bounds, ball.center.dtype)


def layers_in_turn(
    model: Source | Graph, ball: PerturbationSet, rules: Mapping[type[nn.Module], Rule], sound: str
) -> list[nn.Module] | None:
    """The layers of a sequential network for which the rules are enough, or None.

    Raises:
        UnsupportedLayer: the caller's own rules do not cover a layer.
    """
    of_rules = isinstance(ball, Box) or (isinstance(ball, LpBall) and ball.norm >= 2)
    if not isinstance(model, nn.Module) or not of_rules or sound == "deployed":
        return None
    try:
        layers = list(sequential_layers(model, rules))
    except UnsupportedLayer:
        if rules is not DEFAULT_RULES:
            raise
        return None
    padded = any(isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros" for layer in layers)
    return None if padded and rules is DEFAULT_RULES else layers


def _set_and_rules(
    ball: LpBall | Box, rules: Mapping[type[nn.Module], Rule], sound: str
) -> tuple[LpBall | Box, Mapping[type[nn.Module], Rule]]:
    """The set in float64 where that pays, and the rules; those of a caller stay, and may know one dtype alone."""
    checks.full_precision(ball.center)
    if rules is not DEFAULT_RULES:
        return ball, rules
    return cast("LpBall | Box", in_double(ball, sound)), _REAL_RULES if sound == "real" else rules


@ieee_arithmetic()
def interval_margins(
    layers: list[nn.Module],
    ball: LpBall | Box,
    labels: Tensor,
    rules: Mapping[type[nn.Module], Rule] = DEFAULT_RULES,
    sound: str = "rounding",
    memory: int = MEMORY,
) -> Tensor:
    """Lower bounds (N, K) on ``logit_label - logit_k``, 0 at the label, with the guarantee of :func:`ibp`."""
    at_once = layers_at_once(layers, ball, memory)
    return by_inputs(partial(_margins_in_turn, layers, rules=rules, sound=sound), ball, (labels,), at_once)


def _margins_in_turn(
    layers: list[nn.Module], ball: LpBall | Box, labels: Tensor, *, rules: Mapping[type[nn.Module], Rule], sound: str
) -> Tensor:
    own_rule = rules.get(nn.Linear) is not DEFAULT_RULES[nn.Linear]
    dtype, (ball, rules) = ball.center.dtype, _set_and_rules(ball, rules, sound)
    last = layers[-1] if layers and type(layers[-1]) is nn.Linear and not own_rule else None
    if last is not None:
        inner, start = _propagate(layers[:-1], ball, rules)
        label = checks.labels(labels, len(ball.center), last.out_features)
        difference = _AffineMap.of(last, ball.center.dtype, rounded=sound != "real").margins(label)
        gaps = difference.interval(inner)
        margins = (gaps if start is None else gaps & start.behind(difference)).lower
    else:
        logits, _ = _propagate(layers, ball, rules)
        label = checks.labels(labels, len(ball.center), logits.lower.shape[1])
        lower = logits.lower.gather(1, label[:, None]) - logits.upper
        margins = lower - 2 * unit_roundoff(lower.dtype) * lower.abs()
    return converted_down(margins.scatter(1, label[:, None], 0.0), dtype)


def _propagate(
    layers: list[nn.Module], ball: LpBall | Box, rules: Mapping[type[nn.Module], Rule]
) -> tuple[Interval, "_LinearStart | None"]:
    """Bounds behind the layers; and the ball there, if it is one still and bounds a further layer better."""
    interval = ball.hull()
    start = _LinearStart.of(ball) if isinstance(ball, LpBall) and not ball.is_box else None
    for layer in layers:
        interval = _behind(layer, interval, rules)
        if start is not None and type(layer) in (nn.Linear, nn.Conv2d):
            affine = _AffineMap.of(cast(Affine, layer), ball.center.dtype)
            interval = interval & start.behind(affine)
            start = None
        elif start is not None:
            start = start.through(layer)
    return interval, start


def _behind(layer: nn.Module, interval: Interval, rules: Mapping[type[nn.Module], Rule]) -> Interval:
    """Bounds behind a layer, which has to fit its input."""
    try:
        return rules[type(layer)](layer, interval)
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        shape = tuple(interval.lower.shape)
        raise InvalidInput(
            f"x must fit the network, but {layer} does not take values of shape {shape}: {reason}"
        ) from error


@dataclass(frozen=True)
class _LinearStart:
    """The ball behind the entry-wise layers that come before the first affine one."""

    ball: LpBall
    center: Tensor
    center_error: Tensor  # what rounding may have moved the centre by
    scale: Tensor  # (1, *D), how far one unit of perturbation of each entry reaches here

    @classmethod
    def of(cls, ball: LpBall) -> "_LinearStart":
        free = torch.ones_like(ball.center[:1])
        if ball.frozen_features is not None:
            free = free.masked_fill(ball.frozen_features.to(free.device), 0.0)
        return cls(ball, ball.center, torch.zeros_like(ball.center), free)

    def through(self, layer: nn.Module) -> "_LinearStart | None":
        """The ball behind one more layer; None if the layer is not entry-wise and linear."""
        if type(layer) in (nn.Identity, nn.Dropout):
            return self
        if type(layer) is nn.Flatten:
            return _LinearStart(self.ball, layer(self.center), layer(self.center_error), layer(self.scale))
        if type(layer) is Normalize:
            mean, std = (layer.per_channel(part, self.center) for part in (layer.mean, layer.std))
            rounding = 4 * unit_roundoff(std.dtype) * (self.center.abs() + mean.abs()) + underflow(std.dtype)
            error = (self.center_error + rounding) / std
            return _LinearStart(self.ball, (self.center - mean) / std, error, self.scale / std)
        return None

    def behind(self, affine: _AffineMap) -> Interval:
        r"""Bounds behind an affine map by Hölder: :math:`|w \cdot \delta| \le \|w\|_q \|\delta\|_p`."""
        # For p < 2 the l_2 ball is used, which contains the l_p ball: higher powers of weights may underflow.
        # What squares lose to underflow is made up for by the smallest normal number, under the root so that the
        # gradient at zero weights stays finite.
        q, tiny = min(self.ball.dual_norm, 2.0), torch.finfo(self.center.dtype).tiny
        powers = affine.apply(self.scale.pow(q) + tiny, affine.weight.abs().pow(q) + tiny, None)
        norms = (powers + affine.terms * tiny).pow(1 / q)
        reach = norms * per_row(self.ball.radii, norms)
        rounding_error = (affine.gamma * self.center.abs() + self.center_error) * (1 + affine.gamma) + tiny
        middle = affine.apply(self.center, affine.weight, affine.bias)
        return Interval.around(middle, reach * (1 + 8 * affine.gamma) + affine.spread(rounding_error), affine.gamma)
