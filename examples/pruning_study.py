"""Does pruning make a network more robust, or easier to certify? Clean, attacked and certified accuracy by level.

The weights of least magnitude of each layer are set to 0, without any training after. Accuracies are those of the
embedded networks in l-infinity, with exact 95 % intervals. Takes four minutes; ``--quick`` shows a small one.

Expected: half of the weights can go at little cost from networks trained against attacks; the one trained under noise
has lost attacked accuracy by then. Beyond, all three accuracies fall, and no network becomes more robust.
"""

import argparse
import math
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from certify import certified_radius
from certify.attacks import robust_accuracy
from certify.reference import load
from certify.results import share_interval
from certify.surveys import pruned

NETWORKS = ("plain", "noise", "pgd", "ibp")
LEVELS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
KINDS = {"clean": "black", "attacked": "#d55e00", "certified": "#0072b2"}


def study(model: nn.Module, x: Tensor, y: Tensor, levels: tuple[float, ...], epsilon: float) -> pd.DataFrame:
    """One row per level and kind of accuracy, with its interval."""
    rows = []
    for level in levels:
        network = pruned(model, level)
        attacked = robust_accuracy(
            network, x, y, norm=math.inf, epsilon=epsilon, steps=20, generator=torch.Generator().manual_seed(0)
        )
        certificate = certified_radius(network, x, y, norm=math.inf, tolerance=0.02)
        outcomes = {"clean": network(x).argmax(1) == y, "attacked": attacked.robust}
        outcomes["certified"] = certificate.certified(y, epsilon)
        assert not (outcomes["certified"] & ~attacked.robust).any()
        for kind, right in outcomes.items():
            rows.append((level, kind, float(right.double().mean()), *share_interval(right, 0.05)))
    return pd.DataFrame(rows, columns=["level", "kind", "accuracy", "lower", "upper"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--epsilon", type=float, default=0.05)
    parser.add_argument("--output", type=Path, default=Path("runs/pruning_study.png"))
    options = parser.parse_args()
    names, levels, count = (("ibp",), (0.0, 0.9), 10) if options.quick else (NETWORKS, LEVELS, 100)

    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.5 * len(names), 3.5), layout="constrained")
    for name, ax in zip(names, figure.subplots(1, len(names), squeeze=False, sharey=True)[0], strict=True):
        model, x, y = load(name, count)
        table = study(model, x, y, levels, options.epsilon)
        print(f"\n{name} network, l-infinity {options.epsilon:g}\n{table.round(3).to_string(index=False)}")
        for kind, color in KINDS.items():
            part = table[table.kind == kind]
            ax.plot(part.level, part.accuracy, "o-", color=color, markersize=3, label=kind)
            ax.fill_between(part.level, part.lower, part.upper, color=color, alpha=0.15, linewidth=0)
        ax.set(title=f"{name} network", xlabel="share of weights set to 0", ylim=(0, 1))
    figure.axes[0].set_ylabel("accuracy")
    figure.axes[0].legend(frameon=False)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output, dpi=90)


if __name__ == "__main__":
    main()
