"""Wrong gates: that pass by luck, forget what may be wrong, or tell it in a form that nobody can read."""

from mutations.mutant import Mutant

REQUIREMENTS, REGRESSIONS = "tests/certify/test_requirements.py", "tests/certify/comparison/test_regressions.py"
FORMATS = "tests/certify/gate/test_formats.py"

MUTANTS = (
    Mutant(
        "certificates that may be wrong count as proofs",
        "certify/requirements.py",
        "alpha=curve.alpha,\n        subject",
        "alpha=0.0,\n        subject",
        REQUIREMENTS,
    ),
    Mutant(
        "inputs that share noise count as independent",
        "certify/requirements.py",
        "noise_group=noise_group,\n    )\n    said",
        "noise_group=1,\n    )\n    said",
        REQUIREMENTS,
    ),
    Mutant(
        "a statement about the population is one about these inputs",
        "certify/requirements.py",
        'said.population_lower if wanted.about == "population" else said.lower',
        "said.lower",
        REQUIREMENTS,
    ),
    Mutant(
        "the estimate is judged where a bound is asked for",
        "certify/requirements.py",
        'self.bound if self.wanted.judge == "bound" else self.estimate',
        "self.estimate",
        REQUIREMENTS,
    ),
    Mutant(
        "the bound of an attack is two-sided",
        "certify/requirements.py",
        "inputs, alpha=1 - wanted.level)",
        "inputs, alpha=(1 - wanted.level) / 2)",
        REQUIREMENTS,
    ),
    Mutant(
        "an earlier manifest is judged by its estimate",
        "certify/requirements.py",
        'judge: Judge = "bound"',
        'judge: Judge = "estimate"',
        REQUIREMENTS,
    ),
    Mutant(
        "a one-sided p-value leaves out the outcome that was seen",
        "bounds/statistics/paired.py",
        "binom.sf(only_first - 1,",
        "binom.sf(only_first,",
        "tests/bounds/statistics/test_paired.py",
    ),
    Mutant(
        "a gain counts as a fall",
        "certify/comparison/regressions.py",
        "lost, gained = discordant(then, now)",
        "gained, lost = discordant(then, now)",
        REGRESSIONS,
    ),
    Mutant(
        "several radii are not corrected for",
        "certify/comparison/regressions.py",
        "replace(change, p_holm=p)",
        "replace(change, p_holm=change.p_value)",
        REGRESSIONS,
    ),
    Mutant(
        "kinds of certificates that are gone are not missed",
        "certify/comparison/regressions.py",
        "    if lacking:",
        "    if lacking and not pairs:",
        REGRESSIONS,
    ),
    Mutant(
        "a fall leaves the gate open",
        "certify/gate/outcome.py",
        "and not any(change.fell for change in self.changes)",
        "",
        FORMATS,
    ),
    Mutant(
        "unfinished work leaves the gate open",
        "certify/gate/outcome.py",
        '"passed" if met and self.unfinished is None',
        '"passed" if met',
        FORMATS,
    ),
    Mutant(
        "the sign that begins an escape is escaped last",
        "certify/gate/formats.py",
        'f"%\\r\\n{also}"',
        'f"\\r\\n{also}%"',
        FORMATS,
    ),
    Mutant(
        "characters that XML does not know are written",
        "certify/gate/formats.py",
        'return NO_XML.sub("\\N{REPLACEMENT CHARACTER}", text)',
        "return text",
        FORMATS,
    ),
    Mutant(
        "a method with features of its own to keep loses them to the columns",
        "certify/configuration/frozen_columns.py",
        "isinstance(method, WithFrozenFeatures) and method.frozen_features is None",
        "isinstance(method, WithFrozenFeatures)",
        "tests/certify/configuration/test_frozen_columns.py",
    ),
    Mutant(
        "numbers of an assertion go to the test around it",
        "certify/testing/recording.py",
        "properties = _running[-1]",
        "properties = _running[0]",
        "tests/certify/test_gate_assertions.py",
    ),
)
