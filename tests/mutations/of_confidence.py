"""Wrong programs of bounds on confidence, and of detection by it."""

from mutations.mutant import Mutant

MUTANTS = (
    Mutant(
        "the class itself counts among the others",
        "certify/confidence/certificates.py",
        "return differences.exp() * ~torch.eye(differences.shape[1], dtype=torch.bool, device=differences.device)",
        "return differences.exp()",
        "tests/certify/confidence/test_certificates.py",
    ),
    Mutant(
        "the differences of a class are read from the other side",
        "certify/confidence/certificates.py",
        "_others(least.clamp(max=LARGEST_EXPONENT)).sum(1)",
        "_others(least.clamp(max=LARGEST_EXPONENT)).sum(2)",
        "tests/certify/confidence/test_certificates.py",
    ),
    Mutant(
        "a sum that overflows leaves no confidence at all",
        "certify/confidence/certificates.py",
        "_others(least.clamp(max=LARGEST_EXPONENT))",
        "_others(least)",
        "tests/certify/confidence/test_certificates.py",
    ),
    Mutant(
        "an upper bound is rounded down",
        "certify/confidence/certificates.py",
        "return round_up(1 / (1 + others), 4 * ROUNDOFF).clamp(max=1.0)",
        "return round_down(1 / (1 + others), 4 * ROUNDOFF).clamp(max=1.0)",
        "tests/certify/confidence/test_certificates.py",
    ),
    Mutant(
        "upper and lower bounds of many logits are exchanged",
        "certify/confidence/certificates.py",
        "logits.lower.double()[:, :, None] - logits.upper.double()[:, None, :]",
        "logits.upper.double()[:, :, None] - logits.lower.double()[:, None, :]",
        "tests/certify/confidence/test_certificates.py",
    ),
    Mutant(
        "other inputs count with the least confidence they may have",
        "certify/confidence/detection.py",
        'RocCurve(known.least, largest.largest, "proved")',
        'RocCurve(known.least, largest.least, "proved")',
        "tests/certify/confidence/test_detection.py",
    ),
    Mutant(
        "known inputs count with the most confidence they may have",
        "certify/confidence/detection.py",
        "RocCurve(known.least, found.clean",
        "RocCurve(known.largest, found.clean",
        "tests/certify/confidence/test_detection.py",
    ),
    Mutant(
        "a tie counts as won",
        "certify/confidence/roc.py",
        "torch.searchsorted(ordered, scores) + torch.searchsorted(ordered, scores, right=True)",
        "2 * torch.searchsorted(ordered, scores, right=True)",
        "tests/certify/confidence/test_roc.py",
    ),
    Mutant(
        "the variance of known inputs is left out",
        "certify/confidence/roc.py",
        "for shares in (above, below)",
        "for shares in (below,)",
        "tests/certify/confidence/test_roc.py",
    ),
    Mutant(
        "one class less is among the pairs",
        "bounds/linear/pairs.py",
        "second = (place[:, None] + place[1:]) % classes",
        "second = (place[:, None] + place[1:] - 1) % classes",
        "tests/bounds/linear/test_pairs.py",
    ),
    Mutant(
        "an input outside of its ball is a witness",
        "certify/attacks/studies/confidence.py",
        "found = torch.where(per_row(within, found), found, given)",
        "found = found + 1e-3",
        "tests/certify/attacks/test_confidence.py",
    ),
    Mutant(
        "bins have no correction for their number",
        "certify/confidence/calibration.py",
        '(1 - checks.probability("confidence", confidence)) / len(self.counts)',
        'min(1.0, 5 * (1 - checks.probability("confidence", confidence)))',
        "tests/certify/confidence/test_calibration.py",
    ),
)
