"""Wrong programs of the checker of proofs."""

from mutations.mutant import Mutant

PROOFS = "tests/certify/proofs/test_corrupt_proofs.py"
BOUNDS = "tests/certify/proofs/test_checker_bounds.py"
READING = "tests/certify/proofs/test_checker_reading.py"

MUTANTS = (
    Mutant(
        "one side of a split is not asked for",
        "certify/proofs/trees.py",
        "waiting += [(*path, (neuron, -1, point)), (*path, (neuron, 1, point))]",
        "waiting += [(*path, (neuron, 1, point))]",
        f"{PROOFS} -k both_sides",
    ),
    Mutant(
        "one half of a box is not asked for",
        "certify/proofs/trees.py",
        "waiting += [(*above, None), (*below, None)]",
        "waiting += [(*below, None)]",
        f"{PROOFS} -k both_sides",
    ),
    Mutant(
        "what is clipped away is taken for excluded",
        "certify/proofs/checking.py",
        "_require(goal.excluded(chosen, *lost), ",
        "_require(goal.excluded(chosen, *lost) | True, ",
        f"{PROOFS} -k corrupt_cuts",
    ),
    Mutant(
        "leaves of splits count without a bound",
        "certify/proofs/checking.py",
        "_require((bound > 0) | empty, ",
        "_require((bound > 0) | ~empty, ",
        f"{PROOFS} -k both_sides",
    ),
    Mutant(
        "an unsafe set needs no tree",
        "certify/proofs/checking.py",
        '    if missing:\n        raise Refused(f"unsafe set',
        '    if False:\n        raise Refused(f"unsafe set',
        f"{PROOFS} -k corrupt_headers",
    ),
    Mutant(
        "multipliers of any sign",
        "certify/proofs/trees.py",
        "if not (tree.multipliers >= 0).all() or",
        "if",
        f"{PROOFS} -k corrupt_splits",
    ),
    Mutant(
        "weights of any sign",
        "certify/proofs/trees.py",
        "bad = ~((tree.weights >= 0).all(1) &",
        "bad = ~(",
        f"{PROOFS} -k corrupt_splits",
    ),
    Mutant(
        "the network is not asked for its hash",
        "certify/proofs/checking.py",
        'if header.get("network") != content_hash(content):',
        'if header.get("network") is None:',
        f"{PROOFS} -k does_not_fit",
    ),
    Mutant(
        "the point of a split is added where it is to be taken away",
        "certify/proofs/bounding.py",
        "total.add(-shift.lost[:, None])",
        "total.add(shift.lost[:, None])",
        f"{BOUNDS} -k any_numbers",
    ),
    Mutant(
        "rounding errors are left out",
        "certify/proofs/bounding.py",
        "error = 2 * total.error + 16 * UNIT * (np.abs(total.value) + np.abs(at_corner)) + UNDERFLOW * (1 + largest)",
        "error = 0 * total.error",
        f"{BOUNDS} -k rounding_never",
    ),
    Mutant(
        "the lines of a function are exchanged",
        "certify/proofs/bounding.py",
        "above *= lines.lower_slope[:, None]\n    below *= lines.upper_slope[:, None]",
        "above *= lines.upper_slope[:, None]\n    below *= lines.lower_slope[:, None]",
        f"{BOUNDS} -k no_sample",
    ),
    Mutant(
        "lines of smooth functions look at the ends alone",
        "certify/proofs/networks/functions.py",
        "for point, missed in ends + self.turning_points(low, high, slope):",
        "for point, missed in ends:",
        f"{BOUNDS} -k any_slope",
    ),
    Mutant(
        "max pooling is bounded by its first input",
        "certify/proofs/networks/functions.py",
        "certain = np.take_along_axis(lower, best, 2)[..., 0] >= upper.max(2)",
        "certain = np.take_along_axis(lower, best, 2)[..., 0] >= -np.inf",
        f"{BOUNDS} -k pooling",
    ),
    Mutant(
        "sides of boxes are rounded to the nearest number",
        "certify/proofs/properties.py",
        "return math.nextafter(nearest, math.inf) if Fraction(nearest) < value else nearest",
        "return nearest",
        f"{READING} -k outward",
    ),
    Mutant(
        "one case of a disjunction is read",
        "certify/proofs/properties.py",
        "return [case for each in found for case in each]\n        return _joined(found)",
        "return found[0]\n        return _joined(found)",
        f"{READING} -k both_readers",
    ),
    Mutant(
        "a witness may miss its box",
        "certify/proofs/checking.py",
        "if not any(each.holds(point) for each in prop.sets):",
        "if not prop.sets:",
        f"{PROOFS} -k false_witnesses",
    ),
    Mutant(
        "a box that touches the ball misses it",
        "certify/proofs/balls.py",
        "return np.asarray(distance * (1 - SURELY) > self.radius)",
        "return np.asarray(distance > self.radius)",
        "tests/certify/proofs/test_balls.py",
    ),
    Mutant(
        "the checker takes statistics of a batch for stored ones",
        "certify/proofs/networks/operators.py",
        "if any(operation.proto.output[1:]):",
        "if False:",
        f"{READING} -k another_way",
    ),
    Mutant(
        "the checker takes integers for real numbers",
        "certify/proofs/networks/reading.py",
        "if not types <= REAL:",
        "if not types:",
        f"{READING} -k integers",
    ),
    Mutant(
        "the checker takes casts from double to single precision for none",
        "certify/proofs/networks/operators.py",
        "builder.is_wide |= target == DOUBLE",
        "builder.is_wide |= False",
        f"{READING} -k in_one_line",
    ),
    Mutant(
        "the checker goes back from places outside like the reference",
        "certify/proofs/networks/moving.py",
        "start < -sizes[axis] or end in UNBOUNDED",
        "end in UNBOUNDED",
        f"{READING} -k in_one_line",
    ),
    Mutant(
        "witnesses may be complex numbers",
        "certify/proofs/checking.py",
        'not in "fiu"',
        'not in "fiuc"',
        f"{PROOFS} -k false_witnesses",
    ),
)
