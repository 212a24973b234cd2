"""The command line as a person uses it: in a process of its own, with its exit codes."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles.commands import certify, records, refusal, write
from safetensors.torch import load_file, save_file

from certify import reference

NETWORK = """
from torch import nn

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.ReLU(), nn.Linear(16, 10))
"""
NOISY = """
import torch

class Noisy(torch.nn.Module):
    def forward(self, x):
        return torch.rand(len(x), 10)

def make():
    return Noisy()
"""


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def make() -> torch.nn.Module:
    namespace: dict = {}
    exec(NETWORK, namespace)
    return namespace["make"]()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder as a user has it: a module with a network, its weights, data, a configuration."""
    torch.manual_seed(0)
    model = make()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "my_network.py").write_text(NETWORK)
    x, _ = reference.images(12)
    y = model(x).argmax(1)
    np.savez(tmp_path / "data.npz", x=(x * 255).round().to(torch.uint8).numpy(), y=y.numpy())
    write(tmp_path, model='build = "my_network:make"\nweights = "weights.safetensors"')
    return tmp_path


def test_help_is_quick_because_it_imports_no_torch(tmp_path: Path):
    code = "import sys\nfrom certify.cli import main\ntry: main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in ("demo", "run", "resume", "report", "check", "doctor"):
        assert command in done.stdout


RUN = {
    "inputs.safetensors",
    "lock",
    "manifest.json",
    "records.jsonl",
    "report.html",
    "curves.png",
    "tensors",
    "cross_sections.json",
}


@pytest.mark.slow
def test_demo_compares_the_four_networks(tmp_path: Path):
    told = certify("demo", "--inputs", 2, "--output", "demo", cwd=tmp_path)
    assert told.count("no certified radius exceeds") == 4
    assert "plain, noise, pgd, ibp on the same 2 inputs" in told
    for network in reference.NETWORKS:
        assert {path.name for path in (tmp_path / "demo" / network).iterdir()} == RUN
    assert {"accuracy_l2.csv", "curves_linf.png"} <= {path.name for path in (tmp_path / "demo").iterdir()}


@pytest.mark.slow
def test_demo_of_one_network_is_one_run(tmp_path: Path):
    told = certify("demo", "--network", "pgd", "--inputs", 2, "--output", "demo", cwd=tmp_path)
    assert "on the same" not in told
    assert {path.name for path in (tmp_path / "demo").iterdir()} == RUN


def test_run_then_report_then_check(project: Path):
    told = certify("run", "config.toml", "--output", "out", cwd=project)
    assert "[6/6] attack/inf/0-12" in told  # smoothing takes two units of ten inputs
    page = (project / "out/report.html").read_bytes()
    (project / "out/report.html").unlink()
    certify("report", "out", cwd=project)
    assert (project / "out/report.html").read_bytes() == page
    certify("check", "out", cwd=project)


@pytest.mark.slow
def test_the_same_network_in_three_forms_gives_the_same_records(project: Path):
    certify("run", "config.toml", "--output", "built", cwd=project)
    model, x = make().eval(), reference.images(3)[0]
    model.load_state_dict(load_file(project / "weights.safetensors"))
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},))
    torch.export.save(exported, project / "model.pt2")
    write(project, model='exported = "model.pt2"')
    certify("run", "config.toml", "--output", "exported", cwd=project)

    def smoothing(folder: str) -> list[dict]:
        return [record for record in records(project / folder) if record["method"] == "smoothing"]

    assert smoothing("built") == smoothing("exported")
    # A graph from torch.export is no nn.Sequential: its intervals are those of its operations, up to the search.
    built, exported = (radii(project / folder) for folder in ("built", "exported"))
    assert built == pytest.approx(exported, rel=5e-3)


def radii(folder: Path) -> list[float]:
    """Certified radii by interval bounds, in the order of the records."""
    found = [record for record in records(folder) if record["method"] == "ibp"]
    return [row["certified_radius"] for record in found for row in record["rows"]]


@pytest.mark.slow
def test_normalisation_belongs_to_the_model(project: Path):
    """Mean and std of the configuration act inside the model: radii keep the units of the input."""
    write(project, model='network = "ibp"', data="count = 3", rest="")
    certify("run", "config.toml", "--output", "plain", cwd=project)
    write(project, model='network = "ibp"\nmean = [0.0]\nstd = [1.0]', data="count = 3")
    certify("run", "config.toml", "--output", "normalised", cwd=project)
    plain, normalised = (radii(project / folder) for folder in ("plain", "normalised"))
    assert len(plain) == 6
    assert plain == pytest.approx(normalised, rel=2e-3)  # the search stops within a thousandth


@pytest.mark.slow
def test_a_terminal_shows_a_bar_with_rate_and_time_left(project: Path):
    told = certify("run", "config.toml", "--output", "out", cwd=project, told=Terminal())
    assert "100%" in told
    assert "[6/6] attack/inf/0-12" in told
    assert " gone, about " in told


@pytest.mark.slow
def test_thresholds_and_contradictions_have_exit_codes(project: Path):
    threshold = '[[require]]\nmethod = "ibp"\nnorm = "inf"\nradius = 0.2\nat_least = 0.5\n'
    write(project, model='network = "ibp"', data="count = 5", rest=threshold)
    told = certify("run", "config.toml", "--output", "out", cwd=project, expect=1)
    assert "missed: ibp in l∞ at radius 0.2 (51/255) certified 0 of 5 inputs (0)" in told
    file = project / "out/records.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    row = next(row for line in lines if line["unit"].startswith("ibp/inf") for row in line["rows"])
    row["certified_radius"], row["status"] = 0.9, "certified"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = certify("check", "out", cwd=project, expect=3)
    assert "contradiction: input 0: ibp certifies 0.9" in told


def test_doctor(project: Path):
    assert "reference network: loads" in certify("doctor", cwd=project)
    told = certify("doctor", "config.toml", cwd=project)
    assert "model: 10 classes, deterministic, 12 of 12 inputs correct" in told
    assert "bounds: every operation has a rule" in told
    assert "aten.linear.default" in told


CASES = {
    "range": (
        {"model": 'network = "ibp"', "data": 'file = "data.npz"'},
        "x must lie in the declared range [0, 1], got values from 0 to 255",
    ),
    "unknown key": (
        {"model": 'network = "ibp"\ncolour = 1'},
        "[model] must have known keys only, got 'colour': known are network, build,",
    ),
    "unknown method": (
        {"model": 'network = "ibp"', "rest": "[methods.smoothing2]\nn = 2"},
        "[methods.smoothing2] must be one of smoothing, ibp, ",
    ),
    "unknown setting": (
        {"model": 'network = "ibp"', "rest": "[methods.crown]\nn = 2"},
        "[methods.crown] must have known keys only, got 'n': known are name, ",
    ),
    "wrong value": (
        {"model": 'network = "ibp"', "data": "count = 0"},
        "[data] count must be a whole number of at least 1, got 0",
    ),
    "no such network": (
        {"model": 'network = "big"'},
        "[model] network must be one of plain, noise, pgd, ibp, or timm:NAME",
    ),
    "no model": ({"model": ""}, "must name exactly one of network, build, exported and onnx, got none"),
    "no such function": ({"model": 'build = "my_network:build"'}, "has no attribute 'build': it defines make"),
    "missing weight": (
        {"model": 'build = "my_network:make"\nweights = "less.safetensors"'},
        "lacks 3.bias",
    ),
    "no weights file": ({"model": 'build = "my_network:make"\nweights = "none.safetensors"'}, "cannot be read"),
    "damaged export": ({"model": 'exported = "data.npz"'}, "cannot be read"),
    "no data file": ({"model": 'network = "ibp"', "data": 'file = "none.npz"'}, "none.npz cannot be read"),
    "channels": (
        {"model": 'network = "ibp"', "data": 'file = "colour.npz"'},
        "does not accept x of shape (5, 3, 28, 28)",
    ),
    "label": ({"model": 'network = "ibp"', "data": 'file = "label.npz"'}, "class indices from 0 to 9, got 10 in row 1"),
    "nan": ({"model": 'network = "ibp"', "data": 'file = "nan.npz"'}, "row 1 holds NaN or infinity"),
    "random model": ({"model": 'build = "random_network:make"'}, "the model draws random numbers"),
    "device": ({"model": 'network = "ibp"', "rest": 'device = "warp"'}, "device 'warp' cannot be used"),
    "meta": ({"model": 'network = "ibp"', "rest": 'device = "meta"'}, "device 'meta' cannot be used"),
    "large seed": ({"model": 'network = "ibp"', "rest": f"seed = {2**63}"}, "seed must be below 2**63"),
    "small seed": ({"model": 'network = "ibp"', "rest": "seed = -1"}, "seed must be a whole number of at least 0"),
    "infinite sigma": (
        {"model": 'network = "ibp"', "rest": "methods.smoothing.sigma = inf"},
        "methods.smoothing.sigma must be a finite number, got inf",
    ),
    "infinite norm": (
        {"model": 'network = "ibp"', "rest": "norms = [2, inf]"},
        'norms must be a finite number, got inf: write infinity as "inf"',
    ),
    "norm below 1": ({"model": 'network = "ibp"', "rest": "norms = [2, 0.5]"}, "norms must be 0 or at least 1, got"),
    "infinite low": ({"model": 'network = "ibp"', "data": "low = -inf"}, "data.low must be a finite number, got -inf"),
    "infinite divisor": ({"model": 'network = "ibp"', "data": "divide_by = inf"}, "data.divide_by must be a finite"),
    "infinite std": ({"model": 'network = "ibp"\nmean = [0.0]\nstd = [inf]'}, "model.std must be a finite number"),
    "mean nan": (
        {"model": 'network = "ibp"\nmean = [nan]\nstd = [1.0]'},
        "model.mean must be a finite number, got nan",
    ),
    "low above high": (
        {"model": 'network = "ibp"', "data": "low = 1.0\nhigh = 0.0"},
        "[data] low must be below high, got low = 1, high = 0",
    ),
    "divided reference": ({"model": 'network = "ibp"', "data": "divide_by = 255"}, "divide_by needs a file"),
    "required radius": (
        {"model": 'network = "ibp"', "require": ("ibp", '"inf"', "nan")},
        "require.radius must be a finite",
    ),
    "required method": (
        {"model": 'network = "ibp"', "require": ("crown", '"inf"', "0.1")},
        "[[require]] method must be one of those of this run, smoothing, ibp, attack, got 'crown'",
    ),
    "required norm": (
        {"model": 'network = "ibp"', "require": ("smoothing", '"inf"', "0.1")},
        "[[require]] norm must be one in which this run has smoothing, 2, got inf",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_in_one_line(case: str, project: Path):
    settings, message = CASES[case]
    x, y = np.zeros((2, 1, 28, 28), np.float32), np.array([0, 10])
    np.savez(project / "label.npz", x=x, y=y)
    np.savez(project / "colour.npz", x=np.zeros((2, 3, 28, 28), np.float32), y=np.array([0, 1]))
    np.savez(project / "nan.npz", x=np.stack([x[0], x[0] * np.nan]), y=np.array([0, 1]))
    weights = {name: value for name, value in load_file(project / "weights.safetensors").items() if name != "3.bias"}
    save_file(weights, project / "less.safetensors")
    (project / "random_network.py").write_text(NOISY)
    file = write(project, model=settings["model"], **{key: settings[key] for key in settings if key == "data"})
    rest, text = settings.get("rest", ""), file.read_text()
    if rest.startswith("norms"):
        text = text.replace('norms = [2, "inf"]', "")
    if rest.startswith("methods"):
        text = text.replace("[methods.smoothing]\nn = 200", "")
    text = f"{text}\n{rest}\n" if rest.startswith("[") else f"{rest}\n{text}"
    if "require" in settings:
        text += "[[require]]\nmethod = {!r}\nnorm = {}\nradius = {}\nat_least = 0.5\n".format(*settings["require"])
    file.write_text(text)
    line = refusal("run", "config.toml", "--output", "out", cwd=project)
    assert message in line
    assert not (project / "out/records.jsonl").exists()


@pytest.mark.slow
def test_another_manifest_an_unwritable_directory_and_wrong_usage(project: Path):
    write(project, model='network = "ibp"', data="count = 2")
    certify("run", "config.toml", "--output", "out", cwd=project)
    stored = (project / "out/records.jsonl").read_bytes()
    write(project, model='network = "ibp"', data="count = 3")
    line = refusal("run", "config.toml", "--output", "out", cwd=project)
    assert "configuration.inputs was 2, now 3" in line
    assert (project / "out/records.jsonl").read_bytes() == stored
    assert "cannot be written" in refusal("run", "config.toml", "--output", "weights.safetensors/out", cwd=project)
    assert "nowhere holds no run: there is no such folder" in refusal("resume", "nowhere", cwd=project)
    assert "Unknown command" in refusal("dance", cwd=project)
    assert "missing.toml cannot be read" in refusal("run", "missing.toml", cwd=project)


def test_an_interrupt_before_the_start_claims_nothing(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("certify.configuration.sources.load_model", raising(KeyboardInterrupt()))
    told = certify("run", "config.toml", "--output", "out", cwd=project, expect=130)
    assert told == "interrupted: nothing is stored yet\n"


def raising(error: BaseException):
    def function(*arguments: object, **options: object):
        raise error

    return function


def test_an_unexpected_error_has_an_exit_code_of_its_own(project: Path, monkeypatch: pytest.MonkeyPatch):
    """It used to end with 1, as a missed threshold does."""
    monkeypatch.setattr("certify.configuration.sources.load_model", raising(RuntimeError("a\nbug")))
    told = certify("run", "config.toml", cwd=project, expect=70)
    assert told == "error: internal error: RuntimeError: a bug (set CERTIFY_TRACEBACK=1 for the traceback)\n"
    monkeypatch.setenv("CERTIFY_TRACEBACK", "1")
    assert "Traceback (most recent call last)" in certify("run", "config.toml", cwd=project, expect=70)


@pytest.mark.parametrize("inputs", [-5, 0, 1001])
def test_demo_refuses_a_number_of_inputs_before_anything_else(inputs: int, tmp_path: Path):
    told = certify("demo", f"--inputs={inputs}", "--output", "out", cwd=tmp_path, expect=2)
    assert told.startswith("error: inputs must be")
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"a = '\xff'", b"a = [", b"a = " + b"[" * 5000, b"\x00"])
def test_what_is_no_toml_is_refused(content: bytes, tmp_path: Path):
    (tmp_path / "config.toml").write_bytes(content)
    assert "configuration config.toml: " in refusal("run", "config.toml", cwd=tmp_path)


@pytest.mark.slow
def test_a_run_goes_on_with_new_thresholds_and_a_moved_data_file(project: Path):
    write(project, model='network = "ibp"')
    np.savez(project / "data.npz", x=(reference.images(2)[0] * 255).round().to(torch.uint8).numpy(), y=[9, 2])
    certify("run", "config.toml", "--output", "out", cwd=project)
    before = records(project / "out")
    (project / "data.npz").rename(project / "moved.npz")
    write(
        project,
        model='network = "ibp"',
        data='file = "moved.npz"\ndivide_by = 255',
        rest='[[require]]\nmethod = "ibp"\nnorm = "inf"\nradius = 0.5\nat_least = 0.5',
    )
    certify("run", "config.toml", "--output", "out", cwd=project, expect=1)
    assert records(project / "out") == before
    assert "missed: ibp in l∞ at radius 0.5" in certify("check", "out", cwd=project, expect=1)
    certify("resume", "out", cwd=project, expect=1)


@pytest.mark.slow
def test_the_verdict_says_how_much_was_compared(project: Path):
    write(project, model='network = "ibp"', data="count = 2")
    told = certify("run", "config.toml", "--output", "out", cwd=project)
    assert "no certified radius exceeds" in told
    assert " comparisons)" in told
    (project / "config.toml").write_text('[model]\nnetwork = "ibp"\n[data]\ncount = 2\n[methods.ibp]\n')
    told = certify("run", "config.toml", "--output", "alone", cwd=project)
    assert "nothing to compare" in told
    assert "no certified radius exceeds" not in told
