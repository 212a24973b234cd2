"""Wrong programs of the upper floor: verification, attacks, evaluation, files."""

from mutations.mutant import Mutant

VERIFICATION = (
    Mutant(
        "the margin to the label itself counts",
        "certify/verification/radius.py",
        "others = margins.scatter(1, labels[:, None], math.inf)",
        "others = margins.scatter(1, labels[:, None], math.inf)[:, :2]",
        "tests/certify/verification",
    ),
    Mutant(
        "a radius that failed is returned",
        "certify/verification/radius.py",
        "proved[rows] = torch.where(success, guess[rows], proved[rows])",
        "proved[rows] = guess[rows]",
        "tests/certify/verification/test_radius.py",
    ),
    Mutant(
        "wrong predictions are certified",
        "certify/verification/radius.py",
        "radius=torch.where(right, radius, 0.0),",
        "radius=torch.where(right, radius, radius),",
        "tests/certify/verification/test_radius.py tests/certify/verification/test_radius_arguments.py",
    ),
    Mutant(
        "witnesses beyond the radius falsify",
        "certify/verification/verdicts.py",
        "found.found & inside)",
        "found.found)",
        "tests/certify/verification/test_verdicts.py",
    ),
    Mutant(
        "the inputs in a public call keep inference mode",
        "bounds/circumstances.py",
        "if torch.is_inference_mode_enabled():",
        "if not torch.is_inference_mode_enabled():",
        "tests/hostile -k bounds.alpha_crown",
    ),
    Mutant(
        "autocast reaches the bounds",
        "bounds/circumstances.py",
        "for device in () if keep_autocast else DEVICES:",
        "for device in ():",
        "tests/hostile -k bounds.alpha_crown",
    ),
    Mutant(
        "a row that mixes its batch is let through",
        "certify/models.py",
        "        if not same:\n",
        "        if same is None:\n",
        "tests/certify/test_models.py",
    ),
)

ATTACKS = (
    Mutant(
        "success within rounding counts",
        "certify/attacks/search/state.py",
        "return self.margin(logits) > self.rounding",
        "return self.margin(logits) > -self.rounding",
        "tests/certify/attacks/test_minimum_norm.py tests/certify/attacks/test_minimal_perturbation.py"
        " tests/certify/attacks/test_search.py",
    ),
    Mutant(
        "a witness outside of the box counts",
        "certify/attacks/search/driver.py",
        "found = inside & (predicted >= 0) &",
        "found = (inside | ~inside) & (predicted >= 0) &",
        "tests/certify/attacks",
    ),
    Mutant(
        "a logit that is no number makes a witness",
        "certify/attacks/search/driver.py",
        "found = inside & (predicted >= 0) & (predicted != labels",
        "found = inside & (predicted != labels",
        "tests/certify/attacks/test_minimal_perturbation.py",
    ),
    Mutant(
        "what is found beyond the budget counts",
        "certify/attacks/common/threat.py",
        "inside & (reached <= self.budgets(x))",
        "inside & (reached <= 2 * self.budgets(x))",
        "tests/certify/attacks/test_fixed_budget.py",
    ),
    Mutant(
        "a search that was cut counts as a whole one",
        "certify/attacks/fixed_budget/driver.py",
        "unfinished[rows] = standing",
        "unfinished[rows] = False",
        "tests/certify/attacks/test_calls.py",
    ),
    Mutant(
        "what a part of a search found is lost when time runs out",
        "certify/attacks/search/state.py",
        "setattr(self, name, getattr(self, name).index_copy(0, rows, getattr(part, name)))",
        "setattr(self, name, getattr(self, name))",
        "tests/certify/attacks/test_calls.py",
    ),
    Mutant(
        "what lies outside of a set of one's own counts",
        "certify/attacks/common/threat.py",
        "self.sets.contains(points.double())",
        "points.isfinite().flatten(1).all(1)",
        "tests/certify/attacks/test_in_sets.py",
    ),
    Mutant(
        "points a hair beyond a ball lie in it",
        "bounds/sets/balls.py",
        "near = distance(points, self.center, self.norm) <= _exact(self.radius, points)",
        "near = distance(points, self.center, self.norm) <= _exact(self.radius, points) * (1 + 1e-14)",
        "tests/certify/attacks/test_in_sets.py",
    ),
    Mutant(
        "a distance is rounded to nearest",
        "bounds/sets/distances.py",
        "round_up(size * unit * (1 + relative))",
        "size * unit",
        "tests/bounds/sets/test_distances.py",
    ),
    Mutant(
        "a difference is rounded to nearest",
        "bounds/sets/distances.py",
        "return torch.where(error * delta.sign() > 0,",
        "return torch.where(error * delta.sign() > 1,",
        "tests/bounds/sets/test_distances.py",
    ),
    Mutant(
        "neighbouring seeds share their streams",
        "certify/attacks/common/streams.py",
        "_mixed(_mixed(seed) + torch.arange(first, first + count, device=device) * GOLDEN)",
        "_mixed(seed + torch.arange(first, first + count, device=device))",
        "tests/certify/attacks",
    ),
    Mutant(
        "an attack on a smoothed classifier has alpha at every look",
        "certify/attacks/studies/smoothed_votes.py",
        "n, alpha / looks, generator)",
        "n, alpha, generator)",
        "tests/certify/attacks/test_smoothed.py",
    ),
    Mutant(
        "a side of the box is rounded outward",
        "bounds/sets/norms.py",
        "outside = (side.double() < exact) if inward > 0 else (side.double() > exact)",
        "outside = torch.zeros_like(side, dtype=torch.bool)",
        "tests/certify/attacks",
    ),
)

EVALUATION = (
    Mutant(
        "wrong predictions are compared with witnesses",
        "certify/evaluation/comparisons.py",
        'row["kind"] == "certificate" and row["correct"]]',
        'row["kind"] == "certificate"]',
        "tests/certify/evaluation",
    ),
    Mutant(
        "a witness of another classifier contradicts",
        "certify/evaluation/comparisons.py",
        'return row["index"], row["norm"], row["subject"]',
        'return row["index"], row["norm"], ""',
        "tests/certify/evaluation",
    ),
    Mutant(
        "an abstention is called misclassified",
        "certify/evaluation/rows.py",
        "wrong &= ~result.abstained",
        "wrong &= result.abstained | ~result.abstained",
        "tests/certify/evaluation/test_rows.py",
    ),
    Mutant(
        "a status is derived from the radius alone",
        "certify/evaluation/rows.py",
        '"status": "abstained" if certificate.abstained[i] else "misclassified" if wrong[i] else proved,',
        '"status": "abstained" if certificate.abstained[i] else proved,',
        "tests/certify/evaluation/test_rows.py",
    ),
    Mutant(
        "a torn last line counts as finished",
        "certify/evaluation/run_directory.py",
        'return content[: content.rfind(b"\\n") + 1].splitlines()',
        "return content.splitlines()",
        "tests/certify/evaluation/test_run_directory.py",
    ),
    Mutant(
        "a run goes on under another manifest",
        "certify/evaluation/run_directory.py",
        "if here == there or name in INFORMATIVE:",
        "if here == there or name:",
        "tests/certify/evaluation/test_run_directory.py",
    ),
    Mutant(
        "tensors of a run may be exchanged",
        "certify/evaluation/run_directory.py",
        "if hashlib.sha256(content).hexdigest() != digest:",
        "if not hashlib.sha256(content).hexdigest():",
        "tests/certify/evaluation/test_run_directory.py",
    ),
    Mutant(
        "a stored row may lack its radius",
        "certify/evaluation/stored.py",
        "if lacking:",
        "if not needed and lacking:",
        "tests/certify/evaluation tests/certify/command_line",
    ),
    Mutant(
        "a curve of certificates counts wrong rows",
        "certify/curves.py",
        "torch.where(right, certificate.radius.double(), -math.inf)",
        "torch.where(right, certificate.radius.double(), certificate.radius.double())",
        "tests/certify/test_curves.py",
    ),
    Mutant(
        "a curve of attacks counts what was found at the radius",
        "certify/curves.py",
        "return limit > radius",
        "return limit >= radius",
        "tests/certify/test_curves.py",
    ),
    Mutant(
        "exported models are unpickled",
        "certify/configuration/exported.py",
        'os.environ[names[0]] = "1"',
        'os.environ[names[0]] = "0"',
        "tests/certify/configuration/test_exported.py",
    ),
    Mutant(
        "exported models may bring compiled code",
        "certify/configuration/exported.py",
        "if any(mark in part.filename for mark in CODE):",
        "if part.filename in CODE:",
        "tests/certify/configuration/test_exported.py",
    ),
)

MUTANTS = (*VERIFICATION, *ATTACKS, *EVALUATION)
