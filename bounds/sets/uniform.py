r"""Points that are uniform in an l_p ball intersected with a box, exactly, for every p.

In the plain ball, with :math:`z_i` of density proportional to :math:`e^{-|z|^p}` and E exponential,
:math:`z / (\sum |z_i|^p + E)^{1/p}` is uniform (Barthe et al. 2005). Clipping it to the box would pile up mass on the
faces, and most points of a ball around an image leave the box. So entries are told apart:

- *open* entries, whose room in the box is far beyond what they need. Of those with room on one side only, as of black
  pixels, the sign is known, and the ball is symmetric.
- all others, which are drawn from :math:`e^{-\lambda |y|^p}` on their part of the box. With k open entries and
  :math:`S = \sum |y_i|^p` of the others, in units of :math:`r^p`, the uniform density is proportional to
  :math:`(1 - S)^{k/p}`, whose logarithm lies below its tangent of slope :math:`-\lambda`: the gap between the two
  decides which draws are accepted.

References:
    Barthe, Guédon, Mendelson, Naor (2005), A probabilistic approach to the geometry of the l_p^n-ball, Ann. Probab. 33.
"""

import hashlib
import math
import struct

import numpy as np
import torch
import torch.nn.functional as F
from scipy import special
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput
from bounds.sets.balls import LpBall

SPARE = 10  # one proposal in so many more than is needed; some 3 % are rejected. Part of the meaning of a seed
ROUNDS = 10_000  # of proposals, until it is said that there is no hope


def run_seed(generator: torch.Generator | None) -> int:
    """A seed from one draw of a generator, or of torch's default."""
    return checks.drawn_seed(generator)


def stream_seed(seed: int, row: int, stream: int) -> int:
    """Seed of one stream of one input; no two streams of an input share one.

    The generator of the CPU reads the low 32 bits alone, in which streams are counted from a start of the input's own.
    """
    digest = hashlib.blake2b(struct.pack("<QQ", seed, row), digest_size=4).digest()
    return (int.from_bytes(digest, "little") + stream) % 2**32


class UniformSampler:
    """Draws of uniform points from the set of one input.

    Args:
        ball: a ball around one input, (1, *D), with a finite radius above 0.
        patient: whether each draw makes sure that enough of its proposals were accepted. That makes the host wait for
            the device. Without it, only the first draw does; if hardly enough are accepted there, patience is taken up
            after all. Ask :attr:`short` once after all draws; if it is true, draw again with patience. Draws that have
            enough are the same either way.

    Attributes:
        short: bool tensor (), whether some draw had too few accepted proposals, and so repeats a point.

    Raises:
        InvalidInput: while drawing with patience, if hardly any proposal is accepted.
    """

    def __init__(self, ball: LpBall, *, patient: bool = True) -> None:
        self.center = ball.center
        self.norm = ball.norm
        self.radius = float(ball.radii[0])
        self.patient = patient
        self.drawn_before = False
        self.short = torch.zeros((), dtype=torch.bool, device=ball.center.device)
        x = ball.center.flatten().double().cpu()  # the choice of a proposal is made on the host, once
        low, high = (
            torch.full_like(x, sign * math.inf)
            if side is None
            else torch.as_tensor(side, dtype=torch.float64, device="cpu").expand(ball.center.shape[1:]).flatten()
            for side, sign in ((ball.low, -1), (ball.high, 1))
        )
        below, above = ((room / self.radius).clamp(min=0) for room in (x - low, high - x))
        if self.norm == math.inf:
            self.below, self.above = (self._placed(room.clamp(max=1)) for room in (below, above))
        else:
            self._split(below, above)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Independent points (count, *D), a function of the state of the generator alone."""
        if self.norm == math.inf:
            share = torch.rand(
                count, len(self.below), generator=generator, dtype=self.below.dtype, device=self.below.device
            )
            moved = torch.lerp(-self.below, self.above, share)
        else:
            moved = self._accepted(count, generator)
        return torch.add(self.center, moved.view(count, *self.center.shape[1:]), alpha=self.radius)

    def _accepted(self, count: int, generator: torch.Generator) -> Tensor:
        """Perturbations (count, F) of a ball of radius 1: the first proposals that are accepted."""
        moved, fits = self._proposals(count, generator)
        if self.patient or not self.drawn_before:
            accepted = int(fits.sum())
            self.patient = self.patient or accepted < (count + len(fits)) // 2
            self.drawn_before = True
            if accepted < count:
                moved, fits = self._completed(moved[fits], count, generator)
        self.short = self.short | (fits.sum() < count)
        first = (~fits).to(torch.uint8).argsort(stable=True)[:count]
        together = moved.index_select(0, torch.where(fits[first], first, first[0]))
        if self.columns is None:
            return together
        if together.shape[1] < self.size:
            together = F.pad(together, (0, 1))  # of entries that cannot move
        return together.index_select(1, self.columns)

    def _completed(self, moved: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """At least ``count`` accepted rows, of which ``moved`` are the first."""
        found, missing = [moved], count - len(moved)
        for _ in range(ROUNDS):
            if missing <= 0:
                moved = torch.cat(found)
                return moved, torch.ones(len(moved), dtype=torch.bool, device=moved.device)
            more, fits = self._proposals(missing, generator)
            found.append(more[fits])
            missing -= len(found[-1])
        raise InvalidInput(
            f"the ball of radius {self.radius:g} and the box have too little in common to draw points from: use a "
            f"smaller radius or norm=math.inf"
        )

    def _proposals(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Proposed entries (P, drawn), somewhat more than are needed, and which rows are accepted (P,)."""
        tried = count + count // SPARE + 8
        others, left, accepted = self._others(tried, generator)
        free, fits = self._open(left, generator)
        return (torch.cat([others, free], 1) if len(self.rest) else free), accepted & fits

    # ------------------------------------------------------------------------------------------------ which is which

    def _split(self, below: Tensor, above: Tensor) -> None:
        """Choose the open entries, so that most proposals are accepted; all on the host."""
        near, far = torch.minimum(below, above), torch.maximum(below, above)
        one_sided = (near == 0) & (far > 0)
        width = torch.where(one_sided, far, near)  # within which the sign makes no difference
        movable = far > 0
        self.size = len(far)
        self.tilt = _solved_tilt(self.norm, below[movable], above[movable])
        outside = _outside(self.norm, self.tilt, width.clamp(max=1)) * (width < 1)
        outside[~movable] = 1.0
        order = outside.argsort(stable=True)
        kept = torch.log1p(-outside[order].clamp(max=1 - 1e-12)).cumsum(0)
        number = torch.arange(1, self.size + 1, device="cpu")
        gain = kept + 0.5 * torch.log(number * 2 * math.pi / self.norm)  # against no open entry at all
        best = int(gain.argmax()) + 1 if gain.max() > 0 else 0
        is_open = order[:best].sort().values
        rest = (movable & ~torch.zeros_like(movable).index_fill(0, is_open, True)).nonzero().squeeze(1)
        places = torch.cat([rest, is_open])  # of the columns that are drawn
        in_order = len(rest) == 0 and len(places) == self.size
        columns = torch.full_like(order, len(places)).scatter(0, places, torch.arange(len(places), device="cpu"))
        device = self.center.device
        self.open, self.rest = is_open.to(device), rest.to(device)
        self.columns = None if in_order else columns.to(device)  # of each entry
        sign = torch.where(one_sided, torch.where(above > 0, 1.0, -1.0), 0.0)[is_open]
        # A number that decides the sign of what it is added to, for entries with room on one side; 0 for others.
        self.forced = self._placed(torch.where(sign == 0, 0.0, sign * math.inf)) if bool(sign.any()) else None
        self.sides = [self._placed(room[is_open]) for room in (below, above)]
        rooms = [room[rest].clamp(max=1) for room in (below, above)]
        self.below, self.above = map(self._placed, rooms)
        self.masses = [self._placed(_inside(self.norm, self.tilt, room)) for room in rooms]

    def _placed(self, values: Tensor) -> Tensor:
        """Numbers of the host in the dtype and on the device of the input."""
        return values.to(self.center.dtype).to(self.center.device)

    # --------------------------------------------------------------------------------------------------------- draws

    def _others(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Entries that are not open (B, rest), what the sum of powers leaves for the open ones (B,), and acceptance."""
        dtype, device = self.center.dtype, self.center.device
        if len(self.rest) == 0:
            nothing = torch.zeros(count, 0, dtype=dtype, device=device)
            return nothing, nothing.new_ones(count), torch.ones(count, dtype=torch.bool, device=device)
        left, right = self.masses
        drawn = torch.rand(count, len(self.rest), generator=generator, dtype=dtype, device=device) * (left + right)
        size = _width_of_mass(self.norm, self.tilt, torch.where(drawn < left, drawn, drawn - left))
        moved = torch.where(drawn < left, -torch.minimum(size, self.below), torch.minimum(size, self.above))
        total = torch.linalg.vector_norm(moved, self.norm, dim=1).double() ** self.norm
        power = len(self.open) / self.norm
        free = 1 - total
        log_density = self.tilt * total
        largest = self.tilt
        if power > 0:
            log_density = log_density + power * free.clamp(min=1e-300).log()
            touches = self.tilt > power  # else the largest value lies at S = 0
            largest = power * math.log(power / self.tilt) + self.tilt - power if touches else 0.0
        lot = torch.rand(count, generator=generator, dtype=torch.float64, device=device)
        accepted = (free > 0) & (lot.log() < log_density - largest)
        return moved, free.clamp(min=0).to(dtype), accepted

    def _open(self, left: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Open entries (B, open) within the share of the powers that is left, and which rows lie in the box."""
        if len(self.open) == 0:
            return left.new_zeros(len(left), 0), torch.ones_like(left, dtype=torch.bool)
        shape = len(left), len(self.open)
        p, device = self.norm, left.device
        if p == 2:
            drawn = torch.randn(shape, generator=generator, dtype=left.dtype, device=device)
            size = torch.linalg.vector_norm(drawn, dim=1).square() / 2
        else:
            lots = torch.rand(shape, generator=generator, dtype=left.dtype, device=device).mul_(2).sub_(1)
            if p == 1:  # the sign and the exponential size from one number
                power = lots.abs().clamp_(max=1 - torch.finfo(left.dtype).eps / 2).neg_().log1p_().neg_()
                drawn = torch.copysign(power, lots)
            else:
                shapes = torch.full(shape, 1 / p, dtype=left.dtype, device=device)
                power = torch._standard_gamma(shapes, generator=generator)
                drawn = torch.copysign(power.pow(1 / p), lots)
            size = power.sum(1)
        rest = torch.empty_like(left).exponential_(generator=generator)
        unit = math.sqrt(0.5) if p == 2 else 1.0  # of the deviates
        moved = drawn.mul_(unit * (left / (size + rest)).pow(1 / p)[:, None])
        if self.forced is not None:
            moved.copysign_(moved + self.forced)
        below, above = self.sides
        room = moved + below
        inside = room.amin(1) >= 0
        return moved, inside & (torch.sub(moved, above, out=room).amax(1) <= 0)


def _solved_tilt(norm: float, below: Tensor, above: Tensor) -> float:
    """The tilt at which the mean of the sum of powers over all entries is 1; 0 where it is less without any.

    Entries with the same room count once: many of an image touch the same side of the box.
    """
    from scipy.optimize import brentq

    rooms, counts = torch.stack([below, above]).clamp(max=1).unique(dim=1, return_counts=True)

    def excess(tilt: float) -> float:
        parts, moments = (share(norm, tilt, rooms).sum(0) for share in (_inside, _moment))
        return float((moments / parts * counts).sum()) - 1

    if len(below) == 0 or excess(0.0) <= 0:
        return 0.0
    top = len(below) / norm  # of entries without a box
    return float(brentq(excess, 0.0, top)) if excess(top) < 0 else top


# ------------------------------------------------ the density exp(-tilt t^p) on [0, width], without its constant for p


def _inside(p: float, tilt: float, width: Tensor) -> Tensor:
    """A multiple of the integral of the density."""
    if tilt == 0:
        return width
    return torch.from_numpy(special.gammainc(1 / p, tilt * width.numpy() ** p))


def _outside(p: float, tilt: float, width: Tensor) -> Tensor:
    """The probability beyond the width, of the density without an end."""
    if tilt == 0:
        return torch.ones_like(width)
    return torch.from_numpy(special.gammaincc(1 / p, tilt * width.numpy() ** p))


def _moment(p: float, tilt: float, width: Tensor) -> Tensor:
    """A multiple of the integral of t^p, the one of :func:`_inside`."""
    if tilt == 0:
        return width ** (p + 1) / (p + 1)
    return torch.from_numpy(special.gammainc(1 / p + 1, tilt * width.numpy() ** p)) / (p * tilt)


def _width_of_mass(p: float, tilt: float, mass: Tensor) -> Tensor:
    """The width with a given mass, of :func:`_inside`."""
    if tilt == 0:
        return mass
    if p == 1:
        return -torch.log1p(-mass) / tilt
    if p == 2:
        return torch.erfinv(mass) / math.sqrt(tilt)
    power = special.gammaincinv(1 / p, np.minimum(mass.double().cpu().numpy(), 1.0))
    return torch.from_numpy((power / tilt) ** (1 / p)).to(mass)
