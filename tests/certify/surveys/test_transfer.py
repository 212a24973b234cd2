"""Transfer of adversarial examples: flat boundaries of which everything is known, and noise as its own control."""

import math

import pytest
import torch
from oracles.halfspace import Halfspace, generator
from torch import nn

from bounds import InvalidInput, clopper_pearson_interval
from certify import attacks, transfer_matrix
from certify.results import Witness
from certify.surveys.transfer import TransferMatrix


def planes() -> tuple[dict[str, nn.Module], torch.Tensor, torch.Tensor]:
    """Two flat boundaries whose normals have a cosine of 0.8, one across, and inputs at distances 1 to 2 from all."""
    one, tilted, across = torch.eye(64)[0], 0.8 * torch.eye(64)[0] + 0.6 * torch.eye(64)[1], torch.eye(64)[2]
    x = torch.zeros(20, 64)
    x[:, :3] = torch.linspace(1, 2, 20)[:, None] * torch.tensor([1.0, 1.0, 5.0])
    models = {"one": Halfspace(one), "tilted": Halfspace(tilted), "across": Halfspace(across)}
    return models, x, torch.ones(20, dtype=torch.long)


def test_flat_boundaries_are_crossed_where_the_cosine_says():
    """The nearest example of one moves s * d along its normal, the other is crossed where s * d * 0.8 > 1.4 * d."""
    models, x, y = planes()
    witnesses = {name: attacks.deepfool(model, x, y, norm=2, low=None, high=None) for name, model in models.items()}
    options = {"norm": 2, "sizes": (1.0, 1.5, 2.0), "low": None, "high": None, "witnesses": witnesses}
    found = transfer_matrix(models, x, y, **options, generator=generator())
    assert found.counted.all()
    assert found.rate()[0].tolist() == [[1, 1, 1], [0, 0, 1], [0, 0, 0]]
    torch.testing.assert_close(found.distance[0], x[:, 0].double(), rtol=1e-3, atol=0)
    assert found.fooled_by_noise[:2].sum() == 0  # noise moves a boundary at distance 1 by a quarter of that
    table = found.to_dataframe().set_index(["source", "target", "size"])
    row = table.loc[("one", "tilted", 2.0)]
    ends = clopper_pearson_interval(torch.tensor(20), 20, confidence=0.95)
    assert (row.inputs, row.rate, row.lower, row.upper) == (20, 1, float(ends[0]), float(ends[1]))
    assert row.p_value == 0.5**20
    assert table.loc[("one", "tilted", 1.0)].p_value == 1
    there, back, p_value = found.asymmetry("one", "across", 2.0)
    assert (there, back, p_value) == (0, 0, 1)
    # From the tilted one, at 1.4 d, the first is crossed where 0.8 * 1.4 * s > 1: at once.
    assert found.asymmetry("tilted", "one", 1.0) == (1, 0, pytest.approx(2 * 0.5**20))
    assert len(found.plot().axes) == 3


def test_what_counts_is_right_for_both_and_found():
    models, x, y = planes()
    x[0, 0] = -0.1  # wrong for the first
    witnesses = {name: attacks.deepfool(model, x, y, norm=2, low=None, high=None) for name, model in models.items()}
    lost = witnesses["tilted"]
    fields = {name: getattr(lost, name) for name in lost.__dataclass_fields__}
    fields["found"] = lost.found & (torch.arange(20) != 3)
    witnesses["tilted"] = Witness(**fields)
    options = {"norm": 2, "low": None, "high": None, "witnesses": witnesses}
    found = transfer_matrix(models, x, y, **options, generator=generator())
    assert not found.counted[:, 0, 0].any()
    assert found.counted[0, 1].sum() == 19
    assert found.counted[1, 2].sum() == 19
    assert not found.counted[1, :, 3].any()
    assert not (found.fooled & ~found.counted[:, :, None]).any()


def test_against_noise_the_test_keeps_its_level():
    """Where perturbations are noise themselves: 200 tests reject in 5 % or less, within five standard errors."""
    draws = torch.rand(2, 200, 30, generator=generator()) < 0.4
    counted = torch.ones(1, 200, 30, dtype=torch.bool)
    found = TransferMatrix(
        names=("a",) * 200,
        sizes=(1.0,),
        distance=torch.ones(1, 30),
        counted=counted,
        fooled=draws[0].view(1, 200, 1, 30),
        fooled_by_noise=draws[1].view(1, 200, 1, 30),
        norm=2,
    )
    one = TransferMatrix(**{**vars(found), "names": ("a",)})
    rejected = 0
    for target in range(200):
        parts = {name: getattr(one, name)[:, target : target + 1] for name in ("counted", "fooled", "fooled_by_noise")}
        rejected += TransferMatrix(**{**vars(one), **parts}).to_dataframe().p_value[0] < 0.05
    assert 0 < rejected < 200 * 0.05 + 5 * (200 * 0.05 * 0.95) ** 0.5


def test_perturbed_inputs_stay_in_the_box_and_noise_has_their_size():
    seen = []

    class Watching(Halfspace):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.detach().clone())
            return super().forward(x)

    x = torch.full((6, 8), 0.5)
    y = torch.ones(6, dtype=torch.long)
    model = Halfspace(torch.eye(8)[0], -0.2)
    witness = attacks.deepfool(model, x, y, norm=math.inf)
    watching = Watching(torch.eye(8)[0], -0.2)
    transfer_matrix({"a": watching}, x, y, norm=math.inf, sizes=[1, 4], witnesses={"a": witness})
    moved = torch.stack([points for points in seen if len(points) == 6 and not (points == 0.5).all()])
    assert moved.min() >= 0
    assert moved.max() <= 1
    sizes = (moved - 0.5).abs().amax(2)[-4:]  # of both kinds and both sizes
    expected = torch.stack([witness.distance, witness.distance, *[torch.full((6,), 0.5).double()] * 2]).float()
    torch.testing.assert_close(sizes[:3], expected[:3], rtol=1e-4, atol=0)
    assert (sizes[3] > 0.4).all()  # the largest of eight uniform entries up to 1.2, clipped


def test_bad_arguments():
    models, x, y = planes()
    for change, message in (
        ({"models": {}}, "models must be a mapping"),
        ({"norm": 0}, "norm must be 1, 2 or math.inf"),
        ({"sizes": [0.0]}, "sizes must be"),
        ({"witnesses": {}}, "witnesses must be of the models"),
        ({"x": x[:0], "labels": y[:0]}, "at least one input"),
    ):
        with pytest.raises(InvalidInput, match=message):
            transfer_matrix(**{"models": models, "x": x, "labels": y, "norm": 2, "low": None, "high": None, **change})
