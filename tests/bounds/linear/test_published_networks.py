"""Trained networks of others: recorded counts of certified images, exact radii, and counterexamples."""

import json
import math

import pytest
import torch
from torch import Tensor

from bounds import Graph, LpBall, capture, margin_bounds
from bounds.linear.methods import METHODS

# Network, set of images, number of images, l_infinity budget within [0, 1].
COUNTS = [
    ("toy_mnist_2_20", "1000", 1000, 0.02),
    ("marabou_mnist_2x10", "1000", 1000, 0.02),
    ("rsl18a_mnist_mlp500", "1000", 1000, 0.1),
    ("eran_mnist_6_100", "200", 200, 0.026),
    ("eran_mnist_conv_small", "200", 200, 0.12),
    ("vnncomp_mnistfc_256x2", "500", 500, 0.01),
    ("wk_mnist_0.1", "200", 200, 0.1),
    ("oval_cifar_base_kw", "first100", 100, 0.00784314),
]
LARGEST = ("sdp_cifar_cnn_a_adv", "sdp200", 200, 0.00784314)
# Networks with other functions or other graphs, of which no counts of the same methods are known.
OTHERS = [
    ("marabou_mnist_cnn_maxpool2", "200", 0.02),
    ("vnncomp20_mnist_tansig_200_50", "200", 0.004),
    ("abc_cifar_conv_small_sigmoid", "sdp200", 0.00784314),
    ("abc_cifar_resnet2b", "sdp200", 0.00392157),
]
pytestmark = pytest.mark.slow


def certified(graph: Graph, ball: LpBall, labels: Tensor, method: str) -> Tensor:
    margins = margin_bounds(graph, ball, labels, method, steps=5)
    return (margins.scatter(1, labels[:, None], math.inf) > 0).all(1)


@pytest.mark.parametrize(
    ("name", "subset", "images", "epsilon"), [*COUNTS, pytest.param(*LARGEST, marks=pytest.mark.combinations)]
)
def test_counts_of_certified_images(shared_data, published, name: str, subset: str, images: int, epsilon: float):
    """At least those recorded for the same method, up to ties of float32, and none that was broken by an attack."""
    rows = json.loads((shared_data / "networks" / "expected.json").read_text())["subsets"]
    (row,) = (row for row in rows if (row["model"], row["n"], row["eps"]) == (name, images, epsilon))
    counts, ties = row["counts"], images // 200
    model, x, y = published(name, images, subset)
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


@pytest.mark.parametrize(
    ("name", "subset", "epsilon"), [pytest.param(*OTHERS[0], marks=pytest.mark.combinations), *OTHERS[1:]]
)
def test_other_networks_are_certified_in_the_default_memory(published, name: str, subset: str, epsilon: float):
    """Tanh, sigmoid, max pooling, residual blocks: more by each method than by the one before, on right images only."""
    model, x, y = published(name, 20, subset)
    x, model = x.double(), model.double()
    graph = capture(model, x[:1])
    with torch.no_grad():
        clean = model(x).argmax(1) == y
    counts = []
    for method in ("ibp", "crown_ibp", "crown"):
        proved = torch.cat(
            [certified(graph, LpBall(a, epsilon), b, method) for a, b in zip(x.split(5), y.split(5), strict=True)]
        )
        assert (proved <= clean).all()
        counts.append(int(proved.sum()))
    assert counts == sorted(counts)
    assert counts[-1] >= 0.3 * clean.sum()


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
def test_a_published_robust_error_is_reproduced(published):
    """Wong and Kolter (2018): a robust error of 5.82 % of all MNIST test images, in a ball beyond the box."""
    model, x, y = published("wk_mnist_0.1", 10_000)
    graph = capture(model.double(), x[:1].double())
    proved = 0
    for images, labels in zip(x.double().split(50), y.split(50), strict=True):
        ball = LpBall(images, 0.1, low=None, high=None)
        proved += int(certified(graph, ball, labels, "fast_lin").sum())
    assert proved >= 9418  # of Fast-Lin alone; ours contains CROWN-IBP


@pytest.mark.parametrize(("name", "epsilon"), [("marabou_mnist_2x10", 0.01), ("eran_mnist_6_100", 0.02)])
def test_chosen_planes_certify_more(published, name: str, epsilon: float):
    """Optimised planes certify all that CROWN's do, and more where there is more to certify."""
    model, x, y = published(name, 100)
    x, graph = x.double(), capture(model.double(), x[:1].double())
    plain, chosen = (
        torch.cat(
            [certified(graph, LpBall(a, epsilon), b, method) for a, b in zip(x.split(50), y.split(50), strict=True)]
        )
        for method in ("crown", "alpha_crown")
    )
    assert (plain <= chosen).all()
    assert chosen.sum() > plain.sum()


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


@pytest.mark.parametrize(
    ("name", "step", "counterexamples", "share", "methods"),
    [
        ("vnncomp_mnistfc_256x2", 1, 20, 0.3, METHODS),
        ("oval_cifar_base_kw", 1, 1, 0.0, METHODS),  # chosen to need branching
        ("abc_cifar_resnet2b", 3, 0, 0.3, ("crown_ibp", "crown")),
    ],
)
def test_nothing_is_certified_that_has_a_counterexample(
    shared_data, published, name: str, step: int, counterexamples: int, share: float, methods: tuple[str, ...]
):
    """Instances of VNN-COMP with the verdicts of up to 13 tools, and counterexamples that were run again."""
    rows = json.loads((shared_data / "networks" / "verdicts" / "vnncomp.json").read_text())
    rows = [row for row in rows if row["model"] == name][::step]
    model, x, y = published(name, max(row["row"] for row in rows) + 1)
    chosen = [row["row"] for row in rows]
    x, y = x[chosen].double(), y[chosen]
    assert y.tolist() == [row["label"] for row in rows]
    epsilon = torch.tensor([row["eps"] for row in rows], dtype=torch.float64)
    graph = capture(model.double(), x[:1])
    broken = torch.tensor([row["final"].startswith("sat") for row in rows])
    known = torch.tensor([row["final"] == "unsat" for row in rows])
    assert broken.sum() >= counterexamples
    for method in methods:
        parts = zip(x.split(5), epsilon.split(5), y.split(5), strict=True)
        proved = torch.cat([certified(graph, LpBall(a, radius), b, method) for a, radius, b in parts])
        assert not (proved & broken).any(), method
    assert (proved & known).sum() >= share * known.sum()
