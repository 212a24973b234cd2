"""Distances between classes of data, the robust radii that allows, and certificates that reach across."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.memory import MEMORY
from bounds.sets.distances import distance
from bounds.sets.pairs import certainly_within, classes_of, pair_blocks
from bounds.statistics.proportions import clopper_pearson_interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


class Radii(Protocol):
    """Certified radii with their norm, such as a :class:`certify.Certificate`."""

    @property
    def radius(self) -> Tensor:
        """(N,) in units of the input."""

    @property
    def norm(self) -> float:
        """Order of the norm."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Separation:
    """Least distances between inputs of different classes.

    Distances are float64 in units of the input, rounded up by some units in the last place.

    Attributes:
        classes: (K,) int64, from low to high.
        distance: (K, K), the least distance between inputs of two classes; infinite on the diagonal.
        pairs: (K, K, 2) int64, the inputs at that distance, that of the first class first; -1 on the diagonal.
        label: (N,) int64, classes of the inputs.
        nearest: (N,), distance from each input to the nearest one of another class.
        other: (N,) int64, that input.
        norm: order of the norm.
    """

    classes: Tensor
    distance: Tensor
    pairs: Tensor
    label: Tensor
    nearest: Tensor
    other: Tensor
    norm: float

    @property
    def least(self) -> float:
        """The least distance between two inputs of different classes."""
        return float(self.distance.min())

    @property
    def radius(self) -> float:
        """Half of the least distance: at this radius, no classifier is right and robust at all inputs.

        The classifier by the nearest of these inputs is robust at every smaller radius, so nothing in the data stands
        against such robustness.
        """
        return self.least / 2

    @property
    def input_radius(self) -> Tensor:
        """(N,), half of the distance to the nearest input of another class: no classifier is robust at both with it."""
        return self.nearest / 2

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per pair of classes, from the nearest to the farthest."""
        import pandas as pd

        first, second = torch.triu_indices(len(self.classes), len(self.classes), 1, device=self.classes.device)
        columns = {
            "first_class": self.classes[first],
            "second_class": self.classes[second],
            "distance": self.distance[first, second],
            "radius": self.distance[first, second] / 2,
            "first_input": self.pairs[first, second, 0],
            "second_input": self.pairs[first, second, 1],
        }
        table = pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})
        return table.sort_values("distance", kind="stable", ignore_index=True)

    def sentences(self) -> list[str]:
        """The least distance, and the radius up to which it leaves room, in words."""
        about = f"inputs of different classes are at least {self.least:.4g} apart in l{self.norm:g}"
        return [f"{about}, so nothing in these inputs stands against robustness below {self.radius:.4g}"]

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the least distances between classes as a matrix."""
        ax, names = checks.axes(ax), [str(label) for label in self.classes.tolist()]
        drawn = ax.imshow(self.distance.masked_fill(self.distance.isinf(), math.nan).cpu().numpy(), cmap="viridis")
        ax.figure.colorbar(drawn, ax=ax, label=f"least distance (l{self.norm:g})")
        ax.set_xticks(range(len(names)), names)
        ax.set_yticks(range(len(names)), names)
        ax.set(xlabel="class", ylabel="class")
        return ax


@isolated
def separation(x: Tensor, y: Tensor, *, norm: float, memory: int = MEMORY) -> Separation:
    """Measure how far inputs of different classes are apart, and the robust radius that this allows.

    Two inputs of different classes at distance d share a perturbed input of size d / 2: no classifier is right and
    robust there at both. If all pairs are farther apart than 2 epsilon, a classifier that is right and robust within
    epsilon exists: that by the nearest of these inputs. So a failure at epsilon is not forced by the data. All pairs
    are compared. The statement is about these inputs; more of them are nearer to each other.

    Args:
        x: (N, *D) inputs.
        y: (N,) their classes, at least two different ones.
        norm: order of the norm, at least 1.
        memory: bytes that may be taken at once, besides the result.

    Raises:
        InvalidInput: a bad argument; inputs of a single class.

    References:
        Yang, Rashtchian, Zhang, Salakhutdinov, Chaudhuri (2020), A closer look at accuracy vs. robustness,
        arXiv:2003.02460, definition 1 and theorem 1.

    >>> x, y = torch.tensor([[0.0], [1.0], [4.0]]), torch.tensor([0, 0, 1])
    >>> separation(x, y, norm=2).radius
    1.5
    """
    checks.inputs(x)
    norm, label = checks.norm(norm), classes_of(y, x)
    checks.at_least("memory", memory, 1)
    classes, index = label.unique(return_inverse=True)
    if len(classes) < 2:
        raise InvalidInput(f"y must hold at least two classes, got {len(classes)}: there is nothing to separate")
    table, pairs, other = _nearest_pairs(x, index, len(classes), norm, memory)
    every = torch.arange(len(x), device=x.device)
    return Separation(
        classes=classes,
        distance=table,
        pairs=pairs,
        label=label,
        nearest=_exact(x, x, every, other, norm, memory),
        other=other,
        norm=norm,
    )


def _nearest_pairs(x: Tensor, index: Tensor, size: int, norm: float, memory: int) -> tuple[Tensor, Tensor, Tensor]:
    """Distances (K, K) and pairs (K, K, 2) of classes, and the nearest input of another class to each (N,)."""
    table = torch.full((size, size), math.inf, dtype=torch.float64, device=x.device)
    codes = torch.full((size, size), -1, device=x.device)  # of pairs, in one number, so that ties cannot mix
    nearest, other = _nothing_near(x)
    for rows, columns, apart in pair_blocks(x, None, norm, memory=memory):
        of_rows, of_columns = index[rows], index[columns]
        apart.masked_fill_(of_rows[:, None] == of_columns, math.inf)
        _update(nearest, other, rows, columns, apart)
        _update(nearest, other, columns, rows, apart.T)
        by_class = torch.full((len(rows), size), math.inf, dtype=torch.float64, device=x.device)
        by_class.scatter_reduce_(1, of_columns.expand_as(apart), apart, "amin")
        found = torch.full_like(table, math.inf).scatter_reduce_(
            0, of_rows[:, None].expand_as(by_class), by_class, "amin"
        )
        better = torch.where(found < table, found, -1.0)
        row, column = (apart == better[of_rows[:, None], of_columns]).nonzero(as_tuple=True)
        table[of_rows[row], of_columns[column]] = apart[row, column]
        codes[of_rows[row], of_columns[column]] = rows[row] * len(x) + columns[column]
    return *_of_class_pairs(x, table, codes, norm, memory), other


def _nothing_near(x: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (N,) and indices (N,) before any pair was seen."""
    infinite = torch.full((len(x),), math.inf, dtype=torch.float64, device=x.device)
    return infinite, torch.full((len(x),), -1, device=x.device)


def _update(nearest: Tensor, other: Tensor, rows: Tensor, columns: Tensor, apart: Tensor) -> None:
    """Replace what is known of the rows where a column is nearer."""
    value, place = apart.min(1)
    nearer = value < nearest[rows]
    nearest[rows] = torch.where(nearer, value, nearest[rows])
    other[rows] = torch.where(nearer, columns[place], other[rows])


def _of_class_pairs(x: Tensor, table: Tensor, codes: Tensor, norm: float, memory: int) -> tuple[Tensor, Tensor]:
    """Distances (K, K), rounded up, and pairs (K, K, 2), from what blocks on one side of the diagonal have seen."""
    first, second = torch.triu_indices(len(table), len(table), 1, device=x.device)
    mirrored = table[second, first] < table[first, second]
    code = torch.where(mirrored, codes[second, first], codes[first, second])
    row, column = torch.where(code < 0, -1, torch.stack([code // len(x), code % len(x)]))  # -1: too far for float64
    one, two = torch.where(mirrored, column, row), torch.where(mirrored, row, column)
    distances = torch.full_like(table, math.inf)
    pairs = torch.full((*table.shape, 2), -1, device=x.device)
    distances[first, second] = distances[second, first] = _exact(x, x, one, two, norm, memory)
    pairs[first, second], pairs[second, first] = torch.stack([one, two], 1), torch.stack([two, one], 1)
    return distances, pairs


def _exact(x: Tensor, others: Tensor, one: Tensor, two: Tensor, norm: float, memory: int) -> Tensor:
    """Distances (P,) of chosen pairs, rounded up, in parts; infinite where the second is -1."""
    at_once = max(1, memory // (64 * x[0].numel())) if len(x) else 1
    parts = zip(one.split(at_once), two.split(at_once), strict=True)
    found = [torch.where(b >= 0, distance(others[b], x[a], norm), math.inf) for a, b in parts]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64, device=x.device)


@dataclass(frozen=True, eq=False, kw_only=True)
class InvarianceCheck:
    """Certified radii against the distances to inputs of other classes.

    Attributes:
        label: (N,) int64, classes of the inputs.
        radius: (N,) float64, certified radii.
        nearest: (N,) float64, distance to the nearest input of another class, rounded up; infinite if there is none.
        other: (N,) int64, that input, an index into the reference inputs; -1 if there is none.
        reached: (N,) int64, inputs of other classes within the radius for certain.
        share: share of the inputs whose certificate reaches an input of another class.
        interval: Clopper-Pearson interval of that share, for inputs drawn independently of each other and of the
            reference inputs.
        confidence: of the interval.
        norm: order of the norm.
    """

    label: Tensor
    radius: Tensor
    nearest: Tensor
    other: Tensor
    reached: Tensor
    share: float
    interval: tuple[float, float]
    confidence: float
    norm: float

    @property
    def excessive(self) -> Tensor:
        """(N,) bool: certificates that hold an input of another class, so that the model is wrong at one of the two."""
        return self.reached > 0

    @property
    def pairs(self) -> Tensor:
        """(P, 2) int64: the inputs with such certificates, each with the nearest input of another class."""
        rows = self.excessive.nonzero().flatten()
        return torch.stack([rows, self.other[rows]], 1)

    @property
    def use(self) -> Tensor:
        """(N,) float64: radius over half of the distance to the nearest input of another class.

        Above 1, not both inputs of the pair can have such a certificate; from 2 on, the certificate is excessive.
        """
        return torch.where(self.radius > 0, self.radius / (self.nearest / 2), 0.0)

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per input."""
        import pandas as pd

        names = ("label", "radius", "nearest", "other", "reached", "use", "excessive")
        columns = {name: getattr(self, name).cpu().numpy() for name in names}
        return pd.DataFrame(columns, index=pd.RangeIndex(len(self.label), name="row"))

    def sentences(self) -> list[str]:
        """Number of certificates that reach an input of another class, in words."""
        low, high = self.interval
        about = "of the certificates reach an input of another class, which is excessive invariance"
        return [f"{int(self.excessive.sum())} of {len(self.label)} ({self.share:.1%} [{low:.1%}, {high:.1%}]) {about}"]

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw certified radii against the distance to the nearest input of another class, and the line of equality."""
        ax, near = checks.axes(ax), self.nearest.isfinite()
        shown = [part.cpu().numpy() for part in (self.nearest[near], self.radius[near])]
        ax.plot(*shown, "o", color="#0072b2", markersize=3, label="inputs")
        ax.axline((0, 0), slope=1, color="#d55e00", linestyle="--", label="reaches another class above")
        ax.set(xlabel=f"distance to another class (l{self.norm:g})", ylabel="certified radius", xlim=(0, None))
        ax.set_ylim(0, None)
        return ax


@isolated
def invariance_check(
    certificates: Radii | Tensor,
    x: Tensor,
    y: Tensor,
    *,
    norm: float | None = None,
    reference: Sequence[Tensor] | None = None,
    confidence: float = 0.95,
    memory: int = MEMORY,
) -> InvarianceCheck:
    """Look for certificates that reach an input of another class: robustness where the class should change.

    Such a certificate is right and harmful: the model answers the same for both inputs, and is wrong at one of them.
    Only inputs that are at hand can be reached, so that none found does not mean that no radius is too large.

    Args:
        certificates: a certificate of each input, or radii (N,) in units of the input.
        x: (N, *D) inputs.
        y: (N,) their classes.
        norm: order of the norm of radii that are a tensor, at least 1.
        reference: inputs (M, *D) and classes (M,) that may be reached, such as the training data; else ``x`` and ``y``.
        confidence: of the interval for the share.
        memory: bytes that may be taken at once.

    Raises:
        InvalidInput: a bad argument; certificates without a norm, or radii that are negative or NaN.

    References:
        Jacobsen, Behrmann, Carlini, Tramèr, Papernot (2019), Exploiting excessive invariance caused by norm-bounded
        adversarial robustness, arXiv:1903.10484; Tramèr et al. (2020), Fundamental tradeoffs between invariance and
        sensitivity to adversarial perturbations, arXiv:2002.04599.
    """
    checks.not_empty(checks.inputs(x))
    checks.probability("confidence", confidence)
    checks.at_least("memory", memory, 1)
    radius, order = _radii(certificates, norm, x)
    label = classes_of(y, x)
    others, classes = _reference(x, label, reference)
    nearest, other = _nothing_near(x)
    reached = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    for rows, columns, apart in pair_blocks(x, others, order, memory=memory):
        apart.masked_fill_(label[rows][:, None] == classes[columns], math.inf)
        _update(nearest, other, rows, columns, apart)
        within = certainly_within(apart, radius[rows][:, None], x[0].numel()) & apart.isfinite()
        reached[rows] += torch.where(radius[rows] > 0, within.sum(1), 0)
    count = (reached > 0).sum()
    low, high = clopper_pearson_interval(count, len(x), confidence=confidence)
    return InvarianceCheck(
        label=label,
        radius=radius,
        nearest=_exact(x, others, torch.arange(len(x), device=x.device), other, order, memory),
        other=other,
        reached=reached,
        share=int(count) / len(x),
        interval=(float(low), float(high)),
        confidence=confidence,
        norm=order,
    )


def _radii(certificates: Radii | Tensor, norm: float | None, x: Tensor) -> tuple[Tensor, float]:
    """Radii (N,) float64 on the device of ``x``, and the order of their norm."""
    if isinstance(certificates, Tensor):
        if norm is None:
            raise InvalidInput("norm must be given for radii that are a tensor: pass norm=2 or norm=math.inf")
        radius = certificates
    elif norm is not None and norm != certificates.norm:
        raise InvalidInput(f"norm must be that of the certificates, {certificates.norm:g}, got {norm!r}: leave it out")
    else:
        radius, norm = certificates.radius, certificates.norm
    radius = checks.rows("radius", radius, len(x)).to(x.device, torch.float64)
    if not (radius >= 0).all():
        row = int((~(radius >= 0)).nonzero()[0])
        raise InvalidInput(f"radius must be at least 0, got {float(radius[row])} in row {row}: use 0 for no statement")
    return radius, checks.norm(norm)


def _reference(x: Tensor, label: Tensor, reference: Sequence[Tensor] | None) -> tuple[Tensor, Tensor]:
    """Inputs that may be reached and their classes."""
    if reference is None:
        return x, label
    others, classes = reference
    if checks.inputs(others).shape[1:] != x.shape[1:]:
        raise InvalidInput(
            f"reference must hold inputs of shape {tuple(x.shape[1:])}, got {tuple(others.shape[1:])}: "
            f"prepare both in the same way"
        )
    others = checks.not_empty(others).to(x.device)
    return others, classes_of(classes, others, "reference classes")
