"""Formats of a gate, each read by a parser: every number comes back, and no text breaks out of its place."""

import json
import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from oracles.compared import NOT, attacked, evaluation, proved

from certify.comparison.regressions import regressions
from certify.evaluation.evaluation import Evaluation
from certify.evaluation.summaries.comparisons import Contradiction
from certify.gate.formats import FORMATS, as_github, as_json, as_junit, as_text
from certify.gate.outcome import GateOutcome, gate_outcome

BEFORE, AFTER = [0.5] * 12, [0.5] * 2 + [NOT] * 10
REQUIRE = [
    {"method": "ibp", "norm": "2", "radius": 0.1, "at_least": 0.03},
    {"method": "ibp", "norm": "2", "radius": 0.1, "at_least": 0.9, "about": "these inputs"},
    {"method": "crown", "norm": "2", "radius": 0.1, "at_least": 0.9},
]
HOSTILE = "::error::%0A\r\n::set-env a,b:c <&>\"' ]]> \x00\x1b \ud7ff"


def run(values: list[float], *, require: object = (), distance: float = 9.0) -> Evaluation:
    made = evaluation(proved(values), attacked([distance] * len(values)))
    return Evaluation({**made.manifest, "source": {"require": list(require)}}, made.records)


def outcome(**settings: object) -> GateOutcome:
    """Ten inputs lost; one threshold met, one missed, one without result."""
    made = gate_outcome(run(AFTER, require=REQUIRE), "runs/now")
    changes = regressions(run(AFTER), run(BEFORE), radii=[0.1])
    return replace(made, changes=changes, against="runs/before", **settings)


def hostile() -> GateOutcome:
    found = Contradiction(3, 2.0, HOSTILE, HOSTILE, 0.5, 0.4)
    return outcome(contradictions=[found, found], run=HOSTILE)


# ---------------------------------------------------------------------------------------------------------- exit codes


def test_exit_codes_follow_from_what_was_found():
    fine = gate_outcome(run(BEFORE), "r")
    assert (fine.verdict, fine.exit_code) == ("passed", 0)
    assert outcome().exit_code == 1
    assert replace(fine, unfinished=(1, 2)).exit_code == 1
    assert replace(fine, changes=outcome().changes).exit_code == 1
    assert gate_outcome(run(BEFORE, distance=0.4), "r").exit_code == 3


def test_text_has_a_line_for_each_finding():
    lines = as_text(replace(outcome(), unfinished=(3, 4))).splitlines()
    words = [line.partition(":")[0] for line in lines]
    assert words[:5] == ["met", "missed", "missed", "fell", "unfinished"]
    assert lines[2] == "missed: crown in l2 at radius 0.1 has no result; at least 0.9 is required"
    assert lines[-1].endswith("(2 comparisons)")
    assert "comparisons" not in as_text(hostile())


# ------------------------------------------------------------------------------------------------------------- formats


def test_json_has_stable_keys_and_every_number():
    found = json.loads(as_json(outcome()), parse_constant=pytest.fail)
    keys = ["format", "run", "against", "verdict", "exit_code", "comparisons"]
    rest = ["contradictions", "refutations", "requirements", "changes", "left_out", "unfinished"]
    assert list(found) == [*keys, *rest]
    assert (found["verdict"], found["exit_code"], found["run"], found["against"]) == (
        "missed",
        1,
        "runs/now",
        "runs/before",
    )
    met, missed, nothing = found["requirements"]
    assert set(met) == set(missed) == set(nothing)
    assert set(met) == {
        *("method", "norm", "radius", "at_least", "judge", "about", "level", "count", "inputs", "estimate", "bound"),
        *("alpha", "met", "sentence"),
    }
    assert (met["count"], met["inputs"], met["met"], missed["met"]) == (2, 12, True, False)
    assert met["bound"] < met["estimate"] == missed["estimate"] == missed["bound"] == 2 / 12
    assert nothing["estimate"] is nothing["bound"] is None
    (change,) = found["changes"]
    assert (change["before"], change["after"], change["lost"], change["gained"], change["fell"]) == (12, 2, 10, 0, True)
    assert change["p_value"] == 2.0**-10
    assert found["unfinished"] is None
    assert json.loads(as_json(replace(outcome(), unfinished=(3, 4))))["unfinished"]["units"] == 4
    assert json.loads(as_json(hostile()))["contradictions"][0]["method"] == HOSTILE


def properties(element: ElementTree.Element) -> dict[str, str]:
    """Numbers of a suite."""
    return {one.get("name"): one.get("value") for one in element.findall("properties/property")}


@pytest.mark.parametrize("made", [outcome, hostile], ids=["plain", "hostile"])
def test_junit_is_what_its_readers_expect(made):
    """Counts that add up, unlike names, and elements where the schema of Jenkins has them."""
    suites = ElementTree.fromstring(as_junit(made()).encode())
    cases, failures = list(suites.iter("testcase")), list(suites.iter("failure"))
    assert (int(suites.get("tests")), int(suites.get("failures"))) == (len(cases), len(failures))
    assert len({(case.get("classname"), case.get("name")) for case in cases}) == len(cases)
    for suite in suites:
        assert [child.tag for child in suite] == ["properties", "testcase"]
        assert [child.tag for child in suite[1]] in (["failure"], ["system-out"])
        assert (int(suite.get("tests")), int(suite.get("failures"))) == (1, len(suite.findall("testcase/failure")))
    assert properties(suites[0])["exit_code"] == str(made().exit_code)
    assert (suites[0].find("testcase/failure") is not None) == bool(made().contradictions)


def test_junit_properties_are_the_numbers():
    agree, met, missed, _, change = ElementTree.fromstring(as_junit(outcome()).encode())
    assert properties(agree)["contradictions"] == "0"
    assert properties(met)["radius"] == "0.1"
    assert float(properties(met)["bound"]) == outcome().requirements[0].bound
    assert properties(missed)["about"] == "these inputs"
    assert missed.find("testcase/failure").get("message") == str(outcome().requirements[1])
    assert met.find("testcase/failure") is None
    assert properties(change)["lost"] == "10"


COMMAND = re.compile(r"::(?P<command>error|notice) title=(?P<title>[^:,\r\n]*)::(?P<message>[^\r\n]*)")


def unescaped(text: str) -> str:
    """As the runner does it: % last."""
    for escape, sign in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        text = text.replace(escape, sign)
    return text


@pytest.mark.parametrize("made", [outcome, hostile], ids=["plain", "hostile"])
def test_github_commands_are_one_line_each_and_give_the_sentences_back(made):
    lines = as_github(made()).split("\n")
    assert lines.pop() == ""
    found = [COMMAND.fullmatch(line) for line in lines]
    assert None not in found
    sentences = [unescaped(one["message"]) for one in found]
    expected = [*map(str, made().contradictions), *map(str, made().requirements), *map(str, made().changes)]
    assert sentences[: len(expected)] == expected
    for one, line in zip(expected, lines, strict=False):
        assert line.startswith("::notice" if one == str(made().requirements[0]) else "::error")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_whole_and_ends_with_a_line(name: str):
    assert FORMATS[name](outcome()).endswith("\n")
    assert not math.isnan(outcome().requirements[0].bound)
