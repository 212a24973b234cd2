"""Runs that are killed at random points lose nothing, hold nothing twice, and have the bits of one that was not.

Each kind is killed twenty times, which takes minutes; the environment variable CERTIFY_KILLS sets another number.
"""

import os
from pathlib import Path

import pytest
from oracles.kills import killed_runs

KILLS = int(os.environ.get("CERTIFY_KILLS", "20"))


@pytest.mark.slow
@pytest.mark.combinations
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")  # of forking, in newer versions of Python
@pytest.mark.parametrize("kind", ["here", "shards", "processes", "ray", "ray-driver"])
def test_killed_runs_are_the_same_in_the_end(kind: str, tmp_path: Path):
    if kind.startswith("ray"):
        pytest.importorskip("ray")
    assert killed_runs(tmp_path, kind, KILLS).total() >= KILLS


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # likewise
def test_a_run_whose_worker_is_killed_is_the_same_in_the_end(tmp_path: Path):
    assert killed_runs(tmp_path, "processes", 1).total() == 1
