"""Wrong programs of randomized smoothing: noises, votes, decisions."""

from mutations.mutant import Mutant

NOISES = (
    Mutant(
        "a radius is rounded to nearest",
        "certify/smoothing/noises/base.py",
        "radius = round_down(self._radius(torch.where(above, p, 0.75)))",
        "radius = self._radius(torch.where(above, p, 0.75))",
        "tests/certify/smoothing/test_noises.py",
    ),
    Mutant(
        "a radius between two probabilities is rounded to nearest",
        "certify/smoothing/noises/base.py",
        "return round_down(0.5 * self.sigma * difference)",
        "return 0.5 * self.sigma * (torch.special.ndtri(p_lower) - torch.special.ndtri(p_upper))",
        "tests/certify/smoothing/test_noises.py tests/certify/smoothing/test_estimation.py",
    ),
    Mutant(
        "the other class takes less than is left",
        "certify/smoothing/noises/base.py",
        'torch.minimum(_probabilities("p_upper", p_upper), complement(p))',
        'torch.minimum(_probabilities("p_upper", p_upper), 0.5 * complement(p))',
        "tests/certify/smoothing/test_noises.py tests/certify/smoothing/test_estimation.py",
    ),
    Mutant(
        "a radius in another norm keeps its length",
        "certify/smoothing/noises/base.py",
        "self.ratio = self.dimension**exponent * (1 + 2.0**-50) if exponent else 1.0",
        "self.ratio = 1.0",
        "tests/certify/smoothing/test_estimation.py -k another_norm",
    ),
    Mutant(
        "integer noise is said to be exact",
        "certify/smoothing/drawing/integer_noise.py",
        "error + off_by * 2.0**-BITS)",
        "0.0)",
        "tests/certify/smoothing/test_integer_noise.py",
    ),
    Mutant(
        "integer noise counts the error of one entry",
        "certify/smoothing/drawing/distributions.py",
        'return entries * _rounded_law(self.noise, self.steps, torch.device("cpu")).error',
        'return _rounded_law(self.noise, self.steps, torch.device("cpu")).error',
        "tests/certify/smoothing/test_integer_noise.py",
    ),
    Mutant(
        "integer noise has the mass of its outermost cell twice",
        "certify/smoothing/drawing/distributions.py",
        "(np.arange(reach + 1) + 0.5) / steps",
        "(np.arange(reach + 1) + 0.25) / steps",
        "tests/certify/smoothing/test_integer_noise.py",
    ),
    Mutant(
        "thresholds of ablation are one change too small",
        "certify/smoothing/noises/l0.py",
        "table.append(_floor(3 * all_ - 2 * unseen, 2 * all_))",
        "table.append(_floor(2 * all_ - unseen, 2 * all_))",
        "tests/certify/smoothing/test_noise_l0.py",
    ),
    Mutant(
        "the overlap in a box is rounded up",
        "certify/smoothing/noises/l1.py",
        "needed = round_up(1 - plain / self._width).unsqueeze(1)",
        "needed = 0.98 * round_up(1 - plain / self._width).unsqueeze(1)",
        "tests/certify/smoothing/test_noise_l1.py",
    ),
    Mutant(
        "noise in l-infinity forgets the dimension",
        "certify/smoothing/noises/linf.py",
        "torch.expm1(torch.log1p(-loss) / self.dimension)",
        "torch.expm1(torch.log1p(-loss) / self.dimension**0.5)",
        "tests/certify/smoothing/test_noise_linf.py",
    ),
)

SMOOTHING = (
    Mutant(
        "of two classes the lower bound has all of alpha",
        "certify/smoothing/classifiers/estimation.py",
        "torch.where(two_class, clopper_pearson_lower(successes, n, alpha=alpha / 2), lower)",
        "torch.where(two_class, clopper_pearson_lower(successes, n, alpha=alpha), lower)",
        "tests/certify/smoothing/test_estimation.py",
    ),
    Mutant(
        "of two classes the upper bound has all of alpha",
        "certify/smoothing/classifiers/estimation.py",
        "raised(clopper_pearson_upper(others, n, alpha=alpha / 2), error)",
        "raised(clopper_pearson_upper(others, n, alpha=alpha), error)",
        "tests/certify/smoothing/test_estimation.py",
    ),
    Mutant(
        "the error of the noise is left out",
        "certify/smoothing/classifiers/estimation.py",
        "lower = lowered(lower, error)",
        "lower = lowered(lower, 0.0)",
        "tests/certify/smoothing/test_integer_noise.py tests/certify/smoothing/test_estimation.py",
    ),
    Mutant(
        "draws are counted twice where a budget ends within a block",
        "certify/smoothing/classifiers/estimation.py",
        "first_block = -(-done // NOISE_BLOCK)",
        "first_block = done // NOISE_BLOCK",
        "tests/certify/smoothing/test_estimation.py -k twice",
    ),
    Mutant(
        "a draw with a NaN logit votes",
        "certify/smoothing/drawing/votes.py",
        "torch.where(largest.isnan(), num_classes, choice)",
        "torch.where(largest.isnan(), choice, choice)",
        "tests/certify/smoothing/test_classifier.py",
    ),
    Mutant(
        "the estimate uses the draws that chose the class",
        "certify/smoothing/classifiers/classifier.py",
        "votes = sampling.votes(self.num_classes, n, Stage.ESTIMATION)",
        "votes = sampling.votes(self.num_classes, n, Stage.SELECTION)",
        "tests/certify/smoothing/test_classifier.py -k judge",
    ),
    Mutant(
        "the radius of a question needs half the evidence",
        "certify/smoothing/classifiers/classifier.py",
        "limit = math.log(1 / alpha)",
        "limit = 0.5 * math.log(1 / alpha)",
        "tests/certify/smoothing/test_certify_at.py -k evidence",
    ),
    Mutant(
        "a question about a radius forgets the error of the noise",
        "certify/smoothing/classifiers/classifier.py",
        "round_up(self.noise.probability_needed_at(x, radius) + sampling.error)",
        "self.noise.probability_needed_at(x, radius)",
        "tests/certify/smoothing/test_certify_at.py -k error_of_the_noise",
    ),
    Mutant(
        "a prediction never abstains",
        "certify/smoothing/classifiers/classifier.py",
        "abstained=~(p_value <= alpha),",
        "abstained=p_value > 2,",
        "tests/certify/smoothing/test_classifier.py",
    ),
    Mutant(
        "of k classes each bound has all of alpha",
        "certify/smoothing/classifiers/top_k.py",
        "/ (_among(k, counts.shape[1]) + 1)",
        "/ min(_among(k, counts.shape[1]), 1)",
        "tests/certify/smoothing/test_top_k.py",
    ),
    Mutant(
        "a rank forgets its failures",
        "certify/smoothing/outputs/base.py",
        "return float(special.betainc(k, n - k + 1, p)) * (1 + BETA_FUNCTION_ERROR) <= alpha",
        "return float(special.betainc(k, n - k + 1, p)) <= 4 * alpha",
        "tests/certify/smoothing/test_regression.py tests/certify/smoothing/test_center.py",
    ),
    Mutant(
        "a smoothed output has a ball of half the size",
        "certify/smoothing/outputs/center.py",
        "self.gamma * (1 + 2 * self.gamma) * ball",
        "self.gamma * (1 + self.gamma) * ball",
        "tests/certify/smoothing/test_center.py",
    ),
    Mutant(
        "a deterministic margin is not halved",
        "certify/smoothing/derandomized/splitting.py",
        "steps = margin // 2",
        "steps = (margin + 1) // 2",
        "tests/certify/smoothing/test_splitting.py",
    ),
    Mutant(
        "rows that share noise count as independent",
        "certify/smoothing/data_sets/accuracy.py",
        '% getattr(certificate, "noise_group", 1)',
        "% 1",
        "tests/certify/smoothing/test_accuracy.py",
    ),
)

MUTANTS = (*NOISES, *SMOOTHING)
