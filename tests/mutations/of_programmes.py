"""Wrong programs of solvers and of properties."""

from mutations.mutant import Mutant

SOLVERS = (
    Mutant(
        "multipliers below 0 count",
        "bounds/solvers/linear_programme.py",
        "weights = multipliers.clamp(min=0)",
        "weights = multipliers",
        "tests/bounds/solvers/test_triangle.py",
    ),
    Mutant(
        "the solver is believed about the sides of variables",
        "bounds/solvers/linear_programme.py",
        "torch.where(reduced > 0, reduced * self.lower, reduced * self.upper)",
        "torch.where(reduced > 0, reduced * self.lower, reduced * self.lower)",
        "tests/bounds/solvers/test_triangle.py",
    ),
    Mutant(
        "the rounding of a dual bound is left out",
        "bounds/solvers/linear_programme.py",
        "bound = value - (error + underflow)",
        "bound = value + 0 * (error + underflow)",
        "tests/bounds/solvers/test_triangle.py",
    ),
    Mutant(
        "a plane above a rectifier forgets its flat side",
        "bounds/solvers/cuts.py",
        "for line in (torch.ones_like(slope), slope):",
        "for line in (torch.ones_like(slope),):",
        "tests/bounds/solvers/test_cuts.py",
    ),
    Mutant(
        "the error of a form is left out of the planes above it",
        "bounds/solvers/cuts.py",
        "most + line * form.rounding_error",
        "most",
        "tests/bounds/solvers/test_cuts.py -k rounding",
    ),
    Mutant(
        "the rounding of an intercept is left out",
        "bounds/solvers/cuts.py",
        "highest = highest + 2 * error * size",
        "highest = highest + 0 * error * size",
        "tests/bounds/solvers/test_cuts.py -k rounding",
    ),
    Mutant(
        "the new variable of a conjunction is below its inequalities",
        "bounds/solvers/encoding.py",
        "whole._require(*at_least_zero(AffineForm(below.T, -form.offset, error)))",
        "whole._require(-below, -form.offset)",
        "tests/bounds/solvers/test_mixed_integer.py -k conjunctions",
    ),
    Mutant(
        "a programme that came to no end counts as a proof",
        "bounds/solvers/mixed_integer.py",
        "if bound > 0:",
        "if bound > -math.inf:",
        "tests/bounds/solvers/test_mixed_integer.py",
    ),
    Mutant(
        "the least eigenvalue is believed",
        "bounds/solvers/semidefinite.py",
        "* (1 + 2 * norm(stretch)) - 2 * norm(residual)",
        "+ 0 * (norm(stretch) + norm(residual))",
        "tests/bounds/solvers/test_semidefinite.py",
    ),
    Mutant(
        "a branch is dropped without a proof",
        "bounds/solvers/milp.py",
        "if empty > 0:",
        "if empty > -1:",
        "tests/bounds/solvers/test_milp.py",
    ),
)

PROPERTIES = (
    Mutant(
        "only the first clause of an or is read",
        "bounds/vnnlib/formulas.py",
        "return [case for part in parts for case in part]",
        "return parts[0]",
        "tests/bounds/vnnlib/test_reading.py -k every_clause",
    ),
    Mutant(
        "a tie meets a strict inequality",
        "bounds/vnnlib/membership.py",
        "total < end if strict else total <= end",
        "total <= end",
        "tests/bounds/vnnlib/test_reading.py -k ties",
    ),
    Mutant(
        "rounding decides ties of outputs",
        "bounds/vnnlib/membership.py",
        "(~(excess.abs() > doubt)).nonzero()",
        "(excess == 0).nonzero()",
        "tests/bounds/vnnlib/test_reading.py -k no_rounding",
    ),
    Mutant(
        "an input bound within an or replaces that around it",
        "bounds/vnnlib/combinations.py",
        "own.get(key) or base.get(key, ANY)",
        "own.get(key, ANY)",
        "tests/bounds/vnnlib/test_reading.py",
    ),
    Mutant(
        "the box to prove is not rounded outward",
        "bounds/vnnlib/records.py",
        "if excess > 0:",
        "if excess > 0 == excess:",
        "tests/bounds/vnnlib/test_reading.py -k both_readings",
    ),
    Mutant(
        "the offset of a specification is rounded down",
        "bounds/vnnlib/records.py",
        "return rows, -converted_down(-self.offsets_above[alone], dtype)",
        "return rows, converted_down(self.offsets_above[alone], dtype)",
        "tests/bounds/vnnlib/test_reading.py -k both_readings",
    ),
    Mutant(
        "premises of an implication are not negated",
        "bounds/vnnlib/formulas.py",
        'negated != (form.head == "=>" and place < len(operands) - 1)',
        "negated",
        "tests/bounds/vnnlib/test_reading.py -k implies",
    ),
)

MUTANTS = (*SOLVERS, *PROPERTIES)
