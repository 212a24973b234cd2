"""Branch and bound on the input: a box is cut in halves until bounds prove each of them.

For networks with few inputs. Each box is bounded by CROWN with CROWN bounds of all nodes before, so that small boxes
are proved; half-spaces in which an inequality cannot fail are cut off first.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bounds.linear.network import Network
from bounds.linear.refined import RefinedNetwork
from bounds.rows import DenseRows
from bounds.search.problem import Problem, SearchResult
from bounds.sets.balls import Box

AT_ONCE = 128  # boxes that are bounded together
FLAT = 1e-2  # share of the steepest slope that counts for all inputs, so that each is cut in the end


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes that are not proved yet.

    Attributes:
        lower: (N, F).
        upper: (N, F).
        bound: (N,), a lower bound on the distance of outputs from the nearest unsafe set.
        direction: (N,), the input to cut next.
    """

    lower: Tensor
    upper: Tensor
    bound: Tensor
    direction: Tensor

    def __len__(self) -> int:
        return len(self.bound)

    @property
    def memory(self) -> int:
        """Bytes that a row takes."""
        return sum(part[:1].numel() * part.element_size() for part in vars(self).values())

    def __getitem__(self, index: Tensor) -> "Boxes":
        return Boxes(self.lower[index], self.upper[index], self.bound[index], self.direction[index])

    def __add__(self, other: "Boxes") -> "Boxes":
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Boxes(*(torch.cat(pair) for pair in pairs))


def split_inputs(problem: Problem) -> SearchResult:
    """Search by cutting the box, the least proved part first."""
    start = problem.box.lower.flatten(1), problem.box.upper.flatten(1)
    found, corners = _bounded(problem, *start)
    domains = 1
    while True:
        if corners is not None and (witness := problem.check(corners)) is not None:
            return SearchResult("counterexample", witness, domains, "input splits")
        if len(found) == 0:
            return SearchResult("proved", None, domains, "bounds" if domains == 1 else "input splits")
        if problem.is_late:
            return SearchResult("timeout", None, domains, "", f"{len(found)} boxes are left")
        if len(found) * found.memory > problem.waiting:
            return SearchResult("unknown", None, domains, "", f"{len(found)} boxes wait, the most that fit")
        order = found.bound.argsort()
        lower, upper = _halves(found[order[:AT_ONCE]])
        if bool(((upper - lower).amax(1) <= 0).any()):
            return SearchResult("unknown", None, domains, "", "a box cannot be cut any further")
        children, corners = _bounded(problem, lower, upper)
        found = found[order[AT_ONCE:]] + children
        domains += len(lower)


def _halves(boxes: Boxes) -> tuple[Tensor, Tensor]:
    """Both halves of each box, along its direction."""
    place = boxes.direction[:, None]
    low, high = boxes.lower.gather(1, place), boxes.upper.gather(1, place)
    middle = low + (high - low) / 2
    lower = torch.cat([boxes.lower, boxes.lower.scatter(1, place, middle)])
    upper = torch.cat([boxes.upper.scatter(1, place, middle), boxes.upper])
    return lower, upper


def _bounded(problem: Problem, lower: Tensor, upper: Tensor) -> tuple[Boxes, Tensor | None]:
    """The boxes that are not proved, smaller where parts of them are, and the corners where outputs may be worst."""
    cases, most, _ = problem.rows.shape
    box = Box(lower.view(-1, *problem.shape), upper.view(-1, *problem.shape))
    refined = RefinedNetwork(Network(problem.graph, box, sound=problem.sound), tighten=True, memory=problem.memory)
    network = refined.refine()
    rows = problem.rows.view(1, -1, *network.nodes["output"].value.shape[1:])
    start = DenseRows(rows.expand(len(lower), *rows.shape[1:]))
    linear, slopes = refined.backward.bounds_with_slopes("output", start)
    linear, slopes = problem.distances(linear), slopes.unflatten(1, (cases, most))
    least = torch.maximum(linear, problem.distances(refined.backward.bounds("output", start, box, intervals=True)))
    best, row = least.max(2)  # the inequality that fails for certain, or comes nearest to it
    worst, case = best.min(1)
    left = ~(worst > 0)
    if not left.any():
        return Boxes(lower[:0], upper[:0], worst[:0], case[:0]), None
    lower, upper, slopes = lower[left], upper[left], slopes[left]
    every = torch.arange(len(lower), device=lower.device)
    chosen = slopes[every, case[left], row[left].gather(1, case[left][:, None])[:, 0]]
    corners = torch.where(chosen > 0, lower, upper)
    lower, upper = _clipped(lower, upper, linear[left], slopes)
    width = upper - lower
    steep = chosen.abs()
    score = (steep + FLAT * steep.amax(1, keepdim=True)) * width  # a flat bound says little about a wide input
    direction = torch.where(score.amax(1) > 0, score.argmax(1), width.argmax(1))
    possible = (width >= 0).all(1) & problem.reaches(lower, upper)
    found = Boxes(lower, upper, worst[left], direction)[possible]
    return found, corners.view(-1, *problem.shape)


def _clipped(lower: Tensor, upper: Tensor, least: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
    r"""The smallest boxes that hold all inputs for which no bound excludes that all inequalities of a set hold.

    An inequality holds at most where :math:`m + \sum_j |s_j| d_j \le 0`, with the bound m and the distances
    :math:`d_j \ge 0` from the corner at which it is attained; so each distance is at most :math:`-m / |s_j|`.
    """
    far = (-least[..., None]).clamp(min=0) / slopes.abs()
    far = far * (1 + 16 * torch.finfo(far.dtype).eps) + torch.finfo(far.dtype).tiny
    far = far.nan_to_num(nan=math.inf, posinf=math.inf)
    width = (upper - lower)[:, None, None]
    low = torch.where((slopes < 0) & (far < width), upper[:, None, None] - far, lower[:, None, None])
    high = torch.where((slopes > 0) & (far < width), lower[:, None, None] + far, upper[:, None, None])
    excluded = (least > 0).any(2)  # (N, C): these sets need no input any more
    low = low.amax(2).masked_fill(excluded[..., None], math.inf).amin(1)
    high = high.amin(2).masked_fill(excluded[..., None], -math.inf).amax(1)
    outward = 4 * torch.finfo(far.dtype).eps * torch.maximum(lower.abs(), upper.abs())
    return torch.maximum(lower, low - outward), torch.minimum(upper, high + outward)
