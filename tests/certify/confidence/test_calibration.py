import matplotlib.pyplot as plt
import pytest
import torch

import certify
from bounds import InvalidInput


def calibrated(seed: int, count: int = 300, shift: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities of two classes, and labels that are right as often as they say, or less by a shift."""
    draw = torch.Generator().manual_seed(seed)
    sure = 0.5 + 0.5 * torch.rand(count, generator=draw, dtype=torch.float64)
    right = torch.rand(count, generator=draw, dtype=torch.float64) < sure - shift
    return torch.stack([sure, 1 - sure], 1), (~right).long()


@pytest.mark.parametrize("adaptive", [False, True])
def test_bins_against_a_loop(adaptive: bool):
    probabilities, labels = calibrated(0)
    found = certify.calibration_error(probabilities, labels, bins=7, adaptive=adaptive)
    sure, right = probabilities.amax(1), labels == 0
    order = sure.argsort()
    error, counts = 0.0, []
    for place in range(7):
        inside = (sure > place / 7) & (sure <= (place + 1) / 7)
        if adaptive:
            inside = torch.zeros_like(right)
            inside[order[[i for i in range(300) if i * 7 // 300 == place]]] = True
        if inside.any():
            error += float(inside.sum()) / 300 * abs(float(right[inside].double().mean() - sure[inside].mean()))
            counts.append(int(inside.sum()))
    assert found.error == pytest.approx(error, abs=1e-12)
    assert found.counts.tolist() == counts


@pytest.mark.parametrize("shift", [0.0, 0.2])
def test_the_interval_holds_the_error_of_the_law(shift: float):
    misses = 0
    for seed in range(200):
        found = certify.calibration_error(*calibrated(seed, shift=shift), bins=5)
        lower, upper = found.interval(0.9)
        misses += not lower <= shift <= upper  # every bin is off by the shift
        assert lower <= found.error <= upper
    assert misses <= 32  # of at most 20 expected, and 3 standard errors


def test_the_interval_sees_a_classifier_that_is_too_sure():
    assert certify.calibration_error(*calibrated(1, shift=0.2), bins=5).interval()[0] > 0.05
    assert certify.calibration_error(*calibrated(1)).interval()[0] == 0


def test_tables_and_pictures():
    found = certify.calibration_error(*calibrated(2), bins=4)
    table = found.to_dataframe()
    assert table.inputs.sum() == 300
    assert (table.lower <= table.accuracy).all()
    assert found.plot(plt.figure().gca()).get_xlabel() == "Mean confidence"


def test_numbers_that_are_no_probabilities_are_refused():
    labels = torch.zeros(2).long()
    for values in (torch.ones(2, 3), torch.tensor([[1.5, -0.5], [1.0, 0.0]]), torch.full((2, 2), torch.nan)):
        with pytest.raises(InvalidInput, match="probabilities must lie between 0 and 1"):
            certify.calibration_error(values, labels)
    with pytest.raises(InvalidInput, match="of shape"):
        certify.calibration_error(torch.ones(0, 3), labels[:0])
