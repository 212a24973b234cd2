"""Sentences about the summary of an evaluation, for the page and the command line alike."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from certify.promises import PROVED
from certify.report.results import Kind, Results
from certify.report.words import classifier_name, listed, norm_name

if TYPE_CHECKING:
    import pandas as pd

    from certify.attacks.studies.gradient_masking import GradientMaskingReport

LINEAR = ("crown_ibp", "fast_lin", "crown", "alpha_crown")
BOUNDS = {
    "ibp": "interval bounds",
    "transformation_bounds": "bounds of transformations",
    "change_bounds": "bounds of changed features and words",
} | dict.fromkeys(LINEAR, "linear bounds")
TITLES: dict[Kind, str] = {
    "proof": "Proved",
    "probable": "With high probability",
    "estimate": "Estimated",
    "witness": "Found",
}


def what_was_done(results: Sequence[Results], count: int) -> str:
    """A sentence about the inputs, and the norms and classifiers that were asked about."""
    certified = [each for each in results if each.kind in ("proof", "probable")]
    attacked = [each for each in results if each.kind == "witness"]
    guessed = [each for each in results if each.kind == "estimate"]
    done = []
    if certified:
        done.append(f"radii within which the predicted class does not change were certified for {_subjects(certified)}")
    if attacked:
        done.append(f"adversarial examples were sought for {_subjects(attacked)}")
    if guessed:
        done.append(f"distances were estimated for {_subjects(guessed)}")
    inputs = f"{count} input" + "s" * (count != 1)
    return f"For {inputs}, {', and '.join(done) or 'nothing was certified'}."


def _subjects(results: Sequence[Results]) -> str:
    norms: dict[str, list[str]] = {}
    for each in results:
        known = norms.setdefault(classifier_name(each.line.subject), [])
        known += [name for name in [norm_name(each.line.norm)] if name not in known]
    return " and for ".join(f"{subject} in {listed(names)}" for subject, names in norms.items())


def promises(results: Sequence[Results]) -> list[tuple[Kind, str, str]]:
    """A kind of promise, its title, and one sentence about all methods that make it."""
    found = []
    for kind, title in TITLES.items():
        about: dict[str, list[str]] = {}
        for each in results:
            if each.kind == kind:
                names, name = about.setdefault(_promise(each), []), _method(each)
                names += [name] * (name not in names)
        if about:
            sentence = "; ".join(promise.format(listed(names)) for promise, names in about.items())
            found.append((kind, title, f"{sentence[0].upper()}{sentence[1:]}."))
    return found


def _method(results: Results) -> str:
    line = results.line
    if results.kind == "proof":
        return BOUNDS.get(line.method, f"{line.method} bounds")
    return "smoothed" if line.subject.startswith("smoothed(") and results.kind == "probable" else line.method


def _promise(results: Results) -> str:
    """The promise, with a place for the names of the methods that make it."""
    line, subject = results.line, classifier_name(results.line.subject).replace("{", "{{").replace("}", "}}")
    if results.kind == "estimate":
        return "{} estimates bound nothing"
    if results.kind == "witness":
        return "every adversarial example was checked again, and its distance is an upper bound"
    if results.kind == "proof":
        about = "the model" if line.subject == "base" else subject
        return f"{{}} are proofs about {about} {PROVED[line.promise.arithmetic]}"
    other = "" if line.subject == "base" else f" and speaks of {subject}, not of the model itself"
    return f"each {{}} certificate is false with probability at most {line.promise.alpha!r}{other}"


def no_curves(summary: "pd.DataFrame") -> str:
    """The reason why an evaluation without certificates and witnesses has no curve."""
    missing = (summary["left_out"] == summary["inputs"]) if "left_out" in summary else summary["correct"].isna() & False
    unsupported = summary["correct"].isna() & ~missing
    kinds = (unsupported, ~unsupported & ~missing, missing)
    refused, guessing, left = (list(dict.fromkeys(summary[part]["method"])) for part in kinds)
    reasons = [f"{listed(refused)} cannot treat a layer of the model"] * bool(refused)
    reasons += [f"{listed(guessing)} gave estimates, which bound nothing"] * bool(guessing)
    reasons += [f"{listed(left)} was left out"] * bool(left)
    return "; ".join(reasons) or "no unit of work is finished"


def doubts(summary: "pd.DataFrame") -> list[str]:
    """Reasons to distrust the distances of attacks, a sentence each; empty if the searches saw gradients."""
    found = []
    for row in summary.to_dict("records"):
        name = f"{row['method']} in {row['norm']}"
        advice = "where nothing near was found, that says little; attack a smooth stand-in, or without gradients, too"
        if isinstance(row["blind"], int) and row["blind"]:
            found.append(
                f"{name} was blind for {row['blind']} of {row['inputs']} inputs, all gradients being 0: {advice}"
            )
        if row["symptoms"]:
            found.append(f"{name} shows signs of masked gradients ({row['symptoms']}): {advice}")
    return found


def masking_sentence(report: "GradientMaskingReport") -> str:
    """The verdict of :func:`certify.attacks.gradient_masking`."""
    shares = [f"{name.replace('_', ' ')} ({100 * report.shares[name]:.0f} % of the rows)" for name in report.flags]
    where = f"of {int(report.examined.sum())} inputs examined in {norm_name(report.norm)}"
    if not shares:
        return f"{where}, too few to count show a symptom of masked gradients, which proves nothing"
    return (
        f"{where}, too many show symptoms of masked gradients, {listed(shares)}: attacks that follow gradients mislead"
    )
