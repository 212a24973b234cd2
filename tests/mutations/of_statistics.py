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

MUTANTS = (*STATISTICS, *ESTIMATES_AND_NOISE)
