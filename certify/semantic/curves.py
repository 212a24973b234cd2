"""Certified, attacked and random accuracy against the size of a transformation."""

from dataclasses import dataclass

from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput
from certify.curves import AttackedAccuracyCurve, CertifiedAccuracyCurve
from certify.results import Witness
from certify.semantic.certificate import SemanticCertificate
from certify.semantic.random_draws import TransformationAccuracy
from certify.sets.curves import SetCurves


@dataclass(frozen=True, eq=False, kw_only=True)
class TransformationCurves(SetCurves):
    """Accuracy under transformations up to a size: proved, left by an attack, and random.

    Attributes:
        certified: the proved curve, a lower bound.
        attacked: what an attack left, an upper bound; or None.
        random: copies under random transformations; or None.
        reach: the size of the whole range.
        unit: of sizes.
    """

    @classmethod
    def of(
        cls,
        certificate: SemanticCertificate,
        labels: Tensor,
        *,
        witness: Witness | None = None,
        random: TransformationAccuracy | None = None,
    ) -> "TransformationCurves":
        """The curves of results for the same inputs and transformation.

        Args:
            certificate: of :func:`certify_transformation`.
            labels: (N,) correct classes.
            witness: of :func:`certify.attacks.transformation`.
            random: of :func:`random_transformations`.

        Raises:
            InvalidInput: results of other inputs or of another transformation.
        """
        checks.rows("labels", labels, len(certificate))
        for name, other in (("witness", witness), ("random", random)):
            said = getattr(other, "transformation", certificate.transformation)
            if other is not None and (said != certificate.transformation or len(other) != len(certificate)):
                raise InvalidInput(
                    f"{name} must be of the {len(certificate)} inputs and {certificate.transformation} of the "
                    f"certificate, got {len(other)} inputs and {said}: run it with the same ones"
                )
        return cls(
            certified=CertifiedAccuracyCurve.from_certificate(certificate, labels),
            attacked=None if witness is None else AttackedAccuracyCurve.from_witness(witness),
            random=random,
            reach=certificate.reach,
            unit=certificate.unit,
        )
