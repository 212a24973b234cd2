"""Randomized smoothing against closed forms, laws and published certificates."""

import math
from fractions import Fraction

import pytest
import scipy.stats
import torch
from oracles.devices import elsewhere
from oracles.halfspace import Halfspace, generator
from oracles.memory import live_tensors
from oracles.models import Coupled, Divide, Random
from torch import Tensor, nn

from bounds import InvalidInput, InvalidModel, clopper_pearson_lower
from bounds.numerics import BETA_FUNCTION_ERROR
from certify import SmoothedClassifier
from certify.smoothing import Gaussian
from certify.smoothing.drawing.bits import block_seed
from certify.smoothing.drawing.votes import NOISE_BLOCK, NoiseStream, Sampling, Stage

SIGMA = 0.5


def votes(model: nn.Module, x: Tensor, draws: int = 250, first_index: int = 0, **options: int) -> Tensor:
    settings = {"seed": 7, "batch_size": 100, "indices": range(first_index, first_index + len(x)), **options}
    sampling = Sampling(model=model, x=x, distribution=Gaussian(SIGMA).distribution, **settings)
    return sampling.votes(2, draws, Stage.ESTIMATION)


@pytest.fixture
def halfspace() -> Halfspace:
    return Halfspace(torch.randn(3 * 5, generator=generator(3)))


@pytest.fixture
def x() -> Tensor:
    return 0.4 * torch.randn(11, 3, 5, generator=generator(4))


# ------------------------------------------------------------------------------------------------------- the votes


def test_votes_follow_the_exact_probability(halfspace: Halfspace, x: Tensor):
    draws = 60_000
    counted = votes(halfspace, x, draws, batch_size=1000)
    probability = scipy.stats.norm.cdf(halfspace.distance(x).numpy() / SIGMA)
    top = halfspace(x).argmax(1)
    seen = counted.gather(1, top[:, None]).squeeze(1).numpy()
    assert (counted.sum(1) == draws).all()
    p_values = [scipy.stats.binomtest(int(k), draws, p).pvalue for k, p in zip(seen, probability, strict=True)]
    assert min(p_values) > 1e-7  # false alarm in at most one of a million runs; sigma off by 3 % goes red
    wrong = scipy.stats.norm.cdf(halfspace.distance(x).numpy() / (1.03 * SIGMA))
    assert min(scipy.stats.binomtest(int(k), draws, p).pvalue for k, p in zip(seen, wrong, strict=True)) < 1e-4


@pytest.mark.parametrize("group", [1, 4, 50])
@pytest.mark.parametrize("batch_size", [1, 7, 99, 101, 350, 5000])
def test_batch_size_changes_no_count(halfspace: Halfspace, x: Tensor, batch_size: int, group: int):
    expected = votes(halfspace, x, noise_group=group)
    assert torch.equal(votes(halfspace, x, batch_size=batch_size, noise_group=group), expected)


@pytest.mark.parametrize("group", [1, 4, 50])
def test_shards_and_order_change_no_count(halfspace: Halfspace, x: Tensor, group: int):
    whole = votes(halfspace, x, noise_group=group, first_index=2)
    backwards = [votes(halfspace, x[i : i + 1], noise_group=group, first_index=2 + i) for i in reversed(range(len(x)))]
    assert torch.equal(torch.cat(backwards[::-1]), whole)
    moved = votes(halfspace, x, noise_group=group, first_index=2 + 100)
    assert not torch.equal(moved, whole)  # the index matters


def test_more_draws_extend_fewer(x: Tensor):
    """Noise is cut into blocks by the draw, so a longer run starts with the draws of a shorter one."""
    streams = [NoiseStream(Gaussian(1.0).distribution, x, seed=1, stage=Stage.ESTIMATION) for _ in range(2)]
    assert torch.equal(streams[0].blocks(0, 0, 3)[NOISE_BLOCK : 2 * NOISE_BLOCK], streams[1].blocks(0, 1, 1))


def test_inputs_share_noise_within_a_group_only(halfspace: Halfspace):
    same = torch.zeros(6, 3, 5)
    counted = votes(halfspace, same, 5000, noise_group=3)
    assert torch.equal(counted[0], counted[1])
    assert torch.equal(counted[3], counted[5])
    assert not torch.equal(counted[2], counted[3])
    apart = votes(halfspace, same, noise_group=1)
    assert len(apart[:, 0].unique()) > 1


def test_blocks_of_one_input_never_share_a_seed():
    """PyTorch's CPU generator reads 32 bits of a seed: hashing all of it would repeat blocks by chance."""
    seeds = [block_seed(123, Stage.ESTIMATION, 5, block) & 0xFFFFFFFF for block in range(200_000)]
    assert len(set(seeds)) == len(seeds)
    selection = block_seed(123, Stage.SELECTION, 5, 0) & 0xFFFFFFFF
    assert selection not in seeds
    assert len({block_seed(123, stage, group, 0) for stage in Stage for group in range(1000)}) == 4000


def test_noise_is_gaussian_and_fresh_in_every_block():
    like = torch.zeros(1, 50)
    stream = NoiseStream(Gaussian(2.0).distribution, like, seed=1, stage=Stage.SELECTION)
    draws = stream.blocks(0, 0, 40).clone()
    assert len(draws.flatten(1).unique(dim=0)) == 40 * NOISE_BLOCK
    assert scipy.stats.kstest(draws.flatten().numpy() / 2.0, "norm").pvalue > 1e-6
    other = NoiseStream(Gaussian(2.0).distribution, like, seed=1, stage=Stage.ESTIMATION).blocks(0, 0, 40)
    assert not torch.isclose(draws, other).any(1).all()


def test_a_draw_with_a_nan_logit_votes_for_no_class():
    class Breaks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x > 0.5, math.nan, torch.cat([x * 0 + 1, x * 0], 1))

    certificate = SmoothedClassifier(Breaks(), Gaussian(1.0), num_classes=2).certify(torch.zeros(1, 1), n=1000, n0=50)
    assert 200 < int(certificate.invalid) < 420
    assert int(certificate.counts.sum() + certificate.invalid.sum()) == 1000
    assert certificate.p_lower.item() < 0.75  # counted as class 0, the bound would be above 0.99


# ------------------------------------------------------------------------------------------------------ certificates


def test_draws_that_choose_the_class_do_not_judge_it(halfspace: Halfspace, x: torch.Tensor):
    """As many of both: on the same draws the counts would be the same."""
    certificate = SmoothedClassifier(halfspace, Gaussian(SIGMA), num_classes=2).certify(
        x, n=400, n0=400, generator=generator()
    )
    assert not torch.equal(certificate.counts, certificate.selection_counts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_radius_of_a_halfspace_is_never_above_the_distance_and_comes_close(dtype: torch.dtype):
    model = Halfspace(torch.randn(35, generator=generator(1)).to(dtype))
    x = 0.3 * torch.randn(20, 5, 7, generator=generator(2)).to(dtype)
    smoothed = SmoothedClassifier(model, Gaussian(SIGMA), num_classes=2)
    certificate = smoothed.certify(x, n=20_000, alpha=1e-6, generator=generator())
    exact = model.distance(x)
    assert (certificate.label == model(x).argmax(1))[~certificate.abstained].all()
    assert (certificate.radius <= exact).all()
    near = (exact > 0.4 * SIGMA) & (exact < 2 * SIGMA)  # far enough for 100 draws to select the right class
    assert near.sum() > 5
    # The bound lies 4.8 standard errors below the votes, these within 5 of p: at 2 sigma that is 0.2 sigma.
    assert (certificate.radius > exact - 0.2 * SIGMA)[near].all()


def test_error_rate_is_at_most_alpha_and_a_mutant_exceeds_it():
    """2,000 inputs at one known distance: a radius above it is a wrong certificate."""
    alpha, n, rows = 0.05, 200, 2000
    model = Halfspace(torch.ones(1))
    x = torch.full((rows, 1), 0.4)
    smoothed = SmoothedClassifier(model, Gaussian(SIGMA), num_classes=2, batch_size=2000, grid=None)
    certificate = smoothed.certify(x, n=n, alpha=alpha, generator=generator(5))
    wrong = int((certificate.radius > 0.4).sum())
    allowed = scipy.stats.binom.isf(1e-6, rows, alpha)
    assert 0 < wrong <= allowed
    votes_for_label = certificate.counts.gather(1, certificate.label[:, None]).squeeze(1)
    plug_in = Gaussian(SIGMA).radius((votes_for_label / n).double().clamp(max=1 - 1e-9))
    assert int((plug_in > 0.4).sum()) > allowed  # the mutant: the share of votes instead of its lower bound


def test_selection_from_the_estimation_draws_would_be_wrong():
    """At distance 0 both classes are equally likely, so any certificate is wrong."""
    rows, alpha = 2000, 0.05
    smoothed = SmoothedClassifier(Halfspace(torch.ones(1)), Gaussian(1.0), num_classes=2, grid=None)
    certificate = smoothed.certify(torch.zeros(rows, 1), n=100, n0=10, alpha=alpha, generator=generator(6))
    allowed = scipy.stats.binom.isf(1e-6, rows, alpha)
    assert int((~certificate.abstained).sum()) <= allowed
    mutant = clopper_pearson_lower(certificate.counts.amax(1), 100, alpha=alpha)
    assert int((mutant > 0.5).sum()) > 1.3 * rows * alpha


def test_record_keeps_what_the_certificate_rests_on(halfspace: Halfspace, x: Tensor):
    smoothed = SmoothedClassifier(halfspace, Gaussian(SIGMA), num_classes=2)
    certificate = smoothed.certify(x, n=300, n0=20, alpha=0.01, generator=generator(), first_index=3)
    assert certificate.subject == "smoothed(gaussian(sigma=0.5))"
    assert (certificate.norm, certificate.n, certificate.n0, certificate.first_index) == (2.0, 300, 20, 3)
    assert (certificate.counts.sum(1) == 300).all()
    assert (certificate.selection_counts.sum(1) == 20).all()
    recomputed = clopper_pearson_lower(
        certificate.counts.gather(1, certificate.label[:, None]).squeeze(1), 300, alpha=0.01
    )
    assert torch.equal(certificate.p_lower, recomputed)
    assert torch.equal(certificate.radius, Gaussian(SIGMA).radius(recomputed))
    assert torch.equal(certificate.abstained, recomputed <= 0.5)
    assert (certificate.radius[certificate.abstained] == 0).all()
    table = certificate.to_dataframe()
    assert len(table) == len(x)
    assert table["counts_0"].tolist() == certificate.counts[:, 0].tolist()


def test_scaling_input_and_sigma_scales_the_radius(halfspace: Halfspace, x: Tensor):
    radius = SmoothedClassifier(halfspace, Gaussian(SIGMA), num_classes=2).certify(x, n=500, generator=generator())
    scaled = nn.Sequential(Divide(4.0), halfspace)
    fourfold = SmoothedClassifier(scaled, Gaussian(4 * SIGMA), num_classes=2).certify(
        4 * x, n=500, generator=generator()
    )
    torch.testing.assert_close(fourfold.radius, 4 * radius.radius, rtol=1e-12, atol=0)


def test_generator_supplies_one_draw_and_nothing_else_matters(halfspace: Halfspace, x: Tensor):
    smoothed = SmoothedClassifier(halfspace, Gaussian(SIGMA), num_classes=2)
    used, reference_generator = generator(9), generator(9)
    first = smoothed.certify(x, n=200, generator=used)
    torch.randint(2**63 - 1, (), generator=reference_generator)
    assert torch.equal(used.get_state(), reference_generator.get_state())
    torch.manual_seed(12345)
    assert torch.equal(smoothed.certify(x, n=200, generator=generator(9)).counts, first.counts)
    assert not torch.equal(smoothed.certify(x, n=200, generator=generator(10)).counts, first.counts)


def test_the_model_and_the_inputs_come_back_as_they_were(x: Tensor):
    model = nn.Sequential(nn.Flatten(), nn.Linear(15, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    model.train()
    model[1].weight.requires_grad_(False)
    before, statistics = x.clone(), model[2].running_mean.clone()
    SmoothedClassifier(model, Gaussian(SIGMA), num_classes=2).certify(x, n=100)
    assert torch.equal(x, before)
    assert torch.equal(model[2].running_mean, statistics)
    assert all(module.training for module in model.modules())
    assert [weight.requires_grad for weight in model.parameters()] == [False] + [True] * 5


def test_no_input_gives_an_empty_record(halfspace: Halfspace):
    certificate = SmoothedClassifier(halfspace, Gaussian(SIGMA), num_classes=2).certify(torch.zeros(0, 3, 5), n=100)
    assert len(certificate) == 0
    assert certificate.radius.dtype == torch.float64


# -------------------------------------------------------------------------------------------------------- prediction


def test_prediction_agrees_with_the_binomial_test_of_scipy(halfspace: Halfspace, x: Tensor):
    prediction = SmoothedClassifier(halfspace, Gaussian(SIGMA), num_classes=2).predict(x, n=101, generator=generator())
    for row in range(len(x)):
        first, second = sorted(prediction.counts[row].tolist(), reverse=True)
        expected = scipy.stats.binomtest(first, first + second, 0.5).pvalue
        assert prediction.p_value[row].item() == pytest.approx(expected, rel=2 * BETA_FUNCTION_ERROR)
        if first > second:  # twice the exact tail of rational numbers: never above the p-value stated
            total = first + second
            tail = Fraction(sum(math.comb(total, k) for k in range(first, total + 1)), 2**total)
            assert min(2 * tail, 1) <= Fraction(prediction.p_value[row].item())
    assert torch.equal(prediction.abstained, prediction.p_value > 1e-3)


def test_too_few_draws_always_abstain(halfspace: Halfspace):
    """At alpha = 0.001 no vote of 10 decides (2 / 2^10 is above it), a unanimous vote of 11 does."""
    far = 100 * torch.ones(2, 3, 5) * halfspace.linear.weight[1].view(3, 5).sign()
    smoothed = SmoothedClassifier(halfspace, Gaussian(SIGMA), num_classes=2)
    assert smoothed.predict(far, n=10).abstained.all()
    assert not smoothed.predict(far, n=11).abstained.any()


def test_a_tie_abstains():
    smoothed = SmoothedClassifier(Halfspace(torch.ones(1)), Gaussian(1.0), num_classes=2)
    prediction = smoothed.predict(torch.zeros(1, 1), n=1000, generator=generator())
    assert prediction.abstained.all()


# ------------------------------------------------------------------------------------------------------------- input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, x: s.certify(x, alpha=0.0), "alpha must lie strictly between 0 and 1, got 0"),
        (lambda s, x: s.certify(x, n=100.0), "n must be an integer of at least 1, got 100.0"),
        (lambda s, x: s.certify(x, n="100"), "n must be an integer of at least 1, got '100'"),
        (lambda s, x: s.certify(x, n=True), "n must be an integer of at least 1, got True"),
        (lambda s, x: s.certify(x, alpha="0.1"), "alpha must lie strictly between 0 and 1, got '0.1'"),
        (lambda s, x: s.certify(x.numpy()), "x must be a torch tensor, got ndarray: use torch.as_tensor"),
        (lambda s, x: SmoothedClassifier(len, s.noise, num_classes=2).certify(x), "must be a torch.nn.Module, got"),
        (lambda s, x: s.certify(x, n=0), "n must be an integer of at least 1, got 0"),
        (lambda s, x: s.certify(x, n=10, n0=0), "n0 must be an integer of at least 1"),
        (lambda s, x: s.certify(x * math.nan), "row 0 holds NaN or infinity"),
        (lambda s, x: s.certify(x.int()), "x must be a floating-point tensor, got torch.int32"),
        (lambda s, x: s.certify(x, first_index=-1), "first_index must be an integer of at least 0"),
        (lambda s, x: s.certify(x[:, :2]), r"does not accept x of shape \(5, 2, 5\)"),
        (lambda s, x: SmoothedClassifier(s.model, s.noise, num_classes=3).certify(x, n=1), "num_classes is 3, but the"),
        (
            lambda s, x: SmoothedClassifier(s.model, s.noise, num_classes=1),
            "num_classes must be an integer of at least 2",
        ),
        (lambda s, x: Gaussian(0.0), "sigma must be a finite number above 0, got 0"),
        (lambda s, x: Gaussian(math.nan), "sigma must be a finite number above 0"),
    ],
)
def test_bad_input_gives_one_clear_line(call, message: str, halfspace: Halfspace, x: Tensor):
    smoothed = SmoothedClassifier(halfspace, Gaussian(SIGMA), num_classes=2)
    with pytest.raises(InvalidInput, match=message) as caught:
        call(smoothed, x)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Random(2), r"the model draws random numbers, aten\.rand"),
        (Coupled(), "depend on the other rows of its batch"),
        (nn.Flatten(0), r"must return logits of shape \(N, K\)"),
    ],
)
def test_models_that_cannot_carry_a_certificate_are_refused(model: nn.Module, message: str, x: Tensor):
    with pytest.raises(InvalidModel, match=message):
        SmoothedClassifier(model, Gaussian(SIGMA), num_classes=2).certify(x, n=10)


# ------------------------------------------------------------------------------------------------------------ memory


@pytest.mark.slow
@pytest.mark.parametrize("grid", [None, 255])
def test_memory_grows_with_the_batch_alone(grid: int | None):
    model = nn.Linear(784, 3)
    data = torch.randint(256, (512, 784), generator=generator(1)) / 255

    def peak(inputs: int, n: int, batch_size: int, **options: float) -> int:
        smoothed = SmoothedClassifier(model, Gaussian(SIGMA), num_classes=3, batch_size=batch_size, grid=grid)
        smoothed.certify(data[:1], n=1)  # tables that are made once
        with live_tensors() as memory:
            smoothed.certify(data[:inputs], n=n, n0=10, **options)
        return memory.peak

    image = 784 * 4
    assert peak(3, 1000, 100) <= 1.01 * peak(3, 200, 100)
    few, many = 256, 512
    assert peak(many, 10, 100) - peak(few, 10, 100) < 0.1 * (many - few) * image  # results, no copy of the inputs
    assert peak(many, 100, 100, tolerance=2.0) - peak(few, 100, 100, tolerance=2.0) < 0.2 * (many - few) * image
    assert peak(3, 2000, 1000) - peak(3, 2000, 500) > 500 * image  # the measure sees a batch


# ----------------------------------------------------------------------------------------------------------- devices


def test_counting_follows_the_device_of_the_input_and_never_reads_back(halfspace: Halfspace, x: Tensor):
    expected = votes(halfspace, x, noise_group=4)
    with elsewhere() as mode:
        counted = votes(halfspace, x, noise_group=4)
    assert torch.equal(counted, expected)
    assert mode.host_reads == 0


def test_certify_follows_the_device_of_the_input(halfspace: Halfspace, x: Tensor):
    smoothed = SmoothedClassifier(halfspace, Gaussian(SIGMA), num_classes=2)
    expected = smoothed.certify(x, n=200, generator=generator())
    seeded = generator()
    with elsewhere():
        assert torch.equal(smoothed.certify(x, n=200, generator=seeded).radius, expected.radius)
