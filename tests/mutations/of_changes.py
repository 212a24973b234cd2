"""Wrong programs of changed features and words in the place of norms: numbers of changes, draws, lists of an audit."""

from mutations.mutant import Mutant

MUTANTS = (
    Mutant(
        "a counterfactual with as many changes as are proved refutes nothing",
        "bounds/sets/orders.py",
        "distance <= radius if radius > 0 and is_counted(order) else distance < radius",
        "distance < radius",
        "tests/certify/evaluation/test_changes.py -k contradiction",
    ),
    Mutant(
        "sets with other frozen places have one name",
        "certify/changes/sets.py",
        "json.dumps([contents, still])",
        "json.dumps([contents])",
        "tests/certify/changes/test_sets.py -k its_name",
    ),
    Mutant(
        "words with the vector of another are taken for it",
        "certify/changes/words.py",
        "if first != place and not",
        "if False and not",
        "tests/certify/changes/test_sets.py -k vectors",
    ),
    Mutant(
        "random changes are one fewer than the set has",
        "certify/changes/random_changes.py",
        ".clamp(max=most - 1) + 1",
        ".clamp(max=most - 1)",
        "tests/certify/changes/test_random_changes.py -k uniform",
    ),
    Mutant(
        "random numbers are the ends of their ranges",
        "bounds/sets/tables.py",
        "torch.where(self.ranges[self.position] & self.allowed, point, self.value)",
        "self.value",
        "tests/certify/changes/test_random_changes.py -k ranges",
    ),
    Mutant(
        "an audit lists inputs with fewer changes than are certified",
        "certify/auditing/changes/judge.py",
        "most = min(int(radius), len(parts))",
        "most = min(int(radius) - 1, len(parts))",
        "tests/certify/auditing/test_changes.py -k tampered",
    ),
    Mutant(
        "an audit counts no changes of a counterfactual",
        "certify/auditing/changes/judge.py",
        "fine = found == stated and",
        "fine = found is not None and",
        "tests/certify/auditing/test_changes.py -k tampered",
    ),
    Mutant(
        "an audit takes logits that are no numbers for the class of their place",
        "certify/auditing/changes/judge.py",
        "points[~(logits[:, label] > others.amax(1))]",
        "points[logits.argmax(1) != label]",
        "tests/certify/auditing/test_changes.py -k without_a_class",
    ),
    Mutant(
        "columns of no feature may change",
        "certify/auditing/changes/listing.py",
        "return None if moved else count",
        "return count",
        "tests/certify/auditing/test_changes.py -k no_change",
    ),
    Mutant(
        "the bounds of an audit move a single feature",
        "certify/auditing/changes/region.py",
        "moved = falls.topk(most,",
        "moved = falls.topk(min(most, 1),",
        "tests/certify/auditing/test_changes.py -k least_values",
    ),
    Mutant(
        "rounding of what features add is left out",
        "certify/auditing/changes/region.py",
        "2 * sizes.topk",
        "0 * sizes.topk",
        "tests/certify/auditing/test_changes.py -k least_values",
    ),
)
