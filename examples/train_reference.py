"""Train the four reference networks on Fashion-MNIST and store them with the first 1,000 test images.

Needs the IDX files of Fashion-MNIST (Debian: ``apt-get install dataset-fashion-mnist``) and a few minutes::

    python examples/train_reference.py --data /usr/share/datasets/fashion-mnist

Prints the accuracies that it also stores next to the networks. Seeds and the thread count are fixed.
"""

import argparse
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

import bounds
from certify import reference, training

EPSILON, SIGMA = 0.1, 0.25
Loss = Callable[[nn.Module, Tensor, Tensor, float], Tensor]  # the last argument runs from 0 to 1 over training


def read(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28) in [0, 1] and labels (N,) from the two IDX files of a split."""
    pixels = gzip.decompress((folder / f"{split}-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((folder / f"{split}-labels-idx1-ubyte.gz").read_bytes())[8:]
    x = torch.from_numpy(np.frombuffer(pixels, np.uint8).reshape(-1, 1, 28, 28).copy())
    return x.float() / 255, torch.from_numpy(np.frombuffer(labels, np.uint8).astype(np.int64))


def plain(model: nn.Module, x: Tensor, y: Tensor, progress: float) -> Tensor:
    return F.cross_entropy(model(x), y)


def noise(model: nn.Module, x: Tensor, y: Tensor, progress: float) -> Tensor:
    return training.gaussian_augmentation_loss(model, x, y, sigma=SIGMA)


def pgd(model: nn.Module, x: Tensor, y: Tensor, progress: float) -> Tensor:
    return training.pgd_loss(model, bounds.LpBall(x, EPSILON), y, steps=7)


def ibp(model: nn.Module, x: Tensor, y: Tensor, progress: float) -> Tensor:
    """Mixed clean and worst-case loss while epsilon grows (Gowal et al. 2018, section 3).

    The clean part sees Gaussian noise of every level up to sigma: without it, smoothing finds nothing to certify.
    """
    growth = min(max((progress - 0.05) / 0.55, 0.0), 1.0)
    margins = bounds.margin_bounds(model, bounds.LpBall(x, 1.05 * EPSILON * growth), y)
    noisy = x + SIGMA * torch.rand(len(x), 1, 1, 1) * torch.randn_like(x)
    return (1 - 0.5 * growth) * F.cross_entropy(model(noisy), y) + 0.5 * growth * training.robust_loss(margins, y)


def train(loss: Loss, epochs: int, x: Tensor, y: Tensor, batch: int = 128) -> nn.Sequential:
    """Adam with a one-cycle learning rate."""
    torch.manual_seed(0)
    model = reference.architecture()
    optimizer = torch.optim.Adam(model.parameters())
    steps = epochs * (len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for step in range(steps):
        if step % (len(x) // batch) == 0:
            order = torch.randperm(len(x))
        rows = order[step % (len(x) // batch) * batch :][:batch]
        optimizer.zero_grad()
        loss(model, x[rows], y[rows], step / steps).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def measure(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Share of test images classified correctly: clean, under noise, under attack, and proved by ibp."""
    torch.manual_seed(1)

    def accuracy(inputs: Tensor) -> float:
        return float((model(inputs).argmax(1) == y).double().mean())

    attacked = training.adversarial_inputs(model, bounds.LpBall(x, EPSILON), y, steps=40)
    with torch.no_grad():
        margins = bounds.margin_bounds(model, bounds.LpBall(x.double(), EPSILON), y)
        proved = (margins.scatter(1, y[:, None], 1.0) > 0).all(1).double().mean().item()
        noisy = x + SIGMA * torch.randn_like(x)
        return {
            "clean": accuracy(x),
            "noise_0.25": accuracy(noisy),
            "pgd_0.1": accuracy(attacked),
            "ibp_0.1": proved,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the IDX files")
    parser.add_argument("--output", type=Path, default=reference.FOLDER)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    x, y = read(arguments.data, "train")
    x_test, y_test = read(arguments.data, "t10k")
    np.savez_compressed(
        arguments.output / "fashion_test_1000.npz",
        x=(x_test[:1000, 0] * 255).round().to(torch.uint8).numpy(),
        y=y_test[:1000].to(torch.uint8).numpy(),
    )
    recipes: dict[str, Loss] = {"plain": plain, "noise": noise, "pgd": pgd, "ibp": ibp}
    epochs = {"plain": 10, "noise": 15, "pgd": 12, "ibp": 40}
    results = {}
    for name, loss in recipes.items():
        model = train(loss, epochs[name], x, y)
        results[name] = measure(model, x_test, y_test)
        print(name, results[name], flush=True)
        save_file(model.state_dict(), arguments.output / f"{name}.safetensors")
    (arguments.output / "accuracies.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
