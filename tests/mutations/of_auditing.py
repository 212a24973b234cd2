"""Wrong programs of the audit and of what makes runs durable."""

from mutations.mutant import Mutant

EXACT = "tests/certify/auditing/test_exact.py"
NOISES = "tests/certify/auditing/test_noises.py"
PROVING = "tests/certify/auditing/test_proving.py -m 'slow or not slow'"
TAMPERING = "tests/certify/auditing/test_tampering.py"
WRONG = "tests/certify/auditing/test_wrong_programs.py -m slow"
ENCLOSED = "tests/certify/auditing/test_enclosed_images.py"
EDITED = "tests/certify/auditing/test_edited_rows.py -m slow"
DURABLE = "tests/certify/evaluation/test_durability.py"

MUTANTS = (
    Mutant(
        "an example that is stored need not be stated",
        "certify/auditing/witnesses.py",
        "same = bool((clean[place] == points[place]).all())",
        "same = True",
        f"{EDITED} -k 'taken and example'",
    ),
    Mutant(
        "a unit of smoothing need not say how it drew",
        "certify/auditing/smoothed/votes.py",
        'lacking = [key for key in DRAWING if key not in record.get("drawing", {})]',
        "lacking: list[str] = []",
        f"{EDITED} -k how",
    ),
    Mutant(
        "the rest of a series is left out of its upper end",
        "certify/auditing/exact.py",
        "Fraction(total_high + rest, one))",
        "Fraction(total_high // 2, one))",
        EXACT,
    ),
    Mutant(
        "evidence is cut off at the wrong side of the prior",
        "certify/auditing/exact.py",
        "* 2 * _arcsin_of_root(q)",
        "* 2 * _arcsin_of_root(p)",
        EXACT,
    ),
    Mutant(
        "the error of squares is forgotten",
        "certify/auditing/distances.py",
        "math.fsum([*squares.tolist(), *errors.tolist()])",
        "math.fsum([*squares.tolist(), *squares.tolist()])",
        EXACT,
    ),
    Mutant(
        "two classes count as one in the rule of Gaussian noise",
        "certify/auditing/smoothed/noises.py",
        "    if other == 1 - p:\n        return normal_probability(shift)",
        "    if True:\n        return normal_probability(shift)",
        NOISES,
    ),
    Mutant(
        "the box makes nothing of the way that is left",
        "certify/auditing/smoothed/noises.py",
        "max(1 - way / (2 * width), Fraction(0)), left - way",
        "max(1 - way / (2 * width), Fraction(0)), left",
        NOISES,
    ),
    Mutant(
        "alpha is not shared by two bounds",
        "certify/auditing/smoothed/votes.py",
        "alpha = setting.alpha / 2 if two_class else setting.alpha",
        "alpha = setting.alpha",
        f"{WRONG} -k whole_alpha",
    ),
    Mutant(
        "the label may be any class",
        "certify/auditing/smoothed/votes.py",
        "best = known and selected[label] == max(selected)",
        "best = known",
        f"{WRONG} -k label",
    ),
    Mutant(
        "distances may be too small",
        "certify/auditing/witnesses.py",
        "not below and not above",
        "not above",
        f"{WRONG} -k distances",
    ),
    Mutant(
        "what was drawn again is not compared",
        "certify/auditing/smoothed/redrawing.py",
        "if stated == drawn.tolist():",
        "if len(stated) == len(drawn):",
        f"{WRONG} -k draws",
    ),
    Mutant(
        "negative coefficients of ReLU are bounded by the lower line",
        "certify/auditing/certificates/proving.py",
        "            weights = positive * lower + negative * upper\n            total = total + negative @ offset",
        "            weights = positive * lower + negative * lower\n            total = total + negative @ offset",
        PROVING,
    ),
    Mutant(
        "the offset of upper lines is left out",
        "certify/auditing/certificates/proving.py",
        "total = total + negative @ offset",
        "total = total + 0 * negative @ offset",
        PROVING,
    ),
    Mutant(
        "a part of the region is not asked for",
        "certify/auditing/certificates/proving.py",
        "for side in (0, 1):\n            part",
        "for side in (0,):\n            part",
        PROVING,
    ),
    Mutant(
        "batch normalisation forgets its mean",
        "certify/auditing/certificates/networks.py",
        "form.shifted(-mean.view(view))",
        "form.shifted(0 * mean.view(view))",
        PROVING,
    ),
    Mutant(
        "a changed line keeps its place in the chain",
        "certify/evaluation/storage/chain.py",
        'key != "sha256"}) != line["sha256"]:',
        'key != "sha256"}) == "":',
        TAMPERING,
    ),
    Mutant(
        "a line need not follow another",
        "certify/evaluation/storage/chain.py",
        "if previous not in known:",
        "if False:",
        TAMPERING,
    ),
    Mutant(
        "the line is written before its tensors",
        "certify/evaluation/storage/run_directory.py",
        "        partial.replace(target)\n        sync_folder(target.parent)",
        "        sync_folder(target.parent)",
        DURABLE,
    ),
    Mutant(
        "half a line stays on a full disk",
        "certify/evaluation/storage/durable.py",
        "                file.truncate(before)\n",
        "                pass\n",
        DURABLE,
    ),
    Mutant(
        "votes are drawn again in batches of another size",
        "certify/auditing/smoothed/redrawing.py",
        "problem.for_method(method.name)",
        "problem",
        "tests/certify/evaluation/test_memory.py -k batches_of_the_run -m slow",
    ),
    Mutant(
        "a matrix is made of every input, however large",
        "certify/auditing/certificates/networks.py",
        "if shape.numel() > MOST_OF_BLOCK:",
        "if False:",
        f"{PROVING} -k no_matrix",
    ),
    Mutant(
        "images are taken at the ends of places alone",
        "certify/auditing/transformations/enclosing.py",
        "torch.minimum(ends.low.ceil(), ends.high)]",
        "ends.high]",
        ENCLOSED,
    ),
    Mutant(
        "the audit's rotation turns the other way",
        "certify/auditing/transformations/enclosing.py",
        "plus(sin.times(y).negative())",
        "plus(sin.times(y))",
        ENCLOSED,
    ),
    Mutant(
        "the cosine of an angle forgets where it is largest",
        "certify/auditing/transformations/ranges.py",
        "torch.where(top, 1.0, found.high)",
        "found.high",
        ENCLOSED,
    ),
    Mutant(
        "a place that moves too far counts as enclosed",
        "certify/auditing/transformations/proving.py",
        "proved = hold & (",
        "proved = (",
        ENCLOSED,
    ),
    Mutant(
        "the audit forgets the noise on an image",
        "certify/auditing/transformations/judge.py",
        "        if over.epsilon:\n            noisy",
        "        if False:\n            noisy",
        ENCLOSED,
    ),
    Mutant(
        "the audit forgets that images are rounded",
        "certify/auditing/transformations/judge.py",
        "found.wider(digits.tiny, digits.eps)",
        "found.wider(digits.tiny, 0.0)",
        ENCLOSED,
    ),
    Mutant(
        "intervals of many boxes take the wrong end",
        "certify/auditing/certificates/proving.py",
        "low @ matrix.clamp(min=0).T + high @ matrix.clamp(max=0).T",
        "low @ matrix.clamp(min=0).T + low @ matrix.clamp(max=0).T",
        ENCLOSED,
    ),
)
