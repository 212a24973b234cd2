"""Search for the fewest changes of features or words that flip a decision: all of them, or the best of each number."""

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from bounds import PerturbationSet, checks
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.numerics import per_row
from bounds.sets.choices import STAYS, Choices
from bounds.sets.constrained import Constrained
from certify.attacks.common.passes import examine
from certify.attacks.fixed_budget.losses import margin, target_margin
from certify.models import frozen, predictions
from certify.results import Witness

AT_ONCE = 2**16  # candidates that are held together


@dataclass(frozen=True, eq=False, kw_only=True)
class CounterfactualWitness(Witness):
    """Inputs of another class that differ in few features or words, re-checked; distances are numbers of changes.

    Attributes:
        smallest: (N,) bool, True where the model was run on every input of the set with fewer changes; where nothing
            was found, on every input of the set.
    """

    smallest: Tensor


@isolated
def counterfactual(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    perturbation: PerturbationSet,
    *,
    targets: Tensor | None = None,
    beam: int = 16,
    most_points: int = 4096,
    batch_size: int = 500,
) -> CounterfactualWitness:
    """An input with as few changes as were found that the model gives another class, for each row.

    All inputs with one change are run, then those with two, and so on: all of them while they are few, else those that
    come from the most promising ones before. From what is found, changes that it does not need are taken back. Of a
    range, the ends are tried. Nothing is random.

    Args:
        model: maps (N, *D) to logits (N, K).
        x: (N, *D), the inputs that the sets are around.
        labels: (N,) the classes that are to be left.
        perturbation: N sets: :class:`bounds.CategoricalGroups`, :class:`bounds.FeatureChanges` or
            :class:`bounds.SynonymSet`, also :class:`bounds.Constrained` ones.
        targets: (N,) the classes that are looked for; None for any other.
        beam: inputs of each number of changes that are gone on with, at least.
        most_points: inputs of each number of changes to run, for one row; more only where ``beam`` asks for them.
        batch_size: inputs of a forward pass.

    Raises:
        InvalidInput: a bad argument; a set that does not list its changes.
        InvalidModel: see :func:`certify.models.probe`.

    References:
        Wachter, Mittelstadt, Russell (2018), Counterfactual explanations without opening the black box,
        arXiv:1711.00399.
    """
    beam, most_points = checks.at_least("beam", beam, 1), checks.at_least("most_points", most_points, 1)
    batch_size = checks.at_least("batch_size", batch_size, 1)
    x = checks.inputs(x).detach()
    check_listing(perturbation, x)
    with frozen(model), torch.no_grad():
        model, num_classes, labels, clean = examine(model, x, labels, batch_size)
        targets = None if targets is None else checks.labels(targets, len(x), num_classes).to(x.device)
        search = _Search(model, x, labels, targets, perturbation, clean, batch_size)
        width = max(beam, most_points // max(1, len(search.choices.position)))
        every = (~search.done).nonzero()[:, 0]
        at_once = max(1, AT_ONCE // max(1, width * len(search.choices.position)))
        for part in every.split(at_once) if len(every) else ():
            search.over(part, width)
        search.take_back()
        return search.witness()


def check_listing(perturbation: PerturbationSet, x: Tensor) -> None:
    """Refuse sets that do not list their changes, or are not around the inputs."""
    inner = listing(perturbation)
    if not lists_changes(perturbation):
        raise InvalidInput(
            f"perturbation must be bounds.CategoricalGroups, FeatureChanges or SynonymSet, got "
            f"{type(inner).__name__}: use attacks.robust_accuracy(perturbation=), or certify.verify"
        )
    if inner.center.shape != x.shape or not torch.equal(inner.center.double(), x.double()):
        raise InvalidInput(
            f"perturbation must be around x, of shape {tuple(x.shape)}, got a center of shape "
            f"{tuple(inner.center.shape)} or with other entries: build it from x"
        )


def lists_changes(perturbation: PerturbationSet) -> bool:
    """Whether a set lists the changes of features or words, with or without constraints."""
    return isinstance(listing(perturbation), Choices)


def listing(perturbation: PerturbationSet) -> Choices:
    """The set that lists the changes, of one that :func:`check_listing` let pass."""
    return cast(Choices, perturbation.region if isinstance(perturbation, Constrained) else perturbation)


def is_counterfactual(logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    """Rows (N,) whose logits (N, K) decide for another class, or for the target; none where one is not finite."""
    decided = logits.argmax(1)
    return logits.isfinite().all(1) & ((decided != labels) if targets is None else (decided == targets))


class _Search:
    """The fewest changes of each row that were found so far."""

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        labels: Tensor,
        targets: Tensor | None,
        region: PerturbationSet,
        clean: Tensor,
        batch_size: int,
    ) -> None:
        self.model, self.x, self.labels, self.targets = model, x, labels, targets
        self.region, self.clean, self.batch_size = region, clean, batch_size
        self.choices = choices = listing(region)
        count, positions = choices.stays.shape
        self.done = (clean != labels) if targets is None else (clean == targets)
        self.found = torch.full((count, positions), STAYS, device=x.device)
        self.distance = torch.where(self.done, 0.0, math.inf).double()
        self.smallest = self.done.clone()
        self.passes = torch.ones(count, dtype=torch.int64, device=x.device)
        mixed = torch.arange(1, len(choices.position) + 1, device=x.device)
        for shift in (31, 27, 30):  # keys of choices, whose sums differ for different sets of them
            mixed = (mixed ^ (mixed >> shift)) * 0x1CE4E5B9BF58476D
        self.keys = mixed

    def over(self, rows: Tensor, width: int) -> None:
        """Inputs of some rows with one change more in each round, going on from ``width`` of each number."""
        here = self.choices.rows(rows)
        states = torch.full((len(rows), 1, here.stays.shape[1]), STAYS, device=rows.device)
        every = ~(here.allowed & here.ranges[here.position]).any(1)  # all inputs of the step before are gone on with
        run_before = torch.ones_like(every)  # all inputs of the steps before were run
        steps = min(here.changes, here.stays.shape[1]) if len(here.position) else 0  # nothing to run without choices
        for step in range(1, steps + 1):
            standing = ~self.done[rows] & (step <= here.budget)
            fits = (states[..., here.position] == STAYS) & here.allowed[:, None] & standing[:, None, None]
            fits = fits & (states != STAYS).sum(2, keepdim=True).eq(step - 1)  # no place that was not filled
            fits = self._distinct(states, fits)
            place, state, choice = fits.nonzero(as_tuple=True)
            if len(place) == 0:
                break
            tried = states[place, state].scatter(1, here.position[choice, None], choice[:, None])
            lead, hit = self._run(rows[place], tried)
            leads = lead.new_full(fits.shape, math.inf)
            leads[place, state, choice] = lead
            self._keep(rows, place, tried, lead.masked_fill(~hit, math.inf), run_before)
            run_before = every
            best = leads.flatten(1).topk(min(width, leads[0].numel()), largest=False)
            every = every & ((fits.flatten(1).sum(1) <= width) | (step >= here.budget))
            states = self._stepped(states, here.position, best.indices, best.values)
        left = ~self.done[rows]
        self.smallest[rows[left]] = run_before[left]

    def _stepped(self, states: Tensor, position: Tensor, chosen: Tensor, leads: Tensor) -> Tensor:
        """States with the chosen changes; those of places that hold none stay behind, and are not gone on with."""
        count = len(position)
        before = states.gather(1, (chosen // count)[..., None].expand(*chosen.shape, states.shape[2]))
        choice = chosen % count
        after = before.scatter(2, position[choice][..., None], choice[..., None])
        return torch.where(leads.isfinite()[..., None], after, STAYS)

    def _distinct(self, states: Tensor, fits: Tensor) -> Tensor:
        """One of several ways to the same changes."""
        own = torch.where(states == STAYS, 0, self.keys[states.clamp(min=0)]).sum(2)
        key = torch.where(fits, own[..., None] + self.keys, torch.iinfo(torch.int64).max).flatten(1)
        ordered, order = key.sort(dim=1, stable=True)
        again = torch.zeros_like(ordered, dtype=torch.bool)
        again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
        return fits & ~torch.zeros_like(again).scatter(1, order, again).view(fits.shape)

    def _run(self, rows: Tensor, choice: Tensor) -> tuple[Tensor, Tensor]:
        """Leads (T,) of the labels for choices (T, P), and where they make a counterfactual in the set."""
        leads, hits = [], []
        for part in torch.arange(len(rows), device=rows.device).split(self.batch_size):
            here, labels = rows[part], self.labels[rows[part]]
            points = self.choices.rows(here).points(choice[part]).to(self.x.dtype)
            logits = self.model(points)
            targets = None if self.targets is None else self.targets[here]
            wide = logits.double()
            lead = -margin(wide, labels) if targets is None else -target_margin(wide, labels, targets)
            leads.append(lead.nan_to_num(nan=1e9))
            inside = self.region.rows(here).contains(points.double())
            hits.append(is_counterfactual(logits, labels, targets) & inside)
        self.passes.index_add_(0, rows, torch.ones_like(rows))
        return torch.cat(leads), torch.cat(hits)

    def _keep(self, rows: Tensor, place: Tensor, tried: Tensor, lead: Tensor, run_before: Tensor) -> None:
        """Take the clearest counterfactual of each row; leads (T,) are infinite for what is none."""
        least = lead.new_full((len(rows),), math.inf).scatter_reduce(0, place, lead, "amin")
        which = torch.where(lead == least[place], torch.arange(len(place), device=place.device), len(place))
        first = torch.full_like(rows, len(place)).scatter_reduce(0, place, which, "amin")
        hit = least.isfinite()
        chosen, first = rows[hit], first[hit]
        self.found[chosen], self.done[chosen] = tried[first], True
        self.distance[chosen] = (tried[first] != STAYS).sum(1).double()
        self.smallest[chosen] = run_before[hit]

    def take_back(self) -> None:
        """Take back single changes as long as the decision stays changed without one of them."""
        for _ in range(max(0, self.choices.changes - 1)):
            rows = (self.distance.isfinite() & ~self.smallest & (self.distance > 1)).nonzero()[:, 0]
            if len(rows) == 0:
                return
            place, position = (self.found[rows] != STAYS).nonzero(as_tuple=True)
            tried = self.found[rows[place]].scatter(1, position[:, None], STAYS)
            lead, hit = self._run(rows[place], tried)
            if not bool(hit.any()):
                return
            self._keep(rows, place, tried, lead.masked_fill(~hit, math.inf), torch.zeros_like(rows).bool())

    def witness(self) -> CounterfactualWitness:
        """The record of what was found, after the model has been run on it once more."""
        moved = (self.found != STAYS).any(1)
        points = self.choices.points(self.found).to(self.x.dtype)
        adversarial = torch.where(per_row(moved, points), points, self.x)
        again = predictions(self.model, adversarial, self.batch_size) if len(self.x) else self.clean
        changed = (again != self.labels) & (again >= 0) if self.targets is None else again == self.targets
        inside = self.region.contains(adversarial.double()) | (self.done & ~moved)
        found = self.distance.isfinite() & changed & inside
        return CounterfactualWitness(
            label=self.clean,
            distance=torch.where(found, self.distance, math.inf),
            adversarial=torch.where(per_row(found, points), adversarial, self.x),
            found=found,
            adversarial_label=torch.where(found, again, self.clean),
            norm=math.nan,
            queries=int(self.passes.max()) + 1 if len(self.x) else 0,
            method="counterfactual",
            queries_per_row=self.passes + 1,
            smallest=self.smallest & (found | ~moved),
        )
