"""Shards: which part of a run is done here, and in how many parts it is cut."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bounds.errors import InvalidInput

T = TypeVar("T")
TASK = "SLURM_ARRAY_TASK_ID"


@dataclass(frozen=True)
class Shard:
    """One of so many equal parts of a run, counted from 1.

    Args:
        index: from 1 to ``count``.
        count: parts.

    Raises:
        InvalidInput: no such part.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise InvalidInput(f"shard must be i/n with 1 <= i <= n, got {self}: the first of eight is 1/8")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def of(cls, given: "Shard | str | None") -> "Shard":
        """The shard that a text such as ``"2/8"`` names; the whole run for None.

        >>> Shard.of("2/8"), str(Shard.of(None))
        (Shard(index=2, count=8), '1/1')

        Raises:
            InvalidInput: another text.
        """
        if isinstance(given, Shard):
            return given
        if given is None:
            return cls(1, 1)
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", given) if isinstance(given, str) else None
        if found is None:
            raise InvalidInput(f"shard must be i/n such as 2/8, got {given!r}")
        return cls(int(found[1]), int(found[2]))

    def part(self, items: Sequence[T]) -> Sequence[T]:
        """The items of this shard: every ``count``-th, so that cheap and dear ones are spread over all shards.

        >>> Shard(2, 3).part("abcdefgh")
        'beh'
        """
        return items[self.index - 1 :: self.count]

    @property
    def whole(self) -> bool:
        """Whether there are no other shards."""
        return self.count == 1


def shard_from_environment(environment: Mapping[str, str]) -> tuple[Shard, str]:
    """The shard of a process that a launcher has started as one of several, and the variables that say so.

    An array of SLURM and the processes of ``torchrun`` may be nested: then each process of each task has a shard.

    >>> shard_from_environment({"RANK": "1", "WORLD_SIZE": "8"})
    (Shard(index=2, count=8), 'RANK and WORLD_SIZE')
    >>> shard_from_environment({})
    (Shard(index=1, count=1), '')

    Raises:
        InvalidInput: variables that do not say which part this is.
    """
    task, tasks = _slurm(environment)
    rank, ranks = _torchrun(environment)
    names = [TASK] * (tasks > 1) + ["RANK and WORLD_SIZE"] * (ranks > 1)
    return Shard(task * ranks + rank + 1, tasks * ranks), " with ".join(names)


def _slurm(environment: Mapping[str, str]) -> tuple[int, int]:
    """Place of a task in its array, from 0, and the number of tasks."""
    if TASK not in environment:
        return 0, 1
    task = _number(environment, TASK)
    count = _number(environment, "SLURM_ARRAY_TASK_COUNT", needed_by=TASK)
    if count == 1:
        return 0, 1
    first, step = _number(environment, "SLURM_ARRAY_TASK_MIN", needed_by=TASK), 1
    if "SLURM_ARRAY_TASK_STEP" in environment:
        step = max(1, _number(environment, "SLURM_ARRAY_TASK_STEP"))
    place, rest = divmod(task - first, step)
    last = _number(environment, "SLURM_ARRAY_TASK_MAX") if "SLURM_ARRAY_TASK_MAX" in environment else None
    if rest or not 0 <= place < count or (last is not None and last != first + (count - 1) * step):
        raise InvalidInput(
            f"{TASK}={task} is not one of {count} tasks from {first} in steps of {step}: pass --shard i/n, or submit "
            "the array without gaps"
        )
    return place, count


def _torchrun(environment: Mapping[str, str]) -> tuple[int, int]:
    """Rank of a process, and the number of processes."""
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return 0, 1
    rank, size = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
    if not 0 <= rank < size:
        raise InvalidInput(f"RANK={rank} must be below WORLD_SIZE={size}: pass --shard i/n")
    return rank, size


def _number(environment: Mapping[str, str], name: str, needed_by: str = "") -> int:
    given = environment.get(name)
    if given is None:
        raise InvalidInput(f"{needed_by} is set but {name} is not, so the number of parts is unknown: pass --shard i/n")
    if not re.fullmatch(r"[0-9]{1,18}", given):
        raise InvalidInput(f"{name} must be a whole number, got {given!r}: pass --shard i/n")
    return int(given)
