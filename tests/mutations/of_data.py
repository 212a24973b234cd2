"""Wrong programs of what data alone allows: separation, transport, directions against chance."""

from mutations.mutant import Mutant

SEPARATION = (
    Mutant(
        "a certificate reaches half of the way",
        "bounds/separation.py",
        "within = certainly_within(apart, radius[rows][:, None],",
        "within = certainly_within(apart, 2 * radius[rows][:, None],",
        "tests/bounds/test_separation.py",
    ),
    Mutant(
        "pairs below the diagonal of a block are not mirrored",
        "bounds/separation.py",
        "mirrored = table[second, first] < table[first, second]",
        "mirrored = table[second, first] < 0",
        "tests/bounds/test_separation.py",
    ),
    Mutant(
        "distances of inputs in later blocks are not seen from there",
        "bounds/separation.py",
        "_update(nearest, other, columns, rows, apart.T)",
        "pass",
        "tests/bounds/test_separation.py",
    ),
    Mutant(
        "a radius of 0 proves something",
        "bounds/separation.py",
        "torch.where(radius[rows] > 0, within.sum(1), 0)",
        "within.sum(1)",
        "tests/bounds/test_separation.py",
    ),
)

MUTANTS = SEPARATION
