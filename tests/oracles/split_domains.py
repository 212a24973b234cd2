"""Random domains of a search, and their bounds in exact rational arithmetic."""

from dataclasses import replace
from fractions import Fraction

import torch
from oracles.halfspace import generator
from torch import Tensor

from bounds.linear.network import Network
from bounds.search.domains import Domains
from bounds.search.split_bounds import SplitBounds

Exact = list[Fraction]


def random_domains(bounds: SplitBounds, count: int, *, splits: int, seed: int = 0, wild: bool = False) -> Domains:
    """Domains with some splits each, and random weights, multipliers and parameters.

    Wild ones have multipliers of every sign at every neuron, and parameters beyond their limits, which bounds have to
    set right.
    """
    draw = generator(seed)
    roots = bounds.roots()
    domains = roots[torch.arange(count) % len(roots)]
    intervals = [bounds.root.parents(span.name)[0] for span in bounds.spans]
    lower, upper = (torch.cat([getattr(each, side).flatten() for each in intervals]) for side in ("lower", "upper"))
    for _ in range(splits):
        neuron = torch.randint(bounds.total, (count,), generator=draw)
        part = torch.rand(count, generator=draw, dtype=torch.float64) * 0.6 + 0.2
        point = (lower[neuron] + (upper - lower)[neuron] * part).float()
        point = torch.where((lower[neuron] < 0) & (upper[neuron] > 0) & (part < 0.5), torch.zeros_like(point), point)
        above = torch.rand(count, generator=draw) < 0.5
        low, high = domains.low.clone(), domains.high.clone()
        rows: Tensor = torch.arange(count)
        low[rows[above], neuron[above]] = torch.maximum(low[rows, neuron], point)[above]
        high[rows[~above], neuron[~above]] = torch.minimum(high[rows, neuron], point)[~above]
        domains = replace(domains, low=low, high=high)
    noise = torch.randn(count, bounds.total, generator=draw)
    multiplier = (
        noise
        if wild
        else noise.clamp(torch.where(domains.low.isfinite(), -5.0, 0.0), torch.where(domains.high.isfinite(), 5.0, 0.0))
    )
    spread = 2.0 if wild else 1.0
    parameters = tuple(
        tuple((torch.rand(part.shape, generator=draw) - 0.5) * spread + 0.5 for part in parts)
        for parts in domains.parameters
    )
    weight = torch.randn(domains.weight.shape, generator=draw, dtype=torch.float64)
    return replace(domains, multiplier=multiplier, parameters=parameters, weight=weight)


def share(domains: Domains) -> Tensor:
    """The weight of each inequality, (N, M)."""
    return domains.weight.softmax(1)


def weighted(bounds: SplitBounds, domains: Domains) -> tuple[Tensor, Tensor]:
    """The weighted inequality of each domain: its row (N, K) and offset (N,)."""
    rows, offsets = bounds.problem.rows[domains.case], bounds.problem.offsets[domains.case]
    return (share(domains)[:, :, None] * rows).sum(1), (share(domains) * offsets).sum(1)


def exact(values: Tensor) -> Exact:
    return [Fraction(value) for value in values.detach().flatten().tolist()]


def dot(one: Exact, other: Exact) -> Fraction:
    return sum((a * b for a, b in zip(one, other, strict=True)), Fraction(0))


def exact_bound(bounds: SplitBounds, domains: Domains, index: int) -> Fraction:
    """The bound that the numbers of one domain give without any rounding, for dense networks of rectifiers."""
    network, _ = bounds.view(domains)
    case = domains.case[index]
    shares = exact(share(domains)[index])
    rows = [exact(row) for row in bounds.problem.rows[case]]
    last, *others = [
        network.nodes[name] for name in reversed(network.order) if "linear" in network.nodes[name].operation
    ]
    row = [dot(shares, list(column)) for column in zip(*rows, strict=True)]
    constant = dot(row, exact(last.arguments[2])) - dot(shares, exact(bounds.problem.offsets[case]))
    coefficients = [dot(row, exact(part)) for part in last.arguments[1].T]
    for place, affine in zip(range(len(bounds.spans) - 1, -1, -1), others, strict=True):
        span = bounds.spans[place]
        slopes, above = _lines(bounds, network, domains, place, index)
        constant += sum((a * b for a, b in zip(coefficients, above, strict=True) if a < 0), Fraction(0))
        shift = exact(domains.multiplier[index, span.start : span.end].double())
        sides = zip(
            *(getattr(domains, side)[index, span.start : span.end].tolist() for side in ("high", "low")), strict=True
        )
        for beta, (high, low) in zip(shift, sides, strict=True):
            constant -= beta * Fraction(high if beta > 0 else low) if beta else 0
        coefficients = [a * s[a < 0] + beta for a, s, beta in zip(coefficients, slopes, shift, strict=True)]
        constant += dot(coefficients, exact(affine.arguments[2]))
        coefficients = [dot(coefficients, exact(part)) for part in affine.arguments[1].T]
    ends = zip(coefficients, exact(bounds.problem.box.lower), exact(bounds.problem.box.upper), strict=True)
    return constant + sum((a * (low if a > 0 else high) for a, low, high in ends), Fraction(0))


def _lines(
    bounds: SplitBounds, network: Network, domains: Domains, place: int, index: int
) -> tuple[list[tuple[Fraction, Fraction]], Exact]:
    """Slopes below and above each neuron of a function, and constants above, of one domain."""
    name = bounds.spans[place].name
    planes = network.functions[name].planes(
        tuple(p.double() for p in domains.parameters[place]), *network.parents(name)
    )
    assert planes.lower_intercept is None
    (low,), (high,) = planes.lower_slopes, planes.upper_slopes
    return list(zip(exact(low[index]), exact(high[index]), strict=True)), exact(planes.upper_intercept[index])
