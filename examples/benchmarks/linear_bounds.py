"""Linear bounds in forward passes, next to auto_LiRPA where it can be imported: time, width, rates, memory, training.

Runs of both are interleaved in one process, and the median of their CPU times counts. Bounds of large networks run in
a fresh process each, for their peak of memory. Prints tables and one JSON line.

    python examples/benchmarks/linear_bounds.py
    python examples/benchmarks/linear_bounds.py --networks --large --training
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import bounds
from bounds.linear.network import Network
from bounds.linear.refined import RefinedNetwork
from certify import verified_training

if TYPE_CHECKING:
    from examples.benchmarks.networks_for_bounds import LARGE, SMALL, Problem, dense
else:  # other projects have a package of examples too
    sys.path.insert(0, str(Path(__file__).parent))
    from networks_for_bounds import LARGE, SMALL, Problem, dense

METHODS = {"ibp": "IBP", "crown_ibp": "CROWN-IBP", "crown": "CROWN", "alpha_crown": "CROWN-Optimized"}
Run = Callable[[], Any]


def seconds(runs: Mapping[str, Run], repeats: int, inner: int = 1) -> dict[str, float]:
    """Median CPU seconds of each, run in turn after one run of each for warming up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.process_time()
            for _ in range(inner):
                run()
            times[name].append((time.process_time() - start) / inner)
    return {name: statistics.median(found) for name, found in times.items()}


def ours(graph: bounds.Graph, x: Tensor, problem: Problem, method: str, steps: int, sound: str) -> Run:
    """One of our methods."""
    ball = bounds.LpBall(x, problem.radius, norm=problem.norm, low=None, high=None)
    settings = {"steps": steps} if method == "alpha_crown" else {}
    return partial(getattr(bounds, method), graph, ball, sound=sound, **settings)


def theirs(model: nn.Module, x: Tensor, problem: Problem, method: str, steps: int, rows: Tensor | None = None) -> Run:
    """auto_LiRPA's method of the same name.

    Raises:
        ImportError: it is not installed.
    """
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    options: dict[str, Any] = {"optimize_bound_args": {"iteration": steps}}
    if any(isinstance(layer, nn.MaxPool2d) for layer in model.modules()):
        options["conv_mode"] = "matrix"
    with torch.enable_grad():
        bounded = BoundedModule(model, x, bound_opts=options)
    around = BoundedTensor(x, PerturbationLpNorm(norm=problem.norm, eps=problem.radius))
    settings = {"method": METHODS[method]} | ({} if rows is None else {"C": rows, "bound_upper": False})

    def run() -> tuple[Tensor, Tensor]:
        with torch.set_grad_enabled(method == "alpha_crown"):
            found: tuple[Tensor, Tensor] = bounded.compute_bounds(x=(around,), **settings)
        return found

    return run


def checked(make: Callable[[], Run]) -> Run | str:
    """A computation that was tried once, or why there is none."""
    try:
        run = make()
        run()
    except Exception as error:  # whatever another package raises
        return "-" if isinstance(error, ImportError) else f"fails ({type(error).__name__})"
    return run


def small(names: list[str], methods: list[str], repeats: int, steps: int) -> list[dict[str, object]]:
    """Time and width of all methods on small networks."""
    print(f"{'network':<24}{'method':<13}{'passes':>9}{'without':>9}{'ratio of':>11}{'ratio of':>11}")
    print(f"{'':<37}{'':>9}{'rounding':>9}{'times':>11}{'widths':>11}   (ours / theirs, both without rounding)")
    table = []
    for name in names:
        problem = SMALL[name]
        model, x = problem.network(), problem.points(problem.inputs)
        graph = bounds.capture(model, x)
        for method in methods:
            peer = checked(partial(theirs, model, x, problem, method, steps))
            runs: dict[str, Run] = {"forward": partial(model, x)}
            for sound in ("rounding", "real"):
                runs[sound] = ours(graph, x, problem, method, steps, sound)
            runs |= {} if isinstance(peer, str) else {"theirs": peer}
            took = seconds(runs, repeats, 1 if method == "alpha_crown" else 3)
            line: dict[str, object] = {"network": name, "method": method}
            line |= {sound: took[sound] / took["forward"] for sound in ("rounding", "real")}
            last = f"{peer:>11}" if isinstance(peer, str) else ""
            if not isinstance(peer, str):
                (lower, upper), found = peer(), runs["real"]()
                times, widths = (
                    took["real"] / took["theirs"],
                    (found.upper - found.lower).mean() / (upper - lower).mean(),
                )
                line |= {"times": times, "widths": float(widths)}
                last = f"{times:>11.2f}{widths:>11.4f}"
            print(f"{name:<24}{method:<13}{line['rounding']:>9.0f}{line['real']:>9.0f}{last}", flush=True)
            table.append(line)
    return table


def sub_boxes(repeats: int, count: int) -> list[dict[str, object]]:
    """Rates of bounds of many parts of one problem: boxes of five inputs, and sets of neurons with known signs."""
    print(f"\n{'parts of a problem':<44}{'dtype':<9}{'a second':>9}{'without rounding':>18}{'ratio':>7}")
    table = []
    for kind, make in (("boxes, six layers of 50", _boxes), ("sets of splits, 256x2", _splits)):
        for dtype in (torch.float64, torch.float32):
            runs = {sound: make(dtype, sound, count) for sound in ("rounding", "real")}
            took = seconds(runs, repeats, 3)
            parts = count if make is _boxes else max(1, count // 4)
            rates = {sound: parts / found for sound, found in took.items()}
            label, cost = f"{parts} {kind}", took["rounding"] / took["real"]
            print(f"{label:<44}{str(dtype)[6:]:<9}{rates['rounding']:>9.0f}{rates['real']:>18.0f}{cost:>7.2f}")
            table.append({"parts": label, "dtype": str(dtype), **rates})
    return table


def _boxes(dtype: torch.dtype, sound: str, count: int) -> Run:
    """CROWN with intermediate bounds by CROWN."""
    torch.manual_seed(0)
    model = dense(5, *[50] * 6, 5).to(dtype).requires_grad_(False)
    center = torch.rand(count, 5, dtype=dtype, generator=torch.Generator().manual_seed(1))
    box = bounds.Box(center - 0.05, center + 0.05)
    graph = bounds.capture(model, center)
    return lambda: bounds.crown(graph, box, sound=sound)


def _splits(dtype: torch.dtype, sound: str, count: int) -> Run:
    """One backward pass for domains of one box, in each of which twenty neurons have a known sign."""
    torch.manual_seed(0)
    model = dense(20, 256, 256, 5).to(dtype).requires_grad_(False)
    count = max(1, count // 4)
    center = torch.rand(1, 20, dtype=dtype, generator=torch.Generator().manual_seed(1)).expand(count, -1)
    graph = bounds.capture(model, center)
    network = Network(graph, bounds.Box(center - 0.1, center + 0.1), sound=sound)
    with torch.no_grad():
        whole = RefinedNetwork(network, tighten=True).refine()
    known = {}
    for name in {parent for function in whole.functions for parent in whole.nodes[function].parents}:
        lower, upper = whole.intervals[name].lower.clone(), whole.intervals[name].upper.clone()
        place = torch.rand(lower.shape, generator=torch.Generator().manual_seed(2)).topk(10, 1).indices
        lower.scatter_(1, place[:, :5], lower.gather(1, place[:, :5]).clamp(min=0))
        upper.scatter_(1, place[:, 5:], upper.gather(1, place[:, 5:]).clamp(max=0))
        known[name] = bounds.Interval(lower.minimum(upper), upper.maximum(lower))
    rows = torch.eye(5, dtype=network.ball.center.dtype).expand(count, -1, -1)

    def run() -> Tensor:
        with torch.no_grad():
            return RefinedNetwork(network, known=known).functions(rows)

    return run


def large(names: list[str], methods: list[str]) -> list[dict[str, object]]:
    """Margins of large networks, each bound in a fresh process."""
    print(f"\n{'network':<16}{'method':<11}{'whose':<12}{'passes':>8}{'seconds':>9}{'MiB more':>10}{'margin':>12}")
    table = []
    for name in names:
        for method in methods:
            for whose in ("ours", "real", "theirs"):
                command = [sys.executable, __file__, "--one", name, method, whose]
                found = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
                line = json.loads(found.stdout.splitlines()[-1]) if found.returncode == 0 else {"failed": "process"}
                table.append(line | {"network": name, "method": method, "whose": whose})
                if "failed" in line:
                    print(f"{name:<16}{method:<11}{whose:<12}{line['failed']:>8}")
                    continue
                numbers = f"{line['passes']:>8.0f}{line['seconds']:>9.2f}{line['more']:>10.0f}{line['margin']:>12.3g}"
                print(f"{name:<16}{method:<11}{whose:<12}{numbers}", flush=True)
    return table


def one(name: str, method: str, whose: str) -> dict[str, object]:
    """Time and memory of one bound; of ``"crown"`` the passes of inner nodes end at intervals."""
    problem = LARGE[name]
    model, x = problem.network(), problem.points(problem.inputs)
    forward = max(seconds({"forward": lambda: model(x)}, 5)["forward"], 1e-6)  # some clocks tick slowly
    label = model(x).argmax(1)
    depth = 0 if method == "crown" else None

    def make() -> Run:
        if whose == "theirs":
            rows = torch.eye(10)[label].unsqueeze(1) - torch.eye(10)[torch.arange(10) != label][None]
            run = theirs(model, x, problem, "crown_ibp" if method == "crown" else method, 20, rows)
            return lambda: run()[0]
        graph = bounds.capture(model, x)
        ball = bounds.LpBall(x, problem.radius, norm=problem.norm, low=None, high=None)
        sound = "rounding" if whose == "ours" else "real"
        return lambda: bounds.margin_bounds(graph, ball, label, method, depth=depth, sound=sound)

    try:
        run = make()
        before = reset_peak()
        run()  # the first call derives constants from the weights, which it keeps
        start = time.process_time()
        found = run()
        took = time.process_time() - start
    except Exception as error:  # whatever another package raises
        return {"failed": type(error).__name__}
    margin = (
        float(found[0][torch.arange(found.shape[1]) != label].min()) if found.shape[1] == 10 else float(found.min())
    )
    return {"passes": took / forward, "seconds": took, "more": peak() - before, "margin": margin}


def reset_peak() -> float:
    """Forget the peak of memory where the system can (Linux); MiB that are held now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return peak()
    return _status("VmRSS")


def peak() -> float:
    """MiB that the process has held at most since then."""
    return _status("VmHWM")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines() if Path("/proc/self/status").exists() else []
    return next((int(line.split()[1]) / 2**10 for line in lines if line.startswith(name)), math.nan)


def training(name: str, batch: int, repeats: int) -> dict[str, float]:
    """Steps of verified training in units of a plain one: forward, backward and optimizer."""
    problem = LARGE[name] if name in LARGE else SMALL[name]
    model, x = problem.network().requires_grad_(True), problem.points(batch)
    labels = torch.arange(batch) % 5
    graph, ball = bounds.capture(model, x), bounds.LpBall(x, problem.radius, low=None, high=None)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)  # the network stays as it is

    def step(loss: Callable[[], Tensor]) -> Run:
        def run() -> None:
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()

        return run

    losses: dict[str, Callable[[], Tensor]] = {
        "plain": lambda: nn.functional.cross_entropy(model(x), labels),
        "IBP": lambda: verified_training.ibp_loss(model, ball, labels, kappa=0, graph=graph),
        "CROWN-IBP": lambda: verified_training.crown_ibp_loss(model, ball, labels, kappa=0, beta=0.5, graph=graph),
        "fused": lambda: verified_training.fused_crown_ibp_loss(model, ball, labels, kappa=0, beta=0.5, graph=graph),
    }
    took = seconds({kind: step(loss) for kind, loss in losses.items()}, repeats)
    print(f"\nverified training of {name}, batches of {batch}; a plain step takes {took['plain']:.3f} s")
    for kind, found in took.items():
        print(f"{kind:<12}{found / took['plain']:>7.2f} plain steps")
    return {kind: found / took["plain"] for kind, found in took.items()}


def main() -> None:
    """Measure what is asked for, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=list(SMALL), choices=[*SMALL, []], help="small ones")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="of alpha-CROWN")
    parser.add_argument("--parts", type=int, default=128, help="sub-boxes; 0 for none")
    parser.add_argument("--large", nargs="*", default=[], choices=[*LARGE, []], help="all if none is named")
    parser.add_argument("--training", nargs="?", const="ResNet-18", default="", choices=[*LARGE, *SMALL])
    parser.add_argument("--batch", type=int, default=4, help="inputs of a training step")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        with torch.no_grad():
            print(json.dumps(one(*arguments.one)))
        return
    row: dict[str, object] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    with torch.no_grad():
        row["small"] = small(arguments.networks, arguments.methods, arguments.repeats, arguments.steps)
        row["parts"] = sub_boxes(arguments.repeats, arguments.parts) if arguments.parts else []
    if "--large" in sys.argv:
        row["large"] = large(arguments.large or list(LARGE), [key for key in arguments.methods if key != "alpha_crown"])
    if arguments.training:
        row["training"] = training(arguments.training, arguments.batch, arguments.repeats)
    print(json.dumps(row))


if __name__ == "__main__":
    main()
