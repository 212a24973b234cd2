"""Statements about a whole data set, from one certificate per input.

Each row of a smoothing certificate is wrong with probability at most alpha. Among many rows some may be wrong, so the
share of certified rows is no lower bound of the share of robust rows; :func:`certified_accuracy_at_least` gives one. A
row is right or wrong as a whole: where it is right, the classifier keeps its label within the row's radius and hence
within every smaller one. So a bound on the number of wrong rows corrects all radii at once.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from bounds import checks, clopper_pearson_interval, clopper_pearson_lower
from bounds.errors import InvalidInput
from bounds.numerics import BETA_FUNCTION_ERROR, round_down
from certify.curves import CertifiedAccuracyCurve
from certify.results import Certificate

if TYPE_CHECKING:
    import pandas as pd

Radii = float | Sequence[float] | Tensor


# ------------------------------------------------------------------------------------------- corrected accuracy


@dataclass(frozen=True, eq=False, kw_only=True)
class CertifiedAccuracyStatement:
    """Statement about a whole data set that its certificates prove; ``str()`` gives it in words.

    Attributes:
        radius: the radii asked about, in units of the input.
        accuracy: float64 like ``radius``, certified accuracy as counted: the share of rows certified.
        lower: float64 like ``radius``, lower bound of the share of these inputs on which the classifier is right and
            keeps its class within the radius; all radii hold at once with probability at least ``confidence``.
        population_lower: float64 like ``radius``, lower bound of the same share in the distribution that the inputs
            were drawn from, independently; each radius by itself holds with probability at least ``confidence``.
        wrong: number of rows that may be wrong, subtracted in ``lower``.
        inputs: number of inputs.
        confidence: probability, over the noise (and the inputs for ``population_lower``), that the bound holds.
        norm: order of the norm.
        subject: the classifier, ``"base"`` or ``"smoothed(...)"``.
    """

    radius: Tensor
    accuracy: Tensor
    lower: Tensor
    population_lower: Tensor
    wrong: int
    inputs: int
    confidence: float
    norm: float
    subject: str

    def __str__(self) -> str:
        columns = (self.radius, self.lower, self.population_lower)
        lines = [f"{self.subject}, l{self.norm:g} norm, confidence {self.confidence:g}:"]
        for radius, lower, population in zip(*(column.flatten().tolist() for column in columns), strict=True):
            share = Decimal(population).quantize(Decimal("0.0001"), ROUND_FLOOR)
            lines.append(
                f"  right and robust within {radius:g}: at least {round(lower * self.inputs)} of these {self.inputs} "
                f"inputs; at least {share} of the inputs of their distribution"
            )
        return "\n".join(lines)

    def to_dataframe(self) -> "pd.DataFrame":
        """Columns radius, accuracy, lower, population_lower, confidence; one row per radius."""
        import pandas as pd

        names = ("radius", "accuracy", "lower", "population_lower")
        columns = {name: getattr(self, name).flatten().cpu().numpy() for name in names}
        return pd.DataFrame(columns | {"confidence": self.confidence})


def certified_accuracy_at_least(
    certificate: Certificate, labels: Tensor, radius: Radii, confidence: float = 0.999
) -> CertifiedAccuracyStatement:
    """Certified accuracy that holds for the whole data set, corrected for certificates that may be wrong.

    Of the rows certified at a radius, all but the wrong ones are right and robust there, so their number less
    :func:`wrong_certificates_at_most` is a lower bound, at all radii at once. For the distribution of the inputs: a
    row that is not robust is certified with probability at most alpha, so the probability q that a row is certified
    is at most s + (1 - s) alpha for a share s of robust inputs, and s >= (q_lower - alpha) / (1 - alpha) with the
    exact lower bound of q. Rows that share noise are not independent given that share; there the two errors, of
    certificates and of drawing inputs, get half of 1 - confidence each.

    Args:
        certificate: certificates of N >= 1 inputs; alpha = 0, a proof, needs no correction.
        labels: (N,) correct classes.
        radius: one or several, at least 0, in units of the input.
        confidence: probability with which each bound holds.

    Raises:
        InvalidInput: no rows, labels of another shape, a radius below 0, confidence outside (0, 1).

    References:
        Cohen et al. (2019) approximate the quantile by Bernstein's inequality; this one is exact.

    >>> certificate = Certificate(
    ...     label=torch.zeros(500), radius=torch.ones(500), abstained=torch.zeros(500, dtype=torch.bool),
    ...     norm=2.0, alpha=0.001, subject="smoothed(gaussian(sigma=0.5))", method="smoothing")
    >>> print(certified_accuracy_at_least(certificate, torch.zeros(500), 0.5))
    smoothed(gaussian(sigma=0.5)), l2 norm, confidence 0.999:
      right and robust within 0.5: at least 496 of these 500 inputs; at least 0.9862 of the inputs of their distribution
    """
    risk = 1 - checks.probability("confidence", confidence)
    curve = CertifiedAccuracyCurve.from_certificate(checked(certificate), labels)
    counts, inputs, alpha = curve.counts(radius), len(certificate), certificate.alpha
    wrong = wrong_with_risk(certificate, risk)
    if _noise_positions(certificate).size == 1:
        share = round_down((clopper_pearson_lower(counts, inputs, alpha=risk) - alpha) / (1 - alpha))
    else:
        surely = counts - wrong_with_risk(certificate, risk / 2)
        share = clopper_pearson_lower(surely.clamp(min=0), inputs, alpha=risk / 2)
    return CertifiedAccuracyStatement(
        radius=torch.as_tensor(radius, dtype=torch.float64, device=counts.device),
        accuracy=curve.at(radius),
        # Rounding to nearest is monotone, so this is at most the share of robust inputs computed in the same way.
        lower=(counts - wrong).clamp(min=0).double() / inputs,
        population_lower=share.clamp(min=0.0),
        wrong=wrong,
        inputs=inputs,
        confidence=confidence,
        norm=certificate.norm,
        subject=certificate.subject,
    )


def checked(certificate: Certificate) -> Certificate:
    """The certificate; InvalidInput for anything else."""
    if not isinstance(certificate, Certificate):
        raise InvalidInput(f"certificate must be a Certificate, such as certify returns, got {certificate!r:.80}")
    return certificate


def wrong_certificates_at_most(certificate: Certificate, confidence: float = 0.999) -> int:
    r"""Number of wrong rows that is not exceeded with probability at least ``confidence``.

    Independent rows, each wrong with probability at most alpha, have at most Binomial(N, alpha) wrong ones in the
    usual stochastic order, so the quantile of that distribution holds. Rows of a record without ``noise_group``,
    such as a log, are taken as independent; other rows as those of consecutive inputs, as ``certify`` returns them.

    Rows that share noise (``noise_group`` above 1) may be wrong together. Rows in the same position of their groups
    are independent, so the number wrong is :math:`S = \sum_j S_j` over k positions, each :math:`S_j` at most a
    binomial :math:`X_j` of its rows, dependent on each other in unknown ways. The smaller of two bounds holds. One
    is the union bound, the sum of the quantiles of the :math:`X_j` at r / k, with r = 1 - confidence. The other: for
    any :math:`s_j` of sum s and t > s, :math:`P(S \ge t) \le E(S - s)^+ / (t - s) \le
    \sum_j E(X_j - s_j)^+ / (t - s)`, which is r at :math:`t = \sum_j s_j + E(X_j - s_j)^+ / r`; the best
    :math:`s_j` make t the sum of the expected shortfalls of the :math:`X_j`.

    Raises:
        InvalidInput: confidence outside (0, 1).

    References:
        Rockafellar, Uryasev (2000), Optimization of conditional value-at-risk, Theorem 1, for the shortfall.
    """
    return wrong_with_risk(certificate, 1 - checks.probability("confidence", confidence))


def wrong_with_risk(certificate: Certificate, risk: float) -> int:
    """Number of wrong rows that is exceeded with probability at most ``risk``."""
    if checked(certificate).alpha == 0 or len(certificate) == 0:
        return 0
    positions, alpha = _noise_positions(certificate), certificate.alpha
    sizes, repeats = np.unique(positions, return_counts=True)
    quantiles = [_binomial_quantile(int(size), alpha, risk / positions.size) for size in sizes]
    shortfalls = [_binomial_shortfall(int(size), alpha, risk) for size in sizes]
    union, t = int(np.dot(quantiles, repeats)), float(np.dot(shortfalls, repeats))
    # Lifting t also covers t = s, an integer that S never exceeds.
    return min(union, math.ceil(t * (1 + BETA_FUNCTION_ERROR)) - 1, len(certificate))


def _noise_positions(certificate: Certificate) -> NDArray[np.int64]:
    """Number of rows in each position of the groups that share noise; one number where all are independent.

    Wherever the first group begins: of consecutive inputs, those a multiple of the group apart share none.
    """
    rows = np.arange(len(certificate)) % getattr(certificate, "noise_group", 1)
    return np.unique(rows, return_counts=True)[1].astype(np.int64)


def _binomial_tails(trials: int, p: float) -> NDArray[np.float64]:
    """P(X > k) for k = 0, ..., trials, rounded up."""
    k = np.arange(trials, dtype=np.float64)
    return np.append(special.betainc(k + 1, trials - k, p) * (1 + BETA_FUNCTION_ERROR), 0.0)


def _binomial_quantile(trials: int, p: float, risk: float) -> int:
    """Smallest k with P(X > k) <= risk."""
    return int(np.argmax(_binomial_tails(trials, p) <= risk))


def _binomial_shortfall(trials: int, p: float, risk: float) -> float:
    """Smallest s + E(X - s)^+ / risk over integers s, for X ~ Binomial(trials, p)."""
    excess = np.cumsum(_binomial_tails(trials, p)[::-1])[::-1]  # E(X - s)^+, the sum of P(X > k) over k >= s
    return float((np.arange(trials + 1) + excess / risk).min())


# ------------------------------------------------------------------------------------------------- summaries of radii


def average_certified_radius(certificate: Certificate, labels: Tensor) -> float:
    """Mean over all inputs of the certified radius, with 0 for inputs that are wrong or abstained (ACR).

    It is not corrected for certificates that may be wrong. A few easy inputs can raise it much, while
    hard ones lose: read it together with :func:`certified_quantiles`.

    Raises:
        InvalidInput: no rows, labels of another shape.

    References:
        Zhai et al. (2020), MACER, arXiv:2001.02378; its defects: Sun et al. (2025), Average certified radius is a
        poor metric for randomized smoothing.
    """
    return float(CertifiedAccuracyCurve.from_certificate(checked(certificate), labels).limit.clamp(min=0.0).mean())


def certified_quantiles(
    certificate: Certificate, labels: Tensor, shares: Sequence[float] = (0.1, 0.25, 0.5, 0.75, 0.9)
) -> "pd.DataFrame":
    """Largest radius, and probability ``p_lower`` where known, that at least each share of the inputs reaches.

    The inverse of certified accuracy: columns share, radius and p_lower, where only inputs that are classified
    correctly count; NaN where fewer than that share are. As counted, like :func:`average_certified_radius`.

    Raises:
        InvalidInput: no rows, labels of another shape, a share outside (0, 1).
    """
    import pandas as pd

    limit = CertifiedAccuracyCurve.from_certificate(checked(certificate), labels).limit
    shares = checks.several("shares", shares)
    columns = {"radius": limit}
    if (p_lower := getattr(certificate, "p_lower", None)) is not None:
        columns["p_lower"] = torch.where(limit >= 0, p_lower, -math.inf)
    # A share times N that should be an integer may come out a little above it.
    ranks = [math.ceil(round(checks.probability("share", share) * len(limit), 9)) - 1 for share in shares]
    table = {"share": torch.tensor(shares, dtype=torch.float64, device="cpu")}
    for name, values in columns.items():
        reached = values.sort(descending=True).values[ranks]
        table[name] = torch.where(reached >= 0, reached, math.nan).cpu()
    return pd.DataFrame({name: values.numpy() for name, values in table.items()})


class AbstentionRate(NamedTuple):
    """Share of inputs without a statement, and the exact interval for it in the distribution of the inputs."""

    rate: float
    lower: float
    upper: float
    confidence: float


def abstention_rate(certificate: Certificate, confidence: float = 0.95) -> AbstentionRate:
    """Share of rows that abstain, with its Clopper-Pearson interval.

    The interval holds for inputs that were drawn independently, with the same n and alpha.

    Raises:
        InvalidInput: no rows; rows that share noise, which are not independent; confidence outside (0, 1).
    """
    if len(checked(certificate)) == 0 or _noise_positions(certificate).size > 1:
        raise InvalidInput(
            f"certificate must have independent rows and at least one, got {len(certificate)} rows with "
            f"noise_group={getattr(certificate, 'noise_group', 1)}: certify with noise_group=1"
        )
    counts = certificate.abstained.sum()
    lower, upper = clopper_pearson_interval(counts, len(certificate), confidence=confidence)
    return AbstentionRate(float(counts) / len(certificate), float(lower), float(upper), confidence)


def certificate_table(
    certificates: Mapping[str, Certificate], labels: Tensor, radii: Sequence[float] = (0.0,), confidence: float = 0.999
) -> "pd.DataFrame":
    """Table with one row per certificate of the same inputs: figures as papers report them, and corrected ones.

    Columns: inputs, alpha, abstained (share), acr, median_radius (of the correct rows, the lower of two middle ones),
    and for each radius r the certified accuracy as counted, ``accuracy@r``, and corrected, ``at_least@r``. Each row
    holds with probability at least ``confidence`` by itself; to choose the best one, use
    :class:`~certify.smoothing.CertifiedAccuracyEnvelope`.

    Args:
        certificates: by name, each of the same N inputs.
        labels: (N,) correct classes.
        radii: in units of the input.
        confidence: see :func:`certified_accuracy_at_least`.

    Raises:
        InvalidInput: as :func:`certified_accuracy_at_least`.
    """
    import pandas as pd

    if not isinstance(certificates, Mapping) or not certificates:
        raise InvalidInput(f"certificates must be a mapping from names to at least one, got {certificates!r:.80}")
    rows, radii = [], checks.several("radii", radii)
    for certificate in certificates.values():
        statement = certified_accuracy_at_least(certificate, labels, list(radii), confidence)
        limit = CertifiedAccuracyCurve.from_certificate(certificate, labels).limit
        row = {
            "inputs": len(certificate),
            "alpha": certificate.alpha,
            "abstained": float(certificate.abstained.double().mean()),
            "acr": average_certified_radius(certificate, labels),
            "median_radius": float(limit[limit >= 0].median()) if (limit >= 0).any() else math.nan,
        }
        for i, radius in enumerate(radii):
            row[f"accuracy@{radius:g}"] = float(statement.accuracy[i])
            row[f"at_least@{radius:g}"] = float(statement.lower[i])
        rows.append(row)
    return pd.DataFrame(rows, index=pd.Index(list(certificates), name="certificate"))
