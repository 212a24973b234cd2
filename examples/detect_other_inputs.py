"""Train a network in two ways, and compare how well its confidence tells images from other inputs that are attacked.

The other inputs are the images with their pixels in another order. The one network is trained for its classes alone,
the other one is kept from being sure around such inputs too (GOOD). Without options both are trained on 800 of the
embedded images, in two minutes of one core, and judged by the other 200. With the IDX files of Fashion-MNIST (Debian:
``apt-get install dataset-fashion-mnist``) they are trained on all 60,000 images, and judged by the first 500 of the
test::

    python examples/detect_other_inputs.py --epochs 2 --data /usr/share/datasets/fashion-mnist

Prints the area below the ROC curve and the false positive rate at 95 % true positives: of clean inputs, of attacked
ones, and what is proved, each with its 95 % interval. Draws the curves of both networks. Expect a proved area of 0 from
plain training, and one close to the attacked area from GOOD. Seeds and the thread count are fixed.
"""

import argparse
import functools
import runpy
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import certify
from bounds import LpBall, capture
from certify import reference
from certify.training import good_loss
from certify.verified_training import initialize_for_intervals

BATCH = 100
IMAGES = runpy.run_path(str(Path(__file__).with_name("train_certified.py")))["images"]


def permuted(x: Tensor, seed: int) -> Tensor:
    """The images with the pixels of each in an order of its own."""
    order = torch.rand(x.flatten(1).shape, generator=torch.Generator().manual_seed(seed)).argsort(1)
    return x.flatten(1).gather(1, order).view_as(x)


def train(x: Tensor, y: Tensor, *, epochs: int, epsilon: float, weight: float) -> nn.Module:
    """A network for the classes, kept with some weight from being sure within epsilon around permuted images."""
    torch.manual_seed(0)
    model = reference.architecture().train()
    if weight:
        initialize_for_intervals(model, torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    captured = functools.cache(lambda: capture(model, x[:1]))
    steps = epochs * (len(x) // BATCH)
    for step in range(steps):
        rows = torch.randperm(len(x))[:BATCH]
        loss = F.cross_entropy(model(x[rows]), y[rows])
        if weight:
            # The radius grows during the first half: a large one at once teaches the network to say nothing.
            radius = epsilon * min(1.0, 2 * step / steps)
            loss = loss + weight * good_loss(model, LpBall(permuted(x[rows], step), radius), graph=captured())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def main() -> None:
    """Train, judge, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the IDX files of a data set")
    parser.add_argument("--epochs", type=int, default=20, help="passes over the training images")
    parser.add_argument("--images", type=int, default=500, help="test images, at most")
    parser.add_argument("--epsilon", type=float, default=0.05, help="l-infinity radius of the perturbations")
    parser.add_argument("--output", type=Path, default=Path("detection.png"), help="picture of the curves")
    options = parser.parse_args()
    torch.set_num_threads(1)
    x, y, test, labels = IMAGES(options.data)
    test, labels = test[: options.images], labels[: options.images]
    _, panels = plt.subplots(1, 2, figsize=(10, 5))
    for (name, weight), panel in zip({"plain": 0.0, "GOOD": 0.3}.items(), panels, strict=True):
        begin = time.monotonic()
        model = train(x, y, epochs=options.epochs, epsilon=1.05 * options.epsilon, weight=weight)
        accuracy = (model(test).argmax(1) == labels).double().mean()
        found = certify.ood_detection(
            model,
            test,
            permuted(test, -1),
            options.epsilon,
            method="crown_ibp",
            steps=30,
            restarts=2,
            generator=torch.Generator().manual_seed(0),
        )
        print(f"\n{name}: {accuracy:.1%} of the test images right, {time.monotonic() - begin:.0f} s")
        print(found.to_dataframe().round(3).to_string(index=False))
        found.plot(panel).set_title(f"Detection of other inputs, {name} training")
    plt.tight_layout()
    plt.savefig(options.output, dpi=120)


if __name__ == "__main__":
    main()
