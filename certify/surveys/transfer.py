"""Transfer of adversarial examples from one model to another one, against random noise of their size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.checks import Limit
from bounds.circumstances import isolated
from bounds.errors import InvalidInput
from bounds.numerics import per_row
from bounds.sets.norms import clip, inner_side
from bounds.statistics.paired import discordant, mcnemar_p_value
from certify.attacks.minimum_norm.minimal_perturbation import minimal_perturbation
from certify.attacks.studies.noise_accuracy import unit_noise
from certify.models import frozen, predictions, probe
from certify.results import Witness, share_interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SIZES = (1.0, 1.5, 2.0)
NORMS = (1, 2, torch.inf)


@dataclass(frozen=True, eq=False, kw_only=True)
class TransferMatrix:
    """Models that the adversarial examples of each model fool, by size, and those that noise of their size fools.

    Attributes:
        names: A names of models.
        sizes: S multiples of the smallest perturbation found.
        distance: (A, N) float64, the size of that perturbation of each model; infinite where none was found.
        counted: (A, A, N) bool, by source and target: both are right at the clean input, and the source has an
            adversarial example.
        fooled: (A, A, S, N) bool, by source and target: counted, and wrong at the perturbed input.
        fooled_by_noise: (A, A, S, N) bool, likewise for one draw of noise of the same norm, clipped to the box as well.
        norm: order of the norm.
    """

    names: tuple[str, ...]
    sizes: tuple[float, ...]
    distance: Tensor
    counted: Tensor
    fooled: Tensor
    fooled_by_noise: Tensor
    norm: float

    def rate(self) -> Tensor:
        """Share of the counted inputs that are fooled, (A, A, S) float64; NaN where none counts."""
        return self.fooled.double().sum(3) / self.counted.double().sum(2, keepdim=True)

    def asymmetry(self, first: str, second: str, size: float) -> tuple[float, float, float]:
        """Rates from the first model to the second and back on the same inputs, and the exact p-value of equality.

        Raises:
            InvalidInput: an unknown name or size; no input that counts in both directions.
        """
        one, two = (self.names.index(checks.one_of("model", name, self.names)) for name in (first, second))
        if size not in self.sizes:
            raise InvalidInput(f"size must be one of {self.sizes}, got {size}")
        rows, place = self.counted[one, two] & self.counted[two, one], self.sizes.index(size)
        if not rows.any():
            raise InvalidInput(f"no input counts from {first!r} to {second!r} and back: use more inputs")
        there, back = self.fooled[one, two, place][rows], self.fooled[two, one, place][rows]
        p_value = mcnemar_p_value(*discordant(there, back))
        return float(there.double().mean()), float(back.double().mean()), p_value

    def to_dataframe(self, *, alpha: float = 0.05) -> "pd.DataFrame":
        """One row per source, target and size: rates with exact intervals, and the p-value against noise.

        The p-value is that of McNemar's exact test, one-sided: inputs on which the perturbation and the noise differ
        are fooled by either as likely, if the perturbation does no more than noise.

        Args:
            alpha: of each interval.
        """
        import pandas as pd

        rows = []
        for a, source in enumerate(self.names):
            for b, target in enumerate(self.names):
                counted = self.counted[a, b]
                for s, size in enumerate(self.sizes):
                    fooled, noise = self.fooled[a, b, s][counted], self.fooled_by_noise[a, b, s][counted]
                    row: dict[str, object] = {"source": source, "target": target, "size": size, "inputs": len(fooled)}
                    for name, hits in (("rate", fooled), ("noise_rate", noise)):
                        low, high = share_interval(hits, alpha) if len(hits) else (0.0, 1.0)
                        prefix = name.removesuffix("rate")
                        row |= {name: float(hits.double().mean()), f"{prefix}lower": low, f"{prefix}upper": high}
                    rows.append(row | {"p_value": mcnemar_p_value(*discordant(fooled, noise), one_sided=True)})
        return pd.DataFrame(rows)

    def sentences(self) -> list[str]:
        """Pair of different models that shares most adversarial examples, in words."""
        table = self.to_dataframe()
        table = table[(table.source != table.target) & (table["size"] == self.sizes[0]) & (table.inputs > 0)]
        if table.empty:
            return ["no input counts for two different models"]
        row = table.sort_values("rate").iloc[-1]
        share = f"{row.rate:.1%} [{row.lower:.1%}, {row.upper:.1%}] of the adversarial examples of {row.source}"
        return [f"at {self.sizes[0]:g} times the least size, at most {share} fool another model, {row.target}"]

    def plot(self) -> "Figure":
        """Draw a matrix of rates for each size, sources down and targets across."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(3.2 * len(self.sizes), 3.4), layout="constrained")
        rates, count = self.rate().cpu().numpy(), range(len(self.names))
        for s, ax in enumerate(figure.subplots(1, len(self.sizes), squeeze=False)[0]):
            ax.imshow(rates[:, :, s], vmin=0, vmax=1, cmap="Blues")
            for a in count:
                for b in count:
                    value = float(rates[a, b, s])
                    ax.text(
                        b, a, f"{value:.2f}", ha="center", va="center", color="#fffffe" if value > 0.6 else "#000001"
                    )
            ax.set_xticks(count, self.names)
            ax.set_yticks(count, self.names)
            ax.set(
                title=f"{self.sizes[s]:g} times the size", xlabel="fooled model", ylabel="made for" if s == 0 else ""
            )
        return figure


@isolated
def transfer_matrix(
    models: Mapping[str, nn.Module],
    x: Tensor,
    labels: Tensor,
    *,
    norm: float,
    sizes: Sequence[float] = SIZES,
    low: Limit = 0.0,
    high: Limit = 1.0,
    witnesses: Mapping[str, Witness] | None = None,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> TransferMatrix:
    """Rates at which the nearest adversarial examples of each model fool each other one, also when made larger.

    The smallest perturbation found for a source is multiplied by each size and clipped to the box. Both models must be
    right at the clean input. At size 1 the source itself is fooled always; another model only if boundaries agree.

    Args:
        models: by name, each maps (N, *D) to logits (N, K) of the same classes.
        x: (N, *D), floating, finite, inside the box.
        labels: (N,) correct classes.
        norm: 1, 2 or ``math.inf``.
        sizes: multiples of the smallest perturbation found, above 0.
        low: lower side of the box: a number, a tensor that broadcasts to one input, or None.
        high: upper side of the box, likewise.
        witnesses: by name, of these inputs and this norm; :func:`certify.attacks.minimal_perturbation` if None.
        batch_size: inputs per pass.
        generator: source of the attack's starts and of the noise.

    Raises:
        InvalidInput: a bad argument; no input.
        InvalidModel: see :func:`certify.models.probe`.

    References:
        Szegedy et al. (2014), Intriguing properties of neural networks, arXiv:1312.6199, section 4.2; Tramèr, Papernot,
        Goodfellow, Boneh, McDaniel (2017), The space of transferable adversarial examples, arXiv:1704.03453.
    """
    checks.not_empty(checks.inputs(x, low, high))
    sizes = _checked(models, norm, sizes, witnesses)
    generator, x, names = checks.generator(generator, x.device), x.detach(), tuple(models)
    box = inner_side(low, x, torch.inf), inner_side(high, x, -torch.inf)
    found, right = [], []
    for name, model in models.items():
        with frozen(model), torch.no_grad():
            classes = probe(model, x, batch_size=min(batch_size, len(x)))
            correct = checks.labels(labels, len(x), classes).to(x.device)
            right.append(predictions(model, x, batch_size) == correct)
        options = {"norm": norm, "low": low, "high": high, "batch_size": batch_size, "generator": generator}
        witness = witnesses[name] if witnesses else minimal_perturbation(model, x, labels, **options)  # type: ignore[arg-type]  # of many types
        found.append(witness)
    shape = (len(names), len(names), len(sizes), len(x))
    fooled, by_noise = (torch.zeros(shape, dtype=torch.bool, device=x.device) for _ in range(2))
    counted = torch.stack(
        [torch.stack([one & two & each.found for two in right]) for one, each in zip(right, found, strict=True)]
    )
    for a, each in enumerate(found):
        for s, size in enumerate(sizes):
            points = _scaled(x, each, size, norm, box, generator)
            for b, model in enumerate(models.values()):
                with frozen(model), torch.no_grad():
                    wrong = [predictions(model, at, batch_size) != correct for at in points]
                fooled[a, b, s], by_noise[a, b, s] = (rows & counted[a, b] for rows in wrong)
    distance = torch.stack([each.distance for each in found])
    return TransferMatrix(
        names=names, sizes=sizes, distance=distance, counted=counted, fooled=fooled, fooled_by_noise=by_noise, norm=norm
    )


def _checked(
    models: Mapping[str, nn.Module], norm: float, sizes: Sequence[float], witnesses: Mapping[str, Witness] | None
) -> tuple[float, ...]:
    """Check arguments, and return the sizes."""
    if not isinstance(models, Mapping) or not models:
        raise InvalidInput(f"models must be a mapping from names to at least one model, got {type(models).__name__}")
    if norm not in NORMS:
        raise InvalidInput(f"norm must be 1, 2 or math.inf, got {norm}")
    if witnesses is not None:
        if set(witnesses) != set(models):
            raise InvalidInput(f"witnesses must be of the models {sorted(models)}, got {sorted(witnesses)}")
        if any(each.norm != norm for each in witnesses.values()):
            raise InvalidInput(f"witnesses must be of the norm {norm:g}: search them in this norm, or leave them out")
    return tuple(checks.positive("sizes", size) for size in checks.several("sizes", sizes))


def _scaled(
    x: Tensor,
    witness: Witness,
    size: float,
    norm: float,
    box: tuple[Tensor | None, Tensor | None],
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Adversarial inputs of another size, and noisy ones of the same norm; the clean ones where nothing was found."""
    where = per_row(witness.found, x)
    adversarial = witness.adversarial.to(x)
    moved = adversarial if size == 1 else x + size * (adversarial - x)
    reach = torch.where(witness.found, size * witness.distance, 0.0).to(x.dtype)
    noisy = x + unit_noise(x, norm, "sphere", generator) * per_row(reach, x)
    return clip(torch.where(where, moved, x), *box), clip(torch.where(where, noisy, x), *box)
