"""Arguments of an evaluation, checked, and the problem that they make."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from bounds.errors import InvalidInput
from bounds.sets.orders import Order
from certify.evaluation.budget.allowance import Allowance
from certify.evaluation.budget.row_memory import rows_of_passes
from certify.evaluation.labelled import Inputs, inputs_and_labels
from certify.evaluation.units import method_pairs
from certify.methods import Choice, Problem, Space, chosen_methods
from certify.methods.sets.kinds import asked_sets
from certify.models import first_rows, frozen, probe
from certify.smoothing.drawing.distributions import lie_on_grid
from certify.stored_inputs import Rows, checked_inputs


class Asked(NamedTuple):
    """Problem, methods and norms of an evaluation, checked.

    Attributes:
        problem: the model and its inputs.
        logits: (N, K), of the model for them.
        choice: the methods.
        norms: orders and sets of perturbations, each once.
        allowance: sizes that fit into the memory.
    """

    problem: Problem
    logits: Tensor
    choice: Choice
    norms: list[Order]
    allowance: Allowance = Allowance()

    @property
    def base(self) -> list[int]:
        """Predicted class of each input; -1 where the logits are not finite."""
        return self.logits.argmax(1).masked_fill(~self.logits.isfinite().all(1), -1).tolist()


def asked_evaluation(
    model: nn.Module,
    x: Inputs,
    labels: Tensor | None,
    norms: object,
    methods: object,
    box: tuple[Limit, Limit],
    seed: int,
    batch_size: int,
    first_index: int = 0,
    on_grid: bool | None = None,
    memory: int | None = None,
    known: Mapping[str, int] | None = None,
    sets: Mapping[str, object] = MappingProxyType({}),
) -> Asked:
    """The arguments of :func:`certify.evaluate`, checked; ``sets`` by the keys of their kinds.

    ``known`` has the batches of a run that is continued, so that they need not be counted anew.
    """
    x, labels = inputs_and_labels(model, x, labels, batch_size, memory)
    checked_inputs(x, *box)
    checks.at_least("number of inputs", len(x), 1)
    checks.at_most("seed", checks.at_least("seed", seed, 0), 2**63 - 1)
    checks.at_most("first_index", checks.at_least("first_index", first_index, 0), 2**62)
    checks.at_least("batch_size", batch_size, 1)
    orders = asked_orders(norms, sets)
    choice = chosen_methods(methods, orders, Space.of(x, *box))
    method_pairs(choice.methods, orders)
    stated = stated_on_grid(on_grid, x)
    if memory is None:
        problem, logits = problem_of(model, x, labels, box, seed, batch_size, first_index, stated)
        return Asked(problem, logits, choice, orders)
    rows = rows_of_passes(model, x, batch_size, memory)
    looked, _ = problem_of(model, x[:1], labels[:1], box, seed, 1, first_index, stated)
    looked = replace(looked, batch_size=rows)
    allowance = Allowance.of(looked, choice, orders, memory) if known is None else Allowance(memory, known)
    choice = choice._replace(
        methods=[method for method in choice.methods if method.name not in allowance.left_out],
        notes=(*choice.notes, *(f"{name}: {reason}" for name, reason in allowance.left_out.items())),
    )
    fit = min([rows, *allowance.batch_sizes.values()])
    problem, logits = problem_of(model, x, labels, box, seed, fit, first_index, stated)
    sizes = dict(allowance.batch_sizes)
    return Asked(replace(problem, batch_sizes=sizes, memory=memory), logits, choice, orders, allowance)


def problem_of(
    model: nn.Module,
    x: Rows,
    labels: Tensor,
    box: tuple[Limit, Limit],
    seed: int,
    batch_size: int,
    first_index: int,
    stated_on_grid: bool | None,
) -> tuple[Problem, Tensor]:
    """The problem that every method is run on, after looking at the model, and its logits (N, K) for clean inputs."""
    with frozen(model):
        num_classes = probe(model, first_rows(x), batch_size=min(batch_size, len(x)))
        problem = Problem(
            model=model,
            x=x.detach(),
            y=checks.labels(labels, len(x), num_classes).to(x.device),
            low=box[0],
            high=box[1],
            num_classes=num_classes,
            seed=seed,
            batch_size=int(batch_size),
            first_index=int(first_index),
            stated_on_grid=stated_on_grid,
        )
        with torch.no_grad():
            return problem, torch.cat([model(part) for part in problem.x.split(batch_size)])


def asked_orders(norms: object, sets: Mapping[str, object]) -> list[Order]:
    """Norms and sets of perturbations of a caller, each once; one of both there must be."""
    found = asked_sets(sets)
    return [*([] if found and isinstance(norms, Sequence) and not len(norms) else orders_of(norms)), *found]


def orders_of(norms: object) -> list[float]:
    """The norms as numbers, each once, from several or from one."""
    try:
        given = [norms] if isinstance(norms, str) else list(norms)  # type: ignore[call-overload]  # tried
    except TypeError:
        given = [norms]
    if not given:
        raise InvalidInput("norms must name at least one norm, got none: pass norms=(2, math.inf), or leave it out")
    # Attacks also count changed entries, which is no norm: order 0.
    counted = [isinstance(norm, int | float) and norm is not False and norm == 0 for norm in given]
    return list(dict.fromkeys(0.0 if zero else checks.norm(norm) for norm, zero in zip(given, counted, strict=True)))


def stated_on_grid(on_grid: bool | None, x: Rows) -> bool | None:
    """The statement about the whole data set, which must not be false for the part at hand."""
    if on_grid not in (None, True, False):
        raise InvalidInput(f"on_grid must be True, False or None, got {on_grid!r}")
    if on_grid and not lie_on_grid(x):
        raise InvalidInput("on_grid=True says that all inputs are multiples of 1/255, but x has others: pass False")
    return on_grid
