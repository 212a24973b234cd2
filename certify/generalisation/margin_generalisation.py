"""Whether margins of networks predict how far their accuracy falls from training to test inputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from certify.generalisation.checkpoints import Checkpoints, names_of, networks_of
from certify.generalisation.layer_margins import STATISTICS, hidden_layers, layer_margins, margin_statistics
from certify.generalisation.regression import FEWEST, GapRegression, gap_regression
from certify.models import frozen, predictions, probe

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, kw_only=True)
class MarginGeneralisation:
    """Margins and generalisation gaps of M networks, see :func:`certify.margin_generalisation`.

    Attributes:
        names: of the networks.
        feature_names: of the F features, such as ``"input q50"``.
        features: (M, F) float64, logarithms of quartiles and fences of normalised margins.
        training_accuracy: (M,) float64.
        test_accuracy: (M,) float64.
        regression: of the gap, training minus test accuracy, on the features.
    """

    names: tuple[str, ...]
    feature_names: tuple[str, ...]
    features: Tensor
    training_accuracy: Tensor
    test_accuracy: Tensor
    regression: GapRegression

    @property
    def gap(self) -> Tensor:
        """Training minus test accuracy, (M,) float64."""
        return self.regression.gap

    def predicts(self, alpha: float = 0.05) -> bool:
        """Whether margins predict the gap better than chance, at a level."""
        return self.regression.p_value <= checks.probability("alpha", alpha) and self.regression.r2 > 0

    def __str__(self) -> str:
        """The result in a sentence."""
        verdict = "margins predict the gap" if self.predicts() else "not shown that margins predict the gap"
        return f"{verdict}: {self.regression}"

    def sentences(self) -> list[str]:
        """The result in a sentence."""
        return [str(self)]

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per network: accuracies, the gap, its prediction by the other networks, and all features."""
        import pandas as pd

        columns = {
            "network": list(self.names),
            "training_accuracy": self.training_accuracy.cpu().numpy(),
            "test_accuracy": self.test_accuracy.cpu().numpy(),
            "gap": self.gap.cpu().numpy(),
            "predicted": self.regression.predicted.cpu().numpy(),
        }
        return pd.DataFrame(columns | dict(zip(self.feature_names, self.features.T.cpu().numpy(), strict=True)))

    def plot(self) -> "Figure":
        """Gaps against their predictions by the other networks."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5, 4.5), layout="constrained")
        axes = figure.subplots()
        predicted, gap = self.regression.predicted.cpu().numpy(), self.gap.cpu().numpy()
        axes.scatter(predicted, gap, color="#0072b2")
        for name, at, value in zip(self.names, predicted, gap, strict=True):
            axes.annotate(name, (at, value), xytext=(4, 3), textcoords="offset points", fontsize=7)
        axes.axline((float(gap.mean()), float(gap.mean())), slope=1, color="#8b949e", linewidth=1, linestyle="--")
        axes.set(xlabel="gap predicted by the other networks", ylabel="training minus test accuracy")
        axes.set_title(
            f"leave-one-out R² {self.regression.r2:.2f}, p = {self.regression.p_value:.3g}", loc="left", fontsize=10
        )
        return figure


@isolated
def margin_generalisation(
    models: Checkpoints,
    x: Tensor,
    y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    *,
    model: nn.Module | None = None,
    layers: Sequence[str] | None = None,
    components: int | None = None,
    permutations: int = 999,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> MarginGeneralisation:
    """Test whether margins on training inputs predict the generalisation gap, over several networks.

    Features are quartiles and fences of normalised distances to the boundary, in the input and in hidden layers, of the
    training inputs that are classified correctly; see :func:`certify.gap_regression` for the regression and its test.

    Args:
        models: at least five networks or their ``state_dict()``, in a sequence or a mapping from names. The p-value is
            exact for independent trainings. Checkpoints of one training depend on each other; it is too small then.
        x: (N, *D), inputs that the networks were trained on, all or a sample.
        y: (N,) integer, their classes.
        test_x: (T, *D), inputs that they were not trained on.
        test_y: (T,) integer, their classes.
        model: where weights are given, a network that takes them.
        layers: names of modules whose outputs are looked at, in the order in which they are called; None for up to
            three layers with weights, evenly spaced.
        components: see :func:`certify.gap_regression`.
        permutations: see :func:`certify.gap_regression`.
        batch_size: rows of a forward pass, at most.
        generator: draws the permutations; torch's default if None.

    Raises:
        InvalidInput: a bad argument; fewer than five networks; a network that has no training input right.
        InvalidModel: see :func:`certify.models.probe`; a layer that returns no tensor or is called twice.

    References:
        Jiang et al. (2019), Predicting the generalization gap in deep networks with margin distributions,
        arXiv:1810.00113.
    """
    names, features, shares = names_of(models, FEWEST), [], []
    for part in (x, test_x):
        checks.not_empty(checks.inputs(part))
    count = -1
    for name, network in zip(names, networks_of(models, model), strict=True):
        watched = hidden_layers(network, layers)
        if count not in (-1, len(watched)):
            raise InvalidInput(f"models must have as many layers to look at, {name} has {len(watched)}: name layers=")
        count = len(watched)
        with frozen(network):
            classes = probe(network, x, batch_size=min(batch_size, len(x)))
            shares.append([_accuracy(network, *pair, classes, batch_size) for pair in ((x, y), (test_x, test_y))])
        rows = margin_statistics(layer_margins(network, x, y, watched, batch_size))
        if not rows.isfinite().all():
            raise InvalidInput(
                f"models must have training inputs right to measure margins, {name} has none: leave it out"
            )
        features.append(rows.flatten())
    table, accuracy = torch.stack(features), torch.stack([torch.stack(pair) for pair in shares])
    places = ["input", *(layers or [f"layer {i + 1}" for i in range(count)])]
    return MarginGeneralisation(
        names=names,
        feature_names=tuple(f"{place} {statistic}" for place in places for statistic in STATISTICS),
        features=table,
        training_accuracy=accuracy[:, 0],
        test_accuracy=accuracy[:, 1],
        regression=gap_regression(
            table,
            accuracy[:, 0] - accuracy[:, 1],
            components=components,
            permutations=permutations,
            generator=generator,
        ),
    )


def _accuracy(model: nn.Module, x: Tensor, y: Tensor, classes: int, batch_size: int) -> Tensor:
    label = checks.labels(y, len(x), classes).to(x.device)
    return (predictions(model, x, batch_size) == label).double().mean()
