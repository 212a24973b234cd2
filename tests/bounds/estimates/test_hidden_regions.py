"""CLEVER cannot see all: a ridge outside of the samples leaves a good fit and a score far above the truth."""

import pytest
import torch
from oracles.halfspace import generator
from torch import Tensor, nn

from bounds import clever
from bounds.estimates.result import STATUSES


class Ridge(nn.Module):
    """A margin that turns steep beyond a plane at 0.6, where hardly any point of the ball lies in 784 dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        margin = 1 - 30 * torch.relu(x[:, 0] - 0.6) - 0.05 * torch.sin(10 * x[:, 1])
        return torch.stack([margin, 0 * margin], 1)


def test_a_fitted_score_may_be_three_times_the_distance_and_says_so():
    x = torch.zeros(1, 784)
    distance = 0.6 + 1 / 30
    assert Ridge()(torch.eye(1, 784) * (distance + 1e-5)).argmax() == 1  # so that this is no less than the distance
    found = clever(Ridge(), x, norm=2, radius=5.0, num_batches=20, batch_size=16, resamples=0, generator=generator())
    assert found.status == ("fitted",)
    assert found.score.item() == pytest.approx(2.0, rel=1e-3)  # 1 / 0.5, as if there were no ridge
    assert found.score.item() > 3 * distance
    for text in (STATUSES["fitted"], " ".join(clever.__doc__.split())):
        assert "stay unseen" in text
