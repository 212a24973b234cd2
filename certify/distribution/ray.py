"""Workers of a Ray cluster: tasks on as many machines as it has, each on a GPU if the inputs are on one."""

import contextlib
import importlib
import os
import pickle
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from bounds import checks
from bounds.errors import InvalidInput, WorkerLost
from certify.distribution.engines import ATTEMPTS, MEMORY, Engine, Function, Pool, failure, outcome, value_of
from certify.distribution.parcels import Parcel

AHEAD = 2  # items under way for each that can run, so that no worker waits for the calling process
# Ray shows a task its own GPU only, but a worker that has opened one cannot change to another. So it sees all, and
# picks the one that the task was given.
ALL_GPUS = {"env_vars": {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}}


class Ray(Engine):
    """Tasks of a Ray cluster, with as many cores each as this process has threads, and a GPU if inputs are on one.

    Needs the extra ``ray``. Every machine needs the same versions of this package, torch and numpy.

    Args:
        address: of the cluster, as ``ray.init`` takes it. None for the one that is connected already, or that
            the environment variable ``RAY_ADDRESS`` names, or else a cluster of this machine alone.
        workers: tasks at once, at most. None for as many as there is room for.
        make_model: see :class:`Engine`.

    Raises:
        InvalidInput: workers below 1; Ray is not installed.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        workers: int | None = None,
        make_model: Callable[[str], nn.Module] | None = None,
    ) -> None:
        self.make_model = make_model
        self.address = address
        self.workers = None if workers is None else checks.at_least("workers", workers, 1)
        _ray()

    def __repr__(self) -> str:
        return f"Ray({self.address!r}, workers={self.workers})"

    @contextlib.contextmanager
    def pool(self, shared: object, device: torch.device) -> Iterator[Pool]:
        """Tasks that find ``shared`` in the object store, where it is put once."""
        ray = _ray()
        own = not ray.is_initialized()
        alone = own and self.address is None and "RAY_ADDRESS" not in os.environ and device.type == "cpu"
        cpus = min(_cores(), self.workers * torch.get_num_threads()) if alone and self.workers else None
        if own:
            _connect(ray, self.address, cpus)
        try:
            # Room for no more than these tasks lets more of them wait in Ray, so that no worker waits for this process.
            most = None if cpus else self.workers
            yield RayPool(ray, Parcel.of(shared, ray.cloudpickle), device.type, most)
        finally:
            if own:
                ray.shutdown()


class RayPool(Pool):
    """Tasks that share what was put into the object store."""

    def __init__(self, ray: Any, parcel: Parcel, kind: str, most: int | None) -> None:  # noqa: ANN401  # a module
        self.ray, self.kind, self.most = ray, kind, most
        self.key = uuid.uuid4().hex
        self.parcel = ray.put(pickle.dumps(parcel))
        gpus = int(kind != "cpu")
        self.needs = {"GPU": gpus} if gpus else {"CPU": int(parcel.modes["threads"])}
        options: dict[str, Any] = {"num_cpus": self.needs.get("CPU", 1), "num_gpus": gpus, "max_retries": ATTEMPTS - 1}
        if gpus:  # and keep the process for further tasks, with the model in it
            options |= {"runtime_env": ALL_GPUS, "max_calls": 0}
        self.task = ray.remote(**options)(run_task)
        _require_room(ray, self.needs)

    @property
    def workers(self) -> int:  # type: ignore[override]  # clusters grow and shrink
        """Tasks that the cluster has room for at the moment."""
        room = max(1, _room(self.ray.cluster_resources(), self.needs))
        return room if self.most is None else min(room, self.most)

    def unordered(self, function: Function, items: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        """See :class:`Pool`."""
        waiting: dict[Any, int] = {}
        try:
            for place, item in enumerate(items):
                limit = self.most or AHEAD * self.workers
                while len(waiting) >= limit:
                    yield self._next(waiting)
                waiting[self._submitted(function, item)] = place
            while waiting:
                yield self._next(waiting)
        finally:
            for task in waiting:
                self.ray.cancel(task, force=True)

    def _submitted(self, function: Function, item: object) -> Any:  # noqa: ANN401  # a reference of Ray
        # The reference to what is shared stands in a list, so that Ray does not fetch it for each task.
        return self.task.remote(self.key, [self.parcel], self.kind, self.ray.cloudpickle.dumps((function, item)))

    def _next(self, waiting: dict[Any, int]) -> tuple[int, Any]:
        (done,), _ = self.ray.wait(list(waiting), num_returns=1)
        place = waiting.pop(done)
        try:
            content = self.ray.get(done)
        except self.ray.exceptions.RayError as error:
            raise WorkerLost(
                f"piece of work {place} is given up after {ATTEMPTS} attempts on the Ray cluster "
                f"({str(error).strip().splitlines()[0]}): {MEMORY}"
            ) from error
        return place, value_of(content)


_shared: dict[tuple[str, str], Any] = {}  # in a worker: what it has unpacked last


def run_task(key: str, parcel: list[Any], kind: str, task: bytes) -> bytes:
    """Work on an item, in a worker of Ray; what is shared is fetched and unpacked once."""
    ray = _ray()
    try:
        device = device_of_task(kind, ray.get_gpu_ids())
        if (key, device) not in _shared:
            _shared.clear()
            _shared[key, device] = pickle.loads(ray.get(parcel[0])).unpacked(torch.device(device))
        function, item = pickle.loads(task)
    except Exception as error:  # whatever a foreign class raises
        return failure(error)
    return outcome(function, _shared[key, device], item)


def device_of_task(kind: str, gpus: list[Any]) -> str:
    """The device of a task that was given these GPUs.

    >>> device_of_task("cpu", []), device_of_task("cuda", [3])
    ('cpu', 'cuda:3')
    """
    return f"{kind}:{gpus[0]}" if gpus else kind


def _ray() -> Any:  # noqa: ANN401  # a module without annotations
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise InvalidInput(
            f"engine 'ray' needs Ray, which cannot be imported ({error}): install certify-bounds[ray]"
        ) from error


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _connect(ray: Any, address: str | None, cpus: int | None) -> None:  # noqa: ANN401  # likewise
    """Connect to a cluster, or start one of this machine, of so many cores."""
    try:
        ray.init(address=address, num_cpus=cpus, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray raises many kinds
        where = address or os.environ.get("RAY_ADDRESS") or "this machine"
        raise InvalidInput(f"address: Ray cannot be reached at {where}: {' '.join(str(error).split())}") from error


def _room(resources: Mapping[str, float], needs: Mapping[str, int]) -> int:
    return min(int(resources.get(name, 0) // count) for name, count in needs.items())


def _require_room(ray: Any, needs: Mapping[str, int]) -> None:  # noqa: ANN401  # likewise
    """Refuse a cluster in which a task would wait for ever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(_room(resources, needs) for resources in nodes):
        wanted = " and ".join(f"{count} {name}" for name, count in needs.items())
        raise InvalidInput(
            f"engine: each task needs {wanted}, but no machine of the Ray cluster has as many: set OMP_NUM_THREADS "
            "to the cores of a worker, or add machines"
        )
