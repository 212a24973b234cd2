"""The list of mutants fits the program: each changes one place, and its tests exist."""

from pathlib import Path

import pytest
from mutants import MUTANTS
from mutations.mutant import Mutant

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.story.replace(" ", "-"))
def test_a_mutant_changes_one_place(mutant: Mutant):
    assert mutant.old != mutant.new
    assert (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1
    paths = [word.split("::")[0] for word in mutant.tests.split() if word.startswith("tests/")]
    assert paths
    assert all((ROOT / path).exists() for path in paths)
