"""Certify, attack and audit thousands of images of the size of ImageNet's, of which no more than a few are in memory.

The network makes little of an image, so that thousands take minutes; the images are random bytes in a file. Draws of
all images are counted, a part of the images is attacked, and the run is stopped half way and continued. Then the page
is written and the run audited::

    python examples/many_large_inputs.py --images 5000 --attacked 100 --memory 1GB

Prints seconds and the rise of the peak of the memory of each step, next to the bytes of all images as the network takes
them.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import certify
from certify.methods import MinimalPerturbation, Smoothing
from certify.sizes import bytes_of, size_in_words

SIDE, CLASSES = 224, 1000


class Stopped(Exception):
    """The run is stopped by the example, as a kill would stop it."""


class Steps:
    """Prints what each step takes, and fails where it takes more than the memory."""

    def __init__(self, memory: str) -> None:
        self.most = bytes_of("memory", memory)
        self.begin()

    def begin(self) -> None:
        """Count from here on."""
        self.peak, self.started = peak_of_process(), time.perf_counter()

    def end(self, name: str) -> None:
        """Print what was counted since the last step."""
        rise = peak_of_process() - self.peak
        print(f"{name:<10}{time.perf_counter() - self.started:>8.1f} s{size_in_words(rise):>12}", flush=True)
        assert rise <= self.most
        self.begin()


def peak_of_process() -> int:
    """Bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def store_images(file: Path, count: int) -> None:
    """Write random images of 8 bits one by one: what is written to a mapped file would count as memory."""
    random = np.random.default_rng(0)
    with file.open("wb") as stored:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, 3, SIDE, SIDE)}
        np.lib.format.write_array_header_1_0(stored, header)
        for _ in range(count):
            stored.write(random.bytes(3 * SIDE * SIDE))


def network() -> nn.Sequential:
    """Two convolutions of patches."""
    layers = [nn.Conv2d(3, 8, 8, 8), nn.ReLU(), nn.Conv2d(8, 16, 4, 4), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(16 * (SIDE // 32) ** 2, CLASSES)).eval()


def stop_half_way(unit: certify.FinishedUnit) -> None:
    """Raise when half of the units are stored."""
    if 2 * unit.done >= unit.units and not unit.restored:
        raise Stopped


def main() -> None:
    """Make images, evaluate, continue, attack, read and audit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--attacked", type=int, default=100)
    parser.add_argument("--draws", type=int, default=20, help="of smoothing, for each image")
    parser.add_argument("--memory", default="1GB")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model, settings = network(), {"norms": 2, "memory": arguments.memory, "cross_sections": 0}
    draws = {**settings, "methods": [Smoothing(sigma=0.25, n=arguments.draws, n0=2, alpha=0.1, noise_group=10)]}
    search = {**settings, "methods": [MinimalPerturbation(steps=1, restarts=1)]}
    for one in (draws, search):  # so that what is loaded on the way is there before memory is measured
        certify.evaluate(model, torch.rand(2, 3, SIDE, SIDE), **one)
    with tempfile.TemporaryDirectory() as folder:
        file, run = Path(folder) / "images.npy", Path(folder) / "run"
        store_images(file, arguments.images)
        x = certify.StoredInputs.of_file(file, divide_by=255)
        some = certify.StoredInputs(lambda places: x[places], min(arguments.attacked, arguments.images))
        with torch.no_grad():
            y = torch.cat([model(part).argmax(1) for part in x.split(20)])
        print(f"{arguments.images} images: {size_in_words(4 * x.shape.numel())} in single precision")
        steps = Steps(arguments.memory)
        try:
            certify.evaluate(model, x, y, output=run, callback=stop_half_way, **draws)
        except Stopped:
            steps.end("stopped")
        evaluation = certify.evaluate(model, x, y, output=run, **draws)
        steps.end("continued")
        certify.evaluate(model, some, y[: len(some)], output=Path(folder) / "attack", **search)
        steps.end("attack")
        evaluation.to_html(Path(folder) / "page.html")
        steps.end("page")
        report = certify.audit(run, model, x, y)
        steps.end("audit")
        assert evaluation.unfinished() is None
        assert report.holds, str(report)


if __name__ == "__main__":
    main()
