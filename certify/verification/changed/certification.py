"""Proof that no few changes of features or words change a decision, or the fewest that are found to."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bounds import Graph, PerturbationSet, capture, checks
from bounds.circumstances import isolated
from bounds.linear.forms import linear_forms
from bounds.linear.ladder import margins_in_turn
from bounds.linear.methods import METHODS
from bounds.memory import MEMORY
from bounds.sets.choices import Choices
from bounds.sets.constrained import Constrained
from certify.attacks.studies.counterfactual import check_listing, counterfactual, is_counterfactual, listing
from certify.models import frozen, predictions, predictions_and_labels, probe
from certify.verification.changed.certificate import CounterfactualCertificate
from certify.verification.changed.parts import cut, cut_position
from certify.verification.deadlines import deadline_after


@isolated
def certified_no_counterfactual(
    model: nn.Module,
    x: Tensor,
    perturbation: PerturbationSet,
    labels: Tensor | None = None,
    *,
    targets: Tensor | None = None,
    method: str = "crown",
    attack: bool = True,
    most_parts: int = 2000,
    timeout: float | None = None,
    sound: str = "rounding",
    batch_size: int = 128,
    memory: int = MEMORY,
) -> CounterfactualCertificate:
    """Whether no few changes of features or words change the decision; else the fewest that were found to.

    An attack looks for a counterfactual with few changes first. What has fewer is bounded by ``"crown_ibp"``,
    ``"crown"`` and so on up to ``method``. Where that is not enough, the set is cut: a feature stays or changes, and a
    feature that changes takes one half of its choices or the other, down to single inputs. What is left open after
    ``most_parts`` or the time is said to be unknown. Proofs include all rounding errors; a counterfactual is an input
    that the model was run on once more. Nothing is random.

    Args:
        model: maps (N, *D) to logits (N, K), any network that ``torch.export`` follows; for texts, the part behind the
            embedding.
        x: (N, *D), rows of a table or vectors of words.
        perturbation: N sets around ``x``: :class:`bounds.CategoricalGroups`, :class:`bounds.FeatureChanges` or
            :class:`bounds.SynonymSet`, with the number of changes that are allowed; or one of these in
            a :class:`bounds.Constrained`.
        labels: (N,) classes that decisions are to keep; None for those that the model predicts.
        targets: (N,) classes that counterfactuals are to have; None for any other.
        method: the last bounding method to try, see :func:`bounds.margin_bounds`.
        attack: whether to attack first. Without it, only inputs met while cutting count.
        most_parts: parts of the set of one input to bound for each number of changes.
        timeout: seconds for cutting, of all inputs together; None for no limit, with which results repeat.
        sound: ``"rounding"``, ``"real"`` or ``"deployed"``, see :func:`bounds.crown`.
        batch_size: inputs, and parts, that are bounded at once.
        memory: bytes that the coefficients of linear bounds may take.

    Returns:
        The number of changes that is proved for each input, and the counterfactual with the fewest that was found.

    Raises:
        InvalidInput: a bad argument; a set that does not list its changes.
        InvalidModel: see :func:`certify.models.probe`.
        UnsupportedLayer: the bounds know no rule for an operation.

    References:
        Wachter, Mittelstadt, Russell (2018), Counterfactual explanations without opening the black box,
        arXiv:1711.00399, for counterfactuals; Jia et al. (2019), arXiv:1909.00986, for proofs about substitutions.
    """
    checks.one_of("method", method, METHODS)
    batch_size = checks.at_least("batch_size", batch_size, 1)
    most_parts = checks.at_least("most_parts", most_parts, 1)
    x = checks.inputs(x).detach()
    check_listing(perturbation, x)
    deadline = deadline_after(None if timeout is None else checks.positive("timeout", timeout))
    with frozen(model), torch.no_grad():
        num_classes = probe(model, x, batch_size=min(batch_size, len(x))) if len(x) else 2
        predicted, labels = predictions_and_labels(model, x, labels, num_classes, batch_size)
        targets = None if targets is None else checks.labels(targets, len(x), num_classes).to(x.device)
        state = _Found(model, x, labels, targets, perturbation, predicted)
        if len(x):
            if attack:
                state.take_from_attack(batch_size)
            bounding = _Bounding(capture(model, x), method, sound, memory, batch_size)
            _prove(state, bounding, most_parts, deadline)
    return state.certificate(method, sound)


@dataclass(frozen=True, eq=False)
class _Bounding:
    """Margins of parts of sets."""

    graph: Graph
    method: str
    sound: str
    memory: int
    batch_size: int

    def margins(self, region: PerturbationSet, labels: Tensor, targets: Tensor | None) -> Tensor:
        """Proved margins (M, K) against each class, infinite for those that are not looked at."""
        found = []
        for part in torch.arange(len(labels), device=labels.device).split(self.batch_size):
            least = None
            for step in margins_in_turn(
                self.graph, region.rows(part), labels[part], self.method, sound=self.sound, memory=self.memory
            ):
                least = torch.full_like(step.margins, -math.inf) if least is None else least
                least[step.places] = torch.fmax(least[step.places], step.margins)
            assert least is not None
            found.append(least.double())
        margins = torch.cat(found)
        if targets is None:
            return margins.scatter(1, labels[:, None], math.inf)
        one = torch.full_like(margins, math.inf)
        return one.scatter(1, targets[:, None], margins.gather(1, targets[:, None]))

    def slopes(self, region: PerturbationSet, labels: Tensor, num_classes: int) -> Tensor:
        """Coefficients (M, K, F) of linear functions below the margins, which say what a part depends on."""
        classes = torch.eye(num_classes, dtype=torch.float64, device=labels.device)
        rows = classes[labels][:, None] - classes
        found = [
            linear_forms(self.graph, region.rows(part), rows[part], method="crown_ibp", memory=self.memory).slope
            for part in torch.arange(len(labels), device=labels.device).split(self.batch_size)
        ]
        return torch.cat(found).flatten(2).nan_to_num(0.0, 0.0, 0.0)


class _Found:
    """Numbers of changes that are proved and found for each row so far."""

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        labels: Tensor,
        targets: Tensor | None,
        region: PerturbationSet,
        predicted: Tensor,
    ) -> None:
        self.model, self.x, self.labels, self.targets, self.predicted = model, x, labels, targets, predicted
        self.region = region.double()
        choices = listing(self.region)
        self.budget = choices.budget
        done = (predicted != labels) if targets is None else (predicted == targets)
        self.distance = torch.where(done, 0.0, math.inf).double()
        self.counterfactual, self.label = x.clone(), predicted.clone()
        self.proved = torch.zeros_like(self.budget)
        self.margin = torch.full_like(self.distance, -math.inf)
        self.parts = torch.zeros_like(self.budget)

    def take_from_attack(self, batch_size: int) -> None:
        """Take what the attack finds."""
        witness = counterfactual(
            self.model, self.x, self.labels, self.region, targets=self.targets, batch_size=batch_size
        )
        self.take(torch.arange(len(self.x), device=self.x.device), witness.adversarial, witness.found)

    def take(self, rows: Tensor, points: Tensor, wanted: Tensor) -> None:
        """Take points (B, *D) of the sets of some rows, each at most once, that are run once more."""
        region = self.region.rows(rows)
        choices = listing(region)
        distance = choices.changed(points).double()
        nearer = wanted & (distance < self.distance[rows]) & region.contains(points.double())
        rows, points, distance = rows[nearer], points[nearer], distance[nearer]
        if len(rows) == 0:
            return
        again = predictions(self.model, points, len(points))
        hit = (again != self.labels[rows]) & (again >= 0) if self.targets is None else again == self.targets[rows]
        self.distance[rows[hit]] = distance[hit]
        self.counterfactual[rows[hit]], self.label[rows[hit]] = points[hit], again[hit]

    @property
    def goal(self) -> Tensor:
        """Numbers of changes (N,) that may still be proved."""
        return torch.minimum(self.budget.double(), self.distance - 1).clamp(min=0).long()

    def prove(self, rows: Tensor, budget: Tensor, margin: Tensor) -> None:
        """Take numbers of changes that are proved."""
        self.proved[rows], self.margin[rows] = budget, margin

    def certificate(self, method: str, sound: str) -> CounterfactualCertificate:
        """The result."""
        wrong = self.distance == 0
        return CounterfactualCertificate(
            label=self.predicted,
            radius=self.proved.double(),
            abstained=torch.zeros_like(wrong),
            norm=math.nan,
            alpha=0.0,
            subject="base",
            method=method,
            sound=sound,
            verified=(self.proved == self.budget) & self.distance.isinf(),
            changes=self.budget,
            found=self.distance.isfinite(),
            counterfactual=self.counterfactual,
            distance=self.distance,
            counterfactual_label=self.label,
            margin=self.margin,
            parts=self.parts,
        )


def _prove(state: _Found, bounding: _Bounding, most: int, deadline: float) -> None:
    """Bound the whole goal of each row, and where that fails one change, then two, and so on, by cutting."""
    rows = (state.goal > 0).nonzero()[:, 0]
    if len(rows):
        _bound_whole(state, bounding, rows, state.goal[rows])
    stuck = torch.zeros_like(state.proved, dtype=torch.bool)
    for budget in range(1, int(state.goal.max()) + 1):
        rows = ((state.proved == budget - 1) & (budget <= state.goal) & ~stuck).nonzero()[:, 0]
        if len(rows) == 0:
            continue
        left = rows
        if bool((state.goal[rows] > budget).any()):
            _bound_whole(state, bounding, rows, torch.full_like(rows, budget))
            left = rows[state.proved[rows] < budget]
        if len(left):
            stuck[left] = True
            _Cutting(state, bounding, left, budget, most).run(deadline)
            stuck[left] = state.proved[left] < budget


def _bound_whole(state: _Found, bounding: _Bounding, rows: Tensor, budget: Tensor) -> None:
    region = limited(state.region.rows(rows), budget)
    targets = None if state.targets is None else state.targets[rows]
    margin = bounding.margins(region, state.labels[rows], targets).amin(1)
    state.parts.index_add_(0, rows, torch.ones_like(rows))
    proved = margin > 0
    state.prove(rows[proved], budget[proved], margin[proved])


def limited(region: PerturbationSet, budget: Tensor | int) -> PerturbationSet:
    """The sets with another number of changes."""
    return with_listing(region, lambda choices: choices.within(budget))


def with_listing(region: PerturbationSet, change: Callable[[Choices], Choices]) -> PerturbationSet:
    """A set whose listing is changed."""
    changed = change(listing(region))
    return region.around(changed) if isinstance(region, Constrained) else changed


class _Cutting:
    """Branch and bound over the sets of some rows with one number of changes."""

    def __init__(self, state: _Found, bounding: _Bounding, rows: Tensor, budget: int, most: int) -> None:
        self.state, self.bounding, self.rows, self.budget, self.most = state, bounding, rows, budget, most
        self.owner = torch.arange(len(rows), device=rows.device)
        self.region = limited(state.region.rows(rows), budget)
        self.labels = state.labels[rows]
        self.targets = None if state.targets is None else state.targets[rows]
        self.open = torch.ones_like(self.owner, dtype=torch.bool)  # rows that may still be proved
        self.least = torch.full((len(rows),), math.inf, dtype=torch.float64, device=rows.device)
        self.used = torch.zeros_like(self.owner)

    def run(self, deadline: float) -> None:
        """Cut until every part of a row is proved, a counterfactual is met, or the row has used up its parts."""
        slopes: Tensor | None = None
        while len(self.owner):
            if time.monotonic() > deadline:
                self.open[self.owner] = False
                break
            margins = self._margins()
            if slopes is None:
                slopes = self.bounding.slopes(self.region, self.labels, margins.shape[1])
            margin, worst = margins.min(1)
            proved = margin > 0  # False for NaN
            self.least = self.least.scatter_reduce(0, self.owner[proved], margin[proved], "amin")
            self._select(~proved)
            functions = slopes[self.owner].gather(1, worst[~proved][:, None, None].expand(-1, 1, slopes.shape[2]))
            self._look(functions)
            functions = functions[self._drop(functions)]
            if len(self.owner):
                self._cut(functions)
        done = self.rows[self.open]
        self.state.prove(done, torch.full_like(done, self.budget), self.least[self.open])

    def _margins(self) -> Tensor:
        ones = torch.ones_like(self.owner)
        self.used.index_add_(0, self.owner, ones)
        self.state.parts.index_add_(0, self.rows[self.owner], ones)
        targets = None if self.targets is None else self.targets[self.owner]
        return self.bounding.margins(self.region, self.labels[self.owner], targets)

    def _select(self, kept: Tensor) -> None:
        self.owner, self.region = self.owner[kept], self.region.rows(kept.nonzero()[:, 0])

    def _look(self, functions: Tensor) -> None:
        """Run the model where functions below the margins are least; take what flips."""
        state = self.state
        if len(self.owner) == 0:
            return
        choices = listing(self.region)
        points = choices.points(choices.lowest(functions)[1][:, 0]).to(state.x.dtype)
        rows, hits = self.rows[self.owner], []
        for part in torch.arange(len(rows), device=rows.device).split(self.bounding.batch_size):
            targets = None if state.targets is None else state.targets[rows[part]]
            hits.append(is_counterfactual(state.model(points[part]), state.labels[rows[part]], targets))
        hit = torch.cat(hits) & self.region.contains(points.double())
        first = torch.full_like(self.rows, len(rows)).scatter_reduce(0, self.owner[hit], hit.nonzero()[:, 0], "amin")
        found = first < len(rows)
        state.take(self.rows[found], points[first[found]], torch.ones_like(first[found], dtype=torch.bool))

    def _drop(self, functions: Tensor) -> Tensor:
        """Drop the parts of rows with a counterfactual, of those that used theirs up, and of those that are not cut."""
        choices = listing(self.region)
        single = ~choices.splittable().any(1)
        point = choices.points(choices.lowest(functions)[1][:, 0])
        # An input that constraints forbid leaves nothing to prove; one end of a range says nothing of the rest of it.
        outside = single & (choices.counts() <= 1).all(1) & ~self.region.contains(point.double())
        self.open[self.owner[single & ~outside]] = False
        self.open &= (self.used < self.most) & (self.state.goal[self.rows] >= self.budget)
        kept = self.open[self.owner] & ~outside
        self._select(kept)
        return kept

    def _cut(self, functions: Tensor) -> None:
        """Replace each part by the two that it falls into."""
        choices = listing(self.region)
        position = cut_position(choices, functions)
        self.owner = self.owner.repeat(2)
        self.region = with_listing(self.region, lambda found: cut(found, position, functions))
