"""Batches and units fit into a memory, inputs stay on the disk, and what does not fit is refused at once."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from oracles import peak_memory
from oracles.memory import live_tensors
from torch import nn

import certify
from bounds import InvalidInput
from bounds.errors import InvalidConfiguration
from certify.evaluation.arguments import asked_evaluation
from certify.evaluation.budget.row_memory import SHARE, MethodMemory, PassMemory, RowLine, rows_of_passes
from certify.methods import IntervalBounds, MinimalPerturbation, RandomNoise, Smoothing
from certify.sizes import bytes_of
from certify.smoothing.drawing.distributions import lie_on_grid
from certify.stored_inputs import StoredInputs

QUICK = [MinimalPerturbation(steps=2, restarts=1), Smoothing(n=200, n0=10)]


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 5)).eval()


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)


def certified(network: nn.Module, x: object, memory: object = None, **more: object) -> certify.Evaluation:
    y = torch.arange(len(x)) % 5
    return certify.evaluate(network, x, y, norms=2, **{"methods": QUICK, "cross_sections": 0} | more, memory=memory)


@pytest.mark.slow
@pytest.mark.parametrize(("memory", "smallest"), [("8MB", 1), ("40MB", 2)])
def test_tensors_fit_into_the_memory(memory, smallest, network, images):
    """Counted by the oracle, and more memory is used: a limit that nothing comes near to would be met too."""
    x = torch.from_numpy(images).float() / 255
    with live_tensors() as live:
        found = certified(network, x, memory, batch_size=100)
    assert live.peak <= bytes_of("memory", memory)
    assert live.peak >= 0.1 * SHARE * min(bytes_of("memory", memory), 20_000_000)
    assert found.manifest["configuration"]["batch_sizes"]["attack"] >= smallest
    plan = found.manifest["configuration"]["plan"]
    assert all(part["rows_per_unit"] >= 1 for part in plan.values())


@pytest.mark.slow
def test_what_is_held_of_all_inputs_of_a_unit_fits_too():
    """Batches of one image in units of a dozen: distances in float64 were eight copies of all."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 10)).eval()
    x = torch.rand(12, 3, 64, 64)
    with live_tensors() as live:
        found = certify.evaluate(model, x, norms=2, methods=QUICK[:1], cross_sections=0, memory="4MB")
    assert found.manifest["configuration"]["plan"]["attack"]["rows_per_unit"] >= 12
    assert 1_000_000 < live.peak <= 4_000_000


def test_looking_for_a_grid_takes_little_memory():
    x = torch.ones(4, 3, 224, 224)
    with live_tensors() as live:
        assert lie_on_grid(x)
    assert live.peak <= 2_000_000


@pytest.mark.slow
def test_random_directions_are_counted(network, images):
    x = torch.from_numpy(images).float() / 255
    with pytest.raises(InvalidInput, match=r"for one input of 'noise', got 4\.00 MB"):
        certified(network, x, "4MB", methods=[RandomNoise(draws=500)])
    with live_tensors() as live:
        certified(network, x, "60MB", methods=[RandomNoise(draws=500)])
    assert 20_000_000 < live.peak <= 60_000_000


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="bytes of a process as Linux tells them")
def test_a_process_that_evaluates_and_audits_200_mb_of_images_stays_within_half_of_that(tmp_path):
    """By the operating system, in a process of its own; the images are twice as large as the memory.

    Bounds of all inputs, draws and searches for some; then both runs are merged, written as pages and audited.
    """
    images = np.lib.format.open_memmap(
        tmp_path / "x.npy", "w+", np.float32, (1900, 3, peak_memory.SIDE, peak_memory.SIDE)
    )
    images[:] = np.random.default_rng(0).random((19, *images.shape[1:]), dtype=np.float32).repeat(100, axis=0)
    assert images.nbytes > 2 * bytes_of("memory", "100MB")
    command = [sys.executable, peak_memory.__file__, str(tmp_path / "x.npy"), "100MB"]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert told["rows"] == 1900 + 2 * 40
    assert told["confirmed"] > 7 * told["rows"]
    assert max(told["rises"]) <= images.nbytes / 2


@pytest.mark.slow
def test_an_audit_draws_again_in_the_batches_of_the_run(network, images, tmp_path):
    """Sums are rounded by the batch, so that votes of other batches could seem to be edited."""
    x, batches = torch.from_numpy(images[:4]).float() / 255, []
    methods = [MinimalPerturbation(steps=1, restarts=1), Smoothing(n=100, n0=10)]
    found = certified(network, x, "8MB", methods=methods, output=tmp_path)
    sizes = found.manifest["configuration"]["batch_sizes"]
    network.register_forward_hook(lambda module, given, output: batches.append(len(output)))
    report = certify.audit(tmp_path, network, x, torch.arange(4) % 5, sample=1.0)
    assert report.holds, str(report)
    assert sizes["attack"] < sizes["smoothing"] == max(batches)


@pytest.mark.slow
def test_cross_sections_fit_into_the_memory(network, images):
    x, batches = torch.from_numpy(images).float() / 255, []
    network.register_forward_hook(lambda module, given, output: batches.append(len(output)))
    few = certified(network, x, "4MB", methods=QUICK[:1], cross_sections=2)
    most = max(batches)
    many = certified(network, x, methods=QUICK[:1], cross_sections=2)
    assert most <= SHARE * 4_000_000 / (5 * 3 * 32 * 32 * 4) < max(batches)
    assert len(few.planes) == 2
    assert [plane.labels for plane in few.planes] == [plane.labels for plane in many.planes]
    assert [plane.outside for plane in few.planes] == [plane.outside for plane in many.planes]


def test_passes_are_counted_exactly(network):
    """A linear layer holds the copy of the input and the logits; its gradient, that of the input and its seed too."""
    linear = nn.Sequential(nn.Flatten(), nn.Linear(100, 10)).eval()
    found = PassMemory.of(linear, torch.rand(1, 100))
    assert found.forward == (0, 4 * 110)
    assert 4 * 210 <= found.gradient.each <= 4 * 220


def test_the_larger_of_the_passes_decides():
    passes = PassMemory(forward=RowLine(0, 10), gradient=RowLine(0, 1000))
    method = MethodMemory(fixed=1, of_batch=0, of_unit=0, forward=1, gradient=1)
    assert method.bytes_of(passes, 20, 1) == 20_001
    assert method._replace(gradient=0).bytes_of(passes, 20, 1) == 201


@pytest.mark.slow
def test_inputs_that_share_their_draws_need_no_more_memory_for_them(network, images):
    x = torch.from_numpy(images).float() / 255
    smoothing = [Smoothing(n=200, n0=10, noise_group=10)]
    with live_tensors() as live:
        found = certified(network, x, "8MB", methods=smoothing, batch_size=100)
    assert 1_000_000 < live.peak <= 8_000_000
    alone = certified(network, x, "8MB", methods=QUICK[1:], batch_size=100)
    sizes = [run.manifest["configuration"]["batch_sizes"]["smoothing"] for run in (found, alone)]
    assert sizes[0] >= 0.8 * sizes[1] > 1


def test_draws_take_a_part_of_the_memory_of_batches(network, images):
    x, y = torch.from_numpy(images[:4]).float() / 255, torch.zeros(4, dtype=torch.int64)
    sizes = []
    for memory in (8 * 10**6, 40 * 10**6):
        asked = asked_evaluation(network, x, y, 2, [Smoothing(n=200, n0=10)], (0.0, 1.0), 0, 10_000, memory=memory)
        sizes += [asked.problem.batch_sizes["smoothing"], rows_of_passes(network, x, 10_000, memory)]
    assert 1 < sizes[0] < sizes[2] < 10_000
    assert sizes[0] < sizes[1]
    assert sizes[2] < sizes[3]


@pytest.mark.slow
def test_what_does_not_fit_with_one_input_is_refused(network, images):
    x = torch.from_numpy(images).float() / 255
    with pytest.raises(InvalidInput, match=r"memory must be at least 473 KB for the 5 inputs .*, got 20.0 KB"):
        certified(network, x, "20KB")
    with pytest.raises(InvalidInput, match=r"memory must be at least .* for one input of 'attack', got 480 KB"):
        certified(network, x, "480KB")
    with pytest.raises(InvalidInput, match=r"for one input of 'ibp'"):
        certified(network, x, "480KB", methods=[IntervalBounds()])
    with pytest.raises(InvalidInput, match='memory must be a size such as "4GB"'):
        certified(network, x, "4 elephants")


@pytest.mark.slow
def test_a_run_is_continued_with_its_own_batches(network, images, tmp_path):
    x = torch.from_numpy(images).float() / 255
    first = certified(network, x, "20MB", output=tmp_path)
    second = certified(network, x, "20MB", output=tmp_path)
    assert second.records == first.records


@pytest.mark.slow
def test_stored_inputs_give_the_records_of_a_tensor(network, images, tmp_path):
    np.save(tmp_path / "x.npy", images)
    stored = StoredInputs.of_file(tmp_path / "x.npy", divide_by=255)
    one = certified(network, torch.from_numpy(images).float() / 255)
    two = certified(network, stored)
    for left, right in zip(one.records, two.records, strict=True):
        assert {**left, "seconds": 0} == {**right, "seconds": 0}
    assert one.manifest["data_sha256"] == two.manifest["data_sha256"]


@pytest.mark.slow
def test_no_more_than_a_unit_of_stored_inputs_is_read_at_once(network, images):
    asked: list[int] = []

    def read(places: list[int]) -> torch.Tensor:
        asked.append(len(places))
        return torch.from_numpy(images[places]).float() / 255

    certified(network, StoredInputs(read, len(images)), "8MB", batch_size=4)
    assert sum(asked) > 2 * len(images)  # again for each unit, and none kept


def test_inputs_that_change_while_a_run_goes_on_are_noticed(images):
    x = StoredInputs(lambda places: torch.from_numpy(images[places]).float(), len(images))
    assert torch.equal(x[2:4], x[[2, 3]])
    images[3] += 1
    with pytest.raises(InvalidInput, match="row 3 is not what it was before"):
        x[2:4]


@pytest.mark.slow
def test_clean_inputs_are_stored_once(network, images, tmp_path):
    x = torch.from_numpy(images).float() / 255
    y = torch.arange(12) % 5
    methods = [MinimalPerturbation(steps=2, restarts=1, name=name) for name in ("one", "two")]
    kept = certify.evaluate(network, x, y, methods=methods, cross_sections=0, output=tmp_path / "run")
    clean = x.numel() * 4
    assert clean <= (tmp_path / "run/inputs.safetensors").stat().st_size <= clean + 400
    for file in (tmp_path / "run/tensors").iterdir():
        assert file.stat().st_size < 1.2 * clean
    loaded = certify.Evaluation.load(tmp_path / "run")
    for unit, tensors in kept.tensors.items():
        assert loaded.tensors[unit].keys() == tensors.keys()
        assert all(torch.equal(loaded.tensors[unit][name], value) for name, value in tensors.items())
    assert certify.audit(tmp_path / "run", network, x, y, sample=0).refuted == ()


def test_an_edited_clean_input_is_found(network, images, tmp_path):
    x = torch.from_numpy(images).float() / 255
    certified(network, x, output=tmp_path, methods=QUICK[:1])
    file = tmp_path / "inputs.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(InvalidConfiguration, match="inputs that the run stored"):
        certify.Evaluation.load(tmp_path)
    assert any("missing, or not those" in str(finding) for finding in certify.audit(tmp_path, network, x).refuted)


@pytest.mark.parametrize("given", ["4GB", "4 gb", 4 * 10**9, "4000MB"])
def test_sizes_are_read(given):
    assert bytes_of("memory", given) == 4 * 10**9


@pytest.mark.parametrize("given", ["", "GB", "-1GB", "0", 0, 2.5, True, None, "4GBs", "1e9"])
def test_other_sizes_are_refused(given):
    with pytest.raises(InvalidInput, match="memory must be a size"):
        bytes_of("memory", given)
