"""The smoothed classifier: prediction and l_2 certificates with probability (Cohen et al. 2019)."""

import torch
from scipy import special
from torch import Tensor, nn

from bounds import checks, clopper_pearson_lower
from certify.models import frozen, probe
from certify.results import SmoothedPrediction, SmoothingCertificate
from certify.smoothing.noise import Gaussian
from certify.smoothing.sampling import Stage, count_votes, draw_run_seed


class SmoothedClassifier:
    """The classifier that returns the class a model most often gives under noise.

    Args:
        model: maps (N, *D) to logits (N, K), deterministic and row by row; normalisation belongs inside it.
        noise: distribution of the perturbation, in units of the input.
        num_classes: K.
        batch_size: rows of a forward pass; a matter of memory and speed only.
        noise_group: this many consecutive inputs share their noise draws, which saves most of the cost of
            drawing where the network is small. The statement about each single input is unchanged, but inputs
            of one group are not independent of each other. 1 makes all inputs independent.

    Raises:
        InvalidInput: num_classes below 2, batch_size or noise_group below 1.
    """

    def __init__(
        self,
        model: nn.Module,
        noise: Gaussian,
        *,
        num_classes: int,
        batch_size: int = 1000,
        noise_group: int = 50,
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
        seed = draw_run_seed(generator)
        votes = self._votes(x, checks.at_least("n", n, 1), seed, Stage.PREDICTION, first_index)
        counts = votes[:, :-1]
        (first, second), label = counts.topk(2, dim=1).values.T, counts.argmax(1)
        # Two-sided exact test of `first` successes in `first + second` at 1/2: twice the upper tail.
        both, k = (first + second).cpu().numpy(), first.cpu().numpy()
        tail = special.betainc(k.clip(min=1), both - k + 1.0, 0.5)
        p_value = torch.from_numpy(2 * tail).clamp(max=1.0).to(x.device)
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
        checks.at_least("n", n, 1)
        seed = draw_run_seed(generator)
        selection = self._votes(x, checks.at_least("n0", n0, 1), seed, Stage.SELECTION, first_index)[:, :-1]
        label = selection.argmax(1)
        votes = self._votes(x, n, seed, Stage.ESTIMATION, first_index)
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

    def _votes(self, x: Tensor, draws: int, seed: int, stage: Stage, first_index: int) -> Tensor:
        checks.inputs(x)
        checks.at_least("first_index", first_index, 0)
        with frozen(self.model) as model:
            if len(x):
                probe(model, x, self.num_classes)
            return count_votes(
                model,
                x.detach(),
                self.noise,
                draws,
                num_classes=self.num_classes,
                seed=seed,
                stage=stage,
                first_index=first_index,
                batch_size=self.batch_size,
                noise_group=self.noise_group,
            )
