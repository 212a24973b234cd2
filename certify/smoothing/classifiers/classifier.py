"""The smoothed classifier: prediction and certificates with probability (Cohen et al. 2019)."""

import dataclasses
import math
from typing import Literal

import torch
from scipy import special
from torch import Tensor, nn

from bounds import checks, log_evidence_above, log_evidence_below, sequential_lower
from bounds.circumstances import in_deployed_precision
from bounds.errors import InvalidInput
from bounds.numerics import BETA_FUNCTION_ERROR, complement, lowered, round_up
from bounds.statistics.sequential import LARGEST_ALPHA
from certify.models import probe
from certify.results import RadiusDecision, SmoothedPrediction, SmoothingCertificate
from certify.smoothing.classifiers.estimation import class_bounds, draw_until, votes_for
from certify.smoothing.classifiers.noisy_model import Grid, NoisyModel
from certify.smoothing.drawing.bits import DRAWS_VERSION
from certify.smoothing.drawing.votes import Sampling, Stage, draw_run_seed
from certify.smoothing.noises.base import Noise

Bound = Literal["binary", "two-class", "selected"]


class SmoothedClassifier(NoisyModel):
    """The classifier that returns the class a model most often gives under noise.

    Inputs that are multiples of 1/255, such as 8-bit images, get noise that is drawn and added in integers. So
    certificates hold for the classifier as it runs, not only in real arithmetic. The smoothed model then begins with
    a rounding to that grid, and its name says so.

    Args:
        model: maps (N, *O) to logits (N, K), deterministic and row by row; normalisation belongs inside it. Weights
            in half precision get inputs in half precision, rounded after the noise.
        noise: distribution of the perturbation, in units of the input.
        num_classes: K.
        batch_size: rows of a forward pass; it affects memory and speed only, and is halved where memory runs out.
        noise_group: number of consecutive inputs that share their noise draws. 1 makes all inputs independent; larger
            groups save most of the cost of drawing where the network is small. The statement about each single
            input stays the same, and records hold the number.
        grid: steps per unit of the grid that inputs lie on; ``"auto"`` takes 255 if all inputs of a call lie on it
            and the noise knows grids; None draws noise in floating point, and records say so.

    Raises:
        InvalidInput: num_classes below 2, batch_size or noise_group below 1, a grid for a noise that knows none.
    """

    def __init__(
        self,
        model: nn.Module,
        noise: Noise,
        *,
        num_classes: int,
        batch_size: int = 1000,
        noise_group: int = 1,
        grid: Grid = "auto",
    ) -> None:
        self.num_classes = checks.at_least("num_classes", num_classes, 2)
        super().__init__(model, noise, batch_size=batch_size, noise_group=noise_group, grid=grid)

    @in_deployed_precision
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
        sampling = self.sampling(x, n, draw_run_seed(generator), first_index)
        counts = sampling.votes(self.num_classes, n, Stage.PREDICTION)[:, :-1]
        (first, second), label = counts.topk(2, dim=1).values.T, counts.argmax(1)
        # Two-sided exact test of `first` successes in `first + second` at 1/2: twice the upper tail.
        both, k = (first + second).cpu().numpy(), first.cpu().numpy()
        tail = special.betainc(k.clip(min=1), both - k + 1.0, 0.5)
        p_value = round_up(torch.from_numpy(2 * tail), BETA_FUNCTION_ERROR).clamp(max=1.0).to(x.device)
        p_value = torch.where(first > second, p_value, 1.0)
        return SmoothedPrediction(
            label=label,
            abstained=~(p_value <= alpha),
            counts=counts,
            p_value=p_value,
            alpha=alpha,
            n=n,
            seed=sampling.seed,
            subject=self.subject(sampling.distribution),
        )

    @in_deployed_precision
    def certify(
        self,
        x: Tensor,
        n: int = 100_000,
        n0: int = 100,
        alpha: float = 1e-3,
        *,
        bound: Bound = "binary",
        tolerance: float | None = None,
        generator: torch.Generator | None = None,
        first_index: int = 0,
    ) -> SmoothingCertificate:
        """Largest radius, supported by the draws, within which the smoothed classifier keeps its label.

        For each row, the statement "the smoothed classifier returns ``label`` for every input within
        ``radius``" is false with probability at most ``alpha``. It is about the smoothed classifier, not
        about the model, and about each row by itself.

        Args:
            x: (N, *D), floating and finite.
            n: noise draws per input for the estimate, at most. All votes for one class give at most
                ``sigma * ndtri(alpha ** (1 / n))``.
            n0: separate draws per input that select the class.
            alpha: failure probability, per row.
            bound: ``"binary"`` bounds the probability of the label from below and gives the rest to one other class;
                ``"two-class"`` also bounds that of every other class from above, with half of alpha for each, which
                pays where many classes share the rest; ``"selected"`` chooses between them, for each row, from the
                draws that select the class.
            tolerance: stop drawing for a row as soon as further draws can raise its radius by at most this much. The
                bounds then hold at every moment, so that :meth:`extend` may add draws; the radius is slightly
                smaller for it (1 % at n = 100,000).
            generator: supplies the run seed (one draw from it).
            first_index: index of row 0 in its data set.

        Returns:
            A certificate; rows abstain where nothing is certified.

        Raises:
            InvalidInput: a bad argument.
            InvalidModel: see :func:`certify.models.probe`.

        References:
            Cohen et al. (2019), arXiv:1902.02918, Theorem 1 and algorithm CERTIFY; :mod:`bounds.statistics.sequential`.
        """
        checks.probability("alpha", alpha)
        checks.one_of("bound", bound, ("binary", "two-class", "selected"))
        n, n0 = checks.at_least("n", n, 1), checks.at_least("n0", n0, 1)
        if tolerance is not None:
            _check_open_ended(alpha, tolerance)
            if bound != "binary":
                raise InvalidInput(f"bound must be 'binary' where a tolerance is given, got {bound!r}")
        sampling = self.sampling(x, n0 if tolerance is not None else n, draw_run_seed(generator), first_index)
        selection = sampling.votes(self.num_classes, n0, Stage.SELECTION)
        start = self._without_estimate(selection, sampling, n=n, n0=n0, alpha=alpha, sequential=tolerance is not None)
        if tolerance is not None:
            return self._extended(start, sampling, n, tolerance)
        if bound == "selected":
            two_class = self._two_class_pays(x, selection, start.label, n, alpha)
        else:
            two_class = torch.full_like(start.two_class, bound == "two-class")
        votes = sampling.votes(self.num_classes, n, Stage.ESTIMATION)
        lower, upper = class_bounds(votes, start.label, n, alpha, two_class, sampling.error)
        return dataclasses.replace(
            start,
            radius=self._radius(x, lower, upper, two_class),
            abstained=~(lower > upper),
            counts=votes[:, :-1],
            invalid=votes[:, -1],
            p_lower=lower,
            p_upper=upper,
            two_class=two_class,
            draws=torch.full_like(start.label, n),
        )

    @in_deployed_precision
    def extend(
        self, certificate: SmoothingCertificate, x: Tensor, n: int, *, tolerance: float = 0.0
    ) -> SmoothingCertificate:
        """Certificate after more draws. Its bounds hold at every moment, so that draws may be added.

        The certificate may come from a file: its draws are continued with fresh blocks of the same seed.

        Args:
            certificate: made by :meth:`certify` of this classifier with a tolerance.
            x: (N, *D), the inputs it was made for.
            n: most noise draws per input, those before included.
            tolerance: as in :meth:`certify`; 0 draws all ``n``.

        Raises:
            InvalidInput: a certificate of a fixed number of draws, of other settings, or of other inputs.
            InvalidModel: see :func:`certify.models.probe`.
        """
        if not certificate.sequential:
            raise InvalidInput("certificate must be made with certify(tolerance=...): a fixed number of draws is final")
        n = checks.at_least("n", n, 1)
        _check_open_ended(certificate.alpha, tolerance)
        return self._extended(certificate.to(x.device), self.sampling_of(certificate, x, n), n, tolerance)

    @in_deployed_precision
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

        Each input is drawn for until its answer is clear, so that easy inputs cost a few hundred draws instead of a
        hundred thousand. The numbers of draws after which the test is evaluated are fixed beforehand, so that neither
        the batch size nor other rows change an answer. Each row is certified falsely with probability at most
        ``alpha``, however many draws it takes. A row that is decided but
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
            Cohen et al. (2019), arXiv:1902.02918, Theorem 1; :mod:`bounds.statistics.sequential` for the test.
        """
        radius = checks.positive("radius", radius)
        checks.at_most("alpha", checks.probability("alpha", alpha), LARGEST_ALPHA)
        max_samples, n0 = checks.at_least("max_samples", max_samples, 1), checks.at_least("n0", n0, 1)
        sampling = self.sampling(x, n0, draw_run_seed(generator), first_index)
        needed = round_up(self.noise.probability_needed_at(x, radius) + sampling.error)
        possible = needed < 1
        p0 = torch.where(possible, needed, 0.5)
        label = sampling.votes(self.num_classes, n0, Stage.SELECTION)[:, :-1].argmax(1)
        limit = math.log(1 / alpha)

        def settled(rows: Tensor, successes: Tensor, done: int) -> Tensor:
            # The most evidence still to come, if every further draw votes for the label.
            best = log_evidence_above(successes + max_samples - done, max_samples, p0[rows])
            above, below = (test(successes, done, p0[rows]) for test in (log_evidence_above, log_evidence_below))
            return (above >= limit) | (below >= limit) | (best < limit) | ~possible[rows]

        votes, draws = draw_until(settled, sampling, label, self.num_classes, max_samples)
        successes = votes_for(label, votes)
        certified = possible & (log_evidence_above(successes, draws, p0) >= limit)
        return RadiusDecision(
            label=label,
            certified=certified,
            decided=certified | (possible & (log_evidence_below(successes, draws, p0) >= limit)),
            successes=successes,
            draws=draws,
            radius=radius,
            norm=self.noise.norm,
            alpha=alpha,
            n0=n0,
            **self.provenance(sampling),
        )

    def look(self, model: nn.Module, seen: Tensor, batch_size: int) -> None:
        """Check a frozen model on inputs as it sees them."""
        probe(model, seen, self.num_classes, batch_size=batch_size)

    def sampling_of(self, certificate: SmoothingCertificate, x: Tensor, draws: int) -> Sampling:
        """Noise behind a certificate, after checking that this classifier made it for the inputs (N, *D).

        Raises:
            InvalidInput: a certificate of another classifier or of other inputs.
            InvalidModel: see :func:`certify.models.probe`.
        """
        if certificate.draws_version != DRAWS_VERSION:
            raise InvalidInput(
                f"certificate is of version {certificate.draws_version} of draws, this release makes version "
                f"{DRAWS_VERSION}: certify again, or go on with the release that made it"
            )
        sampling = self.sampling(x, max(draws, certificate.n0), certificate.seed, certificate.first_index)
        own = (self.subject(sampling.distribution), self.noise_group, len(x))
        if own != (certificate.subject, certificate.noise_group, len(certificate)):
            raise InvalidInput(
                f"certificate is of {certificate.subject}, noise_group {certificate.noise_group}, {len(certificate)} "
                f"inputs, this is {own[0]}, noise_group {own[1]}, {own[2]} inputs: pass what it was made with"
            )
        selection = sampling.votes(self.num_classes, certificate.n0, Stage.SELECTION)[:, :-1]
        if not torch.equal(selection, certificate.selection_counts.to(x.device)):
            raise InvalidInput("x and the model must be those of the certificate, but their selection votes differ")
        return sampling

    def _without_estimate(
        self, selection: Tensor, sampling: Sampling, *, n: int, n0: int, alpha: float, sequential: bool
    ) -> SmoothingCertificate:
        """Certificate that abstains everywhere: the label is chosen by votes (N, K + 1), and nothing is estimated."""
        counts = selection[:, :-1]
        label = counts.argmax(1)
        zeros = torch.zeros_like(label, dtype=torch.float64)
        return SmoothingCertificate(
            label=label,
            radius=zeros,
            abstained=torch.ones_like(label, dtype=torch.bool),
            norm=self.noise.norm,
            alpha=alpha,
            method="smoothing",
            counts=torch.zeros_like(counts),
            selection_counts=counts,
            invalid=torch.zeros_like(label),
            p_lower=zeros,
            p_upper=torch.ones_like(zeros),
            two_class=torch.zeros_like(label, dtype=torch.bool),
            draws=torch.zeros_like(label),
            sequential=sequential,
            n=n,
            n0=n0,
            **self.provenance(sampling),
        )

    def _radius(self, x: Tensor, lower: Tensor, upper: Tensor, two_class: Tensor) -> Tensor:
        binary = self.noise.radius_at(x, lower)
        return torch.where(two_class, self.noise.radius_at(x, lower, upper), binary) if two_class.any() else binary

    def _two_class_pays(self, x: Tensor, selection: Tensor, label: Tensor, n: int, alpha: float) -> Tensor:
        """(N,) bool: the two-class radius would be larger if n draws voted as the selection draws did."""
        expected = selection * n // selection.sum(1, keepdim=True).clamp(min=1)
        radii = []
        for choice in (False, True):
            two_class = torch.full_like(label, choice, dtype=torch.bool)
            radii.append(self._radius(x, *class_bounds(expected, label, n, alpha, two_class, 0.0), two_class))
        return radii[1] > radii[0]

    def _extended(
        self, certificate: SmoothingCertificate, sampling: Sampling, n: int, tolerance: float
    ) -> SmoothingCertificate:
        """The certificate once every row has ``n`` draws, or a radius that further ones can raise by little."""
        alpha, label, x = certificate.alpha, certificate.label, sampling.x

        def lower(successes: Tensor, draws: int | Tensor) -> Tensor:
            return lowered(sequential_lower(successes, draws, alpha=alpha), sampling.error)

        def settled(rows: Tensor, successes: Tensor, done: int) -> Tensor:
            if tolerance == 0 or done == 0:
                return torch.zeros_like(successes, dtype=torch.bool)
            now = lower(successes, done)
            # What it can become: if every further draw votes for the label, and if p is as large as it may be.
            best = torch.minimum(
                lower(successes + n - done, n), 1 - sequential_lower(done - successes, done, alpha=alpha)
            )
            parts = zip(*(column.split(checks.PART) for column in (rows, best, now)), strict=True)
            gain = [self.noise.radius_at(x[part], p) - self.noise.radius_at(x[part], q) for part, p, q in parts]
            return torch.cat(gain) <= tolerance

        counts = torch.cat([certificate.counts, certificate.invalid[:, None]], 1)
        votes, draws = draw_until(settled, sampling, label, self.num_classes, n, counts, certificate.draws)
        p_lower = lower(votes_for(label, votes), draws)
        return dataclasses.replace(
            certificate,
            radius=self.noise.radius_at(x, p_lower),
            abstained=~(p_lower > 0.5),
            counts=votes[:, :-1],
            invalid=votes[:, -1],
            p_lower=p_lower,
            p_upper=complement(p_lower),
            draws=draws,
            n=n,
        )


def _check_open_ended(alpha: float, tolerance: float) -> None:
    """Raise InvalidInput unless bounds that hold at every moment exist for these arguments."""
    checks.at_most("alpha", alpha, LARGEST_ALPHA)
    checks.nonnegative("tolerance", tolerance)
