"""The search for radii: against roots in closed form, and in bound passes."""

import math
from collections.abc import Callable

import pytest
import torch
from oracles.families import inputs, network
from oracles.selection import crossed
from torch import Tensor, nn

import certify
from certify.verification import radius as radius_module
from certify.verification.radius_search import largest_proved

TOLERANCE = 1e-3
ROOTS = torch.tensor([1e-5, 3e-3, 0.02, 0.4, 5.0, 700.0], dtype=torch.float64)

# Margins of radii in units of the root, 1 at 0 and 0 at 1.
SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "line": lambda r: 1 - r,
    "square": lambda r: 1 - r**2,
    "fifth power": lambda r: 1 - r**5,
    "root": lambda r: 1 - r.sqrt(),
    "exponential": lambda r: 1 - torch.expm1(6 * r) / math.expm1(6),
    "corner": lambda r: torch.minimum(1 - 0.2 * r, 1 - r + 30 * (1 - r).clamp(max=0) + 0.1 * (1 - r).clamp(min=0)),
    "jump": lambda r: torch.where(r < 1, 1 - 0.1 * r, -50 * r),
    "overflow": lambda r: torch.where(r < 1, 1 - 0.1 * r, -math.inf),
    "nothing known": lambda r: torch.where(r < 1, 1 - 0.1 * r, math.nan),
    "plateau": lambda r: torch.where(r < 1, 1e-12, -1e-12),
}
MOST = {"jump": 18, "overflow": 17, "nothing known": 17, "plateau": 28, "corner": 12, "exponential": 11}


def searched(shape: Callable[[Tensor], Tensor], roots: Tensor, reach: float = math.inf) -> tuple[Tensor, list[list]]:
    """Radii for several roots at once, and all radii that each was asked for with the margins there."""
    asked: list[list] = [[] for _ in roots]

    def margins(rows: Tensor, radius: Tensor) -> Tensor:
        found = shape(radius / roots[rows])
        for row, r, m in zip(rows.tolist(), radius.tolist(), found.tolist(), strict=True):
            asked[row].append((r, m))
        return found

    clean, guess = torch.ones_like(roots), torch.full_like(roots, 1 / 64)
    return largest_proved(margins, clean, guess, torch.full_like(roots, reach), TOLERANCE), asked


@pytest.mark.parametrize("name", SHAPES)
def test_roots_in_closed_form_are_found_from_below(name: str):
    found, asked = searched(SHAPES[name], ROOTS)
    assert ((found <= ROOTS) & (found >= ROOTS * (1 - 1.001 * TOLERANCE))).all()
    assert max(map(len, asked)) <= MOST.get(name, 8)
    for radius, points in zip(found.tolist(), asked, strict=True):
        assert radius == max(r for r, margin in points if margin > 0)  # it was proved itself


@pytest.mark.parametrize("seed", range(4))
def test_without_any_order_a_radius_is_still_one_that_was_proved(seed: int):
    """Margins that go up and down by chance: the search ends, at a proof beyond which something failed."""
    draw = torch.Generator().manual_seed(seed)
    table = torch.randn(4096, generator=draw, dtype=torch.float64)
    found, asked = searched(lambda r: table[(r.log() * 1e4).long() % 4096], ROOTS)
    for radius, points in zip(found.tolist(), asked, strict=True):
        proved = [r for r, margin in points if margin > 0]
        assert radius in (proved or [0.0])
        assert len(points) < 60
        assert radius == 0 or any(0 < r / radius - 1 <= 1.001 * TOLERANCE for r, margin in points if not margin > 0)


def test_ends_of_the_search():
    """Nothing to prove, nothing proved however small, and all proved to the last corner."""
    found, asked = searched(lambda r: -torch.ones_like(r), ROOTS)
    assert (found == 0).all()
    assert max(map(len, asked)) < 12
    found, asked = searched(lambda r: torch.ones_like(r), ROOTS, reach=0.7)
    assert (found == 0.7).all()
    assert max(map(len, asked)) < 5
    wrong = largest_proved(
        lambda rows, radius: radius / 0, torch.tensor([0.0, -1.0, math.nan]), ROOTS[:3], ROOTS[:3], 0.1
    )
    assert (wrong == 0).all()  # none of them was asked for


def bisected(margins: Callable[[Tensor, Tensor], Tensor], *rest: Tensor | float) -> Tensor:
    """The oracle: twice or half of the radius until one is proved and one is not, then the middle of both."""
    _, guess, reach, tolerance = rest
    proved, failed = torch.zeros_like(guess), torch.full_like(guess, math.inf)
    for _ in range(100):
        rows = ((failed - proved > tolerance * proved) & (proved < reach)).nonzero()[:, 0]
        if len(rows) == 0:
            break
        middle = torch.where(failed.isinf(), (2 * proved).clamp(min=0).maximum(guess), (proved + failed) / 2)
        middle = torch.minimum(middle, reach)[rows]
        success = margins(rows, middle) > 0
        proved[rows] = torch.where(success, middle, proved[rows])
        failed[rows] = torch.where(success, failed[rows], middle)
    return proved


def radii_and_passes(
    monkeypatch: pytest.MonkeyPatch, search: Callable[..., Tensor], model: nn.Module, x: Tensor, **options: object
) -> tuple[Tensor, float]:
    """Certified radii by some search, and the bound passes of each input."""
    rows = [0]
    bound = radius_module.margin_bounds

    def counted(
        source: object, ball: certify.verification.sets.PerturbationSet, *rest: object, **named: object
    ) -> Tensor:
        rows[0] += len(ball.center)
        return bound(source, ball, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(radius_module, "margin_bounds", counted)
        patch.setattr(radius_module, "largest_proved", search)
        found = certify.certified_radius(model, x, model(x).argmax(1), **options)
    return found.radius, rows[0] / len(x)


@crossed(("kind", ["dense", "convolutional", "tanh", "deep"]), ("method", ["ibp", "crown", "crown_ibp"]))
@pytest.mark.slow
def test_half_the_bound_passes_of_bisection(monkeypatch: pytest.MonkeyPatch, kind: str, method: str):
    """The unit of margins is the model's own, which costs no bound pass; radii are the same up to the tolerance."""
    model, x = network(kind, 1), inputs(6, 2)
    options = {"norm": math.inf, "method": method}
    found, passes = radii_and_passes(monkeypatch, largest_proved, model, x, **options)
    exact, many = radii_and_passes(monkeypatch, bisected, model, x, **options)
    torch.testing.assert_close(found, exact, rtol=0.03, atol=0)  # margins of CROWN are not monotone
    assert passes <= 0.5 * many, (passes, many)


def test_an_input_that_is_wrong_or_settled_is_asked_for_no_more(monkeypatch: pytest.MonkeyPatch):
    model, x = network("dense", 1), inputs(8, 2)
    label = model(x).argmax(1)
    asked = []
    bound = radius_module.margin_bounds

    def seen(source: object, ball: object, *rest: object, **named: object) -> Tensor:
        asked.append(ball.center)
        return bound(source, ball, *rest, **named)

    monkeypatch.setattr(radius_module, "margin_bounds", seen)
    wrong = label.clone()
    wrong[3] = (label[3] + 1) % 3
    found = certify.certified_radius(model, x, wrong, norm=math.inf, method="ibp").radius
    assert found[3] == 0
    assert not any((part == x[3]).flatten(1).all(1).any() for part in asked)
    sizes = [len(part) for part in asked[1:]]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 7
