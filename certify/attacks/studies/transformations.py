"""Search for transformations of an image that a model gets wrong: a grid of parameters, then gradients."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.numerics import converted_down, per_row
from certify.attacks.common.passes import examine
from certify.attacks.fixed_budget.losses import margin
from certify.models import frozen, predictions
from certify.results import Witness
from certify.semantic.images import Layout, with_noise
from certify.semantic.transformations import Transformation

POINTS = {0: 1, 1: 101, 2: 21, 3: 9}  # of the grid along each of so many parameters that vary
HALVINGS = 12  # towards the identity


@dataclass(frozen=True, eq=False, kw_only=True)
class TransformationWitness(Witness):
    """Transformed images that the model gets wrong, re-checked; distances are those of the parameters.

    Attributes:
        distance: (N,) float64, distance of the parameters from the identity in ``unit``, rounded up; 0 where the clean
            image is misclassified already, infinite where nothing was found.
        parameters: (N, k) float64, of ``adversarial``; NaN where nothing was found.
        transformation: the transformation, in words.
        unit: of the distances, see :class:`certify.semantic.SemanticCertificate`.
        reach: the distance of the whole range.
        epsilon: size of the l-infinity noise on top.
    """

    parameters: Tensor
    transformation: str
    unit: str
    reach: float
    epsilon: float = 0.0


@isolated
def transformation(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    transformation: Transformation,
    *,
    points: int | None = None,
    steps: int = 20,
    epsilon: float = 0.0,
    low: Limit = 0.0,
    high: Limit = 1.0,
    channels_last: bool = False,
    batch_size: int = 500,
) -> TransformationWitness:
    """A transformed image that the model gets wrong, for each input; as near to the identity as was found.

    A grid of the range comes first. Where all of it is classified correctly, gradient steps in the parameters, and in
    noise where there is any, start from its worst point. What is found is then moved towards the identity. Nothing is
    random, and what is found was run through the model once more.

    Args:
        model: maps images to logits (N, K).
        x: images, see :func:`certify.semantic.certify_transformation`.
        labels: (N,) correct classes.
        transformation: with a range for each parameter.
        points: of the grid along each parameter; None for 101, 21 or 9 for one, two or three parameters that vary.
        steps: of gradients.
        epsilon: size of l-infinity noise on top, in units of the input.
        low: lower side of the range of pixels: a number, a tensor that broadcasts to one input, or None.
        high: upper side, likewise.
        channels_last: whether images are (N, H, W, C).
        batch_size: images of a forward pass.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: see :func:`certify.models.probe`.
    """
    if not isinstance(transformation, Transformation):
        raise InvalidInput(
            f"transformation must be one of certify.semantic, got {type(transformation).__name__}: pass "
            f"Rotation((-5, 5))"
        )
    checks.at_least("points", 2 if points is None else points, 2)
    checks.at_least("steps", steps, 0)
    checks.at_least("batch_size", batch_size, 1)
    checks.inputs(x, low, high)
    x = x.detach()
    with frozen(model):
        model, _, labels, clean = examine(model, x, labels, batch_size)
        search = _Search(model, x, labels, transformation, checks.nonnegative("epsilon", epsilon), batch_size)
        search.sides, search.layout = (low, high), transformation.layout(x, channels_last=channels_last)
        search.take(torch.arange(len(x), device=x.device), search.identity, torch.zeros_like(x), clean != labels)
        search.over_grid(points)
        search.along_gradients(steps)
        search.toward_identity()
        return search.witness(clean)


class _Search:
    """The nearest parameters of each row at which the model errs, and the worst ones of the others."""

    sides: tuple[Limit, Limit]
    layout: Layout

    def __init__(
        self, model: nn.Module, x: Tensor, labels: Tensor, which: Transformation, epsilon: float, batch_size: int
    ) -> None:
        self.model, self.x, self.labels, self.which = model, x, labels, which
        self.epsilon, self.batch_size = epsilon, batch_size
        parts = which.parameters
        like = torch.zeros(len(x), len(parts), dtype=torch.float64, device=x.device)
        self.identity = like + like.new_tensor([min(max(part.identity, part.low), part.high) for part in parts])
        self.low, self.high = like.new_tensor([(part.low, part.high) for part in parts]).unbind(1)
        self.found = torch.full_like(like, torch.nan)
        self.noise = torch.zeros_like(x)
        self.distance = like.new_full((len(x),), math.inf)
        self.worst, self.lead = self.identity.clone(), like.new_full((len(x),), math.inf)
        self.passes = 0

    @property
    def varies(self) -> list[int]:
        """Places of the parameters that vary."""
        return [place for place, part in enumerate(self.which.parameters) if part.low < part.high]

    def images(self, rows: Tensor, values: Tensor, noise: Tensor) -> Tensor:
        """Transformed images with noise, within the range of pixels."""
        low, high = self.sides
        made = self.which.transformed(self.x[rows], values, self.layout, low, high)
        return made if self.epsilon == 0 else with_noise(made, noise, low, high)

    def take(self, rows: Tensor, values: Tensor, noise: Tensor, wrong: Tensor) -> None:
        """Keep parameters at which rows, each of them once, are wrong, where they are nearer than those before."""
        distance = torch.where(wrong, self.which.distance(values), math.inf)
        nearer = distance < self.distance[rows]  # no row is chosen by a mask, for which the host would wait
        self.distance[rows] = torch.where(nearer, distance, self.distance[rows])
        self.found[rows] = torch.where(nearer[:, None], values, self.found[rows])
        self.noise[rows] = torch.where(per_row(nearer, noise), noise, self.noise[rows])

    def over_grid(self, points: int | None) -> None:
        """All points of a grid, the nearest to the identity first, of all rows that are right so far."""
        count = points or POINTS[min(3, len(self.varies))]
        shares = torch.linspace(0, 1, count, dtype=torch.float64, device=self.x.device)
        axes = [shares if place in self.varies else shares[:1] for place in range(self.low.numel())]
        grid = self.which.within(torch.cartesian_prod(*axes).view(-1, len(axes)))
        grid = grid[self.which.distance(grid).argsort(stable=True)]
        rows = self.distance.isinf().nonzero()[:, 0]
        if len(rows) == 0:
            return
        for part in rows.split(max(1, self.batch_size // len(grid))):  # all points of some rows, or
            for some in grid.split(self.batch_size):  # some points of one row
                here, values = part.repeat_interleave(len(some)), some.repeat(len(part), 1)
                lead, wrong = (
                    found.view(len(part), -1) for found in self._leads(here, values, torch.zeros_like(self.x[here]))
                )
                first = wrong.to(torch.uint8).argmax(1)
                self.take(part, some[first], torch.zeros_like(self.x[part]), wrong.any(1))
                least, place = lead.min(1)
                lower = least < self.lead[part]
                self.worst[part] = torch.where(lower[:, None], some[place], self.worst[part])
                self.lead[part] = torch.where(lower, least, self.lead[part])
        self.passes += len(grid)

    def _leads(self, rows: Tensor, values: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Lead (B,) of the label over the best other class, and where another class wins; without gradients."""
        with torch.no_grad():
            logits = self.model(self.images(rows, values, noise))
            lead = -margin(logits.double(), self.labels[rows])
            wrong = logits.isfinite().all(1) & (logits.argmax(1) != self.labels[rows])
        return lead.nan_to_num(nan=math.inf), wrong

    def along_gradients(self, steps: int) -> None:
        """Signed steps, which grow shorter, from the worst parameters of the rows that are right so far."""
        size = (self.high - self.low) / 20
        most = converted_down(self.low.new_tensor(self.epsilon), self.x.dtype)
        for rows in self.distance.isinf().nonzero()[:, 0].split(self.batch_size):
            values, noise = self.worst[rows].clone(), torch.zeros_like(self.x[rows])
            for step in range(steps if len(rows) else 0):
                with torch.enable_grad():
                    inner = values.requires_grad_(), noise.requires_grad_()
                    loss = margin(self.model(self.images(rows, *inner)), self.labels[rows]).sum()
                    slopes = torch.autograd.grad(loss, inner, allow_unused=True)
                values, noise = values.detach(), noise.detach()
                share = 1 - step / steps
                if slopes[0] is not None:
                    values = (values + size * share * slopes[0].sign()).clamp(self.low, self.high)
                if slopes[1] is not None:
                    noise = (noise + most * share * slopes[1].sign()).clamp(-most, most)
                self.take(rows, values, noise, self._leads(rows, values, noise)[1])
        self.passes += 2 * steps

    def toward_identity(self) -> None:
        """Bisection of the way from the identity to what was found."""
        rows = (self.distance.isfinite() & (self.distance > 0)).nonzero()[:, 0]
        for part in rows.split(self.batch_size) if len(rows) else ():
            right, far = self.identity[part], self.found[part].clone()
            for _ in range(HALVINGS):
                middle = (right + far) / 2
                wrong = self._leads(part, middle, self.noise[part])[1]
                self.take(part, middle, self.noise[part], wrong)
                right, far = torch.where(wrong[:, None], right, middle), torch.where(wrong[:, None], middle, far)
        self.passes += HALVINGS

    def witness(self, clean: Tensor) -> TransformationWitness:
        """The record of what was found, after the model has been run on it once more."""
        found = self.distance.isfinite()
        values = torch.where(found[:, None], self.found, self.identity)
        every = torch.arange(len(self.x), device=self.x.device)
        made = [self.images(rows, values[rows], self.noise[rows]) for rows in every.split(self.batch_size)]
        adversarial = torch.where(per_row(found & (clean == self.labels), self.x), torch.cat(made), self.x)
        again = predictions(self.model, adversarial, self.batch_size) if len(self.x) else clean
        found = found & (again != self.labels) & (again >= 0) | (clean != self.labels)
        distance = torch.where(clean != self.labels, 0.0, self.distance * self.which.reach * (1 + 1e-12))
        return TransformationWitness(
            label=clean,
            distance=torch.where(found, distance, math.inf),
            adversarial=torch.where(per_row(found, self.x), adversarial, self.x),
            found=found,
            adversarial_label=torch.where(found, again, clean),
            norm=math.nan,
            queries=self.passes + 2,
            method="transformation",
            parameters=self.found.masked_fill(~found[:, None], math.nan),
            transformation=repr(self.which),
            unit=self.which.unit,
            reach=self.which.reach,
            epsilon=self.epsilon,
        )
