"""The averages of Adam, against the optimizer of torch."""

import torch
from oracles.halfspace import generator

from bounds.adam import Moments, seen


def test_steps_are_those_of_torch():
    start = torch.randn(4, 3, generator=generator(), dtype=torch.float64)
    expected = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([expected], lr=0.05, eps=1e-8)
    found, moments = start.clone(), Moments.of(start)
    for count in range(1, 30):
        gradient = torch.randn(4, 3, generator=generator(count), dtype=torch.float64)
        expected.grad = gradient.clone()
        optimizer.step()
        mean, scale = moments.take(gradient, count)
        found -= 0.05 * mean / seen(count) / (scale + 1e-8)
        torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-14)
