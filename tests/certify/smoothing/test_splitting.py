"""Derandomised splitting noise against enumeration, a plain loop and published certificates."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from oracles.devices import elsewhere
from oracles.halfspace import generator
from torch import Tensor, nn

from bounds import InvalidInput
from certify.smoothing import Uniform
from certify.smoothing.derandomized.counting import lead
from certify.smoothing.derandomized.splitting import DerandomizedSplitting, SplittingCertificate, split

STEPS = 4  # of the coarse grid on which everything is enumerated


class Wild(nn.Module):
    """A function without any smoothness, with NaN logits in places if ``holes``, but never for an input of zeros."""

    def __init__(self, entries: int, num_classes: int, seed: int, *, scale: float = 4.0, holes: bool = False) -> None:
        super().__init__()
        weight = scale * torch.randn(entries, num_classes, generator=generator(seed), dtype=torch.float64)
        self.register_buffer("weight", weight)
        self.holes = holes

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.sin(x.flatten(1).double() @ self.weight)
        missing = (logits.amax(1) < 0.5) & (x.flatten(1)[:, 0] > 0.5) & self.holes
        return torch.where(missing[:, None], math.nan, logits)


def grid_points(entries: int, steps: int) -> Tensor:
    points = itertools.product(range(steps + 1), repeat=entries)
    return torch.tensor(list(points), dtype=torch.float64) / steps


def certify(model: nn.Module, x: Tensor, **options: int) -> SplittingCertificate:
    settings = {"levels": 6, "num_classes": 3, "seed": 0, "steps_per_unit": STEPS, **options}
    return DerandomizedSplitting(model, **settings).certify(x)


def two_cases(x: float, s: float, half_width: float) -> float:
    """Splitting noise as the paper defines it, for one number."""
    if half_width >= 0.5:
        return (min(s, 1) + (x > s)) / 2
    centre = math.ceil((x - s) / (2 * half_width)) * 2 * half_width + s
    return (min(centre, 1) + max(centre - 2 * half_width, 0)) / 2


# ------------------------------------------------------------------------------------------------------ the transform


@pytest.mark.parametrize("half_width", [0.03, 0.25, 0.49, 0.5, 0.866, 3.0])
def test_split_is_both_cases_of_the_paper(half_width: float):
    x = torch.rand(500, generator=generator(1), dtype=torch.float64)
    s = 2 * half_width * torch.rand(500, generator=generator(2), dtype=torch.float64)
    expected = [two_cases(a, b, half_width) for a, b in zip(x.tolist(), s.tolist(), strict=True)]
    torch.testing.assert_close(split(x, s, half_width), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-14)


@pytest.mark.parametrize("levels", [1, 3, 100, 254, 255, 441, 3091])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_grid_step_changes_what_the_model_sees_in_one_case_at_most(levels: int, dtype: torch.dtype):
    """The whole proof: of all positions of the cut, exactly one separates neighbours on the grid, to the last bit."""
    x = torch.arange(256, dtype=dtype) / 255
    s = (torch.arange(levels, dtype=dtype) + 0.5) / 255
    seen = split(x[:, None], s, levels / 510)
    assert ((seen[1:] != seen[:-1]).sum(1) == 1).all()
    far = (seen[-1] != seen[0]).sum()
    assert far == min(255, levels)


# ------------------------------------------------------------------------------------------------ votes and leads


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("levels", [3, 4, 9])
def test_votes_are_those_of_a_plain_loop(shape: tuple[int, ...], levels: int):
    model, seed = Wild(math.prod(shape), 3, seed=8), 5
    steps = torch.randint(STEPS + 1, (4, *shape), generator=generator(3))
    template = np.random.RandomState(seed).randint(levels, size=math.prod(shape))
    expected = torch.zeros(4, 3, dtype=torch.int64)
    for row, offset in itertools.product(range(4), range(levels)):
        entries = zip(steps[row].flatten().tolist(), template.tolist(), strict=True)
        seen = [two_cases(k / STEPS, ((t + offset) % levels + 0.5) / STEPS, levels / (2 * STEPS)) for k, t in entries]
        expected[row, model(torch.tensor([seen], dtype=torch.float64)).argmax()] += 1
    certificate = certify(model, (steps / STEPS).double(), levels=levels, seed=seed)
    assert torch.equal(certificate.counts, expected)
    assert (certificate.counts.sum(1) == levels).all()


@pytest.mark.parametrize("batch_size", [1, 2, 7, 12, 1000])
def test_batch_size_changes_no_count(batch_size: int):
    x = grid_points(2, STEPS)
    expected = certify(Wild(2, 3, seed=1), x)
    sizes = []
    model = Wild(2, 3, seed=1)
    model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    assert torch.equal(certify(model, x, batch_size=batch_size).counts, expected.counts)
    assert max(sizes) <= max(5, batch_size)  # five rows in the check of the model
    assert torch.equal(certify(model, x.flip(0)).counts, expected.counts.flip(0))
    assert torch.equal(certify(model, x[3:4]).counts, expected.counts[3:4])


def test_the_template_is_the_seed_alone():
    """The stream of NumPy's documentation: its legacy generator is frozen, so is every classifier made from it."""
    classifier = DerandomizedSplitting(Wild(10, 3, seed=1), levels=5, num_classes=3, seed=0)
    assert classifier.template(torch.zeros(7, 2, 5)).tolist() == [[4, 0, 3, 3, 3], [1, 3, 2, 4, 0]]
    torch.manual_seed(1)
    assert classifier.template(torch.zeros(1, 10)).tolist() == [4, 0, 3, 3, 3, 1, 3, 2, 4, 0]
    x = grid_points(3, STEPS)
    counts = [certify(Wild(3, 3, seed=1), x, seed=seed).counts for seed in (0, 0, 1)]
    assert torch.equal(counts[0], counts[1])
    assert not torch.equal(counts[0], counts[2])


def test_lead_is_what_the_second_class_must_catch_up():
    for votes in itertools.product(range(5), repeat=3):
        label, margin = (int(t) for t in lead(torch.tensor([votes])))
        assert label == votes.index(max(votes))
        for change in range(5):
            reached = {(i, j) for i in range(change + 1) for j in range(change + 1)}  # votes lost, votes won by another
            flips = any(
                votes[c] + j > votes[label] - i or (votes[c] + j == votes[label] - i and c < label)
                for i, j in reached
                for c in range(3)
                if c != label
            )
            assert flips == (change > margin // 2)


# -------------------------------------------------------------------------------------------------------- soundness


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("levels", [3, 4, 6, 9, 10])
def test_no_grid_point_within_the_radius_has_another_label_and_one_just_outside_has(levels: int, holes: bool):
    """All pairs of grid points, 40 functions; the mutant whose radius is one step larger goes red."""
    x = grid_points(3, STEPS)
    distance = (STEPS * (x[:, None] - x).abs().sum(2)).round().long()
    caught = certified = invalid = 0
    for seed in range(40):
        model = Wild(3, 3, seed, scale=1.0 + seed % 4, holes=holes)
        certificate = certify(model, x, levels=levels, seed=seed)
        differs = certificate.label[:, None] != certificate.label
        nearest = torch.where(differs, distance, 10**6).amin(1)
        assert (certificate.steps < nearest).all()
        caught += int((certificate.steps + 1 >= nearest).sum())
        certified += int((certificate.steps > 0).sum())
        invalid += int(certificate.invalid.sum())
    assert caught > 20
    assert certified > 100
    assert (invalid > 0) == holes


def test_a_case_with_a_nan_logit_votes_for_no_class():
    class Breaks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = torch.cat([x * 0 + 1, x * 0, x * 0], 1)
            return torch.where(x > 0.5, logits.masked_fill(logits > 0, math.nan), logits)

    certificate = certify(Breaks(), torch.tensor([[0.0], [0.75]]), levels=8)
    # x = 0.75 lies above 3 of 8 cuts; then the model sees a number from 1/2 on
    assert certificate.invalid.tolist() == [0, 3]
    assert certificate.counts.tolist() == [[8, 0, 0], [5, 0, 0]]
    assert certificate.steps.tolist() == [4, 2]


# ------------------------------------------------------------------------------------------------------- the record


@pytest.mark.slow
def test_radius_is_the_float_that_a_quotient_of_integers_gives():
    """So that comparing with k / 255 includes equality; it stays below the next distance, as a rational number."""

    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.eye(2, dtype=x.dtype)[:1].expand(len(x), -1)

    for steps in range(256):
        certificate = certify(
            Constant(), torch.zeros(1, 1), levels=2 * steps + 1, num_classes=2, seed=3, steps_per_unit=255
        )
        assert certificate.steps.item() == steps
        assert certificate.radius.item() == steps / 255
        assert Fraction(certificate.radius.item()) < Fraction(steps + 1, 255)


def test_record_says_what_it_speaks_of():
    certificate = certify(Wild(2, 3, seed=1), grid_points(2, STEPS), seed=9)
    assert certificate.subject == "smoothed(dssn(levels=6, steps_per_unit=4, seed=9))"
    assert (certificate.norm, certificate.alpha, certificate.method) == (1.0, 0.0, "dssn")
    assert (certificate.levels, certificate.steps_per_unit, certificate.seed) == (6, STEPS, 9)
    assert certificate.radius.dtype == torch.float64
    assert not certificate.abstained.any()
    assert len(certificate.to_dataframe()) == 25
    assert DerandomizedSplitting(Wild(2, 3, seed=1), levels=441, num_classes=3, seed=0).half_width == 441 / 510


@pytest.mark.parametrize("levels", [3, 254, 441])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_rounding_of_the_inputs_changes_nothing(dtype: torch.dtype, levels: int):
    """Inputs divided by 255, multiplied by a rounded 1/255 or stored in half precision are the same grid points."""
    passes = []

    class Recorder(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            passes.append(x)
            return torch.cat([x, 1 - x], 1)

    steps, seen = torch.arange(256, dtype=dtype)[:, None], []
    for x in (steps / 255, steps * torch.tensor(1 / 255, dtype=dtype)):
        certify(Recorder(), x, levels=levels, num_classes=2, steps_per_unit=255, batch_size=256 * levels)
        seen.append(passes[-1])  # all cases in one; the ones before check the model
    assert torch.equal(seen[0], seen[1])
    cases = seen[0].view(256, levels)
    assert ((cases[1:] != cases[:-1]).sum(1) == 1).all()
    assert cases.dtype == dtype


def test_no_input_gives_an_empty_record():
    certificate = certify(Wild(2, 3, seed=1), torch.zeros(0, 2))
    assert len(certificate) == 0
    assert certificate.counts.shape == (0, 3)


# ------------------------------------------------------------------------------------------------------------- input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m, x: certify(m, x + 0.1),
            r"x must hold multiples of 1/4 from 0 to 1, in a dtype that tells them apart, but row 0 does not: scale",
        ),
        (
            lambda m, x: certify(m, 5 * x / 4),
            "x must hold multiples of 1/4 from 0 to 1, in a dtype that tells them apart, but row 1 does not",
        ),
        (
            lambda m, x: certify(m, x - 1),
            "x must hold multiples of 1/4 from 0 to 1, in a dtype that tells them apart, but row 0 does not",
        ),
        (lambda m, x: certify(m, x.bfloat16(), steps_per_unit=255), "apart, but row 0 does not"),
        (lambda m, x: certify(m, x.float(), steps_per_unit=10**7), "apart, but row 0 does not"),
        (lambda m, x: certify(m, x * math.nan), "row 0 holds NaN or infinity"),
        (lambda m, x: certify(m, x.long()), "x must be a floating-point tensor, got torch.int64"),
        (lambda m, x: certify(m, x, levels=0), "levels must be an integer of at least 1, got 0"),
        (lambda m, x: certify(m, x, levels=4.5), "levels must be an integer of at least 1, got 4.5"),
        (lambda m, x: certify(m, x, seed=-1), "seed must be an integer of at least 0, got -1"),
        (lambda m, x: certify(m, x, seed=2**32), "seed must be at most 4294967295, got 4294967296"),
        (lambda m, x: certify(m, x, batch_size=0), "batch_size must be an integer of at least 1"),
        (lambda m, x: certify(m, x, steps_per_unit=0), "steps_per_unit must be an integer of at least 1"),
        (lambda m, x: certify(m, x, num_classes=1), "num_classes must be an integer of at least 2"),
        (lambda m, x: certify(m, x, num_classes=4), "num_classes is 4, but the model returns 3 logits"),
        (lambda m, x: certify(m, x[:, :1]), r"does not accept x of shape \(5, 1\)"),
        (lambda m, x: certify(len, x), "must be a torch.nn.Module, got"),
    ],
)
def test_bad_input_gives_one_clear_line(call, message: str):
    with pytest.raises(InvalidInput, match=message) as caught:
        call(Wild(2, 3, seed=1), grid_points(2, STEPS))
    assert "\n" not in str(caught.value)


def test_certify_follows_the_device_of_the_input_and_reads_nothing_back_per_batch():
    model, x = Wild(2, 3, seed=1), grid_points(2, STEPS)
    expected = certify(model, x)
    reads = []
    for batch_size in (6, 100):
        with elsewhere() as mode:
            assert torch.equal(certify(model, x, batch_size=batch_size).radius, expected.radius)
        reads.append(mode.host_reads)
    assert reads[0] == reads[1]  # 25 batches against 2


# ------------------------------------------------------------------------------------------------- published figures


def test_counts_of_levine_give_their_labels_and_radii(shared_data):
    """Exact votes of 441 cases for 10,000 images of CIFAR-10: every label and radius, in single precision there."""
    folder = shared_data / "smoothing/splitting_noise/checkpoints/cifar_split_derandomized_0.5"
    fractions, radius, predicted = (
        torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("preds", "radius_l1", "predicted_labels")
    )
    counts = (441 * fractions).round().long()
    label, margin = lead(counts)
    assert torch.equal(label, predicted.long())
    assert torch.equal(margin // 2, (255 * radius).round().long())
    assert (margin // 2 / 255 - radius).abs().max() < 1e-6


def test_splitting_noise_has_the_radius_of_uniform_noise(shared_data):
    folder = shared_data / "smoothing/splitting_noise/checkpoints/cifar_split_0.5"
    probability, radius = (torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("prob_lb", "radius_l1"))
    ours = Uniform(half_width=0.5 * math.sqrt(3)).radius(probability)
    assert (ours - radius.clamp(min=0)).abs().max() < 1e-7
