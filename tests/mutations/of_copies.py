"""Wrong programs of certificates of quantised copies as rows of a run, and of bounds on the sum of exponentials."""

from mutations.mutant import Mutant

COPIES = "tests/certify/evaluation/test_quantised_copies.py"
NARROWING = "tests/certify/confidence/test_narrowing.py"
LOWER = "tests/bounds/search/test_lower_bounds.py"

MUTANTS = (
    Mutant(
        "the digest of a copy leaves out its scales",
        "certify/methods/copies.py",
        'for part in ("values", "scale", "zero_point", "axis")',
        'for part in ("values", "zero_point", "axis")',
        COPIES,
    ),
    Mutant(
        "a file that was changed is taken for the copy",
        "certify/methods/copies.py",
        "if copy_digest(weights) != self.sha256:",
        "if False:",
        COPIES,
    ),
    Mutant(
        "the audit holds a radius against the model alone",
        "certify/auditing/certificates/copies.py",
        "_with_weights(own, box.centers())",
        "own",
        COPIES,
    ),
    Mutant(
        "examples of the model refute nothing of a copy",
        "certify/promises.py",
        'return "base" if subject.startswith("base, ") else subject',
        "return subject",
        COPIES,
    ),
    Mutant(
        "the radius of a copy is searched for the model alone",
        "certify/verification/quantisation/quantised.py",
        "graph = with_weight_box(model, x.double(), box)",
        "graph = with_weight_box(model, x.double(), WeightBox({}, {}))",
        COPIES,
    ),
    Mutant(
        "the entropy of weights counts twice",
        "certify/confidence/narrowing.py",
        "-torch.xlogy(weights, weights).sum(1)",
        "-2 * torch.xlogy(weights, weights).sum(1)",
        NARROWING,
    ),
    Mutant(
        "weights that were rounded no longer sum to 1",
        "certify/confidence/narrowing.py",
        "grains = grains.scatter_add(1, lead, GRAIN - grains.sum(1, keepdim=True))",
        "grains = grains * 1.01",
        NARROWING,
    ),
    Mutant(
        "classes that no mark reaches have no bound",
        "certify/confidence/narrowing.py",
        "return upper.index_put((classes,), torch.minimum(upper[classes], found))",
        "return upper.new_zeros(upper.shape).index_put((classes,), found / 2)",
        NARROWING,
    ),
    Mutant(
        "the best part of a case stands for all",
        "bounds/search/lower_bounds.py",
        'found.bound[ends], "amin")',
        'found.bound[ends], "amax")',
        LOWER,
    ),
    Mutant(
        "parts that are left when the search ends do not count",
        "bounds/search/lower_bounds.py",
        'return done.scatter_reduce(0, found.case, found.bound, "amin")',
        "return done",
        LOWER,
    ),
    Mutant(
        "one side of each split is forgotten",
        "bounds/search/lower_bounds.py",
        "found, parts = rest + children, parts + len(children)",
        "found, parts = rest + children[: len(worst)], parts + len(children)",
        LOWER,
    ),
)
