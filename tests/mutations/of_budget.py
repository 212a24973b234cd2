"""Wrong programs about presets, budgets and the time that is left."""

from mutations.mutant import Mutant

MUTANTS = (
    Mutant(
        "curves are about the inputs that were not left out",
        "certify/evaluation/summaries/tables.py",
        "return [_curve(part, *key) for",
        "return [_curve([row for row in part if _judged(row)], *key) for",
        "tests/certify/evaluation/test_budget.py",
    ),
    Mutant(
        "an input that was left out counts as certified",
        "certify/evaluation/summaries/tables.py",
        'limits = [row["certified_radius"] if row["correct"] else -math.inf for row in rows]',
        'limits = [row["certified_radius"] if row["correct"] else math.inf if row["status"] == LEFT_OUT else -math.inf '
        "for row in rows]",
        "tests/certify/evaluation/test_budget.py",
    ),
    Mutant(
        "an input that was left out counts as broken",
        "certify/evaluation/summaries/tables.py",
        'limits = [math.inf if row["attack_distance"] is None',
        'limits = [0.0 if row["attack_distance"] is None',
        "tests/certify/evaluation/test_budget.py",
    ),
    Mutant(
        "the time left goes by the number of inputs",
        "certify/evaluation/budget/schedule.py",
        "return foretold * self._correction(key)",
        "return rows * self.elapsed() / max(sum(each.rows for each in self._measured.values()), 1)",
        "tests/certify/evaluation/test_budget.py",
    ),
    Mutant(
        "every method may spend without end",
        "certify/evaluation/budget/schedule.py",
        "while most and now + self.seconds_of(key, most) > until:",
        "while most and now > until:",
        "tests/certify/evaluation/test_budget.py",
    ),
    Mutant(
        "any certificate is as good as the witness",
        "certify/evaluation/budget/thrift.py",
        "promise.arithmetic) <= MET",
        "promise.arithmetic) <= 1",
        "tests/certify/evaluation/test_budget.py",
    ),
    Mutant(
        "a certificate is carried over to another promise",
        "certify/evaluation/budget/thrift.py",
        'place = record["norm"], row["index"], promise.get("arithmetic", "")',
        'place = record["norm"], row["index"], "deployed"',
        "tests/certify/evaluation/test_budget.py",
    ),
    Mutant(
        "what was left out stays so when a run goes on",
        "certify/evaluation/left_out.py",
        'if line["unit"] not in found or is_left_out(found[line["unit"]]):',
        'if line["unit"] not in found:',
        "tests/certify/evaluation/test_budget.py",
    ),
    Mutant(
        "the clock cuts the units of runs without a budget",
        "certify/evaluation/work.py",
        "{} if costs is None or math.isinf(budget) else",
        "{} if costs is None else",
        "tests/certify/evaluation/test_costs.py",
    ),
    Mutant(
        "units of large networks are as large as those of small ones",
        "certify/evaluation/budget/operations.py",
        "share = min(1.0, LIGHT / max(operations_of(model, x), 1))",
        "share = 1.0",
        "tests/certify/evaluation/test_costs.py",
    ),
    Mutant(
        "units may have any size up to the share",
        "certify/evaluation/budget/operations.py",
        "if most % part == 0 and part",
        "if part",
        "tests/certify/evaluation/test_costs.py",
    ),
    Mutant(
        "draws go by the place in a unit of work",
        "certify/evaluation/units.py",
        "if method.one_by_one and rows.stop - rows.start > 1:",
        "if False:",
        "tests/certify/evaluation/test_costs.py",
    ),
)
