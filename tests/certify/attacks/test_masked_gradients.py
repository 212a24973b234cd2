"""Networks whose gradients say nothing, or no numbers: attacked all the same, and named. Distances are closed forms."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from oracles.devices import elsewhere
from oracles.halfspace import generator
from oracles.linear import vectors
from oracles.selection import some
from torch import Tensor, nn

from certify import attacks
from certify.attacks.common.gradients import Mender
from certify.attacks.common.streams import Streams


class Behind(nn.Module):
    """A linear classifier behind a transformation, or in front of one."""

    def __init__(self, linear: nn.Module, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.function = linear, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.linear, x)


LEVELS = torch.linspace(0, 1, 65)[1:-1]
MASKED: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "round": lambda m, x: m((x * 255).round() / 255),
    "floor": lambda m, x: m((x * 255).floor() / 255),
    "detach": lambda m, x: m(x.detach()),
    "meaningless": lambda m, x: m(x.detach()) + 1e-5 * x.flatten(1)[:, :3],
    "thermometer": lambda m, x: m((x.unsqueeze(-1) > LEVELS).to(x.dtype).mean(-1)),
    "saturated": lambda m, x: (1e6 * m(x)).softmax(1),
    "rounded logits": lambda m, x: (m(x) * 8).round(),
    "classes": lambda m, x: nn.functional.one_hot(m(x).argmax(1), 3),
}


problem = partial(vectors, 12, batch=4)
QUICK = ("round",)  # the others take a second each


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MASKED]
)
def test_rows_whose_gradients_say_nothing_are_attacked_without_them_and_named(name: str):
    linear, x, y = problem()
    model = Behind(linear, MASKED[name])
    assert torch.equal(model(x).argmax(1), y)
    exact = linear.distance(x, math.inf)
    options = {"norm": math.inf, "low": None, "high": None, "steps": 10, "generator": generator()}
    witness = attacks.minimal_perturbation(model, x, y, **options)
    assert witness.blind.all()
    assert (witness.distance <= 1.5 * exact + 0.02).all()
    result = attacks.robust_accuracy(model, x, y, epsilon=2 * exact + 0.02, **options)
    assert result.accuracy < (0.6 if name == "classes" else 0.2)
    assert result.blind[result.robust].all()
    if name in ("round", "floor", "detach", "thermometer", "classes"):
        assert result.blind.all()
        assert set(result.symptoms) == set(witness.symptoms) == {"zero_gradient"}
    table = witness.to_dataframe()
    assert table.blind.tolist() == witness.blind.tolist()
    assert table.symptoms.tolist() == list(witness.symptoms)


@pytest.mark.slow
@pytest.mark.parametrize("norm", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_quantised_inputs_in_the_other_norms(norm: float):
    linear, x, y = problem()
    options = {"norm": norm, "steps": 10, "generator": generator()}
    plain = attacks.minimal_perturbation(linear, x, y, **options)
    masked = attacks.minimal_perturbation(Behind(linear, MASKED["thermometer"]), x, y, **options)
    assert not plain.blind.any()
    assert set(plain.symptoms) == {""}
    assert masked.blind.all()
    assert (
        (masked.distance <= plain.distance + 1).all()
        if norm == 0
        else (masked.distance <= 2 * plain.distance + 0.1).all()
    )


@pytest.mark.slow
@pytest.mark.parametrize("norm", some([1, 2, math.inf], [math.inf]))
def test_slopes_that_are_no_numbers_do_not_weaken_the_search(norm: float):
    """The square root of black pixels, squared: the same function, whose gradient is no number where pixels are 0."""
    linear, x, y = problem()
    x[:, ::2] = 0
    y = linear(x).argmax(1)
    model = Behind(linear, lambda m, x: m(x.sqrt() ** 2))
    options = {"norm": norm, "steps": 20, "generator": generator()}
    plain = attacks.minimal_perturbation(linear, x, y, **options)
    broken = attacks.minimal_perturbation(model, x, y, **options)
    assert (broken.distance <= 1.01 * plain.distance).all()
    assert all("nonfinite_gradient" in symptoms for symptoms in broken.symptoms)
    assert not any(plain.symptoms)
    assert attacks.robust_accuracy(model, x, y, epsilon=1.05 * plain.distance, **options).accuracy == 0
    options["epsilon"], options["queries"] = float(plain.distance.median()), 20
    assert attacks.gradient_masking(model, x, y, **options).shares["nonfinite_gradient"] == 1
    assert attacks.gradient_masking(linear, x, y, **options).shares["nonfinite_gradient"] == 0


def test_slopes_are_taken_inside_of_the_box():
    """d/dx of 3 sqrt(x)^2 is 3, which autograd does not know at 0; what is no number anywhere becomes 0."""
    points, low, high = torch.tensor([[0.0, 0.5, 1.0]]), torch.zeros(1, 3), torch.ones(1, 3)

    def again(moved: Tensor) -> Tensor:
        assert moved.tolist() == [[pytest.approx(1e-3), 0.5, pytest.approx(0.999)]]
        return torch.tensor([[3.0, 7.0, math.nan]])

    gradient, broken, still = Mender().mended(torch.tensor([[math.nan, 2.0, math.inf]]), points, low, high, again)
    assert gradient.tolist() == [[3.0, 2.0, 0.0]]
    assert broken.item()
    assert still.item()


def test_gradients_that_break_late_are_noticed_without_a_wait_at_each():
    """The host asks at the gradients 1, 2, 4, 8, ...: those that break at the fifth are mended from the eighth on."""
    points, low, high, mender = torch.full((1, 2), 0.5), torch.zeros(1, 2), torch.ones(1, 2), Mender()
    found = []
    for count in range(1, 101):
        slope = torch.tensor([[math.nan if count >= 5 else 2.0, 1.0]])
        found.append(mender.mended(slope, points, low, high, lambda moved: torch.full_like(moved, 3.0))[0][0, 0].item())
    assert found == [2.0] * 4 + [0.0] * 3 + [3.0] * 93
    finite, gradient = Mender(), torch.ones(1, 2)
    with elsewhere() as mode:
        for _ in range(100):
            finite.mended(gradient, points, low, high, lambda moved: moved)
    assert mode.host_reads == 7


def test_numbers_in_half_precision_are_finite():
    """2^24 steps do not fit into half precision: they are counted in single precision."""
    like = torch.zeros(1, 100_000, dtype=torch.float16)
    streams = Streams.of(generator(), 1, like.device)
    assert streams.normal(like).isfinite().all()
    assert abs(float(streams.uniform(like).float().mean()) - 0.5) < 0.01


class Loose(nn.Module):
    """Weights that no module knows of ask for gradients; the output depends on the input only if wanted."""

    def __init__(self, depends: float) -> None:
        super().__init__()
        self.hidden = {"weight": torch.ones(12, 2, requires_grad=True)}
        self.depends = depends

    def forward(self, x: Tensor) -> Tensor:
        weight = self.hidden["weight"] * torch.tensor([1.0, -1.0])
        if self.depends:
            return (x.flatten(1) - 0.6) @ weight * self.depends
        return weight.sum(0) * torch.arange(2) + torch.zeros(len(x), 2)


@pytest.mark.slow
@pytest.mark.parametrize("depends", [0.0, 1.0])
def test_weights_outside_of_the_module_that_ask_for_gradients(depends: float):
    model, x = Loose(depends), torch.full((3, 12), 0.5)
    y = model(x).argmax(1)
    options = {"low": 0.0, "high": 1.0, "generator": generator()}
    for attack in (attacks.pgd, attacks.apgd, attacks.targeted_apgd):
        assert attack(model, x, y, norm=math.inf, epsilon=0.2, steps=5, **options).found.all() == bool(depends)
    assert attacks.robust_accuracy(model, x, y, norm=2, epsilon=1.0, steps=2, **options).found.all() == bool(depends)
    for norm in (0, 2):
        witness = attacks.minimal_perturbation(model, x, y, norm=norm, steps=3, **options)
        assert witness.found.all() == bool(depends)
        assert witness.blind.all() != bool(depends)
    attacks.deepfool(model, x, y, norm=2, **options)
    attacks.universal_perturbation(model, x, y, norm=2, epsilon=0.5, steps=2, generator=generator())
