"""Abilities of this installation, by itself and for a given model and data."""

import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch

from bounds import UnsupportedLayer, checks, explain
from certify import reference
from certify.configuration.config import read_config
from certify.configuration.sources import load_data, load_model
from certify.models import frozen, predictions, probe


def diagnose(config: Path | None = None) -> Iterator[str]:
    """Findings, a line each.

    Raises:
        InvalidInput: the configuration, its model or its data cannot be used; the first reason found.
    """
    names = ("certify-bounds", "torch", "numpy", "scipy", "pandas", "matplotlib")
    yield "versions: " + ", ".join(f"{name} {version(name)}" for name in names)
    yield f"python {platform.python_version()} on {platform.platform()}, {torch.get_num_threads()} threads"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield f"devices: cpu{''.join(f', cuda:{i} ({name})' for i, name in enumerate(gpus))}"
    if config is None:
        model, x, y = reference.load("ibp", 100)
        correct = int((predictions(model, x, 100) == y).sum())
        yield f"reference network: loads and classifies {correct} of 100 images correctly"
        return
    settings = read_config(config)
    classifier = load_model(settings.model, settings.device)
    data = load_data(settings.data, classifier)
    x, y = data
    checks.at_least("number of inputs", len(x), 1)
    checks.inputs(x, data.low, data.high)
    yield f"data: {len(x)} inputs of shape {tuple(x.shape[1:])}, {x.dtype}, from {x.min():g} to {x.max():g}"
    with frozen(classifier):
        num_classes = probe(classifier, x)
        labels = checks.labels(y, len(x), num_classes)
        correct = int((predictions(classifier, x, settings.batch_size) == labels).sum())
    yield f"model: {num_classes} classes, deterministic, {correct} of {len(x)} inputs correct"
    try:
        explanation = explain(classifier, x[:1])
    except UnsupportedLayer as error:
        yield f"bounds: not for this model; {error}"
    else:
        missing = len(explanation.missing)
        count = len(explanation.operations)
        yield "bounds: " + (
            "every operation has a rule" if not missing else f"{missing} of {count} operations lack a rule"
        )
        yield from (f"  {line}" for line in str(explanation).splitlines())
    yield f"methods: {', '.join(method.name for method in settings.chosen_methods())}"
