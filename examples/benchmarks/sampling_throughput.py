"""How much of the bare forward pass is left when votes are counted under noise?

Prints one JSON line per network and way of drawing: the median time of the bare forward pass on noise made beforehand,
divided by the median time of counting votes, same model, batch and threads, alternating in one run. 1 means that
noise and counting cost nothing. The line of the usual loop, one input at a time with votes counted on the host, is
the time of that loop over ours.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from certify.reference import architecture, images
from certify.smoothing import Gaussian
from certify.smoothing.drawing.distributions import on_grid
from certify.smoothing.drawing.votes import Sampling, Stage

SIGMA = 0.25


class Block(nn.Module):
    """Two convolutions around which the input is added."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, 1, bias=False),
            *[nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)],
        )
        same = stride == 1 and channels == width
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet20() -> nn.Sequential:
    """The ResNet of He et al. (2016) for CIFAR with 20 layers, not trained."""
    widths = [16] * 3 + [32] * 3 + [64] * 3
    blocks = [Block(([16, *widths])[i], width, 2 if i in (3, 6) else 1) for i, width in enumerate(widths)]
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def usual_loop(model: nn.Module, x: Tensor, draws: int, batch: int) -> None:
    """Certification as it is usually written: an input, its batches, the votes one by one on the host."""
    for row in x:
        counts = [0] * 10
        for _ in range(draws // batch):
            copies = row.repeat(batch, 1, 1, 1)
            predictions = model(copies + SIGMA * torch.randn_like(copies)).argmax(1)
            for prediction in predictions.cpu().numpy():
                counts[prediction] += 1


def medians(actions: dict[str, Callable[[], object]], runs: int, device: torch.device) -> dict[str, float]:
    """Median durations of actions that take turns; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    with torch.no_grad():
        for run in range(runs + 1):
            for name, action in actions.items():
                started = time.perf_counter()
                action()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                if run:
                    times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def measure(model: nn.Module, x: Tensor, draws: int, batch: int, groups: list[int], runs: int) -> dict[str, float]:
    """Ratios for every way of drawing."""
    model = model.eval().to(x.device)
    noisy = (x[:1] + SIGMA * torch.randn(batch, *x.shape[1:], device=x.device)).contiguous()

    def bare() -> None:
        for _ in range(len(x) * draws // batch):
            model(noisy)

    actions: dict[str, Callable[[], object]] = {"bare": bare, "usual": lambda: usual_loop(model, x, draws, batch)}
    for grid, group in [(grid, group) for grid in (None, 255) for group in groups]:
        sampling = Sampling(
            model=model,
            x=x,
            distribution=on_grid(Gaussian(SIGMA).distribution, grid, x),
            seed=0,
            indices=range(len(x)),
            batch_size=batch,
            noise_group=group,
        )
        name = f"{'float' if grid is None else 'grid'} noise, shared by {group}"
        actions[name] = lambda sampling=sampling: sampling.votes(10, draws, Stage.ESTIMATION)  # type: ignore[misc]
    found = medians(actions, runs, x.device)
    ratios = {name: round(found["bare"] / value, 3) for name, value in found.items() if "noise" in name}
    usual = {f"usual loop over {name}": round(found["usual"] / found[name], 2) for name in ratios if "grid" in name}
    return ratios | usual


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 100], help="inputs that share their noise")
    options = parser.parse_args()
    torch.manual_seed(0)
    for name, model, inputs in [
        ("reference", architecture(), options.inputs),
        ("resnet20", resnet20(), max(1, options.inputs // 50)),
    ]:
        x = images(inputs)[0].to(options.device)
        if name == "resnet20":  # an 8-bit image of 3 x 32 x 32
            x = nn.functional.pad(x, (2, 2, 2, 2)).expand(-1, 3, -1, -1).contiguous()
        result = measure(model, x, options.draws, options.batch, options.groups, options.runs)
        setting = {"network": name, "batch": options.batch, "device": options.device, "torch": torch.__version__}
        print(json.dumps({**setting, "threads": torch.get_num_threads(), **result}), flush=True)


if __name__ == "__main__":
    main()
