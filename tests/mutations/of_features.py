"""Wrong programs of sets of few changes, of constraints, and of proofs that no counterfactual exists."""

from mutations.mutant import Mutant

CHOICES, TABLES, WORDS = "bounds/sets/choices.py", "bounds/sets/tables.py", "bounds/sets/words.py"
CONSTRAINED, PARTS = "bounds/sets/constrained.py", "certify/verification/changed/parts.py"
PROOFS, SEARCH = "certify/verification/changed/certification.py", "certify/attacks/studies/counterfactual.py"
OF_TABLES, OF_WORDS = "tests/bounds/sets/test_feature_changes.py", "tests/bounds/sets/test_synonym_sets.py"
OF_PROOFS = "tests/certify/verification/test_counterfactuals.py"

MUTANTS = (
    Mutant(
        "one position less may change",
        CHOICES,
        "taken = (rank < self.room()[:, None, None]) & (gain > 0)",
        "taken = (rank < self.room()[:, None, None] - 1) & (gain > 0)",
        OF_TABLES,
    ),
    Mutant(
        "positions that must change count twice",
        CHOICES,
        "return self.budget - (~self.stays).sum(1)",
        "return self.budget - 2 * (~self.stays).sum(1)",
        OF_PROOFS,
    ),
    Mutant(
        "rounding errors of scores are left out",
        CHOICES,
        "return fall + (error + underflow(rows.dtype)), wide.moves(choice)",
        "return fall * (1 - 1e-7), wide.moves(choice)",
        OF_TABLES,
    ),
    Mutant(
        "the hull has no columns that are switched off",
        TABLES,
        "torch.where(others, sign * self.off, torch.inf)",
        "torch.where(others & False, sign * self.off, torch.inf)",
        OF_TABLES,
    ),
    Mutant(
        "a category is switched on while the one before stays",
        TABLES,
        "return base[..., self.position] + ",
        "return 0 * base[..., self.position] + ",
        OF_TABLES,
    ),
    Mutant(
        "frozen categories may come",
        "bounds/sets/features.py",
        "allowed = ~present & ~still & moves",
        "allowed = ~present & moves",
        OF_TABLES,
    ),
    Mutant(
        "what may only grow may fall too",
        "bounds/sets/features.py",
        "        return values > now\n",
        "        return values != now\n",
        OF_TABLES,
    ),
    Mutant(
        "the reach of a number is rounded before it is used",
        "bounds/sets/features.py",
        "exact = here.double() + reach",
        "exact = (here + reach).double()",
        f"{OF_TABLES} -k cancels",
    ),
    Mutant(
        "members may change in one position more",
        CHOICES,
        "((~kept).sum(1) <= self.budget)",
        "((~kept).sum(1) <= self.budget + 1)",
        OF_TABLES,
    ),
    Mutant(
        "the hull of texts is that of the words that stand there",
        WORDS,
        "torch.cat([taken, still[:, :, None]], 2).amin(2)",
        "still.expand_as(self.center)",
        OF_WORDS,
    ),
    Mutant(
        "multipliers below zero count",
        CONSTRAINED,
        "weights @ bound\n",
        "weights.neg() @ bound\n",
        "tests/bounds/sets/test_constrained.py",
    ),
    Mutant(
        "constraints are taken up to rounding",
        CONSTRAINED,
        "held = values + error <= self.bound",
        "held = values - error <= self.bound",
        "tests/bounds/sets/test_constrained.py",
    ),
    Mutant(
        "the changed side of a cut is forgotten",
        PARTS,
        "return one.joined(other)",
        "return one.joined(one)",
        OF_PROOFS,
    ),
    Mutant(
        "the upper half of choices is forgotten",
        PARTS,
        "(parts.allowed & ~(by_score & lower), ",
        "(parts.allowed & ~by_score, ",
        OF_PROOFS,
    ),
    Mutant(
        "parts that cannot be cut further count as proved",
        PROOFS,
        "outside = single & (choices.counts() <= 1).all(1) & ~self.region.contains(point.double())",
        "outside = single",
        OF_PROOFS,
    ),
    Mutant(
        "a range that is not cut further is the end that constraints forbid",
        PROOFS,
        "outside = single & (choices.counts() <= 1).all(1) & ~self.region",
        "outside = single & ~self.region",
        OF_PROOFS,
    ),
    Mutant(
        "a row is proved when its parts are used up",
        PROOFS,
        "self.open &= (self.used < self.most) & ",
        "self.open &= ",
        OF_PROOFS,
    ),
    Mutant(
        "single inputs count that the set does not hold",
        SEARCH,
        "hits.append(is_counterfactual(logits, labels, targets) & inside)",
        "hits.append(is_counterfactual(logits, labels, targets))",
        "tests/certify/attacks/test_counterfactual.py",
    ),
    Mutant(
        "all inputs count as run though some were left out",
        SEARCH,
        "every = every & ((fits.flatten(1).sum(1) <= width) | (step >= here.budget))",
        "every = every | True",
        "tests/certify/attacks/test_counterfactual.py",
    ),
    Mutant(
        "differences of values are rounded to the dtype of the rows",
        "bounds/sets/choices.py",
        "wide = self.altered(**{name: getattr(self, name).to(rows.dtype) for name in self.OF_NUMBERS})",
        "wide = self",
        "tests/bounds/sets/test_feature_changes.py",
    ),
)
