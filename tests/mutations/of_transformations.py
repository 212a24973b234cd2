"""Wrong programs of transformations: interpolation, lines around pixels, hulls of boxes, pieces."""

from mutations.mutant import Mutant

MUTANTS = (
    Mutant(
        "a clipped entry lies above the line through the middle of its range",
        "bounds/transformations/affine.py",
        "offset = torch.stack([value(at) - slope * at for at in places]).amin(0)",
        "offset = value(u.middle) - slope * u.middle",
        "tests/bounds/transformations/test_enclosures.py -k dense",
    ),
    Mutant(
        "noise is added before entries are moved into the range of pixels",
        "bounds/transformations/affine.py",
        "bottom, top - noise)",
        "bottom, top)",
        "tests/bounds/transformations/test_enclosures.py -k noise",
    ),
    Mutant(
        "what pixels do between samples is not corrected for",
        "bounds/transformations/cells.py",
        "least = torch.minimum(torch.minimum(a, b), meeting)",
        "least = torch.minimum(a, b)",
        "tests/bounds/transformations/test_enclosures.py -k dense",
    ),
    Mutant(
        "the slope of a pixel is that of the middle of two differences",
        "bounds/transformations/motions.py",
        "spreads = spreads + off * (pace.abs() + pace_off) +",
        "spreads = spreads + 0 * off +",
        "tests/bounds/transformations/test_enclosures.py -k dense",
    ),
    Mutant(
        "slopes are those of one cell where two are touched",
        "bounds/transformations/sampling.py",
        "variant = (wider + 2 * taller).long()",
        "variant = 0 * (wider + 2 * taller).long()",
        "tests/bounds/transformations/test_sampling.py -k slopes",
    ),
    Mutant(
        "the largest cosine within a range is at its ends",
        "bounds/transformations/maps.py",
        "upper = torch.where(turns & (sign > 0), 1.0, upper)",
        "upper = upper + 0 * turns",
        "tests/bounds/transformations/test_sampling.py -k maps_hold",
    ),
    Mutant(
        "a pixel that is clipped in part keeps its slope",
        "bounds/transformations/pointwise.py",
        "(~(below | above)).to(least.dtype), (~gone).to(least.dtype)",
        "(~gone).to(least.dtype), (~gone).to(least.dtype)",
        "tests/bounds/transformations/test_enclosures.py -k dense",
    ),
    Mutant(
        "corners of a translation are clipped one by one",
        "bounds/transformations/pipelines.py",
        "torch.where(middle - noise >= low, lower, low.expand_as(lower))",
        "torch.maximum(lower, low)",
        "tests/bounds/transformations/test_enclosures.py -k noise",
    ),
    Mutant(
        "images are not rounded to their dtype",
        "bounds/transformations/pipelines.py",
        "low - unit * (low.abs() + noise) - least, high + unit * (high.abs() + noise) + least",
        "low, high",
        "tests/bounds/transformations/test_enclosures.py -k rounded",
    ),
    Mutant(
        "opposite rows have the minima of the rows",
        "bounds/linear/passes/minima.py",
        "region.least(sign * middle, gain",
        "region.least(middle, gain",
        "tests/bounds/sets/test_hulls.py -k together",
    ),
    Mutant(
        "the rounding of a sum over a box is left out",
        "bounds/sets/linear_minimum.py",
        "gain = slopes @ (reach + error * (reach + center.abs())).mT",
        "gain = slopes @ reach.mT",
        "tests/bounds/sets/test_hulls.py -k cancel",
    ),
    Mutant(
        "pieces of a translation reach across whole pixels",
        "certify/semantic/pieces.py",
        "inner = sorted(integers | (set(inner) if pieces else set()))",
        "inner = []",
        "tests/certify/semantic/test_certify_transformation.py -k two_parameters",
    ),
    Mutant(
        "sums of translations are enclosed by their corners",
        "certify/semantic/transformations.py",
        "shifts=len(moving) == 1 and moving[0].shifts,",
        "shifts=all(each.shifts for each in moving) and bool(moving),",
        "tests/bounds/transformations/test_enclosures.py -k sums",
    ),
    Mutant(
        "images under noise are rounded like what is left of them",
        "bounds/transformations/pipelines.py",
        "low - unit * (low.abs() + noise) - least,",
        "low - unit * low.abs() - least,",
        "tests/bounds/transformations/test_enclosures.py -k rounded",
    ),
)
