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

LEAST_ERROR = (
    Mutant(
        "inputs that no set covers enough are forgotten",
        "bounds/solvers/packing.py",
        "total = sum(whole.tolist()) + sum(rest.tolist())",
        "total = sum(whole.tolist())",
        "tests/bounds/test_least_error.py",
    ),
    Mutant(
        "multipliers below 0 count",
        "bounds/solvers/packing.py",
        "np.clip(np.nan_to_num(multipliers), 0, 1)",
        "np.clip(np.nan_to_num(multipliers), -9, 1)",
        "tests/bounds/test_least_error.py",
    ),
    Mutant(
        "three balls that meet in pairs have a common point in every norm",
        "bounds/solvers/conflicts.py",
        "if len(sets) == 0 or self.norm != 2:",
        "if len(sets) == 0 or self.norm >= 1:",
        "tests/bounds/test_least_error.py",
    ),
    Mutant(
        "inputs are in conflict at once epsilon",
        "bounds/solvers/conflicts.py",
        "near = certainly_within(apart, 2 * epsilon, x[0].numel())",
        "near = certainly_within(apart, epsilon, x[0].numel())",
        "tests/bounds/test_least_error.py",
    ),
    Mutant(
        "larger sets are never looked for",
        "bounds/solvers/conflicts.py",
        "if self.largest < 3 or len(edges) == 0:",
        "if self.largest < 99 or len(edges) == 0:",
        "tests/bounds/test_least_error.py",
    ),
    Mutant(
        "a linear classifier is attacked in the norm of the ball",
        "bounds/transport.py",
        "dual = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[norm]",
        "dual = norm",
        "tests/bounds/test_least_error.py",
    ),
)

DIRECTIONS = (
    Mutant(
        "the law of a squared cosine has one freedom more",
        "bounds/noise/directions.py",
        "special.betaincc(0.5, (features - 1) / 2,",
        "special.betaincc(0.5, features / 2,",
        "tests/bounds/test_directions.py",
    ),
    Mutant(
        "p-values of inputs are combined without their logarithms",
        "bounds/noise/directions.py",
        "-float(p_values.clamp(min=LEAST).log().sum())",
        "float(p_values.sum())",
        "tests/bounds/test_directions.py",
    ),
    Mutant(
        "the largest component is tested again and again",
        "bounds/noise/directions.py",
        "part[..., k] / part[..., k:].sum(-1)",
        "part[..., 0] / part[..., k:].sum(-1)",
        "tests/bounds/test_directions.py",
    ),
    Mutant(
        "noise of all rows is taken to be of one length",
        "bounds/noise/directions.py",
        "torch.linalg.pinv(projection.square())",
        "torch.linalg.pinv(projection.diagonal().diag())",
        "tests/bounds/test_directions.py",
    ),
    Mutant(
        "a normal is compared with itself",
        "bounds/noise/directions.py",
        ".square().fill_diagonal_(0)",
        ".square()",
        "tests/bounds/test_directions.py",
    ),
)

MUTANTS = SEPARATION + LEAST_ERROR + DIRECTIONS
