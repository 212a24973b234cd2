"""How much of the bare forward pass of the embedded network is left under each noise?

Prints one JSON line per noise: the median, over runs that take turns, of the time of bare forward passes over that of
votes under independent noise for every input, with drawing and counting. 1 means that noise costs nothing. ``law_ns``
is what an entry takes beyond the bare pass. Times are those of the processor, which other work on the machine disturbs
little, or of the clock where there are several threads. With ``--compiled``, the same of a network that torch.compile
made, whose compilation is given apart.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import nn

import certify
from certify.models import frozen
from certify.smoothing import DiscreteNoise, Gaussian, GeneralizedGaussian, Laplace, Noise, SplittingNoise, Uniform
from certify.smoothing.drawing.distributions import Distribution
from certify.smoothing.drawing.votes import Sampling, Stage

NOISES: dict[str, Noise] = {
    "gaussian": Gaussian(0.25),
    "laplace": Laplace(0.2),
    "uniform": Uniform(0.5),
    "splitting": SplittingNoise(0.2),
    "discrete": DiscreteNoise(0.8, levels=256),
    "generalized gaussian": GeneralizedGaussian(0.25, dimension=784, k=380),
}


def distributions() -> Iterator[tuple[str, str, Distribution]]:
    """Every noise as it is, and on the grid of 8-bit images where that is something else."""
    for name, noise in NOISES.items():
        own = noise.distribution
        yield name, own.sampling, own
        rounded = own.on_grid(255)
        if rounded is not None and rounded is not own:
            yield name, rounded.sampling, rounded


def measure(bare: Callable[[], object], noisy: Callable[[], object], runs: int) -> tuple[float, float]:
    """Median ratio, and the median difference in seconds; the first round warms up."""
    clock, pairs = time.process_time if torch.get_num_threads() == 1 else time.perf_counter, []
    for _ in range(runs + 1):
        times = []
        for action in (bare, noisy):
            started = clock()
            action()
            times.append(clock() - started)
        pairs.append((times[0] / times[1], times[1] - times[0]))
    ratios, differences = zip(*pairs[1:], strict=True)
    return statistics.median(ratios), statistics.median(differences)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--noises", nargs="+", default=list(NOISES), choices=list(NOISES))
    parser.add_argument("--compiled", action="store_true", help="measure the network that torch.compile makes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, x, _ = certify.reference.load("plain", options.inputs)
    batch, began = torch.rand(1000, *x.shape[1:]), time.perf_counter()
    setting = {"threads": options.threads, "torch": torch.__version__, "compiled": options.compiled}
    if options.compiled:
        model = cast(nn.Sequential, torch.compile(model.eval()))
        with torch.no_grad():
            model(batch)
        setting["compilation_seconds"] = round(time.perf_counter() - began, 1)

    def bare(network: nn.Module = model) -> None:
        with frozen(network), torch.no_grad():
            for _ in range(options.inputs * options.draws // len(batch)):
                network(batch)

    for name, sampling, law in distributions():
        if name not in options.noises:
            continue
        votes = Sampling(model=model, x=x, distribution=law, seed=0, indices=range(len(x)), batch_size=len(batch))
        ratio, more = measure(bare, lambda votes=votes: votes.votes(10, options.draws, Stage.ESTIMATION), options.runs)  # type: ignore[misc]
        found = {"ratio": round(ratio, 3), "law_ns": round(1e9 * more / (options.draws * x.numel()), 2)}
        print(json.dumps({"noise": name, "sampling": sampling, **found, **setting}), flush=True)


if __name__ == "__main__":
    main()
