"""The accelerator made of the CPU: what fails on a GPU fails on it, and waits of the host are seen."""

import pytest
import torch
from oracles.accelerator import OnAccelerator, TwoDevices, accelerator, there

X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def test_what_fails_on_a_gpu_fails_here():
    with accelerator() as waits:
        x = there(X)
        with pytest.raises(TwoDevices, match="add sees tensors of the accelerator and of the CPU"):
            x + torch.ones(8)
        with pytest.raises(TypeError, match="to numpy"):
            x.numpy()
        with pytest.raises(TwoDevices, match="a generator must live where the tensor does"):
            torch.rand(2, generator=torch.Generator(), device=x.device)
        assert (x + torch.tensor(1.0)).device == x.device
        assert waits.total() == 0
        assert bool((x >= 0).all())
        assert x[x > 0.5].device == x.device
        x.cpu()
        assert waits.total() == 3
    assert isinstance(x, OnAccelerator)


def test_a_wait_in_a_loop_is_seen():
    """The mistake that the budget is there for."""

    def steps(count: int) -> int:
        with accelerator() as waits:
            x = there(X)
            for _ in range(count):
                if (x > 2).any():
                    break
        return waits.total()

    assert steps(9) - steps(3) == 6
