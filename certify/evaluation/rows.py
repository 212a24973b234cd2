"""Results as the rows of a record: one mapping per input, in plain numbers that JSON can hold."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from bounds.errors import InvalidInput
from bounds.sets.distances import distance
from bounds.sets.orders import Order, order_key
from certify.attacks.studies.smoothed import SmoothedWitness
from certify.attacks.studies.transformations import TransformationWitness
from certify.results import (
    Certificate,
    Estimate,
    NoiseTolerance,
    Record,
    SmoothingCertificate,
    VerdictCertificate,
    Witness,
)
from certify.semantic.certificate import SemanticCertificate
from certify.sets.draws import SetAccuracy
from certify.verification.changed.certificate import CounterfactualCertificate

OF_SETS: Mapping[type[Certificate], tuple[str, ...]] = {  # what rows say besides of a certificate about a set
    SemanticCertificate: ("verified", "broken", "open_pieces", "pieces"),
    CounterfactualCertificate: ("verified", "parts"),
}


def certificate_rows(certificate: Certificate, labels: Tensor) -> list[dict[str, Any]]:
    """Rows of certificates, in plain numbers."""
    rows, wrong = [], _wrong(certificate, labels)
    for i, radius in enumerate(certificate.radius.tolist()):
        if not 0 <= radius < math.inf:
            raise InvalidInput(f"{certificate.method} must return finite radii of at least 0, got {radius}")
        proved = "certified" if radius > 0 else "not certified"
        row: dict[str, Any] = {
            "prediction": int(certificate.label[i]),
            "subject": certificate.subject,
            "status": "abstained" if certificate.abstained[i] else "misclassified" if wrong[i] else proved,
            "certified_radius": radius,
            "alpha": certificate.alpha,
        }
        if isinstance(certificate, SmoothingCertificate):
            row["counts"] = certificate.counts[i].tolist()
            row["selection_counts"] = certificate.selection_counts[i].tolist()
            row["p_lower"] = float(certificate.p_lower[i])
            row["p_upper"] = float(certificate.p_upper[i])
            row["draws"] = int(certificate.draws[i])
            row["invalid"] = int(certificate.invalid[i])
            row["two_class"] = bool(certificate.two_class[i])
            row["sampling"] = certificate.sampling
        row |= {name: getattr(certificate, name)[i].item() for name in OF_SETS.get(type(certificate), ())}
        if isinstance(certificate, SemanticCertificate):
            row |= _parameters(certificate.parameters[i])
        rows.append(row)
    return rows


def drawing_of(result: Record) -> dict[str, Any]:
    """Everything that the draws behind a record are a function of, for whoever draws again; empty without draws."""
    if not isinstance(result, SmoothingCertificate):
        return {}
    names = ["seed", "noise_group", "domain", "precision", "sampling_error", "draws_version", "sequential", "n", "n0"]
    return {"drawing": {name: getattr(result, name) for name in names}}


def with_verdicts(
    rows: Sequence[dict[str, Any]], certificate: VerdictCertificate, clean: Tensor, norms: Sequence[Order]
) -> list[dict[str, Any]]:
    """The rows of certificates with their verdicts, and the distances of the inputs that falsified some of them."""
    distances = _distances(certificate.adversarial, clean, norms)
    more: list[dict[str, Any]] = []
    for i, verdict in enumerate(certificate.verdict):
        more.append({"verdict": verdict, "decided_by": certificate.decided_by[i]})
        if verdict == "falsified":
            more[i]["distances"] = {norm: values[i] for norm, values in distances.items()}
    return [{**row, **added} for row, added in zip(rows, more, strict=True)]


def witness_rows(
    witness: Witness, clean: Tensor, labels: Tensor, norms: Sequence[Order], own: Order = math.inf
) -> list[dict[str, Any]]:
    """Rows of witnesses, in plain numbers, with their distances in every norm of the run.

    Those of a set of perturbations have a distance in their ``own`` set alone.
    """
    if isinstance(own, str):
        distances = {order_key(own): witness.distance.tolist()}
    else:
        distances = _distances(witness.adversarial, clean, norms)
    rows, wrong = [], _wrong(witness, labels)
    for i, found in enumerate(witness.found.tolist()):
        row: dict[str, Any] = {
            "prediction": int(witness.label[i]),
            "subject": witness.subject,
            "status": "misclassified" if wrong[i] else "found" if found else "not found",
            "queries": witness.queries if witness.queries_per_row is None else int(witness.queries_per_row[i]),
        }
        if isinstance(witness, SmoothedWitness):
            row |= {"alpha": witness.alpha, "abstained": bool(witness.abstained[i])}
        row |= _doubts(witness, i)
        if found:
            row["attack_distance"] = float(witness.distance[i])
            row["adversarial_label"] = int(witness.adversarial_label[i])
            row["distances"] = {norm: values[i] for norm, values in distances.items()}
            if isinstance(witness, TransformationWitness):
                row |= _parameters(witness.parameters[i])
        rows.append(row)
    return rows


def estimate_rows(estimate: Estimate, labels: Tensor) -> list[dict[str, Any]]:
    """Rows of estimates, in plain numbers, without a score where there is none."""
    rows, wrong = [], _wrong(estimate, labels)
    for i, score in enumerate(estimate.score.tolist()):
        row: dict[str, Any] = {
            "prediction": int(estimate.label[i]),
            "subject": estimate.subject,
            "status": "misclassified" if wrong[i] else estimate.status[i],
            "lipschitz_estimate": finite(estimate.lipschitz[i]),
            "largest_sampled": finite(estimate.largest[i]),
            "capped": bool(estimate.capped[i]),
            "reach": estimate.reach,
        }
        if not wrong[i] and score >= 0:  # False for NaN
            row["estimated_distance"] = score
        rows.append(row)
    return rows


def noise_rows(found: NoiseTolerance, labels: Tensor) -> list[dict[str, Any]]:
    """Rows of the sizes of random noise; without one where no size that was tried changes enough predictions."""
    rows, wrong = [], _wrong(found, labels)
    for i, radius in enumerate(found.radius.tolist()):
        changed = math.isfinite(radius)
        row: dict[str, Any] = {
            "prediction": int(found.label[i]),
            "subject": found.subject,
            "status": "misclassified" if wrong[i] else "changed" if changed else "not changed",
            "noise_lower": finite(found.lower[i]),
            "noise_upper": finite(found.upper[i]),
            "noise_share": found.epsilon,
        }
        if changed:
            row["noise_radius"] = radius
        rows.append(row)
    return rows


def random_rows(found: SetAccuracy, labels: Tensor, alpha: float) -> list[dict[str, Any]]:
    """Rows of random draws: how many of them are right, with an interval for the probability of an error."""
    rows, wrong = [], _wrong(found, labels)
    lower, upper = (ends.tolist() for ends in found.error_interval(alpha))
    for i, correct in enumerate(found.correct.tolist()):
        rows.append(
            {
                "prediction": int(found.label[i]),
                "subject": found.subject,
                "status": "misclassified" if wrong[i] else "changed" if correct < found.draws else "not changed",
                "draws": found.draws,
                "draws_right": correct,
                "error_lower": lower[i],
                "error_upper": upper[i],
            }
        )
    return rows


def _distances(adversarial: Tensor, clean: Tensor, norms: Sequence[Order]) -> dict[str, list[float]]:
    """Distances in every norm, by their keys."""
    orders = [norm for norm in norms if not isinstance(norm, str)]
    return {order_key(norm): distance(adversarial, clean, norm).tolist() for norm in orders}


def _parameters(values: Tensor) -> dict[str, list[float]]:
    """Parameters of a transformed image, where there is one."""
    return {} if bool(values.isnan().any()) else {"parameters": values.tolist()}


def _wrong(result: Record, labels: Tensor) -> list[bool]:
    """Rows whose clean input is given another class than the label, decided here for all results.

    An abstention names no class: its ``label`` is only the one with the most votes, and attacks search from it.
    """
    wrong = result.label != labels
    if isinstance(result, Certificate | SmoothedWitness):
        wrong &= ~result.abstained
    return wrong.tolist()


def _doubts(witness: Witness, i: int) -> dict[str, Any]:
    """Reasons to distrust that nothing nearer was found: gradients of 0, and symptoms that they mislead."""
    found: dict[str, Any] = {}
    if witness.blind is not None:
        found["blind"] = bool(witness.blind[i])
    if witness.symptoms is not None:
        found["symptoms"] = [name for name in witness.symptoms[i].split("+") if name]
    return found


def finite(value: Tensor) -> float | None:
    """A number for JSON, which has no NaN."""
    return float(value) if bool(value.isfinite()) else None
