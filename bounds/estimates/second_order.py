r"""Second-order CLEVER: the gradient at the input, and an estimate of how fast it can turn.

If no eigenvalue of the Hessian of g lies below :math:`-M` in the ball, then
:math:`g(x_0 + d) \ge g(x_0) - \|\nabla g(x_0)\| r - M r^2 / 2` for :math:`\|d\|_2 = r`, and the class cannot change
before this reaches 0. The least eigenvalue is sought with Lanczos' method, at random points, so that M is an estimate
from below.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from bounds.circumstances import isolated
from bounds.estimates.clever import DEAD, estimate, make_plan
from bounds.estimates.result import CleverEstimate
from bounds.estimates.sampled_maxima import Measured
from bounds.gradients import margin_gradients
from bounds.models import frozen
from bounds.sets.balls import LpBall


@isolated
def clever_second_order(
    model: nn.Module,
    x: Tensor,
    *,
    radius: float,
    num_batches: int = 500,
    batch_size: int = 1024,
    iterations: int = 10,
    targets: Tensor | None = None,
    low: Limit = None,
    high: Limit = None,
    chunk_size: int = 1024,
    resamples: int = 99,
    generator: torch.Generator | None = None,
) -> CleverEstimate:
    """Second-order CLEVER scores in l2: estimates, with no guarantee, of the distance to another class.

    ``lipschitz``, ``largest`` and ``maxima`` of the result are curvatures, in units of the logits per squared unit of
    the input: the largest ``-lambda`` of the Hessian's eigenvalues, or 0. Networks of rectifiers have none to be seen,
    and are reported as masked.

    Args:
        model: maps (N, *D) to logits (N, K), row by row, twice differentiable.
        x: (N, *D), floating, finite, inside the box, in the dtype of the model.
        radius: R, of the ball in which points are drawn, and the largest score; above 0.
        num_batches: N_b, maxima that the distribution is fitted to.
        batch_size: N_s, points behind each maximum.
        iterations: of Lanczos' method, each a product with the Hessian.
        targets: (N,) or (N, T) classes other than the predicted ones; None for all others.
        low: lower side of the box: a number, a tensor that broadcasts to one input, or None.
        high: upper side of the box, likewise.
        chunk_size: points measured at once, which bounds the memory.
        resamples: of the bootstrap behind the p-value; 0 for none.
        generator: source of the seed.

    Raises:
        InvalidInput: a bad argument.
        InvalidModel: the output is no (N, K) of finite logits.

    References:
        Weng et al. (2018), On extensions of CLEVER: a neural network robustness evaluation algorithm, arXiv:1810.08640.
    """
    checks.at_least("iterations", iterations, 1)
    plan = make_plan(num_batches, batch_size, chunk_size, generator)
    ball = LpBall(checks.tensor("x", x).detach(), checks.positive("radius", radius), 2, low, high)
    checks.warn_of_another_unit(x, f"radius = {radius:g}", radius)

    def measure_of(label: int, others: Tensor, margin: Tensor) -> Callable[[Tensor], Measured]:
        def measure(points: Tensor) -> Measured:
            pairs = [extreme_curvatures(model, points, label, other, iterations) for other in others.tolist()]
            least, largest = (torch.stack(part, 1) for part in zip(*pairs, strict=True))
            return Measured((-least).clamp(min=0), torch.maximum(-least, largest) <= DEAD * margin / radius**2)

        return measure

    def score(margin: Tensor, slope: Tensor, curvature: Tensor) -> Tensor:
        """Distance at which the parabola reaches 0, in a form that does not cancel and serves for no curvature too."""
        return 2 * margin / (slope + (slope.square() + 2 * margin * curvature).sqrt())

    with frozen(model):
        return estimate(model, ball, targets, measure_of, score, plan, resamples, order=2)


def extreme_curvatures(
    model: nn.Module, points: Tensor, label: int, target: int, iterations: int
) -> tuple[Tensor, Tensor]:
    """The least and the largest Ritz value (B,) of the Hessians of one margin at points (B, *D)."""
    points = points.detach().requires_grad_()
    pair = (torch.full((len(points),), each, device=points.device) for each in (label, target))
    with torch.enable_grad():
        gradients = margin_gradients(model, points, *pair)

    def product(vectors: Tensor) -> Tensor:
        if not gradients.requires_grad:
            return torch.zeros_like(vectors)
        (found,) = torch.autograd.grad(gradients, points, vectors.view_as(points), retain_graph=True, allow_unused=True)
        return torch.zeros_like(vectors) if found is None else found.flatten(1)

    values = lanczos(product, points.detach().flatten(1), iterations)
    return values[:, 0], values[:, -1]


def lanczos(product: Callable[[Tensor], Tensor], like: Tensor, iterations: int) -> Tensor:
    """Ritz values (B, I), ascending, of B symmetric matrices given by their products with vectors (B, F).

    They lie between the least and the largest eigenvalue, up to rounding. Three vectors are kept, since copies of
    values that have converged do no harm here. The first vector is the same for all, and orthogonal to nothing likely.
    """
    size = like.shape[1]
    angles = (
        torch.arange(1, size + 1, dtype=like.dtype, device=like.device) * 2.399963229728653
    )  # the golden angle: no simple pattern
    vector = (angles.cos() + 1.5).expand_as(like)
    vector = vector / vector.norm(dim=1, keepdim=True)
    previous, beta = torch.zeros_like(vector), like.new_zeros(len(like), 1)
    diagonal: list[Tensor] = []
    off_diagonal: list[Tensor] = []
    for _ in range(min(iterations, size)):
        image = product(vector) - beta * previous
        alpha = (image * vector).sum(1, keepdim=True)
        image = image - alpha * vector
        image = image - (image * vector).sum(1, keepdim=True) * vector
        beta = image.norm(dim=1, keepdim=True)
        # Where the space is exhausted the rest is 0, which would be a value of its own: it repeats the first one.
        spent = beta <= 64 * torch.finfo(like.dtype).eps * (alpha.abs() + beta)
        done = torch.zeros_like(spent) if not off_diagonal else off_diagonal[-1] == 0
        diagonal.append(torch.where(done, diagonal[0] if diagonal else alpha, alpha))
        off_diagonal.append(torch.where(spent | done, 0.0, beta))
        previous, vector = vector, torch.where(spent, 0.0, image / beta.clamp(min=torch.finfo(like.dtype).tiny))
        beta = off_diagonal[-1]
    matrix = torch.diag_embed(torch.cat(diagonal, 1).double())
    if len(off_diagonal) > 1:
        off = torch.diag_embed(torch.cat(off_diagonal[:-1], 1).double(), offset=1)
        matrix = matrix + off + off.mT
    values: Tensor = torch.linalg.eigvalsh(matrix)
    return values
