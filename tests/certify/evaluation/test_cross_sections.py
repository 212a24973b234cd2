"""Cross sections of a run: the classes of the model itself, where the input and its adversarial examples are."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bounds.errors import InvalidConfiguration, InvalidInput
from certify import Evaluation, evaluate
from certify.evaluation import evaluating
from certify.evaluation.summaries import cross_sections
from certify.evaluation.summaries.cross_sections import FILE, GRID, read_planes
from certify.methods import IntervalBounds, MinimalPerturbation

METHODS = [IntervalBounds(), MinimalPerturbation(steps=10, restarts=1)]


def network(features: int = 6, classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(features, 16), nn.ReLU(), nn.Linear(16, classes)).double().eval()


def inputs(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return network()


@pytest.fixture(scope="module")
def evaluation(model: nn.Module) -> Evaluation:
    return evaluate(model, inputs(9, 2, 3), methods=METHODS, cross_sections=4)


def change(evaluation: Evaluation, norm: str, index: int) -> tuple[Tensor, Tensor]:
    tensors = evaluation.tensors[f"attack/{norm}/0-9"]
    return tensors["clean"][index].flatten(), (tensors["adversarial"] - tensors["clean"])[index].flatten()


def test_classes_are_those_of_the_model(model: nn.Module, evaluation: Evaluation):
    """At sampled points, from the directions that the plane names, found in the run a second time."""
    generator = torch.Generator().manual_seed(2)
    assert len(evaluation.planes) == 4
    both = [plane for plane in evaluation.planes if len(plane.places) == 2]
    assert both
    for plane in both:
        assert plane.first == "the adversarial example of attack in l2"
        assert plane.second == "the adversarial example of attack in l∞"
        x, first = change(evaluation, "2", plane.index)
        _, second = change(evaluation, "inf", plane.index)
        one = first / first.norm()
        two = second - (second @ one) * one
        two = two / two.norm()
        at = torch.linspace(-plane.extent, plane.extent, GRID, dtype=torch.float64)
        for i, j in torch.randint(GRID, (300, 2), generator=generator).tolist():
            assert plane.labels[i][j] == int(model((x + at[i] * one + at[j] * two)[None]).argmax())
        assert plane.places[0].at == pytest.approx((float(first.norm()), 0), abs=1e-9)
        assert plane.places[1].at == pytest.approx((float(second @ one), float(second @ two)))
        middle = GRID // 2
        assert plane.labels[middle][middle] == int(model(x[None]).argmax())


def test_adversarial_examples_of_other_norms_lie_in_another_class(evaluation: Evaluation):
    """Beyond the nearest example, along its own direction, stands its class: coordinates are no mirror image."""
    for plane in evaluation.planes:
        (row,) = (
            row for row in evaluation.rows() if (row["index"], row["norm"], row["method"]) == (plane.index, 2, "attack")
        )
        beyond = round((plane.places[0].at[0] * 1.1 / plane.extent + 1) * (GRID - 1) / 2)
        assert plane.labels[beyond + 1][GRID // 2] == row["adversarial_label"]


@pytest.mark.slow
def test_random_directions_are_of_the_run_s_seed(model: nn.Module):
    def planes(seed: int) -> list:
        return evaluate(model, inputs(3, 6), methods=METHODS, norms=2, cross_sections=2, seed=seed).planes

    first = planes(5)
    assert [plane.second for plane in first] == ["a random direction"] * 2
    assert first == planes(5)
    assert first != planes(6)


@pytest.mark.slow
def test_points_outside_of_the_box_are_counted(model: nn.Module):
    free = evaluate(model, inputs(2, 6), methods=METHODS, low=None, high=None, cross_sections=1)
    assert free.planes[0].outside == 0
    inside = evaluate(model, 0.4 + 0.2 * inputs(2, 6), methods=METHODS, low=-50, high=50, cross_sections=1)
    assert inside.planes[0].outside == 0
    edge = evaluate(model, torch.zeros(2, 6).double(), methods=METHODS, cross_sections=1)
    for plane in edge.planes:  # only moves upwards in every entry are inside, at most a quarter
        assert plane.outside >= 0.7


def test_a_run_keeps_its_cross_sections(model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    x = inputs(9, 2, 3)
    first = evaluate(model, x, methods=METHODS, cross_sections=2, output=tmp_path / "run")
    assert Evaluation.load(tmp_path / "run").planes == first.planes
    first.save(tmp_path / "copy")
    assert read_planes(tmp_path / "copy") == first.planes

    def refuse(*arguments: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(evaluating, "planes_of", refuse)
    again = evaluate(model, x, methods=METHODS, cross_sections=2, output=tmp_path / "run")
    assert again.planes == first.planes
    with pytest.raises(AssertionError, match="computed again"):
        evaluate(model, x, methods=METHODS, cross_sections=3, output=tmp_path / "run")
    monkeypatch.undo()
    (tmp_path / "run" / FILE).write_text('[{"index": 0}]')
    with pytest.raises(InvalidConfiguration, match=r"cross_sections.json is damaged: .* delete it"):
        Evaluation.load(tmp_path / "run")


@pytest.mark.slow
def test_runs_without_adversarial_examples_have_none(model: nn.Module, tmp_path: Path):
    assert not evaluate(model, inputs(3, 6), methods=[IntervalBounds()]).planes
    assert not evaluate(model, inputs(3, 6), methods=METHODS, cross_sections=0, output=tmp_path / "run").planes
    line = nn.Sequential(nn.Linear(1, 2)).double()
    assert not evaluate(line, inputs(3, 1), methods=METHODS).planes  # no plane in one dimension
    with pytest.raises(InvalidInput, match="cross_sections must be an integer of at least 0, got -1"):
        evaluate(model, inputs(3, 6), methods=METHODS, cross_sections=-1)


def test_a_logit_that_is_not_finite_has_no_region():
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = torch.stack([x[:, 0], 1 - x[:, 0]], 1)
            return torch.where((x[:, :1] > 1.2) | (x[:, :1] < -0.2), math.nan, logits)

    evaluation = evaluate(
        Broken(), torch.full((1, 2), 0.3), methods=[MinimalPerturbation(steps=10, restarts=1)], norms=2
    )
    (plane,) = evaluation.planes
    assert {-1, 0, 1} == {label for row in plane.labels for label in row} | {-1}
    assert -1 not in plane.regions


def test_logits_of_clean_and_adversarial_inputs_are_stored(model: nn.Module, evaluation: Evaluation):
    for norm in ("2", "inf"):
        tensors = evaluation.tensors[f"attack/{norm}/0-9"]
        for name, points in (("logits", "clean"), ("adversarial_logits", "adversarial")):
            torch.testing.assert_close(tensors[name], model(tensors[points]).detach())


def test_the_file_is_written_as_a_whole(model: nn.Module, evaluation: Evaluation, tmp_path: Path):
    cross_sections.write_planes(tmp_path, evaluation.planes)
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE]
    with pytest.raises(InvalidConfiguration, match="cannot be written"):
        cross_sections.write_planes(tmp_path / "missing", evaluation.planes)
