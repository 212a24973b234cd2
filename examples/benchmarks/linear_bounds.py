"""Cost of bounds in forward passes, next to auto_LiRPA where it can be imported: one process, medians, peak memory.

The network is conv16 4x4/2 - conv32 4x4/2 - fc100 - fc10 on 1x28x28 inputs with random weights, 8 inputs, l-infinity
0.02. Prints a table and one JSON line. Expected on two CPU cores: ``ibp`` 3.5 forward passes, ``crown_ibp`` 28,
``crown`` 330, ``alpha_crown`` (100 steps) 16,000; with ``--sound real`` 25 for ``crown_ibp`` and 300 for ``crown``.

    python examples/benchmarks/linear_bounds.py --repeats 5
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import bounds


def network(dtype: torch.dtype) -> nn.Sequential:
    """The network, with random weights."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten())
    model = nn.Sequential(*layers, nn.Linear(32 * 49, 100), nn.ReLU(), nn.Linear(100, 10))
    return model.to(dtype).eval().requires_grad_(False)


def median_seconds(run: Callable[[], object], repeats: int) -> float:
    """After one run for warming up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def peak_memory() -> float:
    """MiB that the process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def methods(
    graph: bounds.Graph, model: nn.Module, ball: bounds.LpBall, *, steps: int, sound: str
) -> dict[str, Callable[[], object]]:
    """Our methods; intervals of a sequential network need no capture."""
    return {
        "ibp": lambda: bounds.ibp(model, ball, sound=sound),
        "crown_ibp": lambda: bounds.crown_ibp(graph, ball, sound=sound),
        "crown": lambda: bounds.crown(graph, ball, sound=sound),
        "alpha_crown": lambda: bounds.alpha_crown(graph, ball, steps, sound=sound),
    }


def peers(model: nn.Module, x: Tensor, radius: float) -> dict[str, Callable[[], object]]:
    """auto_LiRPA's methods of the same names, where it is installed."""
    try:
        from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm
    except ImportError:
        return {}
    bounded = BoundedModule(model, x)
    around = BoundedTensor(x, PerturbationLpNorm(norm=float("inf"), eps=radius))
    names = {"ibp": "IBP", "crown_ibp": "CROWN-IBP", "crown": "CROWN", "alpha_crown": "CROWN-Optimized"}
    return {f"auto_LiRPA {ours}": partial(bounded.compute_bounds, x=(around,), method=m) for ours, m in names.items()}


def main(repeats: int, steps: int, dtype: torch.dtype, sound: str) -> None:
    """Measure and print."""
    model, radius = network(dtype), 0.02
    x = torch.rand(8, 1, 28, 28, dtype=dtype, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        forward = median_seconds(lambda: model(x), 40 * repeats)
        print(f"forward pass {forward * 1e3:.3f} ms, {dtype}, {torch.get_num_threads()} threads, sound={sound!r}")
        graph = bounds.capture(model, x)
        row: dict[str, object] = {"forward_ms": forward * 1e3, "torch": torch.__version__, "dtype": str(dtype)}
        ball = bounds.LpBall(x, radius, low=None, high=None)
        ours = methods(graph, model, ball, steps=steps, sound=sound)
        for name, run in (ours | peers(model, x, radius)).items():
            before = peak_memory()
            seconds = median_seconds(run, repeats)
            found, more = run(), peak_memory() - before
            width = float((found.upper - found.lower).mean()) if isinstance(found, bounds.Interval) else float("nan")
            row[name] = {"passes": seconds / forward, "width": width, "more_memory_mib": more}
            print(f"{name:<24}{seconds / forward:>10.1f} passes   mean width {width:.5f}   {more:.0f} MiB more")
    print(json.dumps(row))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--double", action="store_true")
    parser.add_argument("--sound", default="rounding", choices=("real", "rounding"))
    arguments = parser.parse_args()
    main(arguments.repeats, arguments.steps, torch.float64 if arguments.double else torch.float32, arguments.sound)
