"""Outcome of a gate as text, JSON, JUnit XML and annotations of GitHub."""

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from xml.etree import ElementTree

from bounds.sets.orders import order_key
from certify.comparison.regressions import Change
from certify.evaluation.summaries.comparisons import Contradiction
from certify.gate.outcome import GateOutcome
from certify.requirements import JudgedRequirement

FORMAT = 1  # of JSON: a key is only ever added, or this number grows
NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # characters outside XML 1.0
AGREE = "no certified radius exceeds the distance of an adversarial example of the same classifier and norm"
NOTHING = "nothing to compare: no certificate has an adversarial example of its input, classifier and norm"


class GateFinding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        kind: ``"contradiction"``, ``"refutation"``, ``"requirement"``, ``"change"``, ``"left_out"`` or
            ``"unfinished"``.
        word: the verdict on it, which begins its line.
        name: stable from run to run, as test reports need it.
        sentence: all that is known.
        failed: whether it keeps the gate closed.
        numbers: by name.
    """

    kind: str
    word: str
    name: str
    sentence: str
    failed: bool
    numbers: dict[str, Any]


def findings(outcome: GateOutcome) -> list[GateFinding]:
    """Contradictions, refutations, thresholds, changes, work left out and unfinished work, in this order."""
    return [
        *map(_contradiction, outcome.contradictions),
        *(GateFinding("refutation", "refuted", "records of the run", said, True, {}) for said in outcome.refutations),
        *map(_requirement, outcome.requirements),
        *map(_change, outcome.changes),
        *(GateFinding("left_out", "left out", "work left out", said, False, {}) for said in outcome.left_out),
        *_unfinished(outcome),
    ]


def _contradiction(found: Contradiction) -> GateFinding:
    numbers = {
        **{"index": found.index, "norm": order_key(found.norm), "subject": found.subject, "method": found.method},
        **{"radius": found.radius, "distance": found.distance},
    }
    name = f"{found.method} in norm {order_key(found.norm)}, input {found.index}"
    return GateFinding("contradiction", "contradiction", name, str(found), True, numbers)


def _requirement(found: JudgedRequirement) -> GateFinding:
    wanted = found.wanted
    numbers = {
        **{"method": wanted.method, "norm": order_key(wanted.order), "radius": wanted.radius},
        **{"at_least": wanted.at_least, "judge": wanted.judge, "about": wanted.about, "level": wanted.level},
        **{"count": found.count, "inputs": found.inputs, "estimate": found.estimate, "bound": found.bound},
        **{"alpha": found.alpha, "met": found.met},
    }
    judged = "estimate" if wanted.judge == "estimate" else wanted.about
    name = f"{wanted.method} in norm {order_key(wanted.order)} at radius {wanted.radius!r}, {judged}"
    return GateFinding("requirement", "met" if found.met else "missed", name, str(found), not found.met, numbers)


def _change(found: Change) -> GateFinding:
    numbers = {
        **{"of": found.about, "norm": order_key(found.norm), "radius": found.radius, "inputs": found.inputs},
        **{"before": found.before, "after": found.after, "lost": found.lost, "gained": found.gained},
        **{"p_value": found.p_value, "p_holm": found.p_holm, "level": found.level, "about": found.subject},
        **{"fell": found.fell},
    }
    name = f"{found.about} at radius {found.radius!r}"
    return GateFinding("change", "fell" if found.fell else "not fallen", name, str(found), found.fell, numbers)


def _unfinished(outcome: GateOutcome) -> Iterator[GateFinding]:
    if outcome.unfinished is not None:
        done, units = outcome.unfinished
        numbers = {"done": done, "units": units}
        yield GateFinding("unfinished", "unfinished", "all units of work", f"{done} of {units} units", True, numbers)


def _agreement(outcome: GateOutcome) -> str:
    return f"{AGREE} ({outcome.comparisons} comparisons)" if outcome.comparisons else NOTHING


def as_text(outcome: GateOutcome) -> str:
    """A line for each finding, and one that says what was compared."""
    lines = [f"{one.word}: {one.sentence}" for one in findings(outcome)]
    return "\n".join(lines + [_agreement(outcome)] * (not outcome.contradictions)) + "\n"


def as_json(outcome: GateOutcome) -> str:
    """One object; its keys are stable, and numbers that are not known are null."""
    found = findings(outcome)

    def of(kind: str) -> list[dict[str, Any]]:
        return [{**_finite(one.numbers), "sentence": one.sentence} for one in found if one.kind == kind]

    unfinished = of("unfinished")
    whole = {
        "format": FORMAT,
        "run": outcome.run,
        "against": outcome.against,
        "verdict": outcome.verdict,
        "exit_code": outcome.exit_code,
        "comparisons": outcome.comparisons,
        "contradictions": of("contradiction"),
        "refutations": list(outcome.refutations),
        "requirements": of("requirement"),
        "changes": of("change"),
        "left_out": list(outcome.left_out),
        "unfinished": unfinished[0] if unfinished else None,
    }
    return json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(numbers: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in numbers.items()
    }


def as_junit(outcome: GateOutcome) -> str:
    """A suite with one test case for each finding, with its numbers as properties, as Jenkins and GitLab read it.

    The schema of Jenkins has properties of suites alone, therefore so many suites.
    """
    found = [_contradictions(outcome), *(one for one in findings(outcome) if one.kind != "contradiction")]
    failures = sum(one.failed for one in found)
    counts = {"tests": str(len(found)), "failures": str(failures), "errors": "0"}
    suites = ElementTree.Element("testsuites", {"name": "certify check", **counts})
    for name, one in zip(_unlike([one.name for one in found]), found, strict=True):
        about = {"tests": "1", "failures": str(int(one.failed)), "errors": "0", "skipped": "0"}
        suite = ElementTree.SubElement(suites, "testsuite", {"name": _xml(f"{outcome.run}: {name}"), **about})
        _add_properties(suite, one.numbers)
        attributes = {"classname": f"certify.{one.kind}", "name": _xml(name), "time": "0"}
        case = ElementTree.SubElement(suite, "testcase", attributes)
        if one.failed:
            said = {"message": _xml(one.sentence.splitlines()[0]), "type": one.word}
            ElementTree.SubElement(case, "failure", said).text = _xml(one.sentence)
        else:
            ElementTree.SubElement(case, "system-out").text = _xml(one.sentence)
    ElementTree.indent(suites)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(suites, encoding="unicode")}\n'


def _contradictions(outcome: GateOutcome) -> GateFinding:
    """All contradictions as one test case, whose name stays when there are none."""
    numbers = {"run": outcome.run, "verdict": outcome.verdict, "exit_code": outcome.exit_code}
    numbers |= {"comparisons": outcome.comparisons, "contradictions": len(outcome.contradictions)}
    numbers |= {} if outcome.against is None else {"against": outcome.against}
    said = "\n".join(map(str, outcome.contradictions)) or _agreement(outcome)
    failed = bool(outcome.contradictions)
    return GateFinding("contradiction", "contradiction", "certificates and adversarial examples", said, failed, numbers)


def _unlike(names: list[str]) -> list[str]:
    """Names with a number where one stands again, since readers of reports keep one case of a name."""
    before = [names[:i].count(name) for i, name in enumerate(names)]
    return [f"{name} ({times + 1})" if times else name for name, times in zip(names, before, strict=True)]


def _add_properties(parent: ElementTree.Element, numbers: dict[str, Any]) -> None:
    properties = ElementTree.SubElement(parent, "properties")
    for name, value in numbers.items():
        ElementTree.SubElement(properties, "property", {"name": name, "value": _xml(str(value))})


def _xml(text: str) -> str:
    return NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def as_github(outcome: GateOutcome) -> str:
    """Commands of a workflow: an error for what keeps the gate closed, a notice for the rest."""
    lines = []
    for one in findings(outcome):
        title = _escaped(f"certify: {one.word}", also=":,")
        lines.append(f"::{'error' if one.failed else 'notice'} title={title}::{_escaped(one.sentence)}")
    if not outcome.contradictions:
        lines.append(f"::notice title=certify::{_escaped(_agreement(outcome))}")
    return "\n".join(lines) + "\n"


def _escaped(text: str, also: str = "") -> str:
    """Text in which the runner finds neither an end of the command nor, in a property, one of the property."""
    for sign in f"%\r\n{also}":  # % first, as it begins every escape
        text = text.replace(sign, f"%{ord(sign):02X}")
    return text


FORMATS: dict[str, Callable[[GateOutcome], str]] = {
    "text": as_text,
    "json": as_json,
    "junit": as_junit,
    "github": as_github,
}
