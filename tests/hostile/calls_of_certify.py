"""One small call of every public function of the upper floor, by name."""

import copy
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hostile.calls_of_bounds import Call, Case, FirstTwo, onnx_file
from hostile.calls_of_confidence import CONFIDENCE, CONFIDENCE_RECORDS
from hostile.calls_of_surveys import SURVEYS
from oracles.halfspace import generator
from torch import Tensor

import bounds
import certify
from certify import attacks, methods, reference, semantic, smoothing, testing, verified_training
from certify.evaluation.storage.run_directory import RunDirectory

RADII = torch.linspace(0.0, 1.5, 6, dtype=torch.float64)
CLASSES = torch.arange(6) % 3
KEPT = torch.ones(4, 8, dtype=torch.bool).tril()
WHICH = semantic.Scale((0.9, 1.1)), semantic.Photometric((0.9, 1.1))
NORMALIZE = certify.Normalize([0.2], [0.5])
LOG = "idx\tlabel\tpredict\tradius\ttime\n0\t1\t1\t0.5\t1.0\n1\t2\t0\t0.0\t1.0\n"
VOTES = "idx\tlabel\tpredict\tcount\ttime\n0\t1\t1\t95\t1.0\n1\t2\t0\t40\t1.0\n"


def budget(norm: float = math.inf, epsilon: float = 0.1) -> dict[str, Any]:
    return {"norm": norm, "epsilon": epsilon}


def smoothed(c: Case, noise: smoothing.Noise | None = None) -> certify.SmoothedClassifier:
    return certify.SmoothedClassifier(c.model, noise or smoothing.Gaussian(0.25), num_classes=3)


def certified(c: Case, noise: smoothing.Noise | None = None, **options: Any) -> certify.SmoothingCertificate:
    return smoothed(c, noise).certify(c.x, n=200, n0=20, **options, generator=generator())


def extended(c: Case) -> certify.SmoothingCertificate:
    return smoothed(c).extend(certified(c, tolerance=0.2), c.x, 300)


def decided(c: Case) -> certify.Decision:
    """The decision on a large ball around one input, which an attack takes."""
    with torch.no_grad():
        classes = c.model(c.x[:1]).shape[1]
    prop = bounds.Property.of_robustness(c.x[:1], int(c.y[0]), epsilon=2.0, num_classes=classes, low=None, high=None)
    return certify.decide(c.model, prop, generator=generator())


def checked_proof(c: Case) -> certify.ProofReport:
    """The report on a proof of a small network of a file."""
    with TemporaryDirectory() as folder:
        network, prop, proof = (Path(folder) / name for name in ("net.onnx", "p.vnnlib", "p.proof"))
        network.write_bytes(onnx_file())
        prop.write_text(
            bounds.Property.of_robustness(torch.ones(1, 3, device="cpu"), 1, epsilon=0.01, num_classes=2).to_vnnlib()
        )
        certify.decide(network, prop, proof=proof, generator=generator())
        return certify.check_proof(proof, network, prop)


def stored() -> certify.Certificate:
    return certify.Certificate(
        label=CLASSES,
        radius=RADII,
        abstained=RADII == 0,
        norm=2.0,
        alpha=0.001,
        subject="base",
        method="crown",
    )


def read(function: str, text: str, **options: Any) -> object:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "log.tsv"
        path.write_text(text, encoding="utf-8")
        return getattr(smoothing, function)(path, **options)


def evaluation(c: Case) -> certify.Evaluation:
    chosen = [
        methods.Smoothing(n=100, n0=10),
        methods.IntervalBounds(tolerance=0.3),
        methods.MinimalPerturbation(steps=3, restarts=1),
        methods.Clever(num_batches=4, batch_size=3),
    ]
    return certify.evaluate(c.model, c.x, c.y, norms=[2], methods=chosen)


def of_stored_inputs(c: Case) -> object:
    """Bounds of inputs that are read as they are needed, in batches that fit into a memory."""
    x = certify.StoredInputs(lambda places: c.x[places].cpu(), len(c.x))
    chosen = [methods.IntervalBounds(tolerance=0.3), methods.MinimalPerturbation(steps=3, restarts=1)]
    return outcome(certify.evaluate(c.model, x, c.y, norms=[2], methods=chosen, memory="64MB"))


def run_directory(c: Case) -> object:
    with TemporaryDirectory() as folder:
        evaluation(c).save(folder)
        return certify.Evaluation.load(folder).check(), RunDirectory.read(folder).records().keys()


def audited(c: Case) -> object:
    with TemporaryDirectory() as folder:
        evaluation(c).save(folder)
        return [str(finding) for finding in certify.audit(folder, records_only=True).refuted]


def merged(c: Case) -> object:
    with TemporaryDirectory() as folder:
        parts = [Path(folder) / f"{i}-of-2" for i in (1, 2)]
        chosen = [methods.IntervalBounds(tolerance=0.3), methods.MinimalPerturbation(steps=3, restarts=1)]
        for i, part in enumerate(parts, start=1):
            certify.evaluate(c.model, c.x, c.y, norms=[2], methods=chosen, shard=f"{i}/2", output=part)
        return outcome(certify.merge(Path(folder) / "merged", parts))


def foretold(c: Case) -> object:
    costs = certify.estimate_cost(c.model, c.x, c.y, norms=[2], methods=[methods.IntervalBounds(tolerance=0.3)])
    return [(cost.method, cost.norm, cost.status) for cost in costs.costs]


def initialized(c: Case) -> object:
    with torch.inference_mode(False):
        model = copy.deepcopy(c.model)
    verified_training.initialize_for_intervals(model, generator())
    return [weight.detach() for weight in model.parameters()]


def law(c: Case) -> object:
    """Whatever the verdict is."""
    try:
        model = torch.nn.Sequential(c.model, FirstTwo())
        return testing.assert_noise_law(model, c.x[:1], directions=4, generator=generator())
    except AssertionError as verdict:
        return str(verdict)


def outcome(found: certify.Evaluation) -> object:
    return found.to_dataframe().drop(columns="seconds").to_dict("list"), found.check(), found.outside()


ATTACKS: dict[str, Call] = {
    "attacks.apgd": lambda c: attacks.apgd(c.model, c.x, c.y, **budget(), steps=4, generator=generator()),
    "attacks.autoattack": lambda c: attacks.autoattack(c.model, c.x, c.y, **budget(), generator=generator()),
    "attacks.boundary_walk": lambda c: attacks.boundary_walk(
        c.model, c.x, c.y, norm=2, steps=2, probes=5, generator=generator()
    ),
    "attacks.carlini_wagner": lambda c: attacks.carlini_wagner(c.model, c.x, c.y, steps=4, searches=2),
    "attacks.deepfool": lambda c: attacks.deepfool(c.model, c.x, c.y, norm=2, steps=4),
    "attacks.fast_adaptive_boundary": lambda c: attacks.fast_adaptive_boundary(
        c.model, c.x, c.y, norm=2, steps=4, restarts=1, generator=generator()
    ),
    "attacks.fgsm": lambda c: attacks.fgsm(c.model, c.x, c.y, **budget()),
    "attacks.fooling_rate": lambda c: attacks.fooling_rate(
        c.model, c.x, 0.1 * (c.x[0] - 0.5), norm=2, generator=generator()
    ),
    "attacks.gradient_masking": lambda c: attacks.gradient_masking(
        c.model, c.x, c.y, **budget(), steps=3, queries=10, generator=generator()
    ),
    "attacks.iterative_fgsm": lambda c: attacks.iterative_fgsm(c.model, c.x, c.y, **budget(), steps=3),
    "attacks.minimal_perturbation": lambda c: attacks.minimal_perturbation(
        c.model, c.x, c.y, norm=2, steps=4, restarts=2, generator=generator()
    ),
    "attacks.noise_accuracy": lambda c: attacks.noise_accuracy(
        c.model, c.x, c.y, **budget(2), draws=5, generator=generator()
    ),
    "attacks.pgd": lambda c: attacks.pgd(c.model, c.x, c.y, **budget(2), steps=4, generator=generator()),
    "attacks.random_fgsm": lambda c: attacks.random_fgsm(c.model, c.x, c.y, **budget(), generator=generator()),
    "attacks.robust_accuracy": lambda c: attacks.robust_accuracy(
        c.model, c.x, c.y, **budget(1, 0.5), steps=3, generator=generator()
    ),
    "attacks.robustness_figures": lambda c: attacks.robustness_figures(
        c.model, c.x[:1], c.y[:1], epsilons={2: 5.0}, draws=5, generator=generator()
    ),
    "attacks.sparsefool": lambda c: attacks.sparsefool(c.model, c.x, c.y, norm=1, steps=3),
    "attacks.square": lambda c: attacks.square(c.model, c.x, c.y, **budget(), queries=10, generator=generator()),
    "attacks.superdeepfool": lambda c: attacks.superdeepfool(c.model, c.x, c.y, rounds=2),
    "attacks.targeted_apgd": lambda c: attacks.targeted_apgd(
        c.model, c.x, c.y, **budget(), targets=2, steps=4, generator=generator()
    ),
    "attacks.transformation": lambda c: attacks.transformation(
        c.model, c.x, c.y, semantic.Rotation((-5.0, 5.0)), points=5, steps=2
    ),
    "attacks.universal_perturbation": lambda c: attacks.universal_perturbation(
        c.model, c.x, c.y, **budget(), steps=3, restarts=1, generator=generator()
    ),
}

# Under autocast these speak of the model as it runs there.
DEPLOYED: dict[str, Call] = {
    "attacks.smoothed_minimal_perturbation": lambda c: attacks.smoothed_minimal_perturbation(
        smoothed(c), c.x, c.y, draws=8, steps=3, restarts=1, n=50, generator=generator()
    ),
    "attacks.smoothed_robust_accuracy": lambda c: attacks.smoothed_robust_accuracy(
        smoothed(c), c.x, c.y, epsilon=0.3, draws=8, steps=3, n=50, generator=generator()
    ),
    "smoothing.Ablation": lambda c: certified(
        c._replace(model=torch.nn.Sequential(Halved(), c.model)), smoothing.Ablation(20, 32)
    ),
    "smoothing.CenterSmoothing.certify": lambda c: smoothing.CenterSmoothing(
        c.model, lambda a, b: (a - b).norm(dim=-1), smoothing.Gaussian(0.25)
    ).certify(c.x, 0.05, n=200, n0=20, candidates=3, generator=generator()),
    "smoothing.Consensus": lambda c: smoothing.Consensus([c.model, c.model], 1)(c.x),
    "smoothing.Ensemble": lambda c: smoothing.Ensemble([c.model, c.model])(c.x),
    "smoothing.DerandomizedSplitting.certify": lambda c: smoothing.DerandomizedSplitting(
        c.model, levels=9, num_classes=3, seed=0
    ).certify(c.x),
    "smoothing.DiscreteNoise": lambda c: certified(c, smoothing.DiscreteNoise(0.5)),
    "smoothing.GeneralizedGaussian": lambda c: certified(c, smoothing.GeneralizedGaussian(0.25, 32, 2)),
    "smoothing.InNorm": lambda c: certified(c, smoothing.InNorm(smoothing.Gaussian(0.25), math.inf, dimension=32)),
    "smoothing.Laplace": lambda c: certified(c, smoothing.Laplace(0.2)),
    "smoothing.PatchSmoothedClassifier.certify": lambda c: smoothing.PatchSmoothedClassifier(
        torch.nn.Sequential(Halved(), c.model), smoothing.ColumnAblation(1), num_classes=3
    ).certify(c.x),
    "smoothing.BlockAblation": lambda c: smoothing.PatchSmoothedClassifier(
        torch.nn.Sequential(Halved(), c.model), smoothing.BlockAblation(2), num_classes=3
    ).certify(c.x),
    "smoothing.SmoothedClassifier.certify": certified,
    "smoothing.SmoothedClassifier.certify_at": lambda c: smoothed(c).certify_at(
        c.x, 0.1, max_samples=200, n0=20, generator=generator()
    ),
    "smoothing.SmoothedClassifier.extend": extended,
    "smoothing.SmoothedClassifier.predict": lambda c: smoothed(c).predict(c.x, 100, generator=generator()),
    "smoothing.SmoothedRegressor.certify": lambda c: smoothing.SmoothedRegressor(
        c.model, smoothing.Gaussian(0.25)
    ).certify(c.x, 0.1, n=200, generator=generator()),
    "smoothing.PhotometricNoise": lambda c: certified(c, smoothing.PhotometricNoise(0.1, 0.1)),
    "smoothing.CyclicShiftNoise": lambda c: certified(c, smoothing.CyclicShiftNoise(1)),
    "smoothing.certify_cyclic_shifts": lambda c: smoothing.certify_cyclic_shifts(c.model, c.x, num_classes=3),
    "smoothing.SplittingNoise": lambda c: certified(c, smoothing.SplittingNoise(0.2)),
    "smoothing.Uniform": lambda c: certified(c, smoothing.Uniform(0.2)),
    "smoothing.UniformInBox": lambda c: certified(c, smoothing.UniformInBox(0.2)),
    "smoothing.UniformLInf": lambda c: certified(c, smoothing.UniformLInf(0.2, 32)),
    "smoothing.certify_incrementally": lambda c: smoothing.certify_incrementally(
        smoothed(c), c.model, certified(c), c.x, n=100, generator=generator()
    ),
    "smoothing.certify_top_k": lambda c: smoothing.certify_top_k(
        smoothed(c), c.x, c.y, 2, n=100, generator=generator()
    ),
    "smoothing.consistency_loss": lambda c: smoothing.consistency_loss(
        c.model, c.x, c.y, sigma=0.25, weight=5.0, generator=generator()
    ),
    "smoothing.gaussian_augmentation_loss": lambda c: smoothing.gaussian_augmentation_loss(
        c.model, c.x, c.y, sigma=0.25, generator=generator()
    ),
    "smoothing.macer_loss": lambda c: smoothing.macer_loss(
        c.model, c.x, c.y, sigma=0.25, weight=1.0, draws=4, generator=generator()
    ),
    "smoothing.smoothadv_loss": lambda c: smoothing.smoothadv_loss(
        c.model, c.x, c.y, sigma=0.25, epsilon=0.2, steps=2, generator=generator()
    ),
    "smoothing.smoothed_pgd": lambda c: smoothing.smoothed_pgd(
        c.model, c.x, c.y, noise=0.1 * c.x.flip(0)[None], epsilon=0.2, steps=2
    ),
    "testing.assert_smoothing_guarantee": lambda c: testing.assert_smoothing_guarantee(
        smoothed(c), c.x, certified(c), draws=100, generator=generator()
    ),
}


class Halved(torch.nn.Module):
    """The first half of twice as many channels, which an ablated image has."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : x.shape[1] // 2]


OTHERS: dict[str, Call] = {
    "certify.evaluate": lambda c: outcome(evaluation(c)),
    "certify.Evaluation": lambda c: evaluation(c).clean_accuracy(),
    "certify.RunDirectory": run_directory,
    "certify.certified_radius": lambda c: certify.certified_radius(c.model, c.x, c.y, norm=2, tolerance=0.3),
    "certify.certified_radius.alpha_crown": lambda c: certify.certified_radius(
        c.model, c.x, c.y, norm=math.inf, method="alpha_crown", tolerance=0.5
    ),
    "certify.audit": audited,
    "certify.check_proof": checked_proof,
    "certify.estimate_cost": foretold,
    "certify.merge": merged,
    "certify.StoredInputs": of_stored_inputs,
    "certify.collect": lambda c: certify.collect(torch.utils.data.TensorDataset(c.x, c.y)),
    "certify.compare": lambda c: certify.compare({name: evaluation(c) for name in "ab"}).at(0.1).to_csv(),
    "certify.decide": decided,
    "certify.load_data": lambda c: tuple(certify.load_data(certify.DataSource(count=2), c.model)),
    "certify.load_model": lambda c: list(certify.load_model(certify.ModelSource(network="ibp")).state_dict().values()),
    "certify.Logits": lambda c: certify.Logits(torch.nn.Flatten())(c.x),
    "certify.lipschitz_certificate": lambda c: certify.lipschitz_certificate(c.model, c.x, c.y, norm=2),
    "certify.verify": lambda c: certify.verify(
        c.model, c.x, c.y, norm=math.inf, epsilon=0.03, steps=3, generator=generator()
    ),
    "certify.Normalize": lambda c: NORMALIZE(c.x),
    "certify.CertifiedAccuracyCurve": lambda c: certify.CertifiedAccuracyCurve.from_certificate(
        stored(), stored().label
    ).at([0.1, 0.7]),
    "certify.AttackedAccuracyCurve": lambda c: certify.AttackedAccuracyCurve.from_witness(
        attacks.deepfool(c.model, c.x, c.y, norm=2, steps=3)
    ).at([0.1, 0.7]),
    "certify.reference": lambda c: reference.load("ibp", 2).x,
    "semantic.certify_transformation": lambda c: semantic.certify_transformation(
        c.model, c.x, c.y, semantic.Rotation((-1.0, 1.0)), tolerance=0.5
    ),
    "semantic.random_transformations": lambda c: semantic.random_transformations(
        c.model, c.x, c.y, semantic.Compose(*WHICH), draws=5, generator=generator()
    ),
    "testing.assert_certified": lambda c: testing.assert_certified(
        c.model, c.x, c.y, norm=math.inf, epsilon=0.001, generator=generator()
    ),
    "testing.assert_certified_accuracy": lambda c: testing.assert_certified_accuracy(
        stored(), stored().label, radius=0.0, at_least=0.0
    ),
    "testing.assert_no_regression": lambda c: testing.assert_no_regression(evaluation(c), evaluation(c)),
    "testing.assert_sound_bounds": lambda c: testing.assert_sound_bounds(
        c.model, c.ball, samples=4, steps=2, generator=generator()
    ),
    "testing.assert_noise_law": law,
    "verified_training.crown_ibp_loss": lambda c: verified_training.crown_ibp_loss(
        c.model, c.ball, c.y, kappa=0.5, beta=0.5
    ),
    "verified_training.epsilon_schedule": lambda c: verified_training.epsilon_schedule(
        3.0, start=1.0, end=9.0, epsilon=0.1
    ),
    "verified_training.fused_crown_ibp_loss": lambda c: verified_training.fused_crown_ibp_loss(
        c.model, c.ball, c.y, kappa=0.5, beta=0.5
    ),
    "verified_training.ibp_loss": lambda c: verified_training.ibp_loss(c.model, c.ball, c.y, kappa=0.5),
    "verified_training.initialize_for_intervals": initialized,
    "verified_training.kappa_schedule": lambda c: verified_training.kappa_schedule(3.0, start=1.0, end=9.0),
    "verified_training.robust_loss": lambda c: verified_training.robust_loss(
        bounds.margin_bounds(c.source, c.ball, c.y, "crown_ibp"), c.y
    ),
    "verified_training.worst_case_logits": lambda c: verified_training.worst_case_logits(
        bounds.margin_bounds(c.source, c.ball, c.y, "ibp"), c.y
    ),
}

PURE: dict[str, Call] = {
    "certify.calibration_error": lambda c: certify.calibration_error(
        torch.eye(3, device="cpu")[CLASSES], CLASSES, bins=3
    ),
    "smoothing.CertifiedAccuracyEnvelope": lambda c: smoothing.CertifiedAccuracyEnvelope([stored()], stored().label).at(
        0.3
    ),
    "smoothing.ColumnAblation": lambda c: smoothing.ColumnAblation(1).hits(2, 4, 8),
    "smoothing.Gaussian": lambda c: (
        smoothing.Gaussian(0.25).radius(RADII / 2),
        smoothing.Gaussian(0.25).sample(c.x, 2, generator=generator()),
    ),
    "smoothing.ablate": lambda c: smoothing.ablate(c.x, KEPT),
    "smoothing.abstention_rate": lambda c: smoothing.abstention_rate(stored()),
    "smoothing.average_certified_radius": lambda c: smoothing.average_certified_radius(stored(), stored().label),
    "smoothing.certificate_table": lambda c: smoothing.certificate_table({"a": stored()}, stored().label).to_csv(),
    "smoothing.certified_accuracy_at_least": lambda c: smoothing.certified_accuracy_at_least(
        stored(), stored().label, 0.3
    ),
    "smoothing.certified_quantiles": lambda c: smoothing.certified_quantiles(stored(), stored().label).to_csv(),
    "smoothing.lecuyer_laplace_radius": lambda c: smoothing.lecuyer_laplace_radius(RADII / 3, 0.4 - RADII / 4, 0.2),
    "smoothing.lecuyer_radius": lambda c: smoothing.lecuyer_radius(RADII / 3, 0.4 - RADII / 4, 0.2),
    "smoothing.li_radius": lambda c: smoothing.li_radius(RADII / 3, 0.4 - RADII / 4, 0.2),
    "smoothing.read_certification_log": lambda c: read("read_certification_log", LOG, sigma=0.25),
    "smoothing.read_class_counts": lambda c: read("read_class_counts", "3 97 1\n60 40 0\n"),
    "smoothing.read_vote_log": lambda c: read("read_vote_log", VOTES, sigma=0.25, n=100),
    "smoothing.split": lambda c: smoothing.split(c.x, 0.3 * c.x.flip(0), 0.2),
    "smoothing.wrong_certificates_at_most": lambda c: smoothing.wrong_certificates_at_most(stored()),
}

CALLS: dict[str, Call] = {**ATTACKS, **DEPLOYED, **OTHERS, **CONFIDENCE, **SURVEYS, **PURE}

# Names that stand for records and modules: they compute nothing.
RECORDS = {
    *("AttackedAccuracy", "Certificate", "CompleteCertificate", "Contradiction", "Decision", "Estimate", "Outside"),
    *("RadiusDecision", "Comparison", "DataSource", "FinishedUnit", "GroupAccuracies", "LabelledInputs", "ModelSource"),
    *("ProofReport", "tracking", "AuditReport", "Finding", "Cost", "CostEstimate", "NoiseTolerance", "distribution"),
    "pytest_runtest_protocol",
    *("SmoothedPrediction", "SmoothingCertificate", "Verdict", "Witness", "methods"),
    *("AbstentionRate", "CenterCertificate", "CertificationLog", "CertifiedAccuracyStatement", "ClassCounts"),
    *("IncrementalCertificate", "Noise", "PatchAblation", "PatchCertificate", "PercentileCertificate"),
    *("ShiftCertificate", "SplittingCertificate", "TopKCertificate", "StoredInputs"),
    *CONFIDENCE_RECORDS,
    *("FoolingRate", "GradientMaskingReport", "NoiseAccuracy", "NormFigures", "RobustnessFigures"),
    *("SmoothedAttackedAccuracy", "SmoothedWitness", "UniversalPerturbation"),
    *("FIXED_BUDGET", "MINIMUM_NORM"),
    *("Blur", "Compose", "Parameter", "Photometric", "Rotation", "Scale", "SemanticCertificate", "Shear"),
    *("Transformation", "TransformationAccuracy", "TransformationCurves", "TransformationSet"),
    *("TransformationWitness", "Translation"),
    *("CorruptionAccuracy", "CorruptionError", "FlipRates", "Frames", "Corruption", "CORRUPTIONS", "IMAGENET_C"),
    *("EXTRA", "SEQUENCES", "CIFAR_SEQUENCES", "SEVERITIES", "TransferMatrix", "surveys"),
    *("CertifiedSection", "ErrorDistortionLaw", "FrequencyMargins", "LossSurface", "NoiseErrorRelation"),
    *("LatentRobustness", "SpanAccuracy", "SubspaceCertificate", "certify_reference", "certify_generator"),
}
