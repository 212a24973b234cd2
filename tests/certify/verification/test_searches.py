"""What branch and bound leaves open goes to a mixed-integer programme, and comes back if that knows no more."""

import math
import time
from typing import Any

import pytest
import torch
from oracles.networks import dense
from torch import Tensor, nn

from bounds import Box, capture
from bounds.search.problem import SearchResult
from certify.verification.searches import searched

BOX = Box(torch.tensor([[-0.5, -0.2]]).double(), torch.tensor([[1.1, 1.4]]).double())
MODEL = dense(nn.ReLU(), 2, 4, 3, 2, seed=1).requires_grad_(False)
ROW = torch.tensor([[1.0, -1.0]]).double()


def run(monkeypatch: pytest.MonkeyPatch, offset: float, **options: Any) -> tuple[SearchResult, list[float]]:
    """The answer where branch and bound always runs out of time, and the seconds that each of its calls had."""
    given: list[float] = []

    def late(graph: object, box: Box, cases: object, *, deadline: float, **others: object) -> SearchResult:
        given.append(deadline - time.monotonic())
        return SearchResult("timeout", domains=3)

    def check(points: Tensor) -> Tensor | None:
        places = ((MODEL(points) @ ROW.T)[:, 0] <= offset).nonzero()[:, 0]
        return points[places[:1]] if len(places) else None

    monkeypatch.setattr("bounds.search.branch_and_bound.search", late)
    defaults: dict[str, Any] = {"deadline": time.monotonic() + 100, "sound": "rounding", "check": check}
    case = (ROW, torch.tensor([offset]).double())
    return searched(capture(MODEL, BOX.center), BOX, [case], **(defaults | options)), given


def test_a_programme_decides_what_splits_leave_open(monkeypatch: pytest.MonkeyPatch):
    values = MODEL(torch.rand(5000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1.6 - 0.5)
    least = float((values @ ROW.T).min())
    proved, given = run(monkeypatch, least - 0.3)
    assert (proved.status, proved.decided_by) == ("proved", "mixed-integer programme")
    assert proved.domains > 3
    assert len(given) == 1
    assert 10 < given[0] < 20
    found, _ = run(monkeypatch, least + 0.1)
    assert found.status == "counterexample"


def test_splits_go_on_where_no_programme_can(monkeypatch: pytest.MonkeyPatch):
    deployed, given = run(monkeypatch, -1.0, sound="deployed")  # programmes know nothing of float32
    assert deployed.status == "timeout"
    assert len(given) == 1
    assert given[0] > 90
    monkeypatch.setattr("bounds.solvers.mixed_integer.UNSTABLE", 0)
    large, given = run(monkeypatch, -1.0)
    assert (large.status, large.domains) == ("timeout", 6)
    assert len(given) == 2
    assert given[1] > 60


def test_no_time_limit_does_not_hold_programmes_back(monkeypatch: pytest.MonkeyPatch):
    _, given = run(monkeypatch, -5.0, deadline=math.inf)
    assert given[0] < 30
