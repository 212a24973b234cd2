r"""Real-valued noise of a symmetric density that falls with the distance from 0: steps of a staircase, and the rest.

The steps are narrow cells. Below the density at the far end of a cell the draw is uniform within the cell: a table of
16 bits picks the cell, 16 others the place in it. About 1 % of the mass lies above the steps. There the density of a
cell is taken for a parabola with its values at both ends and its mass, which is exact to 2**-63, and the place is found
by inverting the integral. The distribution function is that of the noise within 1e-10, places within 1e-7 of a cell,
which single precision does not show, and the tail reaches to a probability of 2**-63.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bounds.statistics.proportions import FloatArray
from certify.smoothing.drawing.bits import Source
from certify.smoothing.drawing.lookup import BITS, LEADING, REST, Lookup

CENTRAL_MASS = 1 / 200  # of the cell at 0: narrower cells leave less above the steps and more that fills no number
DITHER = 2.0**-16  # of a cell, in which places within it are counted

Number = TypeVar("Number", np.uint64, np.int64, np.float64)
Function = Callable[[FloatArray], FloatArray]


class Staircase(NamedTuple):
    """Steps of one law, and above the step of each cell a parabola.

    Cells are counted from the far end of the negative side to that of the positive one.

    Attributes:
        lookup: of the cells, with their middles as values.
        width: of a cell.
        near: (C,) float64, density above the step at the end of each cell that is nearer to 0.
        far: (C,) float64, the same at the other end.
        bulge: (C,) float64, by how much the mean density exceeds that of the two ends.
    """

    lookup: Lookup
    width: float
    near: FloatArray
    far: FloatArray
    bulge: FloatArray

    @classmethod
    def of(cls, upper_tail: Function, density: Function, reach: float) -> "Staircase":
        """The staircase of a law, from its tail and density at t >= 0; beyond ``reach`` the tail is below 2**-64."""
        width = CENTRAL_MASS / float(density(np.zeros(1))[0])
        ends = np.arange(int(np.ceil(reach / width)) + 1, dtype=np.float64) * width
        tails, heights = upper_tail(ends), density(ends)
        exact: FloatArray = np.subtract(tails[:-1], tails[1:])
        beyond = np.floor(tails * 2.0**BITS).astype(np.uint64)
        beyond[-1] = 0  # in the last cell
        masses = beyond[:-1] - beyond[1:]
        whole = np.floor(heights[1:] * (width * (1 - 1e-9) * 2**LEADING)).astype(np.int64)
        whole = np.minimum(whole, (masses >> np.uint64(REST)).astype(np.int64))
        step = whole / (width * 2**LEADING)
        middles = (np.arange(len(masses)) + 0.5) * width
        drawn = np.concatenate([-middles[::-1], middles]) + 0.5 * DITHER * width  # the mean of the dither is below 0
        lookup = Lookup.of(both(masses), both(whole), drawn.astype(np.float32))
        bulge = exact / width - (heights[:-1] + heights[1:]) / 2
        return cls(lookup, width, both(heights[:-1] - step), both(heights[1:] - step), both(bulge))

    def draw_blocks_(self, out: Tensor, sources: Sequence[Source]) -> Tensor:
        """Fill ``out``, contiguous, on the host and in single precision; each source makes an equal part."""
        drawn = self.lookup.fill_(out, sources, self.width * DITHER)
        out.view(-1).numpy()[drawn.place] = self.above(drawn.cell, drawn.within)
        return out

    def above(self, cell: NDArray[np.int64], share: FloatArray) -> FloatArray:
        """Places (R,) in cells (R,) above whose steps a share of the mass lies nearer to 0."""
        near, far, bulge = self.near[cell], self.far[cell], self.bulge[cell]
        wanted = share * ((near + far) * 0.5 + bulge)
        # The root for a straight line of the same mass, and a step of Newton's method for the parabola.
        first, fall = near + bulge, far - near
        t = 2 * wanted / (first + np.sqrt(np.maximum(first**2 + 2 * fall * wanted, 0.0)))
        missing = wanted - t * (near + t * (0.5 * fall + bulge * (3 - 2 * t)))
        slope = np.maximum(near + t * (fall + 6 * bulge * (1 - t)), 0.01 * first)  # 0 at the far end of a full step
        t = (t + missing / slope).clip(0.0, 1.0)
        side = cell - len(self.near) // 2
        return np.where(side < 0, side + 1 - t, side + t) * self.width


def both(one_side: NDArray[Number]) -> NDArray[Number]:
    """Values (2 * C,) of the cells of both sides, from those of one."""
    return np.concatenate([one_side[::-1], one_side])
