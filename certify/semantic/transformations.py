"""Transformations of images, each with a range for its parameters.

Geometric ones move the places at which the image is sampled, by bilinear interpolation. Angles, factors and shifts are
about the centre of the image, in pixels: what :func:`torch.nn.functional.affine_grid` and
:func:`torch.nn.functional.grid_sample` do with ``align_corners=False``.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from bounds import checks
from bounds.checks import Limit
from bounds.errors import InvalidInput
from bounds.transformations import maps
from bounds.transformations.pipelines import Pipeline
from bounds.transformations.sampling import PADDINGS
from certify.semantic.images import Layout

Range = tuple[float, float]

MOST_PARAMETERS = 3


class Parameter(NamedTuple):
    """One parameter of a transformation and its range.

    Attributes:
        name: in words.
        low: least value.
        high: largest value.
        identity: the value that leaves images as they are.
        unit: ``"degrees"``, ``"pixels"`` or ``"factor"``.
    """

    name: str
    low: float
    high: float
    identity: float
    unit: str

    @property
    def reach(self) -> float:
        """The largest distance from the identity within the range, or 1 if there is none."""
        return max(abs(self.low - self.identity), abs(self.high - self.identity)) or 1.0


class Transformation(ABC):
    """Base of all transformations: parameters with ranges, and what they do to images."""

    @property
    @abstractmethod
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameters and their ranges, in the order in which their values are passed."""

    @abstractmethod
    def pipeline(self, first: int = 0) -> Pipeline:
        """The computation, for parameters whose places begin at ``first``."""

    @property
    def unit(self) -> str:
        """The unit of radii: that of the parameters that vary if they share one and its reach, else the range."""
        varying = [part for part in self.parameters if part.low < part.high] or list(self.parameters)
        same = {(part.unit, part.reach) for part in varying}
        return varying[0].unit if len(same) == 1 else "share of the range"

    @property
    def reach(self) -> float:
        """The radius of the whole range, in :attr:`unit`."""
        varying = [part for part in self.parameters if part.low < part.high] or list(self.parameters)
        return 1.0 if self.unit == "share of the range" else varying[0].reach

    def within(self, shares: Tensor) -> Tensor:
        """Parameters (.., k) at shares of their ranges from 0 to 1."""
        low, high = shares.new_tensor([(part.low, part.high) for part in self.parameters]).unbind(1)
        return torch.lerp(low.expand_as(shares), high.expand_as(shares), shares)

    def distance(self, values: Tensor) -> Tensor:
        """Distance of parameters (.., k) from the identity, as a share of the range of each: the largest of these."""
        numbers = [(part.identity, part.reach) for part in self.parameters]
        identity, reach = values.new_tensor(numbers).unbind(1)
        return ((values - identity).abs() / reach).amax(-1)

    def apply(
        self, x: Tensor, values: Tensor, *, low: Limit = 0.0, high: Limit = 1.0, channels_last: bool = False
    ) -> Tensor:
        """Images transformed with parameters of their own, computed in float64 and rounded to the dtype of ``x``.

        Gradients reach the parameters and the images.

        Args:
            x: (N, C, H, W) or (N, H, W); of :class:`Photometric` any (N, *D).
            values: (N, k), one for each parameter.
            low: lower side of the range of pixels, to which brightness, contrast and gamma are clipped: a number, a
                tensor that broadcasts to one image, or None.
            high: upper side, likewise.
            channels_last: whether images are (N, H, W, C).

        Raises:
            InvalidInput: images or values of another shape.

        >>> x = torch.arange(4.0).view(1, 1, 2, 2)
        >>> Rotation((-90, 90)).apply(x, torch.tensor([[90.0]]), high=3.0).round()
        tensor([[[[1., 3.],
                  [0., 2.]]]])
        """
        layout = self.layout(x, channels_last=channels_last)
        if checks.tensor("values", values).shape != (len(x), len(self.parameters)):
            raise InvalidInput(
                f"values must have shape ({len(x)}, {len(self.parameters)}), one row for each image, got "
                f"{tuple(values.shape)}"
            )
        return self.transformed(x, values.to(x.device), layout, low, high)

    def layout(self, x: Tensor, *, channels_last: bool) -> Layout:
        """The layout of inputs (N, *D), which are found to be images where that matters."""
        pipeline = self.pipeline()
        return Layout.of(x, geometric=bool(pipeline.maps) or pipeline.blur is not None, channels_last=channels_last)

    def transformed(self, x: Tensor, values: Tensor, layout: Layout, low: Limit, high: Limit) -> Tensor:
        """Images as of :meth:`apply`, without a check of the arguments, for which a host would wait."""
        sides = layout.side(low), layout.side(high)
        found = self.pipeline().apply(layout.to_images(x).double(), values.double(), *sides)
        return layout.back(found).to(x.dtype)

    def __post_init__(self) -> None:
        """Check the ranges."""
        if (padding := getattr(self, "padding", None)) is not None:
            checks.one_of("padding", padding, PADDINGS)
        for part in self.parameters:
            if not (math.isfinite(part.low) and math.isfinite(part.high) and part.low <= part.high):
                raise InvalidInput(
                    f"{part.name} must be a range (low, high) of finite numbers, got ({part.low}, {part.high}): "
                    f"exchange or repair them"
                )
        if (count := sum(part.low < part.high for part in self.parameters)) > MOST_PARAMETERS:
            raise InvalidInput(
                f"a transformation must vary in at most {MOST_PARAMETERS} parameters, got {count}: fix some of them"
            )


def _parameter(name: str, ends: Range, identity: float, unit: str, least: float = -math.inf) -> Parameter:
    """A parameter whose range was given as a pair of numbers."""
    if not isinstance(ends, Sequence) or len(ends) != 2:
        raise InvalidInput(f"{name} must be a range (low, high), got {ends!r}: pass (-5, 5) for up to 5 either way")
    low, high = (float(end) for end in ends)
    if low < least:
        raise InvalidInput(f"{name} must be at least {least:g}, got {low:g}: raise the lower end of the range")
    return Parameter(name, low, high, identity, unit)


@dataclass(frozen=True)
class Rotation(Transformation):
    """Rotation about the centre by a range of degrees, counter-clockwise as one looks at the image.

    Attributes:
        degrees: least and largest angle.
        padding: pixels beyond the image: ``"zeros"``, ``"border"`` (the nearest pixel), or ``"cyclic"``.
    """

    degrees: Range
    padding: str = "zeros"

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The angle."""
        return (_parameter("degrees", self.degrees, 0.0, "degrees"),)

    def pipeline(self, first: int = 0) -> Pipeline:
        """The computation."""
        return Pipeline(maps=((maps.rotation, first),), padding=self.padding)


@dataclass(frozen=True)
class Translation(Transformation):
    """Translation by pixels, to the right and downward; enclosed exactly.

    Attributes:
        horizontal: least and largest shift to the right.
        vertical: likewise downward; None for the range of ``horizontal``.
        padding: see :class:`Rotation`.
    """

    horizontal: Range
    vertical: Range | None = None
    padding: str = "zeros"

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The shifts to the right and downward."""
        down = self.horizontal if self.vertical is None else self.vertical
        return _parameter("horizontal", self.horizontal, 0.0, "pixels"), _parameter("vertical", down, 0.0, "pixels")

    def pipeline(self, first: int = 0) -> Pipeline:
        """The computation."""
        axes = tuple((partial(maps.translation, axis=axis), first + axis) for axis in (0, 1))
        return Pipeline(maps=axes, shifts=True, padding=self.padding)


@dataclass(frozen=True)
class Scale(Transformation):
    """Enlargement about the centre by a range of factors; below 1 the image shrinks.

    Attributes:
        factor: least and largest factor, above 0.
        padding: see :class:`Rotation`.
    """

    factor: Range
    padding: str = "zeros"

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The factor."""
        return (_parameter("factor", self.factor, 1.0, "factor", least=0.01),)

    def pipeline(self, first: int = 0) -> Pipeline:
        """The computation."""
        return Pipeline(maps=((maps.scale, first),), padding=self.padding)


@dataclass(frozen=True)
class Shear(Transformation):
    """Shear by a range of factors: rows move to the right by the factor times their distance below the centre.

    Attributes:
        factor: least and largest factor.
        padding: see :class:`Rotation`.
    """

    factor: Range
    padding: str = "zeros"

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The factor."""
        return (_parameter("factor", self.factor, 0.0, "factor"),)

    def pipeline(self, first: int = 0) -> Pipeline:
        """The computation."""
        return Pipeline(maps=((maps.shear, first),), padding=self.padding)


@dataclass(frozen=True)
class Photometric(Transformation):
    """Gamma, contrast and brightness: ``contrast * x ** gamma + brightness``, clipped to the range of pixels.

    Attributes:
        contrast: least and largest factor, at least 0.
        brightness: least and largest offset, in units of the input.
        gamma: least and largest power, above 0; for inputs of at least 0.
    """

    contrast: Range = (1.0, 1.0)
    brightness: Range = (0.0, 0.0)
    gamma: Range = (1.0, 1.0)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Contrast, brightness and gamma."""
        return (
            _parameter("contrast", self.contrast, 1.0, "factor", least=0.0),
            _parameter("brightness", self.brightness, 0.0, "input units"),
            _parameter("gamma", self.gamma, 1.0, "factor", least=0.01),
        )

    def pipeline(self, first: int = 0) -> Pipeline:
        """The computation; a power of 1 is left out, which any input has."""
        power = None if self.gamma[0] == self.gamma[1] == 1 else first + 2
        return Pipeline(contrast=first, brightness=first + 1, gamma=power)


@dataclass(frozen=True)
class Blur(Transformation):
    """Gaussian blur with a range of standard deviations, of a kernel that ends after three of the largest.

    Attributes:
        sigma: least and largest standard deviation in pixels, at least 0.
        padding: see :class:`Rotation`.
    """

    sigma: Range
    padding: str = "border"

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The standard deviation."""
        return (_parameter("sigma", self.sigma, 0.0, "pixels", least=0.0),)

    def pipeline(self, first: int = 0) -> Pipeline:
        """The computation."""
        return Pipeline(blur=first, reach=max(1, math.ceil(3 * self.sigma[1])), blur_padding=self.padding)


class Compose(Transformation):
    """Several transformations one after the other.

    Geometric ones come first: their maps of the plane are composed, and the image is sampled once. Then there may be a
    blur, and then a :class:`Photometric`.

    Args:
        parts: transformations in the order in which they act; at most three of all their parameters vary.

    Raises:
        InvalidInput: no parts, another order, several paddings, too many parameters.
    """

    def __init__(self, *parts: Transformation) -> None:
        if not parts or not all(isinstance(part, Transformation) for part in parts):
            raise InvalidInput(f"parts must be transformations such as Rotation((-5, 5)), got {parts!r}: pass some")
        stages = [2 if isinstance(part, Photometric) else int(isinstance(part, Blur)) for part in parts]
        if any(isinstance(part, Compose) for part in parts) or stages != sorted(stages) or _doubled(stages):
            names = ", ".join(type(part).__name__ for part in parts)
            raise InvalidInput(
                f"parts must be geometric transformations, then at most one Blur, then at most one Photometric, got "
                f"{names}: put them into this order"
            )
        paddings = {each.padding for each in (part.pipeline() for part in parts) if each.maps}
        if len(paddings) > 1:
            raise InvalidInput(f"geometric parts must share a padding, got {', '.join(sorted(paddings))}: choose one")
        self.parts = parts
        self.__post_init__()

    def __repr__(self) -> str:
        return f"Compose({', '.join(map(repr, self.parts))})"

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Parameters of all parts in turn."""
        return tuple(parameter for part in self.parts for parameter in part.parameters)

    def pipeline(self, first: int = 0) -> Pipeline:
        """The computation of all parts."""
        found, place = [], first
        for part in self.parts:
            found.append(part.pipeline(place))
            place += len(part.parameters)
        last = found[-1]
        blurs = [each for each in found if each.blur is not None]
        moving = [each for each in found if each.maps]
        return Pipeline(
            maps=tuple(step for each in moving for step in each.maps),
            shifts=len(moving) == 1 and moving[0].shifts,  # sums of shifts pass whole pixels anywhere
            blur=blurs[0].blur if blurs else None,
            reach=blurs[0].reach if blurs else 0,
            padding=(moving or found)[0].padding,
            blur_padding=(blurs or found)[0].blur_padding,
            gamma=last.gamma,
            contrast=last.contrast,
            brightness=last.brightness,
        )


def _doubled(stages: list[int]) -> bool:
    return any(stages.count(stage) > 1 for stage in (1, 2))
