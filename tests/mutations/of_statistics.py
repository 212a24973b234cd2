"""Wrong programs of the lower floor: statistics, estimates, random against adversarial noise."""

from mutations.mutant import Mutant

STATISTICS = (
    Mutant(
        "a lower bound is rounded to nearest",
        "bounds/statistics/proportions.py",
        "round_down(torch.from_numpy(bound)).clamp(min=0.0), 0.0)",
        "torch.from_numpy(bound).clamp(min=0.0) * (1 + 1e-12), 0.0)",
        "tests/bounds/statistics/test_proportions.py",
    ),
    Mutant(
        "an interval takes alpha on each side",
        "bounds/statistics/proportions.py",
        'alpha = (1 - checks.probability("confidence", confidence)) / 2',
        'alpha = 1 - checks.probability("confidence", confidence)',
        "tests/bounds/statistics/test_proportions.py",
    ),
    Mutant(
        "a lower bound counts one success more",
        "bounds/statistics/proportions.py",
        "(n - k + 1).double().numpy()",
        "(n - k).clamp(min=1).double().numpy()",
        "tests/bounds/statistics/test_proportions.py",
    ),
    Mutant(
        "evidence is rounded up",
        "bounds/statistics/sequential.py",
        "evidence - ERROR - ERROR_PER_DRAW * n",
        "evidence + ERROR + ERROR_PER_DRAW * n",
        "tests/bounds/statistics/test_sequential.py",
    ),
    Mutant(
        "a sequential bound needs half the evidence",
        "bounds/statistics/sequential.py",
        "limit = math.log(1 / alpha) + ERROR",
        "limit = 0.5 * math.log(1 / alpha) + ERROR",
        "tests/bounds/statistics/test_sequential.py",
    ),
)

ESTIMATES_AND_NOISE = (
    Mutant(
        "a distribution without an end is given one",
        "bounds/estimates/reverse_weibull.py",
        "upper = torch.where(endless, math.inf,",
        "upper = torch.where(endless, 1.0,",
        "tests/bounds/estimates",
    ),
    Mutant(
        "the interval of an end point takes 68 percent",
        "bounds/estimates/reverse_weibull.py",
        "QUANTILE, WIDE_QUANTILE = 3.841458820694124, 5.991464547107979",
        "QUANTILE, WIDE_QUANTILE = 0.99, 2.28",
        "tests/bounds/estimates/test_reverse_weibull.py",
    ),
    Mutant(
        "a fit that ascent refutes is believed",
        "bounds/estimates/clever.py",
        'refuted = ascended > found["upper"]',
        'refuted = ascended > 1e9 * found["upper"]',
        "tests/bounds/estimates",
    ),
    Mutant(
        "the law of ratios has half of its freedom",
        "bounds/noise/ratio_law.py",
        "return self.dimension / 2, (self.features - self.dimension) / 2",
        "return self.dimension / 2, (self.features - self.dimension) / 4",
        "tests/bounds/noise/test_ratio_law.py",
    ),
    Mutant(
        "what is censored counts as seen",
        "bounds/noise/flat_boundaries.py",
        "level = torch.where(ratio.isinf(), reached + (1 - reached) * share,",
        "level = torch.where(ratio.isinf(), reached * share,",
        "tests/bounds/noise/test_ratio_test.py",
    ),
)

PAIRS_AND_GROUPS = (
    Mutant(
        "McNemar's test has one side",
        "bounds/statistics/paired.py",
        "return min(1.0, 2 * float(binom",
        "return min(1.0, float(binom",
        "tests/bounds/statistics/test_paired.py",
    ),
    Mutant(
        "Holm's method forgets that corrected p-values never fall",
        "bounds/statistics/paired.py",
        "np.maximum.accumulate((count - np.arange(count)) * p[order])",
        "((count - np.arange(count)) * p[order])",
        "tests/bounds/statistics/test_paired.py",
    ),
    Mutant(
        "Holm's method corrects for one test too few",
        "bounds/statistics/paired.py",
        "(count - np.arange(count)) * p[order]",
        "(count - 1 - np.arange(count)).clip(min=1) * p[order]",
        "tests/bounds/statistics/test_paired.py",
    ),
    Mutant(
        "a paired interval spends all of its error twice",
        "bounds/statistics/paired.py",
        "low, high = _ends(differ, inputs, 1 - (1 - SPLIT) * alpha)",
        "low, high = _ends(differ, inputs, 0.01)",
        "tests/bounds/statistics/test_paired.py",
    ),
    Mutant(
        "a paired interval takes the near end of how often models differ",
        "bounds/statistics/paired.py",
        "return lower * (high if lower < 0 else low), upper * (high if upper > 0 else low)",
        "return lower * (low if lower < 0 else high), upper * (low if upper > 0 else high)",
        "tests/bounds/statistics/test_paired.py",
    ),
    Mutant(
        "intervals of groups hold one at a time",
        "bounds/statistics/groups.py",
        'checks.probability("confidence", confidence) ** (1 / groups)',
        'checks.probability("confidence", confidence) ** (1 / 1)',
        "tests/bounds/statistics/test_groups.py",
    ),
    Mutant(
        "draws of a permutation test leave out what was seen",
        "bounds/statistics/groups.py",
        "return (1 + at_least) / (1 + DRAWS), ",
        "return at_least / DRAWS / 2, ",
        "tests/bounds/statistics/test_groups.py",
    ),
    Mutant(
        "a table as uneven as the one seen does not count",
        "bounds/statistics/groups.py",
        "extreme = _spread(tables, n) >= _spread(k, n) * (1 - 1e-12)",
        "extreme = _spread(tables, n) > _spread(k, n) * (1 + 1e-12)",
        "tests/bounds/statistics/test_groups.py",
    ),
)

MUTANTS = (*STATISTICS, *PAIRS_AND_GROUPS, *ESTIMATES_AND_NOISE)
