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
SETS = [("inf", "0.02"), ("inf", "0.1"), ("2", "0.05"), ("2", "0.25"), ("1", "0.1"), ("1", "0.5")]


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


@pytest.mark.parametrize(("norm", "epsilon"), SETS)
def test_bounds_of_small_networks(small, shared_data, norm: str, epsilon: str):
    """Every value that an attack reached lies inside; in l_2 and l_infinity no recorded bound is tighter.

    Recorded with auto_LiRPA 0.7.1 (commit a050a3d), and for convolutions in l_2 with an exact dual norm. In l_1 our
    first layer takes the l_2 ball and the box, which auto_LiRPA beats.
    """
    name, model, stored = small
    found = {key.rsplit("/", 1)[1]: value for key, value in stored.items() if key.startswith(f"{norm}/{epsilon}/att")}
    ball = LpBall(stored["x"], float(epsilon), float(norm), None, None)
    ours, label = ibp(model, ball), stored["y"].argmax(1)
    margins = margin_bounds(model, ball, label)[:, torch.arange(3) != label]
    assert (ours.lower <= found["attack_lb"] + 1e-9).all()
    assert (ours.upper >= found["attack_ub"] - 1e-9).all()
    assert (margins <= found["attack_margin"] + 1e-9).all()
    if norm == "1":
        return
    recorded = [{part: stored[f"{norm}/{epsilon}/IBP/{part}"] for part in ("lb", "ub")}]
    with np.load(shared_data / "bounds" / "native_bounds.npz") as file:
        if f"{name}/{norm}/{epsilon}/IBP/lb" in file.files:
            recorded += [{part: torch.from_numpy(file[f"{name}/{norm}/{epsilon}/IBP/{part}"]) for part in ("lb", "ub")}]
    for theirs in recorded:
        assert_no_looser(ours, Interval(theirs["lb"], theirs["ub"]))
    their_margins = stored[f"{norm}/{epsilon}/IBP/margin_lb"]
    assert (margins >= their_margins - 1e-6 * (1 + their_margins.abs())).all()


def assert_no_looser(ours: Interval, theirs: Interval) -> None:
    assert (ours.lower >= theirs.lower - 1e-6 * (1 + theirs.lower.abs())).all()
    assert (ours.upper <= theirs.upper + 1e-6 * (1 + theirs.upper.abs())).all()
