"""Sentences about the summary of an evaluation, for the page and the command line alike."""

from typing import TYPE_CHECKING

from certify.report.words import listed, norm_name

if TYPE_CHECKING:
    import pandas as pd

    from certify.attacks.studies.gradient_masking import GradientMaskingReport


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
