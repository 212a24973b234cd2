"""Wrong programs that the tests must catch: ``python tests/mutants.py [WORD ...]`` applies them one at a time.

The tests named with a mutant are run on a copy of the project, the quick ones first, and have to fail. Words choose
mutants whose file or story holds all of them. The program ends with 1 if a mutant stayed green.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mutations import (
    of_auditing,
    of_bounds,
    of_budget,
    of_certify,
    of_changes,
    of_comparison,
    of_confidence,
    of_copies,
    of_counting,
    of_data,
    of_engines,
    of_features,
    of_gates,
    of_linear,
    of_memory,
    of_passes,
    of_programmes,
    of_proofs,
    of_search,
    of_smoothing,
    of_statistics,
    of_surveys,
    of_training,
    of_transformations,
)
from mutations.mutant import Mutant

ROOT = Path(__file__).parents[1]
MUTANTS = (
    *of_bounds.MUTANTS,
    *of_linear.MUTANTS,
    *of_passes.MUTANTS,
    *of_programmes.MUTANTS,
    *of_engines.MUTANTS,
    *of_features.MUTANTS,
    *of_changes.MUTANTS,
    *of_search.MUTANTS,
    *of_statistics.MUTANTS,
    *of_transformations.MUTANTS,
    *of_smoothing.MUTANTS,
    *of_certify.MUTANTS,
    *of_comparison.MUTANTS,
    *of_confidence.MUTANTS,
    *of_copies.MUTANTS,
    *of_counting.MUTANTS,
    *of_gates.MUTANTS,
    *of_budget.MUTANTS,
    *of_memory.MUTANTS,
    *of_data.MUTANTS,
    *of_surveys.MUTANTS,
    *of_proofs.MUTANTS,
    *of_auditing.MUTANTS,
    *of_training.MUTANTS,
)
NOTHING_CHOSEN = 5  # exit code of pytest
UNNEEDED = (".git", ".venv", "runs", "docs", "__pycache__", ".*_cache")


def survives(mutant: Mutant) -> bool:
    """Whether the tests pass on a copy of the project in which the mutant was applied."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*UNNEEDED))
        if (ROOT.parent / "shared").is_dir():
            (copy.parent / "shared").symlink_to(ROOT.parent / "shared")
        file = copy / mutant.file
        file.write_text(file.read_text(encoding="utf-8").replace(mutant.old, mutant.new), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(copy)}
        for chosen in ("not slow", "slow"):  # the quick ones first, since most mutants fall there
            marks = f"{chosen} and not combinations and not exhaustive"
            command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-m", marks, *shlex.split(mutant.tests)]
            done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
            if done.returncode == 1:
                return False
            if done.returncode not in (0, NOTHING_CHOSEN):
                raise SystemExit(
                    f"{mutant.story}: the tests could not be run\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
                )
        return True


def main(words: list[str]) -> int:
    """Apply the chosen mutants and print what became of each."""
    chosen = [mutant for mutant in MUTANTS if all(word in f"{mutant.file} {mutant.story}" for word in words)]
    green = []
    for mutant in chosen:
        start = time.monotonic()
        if survives(mutant):
            green.append(mutant)
        outcome = "GREEN" if mutant in green else "red"
        print(f"{outcome:5} {time.monotonic() - start:5.0f} s  {mutant.file}: {mutant.story}", flush=True)
    print(f"{len(chosen) - len(green)} of {len(chosen)} mutants were caught")
    return int(bool(green))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
