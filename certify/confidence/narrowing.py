r"""Tighter upper bounds on confidences: the sum of exponentials as a whole, and splits of neurons.

For any weights p that sum to 1, :math:`\log \sum_j e^{d_j} \ge \sum_j p_j d_j + H(p)` with the entropy H, and the
weights :math:`e^{d_j} / \sum_i e^{d_i}` give equality. So with ``d_j = f_j - f_k``, each choice of weights bounds the
confidence in class k by one linear function of the logits, and the largest of several such functions does so.
"""

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bounds import Box, Graph, LpBall
from bounds.circumstances import isolated
from bounds.graph.capturing import capture
from bounds.memory import MEMORY
from bounds.models import answer
from bounds.numerics import round_down, round_up
from bounds.search.lower_bounds import least_of_largest
from certify.attacks import ConfidenceWitness
from certify.models import frozen

SHARPNESS = (0.7, 1.0, 1.4)  # of weights around those of a point: minima lie at other points
BOUNDED = 1e4  # differences of logits beyond this weigh 0 or all
GRAIN = 2**16  # weights are multiples of 1 / GRAIN, so that their sum is exact in every dtype
ROUNDOFF = 2.0**-52


@dataclass(frozen=True, eq=False, kw_only=True)
class Narrowing:
    """A search that lowers upper bounds on confidences, input by input.

    Attributes:
        model: maps (N, *D) to logits (N, K).
        ball: N balls or boxes.
        most_parts: parts of each ball to bound.
        deadline: of all inputs, by ``time.monotonic()``.
        sound: which rounding errors are included, see :func:`bounds.crown`.
        memory: bytes that coefficients may take.
    """

    model: nn.Module
    ball: LpBall | Box
    most_parts: int
    deadline: float = math.inf
    sound: str = "rounding"
    memory: int = MEMORY

    @isolated
    def between(self, marks: Tensor, witness: ConfidenceWitness, upper: Tensor) -> Tensor:
        """Upper bounds (N,) on the largest confidence, lower than those of all classes where marks lie in between.

        Args:
            marks: (M,), confidences of other inputs; a bound matters only by how many of them lie above it.
            witness: of the inputs in the balls in which the model is surest, as far as is known.
            upper: (N, K), bounds on the confidence in each class.
        """
        largest = upper.amax(1)
        above = torch.where(marks > witness.confidence[:, None], marks, math.inf).amin(1)
        places = (above < largest).nonzero()[:, 0]
        with frozen(self.model), torch.no_grad():
            graph = capture(self.model, self.ball.center)
            for row, enough in zip(places.tolist(), above[places].tolist(), strict=True):
                if time.monotonic() > self.deadline:
                    break
                logits = answer(self.model, witness.adversarial[row : row + 1]).double()
                points = logits.expand(logits.shape[1], 1, -1)
                largest[row] = self._narrowed(graph, row, upper[row], enough * (1 - 1e-9), points).amax()
        return largest

    @isolated
    def below(self, graph: Graph, logits: Tensor, least: Tensor, upper: Tensor) -> Tensor:
        """Upper bounds (N, K) on confidences, lower for classes that may have more than the largest at the centre.

        Args:
            graph: of the model.
            logits: (N, K) float64, at the centres.
            least: (N, K, K), lower bounds on ``logit_j - logit_k``. Weights that fit these lose nothing against the sum
                of their exponentials.
            upper: (N, K), bounds to start from.
        """
        lowered = upper.clone()
        known = logits.softmax(1).amax(1).nan_to_num(1.0)
        for row in (upper > known[:, None]).any(1).nonzero()[:, 0].tolist():
            if time.monotonic() > self.deadline:
                break
            centre = logits[row].expand(upper.shape[1], -1)
            points = torch.stack([centre, least[row].T.clamp(min=-BOUNDED, max=BOUNDED)], 1)
            lowered[row] = self._narrowed(graph, row, upper[row], float(known[row]), points)
        return lowered

    def _narrowed(self, graph: Graph, row: int, upper: Tensor, enough: float, points: Tensor) -> Tensor:
        """Upper bounds (K,) on the confidences of one input, as far as they are above what is low enough.

        Weights of the functions of each class come from logits (K, P, K), P of them for each.
        """
        classes = (upper > enough).nonzero()[:, 0]
        region = self.ball.rows(torch.tensor([row], device=upper.device))
        hull = region.hull()
        least = least_of_largest(
            graph,
            Box(hull.lower, hull.upper),
            [below_the_sum(points[label], label) for label in classes.tolist()],
            enough=[math.log(1 / enough - 1)] * len(classes),
            most_parts=self.most_parts,
            deadline=self.deadline,
            sound=self.sound,
            memory=self.memory,
            ball=region if isinstance(region, LpBall) and not region.is_box else None,
        )
        found = round_up(1 / (1 + round_down(least.exp()).clamp(min=0.0)), 4 * ROUNDOFF).nan_to_num(1.0)
        return upper.index_put((classes,), torch.minimum(upper[classes], found))


def below_the_sum(logits: Tensor, label: int) -> tuple[Tensor, Tensor]:
    """Rows A (M, K) and offsets b (M,): ``A y - b`` is at most ``log sum of exp(y_j - y_label)`` over the others.

    Equal, but for the grain of the weights, at the given logits (P, K).
    """
    others = torch.cat([logits[:, :label], logits[:, label + 1 :]], 1)
    weights = torch.cat([(sharpness * others).softmax(1) for sharpness in SHARPNESS])
    grains = (weights.nan_to_num(0.0) * GRAIN).round()
    lead = grains.argmax(1, keepdim=True)
    grains = grains.scatter_add(1, lead, GRAIN - grains.sum(1, keepdim=True))
    weights = grains / GRAIN
    entropy = round_down(-torch.xlogy(weights, weights).sum(1), (logits.shape[1] + 8) * ROUNDOFF).clamp(min=0.0)
    minus = weights.new_full((len(weights), 1), -1.0)
    return torch.cat([weights[:, :label], minus, weights[:, label:]], 1), -entropy
