"""Random noise against adversarial examples: where the sqrt(D) law holds, and whether boundaries are flat.

Small networks on clouds of 20, 80 and 320 entries, where the law holds and flatness is rejected; then the embedded
networks, trained plainly, under noise and against PGD, with a figure of ratios, flatness, slopes and cross sections.
Takes some minutes; ``--quick`` shows the same at a small size.
"""

import argparse
import copy
import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import bounds
from bounds.geometry import boundary_curvature, cross_section
from certify.attacks import minimal_perturbation
from certify.reference import load

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {"plain": "#d55e00", "noise": "#0072b2", "pgd": "#009e73"}


def small_network(features: int) -> tuple[nn.Sequential, Tensor]:
    """A network of 64-64 units that has learnt a plane with a wave in it, and the inputs it was trained on."""
    torch.manual_seed(features)
    x = torch.randn(3000, features)
    y = (x @ torch.randn(features) / math.sqrt(features) + 0.5 * torch.sin(2 * x[:, 0]) > 0).long()
    model = nn.Sequential(nn.Linear(features, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(300):
        rows = torch.randint(len(x), (200,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model, x


def small_test(features: int, count: int, lines: int) -> bounds.NoiseRatioTest:
    """The test of such a network, at a level of 1%."""
    model, x = small_network(features)
    options = {"dimensions": [1], "alpha": 0.01, "generator": torch.Generator().manual_seed(0)}
    return bounds.noise_ratio_test(model, x[:count], directions=lines, **options)  # type: ignore[arg-type]


def reference_test(name: str, count: int, lines: int) -> tuple[bounds.NoiseRatioTest, nn.Module, Tensor, Tensor]:
    """The test of an embedded network, its inputs, and the perturbations of an attack without a box."""
    model, x, _ = load(name, count)
    generator = torch.Generator().manual_seed(0)
    options = {"low": None, "high": None, "generator": generator}
    witness = minimal_perturbation(model, x, model(x).argmax(1), norm=2, **options)  # type: ignore[arg-type]
    x, moved = x[witness.found], witness.adversarial[witness.found]
    result = bounds.noise_ratio_test(model, x, minimal=moved - x, directions=lines, subspaces=4, generator=generator)
    return result, model, x, moved - x


def softened(model: nn.Module, beta: float) -> nn.Module:
    """The same weights with a smooth activation in the place of ReLU, so that there is a curvature to measure."""
    parts = [nn.Softplus(beta) if isinstance(part, nn.ReLU) else part for part in model.children()]
    return nn.Sequential(*copy.deepcopy(parts))


def curvature(model: nn.Module, x: Tensor) -> Tensor:
    """Size of the mean curvature at the nearest boundary point of each input, (N,), of the softened network."""
    smooth = softened(model, 50.0).double()
    near = bounds.nearest_boundary(smooth, x.double())
    rows = near.found
    own, other = near.label[rows], near.other[rows]

    def margin(points: Tensor) -> Tensor:
        logits = smooth(points)
        gap: Tensor = logits.gather(1, own[:, None]) - logits.gather(1, other[:, None])
        return gap.squeeze(1)

    points = (x.double() + near.perturbation)[rows]
    mean: Tensor = boundary_curvature(margin, points, generator=torch.Generator().manual_seed(0)).mean
    return mean.abs()


def draw(ax: "Axes", x: Tensor, toward: Tensor, model: nn.Module) -> None:
    """The plane of the nearest boundary point and a random direction."""
    other = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    distance = float(toward.norm())
    section = cross_section(model, x, toward, other, extent=25 * distance, grid=151)
    places = section.coordinates.numpy()
    ax.contourf(places, places, section.label.T, levels=[k - 0.5 for k in range(11)], cmap="tab10", alpha=0.5)
    ax.plot([0, distance], [0, 0], "k.-")
    ax.set(xlabel="towards the adversarial example", ylabel="random direction", aspect="equal")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("runs/noise_and_geometry.png"))
    options = parser.parse_args()
    count, lines = (4, 40) if options.quick else (24, 120)
    for features in (20, 80) if options.quick else (20, 80, 320):
        print(f"\nsmall network, D = {features}\n{small_test(features, count, lines)}")

    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7), layout="constrained")
    axes = figure.subplots(2, 3)
    for column, name in enumerate(COLORS):
        result, model, x, moves = reference_test(name, count, lines)
        bent = curvature(model, x).log()
        error = 1.96 * float(bent.std()) / math.sqrt(len(bent))
        ends = [math.exp(float(bent.mean()) + sign * error) for sign in (-1, 1)]
        print(f"\n{name} network\n{result}\nmean curvature, geometric mean [{ends[0]:.3g}, {ends[1]:.3g}]")
        logs = (result.ratio[~result.ratio.isinf()] / 28).log10()
        axes[0, 0].hist(logs, bins=40, histtype="step", density=True, color=COLORS[name], label=name)
        q = result.flatness_ratio[~result.flatness_ratio.isnan()]
        axes[0, 1].hist(q.clamp(max=3), bins=40, histtype="step", density=True, color=COLORS[name])
        low, high = result.slope_interval
        reach = [[result.slope - low], [high - result.slope]]
        axes[0, 2].errorbar([name], [result.slope], reach, fmt="o", color=COLORS[name])
        draw(axes[1, column], x[0], moves[0], model)
        axes[1, column].set_title(name)
    law = bounds.RatioLaw(784).sample(100_000, torch.Generator().manual_seed(0)) / 28
    axes[0, 0].hist(law.log10(), bins=200, histtype="step", density=True, color="#8b949e", label="flat, two classes")
    axes[0, 0].set(xlabel="log10 of the ratio over sqrt(D)", xlim=(-1.5, 2))
    axes[0, 0].legend(frameon=False)
    axes[0, 1].set(xlabel="flatness ratio, 1 for a flat boundary")
    axes[0, 2].axhline(1, color="#8b949e", lw=0.8)
    axes[0, 2].set(ylabel="slope over dimensions of subspaces")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output, dpi=110)


if __name__ == "__main__":
    main()
