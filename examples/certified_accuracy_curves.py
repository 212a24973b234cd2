"""Certified-accuracy curves of the four reference networks, side by side: smoothing in l2, interval bounds in l-inf.

Takes about a minute for 100 images and writes ``curves.png``. The network trained with noise is certified at the
largest l2 radii, the one trained on interval bounds at the largest l-infinity radii; the plain one by neither.
"""

import argparse
import math
from pathlib import Path

import torch
from matplotlib.figure import Figure

import certify
from certify.reference import NETWORKS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100)
    parser.add_argument("--draws", type=int, default=10_000, help="noise draws per input")
    parser.add_argument("--output", type=Path, default=Path("curves.png"))
    options = parser.parse_args()
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    at_radius: dict[tuple[str, str], float] = {}
    for name in NETWORKS:
        model, x, y = certify.reference.load(name, options.inputs)
        smoothed = certify.SmoothedClassifier(model, certify.smoothing.Gaussian(sigma=0.25), num_classes=10)
        generator = torch.Generator().manual_seed(0)
        certificates = {
            "smoothing": smoothed.certify(x, n=options.draws, generator=generator),
            "ibp": certify.certified_radius(model, x, y, norm=math.inf),
        }
        for axes, radius, (method, certificate) in zip((left, right), (0.25, 0.1), certificates.items(), strict=True):
            curve = certify.CertifiedAccuracyCurve.from_certificate(certificate, y)
            curve.plot(axes, label=name)
            at_radius[name, method] = float(curve.at(radius))
            print(f"{name:6} {method:10} certified accuracy at {radius:g}: {at_radius[name, method]:.2f}")
    left.set_title("smoothed classifier, Gaussian noise of sigma 0.25")
    right.set_title("the network itself, interval bounds")
    right.legend(title="trained")
    figure.savefig(options.output, dpi=150)
    assert max(at_radius[name, "ibp"] for name in NETWORKS) == at_radius["ibp", "ibp"]


if __name__ == "__main__":
    main()
