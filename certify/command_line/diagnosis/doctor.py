"""Abilities of this installation, by itself and for a given model and data."""

import platform
import shlex
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import msgspec
import torch

from bounds import InvalidConfiguration, UnsupportedLayer, checks, explain
from certify import reference
from certify.command_line.diagnosis import symptoms
from certify.command_line.diagnosis.proposal import proposal, toml
from certify.command_line.diagnosis.symptoms import Answers, Symptom
from certify.configuration.config import Config, read_config
from certify.configuration.data.inputs import load_data
from certify.configuration.data.labelled import LabelledInputs
from certify.configuration.keys import DataSource, ModelSource
from certify.configuration.sources import load_model, stated_normalisation
from certify.models import frozen, predictions, probe

WEIGHTS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
LOOKED_AT = 500  # inputs, at most, spread over all of them
BATCH = 100  # rows of a forward pass, at most


def asked(config: Path | None, model: str | None, build: str | None, data: Path | None) -> Config | None:
    """The configuration of a file, or one made of a model and data; None if neither is named.

    Args:
        config: a TOML file.
        model: a file, a name such as ``timm:NAME`` or that of a reference network, or ``module:function``.
        build: ``module:function`` that makes the model of a file of weights.
        data: a file, a folder of class folders, or one that ``datasets`` wrote.

    Raises:
        InvalidConfiguration: a file and a model or data besides it; data without a model.
    """
    if config is not None:
        if model or build or data:
            raise InvalidConfiguration(
                "doctor must have a configuration or --model and --data, got both: leave one out"
            )
        return read_config(config)
    if not (model or build):
        if data is not None:
            raise InvalidConfiguration(f"doctor must have a model for {data}: name it with --model or --build")
        return None
    here = Path.cwd()
    return Config(model=_model_source(model, build).within(here), data=_data_source(data).within(here))


def _model_source(model: str | None, build: str | None) -> ModelSource:
    if model is None:
        return ModelSource(build=build)
    if Path(model).suffix == ".onnx":
        return ModelSource(onnx=model)
    if Path(model).suffix == ".pt2":
        return ModelSource(exported=model)
    named = ModelSource(network=model)
    if named.library[0]:
        return named if build is None else ModelSource(build=build)
    if Path(model).suffix in WEIGHTS or Path(model).exists():
        return ModelSource(build=build, weights=model)
    return ModelSource(build=model) if ":" in model else named


def _data_source(data: Path | None) -> DataSource:
    if data is None:
        return DataSource()
    if not data.is_dir():
        return DataSource(file=str(data))
    stored = any((data / name).exists() for name in ("dataset_info.json", "dataset_dict.json"))
    return DataSource(dataset=str(data)) if stored else DataSource(folder=str(data))


def diagnose(settings: Config | None, output: Path | None = None) -> Iterator[str]:
    """Findings, a line each, and at the end a configuration that is ready to run.

    Args:
        settings: the model and the data.
        output: file for the configuration; if None, it is printed with the findings.

    Raises:
        InvalidInput: the configuration, its model or its data cannot be used; the first reason found.
    """
    names = ("certify-bounds", "torch", "numpy", "scipy", "pandas", "matplotlib")
    yield "versions: " + ", ".join(f"{name} {version(name)}" for name in names)
    yield f"python {platform.python_version()} on {platform.platform()}, {torch.get_num_threads()} threads"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield f"devices: cpu{''.join(f', cuda:{i} ({name})' for i, name in enumerate(gpus))}"
    if settings is None:
        model, x, y = reference.load("ibp", 100)
        correct = int((predictions(model, x, 100) == y).sum())
        yield f"reference network: loads and classifies {correct} of 100 images correctly"
        return
    visit = _Visit(settings)
    for part in (visit.range, visit.layers, visit.answers, visit.operations):
        yield from part()
    if output is not None or not (settings.methods or settings.preset) or visit.settings is not settings:
        yield from visit.configuration(output)
    else:
        yield f"methods: {', '.join(method.name for method in settings.chosen_methods())}"


class _Visit:
    """One look at a model and data; the settings change with what is found."""

    def __init__(self, settings: Config) -> None:
        self.settings = settings
        self.model = load_model(settings.model, settings.device)
        self.data = self._unbounded()

    def _unbounded(self) -> LabelledInputs:
        """The data, whatever its range."""
        source = self.settings.data
        sides = {side: "none" for side in ("low", "high") if getattr(source, side) is None}
        return load_data(msgspec.structs.replace(source, **sides), self.model, LOOKED_AT)

    def range(self) -> Iterator[str]:
        """Shape and range of the inputs."""
        checks.at_least("number of inputs", len(self.data.x), 1)
        if turned := symptoms.channels_last(self.data.x, self.settings.data):
            yield from self._told(turned)
            self.data = self._unbounded()
        data, x = self.data, self.data.x
        part = " (spread over more)" * (int(data.place[-1]) >= len(x) and self.settings.data.sample is None)
        yield f"data: {len(x)} inputs{part} of shape {tuple(x.shape[1:])}, {x.dtype}, from {x.min():g} to {x.max():g}"
        yield from (f"  {note}" for note in data.notes)
        yield from self._told(symptoms.unfit_range(x, self.settings.data, bool(data.features)))
        self.data = load_data(self.settings.data, self.model, LOOKED_AT)
        checks.inputs(self.data.x, self.data.low, self.data.high)

    def layers(self) -> Iterator[str]:
        """The normalisation of the model, and layers that act as in training."""
        if stated := stated_normalisation(self.model):
            yield stated
        for found in symptoms.training_layers(self.model):
            yield from self._told(found)

    def answers(self) -> Iterator[str]:
        """Accuracy, and what would raise it by far."""
        data, batch = self.data, min(self.settings.batch_size, BATCH)
        with frozen(self.model):
            classes = probe(self.model, data.x)
            labels = checks.labels(data.y, len(data.x), classes)
            answers = Answers(predictions(self.model, data.x, batch), labels)
            yield f"model: {classes} classes, deterministic, {int(answers.right.sum())} of {len(labels)} inputs correct"
            if line := symptoms.first_layer(self.model, data.x[:batch]):
                yield line
            found = symptoms.normalisation(self.model, replace(data, y=labels), batch)
        yield from self._told(found)
        if found is not None and found.model:
            self.model = load_model(self.settings.model, self.settings.device)
            with frozen(self.model):
                answers = Answers(predictions(self.model, data.x, batch), labels)
        order = symptoms.class_order(answers, classes, data)
        yield from self._told(order)
        if found is None and order is None:
            yield from self._told(symptoms.guessing(answers))

    def operations(self) -> Iterator[str]:
        """Rules of bounds for the operations of the model."""
        try:
            explanation = explain(self.model, self.data.x[:1])
        except UnsupportedLayer as error:
            yield f"bounds: not for this model; {error}"
            return
        missing, count = explanation.missing, len(explanation.operations)
        known = "every operation has a rule" if not missing else f"{len(missing)} of {count} operations lack a rule"
        yield f"bounds: {known}"
        yield from (f"  {line}" for line in str(explanation).splitlines())
        for part in missing:
            yield f"problem: {part.operation} has no rule, at {part.origin or 'no line of source code'}; {part.remedy}"

    def configuration(self, output: Path | None) -> Iterator[str]:
        """A configuration of this model and data, with what was found, and a threshold that it meets."""
        settings, gate = proposal(self.settings, self.model, self.data)
        folder = (output or Path("certify.toml")).resolve().parent
        text = toml(settings, gate, folder)
        if output is None:
            yield "ready to run, as a file of this folder:"
            yield from (f"  {line}" for line in text.splitlines())
            return
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InvalidConfiguration(f"output {output} cannot be written: {error.strerror}") from error
        yield f"wrote {output}, ready for: certify run {shlex.quote(str(output))}"

    def _told(self, finding: Symptom | None) -> Iterator[str]:
        """The sentence of a finding; its changes are made."""
        if finding is None:
            return
        yield f"problem: {finding.sentence}"
        changed = {"model": finding.model, "data": finding.data}
        self.settings = msgspec.structs.replace(
            self.settings,
            **{name: msgspec.structs.replace(getattr(self.settings, name), **keys) for name, keys in changed.items()},
        )
