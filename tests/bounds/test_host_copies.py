"""NumPy and SciPy get copies on the host: functions of numbers take tensors of any device."""

import math

import numpy as np
import pytest
import torch
from oracles.devices import remote
from oracles.halfspace import generator
from torch import Tensor

import bounds
from bounds import geometry, noise_theorems, separation, transport
from bounds.noise.ratio_law import MulticlassRatioLaw
from certify import Certificate, CertifiedAccuracyCurve, smoothing

P = torch.tensor([0.4, 0.7, 0.999], dtype=torch.float64)
X = torch.rand(4, 40, generator=generator(), dtype=torch.float64)
UNIT = torch.eye(3, 5, dtype=torch.float64)
COUNTS = torch.tensor([3, 5, 0])


def certificate(radius: Tensor) -> Certificate:
    fields = {"label": torch.zeros_like(radius).long(), "abstained": torch.zeros_like(radius).bool()}
    return Certificate(radius=radius, norm=2.0, alpha=1e-3, subject="base", method="ibp", **fields)


CALLS = {
    "flip probability": lambda t: noise_theorems.gaussian_flip_probability(t(P), sigma=0.5, normals=t(UNIT)),
    "noise radius": lambda t: noise_theorems.gaussian_noise_radius(t(P), 1.0, covariance=t(UNIT[:, :3]), epsilon=0.1),
    "noise factor": lambda t: noise_theorems.lp_noise_factor(t(P), 3),
    "distinguishability": lambda t: noise_theorems.distinguishability_bound(t(X), t(torch.tensor([0, 1, 0, 1]))),
    "mean distance": lambda t: noise_theorems.mean_distance_bound(t(P), t(torch.ones(3)), tau=1.0),
    "lower": lambda t: bounds.clopper_pearson_lower(t(COUNTS), 5),
    "upper": lambda t: bounds.clopper_pearson_upper(t(COUNTS), t(COUNTS + 1)),
    "at every moment": lambda t: bounds.sequential_lower(t(COUNTS), t(COUNTS + 1)),
    "evidence": lambda t: bounds.log_evidence_below(t(COUNTS), t(COUNTS + 1), t(P)),
    "law": lambda t: bounds.RatioLaw(20, 2).cdf(t(1 + P)),
    "quantile": lambda t: bounds.RatioLaw(20, 2).quantile(t(P)),
    "capped": lambda t: bounds.RatioLaw(20, 2).capped_log_mean(t(1 + P)),
    "several classes": lambda t: MulticlassRatioLaw(t(UNIT), t(1 + P), 5, 1).sample(10, generator()),
    "curve": lambda t: CertifiedAccuracyCurve.from_certificate(certificate(t(P)), t(COUNTS * 0)).at([0.5]),
    "table": lambda t: smoothing.certificate_table({"a": certificate(t(P))}, t(COUNTS * 0))["accuracy@0"].tolist(),
    "quantiles": lambda t: smoothing.certified_quantiles(certificate(t(P)), t(COUNTS * 0)).radius.tolist(),
    "statement": lambda t: str(smoothing.certified_accuracy_at_least(certificate(t(P)), t(COUNTS * 0), [0.5])),
    "separation": lambda t: transport.margin_features(t(P))["q50"],
    "transport": lambda t: transport.adversarial_error_bound(t(X), t(torch.tensor([0, 1, 0, 1])), epsilon=2.0, norm=2),
    "classes apart": lambda t: separation.separation(t(X), t(torch.tensor([0, 1, 0, 1])), norm=2).distance,
    "invariance": lambda t: (
        separation.invariance_check(t(X)[:, 0] + 9, t(X), t(torch.tensor([0, 1, 0, 1])), norm=2).share
    ),
    "least error": lambda t: (
        transport.least_adversarial_error(t(X), t(torch.tensor([0, 1, 2, 1])), epsilon=2.0, norm=2).lower
    ),
    "Gaussians": lambda t: (
        transport.gaussian_adversarial_error(t(X[0]), t(X[1]), t(torch.eye(X.shape[1])), epsilon=0.1, norm=1).lower
    ),
    "alignment": lambda t: geometry.alignment(t(X), t(X.flip(0))).p_value,
    "paired ratio": lambda t: geometry.paired_ratio(t(P), t(1 + P)).ratio,
    "quantiles of margins": lambda t: geometry.margin_quantiles(t(P), features=40, dimension=2, probability=0.1),
    "front": lambda t: transport.accuracy_robustness_front(t(P), t(1 - P)),
} | {
    str(noise): lambda t, noise=noise: noise.radius_at(t(X[:3]), t(P))
    for noise in (
        smoothing.Gaussian(0.5),
        smoothing.Laplace(0.5),
        smoothing.Uniform(0.5),
        smoothing.UniformInBox(0.5),
        smoothing.SplittingNoise(0.5),
        smoothing.GeneralizedGaussian(0.5, 40, 4),
        smoothing.UniformLInf(0.5, 40),
        smoothing.PhotometricNoise(0.1, 0.2),
        smoothing.PhotometricNoise(brightness=0.2, low=-9.0, high=9.0),
        smoothing.InNorm(smoothing.Gaussian(0.5), math.inf, dimension=40),
    )
}


@pytest.mark.parametrize("call", CALLS)
def test_numbers_of_another_device_are_copied(call: str):
    expected, found = (CALLS[call](place) for place in (lambda x: x, remote))
    np.testing.assert_equal(*(v.cpu().numpy() if isinstance(v, Tensor) else v for v in (found, expected)))


def test_the_check_itself_can_fail():
    with pytest.raises(TypeError, match="another device to numpy"):
        (remote(P) + 1).numpy()
    assert (remote(P) + 1).cpu().numpy()[0] == 1.4
