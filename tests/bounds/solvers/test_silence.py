"""A library prints nothing, its solvers included: all entry points in a process of their own, watched from outside."""

import subprocess
import sys

import pytest

SCRIPT = """
import torch, bounds
from torch import nn

net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).double()
ball = bounds.LpBall(torch.zeros(1, 2).double(), 0.5, low=None, high=None)
label = torch.tensor([0])
net = bounds.capture(net, ball.center)
bounds.milp_bounds(net, ball)
bounds.milp_margins(net, ball, label)
bounds.lp_bounds(net, ball)
bounds.lp_margins(net, ball, label)
for solver in ("CLARABEL", "SCS"):
    bounds.sdp_margins(net, ball, label, solver=solver)
    bounds.lipschitz_bound(net, 2, "sdp", ball, solver=solver)
import highspy
highspy.Highs()
"""


@pytest.mark.slow
def test_no_solver_prints():
    """HiGHS prints on the descriptor itself, once in a process, as soon as an instance is made."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
