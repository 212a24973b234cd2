"""A record of each kind that a page shows as a study, of few inputs and a linear model: made in a moment."""

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from oracles.halfspace import Halfspace, generator

from bounds import geometry
from bounds.separation import invariance_check, separation
from bounds.transport import least_adversarial_error
from certify import TrackedTraining, corruptions, surveys
from certify.generalisation.margin_generalisation import MarginGeneralisation
from certify.generalisation.regression import GapRegression

LINEAR = Halfspace(torch.tensor([1.0, 2.0, -1.0, 0.5]), 0.1)
X = torch.randn(8, 4, generator=generator(1))
Y = LINEAR(X).argmax(1)
NORMALS = torch.randn(12, 4, generator=generator()) + torch.tensor([2.0, 0, 0, 0])


def _images() -> dict[str, Any]:
    x, y = torch.rand(6, 1, 8, 8, generator=generator()), torch.tensor([0, 1] * 3)
    model = Halfspace(torch.randn(64, generator=generator(2)))
    options = {"corruptions": {"fog": corruptions.fog, "snow": corruptions.snow}, "severities": [1, 2]}
    found = corruptions.corruption_accuracy(model, x, y, **options, generator=generator())
    worse = corruptions.CorruptionAccuracy(
        clean=found.clean, correct={name: rows & False for name, rows in found.correct.items()}, severities=(1, 2)
    )
    return {
        "frequencies": surveys.frequency_margins(model, x, size=2, offsets=[0, 4], steps=2, method=None),
        "corruptions": found,
        "errors": corruptions.corruption_error(found, worse),
        "flips": corruptions.flip_rates(model, x, frames=3, generator=generator()),
    }


def _trainings() -> dict[str, Any]:
    right = torch.ones(3, 40, dtype=torch.bool)
    attacked = right.clone()
    attacked[1:, :30] = False
    tracked = TrackedTraining(
        names=("1", "2", "3"),
        clean=right,
        fgsm=right,
        attacked=attacked,
        certified=None,
        distance=attacked.double(),
        gradient=attacked.double(),
        training_attacked=None,
        norm=math.inf,
        epsilon=0.1,
        method="",
        gap=0.25,
        confidence=0.95,
    )
    gap = torch.linspace(0, 0.1, 5, dtype=torch.float64)
    regression = GapRegression(
        gap=gap, predicted=gap, r2=1.0, p_value=0.01, permutations=99, components=1, adjusted_r2=1.0
    )
    margins = MarginGeneralisation(
        names=tuple("abcde"),
        feature_names=("input q50",),
        features=gap[:, None],
        training_accuracy=1 - gap / 2,
        test_accuracy=1 - 3 * gap / 2,
        regression=regression,
    )
    return {"training": tracked, "margins": margins}


@cache
def quick() -> dict[str, Any]:
    """Records that need no network, by a title."""
    return {
        "alignment": geometry.alignment(NORMALS, X[:1].expand(12, 4)),
        "share": geometry.energy_share(X, NORMALS, dimension=2),
        "invariance": invariance_check(LINEAR.distance(X), X, Y, norm=2),
        "least error": least_adversarial_error(X, Y, epsilon=1.0, norm=2),
        **_trainings(),
    }


@cache
def studies() -> dict[str, Any]:
    """Records of all kinds, by a title."""
    distance = LINEAR.distance(X)
    across = torch.randn(4, generator=generator(3))
    named = {"one": LINEAR, "other": Halfspace(torch.tensor([1.0, -2.0, 1.0, 0.5]))}
    errors = {name: torch.arange(8) >= k for k, name in enumerate("abcd", 1)}
    law = surveys.error_distortion_law(errors, {name: distance + k for k, name in enumerate(errors)})
    plane = surveys.certified_cross_section(LINEAR, X[0], NORMALS[0], across, extent=2.0, grid=4, method="ibp")
    latent = surveys.latent_robustness(
        LINEAR, torch.nn.Identity(), X, Y, method="ibp", tolerance=0.5, steps=3, generator=generator()
    )
    return {
        **quick(),
        "rank": geometry.normal_rank(NORMALS, draws=19, generator=generator()),
        "classes": separation(X, Y, norm=2),
        "span": surveys.span_accuracy(LINEAR, X, Y, NORMALS, dimension=2, draws=19, generator=generator()),
        "transfer": surveys.transfer_matrix(named, X, Y, norm=2, low=None, high=None, generator=generator()),
        "plane": plane,
        "surface": surveys.loss_surface(LINEAR, X, Y, NORMALS[:8], across.expand(8, 4), extent=1.0, grid=5),
        "noise": surveys.noise_error_relation(
            LINEAR, X, Y, sigma=1.0, draws=50, distance=distance, generator=generator()
        ),
        "law": law,
        "latent": latent,
        **_images(),
    }


class Hostile:
    """A record whose words try to leave their place, with white on dark cells and rows without end."""

    def to_dataframe(self) -> Any:
        import pandas as pd

        values = np.linspace(0, 1, 500)
        table = pd.DataFrame({"lower": values / 3, "upper": values / 3, "name": "<script>alert(1)</script>"})
        table.loc[0, "upper"] = np.nan
        return table

    def sentences(self) -> list[str]:
        return ['</svg><script>alert("1")</script> & more']

    def plot(self, ax: Any = None) -> Any:
        ax.set_facecolor("#000080")
        ax.text(0.5, 0.5, "white", color="white")
        ax.text(0.1, 0.1, "$\\alpha$ <b>bold</b>")
        return ax
