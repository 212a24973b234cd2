"""The smoothed classifier: prediction and certificates with probability (Cohen et al. 2019)."""

import math
from collections.abc import Sequence

import torch
from scipy import special
from torch import Tensor, nn

from bounds import checks, clopper_pearson_lower, log_evidence_above, log_evidence_below
from bounds.numerics import round_up
from bounds.sequential import LARGEST_ALPHA
from certify.models import frozen, probe
from certify.results import RadiusDecision, SmoothedPrediction, SmoothingCertificate
from certify.smoothing.noise import Noise
from certify.smoothing.sampling import NOISE_BLOCK, Stage, count_votes, draw_run_seed

# ``certify_at`` looks again after one block for every this many before, at least one: often enough to stop early, and
# seldom enough to fill batches. Part of the meaning of a seed: another value stops at other moments.
BLOCKS_PER_BLOCK = 8

# Relative error allowed to SciPy's incomplete beta function at 1/2; measured up to 2e-13 for 100,000 draws.
TAIL_ERROR = 1e-12


class SmoothedClassifier:
    """The classifier that returns the class a model most often gives under noise.

    Args:
        model: maps (N, *D) to logits (N, K), deterministic and row by row; normalisation belongs inside it.
        noise: distribution of the perturbation, in units of the input.
        num_classes: K.
        batch_size: rows of a forward pass; a matter of memory and speed only.
        noise_group: this many consecutive inputs share their noise draws. 1 makes all inputs independent; more
            saves most of the cost of drawing where the network is small. The statement about each single input
            is unchanged, and records say how many share.

    Raises:
        InvalidInput: num_classes below 2, batch_size or noise_group below 1.
    """

    def __init__(
        self,
        model: nn.Module,
        noise: Noise,
        *,
        num_classes: int,
        batch_size: int = 1000,
        noise_group: int = 1,
    ) -> None:
        self.model = model
        self.noise = noise
        self.num_classes = checks.at_least("num_classes", num_classes, 2)
        self.batch_size = checks.at_least("batch_size", batch_size, 1)
        self.noise_group = checks.at_least("noise_group", noise_group, 1)

    @property
    def subject(self) -> str:
        """Name of this classifier in records."""
        return f"smoothed({self.noise})"

    def predict(
        self,
        x: Tensor,
        n: int = 1_000,
        alpha: float = 1e-3,
        *,
        generator: torch.Generator | None = None,
        first_index: int = 0,
    ) -> SmoothedPrediction:
        """Class that the smoothed classifier returns, or an abstention.

        For each row, a class other than that of the smoothed classifier is returned with probability at most
        ``alpha``.

        Args:
            x: (N, *D), floating and finite.
            n: noise draws per input. Below ``1 + log2(1 / alpha)`` every row abstains.
            alpha: failure probability, per row.
            generator: supplies the run seed (one draw from it).
            first_index: index of row 0 in its data set.

        Raises:
            InvalidInput: a bad argument.
            InvalidModel: see :func:`certify.models.probe`.

        References:
            Cohen et al. (2019), arXiv:1902.02918, algorithm PREDICT; Hung, Fithian (2019), arXiv:1610.03944.
        """
        checks.probability("alpha", alpha)
        n = checks.at_least("n", n, 1)
        indices = self._indices(x, first_index, n)
        seed = draw_run_seed(generator)
        counts = self._votes(x, n, seed, Stage.PREDICTION, indices)[:, :-1]
        (first, second), label = counts.topk(2, dim=1).values.T, counts.argmax(1)
        # Two-sided exact test of `first` successes in `first + second` at 1/2: twice the upper tail.
        both, k = (first + second).cpu().numpy(), first.cpu().numpy()
        tail = special.betainc(k.clip(min=1), both - k + 1.0, 0.5)
        p_value = round_up(torch.from_numpy(2 * tail), TAIL_ERROR).clamp(max=1.0).to(x.device)
        p_value = torch.where(first > second, p_value, 1.0)
        return SmoothedPrediction(
            label=label,
            abstained=~(p_value <= alpha),
            counts=counts,
            p_value=p_value,
            alpha=alpha,
            n=n,
            seed=seed,
            subject=self.subject,
        )

    def certify(
        self,
        x: Tensor,
        n: int = 100_000,
        n0: int = 100,
        alpha: float = 1e-3,
        *,
        generator: torch.Generator | None = None,
        first_index: int = 0,
    ) -> SmoothingCertificate:
        """Radius within which the smoothed classifier keeps its label, the largest that ``n`` draws support.

        For each row, the statement "the smoothed classifier returns ``label`` for every input within
        ``radius``" is false with probability at most ``alpha``. It speaks of the smoothed classifier, not of
        the model, and of each row by itself. Noise is drawn in floating point; the theorem is about real
        numbers.

        Args:
            x: (N, *D), floating and finite.
            n: noise draws per input for the estimate. All votes for one class give at most
                ``sigma * ndtri(alpha ** (1 / n))``.
            n0: separate draws per input that select the class.
            alpha: failure probability, per row.
            generator: supplies the run seed (one draw from it).
            first_index: index of row 0 in its data set.

        Returns:
            A certificate; rows abstain where the lower bound of the probability is at most 1/2.

        Raises:
            InvalidInput: a bad argument.
            InvalidModel: see :func:`certify.models.probe`.

        References:
            Cohen et al. (2019), arXiv:1902.02918, Theorem 1 and algorithm CERTIFY.
        """
        checks.probability("alpha", alpha)
        n, n0 = checks.at_least("n", n, 1), checks.at_least("n0", n0, 1)
        indices = self._indices(x, first_index, max(n, n0))
        seed = draw_run_seed(generator)
        selection = self._votes(x, n0, seed, Stage.SELECTION, indices)[:, :-1]
        label = selection.argmax(1)
        votes = self._votes(x, n, seed, Stage.ESTIMATION, indices)
        p_lower = clopper_pearson_lower(votes.gather(1, label[:, None]).squeeze(1), n, alpha)
        return SmoothingCertificate(
            label=label,
            radius=self.noise.radius(p_lower),
            abstained=~(p_lower > 0.5),
            norm=self.noise.norm,
            alpha=alpha,
            subject=self.subject,
            method="smoothing",
            counts=votes[:, :-1],
            selection_counts=selection,
            invalid=votes[:, -1],
            p_lower=p_lower,
            n=n,
            n0=n0,
            seed=seed,
            first_index=first_index,
            noise_group=self.noise_group,
        )

    def certify_at(
        self,
        x: Tensor,
        radius: float,
        alpha: float = 1e-3,
        max_samples: int = 100_000,
        n0: int = 100,
        *,
        generator: torch.Generator | None = None,
        first_index: int = 0,
    ) -> RadiusDecision:
        """Whether the smoothed classifier keeps its label within one given radius.

        Draws until the answer is clear: inputs that are decided leave, so that easy ones cost a few hundred draws
        instead of a hundred thousand. The moments of looking are fixed beforehand, so that neither the batch size
        nor other rows change an answer. For each row, it is certified falsely with
        probability at most ``alpha``, whatever the moment at which its draws end. A row that is decided but
        not certified has a probability below the one needed, with the same confidence.

        Args:
            x: (N, *D), floating and finite.
            radius: radius to certify, in units of the input; above 0.
            alpha: failure probability, per row, at most 0.2.
            max_samples: most noise draws per input. A row that cannot be certified within them is left
                undecided as soon as that is clear.
            n0: separate draws per input that select the class.
            generator: supplies the run seed (one draw from it).
            first_index: index of row 0 in its data set.

        Raises:
            InvalidInput: a bad argument.
            InvalidModel: see :func:`certify.models.probe`.

        References:
            Cohen et al. (2019), arXiv:1902.02918, Theorem 1; :mod:`bounds.sequential` for the test.
        """
        radius = checks.positive("radius", radius)
        checks.at_most("alpha", checks.probability("alpha", alpha), LARGEST_ALPHA)
        max_samples, n0 = checks.at_least("max_samples", max_samples, 1), checks.at_least("n0", n0, 1)
        indices = self._indices(x, first_index, max(max_samples, n0))
        seed = draw_run_seed(generator)
        needed = float(self.noise.probability_needed(radius))
        label = self._votes(x, n0, seed, Stage.SELECTION, indices)[:, :-1].argmax(1)
        successes, draws = torch.zeros_like(label), torch.zeros_like(label)
        certified, decided = torch.zeros_like(label, dtype=torch.bool), torch.zeros_like(label, dtype=torch.bool)
        limit, done = math.log(1 / alpha), 0
        while done < max_samples and needed < 1:
            # Open rows that could still be certified if every further draw voted for them.
            best = log_evidence_above(successes + max_samples - done, max_samples, needed)
            rows = (~decided & (best >= limit)).nonzero().squeeze(1)
            if len(rows) == 0:
                break
            first_block = done // NOISE_BLOCK
            count = min(max(1, first_block // BLOCKS_PER_BLOCK) * NOISE_BLOCK, max_samples - done)
            chosen = [indices[row] for row in rows.tolist()]
            votes = self._votes(x[rows], count, seed, Stage.ESTIMATION, chosen, first_block)
            successes[rows] += votes.gather(1, label[rows, None]).squeeze(1)
            done += count
            draws[rows] = done
            above = log_evidence_above(successes[rows], done, needed) >= limit
            below = log_evidence_below(successes[rows], done, needed) >= limit
            certified[rows], decided[rows] = above, above | below
        return RadiusDecision(
            label=label,
            certified=certified,
            decided=decided,
            successes=successes,
            draws=draws,
            radius=radius,
            norm=self.noise.norm,
            alpha=alpha,
            n0=n0,
            seed=seed,
            first_index=first_index,
            noise_group=self.noise_group,
            subject=self.subject,
        )

    def _indices(self, x: Tensor, first_index: int, draws: int) -> range:
        """Index of each row in its data set, after checking the inputs and the model; ``draws`` at most per row."""
        checks.inputs(x)
        first_index = checks.at_least("first_index", first_index, 0)
        with frozen(self.model) as model:
            if len(x):
                probe(model, x, self.num_classes, batch_size=min(self.batch_size, len(x) * draws))
        return range(first_index, first_index + len(x))

    def _votes(
        self, x: Tensor, draws: int, seed: int, stage: Stage, indices: Sequence[int], first_block: int = 0
    ) -> Tensor:
        """Votes (N, K + 1) of rows with the given indices."""
        with frozen(self.model) as model:
            return count_votes(
                model,
                x.detach(),
                self.noise,
                draws,
                num_classes=self.num_classes,
                seed=seed,
                stage=stage,
                indices=indices,
                first_block=first_block,
                batch_size=self.batch_size,
                noise_group=self.noise_group,
            )
