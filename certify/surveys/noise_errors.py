"""Errors under Gaussian noise and distances to the nearest error: do they follow the law of flat boundaries?"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import special
from torch import Tensor, nn

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.noise.directions import fisher_p_value
from bounds.statistics.proportions import FloatArray
from certify.attacks.minimum_norm.minimal_perturbation import minimal_perturbation
from certify.attacks.studies.noise_accuracy import noise_accuracy
from certify.results import Record
from certify.surveys.claims import verdict_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

EQUIVALENT = 1.25  # by which factor the relation may miss and is said to hold
BISECTIONS = 200


@dataclass(frozen=True, eq=False, kw_only=True)
class NoiseErrorRelation(Record):
    """Errors under noise around inputs against those of flat boundaries at the distances found.

    Attributes:
        label: (M,) int64, the class of each input that counts: the model is right, and an error was found.
        rows: (M,) int64, places of these inputs.
        distance: (M,) float64, l_2 distance of the nearest error found.
        errors: (M,) int64, noisy copies that are misclassified.
        p_values: (M,) float64, two-sided and exact, that a flat boundary at that distance gives as many or few errors.
        p_value: of all inputs together (Fisher).
        factor: the multiple of the distances found at which flat boundaries best explain the errors: 1 under the
            relation; infinite without an error.
        interval: of the factor, over inputs.
        draws: noisy copies of each input.
        sigma: standard deviation of each entry of the noise.
        confidence: of the interval.
    """

    rows: Tensor
    distance: Tensor
    errors: Tensor
    p_values: Tensor
    p_value: float
    factor: float
    interval: tuple[float, float]
    draws: int
    sigma: float
    confidence: float

    def verdict(self, within: float = EQUIVALENT) -> str:
        """Whether the factor lies between ``1 / within`` and ``within``: holds, does not hold, or undecided."""
        return verdict_of(self.interval, low=1 / within, high=within)

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per input that counts, by its place."""
        import pandas as pd

        columns = {"label": self.label, "distance": self.distance, "errors": self.errors, "p_value": self.p_values}
        index = pd.Index(self.rows.cpu().numpy(), name="row")
        return pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()}, index=index)

    def sentences(self) -> list[str]:
        """The factor and the verdict, in words."""
        low, high = self.interval
        about = f"over {len(self.rows)} inputs under noise of sigma {self.sigma:g}"
        factor = f"{self.factor:.3g} [{low:.3g}, {high:.3g}] times the distances found"
        return [
            f"errors under noise are those of flat boundaries at {factor}, {about}",
            f"that both tell the same distance, up to a factor of {EQUIVALENT:g}: {self.verdict()}",
        ]

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the share of errors of each input against its distance, with the law of flat boundaries."""
        ax = checks.axes(ax)
        distance = self.distance.cpu().numpy()
        ax.plot(distance, self.errors.cpu().numpy() / self.draws, "o", markersize=3, label="inputs")
        places = np.linspace(0, float(distance.max()), 100)
        ax.plot(places, special.ndtr(-places / self.sigma), color="#b8790b", label="flat boundary")
        if math.isfinite(self.factor):
            fitted = special.ndtr(-self.factor * places / self.sigma)
            ax.plot(places, fitted, "--", label=f"flat at {self.factor:.2f} times the distance")
        ax.set(xlabel="distance of the nearest error found (l2)", ylabel=f"errors under noise of sigma {self.sigma:g}")
        return ax


@isolated
def noise_error_relation(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    sigma: float,
    draws: int = 1000,
    distance: Tensor | None = None,
    confidence: float = 0.95,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> NoiseErrorRelation:
    r"""Test whether errors under noise are those of flat boundaries at the distance of the nearest error.

    If the errors fill a half-space at distance r, noise errs with probability :math:`\Phi(-r / \sigma)`. This is the
    relation by which adversarial examples would be no more than the errors under noise seen from nearby. A common
    factor of all distances is fitted by maximum likelihood; its interval is Student's, from the variance of scores over
    inputs. Noise and search know no box. Distances found are upper bounds, so the factor is rather too small.

    Args:
        model: maps (N, *D) to logits (N, K), differentiable.
        x: (N, *D), floating and finite.
        labels: (N,) correct classes; inputs on which the model is wrong do not count.
        sigma: standard deviation of each entry of the noise, in units of the input.
        draws: noisy copies of each input.
        distance: (N,) l_2 distances of nearest errors without a box, infinite where none is known;
            :func:`certify.attacks.minimal_perturbation` if None.
        confidence: of the interval.
        batch_size: inputs per pass.
        generator: source of the noise and of the attack's starts.

    Raises:
        InvalidInput: a bad argument; fewer than two inputs that count.
        InvalidModel: see :func:`certify.models.probe`.

    References:
        Ford, Gilmer, Carlini, Cubuk (2019), Adversarial examples are a natural consequence of test error in noise,
        arXiv:1901.10513, section 4; Liang, Zeger (1986), Biometrika 73, for the variance.
    """
    checks.inputs(x)
    checks.probability("confidence", confidence)
    size = checks.positive("sigma", sigma) * math.sqrt(x[0].numel() if len(x) else 1)
    options: dict[str, Any] = {"low": None, "high": None, "batch_size": batch_size, "generator": generator}
    noisy = noise_accuracy(model, x, labels, norm=2, epsilon=size, draws=draws, distribution="gaussian", **options)
    if distance is None:
        distance = minimal_perturbation(model, x, labels, norm=2, **options).distance
    distance = checks.rows("distance", distance, len(x)).to(x.device, torch.float64)
    label = labels.to(x.device)
    rows = ((noisy.label == label) & (distance > 0) & distance.isfinite()).nonzero().flatten()
    if len(rows) < 2:
        raise InvalidInput(f"x must hold at least 2 inputs that count, got {len(rows)}: right, with an error found")
    distance, errors = distance[rows], draws - noisy.correct[rows]
    flat = torch.from_numpy(_flat_p_values(errors.cpu().numpy(), draws, distance.cpu().numpy() / sigma)).to(x.device)
    factor, interval = fitted_factor(errors, draws, distance / sigma, confidence)
    return NoiseErrorRelation(
        label=label[rows],
        rows=rows,
        distance=distance,
        errors=errors,
        p_values=flat,
        p_value=fisher_p_value(flat),
        factor=factor,
        interval=interval,
        draws=draws,
        sigma=float(sigma),
        confidence=confidence,
    )


def _flat_p_values(errors: FloatArray, draws: int, scaled: FloatArray) -> FloatArray:
    """Two-sided binomial p-values (M,) of errors against flat boundaries at distances in units of sigma."""
    rate = special.ndtr(-scaled)
    below, above = special.bdtr(errors, draws, rate), special.bdtrc(errors - 1, draws, rate)
    tails = np.minimum(below, np.where(errors > 0, above, 1.0))
    return np.asarray(np.minimum(1.0, 2 * tails))


def fitted_factor(errors: Tensor, draws: int, scaled: Tensor, confidence: float) -> tuple[float, tuple[float, float]]:
    """Factor c for which errors (M,) are best explained by probabilities Phi(-c z), and its interval over inputs.

    The likelihood is concave in c. Without any error the factor is infinite, and the interval begins where as little
    had the probability ``(1 - confidence) / 2``; likewise with errors alone.
    """
    e, z = (part.cpu().double().numpy() for part in (errors, scaled))
    tail = (1 - confidence) / 2
    if e.sum() in (0, len(e) * draws):
        sign = 1.0 if e.sum() == 0 else -1.0

        def surprise(c: float) -> float:
            return float(-draws * special.log_ndtr(c * z).sum() + math.log(tail))

        end = _root(surprise, z)
        return sign * math.inf, (end, math.inf) if sign > 0 else (-math.inf, -end)
    factor = _root(lambda c: float(_scores(c, e, draws, z)[0].sum()), z)
    scores, information = _scores(factor, e, draws, z)
    count = len(e)
    error = math.sqrt(float((scores**2).sum()) * count / (count - 1)) / float(information.sum())
    reach = float(special.stdtrit(count - 1, 1 - tail)) * error
    return factor, (factor - reach, factor + reach)


def _scores(c: float, errors: FloatArray, draws: int, z: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Derivative (M,) of the log likelihood of each input in the factor, and its expected information (M,)."""
    log_density = -0.5 * (c * z) ** 2 - 0.5 * math.log(2 * math.pi)
    # Ratios of density to tail, by logarithms: both vanish far out.
    to_error, to_right = (np.exp(log_density - special.log_ndtr(side)) for side in (-c * z, c * z))
    return z * ((draws - errors) * to_right - errors * to_error), draws * z**2 * to_error * to_right


def _root(falling: Callable[[float], float], z: FloatArray) -> float:
    """Zero of a falling function of the factor, by bisection."""
    reach = 40.0 / float(z.max())
    low, high = -reach, reach
    while falling(low) < 0 and low > -1e6 * reach:
        low *= 2
    while falling(high) > 0 and high < 1e6 * reach:
        high *= 2
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2
