"""A perturbation set of one's own, with closed forms for linear classifiers."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

import bounds
from bounds import Interval

AXES = torch.tensor([1.0, 0.5, 0.2, 2.0, 0.7], dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Ellipsoid(bounds.PerturbationSet):
    """All inputs with ``sum(((x - center) / axes) ** 2) <= radius ** 2``."""

    center: Tensor
    axes: Tensor
    radius: Tensor

    def hull(self) -> Interval:
        reach = self.axes * self.radius[:, None] * (1 + 1e-12)
        return Interval(self.center - reach, self.center + reach)

    def largest_gain(self, slopes: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
        gain = torch.linalg.vector_norm(slopes * self.axes, dim=2) * self.radius[:, None]
        move = slopes * (self.axes * self.radius[:, None]).square()[:, None] / gain.clamp(min=1e-300)[..., None]
        return gain, move

    def rows(self, index: Tensor) -> "Ellipsoid":
        return replace(self, center=self.center[index], radius=self.radius[index])


class SearchedEllipsoid(Ellipsoid):
    """An ellipsoid that tells which points lie in it."""

    def contains(self, points: Tensor) -> Tensor:
        return self.size(points) <= self.radius * (1 - 1e-12)

    def size(self, points: Tensor) -> Tensor:
        """The radius of the ellipsoid through each point."""
        return torch.linalg.vector_norm((points.double() - self.center) / self.axes, dim=1)


def exact_radii(model: nn.Linear, x: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions, and the ellipsoidal radius at which another class of a linear classifier catches up."""
    logits = model(x)
    label = logits.argmax(1)
    gaps = logits.gather(1, label[:, None]) - logits
    slopes = model.weight[label][:, None] - model.weight
    radii = gaps.double() / torch.linalg.vector_norm(slopes.double() * AXES, dim=2)
    return label, radii.scatter(1, label[:, None], math.inf).amin(1).detach()
