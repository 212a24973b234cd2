"""Wrong programs of the lower floor: sets, relaxations, operations, graphs."""

from mutations.mutant import Mutant

SETS = (
    Mutant(
        "a sparse ball allows one change less",
        "bounds/sets/balls/kinds.py",
        "topk(min(self.changes, slopes.shape[2]), dim=2)",
        "topk(min(max(self.changes - 1, 0), slopes.shape[2]), dim=2)",
        "tests/bounds/sets/test_linear_minimum.py -k subsets",
    ),
    Mutant(
        "the rounding of a minimum is not subtracted",
        "bounds/sets/linear_minimum.py",
        "(a * center).sum(-1) - fall - (error + underflow)",
        "(a * center).sum(-1) - fall",
        "tests/bounds/sets/test_linear_minimum_rounding.py -k exact_arithmetic",
    ),
    Mutant(
        "products that underflow do not count",
        "bounds/sets/linear_minimum.py",
        "4 * torch.finfo(dtype).tiny * (slopes.sum(-1) + a.shape[2])",
        "0 * slopes.sum(-1)",
        "tests/bounds/sets/test_linear_minimum_rounding.py -k underflow",
    ),
    Mutant(
        "the norm stands for its dual",
        "bounds/sets/balls/kinds.py",
        "return 1.0 if self.norm == math.inf else self.norm / (self.norm - 1)",
        "return 1.0 if self.norm == math.inf else self.norm",
        "tests/bounds/sets/test_linear_minimum.py -k dual_norm_gives",
    ),
    Mutant(
        "NaN is not taken for the worst minimum",
        "bounds/sets/linear_minimum.py",
        "torch.where(value < math.inf, value, -math.inf)",
        "value",
        "tests/bounds/sets/test_linear_minimum_rounding.py -k overflowed",
    ),
    Mutant(
        "the hull of a ball is not rounded outward",
        "bounds/sets/balls/kinds.py",
        "slack = 4 * unit_roundoff(self.center.dtype) * (self.center.abs() + radius) + underflow(self.center.dtype)",
        "slack = 0 * self.center.abs()",
        "tests/bounds/sets/test_balls.py",
    ),
    Mutant(
        "frozen features move",
        "bounds/sets/balls/kinds.py",
        "if self.frozen_features is not None:",
        "if self.frozen_features is None and False:",
        "tests/bounds/sets/test_frozen_features.py",
    ),
)

RELAXATIONS = (
    Mutant(
        "the range of an S-shape is not rounded outward",
        "bounds/relaxations/activations.py",
        "return value + side * self._outward(Candidate(x, value.detach(), zero, zero, zero.bool()), zero)",
        "return value + 0 * side * zero",
        "tests/bounds/relaxations",
    ),
    Mutant(
        "the tangent of an S-shape is drawn from the wrong end",
        "bounds/relaxations/activations.py",
        "near, far = (inside.lower, inside.upper) if side == UPPER else (inside.upper, inside.lower)",
        "near, far = (inside.upper, inside.lower) if side == UPPER else (inside.lower, inside.upper)",
        "tests/bounds/relaxations",
    ),
    Mutant(
        "the secant above a rectifier is too low",
        "bounds/relaxations/relu.py",
        "return slope, height * (1 + 4 * unit.eps) + underflow(slope.dtype)",
        "return slope, height * 0.999",
        "tests/bounds/relaxations/test_relu.py",
    ),
    Mutant(
        "the range of a leaky rectifier is not rounded outward",
        "bounds/relaxations/relu.py",
        "upper = torch.where(upper < 0, upper + unit * upper.abs() + least, upper)",
        "upper = upper + 0 * (unit + least)",
        "tests/bounds/relaxations/test_relu.py",
    ),
    Mutant(
        "the intercept of a line leaves out its rounding",
        "bounds/relaxations/scalar.py",
        "return torch.where(rounded, total * (1 + 16 * unit), torch.zeros_like(total))",
        "return torch.where(rounded, candidate.slack, torch.zeros_like(total))",
        "tests/bounds/relaxations/test_scalar.py -k float32_lines",
    ),
    Mutant(
        "a line above is moved to the inner side",
        "bounds/relaxations/scalar.py",
        "- slope * point + side * slack",
        "- slope * point - side * slack",
        "tests/bounds/relaxations/test_scalar.py -k float32_lines",
    ),
    Mutant(
        "lines at known points leave out their rounding",
        "bounds/relaxations/touching.py",
        "total = (error.mul_(unit) + self.slack).add_(lost).mul_(1 + 16 * unit)",
        "total = self.slack + 0 * (lost + error)",
        "tests/bounds/relaxations/test_touching.py",
    ),
    Mutant(
        "a secant is drawn through one end alone",
        "bounds/relaxations/touching.py",
        "ends = _unless_last(torch.where(farther, reach[1], reach[0])",
        "ends = _unless_last(torch.where(farther, reach[0], reach[0])",
        "tests/bounds/relaxations/test_touching.py",
    ),
    Mutant(
        "a line of an S-shape passes by its end",
        "bounds/relaxations/touching.py",
        "highest = _unless_last(torch.where(farther, reach[1], reach[0])",
        "highest = _unless_last(torch.where(farther, reach[1], reach[1])",
        "tests/bounds/relaxations/test_touching.py",
    ),
    Mutant(
        "a function does not rise behind a point where it is steeper than the line",
        "bounds/relaxations/touching.py",
        "right = torch.where(behind > 0, (ascent + error).clamp_(min=0) * behind, 0.0)",
        "right = torch.where(behind > 0, 0 * ascent, 0.0)",
        "tests/bounds/relaxations/test_touching.py",
    ),
    Mutant(
        "a function does not fall short before a point where it is flatter than the line",
        "bounds/relaxations/touching.py",
        "torch.where(before > 0, (error - ascent).clamp_(min=0) * before, 0.0)",
        "torch.where(before > 0, 0 * ascent, 0.0)",
        "tests/bounds/relaxations/test_touching.py",
    ),
    Mutant(
        "the range of a rising function is not rounded outward",
        "bounds/relaxations/touching.py",
        "error = (values.abs() * (unit * (3 + function.relative_error))).add_(lost).mul_(1 + 16 * unit)",
        "error = 0 * values * lost",
        "tests/bounds/relaxations/test_touching.py",
    ),
    Mutant(
        "the range of a falling function is that of a rising one",
        "bounds/relaxations/touching.py",
        "[inside.lower, inside.upper] if rises > 0 else [inside.upper, inside.lower]",
        "[inside.lower, inside.upper] if rises > 0 else [inside.lower, inside.upper]",
        "tests/bounds/relaxations/test_touching.py",
    ),
    Mutant(
        "what is taken away is added on the way back",
        "bounds/operations/transposes.py",
        "return parts[0], taken.with_values(-taken.values)",
        "return parts[0], taken",
        "tests/bounds/operations/test_transposes.py",
    ),
    Mutant(
        "a mean is a sum on the way back",
        "bounds/operations/transposes.py",
        "values = values / math.prod(shapes[0][place] for place in places)",
        "values = values * 1",
        "tests/bounds/operations/test_transposes.py",
    ),
    Mutant(
        "dimensions are not put back in their order",
        "bounds/operations/transposes.py",
        "back = sorted(range(1, count), key=lambda place: order[place])",
        "back = order[1:]",
        "tests/bounds/operations/test_transposes.py",
    ),
    Mutant(
        "slopes of a function are not rounded outward",
        "bounds/relaxations/derivative_range.py",
        "return unit_roundoff(slope.dtype) * units",
        "return 0 * units",
        "tests/bounds/relaxations/test_derivative_range.py",
    ),
)

OPERATIONS = (
    Mutant(
        "a sum of constants is said to be exact",
        "bounds/operations/constants.py",
        "+ accumulated_error(count + 4, dtype) * after * (1 + 1e-9) + lost",
        "+ 0 * lost",
        "tests/bounds/operations/test_constants.py",
    ),
    Mutant(
        "the error of a divisor is left out",
        "bounds/operations/constants.py",
        "found = (numerator + size * spread) / least",
        "found = numerator / least",
        "tests/bounds/operations/test_constants.py",
    ),
    Mutant(
        "a constant that loses its digits is let through",
        "bounds/operations/constants.py",
        "if not bool((share <= LARGEST_ERROR).all()):",
        "if share.isnan().all() and len(share) > 10**9:",
        "tests/bounds/operations/test_constants.py tests/bounds/linear/test_deployed.py",
    ),
    Mutant(
        "moves of several parents cancel",
        "bounds/operations/affine.py",
        "return torch.stack(moves).sum(0)",
        "return torch.stack(moves).amax(0)",
        "tests/bounds/graph/test_affine_operations.py",
    ),
    Mutant(
        "constants of a sum round away how far it moves",
        "bounds/operations/affine.py",
        "return _entrywise(node, reach) if len(reach) > 1 else linear_part(node, reach).abs()",
        "return _entrywise(node, reach)",
        "tests/bounds/lipschitz/test_operator_norms.py -k large_constant",
    ),
    Mutant(
        "a weight moves outputs with its sign",
        "bounds/operations/affine.py",
        'node.cached("size", weight.abs)',
        'node.cached("size", weight.clone)',
        "tests/bounds/linear/test_interval_rounding.py",
    ),
)

ONNX = (
    Mutant(
        "a reduction over no dimension does nothing to entries",
        "bounds/onnx/operators/reductions.py",
        "return alone.viewed(x.shape)",
        "return x",
        "tests/bounds/onnx/test_operators.py -k noop",
    ),
    Mutant(
        "places of entries are rounded in one way",
        "bounds/onnx/operators/resizing.py",
        'if any(other != exact for other in others):\n        raise node.refused(f"resizes',
        'if False:\n        raise node.refused(f"resizes',
        "tests/bounds/onnx/test_files.py -k counterpart",
    ),
    Mutant(
        "windows that end behind the padding are left out",
        "bounds/onnx/operators/pooling.py",
        'windows, ceil = windows_of(node, sizes), bool(node.get("ceil_mode", 0))\n    require_known_places'
        "(node, sizes, windows)\n    operation = LARGEST",
        "windows, ceil = windows_of(node, sizes), False\n    require_known_places"
        "(node, sizes, windows)\n    operation = LARGEST",
        "tests/bounds/onnx/test_files.py",
    ),
    Mutant(
        "dropout in training mode is let through",
        "bounds/onnx/operators/elementwise.py",
        "if bool(training.numbers().any()) and share:",
        "if bool(training.numbers().all()) and share > 1:",
        "tests/bounds/onnx/test_files.py",
    ),
    Mutant(
        "softmax of older files is over one dimension",
        "bounds/onnx/operators/reductions.py",
        "if node.opset >= BY_DIMENSIONS:",
        "if node.opset >= BY_DIMENSIONS - 2:",
        "tests/bounds/onnx/test_operators.py -k Softmax",
    ),
    Mutant(
        "weights may lie in any folder",
        "bounds/onnx/files.py",
        "if not path.is_relative_to(folder) or not path.is_file():",
        "if not path.is_file():",
        "tests/bounds/onnx/test_files.py -k bytes",
    ),
)

GRAPH = (
    Mutant(
        "standardised values are said to lie within the root of n - 2",
        "bounds/decompositions/normalisation.py",
        "count - 1",
        "count - 2",
        "tests/bounds/graph/test_known_ranges.py",
    ),
    Mutant(
        "a network without weights is that of float64",
        "certify/verification/radius.py",
        "return capture(model, x)",
        "return capture(model, x.double())",
        "tests/certify/verification/test_radius.py -k without_weights",
    ),
    Mutant(
        "half precision has the unit of its own dtype in a mean square",
        "bounds/decompositions/normalisation.py",
        "torch.finfo(torch.float32 if dtype in WIDENED else dtype).eps",
        "torch.finfo(dtype).eps",
        "tests/bounds/graph/test_known_ranges.py -k unit",
    ),
    Mutant(
        "a graph of another function is taken",
        "bounds/graph/values.py",
        "(values - answers).abs(), 0.0)",
        "0 * values, 0.0)",
        "tests/bounds/graph/test_values.py -k 'another_one or measured'",
    ),
    Mutant(
        "nodes for one input at a time keep the values of the first",
        "bounds/graph/values.py",
        "_evaluated(nodes, x) if graph.one_by_one else",
        "_evaluated(nodes, x) if not graph else",
        "tests/bounds/graph/test_values.py -k rows_of_their_own",
    ),
    Mutant(
        "a step where rounding decides is no rounding",
        "bounds/graph/values.py",
        "MARGIN * _moved_by_rounding(graph, nodes, rows, values)",
        "0.0",
        "tests/bounds/graph/test_values.py -k rounding_explains",
    ),
    Mutant(
        "random numbers are let through",
        "bounds/graph/conditions.py",
        "if not draws(node.target, node.args, node.kwargs):",
        "if node is not None:",
        "tests/bounds/graph/test_conditions.py",
    ),
    Mutant(
        "what works along the batch is let through",
        "bounds/graph/conditions.py",
        "any(isinstance(dim, int) and dim % ndim == batch for dim in dims)",
        "any(isinstance(dim, int) and dim % ndim > 10**9 for dim in dims)",
        "tests/bounds/graph/test_conditions.py -k any_scale",
    ),
    Mutant(
        "a remainder may not reach its divisor",
        "bounds/decompositions/rounding.py",
        "size = math.nextafter(abs(divisor), math.inf)",
        "size = 0.9 * abs(divisor)",
        "tests/bounds/graph/test_nonlinear_operations.py",
    ),
    Mutant(
        "a cosine is cut at less than 1",
        "bounds/decompositions/moments.py",
        "-1 - 1e-6, 1 + 1e-6)",
        "-0.99, 0.99)",
        "tests/bounds/graph/test_known_ranges.py",
    ),
)

LIPSCHITZ = (
    Mutant(
        "the rounding of a spectral norm is left out",
        "bounds/lipschitz/operator_norms.py",
        "+ rounding * (1 + gamma) + torch.finfo(value.dtype).tiny",
        "* (1 - 1e-9)",
        "tests/bounds/lipschitz/test_operator_norms.py",
    ),
    Mutant(
        "branches do not add up",
        "bounds/lipschitz/product.py",
        "math.fsum(norm * one for norm, one in zip(norms, before, strict=True))",
        "max(norm * one for norm, one in zip(norms, before, strict=True))",
        "tests/bounds/lipschitz/test_operator_norms.py -k along_branches",
    ),
    Mutant(
        "negative slopes of a function do not count",
        "bounds/lipschitz/product.py",
        "float(torch.maximum(slopes.lower.abs(), slopes.upper.abs()).max())",
        "float(slopes.upper.max())",
        "tests/bounds/lipschitz/test_operator_norms.py -k falling",
    ),
    Mutant(
        "a class that is tied everywhere counts as the label itself",
        "bounds/lipschitz/constants.py",
        "itself = itself & (itself.sum(1, keepdim=True) == 1)",
        "itself = itself & (itself.sum(1, keepdim=True) >= 1)",
        "tests/bounds/lipschitz/test_constants.py -k tied",
    ),
    Mutant(
        "Lipschitz constants are those of float64",
        "bounds/lipschitz/constants.py",
        "return given[:1].detach().to(weight.dtype)",
        "return given[:1].detach().double()",
        "tests/certify/verification/test_radius.py -k lipschitz_constants",
    ),
)

MUTANTS = (*SETS, *RELAXATIONS, *OPERATIONS, *ONNX, *GRAPH, *LIPSCHITZ)
