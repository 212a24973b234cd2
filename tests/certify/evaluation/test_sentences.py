"""Radii in sentences: in units of the input, and in levels of 8-bit images where the inputs are such."""

import math
import re

from certify.evaluation.summaries.comparisons import Contradiction, Outside


def test_contradictions_have_all_digits_and_levels_in_the_same_order():
    """Levels are rounded to one side: a radius beyond a distance never looks nearer."""
    distance = 8 / 255
    radius = math.nextafter(distance, 1)
    said = str(Contradiction(3, math.inf, "base", "ibp", radius, distance, eight_bit=True))
    (exact, level), (other, nearer) = re.findall(r"(0\.\d+) \(([\d.]+)/255\)", said)
    assert (exact, other) == (repr(radius), repr(distance))
    assert float(level) >= float(nearer) == 8
    plain = str(Contradiction(3, math.inf, "base", "ibp", radius, distance))
    assert "/255" not in plain
    assert "/255" not in str(Contradiction(3, 0.0, "base", "ibp", 3.0, 2.0, eight_bit=True))  # entries are counted


def test_estimates_outside_of_both_have_levels_too():
    said = str(Outside(1, 2.0, "clever", 0.2, 0.0, 0.1, False, eight_bit=True))
    assert said == "input 1: clever estimates 0.2 (51/255) in l2, above the witness at 0.1 (25.5/255)"
    below = str(Outside(1, 2.0, "clever", 0.1, 0.2, math.inf, True, eight_bit=True))
    assert below == "input 1: clever estimates 0.1 (25.5/255) (capped) in l2, below the certified radius 0.2 (51/255)"
