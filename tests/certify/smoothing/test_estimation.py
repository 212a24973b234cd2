"""From votes to radii: two-class bounds, bounds that hold at every moment, memory that ends, half precision."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from oracles.devices import elsewhere
from oracles.halfspace import Halfspace, generator
from torch import Tensor, nn

from bounds import InvalidInput, InvalidModel, clopper_pearson_lower, clopper_pearson_upper, sequential_lower
from certify import SmoothedClassifier, SmoothingCertificate, reference
from certify.smoothing import Gaussian, InNorm, Laplace, Uniform
from certify.smoothing.classifiers.estimation import class_bounds

SIGMA = 0.5


class Stripes(nn.Module):
    """K classes on a line, one per interval between ascending edges: all class probabilities are known."""

    def __init__(self, *edges: float) -> None:
        super().__init__()
        self.register_buffer("edges", torch.tensor(edges))

    def forward(self, x: Tensor) -> Tensor:
        place = torch.bucketize(x.flatten(), self.edges)
        return nn.functional.one_hot(place, len(self.edges) + 1).float()

    def probabilities(self, x: float, sigma: float) -> np.ndarray:
        inner = scipy.stats.norm.cdf((self.edges.numpy() - x) / sigma)
        return np.diff(np.concatenate([[0.0], inner, [1.0]]))


def radius_by_scan(model: Stripes, x: float, sigma: float) -> float:
    """Distance to the nearest point where another class is the likeliest, to 1e-4."""
    label = model.probabilities(x, sigma).argmax()
    for step in itertools.count(1):
        for point in (x - step * 1e-4, x + step * 1e-4):
            if model.probabilities(point, sigma).argmax() != label:
                return step * 1e-4
    raise AssertionError


# -------------------------------------------------------------------------------------------------- two-class bounds


@pytest.mark.parametrize("noise", [Gaussian(0.7), Laplace(0.7), Uniform(0.7)], ids=str)
def test_two_classes_contain_the_binary_bound(noise):
    p = torch.linspace(0.501, 0.999, 60, dtype=torch.float64)
    torch.testing.assert_close(noise.radius(p, 1 - p), noise.radius(p), rtol=1e-12, atol=1e-15)
    assert (noise.radius(p, torch.ones_like(p)) <= noise.radius(p)).all()  # more than is left counts as what is left
    smaller = noise.radius(p, (1 - p) / 3)
    assert (smaller > noise.radius(p)).all()
    assert noise.radius(torch.tensor(0.4), torch.tensor(0.3)) > 0
    assert noise.radius(torch.tensor(0.3), torch.tensor(0.3)) == 0


def test_two_class_radii_are_the_stated_formulas():
    a, b = np.array([0.6, 0.45, 0.99]), np.array([0.1, 0.3, 0.005])
    quantile = scipy.stats.norm.ppf
    expected = {
        Gaussian(0.7): 0.35 * (quantile(a) - quantile(b)),
        Laplace(0.7): 0.7 * np.maximum(0.5 * np.log(a / b), -np.log(1 - a + b)),
        Uniform(0.7): 0.7 * (a - b),
    }
    for noise, radius in expected.items():
        found = noise.radius(torch.from_numpy(a), torch.from_numpy(b)).numpy()
        np.testing.assert_allclose(found, radius, rtol=1e-12)
        assert (found < radius).all()


@pytest.mark.slow
def test_two_class_certificate_is_sound_and_reaches_beyond_the_binary_one():
    """The middle of three classes with two rivals of equal probability: half the rest is left for each."""
    model = Stripes(-0.45, 0.45)
    x = torch.tensor([[0.0], [0.03]])
    smoothed = SmoothedClassifier(model, Gaussian(SIGMA), num_classes=3, batch_size=10_000, grid=None)
    binary, two_class, selected = (
        smoothed.certify(x, n=50_000, bound=bound, generator=generator())
        for bound in ("binary", "two-class", "selected")
    )
    exact = [radius_by_scan(model, point, SIGMA) for point in x.flatten().tolist()]
    assert torch.equal(binary.label, torch.tensor([1, 1]))
    assert (two_class.radius > 1.2 * binary.radius).all()
    assert (two_class.radius <= torch.tensor(exact)).all()
    assert torch.equal(selected.radius, two_class.radius)
    assert selected.two_class.all()
    assert not binary.two_class.any()
    # A rival that holds all the rest: the binary bound is better, and chosen.
    far = torch.tensor([[3.0]])
    choice = smoothed.certify(far, n=1000, bound="selected", generator=generator())
    assert not choice.two_class.any()
    assert torch.equal(choice.radius, smoothed.certify(far, n=1000, generator=generator()).radius)


def test_two_class_bounds_hold_together_with_the_stated_probability():
    """Exactly, by enumeration over the counts of three classes at n = 30; the weakest rival's bound goes red."""
    n, alpha, p = 30, 0.1, np.array([0.5, 0.3, 0.2])
    counts = torch.tensor([(a, b, n - a - b) for a in range(n + 1) for b in range(n + 1 - a)])
    chance = scipy.stats.multinomial.pmf(counts.numpy(), n, p)
    votes = torch.cat([counts, torch.zeros_like(counts[:, :1])], 1)
    label, two_class = torch.zeros(len(votes), dtype=torch.int64), torch.ones(len(votes), dtype=torch.bool)
    lower, upper = class_bounds(votes, label, n, alpha, two_class, 0.0)
    assert torch.equal(lower, clopper_pearson_lower(counts[:, 0], n, alpha=alpha / 2))
    others = clopper_pearson_upper(counts[:, 1:].amax(1), n, alpha=alpha / 2)
    torch.testing.assert_close(upper, torch.minimum(others, 1 - lower), rtol=0, atol=1e-14)
    wrong = (lower.numpy() > p[0]) | (upper.numpy() < p[1:].max())
    assert 0 < chance[wrong].sum() <= alpha
    mutant = clopper_pearson_upper(counts[:, 1:].amin(1), n, alpha=alpha / 2).numpy() < p[1:].max()
    assert chance[mutant].sum() > alpha


# --------------------------------------------------------------------------------------------- bounds at every moment


@pytest.mark.slow
def test_sequential_certificate_stops_within_its_tolerance_and_below_the_distance():
    model = Halfspace(torch.ones(1))
    x = torch.tensor([[0.2], [0.5], [1.5], [-0.4], [0.0]])
    smoothed = SmoothedClassifier(model, Gaussian(SIGMA), num_classes=2, grid=None)
    exact = model.distance(x)
    spent = []
    for tolerance in (0.2, 0.1, 0.05):
        certificate = smoothed.certify(x, alpha=1e-6, tolerance=tolerance, generator=generator())
        assert (certificate.radius <= exact).all()
        clear = exact < 2 * SIGMA
        assert (certificate.radius[clear] >= (exact - tolerance - 1e-9).clamp(min=0)[clear]).all()
        assert certificate.sequential
        spent.append(certificate.draws)
    assert (spent[0] <= spent[1]).all()
    assert (spent[1] <= spent[2]).all()
    assert (spent[2] < 100_000).all()
    again = sequential_lower(
        certificate.counts.gather(1, certificate.label[:, None])[:, 0], certificate.draws, alpha=1e-6
    )
    assert torch.equal(certificate.p_lower, again)
    assert torch.equal(certificate.radius, Gaussian(SIGMA).radius(again))


@pytest.mark.slow
def test_extending_a_certificate_is_the_longer_run(tmp_path):
    model, x, _ = reference.load("noise", 4)
    smoothed = SmoothedClassifier(model, Gaussian(0.25), num_classes=10)
    first = smoothed.certify(x, n=1000, tolerance=0.05, generator=generator())
    torch.save({k: getattr(first, k) for k in first.__dataclass_fields__}, tmp_path / "certificate.pt")
    stored = SmoothingCertificate(**torch.load(tmp_path / "certificate.pt"))
    longer = smoothed.extend(stored, x, 3000)
    whole = smoothed.certify(x, n=3000, tolerance=1e-9, generator=generator())
    assert (longer.draws == 3000).all()
    assert (longer.counts.sum(1) == 3000).all()
    assert torch.equal(longer.counts, whole.counts)
    assert torch.equal(longer.radius, whole.radius)
    assert torch.equal(smoothed.extend(longer, x, 2000).counts, longer.counts)  # what is counted stays counted


def test_no_draw_is_counted_twice_when_a_budget_ends_inside_a_block():
    """The model records what it saw: every noisy input must be new."""

    class Recorder(nn.Module):
        seen: list[Tensor]

        def forward(self, x: Tensor) -> Tensor:
            self.seen.append(x.clone())
            return x[:, :2]

    def noisy(recorder: Recorder) -> set[tuple[float, ...]]:
        return {tuple(row) for part in recorder.seen for row in part.tolist() if len(set(row)) == 3}

    model = Recorder()
    model.seen = []
    x = torch.tensor([[0.01, 0.0, 0.0]])
    smoothed = SmoothedClassifier(model, Gaussian(SIGMA), num_classes=2, grid=None)
    first = smoothed.certify(x, n=150, n0=1, tolerance=1e-9, generator=generator())
    model.seen.clear()
    longer = smoothed.extend(first, x, 400)
    assert longer.draws.tolist() == [400]
    fresh = noisy(model)
    stream = Recorder()
    stream.seen = []
    repeat = SmoothedClassifier(stream, Gaussian(SIGMA), num_classes=2, grid=None)
    repeat.certify(x, n=150, n0=1, tolerance=1e-9, generator=generator())
    # The selection draw is repeated by extend, which checks that the inputs are the same; all else is new.
    assert len(fresh & noisy(stream)) == 1


@pytest.mark.slow
def test_sequential_bounds_err_at_most_alpha_of_the_time_though_they_stop_when_they_like():
    rows, alpha = 2000, 0.05
    distance = torch.linspace(0.2, 0.8, rows).round(decimals=3)
    smoothed = SmoothedClassifier(Halfspace(torch.ones(1)), Gaussian(SIGMA), num_classes=2, batch_size=4000, grid=None)
    certificate = smoothed.certify(distance[:, None], n=3000, alpha=alpha, tolerance=0.15, generator=generator(2))
    assert len(certificate.draws.unique()) > 3
    wrong = int((certificate.radius > distance).sum())
    allowed = scipy.stats.binom.isf(1e-6, rows, alpha)
    assert 0 < wrong <= allowed
    # The mutant: the bound for a fixed number of draws at the moment that looking chose.
    successes = certificate.counts.gather(1, certificate.label[:, None])[:, 0]
    fixed = Gaussian(SIGMA).radius(clopper_pearson_lower(successes, certificate.draws, alpha=2 * alpha))
    assert int((fixed > distance).sum()) > allowed


def test_a_certificate_is_continued_only_where_it_may_be():
    model, x, _ = reference.load("noise", 2)
    smoothed = SmoothedClassifier(model, Gaussian(0.25), num_classes=10)
    fixed = smoothed.certify(x, n=100, generator=generator())
    with pytest.raises(InvalidInput, match="a fixed number of draws is final"):
        smoothed.extend(fixed, x, 1000)
    open_ended = smoothed.certify(x, n=100, tolerance=0.5, generator=generator())
    other = SmoothedClassifier(model, Gaussian(0.5), num_classes=10)
    with pytest.raises(InvalidInput, match="pass what it was made with"):
        other.extend(open_ended, x, 1000)
    with pytest.raises(InvalidInput, match="their selection votes differ"):
        smoothed.extend(open_ended, x.flip(0), 1000)
    with pytest.raises(InvalidInput, match="tolerance must be a finite number of at least 0, got -1"):
        smoothed.extend(open_ended, x, 1000, tolerance=-1.0)
    with pytest.raises(InvalidInput, match="bound must be 'binary' where a tolerance is given"):
        smoothed.certify(x, n=100, tolerance=0.5, bound="selected")
    with pytest.raises(InvalidInput, match="bound must be one of binary, two-class, selected, got 'both'"):
        smoothed.certify(x, n=100, bound="both")


# ------------------------------------------------------------------------------------------------- norms and devices


def test_radii_in_another_norm():
    p = torch.tensor([0.4, 0.6, 0.99], dtype=torch.float64)
    noise = InNorm(Gaussian(0.25), math.inf, dimension=3072)
    torch.testing.assert_close(noise.radius(p), Gaussian(0.25).radius(p) / math.sqrt(3072), rtol=1e-14, atol=0)
    assert (noise.radius(p) * math.sqrt(3072) <= Gaussian(0.25).radius(p)).all()
    assert torch.equal(
        InNorm(Gaussian(0.25), 1, dimension=10).radius(p), InNorm(Gaussian(0.25), 2, dimension=9).radius(p)
    )
    # The l2 radius that 2/255 in l-infinity takes on CIFAR (Salman et al. 2019): 0.4347.
    needed = Gaussian(0.25).probability_needed(0.4347)
    assert noise.probability_needed(2 / 255).item() == pytest.approx(needed.item(), abs=1e-4)
    assert noise.radius(noise.probability_needed(0.01)) >= 0.01 * (1 - 1e-12)


def test_a_halfspace_in_another_norm_is_certified_up_to_its_distance_and_no_further():
    """The weight (1, ..., 1) is the worst case of the conversion: the radius reaches the l-infinity distance."""
    model = Halfspace(torch.ones(16))
    x = torch.full((1, 16), 0.1)
    noise = InNorm(Gaussian(SIGMA), math.inf, dimension=16)
    smoothed = SmoothedClassifier(model, noise, num_classes=2, grid=None)
    certificate = smoothed.certify(x, n=100_000, generator=generator())
    assert certificate.norm == math.inf
    assert certificate.subject == f"smoothed({Gaussian(SIGMA)})"
    assert 0.097 < certificate.radius.item() <= 0.1
    assert smoothed.certify_at(x, 0.09, generator=generator()).certified.all()
    assert not smoothed.certify_at(x, 0.11, generator=generator()).certified.any()
    with pytest.raises(InvalidInput, match="dimension is 16, but the inputs have 8 entries"):
        smoothed.certify(x[:, :8])


@pytest.mark.parametrize("options", [{"bound": "two-class"}, {"bound": "selected"}, {"tolerance": 0.2}])
def test_every_bound_follows_the_device_of_the_input(options: dict):
    model, x, _ = reference.load("noise", 3)
    smoothed = SmoothedClassifier(model, Gaussian(0.25), num_classes=10)
    expected = smoothed.certify(x, n=300, generator=generator(), **options)
    seeded = generator()
    with elsewhere():
        found = smoothed.certify(x, n=300, generator=seeded, **options)
        if "tolerance" in options:
            smoothed.extend(found, x, 400)
    assert torch.equal(found.radius, expected.radius)


# ------------------------------------------------------------------------------------------------ memory, precision


class Small(nn.Module):
    """Memory for so many rows and no more."""

    def __init__(self, model: nn.Module, rows: int, error: Exception) -> None:
        super().__init__()
        self.model, self.rows, self.error = model, rows, error
        self.passes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.rows:
            raise self.error
        self.passes.append(len(x))
        return self.model(x)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory"),
    ],
)
def test_where_memory_ends_the_batch_is_halved_and_no_count_changes(error: Exception):
    model = Halfspace(torch.randn(6, generator=generator(1)))
    x = 0.3 * torch.randn(5, 6, generator=generator(2))
    expected = SmoothedClassifier(model, Gaussian(SIGMA), num_classes=2, batch_size=64).certify(
        x, n=777, generator=generator()
    )
    small = Small(model, 70, error)
    certificate = SmoothedClassifier(small, Gaussian(SIGMA), num_classes=2, batch_size=1000).certify(
        x, n=777, generator=generator()
    )
    assert torch.equal(certificate.counts, expected.counts)
    assert torch.equal(certificate.radius, expected.radius)
    assert max(small.passes) == 63  # 1000, 500, 250, 125, 63
    with pytest.raises(RuntimeError, match="memory"):
        SmoothedClassifier(Small(model, 0, error), Gaussian(SIGMA), num_classes=2).certify(x)


def test_an_error_that_is_not_about_memory_is_not_repeated():
    small = Small(Halfspace(torch.ones(6)), 70, ValueError("batch too large"))
    with pytest.raises(InvalidModel, match="does not accept x of shape"):
        SmoothedClassifier(small, Gaussian(SIGMA), num_classes=2).certify(torch.zeros(2, 6))


@pytest.mark.parametrize("half", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)])
def test_models_in_half_precision_are_run_and_named(half: torch.dtype):
    model, x, _ = reference.load("noise", 6)
    smoothed = SmoothedClassifier(model, Gaussian(0.25), num_classes=10)
    full = smoothed.certify(x, n=1000, generator=generator())
    lower = SmoothedClassifier(model.to(half), Gaussian(0.25), num_classes=10).certify(x, n=1000, generator=generator())
    assert (full.precision, lower.precision) == ("float32", str(half).removeprefix("torch."))
    assert lower.radius.dtype == torch.float64
    # The same draws, rounded after they were added: hardly a vote changes.
    assert (full.counts - lower.counts).abs().sum() < 0.02 * full.counts.sum()
    assert x.dtype == torch.float32


@pytest.mark.slow
def test_a_compiled_model_gives_the_same_votes():
    model, x, _ = reference.load("noise", 2)
    expected = SmoothedClassifier(model, Gaussian(0.25), num_classes=10).certify(x, n=200, generator=generator())
    compiled = SmoothedClassifier(torch.compile(model, backend="eager"), Gaussian(0.25), num_classes=10)
    assert torch.equal(compiled.certify(x, n=200, generator=generator()).counts, expected.counts)
