"""CLEVER next to what is proved and what is found, on the embedded networks.

Prints, per network, norm and radius R, medians over correctly classified images of the certificate (CROWN), of CLEVER
of first and second order, and of the nearest adversarial example, with the share of images on which CLEVER lies above
the latter, that is, where it overestimates for certain. The last line holds the same as JSON.

Second-order CLEVER needs curvature, which networks of rectifiers do not have: it is computed for a copy with softplus
in their place (sharpness 10), and speaks of that copy alone.

Expected at the defaults, in about a minute: no certificate above a witness, and CLEVER above it for some images.
"""

import argparse
import copy
import json
import math

import torch
from torch import Tensor, nn

from bounds import clever, clever_second_order
from certify import certified_radius, reference
from certify.attacks import minimal_perturbation

RADII = {1.0: (5.0, 20.0), 2.0: (0.5, 2.0), math.inf: (0.05, 0.2)}


def smoothed(model: nn.Sequential) -> nn.Sequential:
    """The network with a smooth function in place of each rectifier."""
    return nn.Sequential(*(nn.Softplus(10) if isinstance(part, nn.ReLU) else copy.deepcopy(part) for part in model))


def median(values: Tensor) -> float:
    """The median of the numbers that are known."""
    return float(values[~values.isnan()].median()) if (~values.isnan()).any() else math.nan


def lines(name: str, options: argparse.Namespace) -> list[dict[str, object]]:
    """One line for each norm and radius of a network."""
    model, x, y = reference.load(name, options.images)
    right = model(x).argmax(1) == y
    x, y = x[right], y[right]
    found: list[dict[str, object]] = []
    for norm, radii in RADII.items():
        certificate = certified_radius(model, x, y, norm=norm, tolerance=0.05)
        witness = minimal_perturbation(model, x, y, norm=norm, steps=options.steps)
        assert (certificate.radius <= witness.distance).all(), "a certificate above a witness"
        for radius in radii:
            settings = {"radius": radius, "num_batches": options.batches, "batch_size": options.size, "resamples": 0}
            settings |= {"low": 0.0, "high": 1.0, "generator": torch.Generator().manual_seed(0)}
            first = clever(model, x, norm=norm, **settings)
            line = {"network": name, "norm": str(norm), "R": radius, "images": len(x)}
            line |= {"certificate": median(certificate.radius), "clever": median(first.score)}
            if norm == 2:
                settings["num_batches"] = max(2, options.batches // 5)
                runner_up = model(x).scatter(1, y[:, None], -math.inf).argmax(1)
                second = clever_second_order(smoothed(model), x, targets=runner_up, iterations=4, **settings)
                line["second_order"] = median(second.score)
            line |= {"witness": median(witness.distance)}
            line["above_witness"] = float((first.score > witness.distance).double().mean())
            line["below_certificate"] = float((first.score < certificate.radius).double().mean())
            line["capped"] = float(first.capped.double().mean())
            line["status"] = {status: first.status.count(status) for status in sorted(set(first.status))}
            found.append(line)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(reference.NETWORKS))
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    table = [line for name in options.networks for line in lines(name, options)]
    print("network norm      R  certificate  CLEVER  2nd order  witness  CLEVER above witness  capped")
    for line in table:
        second = f"{line['second_order']:9.4f}" if "second_order" in line else "        -"
        print(
            f"{line['network']:7} {line['norm']:4} {line['R']:6g} {line['certificate']:12.4f} {line['clever']:7.4f} "
            f"{second} {line['witness']:8.4f} {line['above_witness']:21.0%} {line['capped']:7.0%}"
        )
    print(json.dumps(table))


if __name__ == "__main__":
    main()
