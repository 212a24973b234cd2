"""Wrong programs of the upper floor: losses and steps of training, what is said of checkpoints and margins."""

from mutations.mutant import Mutant

LOSSES = "tests/certify/training/test_robust_losses.py"
STEPS = "tests/certify/training/test_training_steps.py"
TRACK = "tests/certify/generalisation/test_track.py"

MUTANTS = (
    Mutant(
        "an attack of training descends",
        "certify/training/perturbing.py",
        "delta + per_row(size, delta) * ascent",
        "delta - per_row(size, delta) * ascent",
        LOSSES,
    ),
    Mutant(
        "starts in l_2 crowd at the centre",
        "certify/training/perturbing.py",
        "** (1 / noise[0].numel())",
        "** 1.0",
        LOSSES,
    ),
    Mutant(
        "an attack of training moves running statistics",
        "certify/training/adversarial.py",
        "    with frozen(task.model):\n        for _ in range(steps):",
        "    if steps:\n        for _ in range(steps):",
        LOSSES,
    ),
    Mutant(
        "the divergence of TRADES is turned around",
        "certify/training/adversarial.py",
        "return (first.exp() * (first - second)).sum(1)",
        "return (second.exp() * (second - first)).sum(1)",
        LOSSES,
    ),
    Mutant(
        "one step of FAST is as long as the radius",
        "certify/training/adversarial.py",
        "FAST_STEP = 1.25",
        "FAST_STEP = 1.0",
        LOSSES,
    ),
    Mutant(
        "gradients of 0 count as aligned with nothing",
        "certify/training/regularised.py",
        "torch.where(known, 1 - cosine, 0.0).sum() / known.sum().clamp(min=1)",
        "(1 - cosine).mean()",
        LOSSES,
    ),
    Mutant(
        "the direction of CURE has length 1 in l_infinity",
        "certify/training/regularised.py",
        "h * sign / per_row(length(sign, 2), sign).clamp(min=1)",
        "h * sign",
        LOSSES,
    ),
    Mutant(
        "input gradients are penalised in the norm of the perturbation",
        "certify/training/regularised.py",
        "LpBall(x[:1], 0.0, norm, None, None).dual_norm",
        "norm",
        LOSSES,
    ),
    Mutant(
        "MTL-IBP weighs the attack by alpha",
        "certify/training/verified.py",
        "(1 - alpha) * attacked + alpha * bounded",
        "alpha * attacked + (1 - alpha) * bounded",
        LOSSES,
    ),
    Mutant(
        "FREE steps half as far",
        "certify/training/steps.py",
        "moves.step(delta, gradient, moves.radius)",
        "moves.step(delta, gradient, moves.radius / 2)",
        STEPS,
    ),
    Mutant(
        "YOPO steps with the sum of its gradients",
        "certify/training/steps.py",
        "None if each is None else each / outer for each in sums",
        "each for each in sums",
        STEPS,
    ),
    Mutant(
        "a step leaves its own gradients",
        "certify/training/steps.py",
        "        for weight, gradient in zip(every, before, strict=True):\n            weight.grad = gradient",
        "        pass",
        STEPS,
    ),
    Mutant(
        "early stopping keeps weights that training goes on to change",
        "certify/training/stopping.py",
        "value.detach().clone()",
        "value.detach()",
        STEPS,
    ),
    Mutant(
        "the gaps of all checkpoints do not hold at once",
        "certify/generalisation/tracked.py",
        "paired_interval(more, less, inputs, self._each(len(self)))",
        "paired_interval(more, less, inputs, self.confidence)",
        TRACK,
    ),
    Mutant(
        "robust overfitting is tested at every checkpoint at the full level",
        "certify/generalisation/tracked.py",
        "p = holm([mcnemar_p_value(*discordant(one, rows[-1]), one_sided=True) for one in rows[:-1]])",
        "p = [mcnemar_p_value(*discordant(one, rows[-1]), one_sided=True) for one in rows[:-1]]",
        TRACK,
    ),
    Mutant(
        "robust overfitting needs no training inputs",
        "certify/generalisation/tracked.py",
        "worse = [flag and counts[-1] >= count for flag, count in zip(worse, counts[:-1], strict=True)]",
        "pass",
        TRACK,
    ),
    Mutant(
        "the network left out is standardised with the others",
        "certify/generalisation/regression.py",
        "mean, scale, axes = _components(features[rest], components)\n        scores",
        "mean, scale, axes = _components(features, components)\n        scores",
        "tests/certify/generalisation/test_regression.py",
    ),
    Mutant(
        "margins in hidden layers are not normalised",
        "certify/generalisation/layer_margins.py",
        ".clamp(min=torch.finfo(torch.float64).tiny).sqrt()[:, None]",
        ".clamp(min=1.0, max=1.0).sqrt()[:, None]",
        "tests/certify/generalisation/test_margin_generalisation.py",
    ),
)
