"""Trained networks of others: recorded counts of certified images, exact radii, and counterexamples."""

import json
import math

import pytest
import torch
from torch import Tensor

from bounds import Graph, LpBall, capture, margin_bounds
from bounds.linear import METHODS

# Network, number of images, l_infinity budget within [0, 1].
COUNTS = [
    ("toy_mnist_2_20", 1000, 0.02),
    ("marabou_mnist_2x10", 1000, 0.02),
    ("rsl18a_mnist_mlp500", 1000, 0.1),
    ("eran_mnist_6_100", 200, 0.026),
    ("vnncomp_mnistfc_256x2", 500, 0.01),
]
pytestmark = pytest.mark.slow


def certified(graph: Graph, ball: LpBall, labels: Tensor, method: str) -> Tensor:
    margins = margin_bounds(graph, ball, labels, method, steps=5)
    return (margins.scatter(1, labels[:, None], math.inf) > 0).all(1)


@pytest.mark.parametrize(("name", "images", "epsilon"), COUNTS)
def test_counts_of_certified_images(shared_data, published, name: str, images: int, epsilon: float):
    """At least those recorded for the same method, up to ties of float32, and none that was broken by an attack."""
    rows = json.loads((shared_data / "networks" / "expected.json").read_text())["subsets"]
    (row,) = (row for row in rows if (row["model"], row["n"], row["eps"]) == (name, images, epsilon))
    counts, ties = row["counts"], images // 200
    model, x, y = published(name, images)
    x, model = x.double(), model.double()
    graph = capture(model, x[:1])
    with torch.no_grad():
        clean = model(x).argmax(1) == y
    assert abs(int(clean.sum()) - counts["clean"]) <= ties
    found = {}
    for ours, theirs in (("ibp", "ibp"), ("fast_lin", "fastlin"), ("crown", "crown")):
        parts = [certified(graph, LpBall(a, epsilon), b, ours) for a, b in zip(x.split(100), y.split(100), strict=True)]
        proved = torch.cat(parts)
        assert (proved <= clean).all()
        found[theirs] = int(proved.sum())
    for method, count in found.items():
        assert counts[method] - ties <= count <= counts["pgd"], method


@pytest.mark.parametrize("name", ["toy_mnist_2_20", "marabou_mnist_2x10"])
def test_no_method_certifies_beyond_exact_radii(shared_data, published, name: str):
    """Exact distances by mixed-integer programming, each of a point that was run through the network."""
    file = shared_data / "networks" / "verdicts" / f"exact_radius_{name}.json"
    rows = [row for row in json.loads(file.read_text())["rows"] if "check_dist" in row]
    assert len(rows) >= 15
    model, x, y = published(name, max(row["idx"] for row in rows) + 1)
    chosen = [row["idx"] for row in rows]
    x, y = x[chosen].double(), y[chosen]
    exact = torch.tensor([row["check_dist"] for row in rows], dtype=torch.float64)
    graph = capture(model.double(), x[:1])
    for method in METHODS:
        assert not certified(graph, LpBall(x, exact * (1 + 1e-6)), y, method).any()
    assert certified(graph, LpBall(x, exact * 0.5), y, "crown").double().mean() > 0.8  # and it says something
    shifted = (y + 1) % 10  # mutant: of another class nothing is certified either
    assert not certified(graph, LpBall(x, exact * 0.5), shifted, "crown").any()


def test_nothing_is_certified_that_has_a_counterexample(shared_data, published):
    """Instances of VNN-COMP 2022 with the verdicts of up to 13 tools and counterexamples that were run again."""
    rows = json.loads((shared_data / "networks" / "verdicts" / "vnncomp.json").read_text())
    rows = [row for row in rows if row["model"] == "vnncomp_mnistfc_256x2"]
    model, x, y = published("vnncomp_mnistfc_256x2", max(row["row"] for row in rows) + 1)
    chosen = [row["row"] for row in rows]
    x, y = x[chosen].double(), y[chosen]
    assert y.tolist() == [row["label"] for row in rows]
    epsilon = torch.tensor([row["eps"] for row in rows], dtype=torch.float64)
    graph = capture(model.double(), x[:1])
    broken = torch.tensor([row["final"].startswith("sat") for row in rows])
    known = torch.tensor([row["final"] == "unsat" for row in rows])
    assert broken.sum() >= 20
    for method in METHODS:
        proved = certified(graph, LpBall(x, epsilon), y, method)
        assert not (proved & broken).any(), method
    assert (proved & known).sum() >= 0.3 * known.sum()
