"""Certificates of smoothed classifiers, derived anew from their votes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from mpmath import iv

from certify.auditing.exact import binomial_tail, enclosure, fraction, interval, log_evidence
from certify.auditing.smoothed.noises import Plain, allows, noise_of_table, subject_of
from certify.auditing.tally import Tally
from certify.report.columns import LEFT_OUT

Row = Mapping[str, Any]
VOTES, LABELS, PROBABILITIES, RADII = (f"{what} of smoothing" for what in ("votes", "labels", "probabilities", "radii"))
LARGEST_SEQUENTIAL_ALPHA = 0.2
DRAWING = ("seed", "sampling_error", "draws_version")  # that probabilities and draws depend on
RADII_TOLD = "its radius {radius!r} is above what {noise} allows at p_lower {p_lower!r} and p_upper {p_upper!r}"


class Setting(NamedTuple):
    """Settings of a unit of smoothing, from the manifest, and how it drew, from its record."""

    noise: Plain
    alpha: Fraction
    n: int
    n0: int
    bound: str
    sequential: bool
    error: Fraction

    @classmethod
    def of(cls, table: Mapping[str, Any], drawing: Mapping[str, Any]) -> "Setting":
        """The setting; runs of earlier versions say less about their draws, and are asked for less."""
        return cls(
            noise=noise_of_table(table),
            alpha=fraction(table["alpha"]),
            n=table["n"],
            n0=table["n0"],
            bound=table.get("bound", "binary"),
            sequential=table.get("tolerance") is not None,
            error=fraction(drawing.get("sampling_error", 0.0)),
        )


def audit_drawing(tally: Tally, record: Mapping[str, Any]) -> None:
    """Refute a unit that does not say how it drew, of a run whose version says so of every unit."""
    lacking = [key for key in DRAWING if key not in record.get("drawing", {})]
    if lacking and any(row["status"] != LEFT_OUT for row in record["rows"]):
        tally.refute(VOTES, f"it does not say how it drew: it lacks {', '.join(lacking)}", record["unit"])


def audit_votes(
    tally: Tally, record: Mapping[str, Any], table: Mapping[str, Any], inputs: Mapping[int, Sequence[float]]
) -> None:
    """Judge all rows of a unit of smoothing from its own numbers.

    Args:
        tally: takes the verdicts.
        record: of the unit.
        table: settings of its method in the manifest.
        inputs: flat inputs by index, where they are at hand.
    """
    unit, drawing = record["unit"], record.get("drawing", {})
    try:
        setting = Setting.of(table, drawing)
    except (KeyError, TypeError, ValueError):
        tally.leave(VOTES, "settings of a method of one's own are not known to the audit", unit)
        return
    for wrong in _unlike(table, drawing):
        tally.refute(VOTES, wrong, unit)
    for row in record["rows"]:
        index = row["index"]
        if row["status"] == LEFT_OUT:
            continue
        if "counts" not in row or "p_lower" not in row:
            tally.refute(VOTES, "it states no votes", unit, index)
            continue
        try:
            for check, verdict, reason in _verdicts(row, setting, inputs.get(index)):
                tally.judge(check, verdict, reason, unit, index)
        except (KeyError, TypeError, ValueError, IndexError, ArithmeticError) as error:
            tally.refute(VOTES, f"its numbers are none of a certificate: {type(error).__name__} {error}", unit, index)


def _unlike(table: Mapping[str, Any], drawing: Mapping[str, Any]) -> Iterator[str]:
    """Sentences on where the record says that it drew in another way than the manifest asks for."""
    for key in ("n", "n0", "noise_group"):
        if key in drawing and drawing[key] != table.get(key):
            yield f"it was drawn with {key} = {drawing[key]}, but the manifest asks for {table.get(key)}"
    if "sequential" in drawing and drawing["sequential"] != (table.get("tolerance") is not None):
        yield "its draws are sequential, or not, against what the manifest asks for"


def _verdicts(row: Row, setting: Setting, x: Sequence[float] | None) -> Iterator[tuple[str, bool | None, str]]:
    counts, selected, label = row["counts"], row["selection_counts"], row["prediction"]
    draws, p_lower, p_upper = row["draws"], row["p_lower"], row["p_upper"]
    invalid = row.get("invalid", draws - sum(counts))
    yield VOTES, _are_votes([*counts, invalid], draws), f"its votes {sum(counts)} + {invalid} are not its {draws} draws"
    asked = draws <= setting.n if setting.sequential else draws == setting.n
    yield VOTES, asked, f"its draws {draws} are not those that the manifest asks for, {setting.n}"
    whole = all(type(count) is int and count >= 0 for count in selected) and sum(selected) <= setting.n0
    yield LABELS, whole, f"its selection votes are {sum(selected)}, of {setting.n0} draws"
    known = 0 <= label < len(counts) == len(selected)
    best = known and selected[label] == max(selected)
    yield LABELS, best, f"its label {label} is not the class that most selection draws chose"
    told = subject_of(setting.noise)
    named = row["subject"] == f"{told})" or row["subject"].startswith(f"{told}, grid=")
    yield LABELS, named if told else None, f"its subject {row['subject']!r} is the one of another noise"
    yield PROBABILITIES, fraction(row["alpha"]) == setting.alpha, f"its alpha {row['alpha']} is not the manifest's"
    if not known or not _are_votes([*counts, invalid], draws):
        return
    two_class = row.get("two_class", setting.bound == "two-class")
    agreed = setting.bound == "selected" or two_class == (setting.bound == "two-class")
    yield PROBABILITIES, agreed, f"two_class is {two_class}, but the manifest asks for bound = {setting.bound!r}"
    alpha = setting.alpha / 2 if two_class else setting.alpha
    lower = _supports(counts[label], draws, p_lower, alpha, setting)
    yield PROBABILITIES, lower, f"p_lower {p_lower!r} is above what {counts[label]} of {draws} votes allow"
    upper = _leaves(counts, label, draws, p_lower, p_upper, alpha if two_class else None, setting.error)
    yield PROBABILITIES, upper, f"p_upper {p_upper!r} is below what the votes allow"
    abstained, radius = row["status"] == "abstained", row["certified_radius"]
    yield RADII, abstained == (not p_lower > p_upper), "it abstains, or does not, against its own probabilities"
    allowed = radius == 0 if abstained else allows(setting.noise, radius, p_lower, p_upper if two_class else None, x)
    noise = setting.noise.get("name")
    yield RADII, allowed, RADII_TOLD.format(radius=radius, noise=noise, p_lower=p_lower, p_upper=p_upper)


def _are_votes(votes: Sequence[int], draws: int) -> bool:
    return all(type(count) is int and count >= 0 for count in votes) and sum(votes) == draws


def _supports(successes: int, draws: int, p_lower: float, alpha: Fraction, setting: Setting) -> bool | None:
    """Whether the probability, with what drawing may be off by, is a lower confidence bound for the votes."""
    if p_lower == 0:
        return True
    p = fraction(p_lower) + setting.error
    if not 0 < p < 1 or not draws:
        return False
    if not setting.sequential:
        return binomial_tail(successes, draws, p).at_most(alpha)
    if alpha > LARGEST_SEQUENTIAL_ALPHA:
        return False
    evidence = log_evidence(successes, draws, p)
    return False if evidence is None else evidence.at_least(enclosure(iv.log(interval(1 / alpha))).low)


def _leaves(
    counts: Sequence[int],
    label: int,
    draws: int,
    p_lower: float,
    p_upper: float,
    alpha: Fraction | None,
    error: Fraction,
) -> bool | None:
    """Whether every other class has at most that probability: what the label leaves, or by the largest other count.

    The count of the likeliest other class is at most the largest, whose bound is the highest.
    """
    if not 0 <= p_upper <= 1:
        return False
    if fraction(math.nextafter(p_upper, 2)) >= 1 - fraction(p_lower):  # which was rounded once
        return True
    if alpha is None:
        return False
    most = max(count for place, count in enumerate(counts) if place != label)
    rest = 1 - (fraction(p_upper) - error)
    return binomial_tail(draws - most, draws, rest).at_most(alpha)
