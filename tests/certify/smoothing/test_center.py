"""Center smoothing where the outputs under noise, and all smoothed outputs, are known exactly."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from oracles.devices import elsewhere
from oracles.halfspace import Halfspace, generator
from oracles.models import Coupled, Holes
from torch import Tensor, nn

from bounds import InvalidInput, InvalidModel
from certify import SmoothedClassifier
from certify.smoothing import Gaussian, Laplace
from certify.smoothing.drawing.votes import Sampling
from certify.smoothing.outputs.center import CenterSmoothing

SIGMA = 0.5


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).flatten(1).norm(dim=1)


def squared(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).flatten(1).square().sum(1)


def discrete(a: Tensor, b: Tensor) -> Tensor:
    return (a != b).flatten(1).any(1).double()


class Identity(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Steps(nn.Module):
    """The value of the interval that the input, one number, lies in."""

    def __init__(self, cuts: np.ndarray, values: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("cuts", torch.from_numpy(cuts))
        self.register_buffer("values", torch.from_numpy(values))

    def forward(self, x: Tensor) -> Tensor:
        return self.values[torch.bucketize(x, self.cuts)]


class Vote(nn.Module):
    """The class of a half-space as a one-hot output."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.halfspace = Halfspace(weight)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.one_hot(self.halfspace(x).argmax(1), 2)


# ---------------------------------------------------------------------------------------------------------- the ball


@pytest.mark.parametrize("entries", [1, 3, 10])
def test_ball_holds_half_of_the_outputs_at_every_shift_and_is_not_much_larger(entries: int):
    """For the identity, the distance from a point follows a non-central chi-square law."""
    x, radius = torch.randn(8, entries, generator=generator(1)), 0.4
    certificate = CenterSmoothing(Identity(), euclidean, Gaussian(SIGMA)).certify(
        x, radius, n=20_000, alpha=1e-6, generator=generator()
    )
    ball, off = certificate.ball_radius.numpy() / SIGMA, euclidean(certificate.center, x).double().numpy() / SIGMA
    assert (scipy.stats.ncx2.cdf(ball**2, entries, (off + radius / SIGMA) ** 2) >= 0.5).all()
    smallest = np.sqrt(scipy.stats.ncx2.ppf(scipy.stats.norm.cdf(radius / SIGMA), entries, off**2))
    assert (ball >= smallest).all()
    assert (ball <= 1.1 * smallest).all()
    assert torch.allclose(certificate.output_radius, 3 * certificate.ball_radius, rtol=1e-12, atol=0)
    # The smallest ball with half of a normal law is about its mean.
    assert (off * SIGMA + radius <= certificate.output_radius.numpy()).all()


@pytest.mark.slow
def test_error_rate_is_at_most_alpha_and_mutants_exceed_it():
    alpha, n, rows, radius = 0.05, 100, 2000, 0.4
    x = torch.zeros(rows, 1, dtype=torch.float64)
    smoothing = CenterSmoothing(Identity(), euclidean, Gaussian(SIGMA), grid=None)

    def wrong(radius_asked: float) -> int:
        certificate = smoothing.certify(x, radius_asked, n=n, n0=20, candidates=3, alpha=alpha, generator=generator(2))
        ball, off = certificate.ball_radius.numpy(), certificate.center[:, 0].numpy()
        held = scipy.stats.norm.cdf((off + ball) / SIGMA) - scipy.stats.norm.cdf((off - ball) / SIGMA)
        return int((held < scipy.stats.norm.cdf(radius / SIGMA)).sum())

    allowed = scipy.stats.binom.isf(1e-6, rows, alpha)
    assert 0 < wrong(radius) <= allowed
    assert wrong(0.85 * radius) > allowed


def test_with_the_discrete_distance_it_is_the_certificate_of_the_classifier():
    """No other class may have a point nearer than 1, so a ball of radius 0 means that the class stays."""
    weight = torch.randn(6, generator=generator(3))
    x, model = 0.3 * torch.randn(40, 6, generator=generator(4)), Vote(weight)
    radius = 0.3
    balls = CenterSmoothing(model, discrete, Gaussian(SIGMA)).certify(x, radius, n=2000, generator=generator(5))
    votes = SmoothedClassifier(Halfspace(weight), Gaussian(SIGMA), num_classes=2).certify(
        x, n=2000, generator=generator(5)
    )
    same_class = balls.center.argmax(1) == votes.label
    assert torch.equal(balls.output_radius == 0, (votes.radius >= radius) & same_class)
    assert 5 < int((balls.output_radius == 0).sum()) < 35
    assert (model.halfspace.distance(x)[balls.output_radius == 0] >= radius).all()


# ----------------------------------------------------------------------------------------------- the smoothed output


def smoothed_outputs(cuts: np.ndarray, values: np.ndarray, at: float, points: np.ndarray) -> np.ndarray:
    """Points whose ball with half of the outputs is at most twice as large as the smallest one."""
    p = np.diff(scipy.stats.norm.cdf((np.concatenate([[-np.inf], cuts, [np.inf]]) - at) / SIGMA))
    distances = np.abs(points[:, None] - values)
    order = distances.argsort(axis=1)
    reached = np.take_along_axis(np.broadcast_to(p, distances.shape), order, 1).cumsum(1)
    half = (reached < 0.5 - 1e-12).sum(1)[:, None]
    needed = np.take_along_axis(np.take_along_axis(distances, order, 1), half, 1)[:, 0]
    return points[needed <= 2 * needed.min() + 1e-12]


def test_all_smoothed_outputs_at_all_shifts_lie_in_the_output_ball():
    """Step functions of the line: every point that may be the smoothed output, at 41 shifts, enumerated."""
    random, radius = np.random.default_rng(0), 0.3
    outside_a_third = 0
    for _ in range(15):
        values = random.choice(np.linspace(0, 4, 9), 6)
        cuts = np.sort(random.normal(0, 0.4, 5))
        certificate = CenterSmoothing(Steps(cuts, values), euclidean, Gaussian(SIGMA)).certify(
            torch.zeros(1, 1, dtype=torch.float64), radius, n=2000, alpha=1e-6, generator=generator()
        )
        center, allowed = certificate.center.item(), certificate.output_radius.item()
        points = np.unique(np.concatenate([np.linspace(-4, 8, 601), values]))
        for shift in np.linspace(-radius, radius, 41):
            distance = np.abs(smoothed_outputs(cuts, values, shift, points) - center).max()
            assert distance <= allowed
            outside_a_third += distance > allowed / 3
    assert outside_a_third > 20  # the mutant: the ball itself for the bound of the output


def test_the_bound_of_the_output_is_attained():
    """Outputs -1, 0, 1 and 3 of probability 0.33, 0.02, 0.33 and 0.32: the ball about 0 holds half, and 3 qualifies."""
    cuts, values = SIGMA * scipy.stats.norm.ppf([0.33, 0.35, 0.68]), np.array([-1.0, 0.0, 1.0, 3.0])
    certificate = CenterSmoothing(Steps(cuts, values), euclidean, Gaussian(SIGMA)).certify(
        torch.zeros(1, 1, dtype=torch.float64), 0.1, n=5000, candidates=200, generator=generator()
    )
    assert (certificate.center.item(), certificate.ball_radius.item()) == (0.0, 1.0)
    assert 3.0 in smoothed_outputs(cuts, values, 0.0, np.linspace(-4, 8, 601))
    assert certificate.output_radius.item() == pytest.approx(3.0)


# ------------------------------------------------------------------------------------------------------- mechanics


def test_the_error_of_the_noise_widens_the_ball(monkeypatch):
    smoothing, x = CenterSmoothing(Identity(), euclidean, Gaussian(SIGMA)), torch.zeros(1, 2)
    plain = smoothing.certify(x, 0.1, n=500, generator=generator())
    monkeypatch.setattr(Sampling, "error", 0.05)
    assert smoothing.certify(x, 0.1, n=500, generator=generator()).ball_radius > plain.ball_radius


def test_a_square_of_a_metric_gives_the_squares_of_its_balls():
    x = torch.zeros(4, 3, dtype=torch.float64)
    settings = {"n": 500, "generator": None}
    plain = CenterSmoothing(Identity(), euclidean, Gaussian(SIGMA)).certify(
        x, 0.2, **(settings | {"generator": generator()})
    )
    square = CenterSmoothing(Identity(), squared, Gaussian(SIGMA), gamma=2.0).certify(
        x, 0.2, **(settings | {"generator": generator()})
    )
    assert torch.equal(square.center, plain.center)
    torch.testing.assert_close(square.ball_radius, plain.ball_radius**2)
    torch.testing.assert_close(square.output_radius, 10 * square.ball_radius)


def test_distances_of_half_precision_are_computed_in_single_precision():
    seen = set()

    def distance(a: Tensor, b: Tensor) -> Tensor:
        seen.update((a.dtype, b.dtype))
        return euclidean(a, b)

    model, x = nn.Linear(3, 2).to(torch.bfloat16), torch.zeros(1, 3)
    certificate = CenterSmoothing(model, distance, Gaussian(SIGMA)).certify(x, 0.1, n=300, generator=generator())
    assert seen == {torch.float32}
    assert certificate.center.dtype == torch.bfloat16
    assert certificate.precision == "bfloat16"


def test_more_candidates_give_smaller_balls():
    x = torch.zeros(20, 5)
    balls = [
        CenterSmoothing(Identity(), euclidean, Gaussian(SIGMA)).certify(
            x, 0.2, n=500, candidates=candidates, generator=generator()
        )
        for candidates in (1, 30)
    ]
    assert balls[1].ball_radius.mean() < 0.9 * balls[0].ball_radius.mean()


def test_rows_without_a_ball_abstain():
    x = torch.zeros(2, 2)

    def certified(height: float):
        centers = CenterSmoothing(Holes(height, whole_rows=True), euclidean, Gaussian(SIGMA))
        return centers.certify(x, 0.2, n=500, generator=generator())

    many, few = certified(0.1), certified(1.0)
    assert many.abstained.all()
    assert (many.output_radius == math.inf).all()
    assert not few.abstained.any()
    assert few.center.isfinite().all()
    assert CenterSmoothing(Identity(), euclidean, Gaussian(SIGMA)).certify(x, 0.5, n=10).abstained.all()


@pytest.mark.parametrize("shape", [(6,), (2, 3)])
def test_batches_and_shards_change_nothing(shape: tuple[int, ...]):
    x = torch.randint(0, 256, (7, *shape), generator=generator(6)) / 255
    results = [
        CenterSmoothing(Identity(), euclidean, Gaussian(SIGMA), batch_size=size, noise_group=3).certify(
            x, 0.1, n=150, n0=40, generator=generator(), first_index=1
        )
        for size in (1000, 50, 7)
    ]
    assert results[0].center.shape == (7, *shape)
    assert results[0].sampling == "integers on the grid 1/255"
    assert results[0].subject == "center of smoothed(gaussian(sigma=0.5), grid=255)"
    for other in results[1:]:
        assert torch.equal(other.center, results[0].center)
        torch.testing.assert_close(other.ball_radius, results[0].ball_radius)
    shard = CenterSmoothing(Identity(), euclidean, Gaussian(SIGMA), noise_group=3).certify(
        x[4:], 0.1, n=150, n0=40, generator=generator(), first_index=5
    )
    assert torch.equal(shard.center, results[0].center[4:])
    assert len(CenterSmoothing(Identity(), euclidean, Gaussian(SIGMA)).certify(x[:0], 0.1, n=10)) == 0
    assert results[0].to_dataframe()["output_radius"].tolist() == results[0].output_radius.tolist()


def test_it_follows_the_device_of_the_input_and_reads_little_back():
    x, seeded = torch.zeros(3, 2), generator()
    smoothing = CenterSmoothing(Identity(), euclidean, Gaussian(SIGMA), noise_group=3)
    expected = smoothing.certify(x, 0.1, n=200, generator=generator())
    with elsewhere():
        assert torch.equal(smoothing.certify(x, 0.1, n=200, generator=seeded).ball_radius, expected.ball_radius)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, x: s.certify(x, -0.1), "radius must be"),
        (lambda s, x: s.certify(x, 0.1, n0=0), "n0 must be an integer of at least 1"),
        (lambda s, x: s.certify(x, 0.1, candidates=1.5), "candidates must be an integer of at least 1"),
        (lambda s, x: s.certify(x, 0.1, alpha=2), "alpha must lie strictly between 0 and 1"),
        (lambda s, x: CenterSmoothing(Identity(), euclidean, Laplace(1.0)), "noise must be Gaussian"),
        (lambda s, x: CenterSmoothing(Identity(), euclidean, Gaussian(1.0), gamma=0.5), "gamma must be at least 1"),
        (
            lambda s, x: CenterSmoothing(Identity(), torch.sub, Gaussian(1.0)).certify(x, 0.1, n=10),
            "distance must return one number per row",
        ),
    ],
)
def test_bad_input_gives_one_clear_line(call, message: str):
    with pytest.raises(InvalidInput, match=message) as caught:
        call(CenterSmoothing(Identity(), euclidean, Gaussian(SIGMA)), torch.zeros(2, 3))
    assert "\n" not in str(caught.value)


def test_a_model_that_couples_its_rows_is_refused():
    with pytest.raises(InvalidModel, match="depend on the other rows of its batch"):
        CenterSmoothing(Coupled(), euclidean, Gaussian(SIGMA)).certify(torch.eye(3), 0.1, n=10)
