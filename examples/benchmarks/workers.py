"""How much faster are two workers than one process, on units of work of equal size?

Prints one JSON line per engine: the seconds of all units in this process and in the workers, measured in turns, and
the median of their ratio. A busy machine disturbs these, so the same ratio is also given from CPU time: the number of
workers times the CPU time of one process, over that of all workers and of the process that hands out the work. Starting
the workers is not counted: each has done a unit before.
"""

import argparse
import json
import statistics
import time

import torch
from torch import Tensor, nn

import certify
from certify.distribution import Engine, Pool, Processes, Ray
from certify.smoothing import Gaussian, SmoothedClassifier


def unit(shared: tuple[nn.Module, Tensor, int], place: int) -> float:
    """Certify one input by smoothing; the CPU time that it took."""
    began = time.process_time()
    model, x, draws = shared
    smoothed = SmoothedClassifier(model, Gaussian(0.25), num_classes=10)
    smoothed.certify(x[place : place + 1], n=draws, generator=torch.Generator().manual_seed(0), first_index=place)
    return time.process_time() - began


def in_workers(pool: Pool, units: int) -> tuple[float, float]:
    """Seconds of all units in workers, and CPU time of the workers and of this process."""
    wall, own = time.perf_counter(), time.process_time()
    used = sum(seconds for _, seconds in pool.unordered(unit, range(units)))
    return time.perf_counter() - wall, used + time.process_time() - own


def here(shared: tuple[nn.Module, Tensor, int], units: int) -> tuple[float, float]:
    """Seconds and CPU time of all units in this process."""
    wall = time.perf_counter()
    used = sum(unit(shared, place) for place in range(units))
    return time.perf_counter() - wall, used


def measure(engine: Engine, shared: tuple[nn.Module, Tensor, int], units: int, runs: int) -> dict[str, float]:
    """Medians of runs here and in the workers of an engine, in turns."""
    found = []
    with engine.pool(shared, torch.device("cpu")) as pool:
        in_workers(pool, 2 * pool.workers)
        here(shared, 1)
        for _ in range(runs):
            one, many = here(shared, units), in_workers(pool, units)
            found.append((*one, *many, one[0] / many[0], pool.workers * one[1] / many[1]))
    names = ("seconds here", "cpu here", "seconds in workers", "cpu in workers", "ratio", "ratio of cpu")
    return {
        name: round(statistics.median(values), 3) for name, values in zip(names, zip(*found, strict=True), strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=24)
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--engines", nargs="+", default=["processes"], choices=["processes", "ray"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, x, _ = certify.reference.load("noise", options.units)
    for name in options.engines:
        engine = Ray(workers=options.workers) if name == "ray" else Processes(options.workers)
        result = measure(engine, (model, x, options.draws), options.units, options.runs)
        setting = {"engine": name, "workers": options.workers, "units": options.units, "draws": options.draws}
        print(json.dumps({**setting, "torch": torch.__version__, **result}), flush=True)


if __name__ == "__main__":
    main()
