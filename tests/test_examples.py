"""Every example runs, at a small size, and its own assertions hold."""

import json
import math
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from oracles.decisions import identity, property_of

EXAMPLES = Path(__file__).parents[1] / "examples"
SHORT = ("certify_your_network.py", "certified_accuracy_curves.py")


def run(name: str, *arguments: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.mark.parametrize("name", SHORT)
def test_an_example_is_read_in_one_sitting(name: str):
    assert len((EXAMPLES / name).read_text().splitlines()) < 60


@pytest.mark.slow
def test_certify_your_network(tmp_path, monkeypatch, capsys):
    run("certify_your_network.py", "--output", tmp_path, monkeypatch=monkeypatch)
    table = capsys.readouterr().out
    assert all(method in table for method in ("smoothing", "ibp", "attack"))
    assert (tmp_path / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_certified_accuracy_curves(tmp_path, monkeypatch, capsys):
    file = tmp_path / "curves.png"
    run("certified_accuracy_curves.py", "--inputs", 20, "--draws", 300, "--output", file, monkeypatch=monkeypatch)
    assert len(capsys.readouterr().out.splitlines()) == 8
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_detection_of_other_inputs(tmp_path, monkeypatch, capsys):
    file = tmp_path / "curves.png"
    arguments = ("--epochs", 1, "--images", 20, "--output", file)
    run("detect_other_inputs.py", *arguments, monkeypatch=monkeypatch)
    assert capsys.readouterr().out.count("proved") == 2
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_counterfactuals(monkeypatch, capsys):
    run("counterfactuals.py", "--epochs", 6, "--rows", 20, monkeypatch=monkeypatch)
    *_, last = capsys.readouterr().out.splitlines()
    assert last.split()[0] == "3"
    assert last.split()[-1] == "0"


@pytest.mark.slow
def test_many_large_inputs(monkeypatch, capsys):
    run("many_large_inputs.py", "--images", 20, "--attacked", 2, monkeypatch=monkeypatch)
    steps = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert steps == ["20", "stopped", "continued", "attack", "page", "audit"]


@pytest.mark.slow
def test_training_for_transformations(monkeypatch, capsys):
    arguments = ("--steps", 10, "--images", 3, "--tolerance", 0.4)
    run("train_transformations.py", *arguments, monkeypatch=monkeypatch)
    assert capsys.readouterr().out.endswith("images both attacked and proved: 0\n")


@pytest.mark.slow
def test_sampling_throughput(monkeypatch, capsys):
    """At toy size, only to see that it runs: a time is never a test."""
    arguments = ("--inputs", 2, "--draws", 100, "--batch", 50, "--runs", 1)
    run("benchmarks/sampling_throughput.py", *arguments, monkeypatch=monkeypatch)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["network"] for line in lines] == ["reference", "resnet20"]
    assert all(line[f"{kind} noise, shared by 100"] > 0 for line in lines for kind in ("float", "grid"))


@pytest.mark.slow
def test_noise_benchmark(monkeypatch, capsys):
    """At toy size, only to see that it runs."""
    run("benchmarks/noise_speed.py", "--inputs", 2, "--draws", 1000, "--runs", 1, monkeypatch=monkeypatch)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["noise"] for line in lines} >= {"gaussian", "laplace", "uniform", "splitting", "discrete"}
    assert all(line["ratio"] > 0 for line in lines)


@pytest.mark.slow
def test_workers_benchmark():
    """At toy size, only to see that it runs, as a program of its own since it starts others."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / "benchmarks/workers.py", "--units", "2", "--draws", "100", "--runs", "1"],
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert line["engine"] == "processes"
    assert line["ratio"] > 0


@pytest.mark.slow
def test_clever_benchmark(monkeypatch, capsys):
    """At toy size, only to see that it runs."""
    arguments = ("--networks", "reference", "--batches", 2, "--size", 8, "--runs", 1)
    run("benchmarks/clever.py", *arguments, monkeypatch=monkeypatch)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["norm"] for line in lines] == ["1", "2", "inf"]
    assert all(line["targeted"] > 0 < line["all_targets"] for line in lines)


@pytest.mark.slow
def test_clever_table(monkeypatch, capsys):
    arguments = ("--networks", "pgd", "--images", 2, "--batches", 4, "--size", 8, "--steps", 20)
    run("clever_table.py", *arguments, monkeypatch=monkeypatch)
    table = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(table) == 6
    assert all(line["certificate"] <= line["witness"] for line in table)


def test_attacks_benchmark(monkeypatch, capsys):
    """At toy size, only to see that it runs."""
    arguments = ("--images", 3, "--norms", "l2", "linf", "--attacks", "deepfool", "superdeepfool")
    run("benchmarks/attacks.py", *arguments, monkeypatch=monkeypatch)
    *table, line = capsys.readouterr().out.splitlines()
    measured = [one for one in json.loads(line)["attacks"] if one["attack"] in ("deepfool", "superdeepfool")]
    assert [(one["norm"], one["attack"]) for one in measured] == [
        ("l2", "deepfool"),
        ("l2", "superdeepfool"),
        ("linf", "deepfool"),
    ]
    assert all(one["success"] == 1 and one["ratio"] >= 1 and one["forward"] > 0 < one["backward"] for one in measured)
    assert len(table) >= 4


@pytest.mark.slow
def test_complete_verification_benchmark(tmp_path, monkeypatch, capsys):
    """At toy size, only to see that it runs; and that a verifier that is always wrong is told to be."""
    identity(tmp_path / "net.onnx")
    (tmp_path / "low.vnnlib").write_text(property_of([(0.0, 1.0)], "(assert (<= Y_0 -1.0))"))
    (tmp_path / "instances.csv").write_text("net.onnx,low.vnnlib,20\n")
    (tmp_path / "expected.csv").write_text("onnx,vnnlib,final\nnet.onnx,low.vnnlib,unsat\n")
    peers = ("--peer", "file=sh -c 'test -f {onnx} && grep -q Y_0 {vnnlib} && echo unsat > {result}'")
    peers += ("--peer", "liar=echo Result: violated within {timeout} s")
    arguments = ("--seconds", 0.2, "--repeats", 1, "--root", tmp_path, *peers)
    run("benchmarks/complete_verification.py", *arguments, monkeypatch=monkeypatch)
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert measured["ratio"] > 0
    told = {line["verifier"]: (line["sat"], line["unsat"], line["wrong"]) for line in measured["benchmarks"]}
    assert told == {"certify": (0, 1, 0), "certify, process": (0, 1, 0), "file": (0, 1, 0), "liar": (1, 0, 1)}


@pytest.mark.slow
def test_linear_bounds_benchmark(monkeypatch, capsys):
    """At toy size, only to see that it runs, with auto_LiRPA or without."""
    few = ("--networks", "sigmoid-tanh MLP", "--methods", "ibp", "crown", "--repeats", 1, "--parts", 8)
    train = ("--training", "sigmoid-tanh MLP", "--batch", 2)
    run("benchmarks/linear_bounds.py", *few, *train, monkeypatch=monkeypatch)
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [one["method"] for one in line["small"]] == ["ibp", "crown"]
    assert all(one["rounding"] > 0 < one["real"] for one in line["small"])
    assert [one["parts"].split()[0] for one in line["parts"]] == ["8", "8", "2", "2"]
    assert all(line["training"][kind] > 0 for kind in ("IBP", "CROWN-IBP", "fused"))


@pytest.mark.slow
def test_large_networks_of_the_benchmark_are_bounded(monkeypatch):
    """The process that measures time and memory, on a thin network."""
    script = runpy.run_path(str(EXAMPLES / "benchmarks/linear_bounds.py"))
    networks = sys.modules["networks_for_bounds"]
    thin = replace(script["LARGE"]["ResNet-18"], make=lambda: networks.resnet18(2))
    monkeypatch.setitem(script["LARGE"], "ResNet-18", thin)
    line = script["one"]("ResNet-18", "crown", "real")
    assert line["passes"] > 0
    assert math.isfinite(line["margin"])
    assert math.isfinite(line["more"])  # a thin network may fit into memory that earlier tests have given back


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not tell the peak of memory")
def test_the_benchmark_measures_the_peak_of_memory():
    script = runpy.run_path(str(EXAMPLES / "benchmarks/linear_bounds.py"))
    before = script["reset_peak"]()
    held = torch.ones(2**25)  # 128 MiB: the allocator asks the system for so much, and gives it back
    del held
    assert 120 < script["peak"]() - before < 160


@pytest.mark.slow
def test_train_smoothed(tmp_path, monkeypatch, capsys):
    file = tmp_path / "curves.png"
    sizes = ("--train-images", 200, "--images", 20, "--epochs", 2, "--draws", 300, "--output", file)
    run("train_smoothed.py", *sizes, monkeypatch=monkeypatch)
    first = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert first == ["recipe", "augmentation", "smoothadv", "consistency", "macer", "average"]
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_train_certified(monkeypatch, capsys):
    run("train_certified.py", "--quick", monkeypatch=monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["plain", "ibp", "crown_ibp"]
    assert all(line.count("[") == 4 for line in lines[2:5])
    assert lines[-1] == "images both attacked and proved: 0"


@pytest.mark.slow
def test_train_robust(tmp_path, monkeypatch, capsys):
    chosen = ["free", "mtl_ibp", "grad_align_large"]
    run("train_robust.py", "--quick", "--method", ",".join(chosen), "--output", tmp_path, monkeypatch=monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    table = next(i for i, line in enumerate(lines) if line.startswith("method "))
    assert [line.split()[0] for line in lines[table + 1 : table + 4]] == chosen
    assert 'id="study-2"' in (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert sum(line.startswith("  one step minus many") for line in lines) == len(chosen)
    assert all((tmp_path / f"{name}.safetensors").exists() for name in chosen)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["plain", "noise", "pgd", "ibp"])
def test_training_of_the_reference_networks_learns(loss: str):
    script = runpy.run_path(str(EXAMPLES / "train_reference.py"))
    y = torch.arange(512) % 2
    x = torch.zeros(512, 1, 28, 28)
    x[y == 1, :, :, 14:] = 1.0  # two classes that differ in half of the image
    x += 0.05 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    model = script["train"](script[loss], 5, x.clamp(0, 1), y, batch=32)
    assert script["measure"](model, x.clamp(0, 1), y)["clean"] > 0.95


@pytest.mark.slow
def test_noise_crossings_benchmark(monkeypatch, capsys):
    """At toy size, only to see that it runs."""
    arguments = ("--inputs", 1, "--lines", 20, "--batch", 100, "--runs", 1)
    run("benchmarks/noise_crossings.py", *arguments, monkeypatch=monkeypatch)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["network"] for line in lines] == ["reference", "wide"]
    assert all(line["ratio"] > 0 for line in lines)


@pytest.mark.slow
def test_noise_and_geometry(tmp_path, monkeypatch, capsys):
    file = tmp_path / "figure.png"
    run("noise_and_geometry.py", "--quick", "--output", file, monkeypatch=monkeypatch)
    printed = capsys.readouterr().out
    assert printed.count("effective dimension") == 3
    assert printed.count("pgd over plain") == 4
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.combinations
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_surveys(tmp_path, monkeypatch, capsys):
    """Every claim gets a verdict; the page holds the table and the picture."""
    file = tmp_path / "page.html"
    run("surveys.py", "--quick", "--output", file, monkeypatch=monkeypatch)
    printed = capsys.readouterr().out
    verdicts = [printed.count(f" {verdict} ") for verdict in ("holds", "does not hold", "undecided")]
    assert sum(verdicts) >= 40
    page = file.read_text()
    assert page.count("<tr") >= 41
    assert "data:image/png;base64" in page


@pytest.mark.slow
def test_pruning_study(tmp_path, monkeypatch, capsys):
    file = tmp_path / "figure.png"
    run("pruning_study.py", "--quick", "--output", file, monkeypatch=monkeypatch)
    printed = capsys.readouterr().out
    assert [printed.count(kind) for kind in ("clean", "attacked", "certified")] == [2, 2, 2]
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.combinations
@pytest.mark.slow
def test_latent_space(tmp_path, monkeypatch, capsys):
    file = tmp_path / "figure.png"
    run("latent_space.py", "--quick", "--output", file, monkeypatch=monkeypatch)
    printed = capsys.readouterr().out
    assert [printed.count(f"{kind} ") for kind in ("clean", "noise", "attacked", "certified")] == [1, 2, 3, 3]
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_noise_law():
    """The example shows what it is for: the law holds for small networks whose boundaries are not flat."""
    script = runpy.run_path(str(EXAMPLES / "noise_law.py"))
    for features in (20, 80, 320):
        found = script["small_test"](features, 24, 120)
        assert found.law_holds
        assert not found.boundary_is_flat
