"""Wrong programs about the memory of an evaluation, and votes that are stored under way."""

from mutations.mutant import Mutant

MEMORY = "tests/certify/evaluation/test_memory.py"
CHECKPOINTS = "tests/certify/evaluation/test_checkpoints.py"

MUTANTS = (
    Mutant(
        "every tensor that was ever made is still there",
        "certify/evaluation/budget/row_memory.py",
        "self._now -= size",
        "self._now -= 0",
        MEMORY,
    ),
    Mutant(
        "what an operation writes over counts once more",
        "certify/evaluation/budget/row_memory.py",
        "if size and address not in given and address not in self._known:",
        "if size:",
        MEMORY,
    ),
    Mutant(
        "a row takes what two rows take",
        "certify/evaluation/budget/row_memory.py",
        "each = max(two - one, 0)",
        "each = two",
        MEMORY,
    ),
    Mutant(
        "gradients take no memory",
        "certify/evaluation/budget/row_memory.py",
        "if self.gradient else 0.0)",
        "if False else 0.0)",
        MEMORY,
    ),
    Mutant(
        "any batch fits",
        "certify/evaluation/budget/allowance.py",
        "fits = one.bytes_of(passes, middle, held) <= usable",
        "fits = True",
        MEMORY,
    ),
    Mutant(
        "a method runs that does not fit with one input",
        "certify/evaluation/budget/allowance.py",
        "_require(method, one.bytes_of(passes, 1, held), usable)",
        "_require(method, 0.0, usable)",
        MEMORY,
    ),
    Mutant(
        "distances of all inputs are measured at once",
        "bounds/sets/distances.py",
        "rows = max(1, TOGETHER // max(1, points[:1].numel()))",
        "rows = max(1, len(points))",
        MEMORY,
    ),
    Mutant(
        "directions of noise take no memory",
        "certify/evaluation/budget/allowance.py",
        "OF_DIRECTIONS * method.draws * row",
        "0",
        MEMORY,
    ),
    Mutant(
        "bounds always fit",
        "certify/evaluation/budget/allowance.py",
        "return float(OF_NODES * capture(problem.model, x).entries(x))",
        "return 0.0",
        MEMORY,
    ),
    Mutant(
        "votes that were edited are believed",
        "certify/evaluation/checkpoints.py",
        "if content.digest() != content.sha256:",
        "if False:",
        CHECKPOINTS,
    ),
    Mutant(
        "votes of another run are believed",
        "certify/evaluation/checkpoints.py",
        "if content.run != chain.start_of(run.manifest, run.informative):",
        "if False:",
        CHECKPOINTS,
    ),
    Mutant(
        "every piece of a row has the draws of the first",
        "certify/evaluation/checkpoints.py",
        "block = first_block + piece.first // NOISE_BLOCK",
        "block = first_block",
        CHECKPOINTS,
    ),
    Mutant(
        "only the votes of the last piece count",
        "certify/evaluation/checkpoints.py",
        "[old + new for old, new in",
        "[new for old, new in",
        CHECKPOINTS,
    ),
    Mutant(
        "a row that was cut off is begun anew, and its votes count twice",
        "certify/evaluation/checkpoints.py",
        "call.row, call.part = row, part",
        "call.row, call.part = row, 0",
        CHECKPOINTS,
    ),
    Mutant(
        "votes of finished units stay",
        "certify/evaluation/checkpoints.py",
        "                path.unlink()\n",
        "",
        CHECKPOINTS,
    ),
)
