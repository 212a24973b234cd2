"""How much of the bare forward and backward pass is left when CLEVER scores are computed?

Prints one JSON line per network and norm; times are those of the processor, medians of actions that take turns.
``targeted`` is the time of bare gradients of one margin, at points made beforehand, over that of a targeted score,
which draws, differentiates, reduces, ascends and fits: 1 means that all but the passes costs nothing. ``without_fit``
leaves out ascent and fit. ``all_targets`` is the time for all K - 1 targets over that of one forward pass and K - 1
backward passes through it. ``fit_seconds`` is what the statistics of one input cost besides.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bounds import clever
from certify.models import frozen
from certify.reference import architecture, images


def convolutional() -> nn.Sequential:
    """A convolutional network for 32 x 32 colour images, not trained."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 8 * 8, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def bare(model: nn.Module, points: Tensor, label: int, targets: list[int]) -> None:
    """Gradients of margins, from one forward pass."""
    points = points.detach().requires_grad_()
    logits = model(points)
    for i, target in enumerate(targets):
        margin = (logits[:, label] - logits[:, target]).sum()
        torch.autograd.grad(margin, points, retain_graph=i + 1 < len(targets))


def medians(actions: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Median durations of actions that take turns; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for run in range(runs + 1):
        for name, action in actions.items():
            started = time.process_time()
            action()
            if run:
                times[name].append(time.process_time() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def measure(
    model: nn.Module, x: Tensor, norm: float, radius: float, batches: int, size: int, runs: int
) -> dict[str, float]:
    """Ratios of one network and norm."""
    with frozen(model):
        label = int(model(x).argmax())
        others = [k for k in range(10) if k != label]
        points = x.repeat(size, 1, 1, 1)
        settings = {"norm": norm, "radius": radius, "num_batches": batches, "batch_size": size, "chunk_size": size}
        settings |= {"low": 0.0, "high": 1.0, "resamples": 0}
        target = torch.tensor([others[0]])

        few = max(2, batches // 8)  # of all targets

        def passes(targets: list[int], count: int) -> None:
            for _ in range(count):
                bare(model, points, label, targets)

        found = medians(
            {
                "bare": lambda: passes(others[:1], batches),
                "targeted": lambda: clever(model, x, targets=target, **settings),  # type: ignore[arg-type]
                "bare_all": lambda: passes(others, few),
                "all": lambda: clever(model, x, **(settings | {"num_batches": few})),  # type: ignore[arg-type]
                "small": lambda: clever(model, x, targets=target, **(settings | {"batch_size": 1})),  # type: ignore[arg-type]
            },
            runs,
        )
    return {
        "targeted": round(found["bare"] / found["targeted"], 3),
        "without_fit": round(found["bare"] / max(found["targeted"] - found["small"], 1e-9), 3),
        "all_targets": round(found["all"] / found["bare_all"], 3),
        "gradients_per_second": round(batches * size / found["targeted"]),
        "fit_seconds": round(found["small"], 4),
    }


def main() -> None:
    """Measure both networks in three norms."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=32)
    parser.add_argument("--networks", nargs="+", default=["reference", "convolutional"])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    pictures = images(1)[0]
    cases = {
        "reference": (architecture().eval(), pictures),
        "convolutional": (convolutional().eval(), torch.rand(1, 3, 32, 32)),
    }
    for name, (model, x) in cases.items():
        if name not in options.networks:
            continue
        for norm, radius in ((1, 20.0), (2, 2.0), (float("inf"), 0.1)):
            found = measure(model, x, norm, radius, options.batches, options.size, options.runs)
            shared = {"torch": torch.__version__, "threads": torch.get_num_threads(), "dtype": "float32", "seed": 0}
            print(json.dumps({"network": name, "norm": str(norm), **found, **shared}))


if __name__ == "__main__":
    main()
