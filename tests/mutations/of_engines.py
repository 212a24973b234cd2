"""Wrong programs of the engine auto_LiRPA, and of the comparison of engines."""

from mutations.mutant import Mutant

MUTANTS = (
    Mutant(
        "the other engine gets half of a box",
        "bounds/engines/auto_lirpa.py",
        '"x_L": converted_down(hull.lower, dtype),',
        '"x_L": converted_down(ball.center, dtype),',
        "tests/bounds/engines/test_auto_lirpa.py -k mean_the_same",
    ),
    Mutant(
        "the other engine gets one radius for all inputs",
        "bounds/engines/auto_lirpa.py",
        "return [(ball.radii == radius).nonzero()[:, 0] for radius in ball.radii.unique()]",
        "return [every]",
        "tests/bounds/engines/test_auto_lirpa.py -k mean_the_same",
    ),
    Mutant(
        "inputs of several radii come back in the order of radii",
        "bounds/engines/auto_lirpa.py",
        "lower, upper = (torch.cat(sides)[order] for sides in zip(*found, strict=True))",
        "lower, upper = (torch.cat(sides) for sides in zip(*found, strict=True))",
        "tests/bounds/engines/test_auto_lirpa.py -k mean_the_same",
    ),
    Mutant(
        "the other engine gets a ball without the box that cuts it",
        "bounds/engines/auto_lirpa.py",
        "if ball.low is not None or ball.high is not None:",
        "if ball.low is not None and ball.high is not None:",
        "tests/bounds/engines/test_auto_lirpa.py -k cannot_represent",
    ),
    Mutant(
        "the other engine may take inputs of a round ball for constant where they are also handed on",
        "bounds/engines/auto_lirpa.py",
        "if inputs.isdisjoint(node.parents) or node.operation in MOVING:",
        "if not inputs.issuperset(node.parents) or node.operation in MOVING:",
        "tests/bounds/engines/test_auto_lirpa.py -k round_balls",
    ),
    Mutant(
        "a bound of the other engine that is not a number is kept",
        "bounds/engines/auto_lirpa.py",
        "torch.where(lower.isnan(), -infinite, lower)",
        "lower",
        "tests/bounds/engines/test_auto_lirpa.py -k not_a_number",
    ),
    Mutant(
        "bounds of the other engine are rounded to the nearest number",
        "bounds/engines/auto_lirpa.py",
        "lower, upper = converted_down(found.lower, x.dtype), -converted_down(-found.upper, x.dtype)",
        "lower, upper = found.lower.to(x.dtype), found.upper.to(x.dtype)",
        "tests/bounds/engines/test_auto_lirpa.py -k rounded_outward",
    ),
    Mutant(
        "the other engine works on the model itself",
        "bounds/engines/auto_lirpa.py",
        "return _Fixed(copy.deepcopy(network).to(dtype))",
        "return _Fixed(network.to(dtype))",
        "tests/bounds/engines/test_auto_lirpa.py -k left_behind",
    ),
    Mutant(
        "the other engine may be asked for bounds that include rounding errors",
        "bounds/engines/choice.py",
        'if sound != "real":',
        'if sound == "deployed":',
        "tests/bounds/engines/test_auto_lirpa.py -k promise",
    ),
    Mutant(
        "points that are not in the set refute bounds",
        "bounds/second_opinion/points.py",
        "torch.where(inside[..., None] & ~values.isnan(), values, torch.inf)",
        "torch.where(~values.isnan(), values, torch.inf)",
        "tests/bounds/second_opinion/test_comparison.py -k certain",
    ),
    Mutant(
        "upper bounds are held against nothing",
        "bounds/second_opinion/comparison.py",
        "beyond = torch.maximum(beyond, self.largest - upper)",
        "beyond = torch.maximum(beyond, self.least - upper)",
        "tests/bounds/second_opinion/test_comparison.py -k one_side",
    ),
    Mutant(
        "a point refutes a bound by its rounding",
        "bounds/second_opinion/comparison.py",
        "refuted = beyond > self.slack",
        "refuted = beyond > 0",
        "tests/bounds/second_opinion/test_comparison.py -k rounding",
    ),
)
