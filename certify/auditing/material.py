"""Model and data of a run: where to find them, and whether they are those that the run was made with."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bounds.checks import Limit
from bounds.errors import BoundsError
from bounds.sets.orders import Order
from certify.auditing.structure import INPUTS
from certify.auditing.tally import Tally
from certify.configuration.config import config_of_manifest
from certify.configuration.data.inputs import HELD
from certify.configuration.keys import ModelSource
from certify.configuration.sources import load_data, load_model
from certify.evaluation.arguments import problem_of
from certify.evaluation.storage.manifest import manifest_of
from certify.methods import Method, Problem
from certify.methods.tables import methods_from
from certify.models import frozen
from certify.sets.stated import StatedSet
from certify.stored_inputs import Rows

IDENTITY = "model, data and settings"
SAME = ("weights_sha256", "answers_sha256", "data_sha256", "precision")
NEAR = 1e-4  # of the largest logit: classes within may turn by rounding


@dataclass(frozen=True, eq=False, kw_only=True)
class Material:
    """Model and data of a run, as they were found.

    Attributes:
        model: None where there is none.
        x: (N, *D), all inputs; None likewise.
        y: (N,), all labels.
        low: lower side of the box.
        high: upper side.
    """

    model: nn.Module
    x: Rows
    y: Tensor
    low: Limit
    high: Limit


def find_material(
    manifest: Mapping[str, Any],
    model: nn.Module | Path | str | None,
    inputs: Rows | None,
    labels: Tensor | None,
    stored: tuple[Rows, Tensor] | None,
) -> Material | str:
    """Model and data, from the caller, from where the manifest says, or from the run's own tensors; or why not.

    Args:
        manifest: of the run.
        model: a model, a file to read in place of the one in the manifest, or None for that one.
        inputs: all inputs of the run, or None.
        labels: their labels.
        stored: inputs and labels that the run itself keeps, where it keeps all.
    """
    try:
        config = config_of_manifest(manifest) if manifest["source"].get("model") else None
        if not isinstance(model, nn.Module):
            if config is None:
                return "the run does not say where its model is: pass model="
            model = load_model(config.model if model is None else _in_place(config.model, Path(model)), config.device)
        stated = manifest["configuration"]
        low, high = stated.get("low"), stated.get("high")
        if inputs is None and config is not None:
            data = load_data(config.data, model, held=HELD)
            inputs, labels, low, high = data.x, data.y, data.low, data.high
        if inputs is None and stored is not None:
            inputs, labels = stored
        if inputs is None or labels is None:
            return "the run does not say where its data are: pass inputs= and labels="
        if isinstance(low, str) or isinstance(high, str):
            return "the sides of the box are tensors, which the manifest has no more than the hash of"
    except (BoundsError, OSError, ImportError, RuntimeError) as error:
        return f"model and data cannot be loaded: {' '.join(str(error).split())}"
    return Material(model=model, x=inputs, y=labels, low=low, high=high)


def _in_place(source: ModelSource, file: Path) -> ModelSource:
    """The source of a model with another file."""
    values = {name: getattr(source, name) for name in source.__struct_fields__} | {"exported": None, "onnx": None}
    if file.suffix == ".onnx":
        return ModelSource(**values | {"onnx": str(file), "build": None, "network": None, "weights": None, "key": None})
    if file.suffix == ".pt2":
        return ModelSource(
            **values | {"exported": str(file), "build": None, "network": None, "weights": None, "key": None}
        )
    return ModelSource(**values | {"weights": str(file)})


def identified(
    tally: Tally, manifest: Mapping[str, Any], found: Material, sets: Sequence[StatedSet]
) -> tuple[Problem, list[Method]] | None:
    """The problem of the run, if model, data and settings are its own: judged by their hashes."""
    stated = manifest["configuration"]
    try:
        methods = methods_from(stated["methods"])
        orders: list[Order] = [*(math.inf if norm == "inf" else float(norm) for norm in stated["norms"]), *sets]
        problem, logits = problem_of(
            found.model, found.x, found.y, (found.low, found.high), manifest["seed"], stated["batch_size"],
            stated.get("first_index", 0), stated["on_grid"],
        )  # fmt: skip
        problem = replace(problem, memory=stated.get("memory"), batch_sizes=stated.get("batch_sizes", {}))
        sizes = {name: part["rows_per_unit"] for name, part in stated["plan"].items()}  # they change no result
        here = manifest_of(problem, logits, methods, orders, stated["units"], sizes, None)
    except (BoundsError, KeyError, TypeError, ValueError, RuntimeError) as error:
        tally.refute(IDENTITY, f"model and data do not fit the run: {' '.join(str(error).split())}")
        return None
    before = len(tally.refuted)
    for key in SAME:
        if key in manifest:
            tally.judge(IDENTITY, manifest[key] == here[key], f"{key} of the run is {manifest[key]}, here {here[key]}")
    if "code_sha256" in manifest:
        same = manifest["code_sha256"] == here["code_sha256"]
        tally.judge(
            IDENTITY, same, "the code of the model is not that of the run, though its answers here are the same"
        )
    for key in ("low", "high", "inputs", "on_grid", "plan"):
        if key in stated:
            same = stated[key] == here["configuration"][key]
            tally.judge(IDENTITY, same, f"{key} of the run is {stated[key]}, here {here['configuration'][key]}")
    return (problem, methods) if len(tally.refuted) == before else None


def judge_answers(tally: Tally, problem: Problem, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Judge the labels and the classes of the model that rows state, each with the name of its unit."""
    with frozen(problem.model) as model, torch.no_grad():
        logits = torch.cat([model(part) for part in problem.x.split(problem.batch_size)]).double().cpu()
    labels = problem.y.tolist()
    top, best = logits.max(1)
    near = NEAR * logits.abs().amax(1)
    for unit, row in rows:
        place, stated = row["index"] - problem.first_index, row["base_prediction"]
        if not 0 <= place < len(labels):
            continue
        tally.judge(
            INPUTS,
            row["label"] == labels[place],
            f"its label is {row['label']}, not {labels[place]}",
            unit,
            row["index"],
        )
        for key in ("prediction", "adversarial_label"):
            name = row.get(key)
            known = name is None or -1 <= name < logits.shape[1]
            if not known:
                tally.refute(
                    INPUTS, f"{key} is {name}, but the model has {logits.shape[1]} classes", unit, row["index"]
                )
        same = stated == int(best[place]) or (stated == -1 and not bool(logits[place].isfinite().all()))
        close = 0 <= stated < logits.shape[1] and bool(top[place] - logits[place, stated] <= near[place])
        reason = f"the model gives the input the class {int(best[place])}, not {stated}"
        tally.judge(INPUTS, True if same else None if close else False, reason, unit, row["index"])
