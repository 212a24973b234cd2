"""Speed of complete verification: sub-boxes, split domains, folders of benchmarks, and other verifiers next to ours.

1. Sub-boxes per second of the search on a network of the shape of ACAS Xu (5 inputs, six layers of 50), against what
   ``bounds.specification_bounds`` by CROWN bounds on the same boxes, in turn: the median of the ratios. Goal: 0.7.
2. Domains with split neurons per second on fully connected 784-256-256-10 networks: one of random weights with a radius
   at which CROWN fails, or those of ``--mnist FOLDER``. Bounds before the first split do not count. Goal: 500.
3. Verdicts of ``--root DIR``, a folder with an ``instances.csv`` or one of several such: solved, wrong by
   ``expected.csv``, median seconds of decided instances.
4. With ``--peer NAME=COMMAND``, the commands of other verifiers on the same instances, and ours, each as a process.

    python examples/benchmarks/complete_verification.py --root vnncomp2025_benchmarks --most 5 \
        --peer 'abcrown=python abcrown.py --onnx {onnx} --vnnlib {vnnlib} --timeout {timeout} --results {result}'

Prints a table and one JSON line, in less than a minute without ``--root``. Seconds are those of the process, except for
whole benchmarks. Expected on one core: a ratio of 1.1, and 900 split domains per second.
"""

import argparse
import gzip
import json
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import torch
from torch import Tensor, nn

import bounds
from bounds.linear.network import Network
from bounds.search.branch_and_bound import search
from bounds.search.problem import SearchResult
from certify.command_line.properties.benchmark import Benchmark, Instance, InstanceResult
from certify.command_line.properties.benchmark_report import is_wrong, known_verdicts

Case = tuple[Tensor, Tensor]
VERDICTS = {"unsat": "unsat", "holds": "unsat", "safe": "unsat", "verified": "unsat"}
VERDICTS |= {"sat": "sat", "violated": "sat", "unsafe": "sat", "falsified": "sat"}
VERDICTS |= {"timeout": "timeout", "unknown": "unknown"}
SOLVED = ("sat", "unsat")


def dense(*sizes: int, seed: int) -> nn.Sequential:
    """Linear layers of random weights with ReLU between them."""
    draw, layers = torch.Generator().manual_seed(seed), list[nn.Module]()
    for size, following in pairwise(sizes):
        layer = nn.Linear(size, following)
        layer.weight.data = torch.randn(following, size, generator=draw) * (2 / size) ** 0.5
        layer.bias.data = torch.randn(following, generator=draw) / 10
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double().requires_grad_(False)


def timed(run: Callable[[], object]) -> float:
    """Seconds of the process, which other processes do not lengthen, by one thread as by several."""
    start = time.process_time()
    run()
    return time.process_time() - start


# ---------------------------------------------------------------------------------------------------------- sub-boxes


@contextmanager
def recorded_boxes() -> Iterator[list[bounds.Box]]:
    """The boxes that networks are bounded over meanwhile."""
    found, original = list[bounds.Box](), Network.__init__

    def recording(self: Network, model: bounds.Graph, ball: bounds.Box, *args: object, **options: object) -> None:
        found.append(ball)
        original(self, model, ball, *args, **options)  # type: ignore[arg-type]

    with patch.object(Network, "__init__", recording):
        yield found


def sub_boxes(seconds: float, repeats: int) -> dict[str, float]:
    """Rates of the search and of CROWN alone on its boxes."""
    model = dense(5, 50, 50, 50, 50, 50, 50, 5, seed=0)
    box = bounds.Box(torch.full((1, 5), -0.05, dtype=torch.float64), torch.full((1, 5), 0.05, dtype=torch.float64))
    draws = torch.rand(20_000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = model(torch.lerp(box.lower, box.upper, draws))[:, 0]
    least = values.min() - (values.max() - values.min()) / 2  # which some thousand boxes prove
    graph, case = bounds.capture(model, box.center), (torch.eye(5, dtype=torch.float64)[:1], least[None])
    rates = []
    for _ in range(repeats):
        with recorded_boxes() as boxes:
            found, spent = searched(graph, box, [case], seconds)
        alone = timed(lambda boxes=boxes: [bounds.specification_bounds(graph, box, [case], "crown") for box in boxes])  # type: ignore[misc]
        rates.append((found.domains / spent, sum(len(each.lower) for each in boxes) / alone))
    median = statistics.median(own / alone for own, alone in rates)
    return {
        "boxes_per_second": statistics.median(own for own, _ in rates),
        "boxes_per_second_of_crown": statistics.median(alone for _, alone in rates),
        "ratio": median,
    }


def searched(
    graph: bounds.Graph,
    box: bounds.Box,
    cases: Sequence[Case],
    seconds: float,
    seen: Callable[[Tensor], None] = lambda candidates: None,
) -> tuple[SearchResult, float]:
    """A search without any look for counterexamples, and the seconds of it."""
    start = time.process_time()
    found = search(graph, box, cases, deadline=time.monotonic() + seconds, check=seen)
    return found, time.process_time() - start


# ------------------------------------------------------------------------------------------------------ split domains


def split_domains(graph: bounds.Graph, box: bounds.Box, cases: Sequence[Case], seconds: float) -> tuple[int, float]:
    """Domains of split neurons, and the seconds that they took; the first bounds of all sets left out."""
    looks = list[tuple[int, float]]()  # candidates, one of each domain, and when
    start = time.process_time()
    found, spent = searched(graph, box, cases, seconds, lambda each: looks.append((len(each), time.process_time())))
    if "neuron" not in found.decided_by and not found.reason.endswith("domains are left"):
        return 0, 0.0
    first, began = looks[0]
    return found.domains - first, spent - (began - start)


def random_problem() -> tuple[bounds.Graph, bounds.Box, list[Case]]:
    """The 256x2 network of random weights, with a ball 1.6 times as large as CROWN proves."""
    model = dense(784, 256, 256, 10, seed=1)
    x = torch.rand(1, 784, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    graph, label = bounds.capture(model, x), model(x).argmax(1)
    proved, failed = 0.0, 0.1
    for _ in range(8):
        middle = (proved + failed) / 2
        margins = bounds.margin_bounds(graph, bounds.LpBall(x, middle), label, "crown")
        holds = bool((margins.scatter(1, label[:, None], 1.0) > 0).all())
        proved, failed = (middle, failed) if holds else (proved, middle)
    hull, eye = bounds.LpBall(x, 1.6 * proved).hull(), torch.eye(10, dtype=torch.float64)
    cases = [(eye[label] - eye[k], torch.zeros(1, dtype=torch.float64)) for k in range(10) if k != int(label)]
    return graph, bounds.Box(hull.lower, hull.upper), cases


def stored_problems(folder: Path, most: int) -> Iterator[tuple[bounds.Graph, bounds.Box, list[Case]]]:
    """Properties of 256x2 networks that are not known to be violated, one box each."""
    known = known_verdicts(folder / "expected.csv")
    names = [names for names, verdict in known.items() if "256x2" in names[0] and verdict == "unsat"]
    for onnx, vnnlib in names[:most]:
        graph = bounds.from_onnx(folder / onnx)
        for part in bounds.read_vnnlib(stored(folder / vnnlib)).boxes:
            cases = [case.specification() for case in part.cases]
            yield graph, part.box((1, *graph.input_shape)), cases


def neuron_splits(seconds: float, folder: Path | None, most: int) -> dict[str, float]:
    """Domains per second over all problems that are split."""
    problems = iter([random_problem()]) if folder is None else stored_problems(folder, most)
    found = [split_domains(*problem, seconds) for problem in problems]
    domains, spent = (sum(part) for part in zip(*found, strict=True))
    return {"split_domains": domains, "split_domains_per_second": domains / spent if spent else 0.0}


# ---------------------------------------------------------------------------------------------------- whole benchmarks


def stored(path: Path) -> Path:
    """The file, or its compressed form where only that is there."""
    compressed = path.with_name(f"{path.name}.gz")
    return path if path.exists() or not compressed.exists() else compressed


def families(root: Path) -> list[Path]:
    """The folders of benchmarks."""
    return [root] if (root / "instances.csv").exists() else sorted(file.parent for file in root.glob("*/instances.csv"))


def family(folder: Path, most: int, limit: float) -> list[InstanceResult]:
    """Our results on a folder, or on some of its instances, evenly apart; no time limit above a number of seconds."""
    with tempfile.TemporaryDirectory() as output:
        every = Benchmark(folder / "instances.csv", folder, Path(output) / "all", "rounding", 1.0).instances
        some = every[:: -(-len(every) // most)]
        rows = [f"{each.onnx},{each.vnnlib},{min(each.timeout, limit)}" for each in some]
        chosen = Path(output) / "instances.csv"
        chosen.write_text("\n".join(rows), encoding="utf-8")
        benchmark = Benchmark(chosen, folder, Path(output) / "some", "rounding", 1.0)
        benchmark.run()
        return benchmark.outcomes


def peer_result(command: str, folder: Path, instance: Instance) -> InstanceResult:
    """The verdict of a command on an instance, and the seconds of its process."""
    with tempfile.TemporaryDirectory() as output:
        paths = {
            name: plain(stored(folder / part), Path(output))
            for name, part in vars(instance).items()
            if name != "timeout"
        }
        result = Path(output) / "result.txt"
        words = [word.format(**paths, timeout=instance.timeout, result=result) for word in shlex.split(command)]
        start = time.monotonic()
        try:
            run = subprocess.run(words, capture_output=True, text=True, check=False, timeout=2 * instance.timeout + 60)
            said = result.read_text(encoding="utf-8") if result.exists() else run.stdout
            verdict = verdict_in(said)
        except subprocess.TimeoutExpired:
            verdict = "timeout"
        seconds = time.monotonic() - start
    return InstanceResult(
        **vars(instance), verdict=verdict, seconds=seconds, domains=0, decided_by="", reason="", sound=""
    )


def verdict_in(said: str) -> str:
    """The last verdict in a result file or in what was printed."""
    found = [VERDICTS[word] for word in re.findall(r"[a-z]+", said.lower()) if word in VERDICTS]
    return found[-1] if found else "unknown"


def plain(path: Path, folder: Path) -> Path:
    """The file without compression, which not every verifier reads."""
    if path.suffix != ".gz":
        return path
    file = folder / path.stem
    file.write_bytes(gzip.decompress(path.read_bytes()))
    return file


def summary(name: str, folder: Path, results: Sequence[InstanceResult]) -> dict[str, object]:
    """A line of the table."""
    known = known_verdicts(folder / "expected.csv")
    times = [result.seconds for result in results if result.verdict in SOLVED]
    return {
        "family": folder.name,
        "verifier": name,
        "instances": len(results),
        **{verdict: sum(result.verdict == verdict for result in results) for verdict in ("sat", "unsat")},
        "wrong": sum(is_wrong(result, known) for result in results),
        "median_seconds": round(statistics.median(times), 3) if times else None,
    }


def benchmarks(root: Path, most: int, limit: float, peers: Sequence[str]) -> list[dict[str, object]]:
    """A line for each family and verifier."""
    ours = (
        f"{shlex.quote(sys.executable)} -m certify verify {{onnx}} {{vnnlib}} --timeout {{timeout}} --output {{result}}"
    )
    commands = dict([peer.split("=", 1) for peer in peers]) if peers else {}
    lines = []
    for folder in families(root):
        results = family(folder, most, limit)
        lines.append(summary("certify", folder, results))
        instances = [Instance(result.onnx, result.vnnlib, result.timeout) for result in results]
        for name, command in ({"certify, process": ours} | commands).items() if commands else ():
            lines.append(summary(name, folder, [peer_result(command, folder, each) for each in instances]))
    return lines


def main(arguments: argparse.Namespace) -> None:
    """Measure and print."""
    row: dict[str, object] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    row |= sub_boxes(arguments.seconds, arguments.repeats)
    print(f"sub-boxes       {row['boxes_per_second']:>8.0f} per second, {row['ratio']:.2f} of CROWN alone (goal 0.7)")
    row |= neuron_splits(3 * arguments.seconds, arguments.mnist, arguments.most)
    print(f"split domains   {row['split_domains_per_second']:>8.0f} per second, of {row['split_domains']} (goal 500)")
    if arguments.root is not None:
        lines = benchmarks(arguments.root, arguments.most, arguments.limit, arguments.peer)
        print(pd.DataFrame(lines).to_string(index=False))
        row["benchmarks"] = lines
    print(json.dumps(row))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="of each search that cuts boxes; others take three times as long"
    )
    parser.add_argument("--repeats", type=int, default=3, help="of the searches that cut boxes")
    parser.add_argument("--mnist", type=Path, help="folder of properties of 256x2 networks")
    parser.add_argument("--root", type=Path, help="folder with an instances.csv, or of several such")
    parser.add_argument("--most", type=int, default=10, help="instances of each family")
    parser.add_argument("--limit", type=float, default=60.0, help="largest time limit in seconds")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND", help="another verifier")
    main(parser.parse_args())
