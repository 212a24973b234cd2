"""Certified, attacked and random accuracy against the size of perturbations of a set."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bounds import checks
from bounds.sets.orders import CHANGES
from certify.curves import AttackedAccuracyCurve, CertifiedAccuracyCurve, labelled
from certify.sets.draws import SetAccuracy

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

SIZES = 21  # in a table where none are asked for


@dataclass(frozen=True, eq=False, kw_only=True)
class SetCurves:
    """Accuracy under perturbations of a set up to a size: proved, left by an attack, and random.

    Attributes:
        certified: the proved curve, a lower bound.
        attacked: what an attack left, an upper bound; or None.
        random: copies under random draws; or None.
        reach: the largest size that the set has.
        unit: of sizes.
    """

    certified: CertifiedAccuracyCurve
    attacked: AttackedAccuracyCurve | None
    random: SetAccuracy | None
    reach: float
    unit: str

    def sentences(self) -> list[str]:
        """Accuracy over the whole range, a sentence."""
        last = self.to_dataframe([self.reach]).iloc[0]
        words: dict[str, tuple[str, Callable[[float], float]]] = {  # shares are rounded to their safe side
            "certified": ("at least {:.1f} % proved", math.floor),
            "attacked": ("at most {:.1f} % left by an attack", math.ceil),
            "random": ("{:.1f} % of random draws right", round),
        }
        there = [name for name in words if last.get(name, math.nan) >= 0]  # no draw may lie within
        said = [words[name][0].format(words[name][1](1000 * round(last[name], 9)) / 10) for name in there]
        return [f"accuracy up to {self.reach:g} ({self.unit}): {', '.join(said)}"]

    def to_dataframe(self, radii: Sequence[float] | Tensor | None = None) -> "pd.DataFrame":
        """Columns radius, certified, attacked and random; the last of copies within the radius."""
        import pandas as pd

        limit = self.certified.limit
        r = (self._sizes(SIZES) if radii is None else torch.as_tensor(radii)).to(limit.device, torch.float64)
        columns = {"radius": r, "certified": self.certified.at(r)}
        if self.attacked is not None:
            columns["attacked"] = self.attacked.at(r)
        if self.random is not None:
            distance, order = self.random.distance.flatten().sort()  # NaN, where a copy was left out, comes last
            right = torch.cat([order.new_zeros(1), self.random.right.flatten()[order].cumsum(0)])
            within = torch.searchsorted(distance, r.to(distance.device), right=True)
            columns["random"] = right[within] / within.double()  # NaN where no copy is as near
        return pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})

    def plot(self, ax: "Axes | None" = None, *, radii: Sequence[float] | Tensor | None = None) -> "Axes":
        """Draw the curves on ``ax`` (the current axes if None) and return the axes."""
        ax = checks.axes(ax)
        table = self.to_dataframe(self._sizes(10 * SIZES) if radii is None else radii)
        counted = self.unit == CHANGES  # nothing lies between two numbers of changes
        look: dict[str, Any] = {"marker": "."} if counted else {}
        ax.step(table.radius, table.certified, where="post" if counted else "pre", label="certified", **look)
        if "attacked" in table:
            ax.step(table.radius, table.attacked, where="post", linestyle="--", label="attacked", **look)
        if "random" in table:
            ax.plot(table.radius, table.random, linestyle=":", label="random", **look)
        return labelled(ax, self.certified.norm, self.unit)

    def _sizes(self, points: int) -> Tensor:
        """Sizes from 0 to the largest: so many of them, or all where they are whole numbers."""
        return torch.arange(int(self.reach) + 1) if self.unit == CHANGES else torch.linspace(0, self.reach, points)
