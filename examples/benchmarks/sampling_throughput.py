"""How much of the bare forward pass is left when votes are counted under noise?

Prints one JSON line per network and noise sharing: the median time of the bare forward pass on noise made
beforehand, divided by the median time of counting votes, same model, batch and threads, alternating in one run.
1 means that noise and counting cost nothing.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from certify.reference import architecture, images
from certify.smoothing import Gaussian
from certify.smoothing.sampling import Stage, count_votes


def wide_network() -> nn.Sequential:
    """About 20 times the work of the reference network per input, still far below a ResNet."""
    return nn.Sequential(
        *[nn.Conv2d(1, 32, 3, padding=1), nn.ReLU()],
        *[nn.Conv2d(32, 64, 4, stride=2, padding=1), nn.ReLU()],
        *[nn.Flatten(), nn.Linear(64 * 14 * 14, 10)],
    )


def seconds(action: Callable[[], object], device: torch.device) -> float:
    """Duration of one call, the device's work included."""
    started = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def measure(
    model: nn.Module, inputs: int, draws: int, batch: int, group: int, runs: int, device: str
) -> dict[str, float]:
    """Medians over alternating runs."""
    x = images(inputs)[0].to(device)
    model = model.eval().to(device)
    noisy = (x[:1] + 0.25 * torch.randn(batch, *x.shape[1:], device=device)).contiguous()
    passes = inputs * draws // batch

    @torch.no_grad()
    def bare() -> None:
        for _ in range(passes):
            model(noisy)

    def counting() -> None:
        count_votes(
            model,
            x,
            Gaussian(0.25),
            draws,
            num_classes=10,
            seed=0,
            stage=Stage.ESTIMATION,
            batch_size=batch,
            noise_group=group,
        )

    times: dict[str, list[float]] = {"bare": [], "counting": []}
    for run in range(runs + 1):
        for name, action in (("bare", bare), ("counting", counting)):
            duration = seconds(action, x.device)
            if run:  # the first warms up
                times[name].append(duration)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "ratio": round(medians["bare"] / medians["counting"], 3),
        "draws_per_second": round(inputs * draws / medians["counting"]),
        "spread": round(max(times["counting"]) / min(times["counting"]), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=50)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(0)
    cases = [("reference", architecture(), 50), ("reference", architecture(), 1), ("wide", wide_network(), 1)]
    for name, model, group in cases:
        inputs = options.inputs if name == "reference" else max(1, options.inputs // 10)
        result = measure(model, inputs, options.draws, options.batch, group, options.runs, options.device)
        setting = {"network": name, "noise_group": group, "batch": options.batch, "device": options.device}
        print(json.dumps({**setting, "threads": torch.get_num_threads(), "torch": torch.__version__, **result}))


if __name__ == "__main__":
    main()
