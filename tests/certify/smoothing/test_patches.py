"""Certificates against patches: enumeration of all images, plain loops, and the bands counted one by one."""

import itertools
import math

import pytest
import torch
from oracles.devices import elsewhere
from oracles.halfspace import generator
from torch import Tensor, nn

from bounds import InvalidInput
from certify.smoothing.derandomized.patches import (
    BlockAblation,
    ColumnAblation,
    PatchAblation,
    PatchCertificate,
    PatchSmoothedClassifier,
    ablate,
)

HEIGHT, WIDTH = 3, 4  # of the images of two colours that are enumerated
ABLATIONS = [ColumnAblation(1), ColumnAblation(2), ColumnAblation(4), BlockAblation(1), BlockAblation(2)]


class Wild(nn.Module):
    """A function without any smoothness that prefers one class; NaN logits in places if ``holes``."""

    def __init__(self, entries: int, num_classes: int, seed: int, *, scale: float = 2.0, holes: bool = False) -> None:
        super().__init__()
        weight = scale * torch.randn(entries, num_classes, generator=generator(seed), dtype=torch.float64)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", 0.5 * torch.eye(num_classes, dtype=torch.float64)[seed % num_classes])
        self.holes = holes

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.sin(x.flatten(1).double() @ self.weight) + self.bias
        missing = (logits.amax(1) < 0.4) & (x[:, 0].flatten(1).sum(1) > 0) & self.holes  # never for a black image
        return torch.where(missing[:, None], math.nan, logits)


def all_images() -> Tensor:
    """(4096, 1, 3, 4): image i shows the bits of i."""
    bits = torch.arange(HEIGHT * WIDTH)
    return (torch.arange(2 ** len(bits))[:, None] >> bits & 1).double().view(-1, 1, HEIGHT, WIDTH)


def patches(side: int, height: int = HEIGHT, width: int = WIDTH) -> list[Tensor]:
    """(height, width) bool masks of the squares of that side in an image."""
    masks = []
    for top, left in itertools.product(range(height - side + 1), range(width - side + 1)):
        mask = torch.zeros(height, width, dtype=torch.bool)
        mask[top : top + side, left : left + side] = True
        masks.append(mask)
    return masks


def withstands(label: Tensor, side: int) -> Tensor:
    """(4096,) bool: whether every image that differs within one square of that side only has the same label."""
    index = torch.arange(len(label))
    safe = torch.ones(len(label), dtype=torch.bool)
    for mask in patches(side):
        rest = index & ~int((mask.flatten().long() << torch.arange(HEIGHT * WIDTH)).sum())
        lowest = torch.full_like(label, 10).scatter_reduce(0, rest, label, "amin")
        highest = torch.full_like(label, -1).scatter_reduce(0, rest, label, "amax")
        safe &= (lowest == highest)[rest]
    return safe


def certify(model: nn.Module, ablation: PatchAblation, x: Tensor, batch_size: int = 1000) -> PatchCertificate:
    return PatchSmoothedClassifier(model, ablation, num_classes=3, batch_size=batch_size).certify(x)


# -------------------------------------------------------------------------------------------------------- soundness


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("ablation", ABLATIONS, ids=str)
def test_no_patch_of_the_certified_side_changes_the_label(ablation: PatchAblation, holes: bool):
    """All contents in all places in all images; the mutant whose side is one pixel larger goes red."""
    x = all_images()
    caught, certified = 0, torch.zeros(HEIGHT + 1, dtype=torch.int64)
    for seed in range(6):
        certificate = certify(Wild(2 * HEIGHT * WIDTH, 3, seed, holes=holes), ablation, x, batch_size=8192)
        for side in range(1, HEIGHT + 1):
            safe = withstands(certificate.label, side)
            assert safe[certificate.side >= side].all()
            caught += int((~safe & (certificate.side + 1 >= side)).sum())
        certified += torch.bincount(certificate.side, minlength=HEIGHT + 1)
    assert caught > 100
    wide = ablation == ColumnAblation(4)  # each band is the whole image: nothing can be proved
    assert (certified[1:].sum() == 0) if wide else (certified[1] > 100)
    assert certified[2] > 100 or ablation not in (ColumnAblation(1), BlockAblation(1))


@pytest.mark.parametrize("ablation", ABLATIONS, ids=str)
@pytest.mark.parametrize(("height", "width"), [(3, 4), (4, 4), (7, 5)])
def test_hits_are_the_bands_that_a_patch_touches_wherever_it_is(ablation: PatchAblation, height: int, width: int):
    kept = ablation.kept(torch.arange(ablation.positions(height, width)), height, width)
    for side in range(1, min(height, width) + 1):
        touched = {int((kept & mask).flatten(1).any(1).sum()) for mask in patches(side, height, width)}
        assert touched == {ablation.hits(side, height, width)}


def test_side_follows_from_the_lead_and_the_hits():
    """The theorem, one input and one side at a time."""
    x = torch.rand(20, 2, 7, 6, generator=generator(3), dtype=torch.float64)
    for ablation in (ColumnAblation(2), BlockAblation(2)):
        certificate = certify(Wild(4 * 42, 3, seed=2), ablation, x)
        for row, votes in enumerate(certificate.counts.tolist()):
            label = votes.index(max(votes))
            proved = [
                side
                for side in range(1, 7)
                if all(
                    votes[label] >= votes[c] + 2 * ablation.hits(side, 7, 6) + (c < label)
                    for c in range(3)
                    if c != label
                )
            ]
            assert certificate.label[row] == label
            assert certificate.side[row] == max(proved, default=0)


# ------------------------------------------------------------------------------------------------------------- votes


@pytest.mark.parametrize(("ablation", "size"), [(ColumnAblation(3), (7, 3)), (BlockAblation(3), (3, 3))], ids=str)
def test_votes_are_those_of_a_plain_loop(ablation: PatchAblation, size: tuple[int, int]):
    x = torch.rand(3, 2, 7, 5, generator=generator(4), dtype=torch.float64)
    model = Wild(4 * 35, 3, seed=6)
    expected = torch.zeros(3, 3, dtype=torch.int64)
    corners = [(top, left) for top in range(7 if size[0] < 7 else 1) for left in range(5)]
    for row, (top, left) in itertools.product(range(3), corners):
        seen = torch.zeros(4, 7, 5, dtype=torch.float64)
        for down, right, channel in itertools.product(range(size[0]), range(size[1]), range(2)):
            i, j = (top + down) % 7, (left + right) % 5
            seen[channel, i, j] = x[row, channel, i, j]
            seen[2 + channel, i, j] = 1 - x[row, channel, i, j]
        expected[row, model(seen[None]).argmax()] += 1
    certificate = certify(model, ablation, x)
    assert torch.equal(certificate.counts, expected)
    assert certificate.positions == len(corners)


def test_a_hidden_pixel_differs_from_black_and_white():
    x = torch.tensor([[[[0.0, 1.0, 0.25]]]])
    kept = torch.tensor([[[True, True, False]]])
    assert ablate(x, kept).tolist() == [[[[0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]]]]


@pytest.mark.parametrize("batch_size", [1, 2, 7, 50])
def test_batch_size_changes_no_count(batch_size: int):
    x = torch.rand(5, 1, 3, 4, generator=generator(5))
    expected = certify(Wild(24, 3, seed=1), BlockAblation(2), x)
    sizes = []
    model = Wild(24, 3, seed=1)
    model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    assert torch.equal(certify(model, BlockAblation(2), x, batch_size).counts, expected.counts)
    assert max(sizes) <= max(5, batch_size)  # five rows in the check of the model
    assert torch.equal(certify(model, BlockAblation(2), x.flip(0), batch_size).counts, expected.counts.flip(0))


def test_a_band_with_a_nan_logit_votes_for_no_class():
    class Breaks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = torch.eye(3, dtype=x.dtype)[:1].expand(len(x), -1)
            return torch.where(x[:, 0].flatten(1).sum(1, keepdim=True) > 0, math.nan, logits)

    x = torch.zeros(2, 1, 2, 6)
    x[1, 0, 0, 3] = 1.0
    certificate = certify(Breaks(), ColumnAblation(2), x)
    assert certificate.invalid.tolist() == [0, 2]
    assert certificate.counts.tolist() == [[6, 0, 0], [4, 0, 0]]
    assert certificate.side.tolist() == [2, 1]  # 2 * (m + 1) <= 6, 4


# ------------------------------------------------------------------------------------------------ records and input


def test_record_says_what_it_speaks_of():
    certificate = certify(Wild(24, 3, seed=1), BlockAblation(1), all_images()[:9])
    assert certificate.subject == "smoothed(block_ablation(side=1))"
    assert (certificate.alpha, certificate.method, certificate.positions) == (0.0, "patch_ablation", 12)
    assert certificate.side.dtype == torch.int64
    assert len(certificate.to_dataframe()) == 9
    wrong = (certificate.label + 1) % 3
    assert torch.equal(certificate.certified(certificate.label, 1), certificate.side >= 1)
    assert not certificate.certified(wrong, 0).any()
    assert certify(Wild(24, 3, seed=1), ColumnAblation(1), torch.zeros(0, 1, 3, 4)).side.shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: certify(m, ColumnAblation(5), x), "columns must be at most 4 for images of this size, got 5"),
        (lambda m, x: certify(m, BlockAblation(4), x), "side must be at most 3 for images of this size, got 4"),
        (lambda m, x: certify(m, ColumnAblation(1), x.flatten(1)), r"x must have shape \(N, C, H, W\), got \(4096, 12"),
        (lambda m, x: certify(m, ColumnAblation(1), x * math.nan), "row 0 holds NaN or infinity"),
        (lambda m, x: certify(m, ColumnAblation(1), x.repeat(1, 2, 1, 1)), r"does not accept x of shape \(5, 4, 3, 4"),
        (lambda m, x: certify(m, 4, x), "ablation must be a PatchAblation such as ColumnAblation"),
        (lambda m, x: certify(m, ColumnAblation(1), x, batch_size=0), "batch_size must be an integer of at least 1"),
        (lambda m, x: certify(m, ColumnAblation(1), x[:2]).certified(torch.zeros(3), 1), "labels must have shape"),
        (lambda m, x: ColumnAblation(0), "columns must be an integer of at least 1, got 0"),
        (lambda m, x: BlockAblation(1.5), "side must be an integer of at least 1, got 1.5"),
    ],
)
def test_bad_input_gives_one_clear_line(call, message: str):
    with pytest.raises(InvalidInput, match=message) as caught:
        call(Wild(24, 3, seed=1), all_images())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ablation", ABLATIONS, ids=str)
def test_certify_follows_the_device_of_the_input_and_reads_nothing_back_per_batch(ablation: PatchAblation):
    model, x = Wild(24, 3, seed=1), all_images()[100:120]
    expected = certify(model, ablation, x)
    reads = []
    for batch_size in (6, 100):
        with elsewhere() as mode:
            assert torch.equal(certify(model, ablation, x, batch_size).side, expected.side)
        reads.append(mode.host_reads)
    assert reads[0] == reads[1]
