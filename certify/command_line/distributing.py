"""Options for many processes and machines: shards and engines.

Torch is imported inside commands only, so that help is quick.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cyclopts import Parameter

from certify.command_line.process import CONTRADICTION, FINE

if TYPE_CHECKING:
    from certify.configuration.config import Config
    from certify.distribution import Engine, Shard
    from certify.evaluation.evaluation import Evaluation

EngineName = Literal["here", "processes", "ray"]
ALL = ":*"  # behind the kind of a device: all devices of that kind
OWN_DEVICE = "LOCAL_RANK"  # set by launchers that start a process for each device


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Placement:
    """Place where the work of a run is done."""

    engine: EngineName | None = None
    """here, in processes of this machine, or on a Ray cluster. Without it: in processes if there are several workers or
    devices, else here."""
    workers: int | None = None
    """Processes on each device, or tasks of Ray at once."""
    address: str | None = None
    """Address of the Ray cluster, such as auto or 10.0.0.1:6379."""


def shard_of(given: str | None, environment: Mapping[str, str] = os.environ) -> "Shard":
    """The shard that the command line asks for, or else the launcher of this process; a line says so."""
    from certify.distribution.shards import Shard, shard_from_environment

    if given is not None:
        return Shard.of(given)
    shard, names = shard_from_environment(environment)
    if names:
        print(f"note: shard {shard}, from {names}; --shard 1/1 runs everything", file=sys.stderr)
    return shard


def directory_of(output: Path, given: str | None, shard: "Shard") -> Path:
    """The run directory: that of the command line, or one inside for each shard that a launcher has started."""
    return output if given is not None or shard.whole else output / f"shard-{shard.index}-of-{shard.count}"


def device_of(config: "Config", environment: Mapping[str, str] = os.environ) -> str:
    """The device of this process: its own of several, where a launcher has started a process for each."""
    rank, kind = environment.get(OWN_DEVICE), config.device.removesuffix(ALL)
    return config.device if rank is None or kind == "cpu" or ":" in kind else f"{kind}:{rank}"


def engine_for(config: "Config", placement: Placement) -> "Engine | None":
    """The engine that command line and configuration ask for; None for this process.

    Raises:
        InvalidInput: options that do not fit together.
        InvalidConfiguration: no device of the kind.
    """
    from functools import partial

    from bounds.errors import InvalidInput
    from certify.configuration.sources import load_model
    from certify.distribution import Processes, Ray

    make = partial(load_model, config.model)
    if placement.engine == "ray":
        return Ray(placement.address, workers=placement.workers, make_model=make)
    if placement.address is not None:
        raise InvalidInput(f"--address is that of a Ray cluster, got {placement.address!r}: add --engine ray")
    several = config.device.endswith(ALL) and OWN_DEVICE not in os.environ
    devices = _all_devices(config.device.removesuffix(ALL)) if several else None
    if placement.engine == "here":
        if placement.workers not in (None, 1) or devices:
            raise InvalidInput("--engine here is one process on one device: leave --workers and the other devices out")
        return None
    if placement.engine is None and placement.workers in (None, 1) and (devices is None or len(devices) == 1):
        return None
    return Processes(1 if placement.workers is None else placement.workers, devices=devices, make_model=make)


def _all_devices(kind: str) -> list[str]:
    from torch import get_device_module

    from bounds.errors import InvalidConfiguration

    try:
        count = get_device_module(kind).device_count() if kind != "cpu" else 0
    except (RuntimeError, AttributeError):
        count = 0
    if not count:
        raise InvalidConfiguration(f"device '{kind}{ALL}' cannot be used on this machine: it has no such device")
    return [f"{kind}:{index}" for index in range(count)]


def shard_verdict(evaluation: "Evaluation", shard: "Shard", directory: Path) -> int:
    """Say what is done, and look for contradictions; thresholds are those of the whole run."""
    contradictions = evaluation.check()
    for contradiction in contradictions:
        print(f"contradiction: {contradiction}")
    units = evaluation.manifest["configuration"]["units"]
    print(f"shard {shard} is finished: {len(evaluation.records)} of {units} units in {directory}")
    print("merge all shards with `certify merge OUTPUT DIRECTORIES`; thresholds are judged then")
    return CONTRADICTION if contradictions else FINE
