"""Certify and attack a network of the size of ResNet-50 on images of the size of ImageNet's, within a memory.

The network is a ResNet-50 with random weights, and the images are random bytes in a file, so that anyone can repeat the
figures without a download; seconds and bytes do not depend on what the weights are. Images stay in their file, units of
work are stored as they are done, and batches are cut to fit the memory::

    python examples/large_inputs.py --images 2 --draws 100 --memory 4GB

Prints what it would cost before it starts, then seconds per image and the peak of the memory, and at last what more
images and draws would take at that speed: these are extrapolated, not measured. ``--small`` takes a network and images
that need a second.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import certify
from certify.methods import MinimalPerturbation, Smoothing
from certify.sizes import bytes_of, size_in_words

CLASSES = 1000


class Bottleneck(nn.Module):
    """A residual block of three convolutions, the first of which narrows the channels and the last widens them."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        wide = 4 * width
        self.body = nn.Sequential(
            *(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide)),
        )
        self.way: nn.Module = nn.Identity()
        if stride > 1 or channels != wide:
            self.way = nn.Sequential(nn.Conv2d(channels, wide, 1, stride, bias=False), nn.BatchNorm2d(wide))

    def forward(self, x: Tensor) -> Tensor:
        """Channels (N, 4 width, H / stride, W / stride)."""
        return torch.relu(self.body(x) + self.way(x))


def residual_network(blocks: tuple[int, ...], width: int = 64) -> nn.Sequential:
    """A residual network with so many blocks in each of its parts; (3, 4, 6, 3) make a ResNet-50."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    channels = width
    for part, count in enumerate(blocks):
        for block in range(count):
            layers.append(Bottleneck(channels, width * 2**part, 2 if part and not block else 1))
            channels = 4 * width * 2**part
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)).eval()


def write_images(file: Path, count: int, side: int) -> None:
    """Random images (N, 3, side, side) of 8 bits, written one by one."""
    images = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(count, 3, side, side))
    random = np.random.default_rng(0)
    for image in range(count):
        images[image] = random.integers(0, 256, images.shape[1:], dtype=np.uint8)


def peak_memory() -> int:
    """Bytes that this process has held at its peak."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def load_all(settings: dict[str, Any]) -> None:
    """Evaluate a small network, so that what is loaded on the way is there before memory is measured."""
    model = residual_network((1,), width=2)
    certify.evaluate(model, torch.rand(2, 3, 16, 16), cross_sections=0, **settings)


def extrapolated(per_draw: float, per_attack: float) -> str:
    """A table of hours for more images and draws, from seconds per draw and per attacked image."""
    lines = [
        "extrapolated, not measured: hours",
        f"{'images':>8}{'attack':>12}" + "".join(f"{draws:>14,} draws" for draws in (1_000, 10_000, 100_000)),
    ]
    for images in (1, 10, 100, 1_000):
        hours = [images * per_attack / 3600, *(images * n * per_draw / 3600 for n in (1_000, 10_000, 100_000))]
        lines.append(f"{images:>8,}{hours[0]:>12.3f}" + "".join(f"{hour:>20,.2f}" for hour in hours[1:]))
    return "\n".join(lines)


def main() -> None:
    """Estimate, evaluate, and compare with the allowance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--draws", type=int, default=100, help="of smoothing, for each image")
    parser.add_argument("--steps", type=int, default=5, help="of the attack")
    parser.add_argument("--memory", default="4GB")
    parser.add_argument("--small", action="store_true", help="a network and images that need a second")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = residual_network((1, 1), width=4) if arguments.small else residual_network((3, 4, 6, 3))
    selection = min(100, max(arguments.draws // 10, 1))
    methods = [
        Smoothing(sigma=0.25, n=arguments.draws, n0=selection),
        MinimalPerturbation(steps=arguments.steps, restarts=1),
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.npy"
        write_images(file, arguments.images, 32 if arguments.small else 224)
        x = certify.StoredInputs.of_file(file, divide_by=255)
        settings = {"norms": 2, "methods": methods, "memory": arguments.memory}
        load_all(settings)
        before = peak_memory()
        costs = certify.estimate_cost(model, x, **settings)
        print(costs, flush=True)
        started = time.perf_counter()
        evaluation = certify.evaluate(model, x, costs=costs, output=Path(folder) / "run", cross_sections=0, **settings)
        seconds = evaluation.to_dataframe().groupby("method").seconds.mean()
        rise, allowed = peak_memory() - before, bytes_of("memory", arguments.memory)
        batches = evaluation.manifest["configuration"]["batch_sizes"]
        print(f"{time.perf_counter() - started:.1f} s in all, in batches {batches}")
        for method, each in seconds.items():
            print(f"{method}: {each:.2f} s per image")
        print(f"peak of the memory: {size_in_words(rise)} more than before, of {size_in_words(allowed)} allowed")
        print(extrapolated(seconds["smoothing"] / (arguments.draws + selection), seconds["attack"]))
        assert rise <= allowed
        assert evaluation.check() == []
        assert evaluation.unfinished() is None


if __name__ == "__main__":
    main()
