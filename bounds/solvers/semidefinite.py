r"""Margins by the semidefinite relaxation of networks of rectifiers, for very small ones.

The variables are scaled to :math:`x \in [-1, 1]^V`, and :math:`P` stands for :math:`y y^T` with :math:`y = (1, x)`.
Besides the rows of the linear programme, every unstable neuron fulfils :math:`(h - z)(h - s z) = 0`.

The solver is not trusted. Any multipliers leave a quadratic function :math:`y^T M y` below the margin, and with any
:math:`\kappa` and :math:`\lambda` at most the least eigenvalue of :math:`M - \mathrm{diag}(\kappa)`,

.. math:: y^T M y \ge \kappa_0 + \lambda + \sum_i \min(0, \kappa_i + \lambda).

References:
    Raghunathan, Steinhardt, Liang (2018), Semidefinite relaxations for certifying robustness to adversarial examples,
    arXiv:1811.01057; Dathathri et al. (2020), Enabling certification of verification-agnostic networks via
    memory-efficient semidefinite programming, arXiv:2010.11645 (the bound by an eigenvalue).
"""

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.graph.captured import Graph, Source
from bounds.linear.margins import margin_bounds
from bounds.numerics import accumulated_error, ieee_arithmetic, unit_roundoff
from bounds.operations.affine import AFFINE, Affine
from bounds.operations.functions import FUNCTIONS, Maker, Tables
from bounds.sets.balls import PerturbationSet
from bounds.solvers.admission import followed
from bounds.solvers.affine_form import AffineForm
from bounds.solvers.encoding import Encoding, differences_from_label, encodings
from bounds.solvers.modelling import modelling, solved

VARIABLES = 100  # entries of the input and unstable neurons, at most
SOLVERS = ("CLARABEL", "SCS")


@isolated
@ieee_arithmetic()
@torch.no_grad()
def sdp_margins(
    model: Source | Graph,
    ball: PerturbationSet,
    labels: Tensor,
    *,
    tighten: bool = True,
    solver: str = "CLARABEL",
    table: Mapping[str, Affine] = AFFINE,
    functions: Mapping[str, Maker] = FUNCTIONS,
) -> Tensor:
    """Lower bounds (N, K) on ``logit_label - logit_k`` by semidefinite programmes; 0 at the label.

    Holds for every input of the ball, for the network in evaluation mode and in real arithmetic: multipliers of the
    solver are evaluated anew, by an eigenvalue whose error is bounded, with rounding errors subtracted. Not looser than
    :func:`bounds.lp_margins` up to the accuracy of the solver, and never looser than :func:`bounds.crown`. One class
    takes seconds at 50 variables, and a minute at 100.

    Args:
        model: maps (N, *D) to (N, K), of any code that ``torch.export`` follows; or its captured graph. Functions other
            than ReLU, leaky ReLU and PReLU with slopes in [0, 1] stand for their lines alone.
        ball: N perturbation sets in float64, an :class:`LpBall` of norm 1 or infinity or a :class:`Box`.
        labels: (N,) class indices.
        tighten: bounds in front of neurons by linear programmes, as in :func:`bounds.lp_bounds`.
        solver: ``"CLARABEL"``, or ``"SCS"``, which is faster and less accurate for many variables.
        table: affine operations, :data:`bounds.operations.AFFINE` or a copy with more.
        functions: makers of the functions of other operations, :data:`bounds.FUNCTIONS` or a copy with more.

    Raises:
        UnsupportedLayer: an operation without a rule, with its place in the source code.
        InvalidInput: another set, dtype or solver, labels out of range, more than 100 variables.
    """
    checks.one_of("solver", solver, SOLVERS)
    graph = followed(model, ball)
    margins = margin_bounds(graph, ball, labels, "crown", table=table, functions=functions)
    for row, encoding in enumerate(encodings(graph, ball, tighten, Tables(table, functions))):
        others, rows = differences_from_label(margins[row], int(labels[row]))
        programme = SemidefiniteProgramme(encoding)
        for other, each in zip(others, rows, strict=True):
            least = programme.minimum(encoding.combination(each[None]), solver)
            margins[row, other] = torch.maximum(margins[row, other], least)
    return margins


class Affines(NamedTuple):
    """Affine functions of scaled variables: ``vectors @ (1, x)`` up to ``rounding_error``, for every x in [-1, 1]^V.

    Attributes:
        vectors: (J, V + 1).
        rounding_error: (J,).
    """

    vectors: Tensor
    rounding_error: Tensor

    @property
    def reach(self) -> Tensor:
        """Their largest absolute values (J,)."""
        return self.vectors.abs().sum(1)


class Multipliers(NamedTuple):
    """Multipliers of linear rows (at least 0), of products, and of squares ``y_i^2 = 1`` and ``<= 1`` (at most 0)."""

    rows: Tensor
    products: Tensor
    squares: Tensor


class SemidefiniteProgramme:
    """The relaxation of one encoding.

    Attributes:
        rows: nonnegative functions.
        above: ``h - z`` of each unstable neuron.
        partner: ``h - slope z`` of each, of which one or the other is 0.
    """

    def __init__(self, encoding: Encoding) -> None:
        count = len(encoding.lower)
        if count > VARIABLES:
            raise InvalidInput(
                f"semidefinite programmes take at most {VARIABLES} entries of the input and unstable neurons, got "
                f"{count}: use bounds.lp_margins"
            )
        self.middle = encoding.lower / 2 + encoding.upper / 2
        radius = torch.maximum(encoding.upper - self.middle, self.middle - encoding.lower)
        self.radius = radius * (1 + 4 * unit_roundoff(radius.dtype))
        linear = encoding.programme()
        self.rows = self.scaled(AffineForm(linear.matrix.T, -linear.right, torch.zeros_like(linear.right)))
        above: list[Affines] = []
        partner: list[Affines] = []
        for part in encoding.relus:
            for slope, collected in ((torch.ones_like(part.slope), above), (part.slope, partner)):
                collected.append(self.scaled(encoding.apart(part.places, part.before, slope, torch.zeros_like(slope))))
        nothing = self.rows.vectors[:0], self.rows.rounding_error[:0]
        self.above, self.partner = (
            Affines(*map(torch.cat, zip(nothing, *part, strict=True))) for part in (above, partner)
        )

    def scaled(self, form: AffineForm) -> Affines:
        """Functions of the variables (a form of J entries) as functions of the scaled ones."""
        matrix = form.matrix
        constant = form.offset + self.middle @ matrix
        vectors = torch.cat([constant[None], self.radius[:, None] * matrix]).T
        size = form.offset.abs() + (self.middle.abs() + self.radius) @ matrix.abs()
        error = 2 * accumulated_error(len(matrix) + 8, matrix.dtype)
        return Affines(vectors, form.rounding_error + error * size + torch.finfo(matrix.dtype).tiny)

    def minimum(self, form: AffineForm, solver: str) -> Tensor:
        """A proved lower bound on a form of one entry."""
        cost = self.scaled(form)
        return self.proved(cost, self.propose(cost, solver))

    def proved(self, cost: Affines, multipliers: Multipliers) -> Tensor:
        """A lower bound on a function by any multipliers, rounding included; minus infinity for NaN."""
        rows, products, squares = multipliers
        rows = rows.clamp(min=0)
        linear = cost.vectors[0] - rows @ self.rows.vectors
        matrix = -self.above.vectors.T @ (products[:, None] * self.partner.vectors)
        matrix[0] += linear
        matrix = (matrix + matrix.T) / 2
        least = least_eigenvalue(matrix - torch.diag(squares))
        value = squares[0] + least + (squares[1:] + least).clamp(max=0).sum()
        # What the true functions may add to the computed ones: errors of the factors, and rounding of the sums.
        above, partner = self.above, self.partner
        inexact = (
            above.rounding_error * partner.reach
            + partner.rounding_error * above.reach
            + above.rounding_error * partner.rounding_error
        )
        terms = len(rows) + len(products) + len(squares) + 16
        underflow = torch.finfo(rows.dtype).tiny * terms**2
        rounding_error = cost.rounding_error[0] + rows @ self.rows.rounding_error + products.abs() @ inexact + underflow
        size = cost.reach[0] + rows @ self.rows.reach + products.abs() @ (above.reach * partner.reach)
        size = size + squares.abs().sum() + len(squares) * least.abs()
        bound = value - (rounding_error * (1 + 1e-9) + 2 * accumulated_error(terms, size.dtype) * size)
        return torch.where(bound < math.inf, bound, -math.inf)

    def propose(self, cost: Affines, solver: str) -> Multipliers:
        """Multipliers from the solver; zeros where it gives none."""
        problem = self._problem
        sizes = len(self.rows.vectors), len(self.above.vectors), len(self.middle), 1
        values = [None] * 4
        if solved(problem, solver, cost=cost.vectors[0]):
            values = [constraint.dual_value for constraint in problem.constraints]
        given = (
            cost.vectors.new_zeros(size) if value is None else cost.vectors.new_tensor(value).view(size)
            for size, value in zip(sizes, values, strict=True)
        )
        rows, products, squares, first = given
        return Multipliers(rows, -products, -torch.cat([first, squares]))

    @cached_property
    def _problem(self) -> Any:  # noqa: ANN401  # cvxpy carries no annotations
        """The programme with its cost as a parameter, so that it is compiled once."""
        cvxpy = modelling()
        size = len(self.middle) + 1
        rows, above, partner = (part.vectors.cpu().numpy() for part in (self.rows, self.above, self.partner))
        outer, cost = cvxpy.Variable((size, size), PSD=True), cvxpy.Parameter(size, name="cost")
        constraints = [
            rows @ outer[0] >= 0,
            cvxpy.sum(cvxpy.multiply(above @ outer, partner), axis=1) == 0,
            cvxpy.diag(outer)[1:] <= 1,
            outer[0, 0] == 1,
        ]
        return cvxpy.Problem(cvxpy.Minimize(cost @ outer[0]), constraints)


def least_eigenvalue(matrix: Tensor) -> Tensor:
    """A lower bound, of at most 0, on the eigenvalues of a symmetric matrix, rounding included.

    With any Q and D, ``matrix = Q D Q^T + E``; the first part is at least ``min(D, 0) |Q|^2``, and E has no eigenvalue
    below ``-|E|`` in the Frobenius norm. What ``eigh`` returns decides on tightness only.
    """
    if not bool(matrix.isfinite().all()):
        return matrix.new_tensor(-math.inf)
    values, vectors = torch.linalg.eigh(matrix)
    error = accumulated_error(2 * len(matrix) + 8, matrix.dtype)
    size = vectors.abs() @ (values.abs()[:, None] * vectors.abs().T) + matrix.abs()
    residual = (matrix - vectors @ (values[:, None] * vectors.T)).abs() + 2 * error * size
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    stretch = (vectors.T @ vectors - identity).abs() + 2 * error * (vectors.abs().T @ vectors.abs() + identity)
    norm = torch.linalg.matrix_norm
    least: Tensor = values.min().clamp(max=0) * (1 + 2 * norm(stretch)) - 2 * norm(residual)
    return least
