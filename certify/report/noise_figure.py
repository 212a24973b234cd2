"""Figure of a test of random noise against adversarial perturbations."""

from typing import TYPE_CHECKING

from bounds import NoiseRatioTest
from certify.report.figures import COOL, FAINT, GREY, INK, PAPER

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def noise_figure(result: NoiseRatioTest) -> "Figure":
    """Distances within random subspaces over the least distance, as measured and for flat boundaries, by dimension.

    Geometric means over inputs, with distances capped alike.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.2), layout="constrained", facecolor=PAPER)
    figure.set_label("Distance to the boundary within random subspaces against their dimension")
    ax = figure.subplots()
    dimensions = result.dimensions.tolist()
    for values, color, style, label in (
        (result.log_ratio, COOL[0], "o-", "measured"),
        (result.flat_log_ratio, GREY, "s--", "flat boundaries"),
    ):
        ax.loglog(dimensions, values.mean(0).exp().tolist(), style, color=color, markersize=4, label=label)
    ax.set_xlabel("dimension of random subspaces; 1 for lines", color=INK)
    ax.set_ylabel("distance over the least one", color=INK)
    ax.set_facecolor(PAPER)
    ax.grid(color=FAINT, linewidth=0.7)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(INK)
    ax.tick_params(which="both", colors=INK, labelsize=9.5)
    ax.legend(frameon=False, labelcolor=INK)
    return figure
