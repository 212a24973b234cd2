"""Properties of robustness: the ball in the box, ties, and the text that says the same."""

from fractions import Fraction

import pytest
import torch
from oracles.halfspace import generator

from bounds import Property, read_vnnlib


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ball_is_cut_by_the_box(dtype: torch.dtype):
    x = torch.rand(1, 2, 3, generator=generator(3), dtype=dtype)
    low, high = torch.tensor([0.0, 0.25, -1.0], dtype=dtype), 0.9
    x = x.clamp(0.3, 0.85)
    x[0, 0, 1] = 0.85
    found = Property.of_robustness(x, 1, epsilon=0.1, num_classes=4, low=low, high=high)
    assert [each.shape for each in (*found.inputs, *found.outputs)] == [(1, 2, 3), (4,)]
    (box,) = found.boxes
    for place, value in enumerate(x.flatten().tolist()):
        lower = max(Fraction(value) - Fraction(0.1), Fraction(float(low[place % 3])))
        upper = min(Fraction(value) + Fraction(0.1), Fraction(0.9))
        assert Fraction(float(box.outer_lower[place])) <= lower
        assert Fraction(float(box.outer_upper[place])) >= upper
        assert float(box.lower[place]) == float(lower)
        assert float(box.upper[place]) == float(upper)
    free = Property.of_robustness(x, 1, epsilon=0.1, num_classes=4, low=None, high=None)
    assert (free.boxes[0].upper > 0.9).any()
    assert box.box(x.shape, dtype).lower.shape == x.shape


def test_another_class_that_ties_is_unsafe():
    found = Property.of_robustness(torch.full((1, 2), 0.5), 2, epsilon=0.25, num_classes=3)
    x = torch.tensor([[0.5, 0.5], [0.25, 0.75], [0.5, 0.5], [0.5, 0.8]])
    y = torch.tensor([[1.0, 0, 2], [0, 2, 2], [3, 0, 2], [3, 0, 2]])
    assert found.is_unsafe(x, y).tolist() == [False, True, True, False]
    assert len(found.boxes[0].cases) == 2


def test_the_text_of_robustness_reads_as_it_was():
    found = Property.of_robustness(torch.rand(1, 5, generator=generator(4)), 0, epsilon=0.03, num_classes=3)
    again = read_vnnlib(found.to_vnnlib())
    for one, other in zip(found.boxes, again.boxes, strict=True):
        assert torch.equal(one.lower, other.lower)
        assert torch.equal(one.upper, other.upper)
        for case, same in zip(one.cases, other.cases, strict=True):
            for field in ("on_inputs", "on_outputs", "offsets", "strict"):
                assert torch.equal(getattr(case, field), getattr(same, field))


def test_an_input_that_rounds_above_its_side_stays_in_the_ball():
    x = torch.tensor([[0.3]])  # in float32 above 0.3
    (box,) = Property.of_robustness(x, 0, epsilon=0.0, num_classes=2, high=0.3).boxes
    assert box.lower == box.upper == x.double()
