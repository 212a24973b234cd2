"""Wrong programs that look at finished evaluations: comparisons, groups, exports."""

from mutations.mutant import Mutant

MUTANTS = (
    Mutant(
        "wrong predictions count in a comparison",
        "certify/comparison/contenders.py",
        'row["certified_radius"] if row["correct"] else -math.inf',
        'row["certified_radius"]',
        "tests/certify/comparison/test_comparison.py",
    ),
    Mutant(
        "the last of several adversarial examples counts",
        "certify/comparison/contenders.py",
        'limits[index] = min(row["attack_distance"], limits[index])',
        'limits[index] = row["attack_distance"]',
        "tests/certify/comparison/test_comparison.py",
    ),
    Mutant(
        "inputs that a method could not treat are left out",
        "certify/comparison/contenders.py",
        "limits = dict.fromkeys(indices, math.inf if attacked else -math.inf)",
        'limits = dict.fromkeys([row["index"] for row in rows], math.inf if attacked else -math.inf)',
        "tests/certify/comparison/test_comparison.py",
    ),
    Mutant(
        "errors of several statements do not add up",
        "certify/comparison/contenders.py",
        "alpha=min(math.fsum(alphas.values()), 1.0)",
        "alpha=max(alphas.values())",
        "tests/certify/comparison/test_comparison.py",
    ),
    Mutant(
        "smoothed classifiers stand beside the models themselves",
        "certify/comparison/contenders.py",
        '"smoothed" if smoothed else row["subject"]',
        '"base"',
        "tests/certify/comparison/test_comparison.py",
    ),
    Mutant(
        "other inputs are compared",
        "certify/comparison/contenders.py",
        'if first.manifest["data_sha256"] != second.manifest["data_sha256"]:',
        "if first.manifest.keys() != second.manifest.keys():",
        "tests/certify/comparison/test_comparison.py",
    ),
    Mutant(
        "an upper bound is the best",
        "certify/comparison/comparison.py",
        "for key, part in table[table.promise != PROMISES[2]].groupby",
        "for key, part in table.groupby",
        "tests/certify/comparison/test_comparison.py",
    ),
    Mutant(
        "models are resampled one by one",
        "certify/comparison/trade_off.py",
        "    points = np.stack([drawn[:, :models], drawn[:, models:]], axis=2)",
        "    drawn[:, 0] = drawn[::-1, 0]\n    points = np.stack([drawn[:, :models], drawn[:, models:]], axis=2)",
        "tests/certify/comparison/test_trade_off.py",
    ),
    Mutant(
        "a model that is surpassed in one alone is off the front",
        "certify/comparison/trade_off.py",
        "np.all(others >= ours, axis=-1) & np.any(others > ours, axis=-1)",
        "np.any(others > ours, axis=-1)",
        "tests/certify/comparison/test_trade_off.py",
    ),
    Mutant(
        "a percent sign ends a line of LaTeX",
        "certify/exports/sheets.py",
        'for sign in "&%$#_{}"',
        'for sign in "&$#_{}"',
        "tests/certify/exports/test_exports.py",
    ),
    Mutant(
        "a lower bound is printed above itself",
        "certify/report/words.py",
        "math.ceil(exact) if up else math.floor(exact)",
        "math.ceil(exact) if up else math.ceil(exact)",
        "tests/certify/evaluation/test_groups.py",
    ),
    Mutant(
        "groups are given out in the wrong order",
        "certify/evaluation/summaries/groups.py",
        'members[row["index"] - first_index]',
        'members[first_index - row["index"]]',
        "tests/certify/evaluation/test_groups.py",
    ),
)
