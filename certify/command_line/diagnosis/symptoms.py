"""Signs that a model does not get the inputs that it was trained on, from its answers and their labels."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bounds.layers import Normalize
from certify.configuration.data.labelled import LabelledInputs
from certify.configuration.keys import DataSource
from certify.models import predictions

CHANCE = 1e-3  # of a finding where there is none, with all that is tried together
GAIN = 0.05  # accuracy that a finding must add
BYTES = 255
USUAL = {  # means and deviations that many trainings use, per channel
    "ImageNet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "CIFAR-10": ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
    "from -1 to 1": ([0.5], [0.5]),
    "MNIST": ([0.1307], [0.3081]),
    "Fashion-MNIST": ([0.2860], [0.3530]),
    "from 0 to 255": ([0.0], [1 / BYTES]),
}


@dataclass(frozen=True)
class Symptom:
    """A sentence about what seems wrong, and what to change in the tables of the configuration.

    Attributes:
        sentence: what was seen, and the remedy.
        model: keys of ``[model]`` with their new values.
        data: keys of ``[data]`` with their new values.
    """

    sentence: str
    model: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)


class Answers(NamedTuple):
    """Predicted and correct classes (N,) of a model."""

    predicted: Tensor
    labels: Tensor

    @property
    def right(self) -> Tensor:
        """Rows (N,) that are classified correctly."""
        return self.predicted == self.labels

    @property
    def accuracy(self) -> float:
        """Share of them."""
        return float(self.right.double().mean())


def unfit_range(x: Tensor, source: DataSource, table: bool) -> Symptom | None:
    """Inputs outside of the declared range, or in a small part of it; None if they fit."""
    lowest, highest = float(x.min()), float(x.max())
    low, high = (usual if side is None else side for side, usual in ((source.low, 0.0), (source.high, 1.0)))
    if not (isinstance(low, int | float) and isinstance(high, int | float)) or (table and source.low is None):
        return None
    seen = f"inputs lie from {lowest:g} to {highest:g}, and the declared range is [{low:g}, {high:g}]"
    if source.divide_by == BYTES and lowest >= 0 and BYTES * highest <= 1.001:
        return Symptom(f"{seen}: they were divided by 255 twice, so leave divide_by out", data={"divide_by": 1.0})
    if low <= lowest and highest <= high:
        return None
    if source.file is not None and bool((x == x.round()).all()) and lowest >= 0 and highest <= BYTES:
        return Symptom(f"{seen}: images of 8 bits need divide_by = 255", data={"divide_by": float(BYTES)})
    remedy = "declare their range with low and high; without one, perturbations are unbounded"
    if lowest < 0:
        remedy = (
            "if they were normalised, give them as they were before, and mean and std under [model], so that radii "
            "have their units; else declare low and high"
        )
    return Symptom(f"{seen}: {remedy}", data={"low": "none", "high": "none"})


def channels_last(x: Tensor, source: DataSource) -> Symptom | None:
    """Images (N, height, width, channels) in an array; None if their channels come first."""
    few = (1, 3)
    if source.file is None or x.ndim != 4 or x.shape[1] in few or x.shape[3] not in few:
        return None
    return Symptom(
        f"inputs of shape {tuple(x.shape[1:])} look like images with their channels last: set channels_last = true",
        data={"channels_last": True},
    )


def training_layers(model: nn.Module) -> Iterator[Symptom]:
    """Layers that act as in training although the model is in evaluation mode, or that were never trained."""
    for name, module in model.named_modules():
        called = f"{name or 'the model'} ({type(module).__name__})"
        if module.training and not isinstance(module, torch.fx.GraphModule):
            yield Symptom(f"{called} stays in training mode after eval(): its answers may be random")
        if isinstance(module, nn.modules.batchnorm._NormBase):
            mean = module.running_mean
            if mean is None and not isinstance(module, nn.modules.instancenorm._InstanceNorm):
                yield Symptom(f"{called} has no running statistics, so inputs of a batch change each other's answers")
            elif mean is not None and not mean.any() and not module.num_batches_tracked:
                yield Symptom(f"{called} has never seen a batch: were its weights loaded?")


def guessing(answers: Answers) -> Symptom | None:
    """An accuracy that answering with the most frequent class would reach as well; None if it is better."""
    from scipy import stats

    most = float(answers.labels.bincount().max()) / len(answers.labels)
    if len(answers.labels) < 10 or stats.binom.sf(int(answers.right.sum()) - 1, len(answers.labels), most) < CHANCE:
        return None
    return Symptom(
        f"accuracy {answers.accuracy:.3g} is no better than guessing ({most:.3g}): check weights, input range, "
        "normalisation and the order of classes"
    )


def normalisation(model: nn.Module, data: LabelledInputs, batch_size: int) -> Symptom | None:
    """A normalisation, or none, with which the model classifies far more inputs correctly; None if it has its own."""
    inner = _inner(model)
    given = Answers(predictions(model, data.x, batch_size), data.y)
    best, name = given, ""
    candidates = dict(_candidates(data.x))
    for candidate, (mean, std) in candidates.items():
        tried = nn.Sequential(Normalize(mean, std).to(data.x), inner) if mean else inner
        answers = Answers(predictions(tried, data.x, batch_size), data.y)
        if answers.accuracy > best.accuracy:
            best, name = answers, candidate
    if not name or not _better(best.right, given.right, len(candidates)):
        return None
    mean, std = candidates[name]
    seen = f"accuracy is {given.accuracy:.3g} as given, and {best.accuracy:.3g}"
    if not mean:
        remedy = "leave mean and std of [model] out, as the network or the data has them already"
        return Symptom(f"{seen} without [model] mean and std: {remedy}", model={"mean": None, "std": None})
    if name.startswith("not "):
        return Symptom(
            f"{seen} with the normalisation {name[4:]} undone: inputs are normalised twice, in the data and in the "
            "model; give them as they were before"
        )
    values = {"mean": [round(value, 6) for value in mean], "std": [round(value, 6) for value in std]}
    missing = "another one than that of [model]" if inner is not model else "a normalisation that is missing"
    stated = f"mean = {values['mean']}, std = {values['std']}"
    return Symptom(
        f"{seen} with {missing}, {name}: {stated}; take those of its training if you know them", model=values
    )


def _inner(model: nn.Module) -> nn.Module:
    """The network behind the normalisation that :func:`certify.load_model` puts first; the model if there is none."""
    if isinstance(model, nn.Sequential) and len(model) == 2 and isinstance(model[0], Normalize):
        return model[1]
    return model


def _candidates(x: Tensor) -> Iterator[tuple[str, tuple[list[float], list[float]]]]:
    """Normalisations by name: none, the usual ones that fit the channels, the same undone, and that of the inputs."""
    yield "none", ([], [])
    channels = x.shape[1]
    if x.ndim > 2:
        for name, (mean, std) in USUAL.items():
            if len(mean) in (1, channels):
                yield name, (mean, std)
                undone = [-m / s for m, s in zip(mean, std, strict=True)], [1 / s for s in std]
                yield f"not {name}", undone
    entries = x.transpose(0, 1).flatten(1)
    deviation = entries.std(1)
    if bool((deviation > 0).all()):
        yield "of these inputs", (entries.mean(1).tolist(), deviation.tolist())


def class_order(answers: Answers, num_classes: int, data: LabelledInputs) -> Symptom | None:
    """Another order of the classes under which far more answers are correct; None if the given one fits.

    The order is fitted to one half of the inputs and tried on the other, as the best of many orders fits any answers a
    little.
    """
    halves = [Answers(answers.predicted[start::2], answers.labels[start::2]) for start in (0, 1)]
    if len(halves[1].labels) == 0:
        return None
    order = _order(halves[0], num_classes)
    moved = order[halves[1].labels] == halves[1].predicted
    if not _better(moved, halves[1].right, 1):
        return None
    order = _order(answers, num_classes)
    reached = float((order[answers.labels] == answers.predicted).double().mean())
    seen = f"accuracy is {answers.accuracy:.3g} as given, and {reached:.3g} with the classes in another order"
    if len(data.classes) != num_classes:
        pairs = [f"{i} is {int(k)}" for i, k in enumerate(order) if i != int(k)]
        return Symptom(f"{seen}: of the labels, in the model {', '.join(pairs)}")
    names = [""] * num_classes
    for i, k in enumerate(order.tolist()):
        names[k] = data.classes[i]
    return Symptom(f"{seen}: classes = {names}", data={"classes": names})


def _order(answers: Answers, num_classes: int) -> Tensor:
    """The class (K,) of the model that each label agrees with most, each class once."""
    from scipy.optimize import linear_sum_assignment

    known = answers.predicted >= 0
    places = answers.labels[known] * num_classes + answers.predicted[known]
    agreements = places.bincount(minlength=num_classes**2).view(num_classes, num_classes).double()
    agreements += 1e-6 * torch.eye(num_classes, dtype=torch.float64)  # the given order, where nothing decides
    return torch.from_numpy(linear_sum_assignment(agreements.numpy(), maximize=True)[1])


def _better(right: Tensor, before: Tensor, tried: int) -> bool:
    """Whether rows (N,) are right far more often than before, by the exact test of McNemar and in accuracy."""
    from scipy import stats

    won, lost = int((right & ~before).sum()), int((before & ~right).sum())
    chance = float(stats.binom.sf(won - 1, won + lost, 0.5)) if won + lost else 1.0
    return chance * tried < CHANCE and (won - lost) / len(right) > GAIN


def first_layer(model: nn.Module, x: Tensor) -> str:
    """The values of the first layer with weights, in words; empty where the model has no such layers."""
    layer = next((part for part in model.modules() if _weighted(part)), None)
    seen: list[Tensor] = []
    if layer is None:
        return ""
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        with torch.no_grad():
            model(x)
    finally:
        handle.remove()
    if not seen or not isinstance(seen[0], Tensor):
        return ""
    values = seen[0].double()
    return (
        f"first layer ({type(layer).__name__}): values from {values.min():.3g} to {values.max():.3g}, "
        f"standard deviation {values.std():.3g}"
    )


def _weighted(part: nn.Module) -> bool:
    return not any(True for _ in part.children()) and any(True for _ in part.parameters(recurse=False))
