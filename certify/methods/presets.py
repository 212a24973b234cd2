"""Presets: methods of every kind at once, in every norm that is asked for."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from bounds.checks import Limit
from certify.methods.base import Method
from certify.methods.proofs import (
    CompleteSearch,
    IntervalBounds,
    LinearBounds,
    LinearBoundsBehindIntervals,
    Lipschitz,
    OptimisedLinearBounds,
)
from certify.methods.random_noise import RandomNoise
from certify.methods.searches import Clever, MinimalPerturbation
from certify.methods.smoothed import SIGMA, SmoothedAttack, Smoothing
from certify.smoothing import Gaussian, InNorm, Noise, Uniform
from certify.stored_inputs import Rows

SMOOTHING_NAMES = {2.0: "smoothing", 1.0: "smoothing_l1", math.inf: "smoothing_linf"}


class Space(NamedTuple):
    """The size of the inputs, by which lengths are chosen.

    Attributes:
        width: of the box; 1 without one, as for standardised features.
        dimension: entries of an input.
    """

    width: float = 1.0
    dimension: int = 1

    @classmethod
    def of(cls, x: Rows, low: Limit, high: Limit) -> "Space":
        """The size of inputs (N, *D) in a box; of several widths, the median."""
        dimension = max(x[0].numel(), 1) if len(x) else 1
        if low is None or high is None:
            return cls(1.0, dimension)
        width = high - low
        width = float(width.double().median()) if isinstance(width, Tensor) else float(width)
        return cls(width if 0 < width < math.inf else 1.0, dimension)


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Numbers by which presets differ.

    Attributes:
        n: draws of smoothing for each input.
        linear: classes of linear bounds.
        attack: the minimum-norm attack.
        estimates: batches of CLEVER, and points of each.
        noise: draws of random noise for each input.
        complete: seconds of complete search for each input; 0 for none.
        more: methods that only this preset has.
    """

    n: int
    linear: tuple[type[Method], ...]
    attack: MinimalPerturbation
    estimates: tuple[int, int]
    noise: int
    complete: float
    more: Callable[[float], tuple[Method, ...]] = lambda sigma: ()


PRESETS: dict[str, Effort] = {
    "quick": Effort(
        n=1000,
        linear=(LinearBoundsBehindIntervals,),
        attack=MinimalPerturbation(steps=20, restarts=1),
        estimates=(10, 64),
        noise=200,
        complete=0.0,
    ),
    "standard": Effort(
        n=10_000,
        linear=(LinearBoundsBehindIntervals, LinearBounds, OptimisedLinearBounds),
        attack=MinimalPerturbation(),
        estimates=(50, 128),
        noise=500,
        complete=10.0,
    ),
}
PRESETS["thorough"] = replace(
    PRESETS["standard"],
    n=100_000,
    attack=MinimalPerturbation(method="best"),
    estimates=(100, 256),
    noise=1000,
    complete=60.0,
    more=lambda sigma: (Lipschitz(name="lipschitz_local", method="local"), SmoothedAttack(sigma=sigma)),
)


def preset_methods(name: str, norms: Sequence[float], space: Space) -> list[Method]:
    """The methods of a preset that serve some of the norms.

    Args:
        name: ``"quick"``, ``"standard"`` or ``"thorough"``.
        norms: orders that are asked for; each gets the methods that serve it.
        space: the size of the inputs, in which noise and radii are chosen.

    >>> [method.name for method in preset_methods("quick", [2.0], Space())]
    ['smoothing', 'ibp', 'crown_ibp', 'lipschitz', 'clever', 'attack', 'noise']
    """
    effort, width = PRESETS[name], space.width
    batches, points = effort.estimates
    smoothing = [
        Smoothing(name=SMOOTHING_NAMES[norm], n=effort.n, noise=noise)
        for norm, noise in _noises(space).items()
        if norm in norms
    ]
    complete = [CompleteSearch(timeout=effort.complete)] if effort.complete else []
    radii = {name: getattr(Clever(), name) * width for name in ("radius_l1", "radius_l2", "radius_linf")}
    everything = [
        *smoothing,
        IntervalBounds(),
        *(kind() for kind in effort.linear),
        Lipschitz(),
        *complete,
        Clever(num_batches=batches, batch_size=points, **radii),
        effort.attack,
        RandomNoise(draws=effort.noise, limit=width),
        *effort.more(SIGMA * width),
    ]
    return [method for method in everything if set(method.norms) & set(norms)]


def _noises(space: Space) -> dict[float, Noise]:
    """The noise of the smoothed classifier that is certified in each norm; all have the same standard deviation."""
    gaussian = Gaussian(SIGMA * space.width)
    return {
        2.0: gaussian,
        1.0: Uniform(math.sqrt(3) * SIGMA * space.width),
        math.inf: InNorm(gaussian, math.inf, dimension=space.dimension),
    }


def not_served(methods: Sequence[Method], norms: Sequence[float]) -> list[str]:
    """Norms that methods of a preset do not serve, a sentence each."""
    groups: dict[str, list[Method]] = {"smoothing": [method for method in methods if isinstance(method, Smoothing)]}
    groups |= {method.name: [method] for method in methods if not isinstance(method, Smoothing)}
    served = {name: {norm for method in group for norm in method.norms} for name, group in groups.items()}
    missing = {name: [norm for norm in norms if norm not in there] for name, there in served.items()}
    return [f"{name} does not serve {_listed(orders)}" for name, orders in missing.items() if orders]


def _listed(orders: Sequence[float]) -> str:
    return " and ".join(f"l{order:g}" for order in orders)
