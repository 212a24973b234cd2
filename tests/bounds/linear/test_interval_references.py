"""Interval bounds of trained networks against recorded counts, and of small ones against recorded bounds."""

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bounds import Interval, LpBall, ibp, margin_bounds

# Images certified by interval bounds, of how many, at an l_infinity radius: recorded in expected.json, where the same
# network was run by another implementation in float32.
COUNTS = [
    ("own_fashion_cnn_ibp0.1", 1000, 0.1),
    ("own_fashion_cnn_ibp0.1", 1000, 0.03),
    ("own_fashion_cnn_noise0.25", 1000, 0.01),
    ("vnncomp_mnistfc_256x2", 500, 0.01),
    ("toy_mnist_2_20", 1000, 0.02),
    ("marabou_mnist_2x10", 1000, 0.02),
    ("eran_mnist_conv_small", 200, 0.12),
]


@pytest.mark.parametrize(("name", "images", "epsilon"), COUNTS)
def test_certified_counts_of_trained_networks(shared_data, published, name: str, images: int, epsilon: float):
    recorded = json.loads((shared_data / "networks" / "expected.json").read_text())["subsets"]
    (row,) = (row for row in recorded if (row["model"], row["n"], row["eps"]) == (name, images, epsilon))
    model, x, y = published(name, images)
    with torch.no_grad():
        margins = margin_bounds(model, LpBall(x, epsilon), y)
        clean = model(x).argmax(1) == y
    margins.scatter_(1, y[:, None], math.inf)
    certified = (margins > 0).all(1)
    assert abs(int(clean.sum()) - row["counts"]["clean"]) <= images // 200
    assert abs(int(certified.sum()) - row["counts"]["ibp"]) <= images // 200  # ties between two float32 programs
    assert (certified <= clean).all()


SMALL = ("mlp_relu", "mlp_relu_deep", "cnn_relu")
EPSILONS = {"inf": ("0.02", "0.1"), "2": ("0.05", "0.25"), "1": ("0.1", "0.5")}


@pytest.fixture(params=SMALL)
def small(request: pytest.FixtureRequest, shared_data) -> tuple[str, nn.Sequential, dict[str, Tensor]]:
    """A small float64 network and what was recorded for it."""
    with np.load(shared_data / "bounds" / f"{request.param}.npz") as file:
        stored = {key: torch.from_numpy(file[key]) for key in file.files}
    layers: list[nn.Module] = []
    weights = {int(key[2:].split(".")[0]): value for key, value in stored.items() if key.endswith(".weight")}
    if request.param == "cnn_relu":
        layers = [nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten()]
    for position in sorted(weights)[2 if layers else 0 :]:
        layers += [nn.Linear(*weights[position].T.shape), nn.ReLU()]
    model = nn.Sequential(*layers[:-1]).double()
    model.load_state_dict({key[2:]: value for key, value in stored.items() if key.startswith("w/")})
    torch.testing.assert_close(model(stored["x"]), stored["y"], rtol=1e-12, atol=1e-12)
    return request.param, model, stored


@pytest.mark.parametrize("norm", EPSILONS)
def test_bounds_of_small_networks(small, shared_data, norm: str):
    """Every value that an attack reached lies inside; in l_2 and l_infinity no recorded bound is tighter.

    Recorded with auto_LiRPA 0.7.1 (commit a050a3d), and for convolutions in l_2 with an exact dual norm. In l_1 our
    first layer takes the l_2 ball and the box, which auto_LiRPA beats.
    """
    name, model, stored = small
    label = stored["y"].argmax(1)
    radii = torch.tensor([float(epsilon) for epsilon in EPSILONS[norm]], dtype=torch.float64)  # both at once
    ball = LpBall(torch.cat([stored["x"]] * 2), radii, float(norm), None, None)
    both, margins = ibp(model, ball), margin_bounds(model, ball, label.expand(2))[:, torch.arange(3) != label]
    for row, epsilon in enumerate(EPSILONS[norm]):
        ours, start = Interval(both.lower[row], both.upper[row]), f"{norm}/{epsilon}"
        assert (ours.lower <= stored[f"{start}/attack_lb"] + 1e-9).all()
        assert (ours.upper >= stored[f"{start}/attack_ub"] - 1e-9).all()
        assert (margins[row] <= stored[f"{start}/attack_margin"] + 1e-9).all()
        if norm == "1":
            continue
        recorded = [Interval(*(stored[f"{start}/IBP/{part}"] for part in ("lb", "ub")))]
        with np.load(shared_data / "bounds" / "native_bounds.npz") as file:
            if f"{name}/{start}/IBP/lb" in file.files:
                ends = (torch.from_numpy(file[f"{name}/{start}/IBP/{part}"]) for part in ("lb", "ub"))
                recorded.append(Interval(*ends))
        for theirs in recorded:
            assert_no_looser(ours, theirs)
        their_margins = stored[f"{start}/IBP/margin_lb"]
        assert (margins[row] >= their_margins - 1e-6 * (1 + their_margins.abs())).all()


def assert_no_looser(ours: Interval, theirs: Interval) -> None:
    assert (ours.lower >= theirs.lower - 1e-6 * (1 + theirs.lower.abs())).all()
    assert (ours.upper <= theirs.upper + 1e-6 * (1 + theirs.upper.abs())).all()
