"""Which attack finds the nearest adversarial examples, and at what price?

Prints a table, and the same as one JSON line: per norm and attack the share of inputs for which it found any, the
geometric mean of its distances over the nearest known (of all attacks in this run; 1 is best, and inf where it
missed inputs), the share of inputs within 1% of that, forward and backward passes per input, and seconds. Foolbox
(its Brendel-Bethge attack with numba) and the FAB of pyautoattack take part where they are installed; what they return
is checked here like everything else.
"""

import argparse
import importlib.util
import json
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from certify import Witness, attacks, reference

Found = tuple[Tensor, float, float]  # adversarial inputs, forward and backward passes; NaN where they are not counted
NORMS = {"l0": 0.0, "l1": 1.0, "l2": 2.0, "linf": math.inf}
SERVED: dict[str, tuple[Callable[..., Witness], str, dict[str, Any]]] = {
    "descents": (attacks.minimal_perturbation, "l0 l1 l2 linf", {}),
    "best": (attacks.minimal_perturbation, "l0 l1 l2 linf", {"method": "best"}),
    "deepfool": (attacks.deepfool, "l2 linf", {}),
    "superdeepfool": (attacks.superdeepfool, "l2", {}),
    "fast_adaptive_boundary": (attacks.fast_adaptive_boundary, "l1 l2 linf", {}),
    "carlini_wagner": (attacks.carlini_wagner, "l2", {}),
    "sparsefool": (attacks.sparsefool, "l0 l1", {}),
    "boundary_walk": (attacks.boundary_walk, "l1 l2 linf", {}),
}
FOOLBOX = {
    "l0": ("L0FMNAttack",),
    "l1": ("L1FMNAttack", "EADAttack"),
    "l2": ("L2FMNAttack", "DDNAttack"),
    "linf": ("LInfFMNAttack",),
}


def ours(name: str, model: nn.Module, x: Tensor, y: Tensor, norm: str) -> Found:
    attack, _, options = SERVED[name]
    generator = torch.Generator(x.device).manual_seed(0)
    witness = attack(model, x, y, norm=NORMS[norm], generator=generator, **options)
    return witness.adversarial, witness.queries, witness.backward_passes


def pyautoattack_fab(model: nn.Module, x: Tensor, y: Tensor, norm: str) -> Found:
    fab = importlib.import_module("pyautoattack.fab_pt").FABAttack_PT
    attack = fab(predict=model, norm={"l1": "L1", "l2": "L2", "linf": "Linf"}[norm], eps=1e9, device=str(x.device))
    adversarial: Tensor = attack.perturb(x, y)
    return adversarial, math.nan, math.nan


def foolbox_attack(name: str, model: nn.Module, x: Tensor, y: Tensor, norm: str) -> Found:
    """Brendel-Bethge walks along the boundary from what another attack found."""
    foolbox = importlib.import_module("foolbox")
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
    options = {}
    if "BrendelBethge" in name:
        _, options["starting_points"], _ = foolbox.attacks.DDNAttack()(wrapped, x, y, epsilons=None)
    _, found, _ = getattr(foolbox.attacks, name)()(wrapped, x, y, epsilons=None, **options)
    return found, math.nan, math.nan


def distances(model: nn.Module, x: Tensor, y: Tensor, adversarial: Tensor, norm: float) -> Tensor:
    """Distances (N,) of what is misclassified and in the box, infinite elsewhere."""
    with torch.no_grad():
        wrong = model(adversarial).argmax(1) != y
    inside = ((adversarial >= 0) & (adversarial <= 1)).flatten(1).all(1)
    size = torch.linalg.vector_norm((adversarial.double() - x.double()).flatten(1), norm, dim=1)
    return torch.where(wrong & inside, size, math.inf)


def measure(model: nn.Module, x: Tensor, y: Tensor, norm: str, chosen: list[str]) -> list[dict[str, Any]]:
    """One line per attack; the nearest known distances are those of all of them together."""
    runs: dict[str, Callable[..., Found]] = {
        name: partial(ours, name) for name in chosen if norm in SERVED[name][1].split()
    }
    if importlib.util.find_spec("foolbox"):
        runs |= {f"foolbox {name.removesuffix('Attack')}": partial(foolbox_attack, name) for name in FOOLBOX[norm]}
    if importlib.util.find_spec("foolbox") and importlib.util.find_spec("numba"):
        name = "LinfinityBrendelBethgeAttack" if norm == "linf" else f"{norm.upper()}BrendelBethgeAttack"
        runs["foolbox BrendelBethge"] = partial(foolbox_attack, name)
    if importlib.util.find_spec("pyautoattack") and norm != "l0":
        runs["pyautoattack FAB"] = pyautoattack_fab
    lines: list[dict[str, Any]] = []
    found: dict[str, Tensor] = {}
    for name, run in runs.items():
        started = time.perf_counter()
        adversarial, forward, backward = run(model, x, y, norm)
        seconds = time.perf_counter() - started
        found[name] = distances(model, x, y, adversarial, NORMS[norm])
        lines.append({"norm": norm, "attack": name, "forward": forward, "backward": backward, "seconds": seconds})
    known = torch.stack(list(found.values())).amin(0)
    for line in lines:
        ratio = found[line["attack"]][known.isfinite()] / known[known.isfinite()]
        line["success"] = float(ratio.isfinite().double().mean())
        line["ratio"] = float(ratio.log().mean().exp())
        line["within 1%"] = float((ratio <= 1.01).double().mean())
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--network", default="plain", choices=reference.NETWORKS)
    parser.add_argument("--norms", nargs="+", default=list(NORMS), choices=list(NORMS))
    parser.add_argument("--attacks", nargs="+", default=list(SERVED), choices=list(SERVED))
    options = parser.parse_args()
    model, x, y = reference.load(options.network, options.images)
    model.requires_grad_(False)
    right = model(x).argmax(1) == y  # the others have distance 0 and rank nobody
    lines = [line for norm in options.norms for line in measure(model, x[right], y[right], norm, options.attacks)]
    print(
        f"{'norm':5}{'attack':24}{'success':>8}{'ratio':>8}{'within 1%':>10}{'forward':>9}{'backward':>9}{'seconds':>9}"
    )
    for line in lines:
        shown = "{success:8.2f}{ratio:8.3f}{within 1%:10.2f}{forward:9.0f}{backward:9.0f}{seconds:9.1f}".format(**line)
        print(f"{line['norm']:5}{line['attack']:24}{shown}")
    for line in lines:  # JSON knows no NaN and no infinity
        line.update({key: None for key, value in line.items() if isinstance(value, float) and not math.isfinite(value)})
    setting = {"network": options.network, "inputs": int(right.sum()), "torch": torch.__version__}
    print(json.dumps({**setting, "threads": torch.get_num_threads(), "attacks": lines}))


if __name__ == "__main__":
    main()
