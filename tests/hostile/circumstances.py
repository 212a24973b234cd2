"""Circumstances of a call, and oddities about a model and its inputs."""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from hostile.calls_of_bounds import Case
from torch import Tensor, nn


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def anomaly_detection() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Anomaly Detection has been enabled")
        with torch.autograd.detect_anomaly():
            yield


def autocast() -> AbstractContextManager[object]:
    return torch.autocast("cpu", torch.bfloat16)


@contextmanager
def inference_and_autocast() -> Iterator[None]:
    with torch.inference_mode(), autocast():
        yield


MODES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": autocast,
    "inference_mode and autocast": inference_and_autocast,
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default device meta": lambda: torch.device("meta"),
    "deterministic algorithms": deterministic_algorithms,
    "anomaly detection": anomaly_detection,
}


class UnderAutocast(nn.Module):
    """A model that brings its autocast along, which is what the caller's is to do to it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        with autocast():
            return self.model(x)


class Unregistered(nn.Module):
    """The layers of a model where nobody finds their weights, which ask for gradients."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.hidden = [model]

    def forward(self, x: Tensor) -> Tensor:
        return self.hidden[0](x)


def _frozen(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).requires_grad_(False)


def _scripted(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(copy.deepcopy(model))


def _made_in_inference_mode(model: nn.Module) -> nn.Module:
    with torch.inference_mode():
        return copy.deepcopy(model)


MODELS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "training mode": lambda model: copy.deepcopy(model).train(),
    "frozen weights": _frozen,
    "unregistered weights": lambda model: Unregistered(copy.deepcopy(model)),
    "made in inference mode": _made_in_inference_mode,
    "scripted": _scripted,
    "compiled": lambda model: torch.compile(copy.deepcopy(model), backend="eager"),
}
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def altered(case: Case, model: nn.Module) -> Case:
    return case._replace(model=model, source=model)


def halved(case: Case, dtype: torch.dtype) -> Case:
    model = copy.deepcopy(case.model).to(dtype)
    return Case(model, case.x.to(dtype), case.y, model)


def fresh(case: Case) -> Case:
    """The inputs once more, made where this is called."""
    return case._replace(x=case.x.clone(), y=case.y.clone())


def asking_for_gradients(case: Case) -> Case:
    return case._replace(x=case.x.clone().requires_grad_())
