"""Draw a page of the claims of two surveys on the embedded networks: a table with verdicts, and twelve panels.

The surveys are Bai, Luo, Zhao, Wen, Wang (2021), Recent advances in adversarial training (S), and Ortiz-Jimenez, Modas,
Moosavi-Dezfooli, Frossard (2021), Optimism in the face of adversity (L). Every figure has a 95 % interval: a claim
holds if the interval lies where the claim says, does not hold if it lies outside, and is undecided otherwise. Writes an
HTML page. Takes some minutes on two cores; ``--quick`` shows a small one.

Expected: about half of the claims hold, and most only for the networks that were not trained against attacks.
"""

import argparse
import base64
import io
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor, nn

import bounds
from bounds import geometry
from certify import attacks, corruptions, surveys
from certify.reference import load
from certify.surveys import Claim

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = ("plain", "noise", "pgd", "ibp")
COLORS = {"holds": "#0072b2", "does not hold": "#d55e00", "undecided": "#8b949e"}
EPSILON, SIGMA = 0.1, 0.25
# Figures of an earlier survey by hand, of 16 to 1,000 images, and why some differ from those here.
BEFORE = {
    "gradient": {"plain": 0.85, "noise": 0.79, "pgd": 0.23, "ibp": 0.23},
    "universal": {"plain": 0.613, "noise": 0.153, "pgd": 0.040, "ibp": 0.037},
    "share": {"plain": 0.344, "noise": 0.391, "pgd": 0.047, "ibp": 0.085},
    "transfer": {"noise to plain": 0.50, "plain to noise": 0.0, "pgd to plain": 0.0, "noise to ibp": 0.12},
    "span": {"plain": 0.326, "pgd": 0.181},
    "frequency": {"plain": 3.04, "pgd": 0.68},
    "saliency": {"pgd": 1.02, "ibp": 1.70, "noise": 2.96},
    "noise law": {"plain": 0.53, "noise": 0.37, "pgd": 0.036, "ibp": 0.72},
    "pruning": {"plain": 0.91, "ibp": 1.16},
}
REASONS = {
    "noise law": "before: ratio of two medians, with clean errors among the errors under noise",
    "frequency": "before: ratio of two medians; here the median of ratios",
    "pruning": "before: ratio of two medians in the box [0, 1]; here the mean ratio without a box",
    "span": "before: 59 of 60 directions, made on other images",
    "share": "before: one perturbation made on the images that the normals belong to",
    "universal": "before: a shorter search",
    "saliency": "before: noise from the ratio of two means",
}


@dataclass(eq=False)
class Network:
    """An embedded network, with what several claims need of it."""

    name: str
    count: int

    @cached_property
    def model(self) -> nn.Module:
        """The network itself."""
        return load(self.name, 1).model

    @cached_property
    def x(self) -> Tensor:
        """All embedded images."""
        return load(self.name).x

    @cached_property
    def y(self) -> Tensor:
        """Their labels."""
        return load(self.name).y

    @cached_property
    def near(self) -> bounds.BoundaryPoints:
        """The nearest boundary in l2, without a box."""
        return bounds.nearest_boundary(self.model, self.x[: self.count])

    @cached_property
    def gradient(self) -> Tensor:
        """Gradients of the loss of the predicted class."""
        at = self.x[: self.count].clone().requires_grad_()
        nn.functional.cross_entropy(self.model(at), self.near.label, reduction="sum").backward()
        return at.grad  # type: ignore[return-value]  # it has one

    @cached_property
    def saliency(self) -> Tensor:
        """Length of the input along the gradient of the logit that is predicted."""
        at = self.x[:200].clone().requires_grad_()
        self.model(at).amax(1).sum().backward()
        return geometry.alignment(at.grad, at.detach()).projection  # type: ignore[arg-type]  # it has a gradient


class Survey:
    """All claims, and the panels drawn from them."""

    def __init__(self, quick: bool) -> None:
        self.quick, self.count = quick, 12 if quick else 60
        self.networks = {name: Network(name, self.count) for name in NAMES}
        self.claims: dict[str, list[Claim]] = {}

    def add(
        self,
        key: str,
        text: str,
        source: str,
        name: str,
        figure: float,
        interval: tuple[float, float],
        unit: str,
        **limits: float,
    ) -> None:
        """File a claim under a key."""
        claim = Claim(claim=text, source=source, model=name, figure=figure, interval=interval, unit=unit, **limits)
        self.claims.setdefault(key, []).append(claim)

    def directions(self) -> None:
        """Gradients, normals, universal perturbations."""
        for name, net in self.networks.items():
            found = geometry.alignment(net.gradient, net.near.perturbation)
            text = "The nearest boundary lies along the gradient of the loss"
            self.add("gradient", text, "L II-C", name, found.mean, found.interval, "mean cosine", low=0.5)
            rank = geometry.normal_rank(net.near.perturbation, draws=19, largest=1, generator=seeded())
            text = "Normals of the boundary fill few dimensions"
            high = rank.features / 10
            self.add("rank", text, "L II-C", name, rank.dimension, rank.dimension_interval, "dimensions", high=high)
            self._universal(name, net)
            self._span(name, net)

    def _universal(self, name: str, net: Network) -> None:
        budget: dict[str, Any] = {"norm": math.inf, "epsilon": EPSILON, "generator": seeded(), "restarts": 1}
        sets = [slice(300 + 40 * j, 340 + 40 * j) for j in range(3 if self.quick else 6)]
        steps = 10 if self.quick else 60
        several = [attacks.universal_perturbation(net.model, net.x[s], steps=steps, **budget) for s in sets]
        directions = torch.stack([each.perturbation for each in several])
        size = min(20, self.count // 3)
        directions = directions[directions.flatten(1).norm(dim=1) > 0]  # one that fools nobody is not stated
        if len(directions) > 1:
            share = geometry.energy_share(directions, net.near.perturbation, dimension=size)
            text, low = f"Universal perturbations lie in {size} directions of normals", share.chance_interval()[1]
            self.add("share", text, "L II-C", name, share.mean, share.interval, "share of energy", low=low)
        one = attacks.universal_perturbation(net.model, net.x[600:1000], steps=steps, **budget)
        rate = attacks.fooling_rate(net.model, net.x[:300], one.perturbation, norm=math.inf, generator=seeded())
        text = "One perturbation fools most inputs (l-infinity 0.1)"
        self.add("universal", text, "L eq 17", name, rate.rate, rate.interval(), "share fooled", low=0.5)

    def _span(self, name: str, net: Network) -> None:
        x, y = net.x[self.count : 300], net.y[self.count : 300]
        found = surveys.span_accuracy(net.model, x, y, net.near.perturbation, draws=19, generator=seeded())
        loss = float(found.clean.double().mean()) - found.accuracy
        text = "Inputs keep their class within the span of normals"
        self.add("span", text, "L III-A2", name, loss, found.loss_interval(), "accuracy lost", high=0.05)

    def transfer(self, ax: "Axes") -> None:
        """Adversarial examples of each network on each other one."""
        count = 10 if self.quick else 40
        models, some = {name: net.model for name, net in self.networks.items()}, self.networks["plain"]
        x, y = some.x[:count], some.y[:count]
        options: dict[str, Any] = {"norm": 2, "generator": seeded()}
        search: dict[str, Any] = {"steps": 40, "restarts": 1, **options}
        witnesses = {name: attacks.minimal_perturbation(model, x, y, **search) for name, model in models.items()}
        found = surveys.transfer_matrix(models, x, y, sizes=(1.0, 1.5), witnesses=witnesses, **options)
        table = found.to_dataframe()
        for row in table[(table["size"] == 1) & (table.source != table.target)].to_dict("records"):
            text, pair = "Nearest adversarial examples fool other networks", f"{row['source']} to {row['target']}"
            interval = row["lower"], row["upper"]
            self.add("transfer", text, "L II-E", pair, row["rate"], interval, "share fooled", low=0.5)
        rates = found.rate()[:, :, 1].numpy()
        ax.imshow(rates, vmin=0, vmax=1, cmap="Blues")
        for (a, b), rate in [((a, b), rates[a, b]) for a in range(4) for b in range(4)]:
            ax.text(b, a, f"{rate:.2f}", ha="center", va="center", color="white" if rate > 0.6 else "black")
        ax.set_xticks(range(4), NAMES)
        ax.set_yticks(range(4), NAMES)
        ax.set(title="Who is fooled by whose examples\n(1.5 times the least size)", xlabel="fooled", ylabel="made for")

    def frequencies(self, ax: "Axes") -> None:
        """Distances within blocks of frequencies, found and proved."""
        offsets, count = ([0, 18], 4) if self.quick else ([0, 9, 18], 12)
        for name, color in (("plain", "C1"), ("pgd", "C2")):
            net = self.networks[name]
            found = surveys.frequency_margins(net.model, net.x[:count], size=4, offsets=offsets, tolerance=0.03)
            assert (found.certified <= found.found).all()  # type: ignore[operator]  # it was asked for
            row = found.to_dataframe().set_index("offset").to_dict("index")[18]
            text, interval = "Networks are invariant to high frequencies", (row["lower"], row["upper"])
            self.add("frequency", text, "L III-B1", name, row["ratio"], interval, "distance over chance", low=1.0)
            table = found.to_dataframe()
            ax.plot(table.offset, table.found, "o-", color=color, markersize=3, label=f"{name}, found")
            ax.plot(table.offset, table.certified, "v--", color=color, markersize=3, label=f"{name}, proved")
        ax.set(
            title="How far to another class,\nif only these frequencies change",
            xlabel="lowest of 4 x 4 frequencies",
            ylabel="l2 distance",
            yscale="log",
        )
        ax.legend(frameon=False, fontsize=7)

    def training(self) -> None:
        """Changes by training against attacks, on the same images."""
        plain = self.networks["plain"]
        smooth, across = {}, torch.randn(plain.x[: self.count].shape, generator=seeded())
        for name, net in self.networks.items():
            x = net.x[: self.count]
            found = surveys.loss_surface(net.model, x, net.near.label, net.gradient, across, extent=0.5, grid=9)
            smooth[name] = found.nonlinearity
        for name in NAMES[1:]:
            ratio = geometry.paired_ratio(smooth[name], smooth["plain"])
            text = "Robust training makes the loss more linear around inputs"
            interval, unit = (ratio.low, ratio.high), "ratio to plain"
            self.add("linear", text, "L II-D", name, ratio.ratio, interval, unit, high=1.0)
            ratio = geometry.paired_ratio(self.networks[name].saliency, plain.saliency)
            text, interval = "Robust networks have saliency maps that look like inputs", (ratio.low, ratio.high)
            self.add("saliency", text, "S 3.2, L IV-A2", name, ratio.ratio, interval, unit, low=1.0)

    def noise(self, ax: "Axes") -> None:
        """Errors under noise against distances."""
        for name, net in self.networks.items():
            x, y, distance = net.x[: self.count], net.y[: self.count], net.near.distance
            draws = 100 if self.quick else 500
            found = surveys.noise_error_relation(
                net.model, x, y, sigma=SIGMA, distance=distance, draws=draws, generator=seeded()
            )
            text, limits = "Errors under noise tell the distance of adversarial examples", {"low": 0.8, "high": 1.25}
            unit = "distance by noise over found"
            self.add("noise law", text, "L fn 11, S 3.2", name, found.factor, found.interval, unit, **limits)
            if name == "plain":
                found.plot(ax)
        ax.set_title("Errors under noise by distance\n(plain network)")
        ax.legend(frameon=False, fontsize=7)

    def errors(self) -> None:
        """Distances against errors over models, and of pruned ones."""
        right, distance = {}, {}
        for name, net in self.networks.items():
            for level in (0.0, 0.6):
                model = surveys.pruned(net.model, level)
                near = bounds.nearest_boundary(model, net.x[: self.count])
                key = name if level == 0 else f"{name}, {level:.0%} pruned"
                right[key] = model(net.x).argmax(1) == net.y
                some = right[key][: self.count]
                distance[key] = torch.full((len(net.y),), torch.inf, dtype=torch.float64)  # of others it is not known
                distance[key][: self.count] = torch.where(some, near.distance, torch.inf)
            both = distance[name].isfinite() & distance[f"{name}, 60% pruned"].isfinite()
            ratio = geometry.paired_ratio(distance[f"{name}, 60% pruned"][both], distance[name][both])
            text, interval = "Pruning (60 %) makes networks more robust", (ratio.low, ratio.high)
            self.add("pruning", text, "S 3.2", name, ratio.ratio, interval, "ratio of distances", low=1.0)
        law = surveys.error_distortion_law({key: right[key] for key in NAMES}, {key: distance[key] for key in NAMES})
        text = "More accurate networks need smaller perturbations"
        self.add("law", text, "S 3.3", "all four", law.slope, law.interval, "distance per log error", low=0.0)

    def corrupted(self) -> None:
        """Errors under the 15 corruptions of ImageNet-C, in units of the plain network."""
        count, severities = (20, [3]) if self.quick else (200, [1, 3, 5])
        found = {}
        for name, net in self.networks.items():
            found[name] = corruptions.corruption_accuracy(
                net.model,
                net.x[:count],
                net.y[:count],
                corruptions=corruptions.IMAGENET_C,
                severities=severities,
                generator=seeded(),
            )
        for name in NAMES[1:]:
            error = corruptions.corruption_error(found[name], found["plain"])
            text, interval = "Robust training helps against common corruptions", error.mean_interval
            self.add("mce", text, "S 3.1, L IV-C", name, error.mean, interval, "mCE, plain = 1", high=1.0)

    def section(self, ax: "Axes") -> None:
        """A plane in which each cell is proved or broken."""
        net = self.networks["ibp"]
        across = torch.randn(net.x[0].shape, generator=seeded())
        found = surveys.certified_cross_section(
            net.model,
            net.x[0],
            net.near.perturbation[0],
            across,
            extent=3 * float(net.near.distance[0]),
            grid=16 if self.quick else 64,
        )
        found.plot(ax)
        ax.set(title="A plane around one image (ibp)\nblue: proved, red: another class")
        ax.set(xlabel="to the nearest boundary (l2)", ylabel="random direction (l2)")

    def table(self) -> pd.DataFrame:
        """All claims with verdicts, next to the figures of before."""
        parts = []
        for key, claims in self.claims.items():
            part = surveys.claims_table(claims)
            part["before"] = [BEFORE.get(key, {}).get(claim.model, math.nan) for claim in claims]
            inside = (part.before >= part.lower) & (part.before <= part.upper)
            reason = REASONS.get(key, "before: other images and searches")
            part["agrees"] = [
                "" if math.isnan(b) else "yes" if i else reason for b, i in zip(part.before, inside, strict=True)
            ]
            parts.append(part)
        return pd.concat(parts, ignore_index=True)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def forest(ax: "Axes", title: str, claims: list[Claim]) -> None:
    """Figures with intervals, coloured by verdict; where the claim holds is shaded."""
    low, high = claims[0].low, claims[0].high
    ends = [end for claim in claims for end in (claim.figure, *claim.interval, low, high) if math.isfinite(end)]
    pad = 0.08 * (max(ends) - min(ends))
    wide = min(ends) - pad, max(ends) + pad
    for place, claim in enumerate(reversed(claims)):
        color, shown = COLORS[claim.verdict], [min(max(end, wide[0]), wide[1]) for end in claim.interval]
        ax.plot(shown, [place, place], color=color)  # to the edge, where an end is infinite
        ax.plot([claim.figure], [place], "o", color=color, markersize=4)
    ax.axvspan(max(low, wide[0]), min(high, wide[1]), color="#0072b2", alpha=0.08, linewidth=0)
    ax.set_yticks(range(len(claims)), [claim.model for claim in reversed(claims)])
    ax.set(title=title, xlabel=claims[0].unit, xlim=wide, ylim=(-0.6, len(claims) - 0.4))


TITLES = {
    "gradient": "Does the gradient point\nto the nearest boundary?",
    "rank": "Do boundaries face\nfew directions (of 784)?",
    "share": "Do universal perturbations\nuse these directions?",
    "universal": "Does one perturbation\nfool most images?",
    "span": "Is the class kept when\nonly these directions are left?",
    "linear": "Is the loss more linear\nafter robust training?",
    "mce": "Do robust networks withstand\nblur, noise and weather?",
    "pruning": "Are pruned networks\nmore robust?",
}


def panels(survey: Survey) -> "Figure":
    """Measure everything, and draw twelve panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 11), layout="constrained")
    axes = figure.subplots(3, 4).flatten()
    survey.directions()
    survey.transfer(axes[8])
    survey.frequencies(axes[9])
    survey.training()
    survey.noise(axes[10])
    survey.errors()
    survey.corrupted()
    survey.section(axes[11])
    for ax, (key, title) in zip(axes, TITLES.items(), strict=False):
        forest(ax, title, survey.claims[key])
    return figure


PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Claims of two surveys, measured</title>
<style>body{{font:14px sans-serif;max-width:1200px;margin:2em auto;padding:0 1em}}img{{width:100%}}
table{{border-collapse:collapse;font-size:13px}}td,th{{padding:2px 8px;border-bottom:1px solid #ddd;text-align:left}}
</style><h1>Claims of two surveys, measured</h1>
<p>S: Bai et al. (2021), arXiv:2102.01356. L: Ortiz-Jimenez et al. (2021), arXiv:2010.09624. Four networks of one
architecture on Fashion-MNIST: trained plainly, under Gaussian noise, against PGD, and by interval bounds. Dots are
figures with 95 % intervals: <b style="color:#0072b2">holds</b>, <b style="color:#d55e00">does not hold</b>,
<b style="color:#8b949e">undecided</b>; the shaded side is where the claim
holds. Nearest boundaries are searched in l2 without the range [0, 1] of images, as before unless the table says
otherwise; attacks stay within it. A normal of a boundary is the direction from an image to its nearest boundary.</p>
<img alt="Twelve panels, each a question; the table has the same figures" src="data:image/png;base64,{image}">
<h2>All claims</h2><p>"before" is an earlier survey by hand; "agrees" says whether it lies in the interval here, or else
what was measured differently.</p>{table}
<p>{counts}</p></html>"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("runs/surveys.html"))
    options = parser.parse_args()
    survey = Survey(options.quick)
    figure, drawn = panels(survey), io.BytesIO()
    figure.savefig(drawn, dpi=90, format="png")
    table = survey.table()
    print(table.round(3).to_string(index=False))
    words = [f"{count} of {len(table)}: {verdict}" for verdict, count in table.verdict.value_counts().items()]
    shown = table.to_html(index=False, float_format=lambda value: f"{value:.3g}", na_rep="", border=0)
    shown = shown.replace("<td>inf</td>", "<td>no limit</td>")
    for verdict, color in COLORS.items():
        shown = shown.replace(f"<td>{verdict}</td>", f'<td style="color:{color}"><b>{verdict}</b></td>')
    image = base64.b64encode(drawn.getvalue()).decode()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(PAGE.format(image=image, table=shown, counts=". ".join(words)), encoding="utf-8")


if __name__ == "__main__":
    main()
