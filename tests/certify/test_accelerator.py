"""Every public call runs on the accelerator that is made of the CPU: see ``accelerated_calls.py``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_public_call_runs_on_the_accelerator():
    """In a process of its own: PyTorch must know a device before it first differentiates anything."""
    calls = Path(__file__).with_name("accelerated_calls.py")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "slow or not slow", str(calls)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout
