"""One small call of every public function of ``certify.surveys`` and ``certify.corruptions``, by name."""

import torch
from hostile.calls_of_bounds import Call, Case
from oracles.halfspace import generator
from torch import Tensor

import bounds
import certify
from certify import attacks, corruptions, surveys


def transferred(c: Case) -> certify.TransferMatrix:
    witness = attacks.deepfool(c.model, c.x, c.y, norm=2, steps=5)
    options = {"norm": 2, "sizes": [1.0, 2.0], "witnesses": {"a": witness}}
    return certify.transfer_matrix({"a": c.model}, c.x, c.y, **options, generator=generator())


RIGHT = {name: torch.arange(8) >= k for k, name in enumerate("abc", 1)}
SIZES = {name: torch.linspace(1, 2, 8) * k for k, name in enumerate("abc", 1)}
DISTANCES = torch.tensor([0.3, 0.6])
LAYER = torch.nn.Linear(4, 3)
SAME = torch.nn.Identity().eval()
LAYER.weight.data = torch.linspace(-1, 1, 12).view(3, 4)


def law(c: Case) -> tuple[float, ...]:
    found = surveys.error_distortion_law(RIGHT, SIZES)
    return found.slope, *found.interval, found.p_value


def latent(c: Case) -> list[object]:
    found = surveys.latent_robustness(c.model, SAME, c.x, c.y, method="ibp", steps=3, generator=generator())
    return found.to_dataframe([0.1]).to_dict("list")


def measured_corruptions(c: Case, labels: Tensor) -> corruptions.CorruptionAccuracy:
    """Correctness of the model for one corruption, as if other classes were right."""
    chosen = {"fog": corruptions.fog}
    return corruptions.corruption_accuracy(c.model, c.x, labels, corruptions=chosen, generator=generator())


SURVEYS: dict[str, Call] = {
    "corruptions.corruption_accuracy": lambda c: corruptions.corruption_accuracy(
        c.model, c.x, c.y, severities=(1, 5), generator=generator()
    ),
    "corruptions.corruption_error": lambda c: corruptions.corruption_error(
        *[measured_corruptions(c, labels) for labels in (c.y, 2 - c.y)]
    ).intervals.tolist(),
    "corruptions.flip_rates": lambda c: corruptions.flip_rates(c.model, c.x, frames=3, generator=generator()),
    **{
        f"corruptions.{corrupt.__name__}": lambda c, corrupt=corrupt: corrupt(c.x, 3, generator())
        for named in (corruptions.CORRUPTIONS, corruptions.IMAGENET_C, corruptions.EXTRA)
        for corrupt in named.values()
    },
    "surveys.Claim": lambda c: (
        surveys.Claim(claim="c", source="s", model="m", figure=0.5, interval=(0.4, 0.6), low=0.3).verdict
    ),
    "surveys.certified_cross_section": lambda c: surveys.certified_cross_section(
        c.model, c.x[0], c.x[1], c.x[0] - 0.3, extent=0.5, grid=5
    ),
    "surveys.claims_table": lambda c: surveys.claims_table([]).to_csv(),
    "surveys.error_distortion_law": law,
    "surveys.frequency_margins": lambda c: surveys.frequency_margins(
        c.model, c.x, size=2, offsets=[0, 2], tolerance=0.1, steps=3
    ),
    "surveys.latent_robustness": latent,
    "surveys.loss_surface": lambda c: surveys.loss_surface(c.model, c.x, c.y, c.x, c.x.flip(0), extent=0.3, grid=3),
    "surveys.noise_error_relation": lambda c: surveys.noise_error_relation(
        c.model, c.x, c.y, sigma=1.0, draws=50, distance=DISTANCES, generator=generator()
    ),
    "surveys.pruned": lambda c: surveys.pruned(LAYER, 0.5).weight.detach(),
    "surveys.span_accuracy": lambda c: surveys.span_accuracy(
        c.model, c.x, c.y, c.x.flip(0), draws=3, generator=generator()
    ),
    "surveys.subspace_radius": lambda c: surveys.subspace_radius(
        c.model, c.x, basis=bounds.geometry.frequency_basis((1, 4, 8), size=2, offset=0, like=c.x), tolerance=0.1
    ),
    "surveys.verdict_of": lambda c: surveys.verdict_of((0.1, 0.3), low=0.2),
    "certify.transfer_matrix": transferred,
    "surveys.transfer_matrix": transferred,
}
