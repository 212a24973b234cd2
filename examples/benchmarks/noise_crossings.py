"""How much of the bare forward pass is left when random lines are followed to the boundary?

Prints one JSON line per network: the median time of as many forward passes on points made beforehand, divided by the
median time of finding the crossings, same model, batch and threads, alternating in one run. 1 means that directions,
points and bisection cost nothing.
"""

import argparse
import json
import statistics
import time

import torch
from torch import Tensor, nn

import bounds
from certify.reference import architecture, images


def wide_network() -> nn.Sequential:
    """A convolutional network of some 60 million operations an image, not trained."""
    return nn.Sequential(
        *[nn.Conv2d(3, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()],
        *[nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(1024, 10)],
    )


def measure(model: nn.Module, x: Tensor, lines: int, batch: int, runs: int) -> dict[str, float]:
    """The ratio, its spread, and crossings per second."""
    points = (x[:1] + torch.rand(batch, *x.shape[1:], device=x.device)).contiguous()
    ratios, seconds = [], []
    for run in range(runs + 1):
        generator = torch.Generator(x.device).manual_seed(run)
        started = time.perf_counter()
        found = bounds.random_crossings(model, x, directions=lines, limit=50.0, batch_size=batch, generator=generator)
        middle = time.perf_counter()
        with torch.no_grad():
            for _ in range(found.evaluations // batch):
                model(points)
        bare = (time.perf_counter() - middle) * found.evaluations / (found.evaluations // batch * batch)
        if run:
            ratios.append(bare / (middle - started))
            seconds.append(middle - started)
    rate = len(x) * lines / statistics.median(seconds)
    spread = {"lowest": round(min(ratios), 3), "highest": round(max(ratios), 3)}
    return {"ratio": round(statistics.median(ratios), 3), **spread, "lines per second": round(rate, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=8)
    parser.add_argument("--lines", type=int, default=100)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(0)
    for name, model, count in (("reference", architecture(), options.inputs), ("wide", wide_network(), 1)):
        x = images(count)[0].to(options.device)
        if name == "wide":
            x = nn.functional.pad(x, (2, 2, 2, 2)).expand(-1, 3, -1, -1).contiguous()
        lines, batch = (
            (options.lines, options.batch) if name == "reference" else (options.lines // 10, options.batch // 5)
        )
        result = measure(model.to(options.device).eval(), x, max(2, lines), max(2, batch), options.runs)
        setting = {"network": name, "batch": batch, "device": options.device, "torch": torch.__version__}
        print(json.dumps({**setting, "threads": torch.get_num_threads(), **result}), flush=True)


if __name__ == "__main__":
    main()
