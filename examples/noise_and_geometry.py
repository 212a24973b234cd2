"""Random noise, adversarial examples and the geometry between them: one page on the embedded networks.

Networks trained plainly, under noise and against PGD: how ratios of random and adversarial distances compare with flat
boundaries, from lines to all directions; to which frequencies they are sensitive; how far their normals lie in a common
subspace; whether training made them flatter, at inputs and at their boundaries; and cross sections with the certified
radius and that of the attack drawn in. All in l_2 and without a box. Takes four minutes; ``--quick`` shows a small one.

Expected: PGD training flattens the loss and the margin around inputs, and not the boundary itself.
"""

import argparse
import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import bounds
from bounds import geometry
from certify import certified_radius
from certify.attacks import minimal_perturbation
from certify.reference import load

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {"plain": "#d55e00", "noise": "#0072b2", "pgd": "#009e73"}
GREY = "#8b949e"
DIMENSIONS = [1, 4, 16, 64, 256, 784]
BLOCK, OFFSETS = 8, [0, 4, 8, 12, 16, 20]  # frequencies of a block along each side, and its first one
STEP = 0.5  # over which gradients are compared
PLANES = [
    "across: the nearest boundary\nup: a random direction",
    "across: the nearest boundary\nup: where it bends most",
    "across: the nearest boundary\nup: the boundary of another class",
    "across and up:\nrandom directions",
]


@dataclass(frozen=True, eq=False)
class Network:
    """An embedded network, images, and the nearest boundary at each."""

    model: nn.Module
    x: Tensor
    near: bounds.BoundaryPoints

    @classmethod
    def embedded(cls, name: str, count: int) -> "Network":
        """Load the network of that name, with its first images."""
        model, x, _ = load(name, count)
        return cls(model, x, bounds.nearest_boundary(model, x))

    def softened(self) -> "Network":
        """These weights in float64 with a smooth activation in place of ReLU: its boundaries have curvature."""
        parts = [nn.Softplus(50.0) if isinstance(part, nn.ReLU) else part for part in self.model.children()]
        model, x = nn.Sequential(*copy.deepcopy(parts)).double(), self.x.double()
        return Network(model, x, bounds.nearest_boundary(model, x))

    def margin(self, points: Tensor) -> Tensor:
        """Margin of the class behind the nearest boundary over the predicted one."""
        logits = self.model(points)
        gap: Tensor = logits.gather(1, self.near.other[:, None]) - logits.gather(1, self.near.label[:, None])
        return gap.squeeze(1)

    def loss(self, points: Tensor) -> Tensor:
        """Cross-entropy of the predicted class."""
        return nn.functional.cross_entropy(self.model(points), self.near.label, reduction="none")

    def first(self) -> "Network":
        """With its first input alone."""
        near = bounds.BoundaryPoints(**{name: value[:1] for name, value in vars(self.near).items()})
        return Network(self.model, self.x[:1], near)


def noise_test(network: Network, count: int, lines: int, dimensions: list[int]) -> bounds.NoiseRatioTest:
    """The test of the sqrt(D) law, with the witnesses of an attack, over subspaces of up to all dimensions."""
    x, generator = network.x[:count], torch.Generator().manual_seed(0)
    label = network.near.label[:count]
    witness = minimal_perturbation(network.model, x, label, norm=2, low=None, high=None, generator=generator)
    return bounds.noise_ratio_test(
        network.model,
        x,
        minimal=torch.where(witness.found, witness.distance, torch.inf),
        directions=lines,
        dimensions=dimensions,
        subspaces=2,
        generator=generator,
    )


def curvatures(network: Network) -> dict[str, Tensor]:
    """Curvatures, numbers without a unit, (N,) each: of the loss and the margin at inputs, of the boundary.

    The last one is the root mean square of the principal curvatures times the distance to the boundary.
    """
    wide = Network(copy.deepcopy(network.model).double(), network.x.double(), network.near)
    smooth, generator = network.softened(), torch.Generator().manual_seed(0)
    points = smooth.x + smooth.near.perturbation
    bent = geometry.boundary_curvature(smooth.margin, points, generator=generator)
    return {
        "change of the loss gradient": geometry.gradient_change(wide.loss, wide.x, step=STEP),
        "change of the margin gradient": geometry.gradient_change(wide.margin, wide.x, step=STEP),
        "curvature of the boundary": bent.size * smooth.near.distance,
        "distance of the boundary": smooth.near.distance,
    }


def frequency_margins(network: Network, count: int, offsets: list[int]) -> list[float]:
    """Median margin in each block of frequencies over that in random subspaces of as many dimensions."""
    found = []
    for offset in offsets:
        shape = tuple(network.x.shape[1:])
        basis = geometry.frequency_basis(shape, size=BLOCK, offset=offset, like=network.x)  # type: ignore[arg-type]
        margin = bounds.nearest_boundary(network.model, network.x[:count], basis=basis).distance
        expected = geometry.margin_quantiles(
            network.near.distance[:count], features=784, dimension=len(basis), probability=0.5
        )
        found.append(float((margin / expected).median()))
    return found


def planes(network: Network) -> list[tuple[Tensor, Tensor, float]]:
    """Two directions each, and the extent in units of the distance: those of ``PLANES`` for the first input."""
    one, generator = network.first(), torch.Generator().manual_seed(1)
    normal = one.near.perturbation[0]
    first, second = torch.randn(2, *normal.shape, generator=generator)
    smooth = one.softened()
    _, vectors = geometry.hessian_eigenvalues(smooth.margin, smooth.x + smooth.near.perturbation, count=1)
    ranked = one.model(one.x)[0].argsort(descending=True)
    rest = [int(k) for k in ranked if k not in (one.near.label[0], one.near.other[0])]
    other = bounds.nearest_boundary(one.model, one.x, target=rest[0]).perturbation[0]
    return [(normal, first, 4.0), (normal, vectors[0].to(normal), 4.0), (normal, other, 4.0), (first, second, 40.0)]


def draw(ax: "Axes", network: Network, plane: tuple[Tensor, Tensor, float], certified: float) -> None:
    """Decision regions; the certified radius is a full circle, the distance of the nearest boundary a dashed one."""
    from matplotlib.patches import Circle

    distance = float(network.near.distance[0])
    section = geometry.cross_section(
        network.model, network.x[0], plane[0], plane[1], extent=plane[2] * distance, grid=151
    )
    places = section.coordinates.numpy()
    ax.contourf(places, places, section.label.T, levels=[k - 0.5 for k in range(11)], cmap="tab10", alpha=0.5)
    ax.add_patch(Circle((0, 0), certified, fill=False, color="black"))
    ax.add_patch(Circle((0, 0), distance, fill=False, color="black", linestyle="--"))
    ax.plot([0], [0], "k.", markersize=3)
    ax.set_aspect("equal")


def draw_noise(axes: list["Axes"], name: str, result: bounds.NoiseRatioTest) -> None:
    """Ratios of lines, flatness, and distances within subspaces from one dimension to all."""
    color = COLORS[name]
    logs = (result.ratio[~result.ratio.isinf()] / 28).log10()
    axes[0].hist(logs, bins=40, histtype="step", density=True, color=color, label=name)
    q = result.flatness_ratio[~result.flatness_ratio.isnan()]
    axes[1].hist(q.clamp(max=3), bins=40, histtype="step", density=True, color=color)
    axes[2].loglog(result.dimensions, result.log_ratio.mean(0).exp(), "o-", color=color, markersize=3)
    axes[2].loglog(result.dimensions, result.flat_log_ratio.mean(0).exp(), "--", color=color, lw=0.8)


def draw_spectrum(ax: "Axes", name: str, normals: Tensor, color: str) -> None:
    energy = geometry.normal_spectrum(normals).square()
    ax.plot(range(1, len(energy) + 1), energy.cumsum(0) / energy.sum(), color=color, label=name)


def draw_curvatures(ax: "Axes", found: dict[str, dict[str, Tensor]]) -> None:
    """Each kind of curvature relative to the plain network, on the same images, with its 95% interval; printed too."""
    kinds = list(found["plain"])
    for shift, name in ((-0.1, "noise"), (0.1, "pgd")):
        for place, kind in enumerate(kinds):
            ratio = geometry.paired_ratio(found[name][kind], found["plain"][kind])
            print(f"{kind}, {name} over plain: {ratio.ratio:.3g} [{ratio.low:.3g}, {ratio.high:.3g}]")
            reach = [[ratio.ratio - ratio.low], [ratio.high - ratio.ratio]]
            ax.errorbar([ratio.ratio], [place + shift], xerr=reach, fmt="o", color=COLORS[name], markersize=3)
    ax.axvline(1, color=GREY, lw=0.8)
    ax.set(title="What training changed", xscale="log", xlabel="ratio to the plain network, 95 % intervals")
    ax.set_yticks(range(len(kinds)), [kind.replace(" of ", "\nof ", 1) for kind in kinds])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("runs/noise_and_geometry.png"))
    options = parser.parse_args()
    images, count, lines, step = (4, 2, 12, 3) if options.quick else (100, 24, 120, 1)
    dimensions, offsets = DIMENSIONS[step - 1 :: step], OFFSETS[step - 1 :: step]

    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 17), layout="constrained")
    grid = figure.add_gridspec(2, 1, height_ratios=[2, 3])
    top, bottom = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    bottom.suptitle(
        "Predicted classes around one image, in l2 (full circle: proved robust; dashed: to the nearest boundary)"
    )
    upper, sections = top.subplots(2, 3), bottom.subplots(3, 4)
    law, bent = bounds.RatioLaw(784), {}
    frequencies, spectrum, curvature = upper[1]
    for row, name in enumerate(COLORS):
        network = Network.embedded(name, images)
        result = noise_test(network, count, lines, dimensions)
        print(f"\n{name} network\n{result}")
        draw_noise(list(upper[0]), name, result)
        margins = frequency_margins(network, count, offsets)
        frequencies.plot(offsets, margins, "o-", color=COLORS[name], markersize=3)
        draw_spectrum(spectrum, name, network.near.perturbation, COLORS[name])
        bent[name] = curvatures(network)
        proved = certified_radius(network.model, network.x[:1], network.near.label[:1], norm=2, low=None, high=None)
        for column, plane in enumerate(planes(network)):
            draw(sections[row, column], network, plane, float(proved.radius[0]))
        sections[row, 0].set_ylabel(f"{name} network", fontweight="bold")
    draw_curvatures(curvature, bent)

    flat = law.sample(100_000, torch.Generator().manual_seed(0)) / 28
    upper[0, 0].hist(flat.log10(), bins=200, histtype="step", density=True, color=GREY, label="flat boundary")
    upper[0, 0].set(
        title="How far random noise has to go",
        xlabel="log10(random / adversarial / sqrt(D))",
        ylabel="density",
        xlim=(-1.5, 2),
    )
    upper[0, 0].legend(frameon=False)
    upper[0, 1].set(
        title="Flatness along random lines",
        xlabel="flatness ratio (1 if flat; above 3 drawn at 3)",
        ylabel="density",
    )
    upper[0, 2].set(
        title="Distance within random subspaces",
        xlabel="dimension (dashed: flat boundaries)",
        ylabel="distance / least distance",
    )
    within = bounds.RatioLaw(784, BLOCK**2).quantile
    frequencies.axhspan(within(0.05) / within(0.5), within(0.95) / within(0.5), color=GREY, alpha=0.3)
    frequencies.set(
        title="Distance by frequency",
        xlabel="lowest of 8 x 8 frequencies (grey: flat)",
        ylabel="distance / that in random ones",
        yscale="log",
    )
    draw_spectrum(spectrum, "random", torch.randn(images, 784, generator=torch.Generator().manual_seed(0)), GREY)
    spectrum.set(
        title="Directions that normals share",
        xlabel="principal directions (grey: random)",
        ylabel="share of squares",
        xscale="log",
    )
    for column, plane_name in enumerate(PLANES):
        sections[0, column].set_title(plane_name, fontsize=10)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output, dpi=90)


if __name__ == "__main__":
    main()
