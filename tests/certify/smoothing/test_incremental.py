"""Incremental certificates of half-spaces, whose lost votes are known: two margins and the angle between them."""

import copy
import dataclasses

import pytest
import scipy.stats
import torch
from oracles.devices import elsewhere
from oracles.halfspace import Halfspace, generator
from torch import Tensor, nn

from bounds import InvalidInput, InvalidModel, clopper_pearson_upper
from certify import SmoothedClassifier
from certify.smoothing import Gaussian, Laplace
from certify.smoothing.classifiers.incremental import certify_incrementally, lost_votes
from certify.smoothing.drawing.votes import Sampling, Stage

SIGMA = 0.5


def turned(weight: Tensor, angle: float, bias: float = 0.0) -> Halfspace:
    """A half-space of the plane whose normal is turned."""
    turn = torch.tensor(angle)
    rotation = torch.stack([torch.stack([turn.cos(), -turn.sin()]), torch.stack([turn.sin(), turn.cos()])])
    return Halfspace(rotation @ weight, bias)


def margin(model: Halfspace, x: Tensor) -> float:
    """Signed distance of a point, positive on the side of class 1, over sigma."""
    weight, bias = model.linear.weight[1].detach().double(), float(model.linear.bias[1].detach())
    return float(x.double() @ weight + bias) / float(weight.norm()) / SIGMA


def lost_probability(first: Halfspace, second: Halfspace, x: Tensor, angle: float) -> float:
    """Probability that the first gives class 1 under noise and the second class 0."""
    a, b, correlation = margin(first, x), margin(second, x), float(torch.tensor(angle).cos())
    both = scipy.stats.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]]).cdf([a, b])
    return float(scipy.stats.norm.cdf(a) - both)


WEIGHT = torch.tensor([0.6, 0.8])
POINT = 0.4 * WEIGHT


def test_lost_votes_follow_the_exact_probability():
    angle, draws = 0.3, 60_000
    first, second = Halfspace(WEIGHT), turned(WEIGHT, angle, -0.1)
    smoothed = SmoothedClassifier(first, Gaussian(SIGMA), num_classes=2)
    sampling = smoothed.sampling(POINT[None], draws, seed=3)
    lost = int(lost_votes(sampling, second, torch.ones(1).long(), draws))
    assert scipy.stats.binomtest(lost, draws, lost_probability(first, second, POINT, angle)).pvalue > 1e-6
    gained = lost_probability(second, first, POINT, angle)
    assert scipy.stats.binomtest(lost, draws, gained).pvalue < 1e-12  # the mutant: votes gained for votes lost


def test_error_rate_of_the_loss_is_at_most_alpha_and_a_mutant_exceeds_it():
    alpha, n, rows, angle = 0.05, 200, 2000, 0.3
    first, second = Halfspace(WEIGHT), turned(WEIGHT, angle, -0.1)
    smoothed = SmoothedClassifier(first, Gaussian(SIGMA), num_classes=2, batch_size=4000)
    sampling = smoothed.sampling(POINT.expand(rows, 2), n, seed=4)
    lost = lost_votes(sampling, second, torch.ones(rows).long(), n)
    exact, allowed = lost_probability(first, second, POINT, angle), scipy.stats.binom.isf(1e-6, rows, alpha)
    assert 0 < int((clopper_pearson_upper(lost, n, alpha=alpha) < exact).sum()) <= allowed
    assert int((lost / n < exact).sum()) > allowed


@pytest.mark.parametrize("angle", [0.0, 0.2])
def test_radii_never_exceed_the_distance_of_the_modified_model_and_come_close(angle: float):
    first, second = Halfspace(WEIGHT), turned(WEIGHT, angle, -0.05)
    x = torch.linspace(0.02, 0.8, 14)[:, None] * WEIGHT
    smoothed = SmoothedClassifier(first, Gaussian(SIGMA), num_classes=2)
    certificate = smoothed.certify(x, n=50_000, alpha=1e-7, generator=generator())
    result = certify_incrementally(smoothed, second, certificate, x, n=20_000, alpha=1e-7, generator=generator(1))
    exact = second.distance(x)
    assert (result.radius <= exact)[~result.abstained].all()
    assert (result.radius[result.abstained] == 0).all()
    assert 0 < int((~result.abstained).sum()) < len(x)
    if angle == 0:  # then nothing but votes of the label are lost
        assert (result.radius >= exact - 0.2 * SIGMA)[exact < 1.2 * SIGMA].all()
    assert (certificate.radius > exact).any()  # the mutant: the certificate of the original for the modified model
    assert result.alpha == 2e-7
    assert torch.equal(result.label, certificate.label)
    assert torch.equal(result.draws > 0, certificate.p_lower > 0.5)


def test_gained_votes_do_no_harm():
    first, second = Halfspace(WEIGHT), Halfspace(WEIGHT, 0.2)
    smoothed = SmoothedClassifier(first, Gaussian(SIGMA), num_classes=2)
    certificate = smoothed.certify(POINT[None], n=2000, generator=generator())
    result = certify_incrementally(smoothed, second, certificate, POINT[None], n=1000, generator=generator(1))
    assert result.lost.item() == 0
    none_lost = clopper_pearson_upper(torch.zeros(1).long(), 1000, alpha=1e-3)
    assert 0 <= (result.loss_upper - none_lost).item() < 1e-15
    assert 0 < (certificate.p_lower - none_lost - result.p_lower).item() < 1e-15


def test_the_error_of_the_noise_raises_the_loss(monkeypatch):
    smoothed, x = SmoothedClassifier(Halfspace(WEIGHT), Gaussian(SIGMA), num_classes=2), POINT[None]
    certificate = smoothed.certify(x, n=1000, generator=generator())
    plain = certify_incrementally(smoothed, Halfspace(WEIGHT), certificate, x, n=100, generator=generator())
    monkeypatch.setattr(Sampling, "error", 0.01)
    wide = certify_incrementally(smoothed, Halfspace(WEIGHT), certificate, x, n=100, generator=generator())
    assert (wide.loss_upper - plain.loss_upper).item() == pytest.approx(0.01)


def network(seed: int = 0) -> nn.Module:
    layers = [nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3)]
    for i, layer in enumerate(layers[::2]):
        layer.weight.data.normal_(generator=generator(seed + i))
    return nn.Sequential(nn.Flatten(), *layers)


def test_a_copy_in_half_precision_on_eight_bit_inputs():
    model, x = network(), torch.randint(0, 256, (6, 3, 2, 2), generator=generator(2)) / 255
    half = copy.deepcopy(model).to(torch.bfloat16)
    smoothed = SmoothedClassifier(model, Gaussian(0.1), num_classes=3, noise_group=2)
    certificate = smoothed.certify(x, n=2000, generator=generator(), first_index=5)
    result = certify_incrementally(smoothed, half, certificate, x, n=2000, generator=generator(1))
    assert result.precision == "bfloat16"
    assert result.sampling == "integers on the grid 1/255"
    assert result.subject == certificate.subject
    assert (result.radius <= certificate.radius).all()
    assert (result.radius > 0).any()
    # On the same draws, votes lost are the difference of votes, or more.
    votes = [
        SmoothedClassifier(version, Gaussian(0.1), num_classes=3, noise_group=2)
        .sampling(x, 2000, result.seed, first_index=5)
        .votes(3, 2000, Stage.COMPARISON)
        .gather(1, certificate.label[:, None])
        .squeeze(1)
        for version in (model, half)
    ]
    ran = result.draws > 0
    assert (result.lost >= votes[0] - votes[1])[ran].all()
    assert result.lost[ran].sum() > 0
    assert (result.lost <= votes[0])[ran].all()
    again = certify_incrementally(smoothed, copy.deepcopy(model), certificate, x, n=500, generator=generator(1))
    assert again.lost.sum() == 0


class _Seen(nn.Module):
    """A classifier without weights that records the precision of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.dtypes.add(x.dtype)
        return torch.stack([x.sum(1), -x.sum(1)], 1)


def test_each_model_sees_noisy_inputs_in_its_own_precision():
    original, modified = nn.Linear(2, 2).to(torch.bfloat16), _Seen()
    smoothed = SmoothedClassifier(original, Gaussian(SIGMA), num_classes=2)
    certificate = smoothed.certify(torch.ones(1, 2), n=1000, generator=generator())
    result = certify_incrementally(smoothed, modified, certificate, torch.ones(1, 2), n=100)
    assert modified.dtypes == {torch.float32}
    assert result.precision == "float32"


def test_draws_with_nan_are_lost():
    class Breaks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x[:, :1] > 0.9, torch.nan, torch.stack([x.sum(1), -x.sum(1)], 1))

    x, model = torch.ones(1, 2) * 0.6, Halfspace(-torch.ones(2))
    smoothed = SmoothedClassifier(model, Gaussian(SIGMA), num_classes=2)
    certificate = smoothed.certify(x, n=2000, generator=generator())
    result = certify_incrementally(smoothed, Breaks(), certificate, x, n=1000, generator=generator())
    assert 150 < result.lost.item() < 400


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": 0.123 * torch.ones(2, 2)}, "but their selection votes differ"),
        ({"x": torch.ones(3, 2)}, "2 inputs, this is .* 3 inputs"),
        ({"original": SmoothedClassifier(Halfspace(WEIGHT), Laplace(1.0), num_classes=2)}, "laplace"),
        ({"original": SmoothedClassifier(Halfspace(-WEIGHT), Gaussian(SIGMA), num_classes=2)}, "votes differ"),
        (
            {"original": SmoothedClassifier(Halfspace(WEIGHT), Gaussian(SIGMA), num_classes=2, noise_group=2)},
            "noise_group 1, 2 inputs, this is .* noise_group 2",
        ),
        ({"n": 0}, "n must be an integer of at least 1"),
        ({"alpha": 0.0}, "alpha must lie strictly between 0 and 1"),
    ],
)
def test_bad_input_gives_one_clear_line(change: dict, message: str):
    smoothed, x = (
        SmoothedClassifier(Halfspace(WEIGHT), Gaussian(SIGMA), num_classes=2),
        POINT * torch.tensor([[1], [-1]]),
    )
    certificate = smoothed.certify(x, n=100, generator=generator())
    arguments = {"original": smoothed, "modified": Halfspace(WEIGHT), "certificate": certificate, "x": x, "n": 10}
    with pytest.raises(InvalidInput, match=message) as caught:
        certify_incrementally(**(arguments | change))
    assert "\n" not in str(caught.value)


def test_a_modified_model_of_other_classes_is_refused():
    smoothed = SmoothedClassifier(Halfspace(WEIGHT), Gaussian(SIGMA), num_classes=2)
    certificate = smoothed.certify(POINT[None], n=100, generator=generator())
    for modified, message in ((nn.Linear(2, 3), "num_classes is 2, but"), (len, "must be a torch.nn.Module")):
        with pytest.raises(InvalidModel, match=message):
            certify_incrementally(smoothed, modified, certificate, POINT[None], n=10)


def test_it_follows_the_device_of_the_input_and_takes_no_input():
    smoothed, x = SmoothedClassifier(Halfspace(WEIGHT), Gaussian(SIGMA), num_classes=2), POINT.expand(3, 2)
    certificate = smoothed.certify(x, n=200, generator=generator())
    expected = certify_incrementally(smoothed, Halfspace(WEIGHT), certificate, x, n=100, generator=generator())
    seeded, modified = generator(), Halfspace(WEIGHT)
    with elsewhere():
        result = certify_incrementally(smoothed, modified, certificate, x, n=100, generator=seeded)
    assert torch.equal(result.radius, expected.radius)
    nothing = smoothed.certify(x[:0], n=10)
    assert len(certify_incrementally(smoothed, modified, nothing, x[:0], n=10)) == 0
    hopeless = dataclasses.replace(certificate, p_lower=torch.zeros(3).double())
    assert certify_incrementally(smoothed, modified, hopeless, x, n=10).abstained.all()
