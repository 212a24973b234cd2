"""Robustness in the latent space of a decoder: perturbations of codes, which move inputs the way that data move."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.models import require_module
from certify.attacks import NoiseAccuracy, minimal_perturbation, noise_accuracy
from certify.curves import AttackedAccuracyCurve, CertifiedAccuracyCurve, current
from certify.models import frozen
from certify.results import Certificate, Witness, share_interval
from certify.verification.radius import certified_radius

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

NORMS = (1, 2, math.inf)


@dataclass(frozen=True, eq=False, kw_only=True)
class LatentRobustness:
    """Distances in a latent space, proved and found, with what the nearest errors change in the inputs.

    Attributes:
        labels: (N,) int64, correct classes of the decoded codes.
        certificate: radii around codes within which no decoded input gets another class; of the norm of codes.
        witness: the nearest codes found whose decoded inputs get another class.
        noise: correct predictions of decoded codes under noise of the codes.
        shift: (N,) float64, l_2 distance of the decoded witness from the decoded code, in units of the input; infinite
            where none was found.
    """

    labels: Tensor
    certificate: Certificate
    witness: Witness
    noise: NoiseAccuracy
    shift: Tensor

    @property
    def correct(self) -> Tensor:
        """(N,) bool, whether the decoded code is classified correctly."""
        return self.witness.label == self.labels

    def to_dataframe(self, radii: Sequence[float], *, alpha: float = 0.05) -> "pd.DataFrame":
        """One row per kind of accuracy and radius in the latent space, with its exact interval for new codes.

        Kinds are ``"clean"`` (generation accuracy), ``"noise"`` (of the first noisy copy), and at each radius
        ``"attacked"`` (latent adversarial accuracy, an upper bound) and ``"certified"`` (a lower one).
        """
        import pandas as pd

        kinds: list[tuple[str, float, Tensor]] = [("clean", 0.0, self.correct)]
        kinds.append(("noise", float(self.noise.epsilon[0]), self.noise.first_correct))
        for radius in radii:
            size = checks.nonnegative("radii", radius)
            kinds.append(("attacked", size, self.correct & (self.witness.distance > size)))
            kinds.append(("certified", size, self.certificate.certified(self.labels, size)))
        rows = [(name, r, float(right.double().mean()), *share_interval(right, alpha)) for name, r, right in kinds]
        return pd.DataFrame(rows, columns=["kind", "radius", "accuracy", "lower", "upper"])

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw certified and attacked accuracy against the radius in the latent space."""
        ax = current(ax)
        CertifiedAccuracyCurve.from_certificate(self.certificate, self.labels).plot(ax, label="certified")
        AttackedAccuracyCurve.from_witness(self.witness).plot(ax, label="attacked")
        ax.set_xlabel(f"radius in the latent space (l{self.certificate.norm:g})")
        return ax


@isolated
def latent_robustness(
    model: nn.Module,
    decoder: nn.Module,
    codes: Tensor,
    labels: Tensor,
    *,
    norm: float = 2,
    noise: float = 1.0,
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
        noise: size in that norm of the noise of codes.
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
        generative models, arXiv:2003.01993, for the figures; their bounds are ours.
    """
    checks.not_empty(checks.inputs(codes))
    if norm not in NORMS:
        raise InvalidInput(f"norm must be 1, 2 or math.inf, got {norm}: it measures perturbations of codes")
    checks.positive("noise", noise)
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
    with frozen(decoder), torch.no_grad():
        pairs = zip(witness.adversarial.split(batch_size), codes.split(batch_size), strict=True)
        moved = torch.cat([(decoder(z).double() - decoder(at).double()).flatten(1).norm(dim=1) for z, at in pairs])
    return LatentRobustness(
        labels=labels.to(codes.device),
        certificate=certificate,
        witness=witness,
        noise=noisy,
        shift=torch.where(witness.found, moved, torch.inf),
    )
