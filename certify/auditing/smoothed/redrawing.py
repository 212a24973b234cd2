"""Draws once more: the same seed gives the same noise, and the model the same votes, counted by other code."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from certify.auditing.tally import Tally
from certify.evaluation.storage.code import processor_name
from certify.methods.base import Problem
from certify.methods.smoothed import Smoothing
from certify.smoothing.drawing.bits import DRAWS_VERSION
from certify.smoothing.drawing.votes import Sampling, Stage, draw_run_seed

SEEDS, AGAIN, ERRORS = "seeds of draws", "votes drawn again", "errors of drawing"
Votes = NDArray[np.int64]


def redraw(
    tally: Tally, record: Mapping[str, Any], method: Smoothing, problem: Problem, all_draws: bool, alike: bool
) -> None:
    """Draw the selection votes of a unit again, and the votes of its estimate if ``all_draws``.

    Args:
        tally: takes the verdicts.
        record: of the unit.
        method: its settings.
        problem: the model and all inputs of the run.
        all_draws: whether the estimate is drawn again too; most of the time goes there.
        alike: whether this machine computes like that of the run, so that votes must be equal to the last one.
    """
    unit, rows, problem = record["unit"], record["rows"], problem.for_method(method.name)
    seed = draw_run_seed(problem.generator())
    stated = record.get("drawing", {})
    if stated:
        tally.judge(SEEDS, stated["seed"] == seed, f"its seed {stated['seed']} does not follow from the run's", unit)
        drawn_by = stated.get("draws_version", 1)
        reason = f"its draws are of version {drawn_by}, those of its run of version {DRAWS_VERSION}"
        tally.judge(SEEDS, drawn_by == DRAWS_VERSION, reason, unit)
    start = rows[0]["index"] - problem.first_index
    part = slice(start, start + len(rows))
    classifier = method.classifier(problem, method.noise_group)
    sampling = classifier.sampling(problem.x[part], method.n0, seed, rows[0]["index"])
    if stated:
        reason = f"its sampling error {stated['sampling_error']} is below that of the noise as drawn, {sampling.error}"
        tally.judge(ERRORS, stated["sampling_error"] >= sampling.error, reason, unit)
    selected = _counted(sampling, problem.num_classes, method.n0, Stage.SELECTION)
    for row, votes in zip(rows, selected, strict=True):
        _compare(tally, unit, row, row["selection_counts"], votes, method.n0, alike)
    if not all_draws:
        return
    draws = np.array([row["draws"] for row in rows])
    for count in sorted(set(draws[draws > 0].tolist())):
        chosen = np.flatnonzero(draws == count)
        counted = _counted(sampling.rows(torch.from_numpy(chosen)), problem.num_classes, count, Stage.ESTIMATION)
        for place, votes in zip(chosen.tolist(), counted, strict=True):
            _compare(tally, unit, rows[place], rows[place]["counts"], votes, count, alike)


def _counted(sampling: Sampling, num_classes: int, draws: int, stage: Stage) -> Votes:
    """Votes (rows, K) of the first draws of a stage; a draw with a NaN logit votes for no class."""
    rows = len(sampling.x) if sampling.chosen is None else len(sampling.chosen)
    votes = np.zeros((rows, num_classes), dtype=np.int64)

    def count(logits: Tensor, row: Tensor, draw: Tensor) -> None:
        answers = logits.float().cpu().numpy()
        valid = ~np.isnan(answers).any(1)
        np.add.at(votes, (row.cpu().numpy()[valid], answers[valid].argmax(1)), 1)

    sampling.run(draws, stage, count)
    return votes


def _compare(
    tally: Tally, unit: str, row: Mapping[str, Any], stated: list[int], drawn: Votes, draws: int, alike: bool
) -> None:
    index = row["index"]
    if stated == drawn.tolist():
        tally.confirm(AGAIN)
        return
    moved = int(np.abs(np.array(stated) - drawn).sum()) if len(stated) == len(drawn) else draws
    if not alike and moved <= max(2, draws // 500):
        tally.leave(AGAIN, "a few votes turn by rounding on this machine, which is not that of the run", unit, index)
    else:
        tally.refute(AGAIN, f"the same draws give the votes {drawn.tolist()}, not {stated}", unit, index)


def computes_alike(manifest: Mapping[str, Any]) -> bool:
    """Whether threads, torch and processor are those of the run, so that sums come out the same to the last bit."""
    here = (torch.get_num_threads(), version("torch"), processor_name(), platform.machine())
    versions = manifest.get("versions", {})
    there = (manifest.get("threads"), versions.get("torch"), manifest.get("processor"), platform.machine())
    return here == there
