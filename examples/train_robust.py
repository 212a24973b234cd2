"""Train one network for robustness in fifteen ways, follow each training, and compare what comes out.

Without options it trains on 700 of the embedded images, which shows the way rather than good figures. With more
Fashion-MNIST, as IDX files (Debian: ``apt-get install dataset-fashion-mnist``) or as an npz file of images and labels,
of which the first 1,000 are the test, all methods take some 15 minutes of one core::

    python examples/train_robust.py --method all --data /usr/share/datasets/fashion-mnist

Prints, for each method, whether robust or catastrophic overfitting was found over its checkpoints, then a table of
accuracies, and writes weights, figures and the page of ``certify compare`` into ``--output``. Expect the accuracy
under attack of pgd, trades, fast, and fast with GradAlign within a few points of each other, proofs by intervals for
the methods on bounds alone, and catastrophic overfitting of ``fast_large``, which takes one large step within a large
radius, but not of ``grad_align_large``, which takes that step with the penalty of GradAlign. That comparison needs no
data and two minutes of a core::

    python examples/train_robust.py --method fast_large,grad_align_large --updates 600 --seed 1

Runs with one seed and one thread repeat.
"""

import argparse
import functools
import math
import runpy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

import certify
from bounds import LpBall, capture, margin_bounds
from bounds.statistics.paired import discordant, paired_interval
from certify import attacks, methods, reference, training

REFERENCE = runpy.run_path(str(Path(__file__).with_name("train_reference.py")))
LARGE = 3.0  # radius of the training that fails, in units of the one that is compared
GROWTH = 0.5  # share of that training in which its radius grows from 0: with the whole one at once it learns nothing
TRAINED = 1.05  # radius of training on bounds, likewise
RAMP = {"start": 0.05, "end": 0.6}  # shares of a training on bounds
CHECKPOINTS = 8  # of a training, evenly spaced
REPLAYS = 8
WHOLE = {"plain", "smoothed"}  # trained to the end: robust accuracy on the way is no reason to stop them


class Batch(NamedTuple):
    """A batch at one moment of a training; ``progress`` runs from 0 to 1, ``memory`` is the method's own."""

    model: nn.Sequential
    optimizer: torch.optim.Optimizer
    x: Tensor
    y: Tensor
    progress: float
    generator: torch.Generator
    memory: dict[str, Any]


Method = Callable[[Batch, float], Tensor | None]  # gives a loss, or steps by itself


def plain(b: Batch, epsilon: float) -> Tensor:
    return F.cross_entropy(b.model(b.x), b.y)


def pgd(b: Batch, epsilon: float) -> Tensor:
    return training.pgd_loss(b.model, LpBall(b.x, epsilon), b.y, steps=7, generator=b.generator)


def trades(b: Batch, epsilon: float) -> Tensor:
    return training.trades_loss(b.model, LpBall(b.x, epsilon), b.y, weight=6.0, steps=7, generator=b.generator)


def free(b: Batch, epsilon: float) -> None:
    """Every batch ``REPLAYS`` times, with one step for each call, so that all methods take as many."""
    if b.memory.setdefault("calls", 0) % REPLAYS == 0:
        b.memory.update(x=b.x, y=b.y)
    b.memory["calls"] += 1
    ball = LpBall(b.memory["x"], epsilon)
    step = training.free_step(b.model, b.optimizer, ball, b.memory["y"], replays=1, delta=b.memory.get("delta"))
    b.memory["delta"] = step.delta


def fast(b: Batch, epsilon: float) -> Tensor:
    return training.fast_loss(b.model, LpBall(b.x, epsilon), b.y, generator=b.generator)


def fast_large(b: Batch, epsilon: float) -> Tensor:
    radius = _growing(b, epsilon)
    return training.fast_loss(b.model, LpBall(b.x, radius), b.y, step_size=2 * radius, generator=b.generator)


def grad_align_large(b: Batch, epsilon: float) -> Tensor:
    radius = _growing(b, epsilon)
    options: dict[str, Any] = {"weight": 2.0, "step_size": 2 * radius, "generator": b.generator}
    return training.grad_align_loss(b.model, LpBall(b.x, radius), b.y, **options)


def _growing(b: Batch, epsilon: float) -> float:
    return LARGE * epsilon * min(max(b.progress, 1e-3) / GROWTH, 1.0)


def grad_align(b: Batch, epsilon: float) -> Tensor:
    return training.grad_align_loss(b.model, LpBall(b.x, epsilon), b.y, weight=0.2, generator=b.generator)


def yopo(b: Batch, epsilon: float) -> None:
    first, rest, ball = b.model[:1], b.model[1:], LpBall(b.x, epsilon)
    training.yopo_step(first, rest, b.optimizer, ball, b.y, outer=5, inner=3, generator=b.generator)


def cure(b: Batch, epsilon: float) -> Tensor:
    h = 1.5 * min(3 * b.progress, 1.0) + 1e-3
    return training.cure_loss(b.model, b.x, b.y, weight=4.0, h=h)


def input_gradient(b: Batch, epsilon: float) -> Tensor:
    return training.input_gradient_loss(b.model, b.x, b.y, weight=epsilon, norm=math.inf, power=1)


def ibp(b: Batch, epsilon: float) -> Tensor:
    weights = _on_bounds(b, epsilon)
    return training.ibp_loss(b.model, LpBall(b.x, weights.epsilon), b.y, kappa=weights.kappa)


def crown_ibp(b: Batch, epsilon: float) -> Tensor:
    weights = _on_bounds(b, epsilon)
    graph, ball = _captured(b.model), LpBall(b.x, weights.epsilon)
    return training.fused_crown_ibp_loss(b.model, ball, b.y, kappa=weights.kappa, beta=weights.beta, graph=graph)


def mtl_ibp(b: Batch, epsilon: float) -> Tensor:
    ball = LpBall(b.x, _on_bounds(b, epsilon).epsilon)
    return training.mtl_ibp_loss(b.model, ball, b.y, alpha=0.3, steps=3, generator=b.generator)


def smoothed(b: Batch, epsilon: float) -> Tensor:
    return training.gaussian_augmentation_loss(b.model, b.x, b.y, sigma=0.25, generator=b.generator)


METHODS: dict[str, Method] = {
    method.__name__: method
    for method in (plain, pgd, trades, free, fast, grad_align, fast_large, grad_align_large, yopo, cure, input_gradient)
} | {method.__name__: method for method in (ibp, crown_ibp, mtl_ibp, smoothed)}


def _on_bounds(b: Batch, epsilon: float) -> training.CrownIBPWeights:
    if b.progress == 0:
        training.initialize_for_intervals(b.model, b.generator)
    return training.crown_ibp_schedule(b.progress, epsilon=TRAINED * epsilon, **RAMP)


@functools.cache
def _captured(model: nn.Module) -> Any:  # noqa: ANN401  # a graph
    return capture(model, torch.zeros(1, 1, 28, 28))


# ---------------------------------------------------------------------------------------------------------- data


class Data(NamedTuple):
    """Images (N, 1, 28, 28) in [0, 1] and labels: of the training, held out for early stopping, of the test."""

    x: Tensor
    y: Tensor
    held_x: Tensor
    held_y: Tensor
    test_x: Tensor
    test_y: Tensor


def read(data: Path | None, held_out: int) -> Data:
    """The data of a folder of IDX files, of an npz file or a folder that holds one, or the embedded ones."""
    test = 1000
    if data is None:
        (x, y), test = reference.images(), 200
    elif (data / "train-images-idx3-ubyte.gz").exists():
        parts = [REFERENCE["read"](data, split) for split in ("t10k", "train")]
        x, y = (torch.cat([one[:test], other]) for one, other in zip(*parts, strict=True))
    else:
        with np.load(next(data.glob("*fashion*.npz")) if data.is_dir() else data) as stored:
            images, labels = (
                stored[long if long in stored else short] for long, short in (("images", "x"), ("labels", "y"))
            )
        x, y = torch.from_numpy(images).reshape(-1, 1, 28, 28).float() / 255, torch.from_numpy(labels).long()
    rest = slice(test + held_out, None)
    return Data(x[rest], y[rest], x[test : test + held_out], y[test : test + held_out], x[:test], y[:test])


# ------------------------------------------------------------------------------------------------------ training


class Trained(NamedTuple):
    """A network with the weights of its best epoch, the weights on the way, and the seconds that it took."""

    model: nn.Sequential
    checkpoints: dict[str, dict[str, Tensor]]
    best: str
    seconds: float


def train(name: str, data: Data, epsilon: float, updates: int, checkpoints: int, seed: int) -> Trained:
    """Adam with a one-cycle learning rate; of most methods, the checkpoint that is most robust on held-out images."""
    torch.manual_seed(seed)
    generator, start = torch.Generator().manual_seed(seed), time.perf_counter()
    model, size = reference.architecture(), min(128, len(data.x))
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=updates)
    stopping, order = training.EarlyStopping(), torch.zeros(0, dtype=torch.int64)
    memory: dict[str, Any] = {}
    kept: dict[str, Any] = {}
    for step in range(updates):
        if len(order) < size:
            order = torch.randperm(len(data.x), generator=generator)
        rows, order = order[:size], order[size:]
        batch = Batch(model, optimizer, data.x[rows], data.y[rows], step / updates, generator, memory)
        loss = METHODS[name](batch, epsilon)
        if loss is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        if (step + 1) * checkpoints // updates > step * checkpoints // updates:
            found = attacks.pgd(
                model, data.held_x, data.held_y, norm=math.inf, epsilon=epsilon, steps=10, generator=generator
            )
            stopping.update(model, found.robust.double().mean())
            kept[str(step + 1)] = {name: value.detach().clone() for name, value in model.state_dict().items()}
    if name not in WHOLE:
        stopping.restore(model)
    best = list(kept)[-1 if name in WHOLE else stopping.best_epoch]
    return Trained(model.eval(), kept, best, time.perf_counter() - start)


# ----------------------------------------------------------------------------------------------------- measuring


def accuracies(model: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> tuple[dict[str, float], Tensor]:
    """Shares of test images: right, right under attack, proved by two kinds of bounds; and which are under attack."""
    source = torch.Generator().manual_seed(0)
    found = attacks.pgd(model, x, y, norm=math.inf, epsilon=epsilon, steps=40, generator=source)
    shares = {"clean": ~found.misclassified, "pgd": found.robust}
    graph = capture(model, x[:2].double())
    for name in ("ibp", "crown"):
        with torch.no_grad():
            parts = [
                margin_bounds(graph, LpBall(some.double(), epsilon), label, name).scatter(1, label[:, None], 1.0)
                for some, label in zip(x[:200].split(50), y[:200].split(50), strict=True)
            ]
        shares[name] = (torch.cat(parts) > 0).all(1)
    return {name: share.double().mean().item() for name, share in shares.items()}, found.robust


def differences(robust: dict[str, Tensor]) -> str:
    """Accuracy under attack minus that of the first method, on the same images, with paired intervals of 95 %."""
    (first, base), *others = robust.items()
    lines = []
    for name, one in others:
        better, worse = discordant(one, base)
        low, high = paired_interval(better, worse, len(one), 0.95)
        lines.append(f"{name:17} {(better - worse) / len(one):+.3f} [{low:+.3f}, {high:+.3f}]")
    return "\n".join([f"\naccuracy under attack, minus that of {first}:", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="all", help=f"all, or some of {', '.join(METHODS)}, with commas")
    parser.add_argument(
        "--data", type=Path, help="folder of IDX files, or an npz file; the embedded images if not given"
    )
    parser.add_argument("--epsilon", type=float, default=0.1, help="l-infinity radius")
    parser.add_argument("--updates", type=int, default=1000, help="steps of the optimizer of each method")
    parser.add_argument("--images", type=int, default=60, help="test images that are compared, at most")
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches and random starts")
    parser.add_argument("--quick", action="store_true", help="few updates and images, to see that it runs")
    parser.add_argument("--output", type=Path, default=Path("robust_training"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = list(METHODS) if options.method == "all" else options.method.split(",")
    if unknown := sorted({*chosen} - {*METHODS}):
        parser.error(f"--method must be all or some of {', '.join(METHODS)}, got {', '.join(unknown)}")
    updates, images, tracked, checkpoints = options.updates, options.images, 300, CHECKPOINTS
    data = read(options.data, held_out=100 if options.quick else 300 if options.data else 100)
    if options.quick:
        updates, images, tracked, checkpoints = 8, 4, 20, 2
        data = Data(*(part[:60] for part in data))
    options.output.mkdir(parents=True, exist_ok=True)
    rows, robust, evaluations, histories = {}, {}, {}, {}
    for name in chosen:
        trained = train(name, data, options.epsilon, updates, checkpoints, options.seed)
        save_file(trained.model.state_dict(), options.output / f"{name}.safetensors")
        history = certify.track(
            trained.checkpoints,
            data.test_x[:tracked],
            data.test_y[:tracked],
            model=trained.model,
            training=(data.x[:tracked], data.y[:tracked]),
            norm=math.inf,
            epsilon=options.epsilon * (LARGE if name.endswith("_large") else 1),
            method="ibp",
            generator=torch.Generator().manual_seed(0),
        )
        histories[f"Training of {name}"] = history
        history.plot().savefig(options.output / f"{name}.png", dpi=150)
        print(f"{name}: kept the weights of update {trained.best}", *history.sentences(), sep="\n  ", flush=True)
        shares, robust[name] = accuracies(trained.model, data.test_x, data.test_y, options.epsilon)
        rows[name] = shares | {"seconds": trained.seconds}
        evaluations[name] = certify.evaluate(
            trained.model,
            data.test_x[:images],
            data.test_y[:images],
            norms=math.inf,
            methods=[methods.IntervalBounds(), methods.MinimalPerturbation(steps=50, restarts=1)],
            cross_sections=0,
        )
        assert not evaluations[name].check()  # no image is both proved and attacked
    print(f"\n{'method':17}", *(f"{title:>7}" for title in next(iter(rows.values()))))
    for name, row in rows.items():
        cells = (f"{value:7.0f}" if title == "seconds" else f"{value:7.3f}" for title, value in row.items())
        print(f"{name:17}", *cells)
    if len(evaluations) > 1:
        print(differences(robust))
        comparison = certify.compare(evaluations)
        comparison.to_html(options.output / "comparison.html", studies=histories)
        print(f"\n{comparison.to_dataframe([0.0, options.epsilon]).to_string()}\n{options.output / 'comparison.html'}")


if __name__ == "__main__":
    main()
