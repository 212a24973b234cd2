"""Shards: texts, variables of launchers, and that the parts of a run are the run."""

import pytest

from bounds.errors import InvalidInput
from certify.distribution import Shard
from certify.distribution.shards import shard_from_environment


def slurm(task: int, tasks: int, first: int = 0, step: int = 1, **more: object) -> dict[str, str]:
    values = {"ID": task, "COUNT": tasks, "MIN": first, "MAX": first + (tasks - 1) * step, "STEP": step, **more}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


def torchrun(rank: int, size: int) -> dict[str, str]:
    return {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": "0"}


@pytest.mark.parametrize("items", range(12))
@pytest.mark.parametrize("count", range(1, 9))
def test_the_parts_of_a_run_are_the_run(items: int, count: int):
    units = list(range(items))
    parts = [Shard(index, count).part(units) for index in range(1, count + 1)]
    assert sorted(unit for part in parts for unit in part) == units
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["", "2", "0/8", "9/8", "2/0", "-1/8", "2/8 ", "2\\8", "1/1e3", "²/8", "2/8/3"])
def test_other_texts_are_refused(text: str):
    with pytest.raises(InvalidInput, match="shard must be i/n"):
        Shard.of(text)
    with pytest.raises(InvalidInput, match="shard must be i/n"):
        Shard.of(2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        ({}, "1/1"),
        (slurm(0, 8), "1/8"),
        (slurm(7, 8), "8/8"),
        (slurm(1, 8, first=1), "1/8"),
        (slurm(8, 8, first=1), "8/8"),
        (slurm(14, 3, first=10, step=2), "3/3"),
        (slurm(3, 1, first=3), "1/1"),
        (torchrun(1, 8), "2/8"),
        (torchrun(0, 1), "1/1"),
        (slurm(1, 2) | torchrun(2, 4), "7/8"),
        ({"RANK": "3"}, "1/1"),
        ({name: value for name, value in slurm(2, 4).items() if name[-4:] not in ("STEP", "_MAX")}, "3/4"),
    ],
    ids=str,
)
def test_launchers_say_which_part_a_process_has(environment: dict[str, str], shard: str):
    found, names = shard_from_environment(environment)
    assert str(found) == shard
    assert bool(names) == (not found.whole)


def test_nested_launchers_give_each_process_a_part_of_its_own():
    found = {shard_from_environment(slurm(i, 3, first=1) | torchrun(j, 4))[0] for i in (1, 2, 3) for j in range(4)}
    assert {(shard.index, shard.count) for shard in found} == {(index, 12) for index in range(1, 13)}


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"SLURM_ARRAY_TASK_ID": "3"}, "SLURM_ARRAY_TASK_COUNT is not"),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}, "SLURM_ARRAY_TASK_MIN is not"),
        (slurm(7, 3, first=1, MAX=7), "not one of 3 tasks"),  # --array=1,3,7
        (slurm(1, 3, first=1, MAX=7), "not one of 3 tasks"),
        (slurm(3, 3, first=1, step=3), "not one of 3 tasks"),
        (torchrun(8, 8), "RANK=8 must be below"),
        ({"RANK": "x", "WORLD_SIZE": "8"}, "RANK must be a whole number, got 'x'"),
        (slurm(0, 8, COUNT="many"), "must be a whole number, got 'many'"),
    ],
    ids=str,
)
def test_what_does_not_say_which_part_is_refused(environment: dict[str, str], named: str):
    with pytest.raises(InvalidInput, match=named) as error:
        shard_from_environment(environment)
    assert "--shard i/n" in str(error.value)
