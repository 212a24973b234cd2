"""Moves within a ball, and a model with the labels of a batch: what losses of robust training share."""

import math
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bounds import LpBall, checks
from bounds.errors import InvalidInput
from bounds.models import class_logits, require_module
from bounds.numerics import per_row
from bounds.sets.norms import clip, inner_side, length, project, steepest_ascent


@dataclass(frozen=True, eq=False)
class Moves:
    """Perturbations within a ball and its box, in single precision at least.

    Attributes:
        ball: the N balls, in l_2 or l_infinity.
        center: (N, *D), the inputs, in the dtype of the perturbations.
        radius: (N,), likewise.
        lower: lower side of the box, or None.
        upper: upper side of the box, or None.
    """

    ball: LpBall
    center: Tensor
    radius: Tensor
    lower: Tensor | None
    upper: Tensor | None

    @classmethod
    def within(cls, ball: LpBall) -> "Moves":
        """The moves of a ball; others than in l_2 and l_infinity are refused, and so is a batch without inputs."""
        if not isinstance(ball, LpBall) or ball.norm not in (2, math.inf):
            given = f"norm {ball.norm:g}" if isinstance(ball, LpBall) else type(ball).__name__
            raise InvalidInput(
                f"ball must be a bounds.LpBall of norm 2 or math.inf, got {given}: pass LpBall(x, epsilon)"
            )
        center = checks.not_empty(ball.center.detach())
        center = center.to(torch.promote_types(center.dtype, torch.float32))
        radius = torch.as_tensor(ball.radius, dtype=center.dtype, device=center.device).expand(len(center))
        sides = inner_side(ball.low, center, math.inf), inner_side(ball.high, center, -math.inf)
        return cls(ball, center, radius, *sides)

    def points(self, delta: Tensor) -> Tensor:
        """The perturbed inputs (N, *D), in the dtype of the inputs."""
        return clip(self.center + delta, self.lower, self.upper).to(self.ball.center.dtype)

    def project(self, delta: Tensor) -> Tensor:
        """Perturbations (N, *D) pulled into the ball, then into the box, which does not lead out of the ball."""
        delta = clip(self.center + project(delta, self.radius, self.ball.norm), self.lower, self.upper) - self.center
        return self._free(delta)

    def uniform(self, generator: torch.Generator | None) -> Tensor:
        """Perturbations (N, *D) uniform in the ball, pulled into the box."""
        source = checks.generator(generator, self.center.device)
        noise = self.center.new_empty(self.center.shape)  # of one layout, so that the draws do not depend on that of x
        if self.ball.norm == math.inf:
            return self.project(noise.uniform_(-1, 1, generator=source) * per_row(self.radius, noise))
        noise.normal_(generator=source)
        share = self.radius.new_empty(len(noise)).uniform_(generator=source) ** (1 / noise[0].numel())
        return self.project(noise / per_row(length(noise, 2), noise) * per_row(share * self.radius, noise))

    def normal(self, scale: float, generator: torch.Generator | None) -> Tensor:
        """Normal perturbations (N, *D) of a standard deviation, pulled into ball and box."""
        source = checks.generator(generator, self.center.device)
        return self.project(self.center.new_empty(self.center.shape).normal_(0, scale, generator=source))

    def step(self, delta: Tensor, gradient: Tensor, size: Tensor) -> Tensor:
        """The perturbations (N, *D) after steepest ascent by ``size`` (N,), pulled back."""
        ascent = steepest_ascent(self._free(gradient.to(delta.dtype)), self.ball.norm)
        return self.project(delta + per_row(size, delta) * ascent)

    def size(self, step_size: float | None, default: float) -> Tensor:
        """The length of a step of each row (N,): the one given, or a multiple of the radius."""
        if step_size is None:
            return default * self.radius
        return torch.full_like(self.radius, checks.positive("step_size", step_size))

    def _free(self, delta: Tensor) -> Tensor:
        mask = self.ball.frozen_features
        return delta if mask is None else torch.where(mask.to(delta.device), 0.0, delta)


class Labelled:
    """A model with the labels (N,) of a batch, which are checked once, at its first answer."""

    def __init__(self, model: nn.Module, y: Tensor) -> None:
        require_module(model)
        self.model = model
        self._y, self._checked = y, False

    def logits(self, points: Tensor) -> Tensor:
        """Logits (N, K) at points (N, *D), in single precision at least."""
        logits = class_logits(self.model(points), len(points))
        if not self._checked:
            self._y, self._checked = checks.labels(self._y, len(points), logits.shape[1]).to(logits.device), True
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def losses(self, points: Tensor) -> Tensor:
        """Cross-entropy of each row, (N,)."""
        return self.cross_entropy(self.logits(points))

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """Cross-entropy (N,) of logits that :meth:`logits` gave."""
        return F.cross_entropy(logits, self._y, reduction="none")

    def loss(self, points: Tensor) -> Tensor:
        """Mean cross-entropy, a scalar."""
        return self.losses(points).mean()

    def input_gradient(self, points: Tensor, *, differentiable: bool) -> Tensor:
        """Gradient (N, *D) of the cross-entropy of each row, in single precision at least."""
        # The fused kernels of attention have no second derivatives.
        kernels = sdpa_kernel(SDPBackend.MATH) if differentiable else nullcontext()
        with torch.enable_grad(), kernels:
            points = points.detach().requires_grad_()
            losses = self.losses(points)
            (gradient,) = torch.autograd.grad(losses.sum(), points, create_graph=differentiable)
        return gradient.to(torch.promote_types(gradient.dtype, torch.float32))
