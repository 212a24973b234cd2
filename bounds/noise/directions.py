"""Directions against chance: alignment of pairs of directions, and the dimension that normals of a boundary fill."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from scipy import special
from torch import Tensor

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import InvalidInput

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

PART = 2**22  # random numbers that are held together
LEAST = 1e-300  # p-value that is stated
ENERGY = 0.9
RELATIVE_NOTHING = 1e-12  # energy that rounding leaves where components explain all


@dataclass(frozen=True, eq=False, kw_only=True)
class Alignment:
    """Cosines between pairs of directions, against those of independent random ones.

    Attributes:
        rows: (M,) int64, the inputs that count: both directions have a length.
        cosine: (M,) float64.
        projection: (M,) float64, absolute length of the second direction along the first: with gradients first and
            inputs second, the alignment of Etmann et al.
        p_values: (M,) float64, probability of a cosine as far from 0 by chance.
        mean: mean cosine.
        interval: Student's interval of the mean over inputs; NaN for one input.
        chance: mean size of the cosine of independent uniform directions.
        p_value: of all inputs together (Fisher), where at least one direction of each pair is uniform and independent
            of all others.
        features: D.
        confidence: of the interval.
    """

    rows: Tensor
    cosine: Tensor
    projection: Tensor
    p_values: Tensor
    mean: float
    interval: tuple[float, float]
    chance: float
    p_value: float
    features: int
    confidence: float

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per input that counts, by its index."""
        import pandas as pd

        names = ("cosine", "projection", "p_values")
        columns = {name.removesuffix("s"): getattr(self, name).cpu().numpy() for name in names}
        return pd.DataFrame(columns, index=pd.Index(self.rows.cpu().numpy(), name="row"))

    def sentences(self) -> list[str]:
        """The mean cosine and what chance gives, in words."""
        low, high = self.interval
        about = f"over {len(self.rows)} inputs; random directions have a cosine of about {self.chance:.2g} in size"
        return [f"mean cosine {self.mean:.3g} [{low:.3g}, {high:.3g}] {about} (p = {self.p_value:.2g})"]

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the cosines as a histogram, with their mean, its interval, and the range of chance."""
        ax, (low, high) = checks.axes(ax), self.interval
        reach = math.sqrt(float(special.betaincinv(0.5, (self.features - 1) / 2, self.confidence)))
        ax.hist(self.cosine.cpu().numpy(), bins=30, range=(-1, 1), color="#8b949e")
        ax.axvspan(-reach, reach, color="#e69f00", alpha=0.3, label="chance")
        if low <= high:
            ax.axvspan(low, high, color="#0072b2", alpha=0.3)
        ax.axvline(self.mean, color="#0072b2", label="mean, with its interval")
        ax.set(xlabel="cosine", ylabel="inputs", xlim=(-1, 1))
        return ax


@isolated
def alignment(first: Tensor, second: Tensor, *, confidence: float = 0.95) -> Alignment:
    r"""Measure how far pairs of directions point the same way, beyond chance.

    Such as loss gradients and minimal perturbations, or gradients of the predicted logit and inputs. For a uniform
    direction and any other one, the squared cosine follows :math:`\mathrm{Beta}(1/2, (D - 1)/2)`. Pairs with a
    direction of length 0 are left out.

    Args:
        first: (N, *D) directions of any length.
        second: (N, *D), the other of each pair.
        confidence: of the interval.

    Raises:
        InvalidInput: a bad argument, inputs of a single entry, no pair that counts.

    References:
        Muirhead (1982), Aspects of multivariate statistical theory, theorem 1.5.7, for the law; Etmann, Lunz, Maass,
        Schönlieb (2019), On the connection between adversarial robustness and saliency map interpretability,
        arXiv:1905.04172, for the projection.

    >>> g = torch.tensor([[3.0, 4.0, 0.0]])
    >>> alignment(g, torch.tensor([[1.0, 0.0, 0.0]])).mean
    0.6
    """
    checks.probability("confidence", confidence)
    one, two = (flat_directions(name, value) for name, value in (("first", first), ("second", second)))
    if one.shape != two.shape or first.shape != second.shape:
        raise InvalidInput(f"second must have the shape of first, {tuple(first.shape)}, got {tuple(second.shape)}")
    features = checks.at_least("entries of an input", one.shape[1], 2)
    (one, size), (two, length) = unit_vectors(one), unit_vectors(two.to(one.device))
    rows = ((size > 0) & (length > 0)).nonzero().flatten()
    if len(rows) == 0:
        raise InvalidInput("first and second must hold a pair of directions of a length above 0")
    cosine = (one[rows] * two[rows]).sum(1).clamp(-1, 1)
    tails = special.betaincc(0.5, (features - 1) / 2, cosine.square().cpu().numpy())
    p_values = torch.from_numpy(tails).to(one.device)
    return Alignment(
        rows=rows,
        cosine=cosine,
        projection=(cosine * length[rows]).abs(),
        p_values=p_values,
        mean=float(cosine.mean()),
        interval=student_interval(cosine, confidence),
        chance=math.exp(special.gammaln(features / 2) - special.gammaln((features + 1) / 2)) / math.sqrt(math.pi),
        p_value=fisher_p_value(p_values),
        features=features,
        confidence=confidence,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class NormalRank:
    """Number of dimensions that normals fill, against uniform directions.

    Attributes:
        singular_values: (R,) float64, of the unit normals, from large to small; their squares sum to N.
        chance: (R,) float64, the medians of those of uniform directions.
        p_values: (S,) float64, of the tests in turn: that what the components before leave is no uniform direction.
        rank: components found, up to the first p-value above ``alpha``.
        dimension: one over the mean squared cosine of two normals: k for uniform directions of k dimensions, D by
            chance.
        dimension_interval: its confidence interval over inputs, by the jackknife; infinite on the right where the mean
            squared cosine is not known to be above 0.
        energy_dimension: leading components that hold 90 % of the energy.
        energy_chance: interval of as many for uniform directions, of probability ``1 - alpha``.
        features: D.
        alpha: of the tests and the intervals.
    """

    singular_values: Tensor
    chance: Tensor
    p_values: Tensor
    rank: int
    dimension: float
    dimension_interval: tuple[float, float]
    energy_dimension: int
    energy_chance: tuple[int, int]
    features: int
    alpha: float

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per component."""
        import pandas as pd

        columns = {"singular_value": self.singular_values, "chance": self.chance}
        table = pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})
        table["p_value"] = pd.Series(self.p_values.cpu().numpy())
        return table

    def sentences(self) -> list[str]:
        """The dimension, the rank and the energy, in words."""
        low, high = self.dimension_interval
        return [
            f"normals fill about {self.dimension:.3g} of {self.features} dimensions [{low:.3g}, {high:.3g}]",
            f"{self.rank} common directions were found, each at level {self.alpha:g}",
            f"{self.energy_dimension} directions hold {ENERGY:.0%} of the energy; of as many random normals it takes "
            f"{self.energy_chance[0]} to {self.energy_chance[1]}",
        ]

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the energies of components, and those of random directions."""
        ax, places = checks.axes(ax), range(1, len(self.singular_values) + 1)
        for values, name, style in ((self.singular_values, "found", "o-"), (self.chance, "chance", "s--")):
            color = "#0072b2" if name == "found" else "#b8790b"
            ax.plot(places, values.square().cpu().numpy(), style, color=color, markersize=3, label=name)
        ax.set(xlabel="component", ylabel="energy, in normals", yscale="log")
        return ax


@isolated
def normal_rank(
    perturbations: Tensor,
    *,
    alpha: float = 0.05,
    draws: int = 99,
    largest: int = 50,
    generator: torch.Generator | None = None,
) -> NormalRank:
    """Test how many dimensions the normals of a boundary have in common: parallel analysis on unit vectors.

    The largest squared singular value, as a share of all that is left, is compared with that of random directions.
    For the first component these are uniform, and the test has exactly its level. For a later one they are what the
    components before explain of each normal, and a uniform direction for the rest, of the length that is left. So the
    rank exceeds the number of common directions with a probability of about ``alpha`` at most.

    Args:
        perturbations: (N, *D) minimal perturbations or other normals, of at least 3 inputs.
        alpha: level of each test, and of the intervals.
        draws: random sets of directions of each test; the least p-value is 1 / (draws + 1).
        largest: components that are tested at most.
        generator: source of the directions.

    Raises:
        InvalidInput: a bad argument, a normal of length 0, draws that allow no p-value of at most ``alpha``.

    References:
        Horn (1965), A rationale and test for the number of factors in factor analysis, Psychometrika 30;
        Moosavi-Dezfooli, Fawzi, Fawzi, Frossard (2017), Universal adversarial perturbations, arXiv:1610.08401, section
        5, for the question.
    """
    checks.probability("alpha", alpha)
    flat = flat_directions("perturbations", perturbations)
    checks.at_least("rows of perturbations", len(flat), 3)
    checks.at_least("entries of an input", flat.shape[1], 2)
    checks.at_least("largest", largest, 1)
    checks.at_least("draws for this alpha", draws, math.ceil(1 / alpha - 1))
    source = checks.generator(generator, flat.device)
    units, length = unit_vectors(flat)
    if not (length > 0).all():
        raise InvalidInput("perturbations must be of a length above 0: leave out inputs without a boundary point")
    values = torch.linalg.svdvals(units)
    uniform = _random_energies(torch.zeros_like(units), None, torch.ones_like(length), draws, source)
    p_values = _tests_in_turn(units, values.square(), uniform, alpha, largest, source)
    rank = next((k for k, p in enumerate(p_values) if p > alpha), len(p_values))
    dimension, interval = _dimension(units, alpha)
    sides = torch.tensor([alpha / 2, 1 - alpha / 2], dtype=torch.float64, device=flat.device)
    reached = _energy_dimension(uniform).double().quantile(sides)
    return NormalRank(
        singular_values=values,
        chance=uniform.median(0).values.sqrt(),
        p_values=torch.tensor(p_values, dtype=torch.float64, device=flat.device),
        rank=rank,
        dimension=dimension,
        dimension_interval=interval,
        energy_dimension=int(_energy_dimension(values.square())),
        energy_chance=(math.floor(reached[0]), math.ceil(reached[1])),
        features=flat.shape[1],
        alpha=alpha,
    )


def student_interval(values: Tensor, confidence: float) -> tuple[float, float]:
    """Student's interval of the mean of independent values (M,); NaN for a single one."""
    count, mean = len(values), float(values.mean())
    half = math.nan
    if count > 1:
        half = float(special.stdtrit(count - 1, (1 + confidence) / 2)) * float(values.std()) / math.sqrt(count)
    return mean - half, mean + half


def fisher_p_value(p_values: Tensor) -> float:
    """P-value of independent ones (M,) together, by Fisher's method."""
    return max(float(special.gammaincc(len(p_values), -float(p_values.clamp(min=LEAST).log().sum()))), LEAST)


def flat_directions(name: str, value: Tensor) -> Tensor:
    """Directions (N, F) in float64; they must be finite."""
    checks.inputs(checks.tensor(name, value).detach())
    return value.detach().flatten(1).double()


def unit_vectors(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors (N, F) and lengths (N,); zeros stay zeros."""
    largest = flat.abs().amax(1, keepdim=True)  # squares must not leave the range of float64
    scaled = flat / largest.where(largest > 0, 1.0)
    size = scaled.norm(dim=1, keepdim=True)
    return scaled / size.where(size > 0, 1.0), (size * largest).flatten()


def _tests_in_turn(
    units: Tensor, energies: Tensor, uniform: Tensor, alpha: float, largest: int, source: torch.Generator | None
) -> list[float]:
    """P-values of the components, up to the first above ``alpha``; those of uniform directions are drawn already."""
    p_values = [_p_value(energies, uniform, 0)]
    turns = range(1, min(largest, len(energies) - 1))
    for k in turns if p_values[0] <= alpha else ():
        p_values.append(_p_value(energies, _random_remainders(units, k, len(uniform), source), k))
        if p_values[-1] > alpha:
            break
    return p_values


def _p_value(energies: Tensor, drawn: Tensor, k: int) -> float:
    """Share of draws (S, R) whose component k holds as much of what is left as that of the energies (R,)."""
    found, by_chance = (part[..., k] / part[..., k:].sum(-1).clamp(min=1e-300) for part in (energies, drawn))
    if float(energies[k:].sum()) <= RELATIVE_NOTHING * float(energies.sum()):
        return 1.0
    return (1 + int((by_chance >= found).sum())) / (len(drawn) + 1)


def _random_remainders(units: Tensor, k: int, draws: int, source: torch.Generator | None) -> Tensor:
    """Energies (S, R) of sets that keep the leading k components of the units, with random directions for the rest."""
    left, values, right = torch.linalg.svd(units, full_matrices=False)
    kept = (left[:, :k] * values[:k]) @ right[:k]
    # The components also explain noise by chance. With noise of squared lengths s in each row, what they leave has
    # squared lengths of mean B s, B the squared entries of the projection onto what is left (Hartley, Rao, Kiefer).
    remainder = (1 - kept.square().sum(1)).clamp(min=0)
    projection = torch.eye(len(units), dtype=units.dtype, device=units.device) - left[:, :k] @ left[:, :k].T
    rest = torch.minimum((torch.linalg.pinv(projection.square()) @ remainder).clamp(max=1), 4 * remainder)
    rest = torch.maximum(rest, remainder).sqrt()
    return _random_energies(kept, right[:k], rest, draws, source)


def _random_energies(
    kept: Tensor, basis: Tensor | None, rest: Tensor, draws: int, source: torch.Generator | None
) -> Tensor:
    """Squared singular values (S, R) of ``kept`` (N, F) plus uniform directions of lengths ``rest`` outside a basis."""
    count, features = kept.shape
    found = []
    for some in torch.arange(draws, device=kept.device).split(max(1, PART // kept.numel())):
        noise = torch.randn(len(some), count, features, dtype=kept.dtype, device=kept.device, generator=source)
        if basis is not None:
            noise = noise - (noise @ basis.T) @ basis
        whole = kept + noise / noise.norm(dim=2, keepdim=True).clamp(min=1e-300) * rest[:, None]
        products = whole @ whole.mT if count <= features else whole.mT @ whole
        found.append(torch.linalg.eigvalsh(products).flip(1).clamp(min=0))
    return torch.cat(found)


def _energy_dimension(energies: Tensor) -> Tensor:
    """Leading components that hold 90 % of the energy, of energies (*, R)."""
    shares = energies.cumsum(-1) / energies.sum(-1, keepdim=True)
    return (shares < ENERGY).sum(-1) + 1


def _dimension(units: Tensor, alpha: float) -> tuple[float, tuple[float, float]]:
    """One over the mean squared cosine of two rows, and its interval by the jackknife over rows."""
    count = len(units)
    squares = (units @ units.T).square().fill_diagonal_(0)
    total = squares.sum()
    mean = float(total / (count * (count - 1)))
    without = (total - 2 * squares.sum(1)) / ((count - 1) * (count - 2))
    error = float((without - without.mean()).square().sum() * (count - 1) / count) ** 0.5
    reach = float(special.stdtrit(count - 1, 1 - alpha / 2)) * error
    low, high = mean + reach, mean - reach
    return 1 / mean if mean > 0 else math.inf, (1 / low if low > 0 else math.inf, 1 / high if high > 0 else math.inf)
