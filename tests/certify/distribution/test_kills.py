"""Runs that are killed at random points lose nothing, hold nothing twice, and have the bits of one that was not.

The environment variable CERTIFY_KILLS sets how often each kind is killed.
"""

import os
from pathlib import Path

import pytest
from oracles.kills import killed_runs

KILLS = int(os.environ.get("CERTIFY_KILLS", "2"))


@pytest.mark.slow
@pytest.mark.combinations
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")  # of forking, in newer versions of Python
@pytest.mark.parametrize("kind", ["here", "shards", "processes", "ray", "ray-driver"])
def test_killed_runs_are_the_same_in_the_end(kind: str, tmp_path: Path):
    if kind.startswith("ray"):
        pytest.importorskip("ray")
    assert killed_runs(tmp_path, kind, KILLS).total() >= KILLS
