"""The driver of minimum-norm attacks: checks, batches, and a witness that was run through the model again."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.numerics import per_row
from bounds.sets.distances import distance
from bounds.sets.norms import clip
from certify.attacks.common.formats import Format, checked_grid
from certify.attacks.common.gradients import symptoms
from certify.attacks.common.passes import OutOfTime, examine
from certify.attacks.common.streams import Streams
from certify.attacks.common.threat import Settings, Threat
from certify.attacks.search.state import MinimumNormState
from certify.models import frozen, predictions
from certify.results import Witness

Stage = Callable[[MinimumNormState], object]  # runs points through the model; the state keeps the nearest successes
MINIMUM_NORM: dict[str, tuple[float, ...]] = {
    "boundary_walk": (1, 2, math.inf),
    "carlini_wagner": (2,),
    "deepfool": (2, math.inf),
    "fast_adaptive_boundary": (1, 2, math.inf),
    "minimal_perturbation": (0, 1, 2, math.inf),
    "sparsefool": (0, 1),
    "superdeepfool": (2,),
}
"""Names of the minimum-norm attacks of :mod:`certify.attacks`, with the orders of the norms that each serves."""


@isolated
def run(
    name: str,
    stages: Mapping[str, Stage],
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    threat: Threat,
    settings: Settings,
) -> Witness:
    """The nearest point that the ``stages``, run one after the other on the same state, found for each row.

    Every witness is run through the model once more after the search. It counts as found only if the model
    misclassifies exactly the stored tensor, as the target class if there is one, and the tensor lies in the box; its
    distance is recomputed in float64 from the stored tensors, and rounded up.

    Args:
        name: of the attack. Of those in ``MINIMUM_NORM`` the norm must be one that the attack serves.
        stages: what to run, by the names that ``winner`` gives.
        model: as in :func:`certify.attacks.minimal_perturbation`.
        x: likewise.
        labels: likewise.
        threat: the norm and the box.
        settings: batches, seed, targets, grid and time limit.
    """
    threat.check(x, per_row=True, norms=MINIMUM_NORM.get(name, MINIMUM_NORM["minimal_perturbation"]))
    batch_size = checks.at_least("batch_size", settings.batch_size, 1)
    form, given, norm = Format(x.dtype, checked_grid(settings.grid)), x.detach(), float(threat.norm)
    first = checks.at_least("first_index", settings.first_index, 0)
    sides, deadline = threat.sides(given), settings.deadline()
    with frozen(model), torch.no_grad():
        model, num_classes, labels, clean = examine(model, given, labels, batch_size)
        aims = None if settings.targets is None else _checked_targets(settings.targets, labels, num_classes)
        streams, findings = Streams.of(settings.generator, len(x), x.device, first), _Findings.blank(given, labels)
        wrong = (clean >= 0) & (clean != labels if aims is None else clean == aims)  # as they are
        searched = (~wrong).nonzero().squeeze(1)

        def search(rows: Tensor) -> None:  # whose state must not outlive it: it holds many copies of the inputs
            x, low, high = (tensor[rows].to(form.working) for tensor in (given, *sides))
            state = MinimumNormState(model, x, labels[rows], norm, low, high, num_classes, streams.rows(rows), form)
            state.targets = None if aims is None else aims[rows]
            state.deadline = deadline
            try:
                for state.stage, stage in enumerate(stages.values()):
                    stage(state)
            except OutOfTime:
                findings.unfinished[rows] = True
            findings.put(rows, state)

        for rows in searched.split(batch_size) if len(searched) else ():
            search(rows)
        predicted = predictions(model, findings.adversarial, batch_size) if len(given) else labels
    pairs = zip(findings.adversarial.split(batch_size), given.split(batch_size), strict=True)
    reached = torch.cat([distance(*pair, norm) for pair in pairs])  # in parts, as float64 takes much memory
    inside = (clip(findings.adversarial, *sides) == findings.adversarial).flatten(1).all(1)
    found = inside & (predicted >= 0) & (predicted != labels if aims is None else predicted == aims)
    return findings.witness(name, list(stages), norm, given, clean, predicted, found, reached)


@dataclass
class _Findings:
    """Findings of the search for all rows, before it was run through the model again."""

    adversarial: Tensor  # (N, *D), the inputs themselves where there is none
    winner: Tensor  # (N,) the stage that found it, -1 where none ran
    forward: Tensor  # (N,) passes, with the two of the driver
    backward: Tensor
    blind: Tensor  # (N,) bool, gradients said nothing
    shown: Tensor  # (3, N) bool, symptoms
    unfinished: Tensor  # (N,) bool, time ran out

    @classmethod
    def blank(cls, x: Tensor, labels: Tensor) -> "_Findings":
        """Before the search."""
        shown = torch.zeros(3, len(x), dtype=torch.bool, device=x.device)
        forward, never = torch.full_like(labels, 2), torch.full_like(labels, -1)
        no, none = torch.zeros_like(shown[0]), torch.zeros_like(labels)
        return cls(x.clone(), never, forward, none, no, shown, no.clone())

    def put(self, rows: Tensor, state: MinimumNormState) -> None:
        """Fill in what was found for some rows."""
        self.adversarial[rows], self.winner[rows] = state.best.to(self.adversarial.dtype), state.winner
        self.forward[rows] += state.forward + state.more_forward
        self.backward[rows] += state.backward + state.more_backward
        self.blind[rows] = state.blind | state.broken | state.unforetold
        self.shown[:, rows] = torch.stack([state.blind, state.nonfinite, state.unforetold])

    def witness(
        self,
        name: str,
        stages: list[str],
        norm: float,
        x: Tensor,
        clean: Tensor,
        predicted: Tensor,
        found: Tensor,
        reached: Tensor,
    ) -> Witness:
        """The witness, from predictions at clean and adversarial inputs, which of these count, and how far they are."""
        return Witness(
            label=clean,
            distance=torch.where(found, reached, math.inf),
            adversarial=torch.where(per_row(found, x), self.adversarial, x),
            found=found,
            adversarial_label=torch.where(found, predicted, clean),
            norm=norm,
            queries=max(self.forward.tolist(), default=0),
            backward_passes=max(self.backward.tolist(), default=0),
            method=name,
            winner=tuple(stages[i] if i >= 0 else "" for i in torch.where(found, self.winner, -1).tolist()),
            queries_per_row=self.forward,
            backward_passes_per_row=self.backward,
            blind=self.blind,
            symptoms=symptoms(*self.shown),
            unfinished=self.unfinished,
        )


def _checked_targets(targets: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Classes (N,) other than the labels."""
    aims = checks.labels(targets, len(labels), num_classes).to(labels.device)
    if (aims == labels).any():
        row = int((aims == labels).nonzero()[0])
        raise InvalidInput(
            f"targets must differ from labels, but row {row} asks for {int(aims[row])}: choose another class"
        )
    return aims
