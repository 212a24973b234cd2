"""Promises of the numbers of a result: decided once, and read by records, table, page and command line."""

from dataclasses import dataclass
from typing import Self

from certify.results import Certificate, DrawnAccuracy, Estimate, NoiseTolerance, Record

PROVED = {
    "": "in real arithmetic",
    "real": "in real arithmetic, up to rounding errors",
    "rounding": "in real arithmetic, with rounding errors included",
    "deployed": "as it runs in float32",
}

NO_RESULT = ("unsupported", "left out")  # kinds of records without any result


def refuting_subject(subject: str) -> str:
    """Classifier whose adversarial examples refute a statement: the model, where it is one of several classifiers.

    >>> refuting_subject("base, quantised copy and all between"), refuting_subject("quantised copy")
    ('base', 'quantised copy')
    """
    return "base" if subject.startswith("base, ") else subject


@dataclass(frozen=True, kw_only=True)
class Promise:
    """Promise of the numbers of a result, decided once, from the result.

    Attributes:
        kind: ``"certificate"``, ``"estimate"``, ``"witness"``, ``"noise"`` of a :class:`certify.NoiseTolerance`,
            ``"random"`` of random draws from a set; or ``"unsupported"`` and ``"left out"`` where there is no result.
        alpha: probability, per row, that the statement is wrong; 0 for a proof and for a re-checked witness.
        subject: the classifier it speaks of.
        arithmetic: of a deterministic proof, see ``sound`` of :class:`Certificate`; empty elsewhere.
        within: of an estimate, the radius of its points; of random noise, the probability of a change.
    """

    kind: str
    alpha: float = 0.0
    subject: str = "base"
    arithmetic: str = ""
    within: float | None = None

    @classmethod
    def of(cls, result: Record) -> Self:
        """The promise of all rows of a result."""
        alpha, subject = float(getattr(result, "alpha", 0.0)), str(getattr(result, "subject", "base"))
        if isinstance(result, Certificate):
            sound = result.sound if alpha == 0 else ""
            return cls(kind="certificate", alpha=alpha, subject=subject, arithmetic=sound)
        if isinstance(result, Estimate):
            return cls(kind="estimate", subject=subject, within=result.reach)
        if isinstance(result, NoiseTolerance):
            return cls(kind="noise", subject=subject, within=result.epsilon)
        if isinstance(result, DrawnAccuracy):
            return cls(kind="random", subject=subject)
        return cls(kind="witness", alpha=alpha, subject=subject)

    def __str__(self) -> str:
        """The promise in a few words.

        >>> str(Promise(kind="certificate", alpha=0.001)), str(Promise(kind="certificate", arithmetic="real"))
        ('lower bound with probability 0.999', 'lower bound, proved up to rounding errors')
        """
        if self.kind == "unsupported":
            return "none: a layer is not supported"
        if self.kind == "left out":
            return "none: left out"
        if self.kind == "noise":
            return f"none: random noise that changes {100 * (self.within or 0):g} % of its predictions"
        if self.kind == "random":
            return "none: random draws"
        if self.kind == "estimate":
            return f"none: an estimate, of points within {self.within:g}"
        if self.alpha > 0:
            return f"{'lower' if self.kind == 'certificate' else 'upper'} bound with probability {1 - self.alpha:g}"
        if self.kind == "witness":
            return "upper bound, re-checked"
        about = {"real": " up to rounding errors", "deployed": " of the float32 network"}
        return f"lower bound, proved{about.get(self.arithmetic, '')}"
