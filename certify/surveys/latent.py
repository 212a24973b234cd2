"""Robustness in the latent space of a decoder: perturbations of codes, which move inputs the way that data move."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.models import require_module
from bounds.noise.directions import student_interval
from certify.attacks import NoiseAccuracy, minimal_perturbation, noise_accuracy
from certify.corruptions.filters import drawn_like
from certify.curves import AttackedAccuracyCurve, CertifiedAccuracyCurve, round_radii
from certify.models import frozen, predictions
from certify.results import Certificate, Witness, share_interval
from certify.verification.radius import certified_radius

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

NORMS = (1, 2, math.inf)


@dataclass(frozen=True, eq=False, kw_only=True)
class LatentRobustness:
    r"""Distances in a latent space, proved and found, with what the nearest errors change in the inputs.

    Attributes:
        labels: (N,) int64, correct classes of the decoded codes.
        codes: (N, *Z), the codes.
        certificate: radii around codes within which no decoded input gets another class; of the norm of codes.
        witness: the nearest codes found whose decoded inputs get another class.
        noise: correct predictions of decoded codes under noise of the codes, of a size.
        local_noise: (N,) bool, whether the prediction is correct for the code :math:`(z + e n) / \sqrt{1 + e^2}`, with
            one standard normal n each, which has the law of the code where that is standard normal.
        noise_scale: the number e.
        shift: (N,) float64, l_2 distance of the decoded witness from the decoded code, in units of the input; infinite
            where none was found.
        shift_l1: (N,) float64, their l_1 distance.
        features: entries of an input.
    """

    labels: Tensor
    codes: Tensor
    certificate: Certificate
    witness: Witness
    noise: NoiseAccuracy
    local_noise: Tensor
    noise_scale: float
    shift: Tensor
    shift_l1: Tensor
    features: int

    @property
    def correct(self) -> Tensor:
        """(N,) bool, whether the decoded code is classified correctly."""
        return self.witness.label == self.labels

    @property
    def scaled_distance(self) -> Tensor:
        """(N,) float64, distance of the witness as a scaled norm, that of a vector of ones being 1.

        A distance in l_p over the p-th root of the number of latent dimensions.
        """
        distance: Tensor = self.witness.distance / self.codes[0].numel() ** (1 / self.certificate.norm)
        return distance

    def metrics(self, *, alpha: float = 0.05) -> "pd.DataFrame":
        r"""Latent space performance metrics of Buzhinsky et al., one row each, with intervals for new codes.

        Those of generation where codes were drawn from the prior, of reconstruction where an encoder made them:

        - ``latent accuracy``: of decoded codes, without a perturbation.
        - ``local latent noise accuracy``: see ``local_noise``.
        - ``latent perturbation``: mean scaled norm of the least adversarial perturbation of a code found. It is 0 for a
          decoded code that is wrong already.
        - ``rise of the latent norm``: by how much it raises the scaled norm of the code: longer codes are less likely.
        - ``input perturbation, l2`` and ``l1``: mean scaled norms of what it changes in the decoded input.

        Intervals of accuracies are exact, those of means Student's over codes with an error found. The authors search
        around codes that are divided by :math:`\sqrt{1 + e^2}`: give such codes to compare.

        Args:
            alpha: of each interval.
        """
        import pandas as pd

        power, size = 1 / self.certificate.norm, self.codes[0].numel()
        norms = [
            codes.flatten(1).double().norm(p=self.certificate.norm, dim=1) / size**power
            for codes in (self.witness.adversarial, self.codes)
        ]
        means = {
            "latent perturbation": self.scaled_distance,
            "rise of the latent norm": norms[0] - norms[1],
            "input perturbation, l2": self.shift / math.sqrt(self.features),
            "input perturbation, l1": self.shift_l1 / self.features,
        }
        shares = {"latent accuracy": self.correct, "local latent noise accuracy": self.local_noise}
        rows = [(name, float(right.double().mean()), *share_interval(right, alpha)) for name, right in shares.items()]
        for name, values in means.items():
            known = values[self.witness.found]
            ends = student_interval(known, 1 - alpha) if len(known) else (math.nan, math.nan)
            rows.append((name, float(known.mean()), *ends))
        return pd.DataFrame(rows, columns=["metric", "value", "lower", "upper"])

    def to_dataframe(self, radii: Sequence[float] | None = None, *, alpha: float = 0.05) -> "pd.DataFrame":
        r"""One row per kind of accuracy and radius in the latent space, with its exact interval for new codes.

        Kinds are ``"clean"`` (latent accuracy), ``"noise"`` (of the first noisy copy), and at each radius
        ``"attacked"`` (latent adversarial accuracy, an upper bound) and ``"certified"`` (a lower one). A bound
        :math:`\rho` on scaled norms, as of Buzhinsky et al., is a radius :math:`\rho \sqrt{d}` in l_2 of d dimensions.

        Args:
            radii: at which accuracies are stated; None for round ones where the curves fall.
            alpha: of each interval.
        """
        import pandas as pd

        kinds: list[tuple[str, float, Tensor]] = [("clean", 0.0, self.correct)]
        kinds.append(("noise", float(self.noise.epsilon[0]), self.noise.first_correct))
        for radius in radii if radii is not None else round_radii(self._curves()):
            size = checks.nonnegative("radii", radius)
            kinds.append(("attacked", size, self.correct & (self.witness.distance > size)))
            kinds.append(("certified", size, self.certificate.certified(self.labels, size)))
        rows = [(name, r, float(right.double().mean()), *share_interval(right, alpha)) for name, r, right in kinds]
        return pd.DataFrame(rows, columns=["kind", "radius", "accuracy", "lower", "upper"])

    def sentences(self) -> list[str]:
        """Medians of what is proved and found, in words."""
        right = self.correct
        if not right.any():
            return [f"none of the {len(right)} decoded codes is classified correctly"]
        proved, found = (float(of[right].median()) for of in (self.certificate.radius, self.witness.distance))
        return [
            f"{int(right.sum())} of {len(right)} decoded codes are classified correctly; of these the median radius "
            f"proved in the latent space is {proved:.3g}, the median distance of the nearest error found {found:.3g}"
        ]

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw certified and attacked accuracy against the radius in the latent space."""
        ax = checks.axes(ax)
        for curve, name in zip(self._curves(), ("certified", "attacked"), strict=True):
            curve.plot(ax, label=name)
        ax.set_xlabel(f"radius in the latent space (l{self.certificate.norm:g})")
        return ax

    def _curves(self) -> tuple[CertifiedAccuracyCurve, AttackedAccuracyCurve]:
        certified = CertifiedAccuracyCurve.from_certificate(self.certificate, self.labels)
        return certified, AttackedAccuracyCurve.from_witness(self.witness)


@isolated
def latent_robustness(
    model: nn.Module,
    decoder: nn.Module,
    codes: Tensor,
    labels: Tensor,
    *,
    norm: float = 2,
    noise: float = 1.0,
    noise_scale: float = 1.0,
    method: str = "crown",
    sound: str = "rounding",
    tolerance: float = 1e-2,
    steps: int = 100,
    batch_size: int = 256,
    generator: torch.Generator | None = None,
) -> LatentRobustness:
    """Robustness of a classifier to perturbations in the latent space of a decoder, proved and found.

    The perturbation set of a code z is the image under the decoder of the ball around z. It is not bounded by itself:
    the classifier is bounded and attacked as a function of the code, so that bounds see the decoder too. What is proved
    is about decoded codes of that ball; an input that the decoder never makes is not among them. There is no box: a
    radius holds within any, such as that of the values that a prior makes likely.

    Args:
        model: maps inputs (N, *D) to logits (N, K).
        decoder: maps codes (N, *Z) to inputs (N, *D); any network that the bounding method follows.
        codes: (N, *Z), floating and finite, at least one: drawn from the prior, or of an encoder.
        labels: (N,) correct classes of the decoded codes.
        norm: of perturbations of codes: 1, 2 or ``math.inf``.
        noise: size in that norm of the noise of codes, for ``noise``.
        noise_scale: standard deviation of the noise of codes, for ``local_noise``.
        method: see :func:`certify.certified_radius`, but for ``"complete"``.
        sound: ``"rounding"`` or ``"real"``, see :func:`bounds.crown`.
        tolerance: relative distance of both sides at which the search for a radius stops.
        steps: of the attack.
        batch_size: codes bounded and attacked at once.
        generator: source of the attack's starts and of the noise.

    Raises:
        InvalidInput: a bad argument, no code.
        InvalidModel: see :func:`certify.models.probe`.
        UnsupportedLayer: the method knows no rule for a layer of the model or of the decoder.

    References:
        Buzhinsky, Nerinovsky, Tripakis (2020), Metrics and methods for robustness evaluation of neural networks with
        generative models, arXiv:2003.01993, for the metrics, as their programs in
        github.com/igor-buzhinsky/latent-space-nn-evaluation compute them; their bounds are ours.
    """
    checks.not_empty(checks.inputs(codes))
    if norm not in NORMS:
        raise InvalidInput(f"norm must be 1, 2 or math.inf, got {norm}: it measures perturbations of codes")
    checks.positive("noise", noise)
    scale = checks.positive("noise_scale", noise_scale)
    checks.one_of("sound", sound, ("rounding", "real"))
    for part in (decoder, model):
        require_module(part)
    both, codes = nn.Sequential(decoder, model), codes.detach()
    source, box = checks.generator(generator, codes.device), {"low": None, "high": None}
    options = {"method": method, "sound": sound, "tolerance": tolerance, "batch_size": batch_size}
    certificate = certified_radius(both, codes, labels, norm=norm, **box, **options)  # type: ignore[arg-type]  # of many types
    search = {"norm": norm, "batch_size": batch_size, "generator": source}
    witness = minimal_perturbation(both, codes, labels, steps=steps, **box, **search)  # type: ignore[arg-type]
    noisy = noise_accuracy(both, codes, labels, epsilon=noise, **box, **search)  # type: ignore[arg-type]
    shaken = (codes + scale * drawn_like(codes, source)) / math.sqrt(1 + scale**2)
    with frozen(both):
        local = predictions(both, shaken, batch_size)
    moved = _moves(decoder, codes, witness.adversarial, batch_size)
    labels = labels.to(codes.device)
    return LatentRobustness(
        labels=labels,
        codes=codes,
        certificate=certificate,
        witness=witness,
        noise=noisy,
        local_noise=local == labels,
        noise_scale=scale,
        shift=torch.where(witness.found, moved.norms[0], torch.inf),
        shift_l1=torch.where(witness.found, moved.norms[1], torch.inf),
        features=moved.features,
    )


class _Moved(NamedTuple):
    """Distances (2, N) between decoded codes in l_2 and l_1, and the entries of an input."""

    norms: Tensor
    features: int


def _moves(decoder: nn.Module, codes: Tensor, others: Tensor, batch_size: int) -> _Moved:
    parts = []
    with frozen(decoder), torch.no_grad():
        for z, at in zip(others.split(batch_size), codes.split(batch_size), strict=True):
            change = (decoder(z).double() - decoder(at).double()).flatten(1)
            parts.append(torch.stack([change.norm(p=p, dim=1) for p in (2, 1)]))
    return _Moved(torch.cat(parts, 1), change.shape[1])
