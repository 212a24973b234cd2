"""The program on terminals of all kinds, and where a run has little to show: an exit code and a line, no traceback."""

import io
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles.commands import certify, start

NETWORK = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval()

def unsupported():
    from oracles.unbounded import LogGamma

    return nn.Sequential(make(), LogGamma()).eval()
"""
CONFIG = {
    **{"norms": [2, "inf"], "seed": 3, "batch_size": 7, "device": "cpu"},
    **{"model": {"build": "tiny_network:make"}, "data": {"file": "data.npz", "low": 0.0, "high": 1.0}},
    "methods": {
        "smoothing": {"n": 50, "n0": 5, "sigma": 0.3},
        "ibp": {"tolerance": 0.1},
        "clever": {"num_batches": 2, "batch_size": 4},
        "attack": {"steps": 2, "restarts": 1},
    },
    "require": [{"method": "ibp", "norm": "inf", "radius": 0.0, "at_least": 0.4}],
}

SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.combinations) for seed in (1, 2))]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a tiny network and data; one label is wrong."""
    (tmp_path / "tiny_network.py").write_text(NETWORK)
    x = torch.rand(6, 4, generator=torch.Generator().manual_seed(1))
    np.savez(tmp_path / "data.npz", x=x.numpy(), y=np.array([1, 0, 0, 0, 0, 0]))
    write(tmp_path, CONFIG)
    return tmp_path


def write(folder: Path, settings: dict) -> None:
    (folder / "config.toml").write_text("\n".join(f"{json.dumps(key)} = {toml(settings[key])}" for key in settings))


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value) if isinstance(value, bool | str) else repr(value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "function", "reason"),
    [("clever", "make", "gave estimates, which bound"), ("ibp", "unsupported", "cannot treat a layer of the model")],
)
def test_a_run_without_curves_ends_well(method: str, function: str, reason: str, project: Path):
    """It computed everything, and failed at the figure."""
    chosen = {method: CONFIG["methods"][method]}
    write(project, {**CONFIG, "model": {"build": f"tiny_network:{function}"}, "methods": chosen, "require": []})
    told = certify("run", "config.toml", "--output", "out", cwd=project)
    assert f"no curves: {method} {reason}" in told
    assert "curves.png" not in told
    assert not (project / "out/curves.png").exists()
    assert f"There is no curve to draw: {method} {reason}" in (project / "out/report.html").read_text("utf-8")
    certify("report", "out", cwd=project)


class Narrow(io.TextIOWrapper):
    """A stream of an encoding that lacks most characters."""

    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding=encoding)

    def getvalue(self) -> str:
        """The text that was written, in its own encoding."""
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


@pytest.mark.parametrize(
    "encoding", ["cp1252", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ascii", "utf-8"))]
)
def test_what_an_encoding_lacks_is_spelled_out(encoding: str, project: Path):
    infinity = "∞" if encoding == "utf-8" else "inf"
    required = [{"method": "ibp", "norm": "inf", "radius": 0.9, "at_least": 0.5}]
    write(project, {**CONFIG, "methods": {"ibp": {"tolerance": 0.1}}, "require": required})
    told = certify("run", "config.toml", "--output", "out", cwd=project, expect=1, told=Narrow(encoding))
    assert f"missed: ibp in l{infinity} at radius 0.9" in told
    write(project, {**CONFIG, "data": {"file": "mäßig→∞.npz"}})
    told = certify("run", "config.toml", cwd=project, expect=2, told=Narrow(encoding))
    assert f"{infinity}.npz cannot be read" in told
    certify("--help", cwd=project, told=Narrow(encoding))


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.02, 0.1, 0.3, 0.6, 1.0, 2.0])
def test_an_interrupt_in_the_first_seconds_is_told_in_one_line(after: float, project: Path):
    """Imports of torch and numpy turn it into errors of their own."""
    process = start("run", "config.toml", "--output", "out", cwd=project)
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    if process.returncode == -signal.SIGINT or ("cli.py" not in told and "Traceback" in told):
        pytest.skip("the interrupt came before the program began")
    assert process.returncode in (0, 130)
    assert "Traceback" not in told
    assert process.returncode == 0 or told.splitlines()[-1].startswith("interrupted")


def test_an_interrupt_that_became_another_error_is_still_one(project: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*arguments: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("numpy._core.multiarray failed to import") from error

    monkeypatch.setattr("certify.configuration.sources.load_model", fail)
    assert certify("run", "config.toml", cwd=project, expect=130) == "interrupted\n"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no pipes of that kind")
def test_output_that_nobody_reads_is_no_error(project: Path):
    certify("run", "config.toml", "--output", "out", cwd=project)
    command = [sys.executable, "-m", "certify", "check", "out"]
    with subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait(timeout=60)) == ("", 141)


# Whatever stands in the files


VALUES = [True, False, 0, 1, -1, 2, 0.5, -0.0, 1e308, 1e-320, 2**63 - 1, 2**64, 10**30, "", "inf", "nan", "x", "\x00"]
VALUES += ["2", "∞", "../x", [], [1], ["a"], {}, {"a": 1}, [[1]]]


def places(value: object, path: tuple = ()) -> Iterator[tuple]:
    """All places in nested mappings and lists."""
    if path:
        yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def mutated(value: object, generator: random.Random, also: list) -> object:
    """A copy with one or two things removed, doubled, renamed or replaced."""
    value = json.loads(json.dumps(value))
    for _ in range(generator.choice([1, 1, 2])):
        *path, last = generator.choice(list(places(value)) or [(None,)])
        if last is None:
            return value
        inner = value
        for key in path:
            inner = inner[key]
        action = generator.random()
        if action < 0.2:
            del inner[last]
        elif action < 0.3 and isinstance(inner, dict):
            inner["unknown"] = inner[last]
        elif action < 0.35 and isinstance(inner, list):
            inner.append(inner[last])
        elif action < 0.5 and isinstance(inner[last], int | float):
            inner[last] = generator.choice([-inner[last], inner[last] * 2, inner[last] + 1])
        else:
            inner[last] = generator.choice([*VALUES, *also])
    return value


def outcome(*arguments: object, folder: Path, monkeypatch: pytest.MonkeyPatch, about: object) -> int:
    """The exit code of a command, one of those that are promised, with one line where it is 2."""
    from certify.cli import _exit_code

    out, told = io.StringIO(), io.StringIO()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", told)
    code = _exit_code([str(argument) for argument in arguments])
    errors = [line for line in told.getvalue().splitlines() if line.startswith("error")]
    assert code in (0, 1, 2, 3), (about, told.getvalue())
    assert len(errors) == (code == 2), (about, told.getvalue())
    return code


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and not drawn, which takes most of the time."""
    monkeypatch.setattr("certify.report.page.svg", lambda *figure: "")
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *arguments, **options: None)


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("seed", SEEDS)
def test_any_configuration_has_a_promised_outcome(seed: int, project: Path, monkeypatch: pytest.MonkeyPatch):
    generator, codes = random.Random(seed), set()
    for i in range(40):
        settings = mutated(CONFIG, generator, [])
        large = [key for key in ("n", "n0", "steps", "restarts", "num_batches", "batch_size") if key in str(settings)]
        if large and any(value >= 2**31 for value in numbers(settings.get("methods"))):
            continue  # asks for years of work, and gets them
        write(project, settings)
        codes.add(
            outcome(
                "run", "config.toml", "--output", f"out{i}", folder=project, monkeypatch=monkeypatch, about=settings
            )
        )
    assert {0, 2} <= codes


def numbers(value: object) -> list[float]:
    """All numbers anywhere in a value."""
    if isinstance(value, dict | list):
        return [number for inner in (value.values() if isinstance(value, dict) else value) for number in numbers(inner)]
    return [value] if isinstance(value, int | float) else []


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("part", ["records", "manifest", "bytes"])
def test_any_run_directory_has_a_promised_outcome(part: str, seed: int, project: Path, monkeypatch: pytest.MonkeyPatch):
    certify("run", "config.toml", "--output", "out", cwd=project)
    out, generator = project / "out", random.Random(seed)
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.name != "lock")
    stored = {path: path.read_bytes() for path in files}
    lines = [json.loads(line) for line in stored[out / "records.jsonl"].splitlines()]
    for _ in range(12):
        for path, content in stored.items():
            path.write_bytes(content)
        if part == "records":
            chosen = list(lines)
            chosen[generator.randrange(len(lines))] = about = mutated(generator.choice(lines), generator, [1.5, None])
            text = "".join(json.dumps(line) + "\n" for line in chosen[: generator.randrange(1, 2 * len(lines))])
            (out / "records.jsonl").write_text(text)
        elif part == "manifest":
            about = mutated(json.loads(stored[out / "manifest.json"]), generator, [None])
            (out / "manifest.json").write_text(json.dumps(about))
            (out / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:3]))
        else:
            about = path = generator.choice([path for path in files if stored[path]])
            content, i = stored[path], generator.randrange(len(stored[path]))
            path.write_bytes(
                content[:i] + generator.choice([b"", b"\x00", content[i + 1 :], b"\xff" + content[i + 1 :]])
            )
        for command in ("check", "report", "resume"):
            outcome(command, "out", folder=project, monkeypatch=monkeypatch, about=(command, about))


DAMAGES = {
    "no radius": ("certificate", lambda row: row.pop("certified_radius")),
    "no alpha": ("certificate", lambda row: row.pop("alpha")),
    "alpha is one": ("certificate", lambda row: row.update(alpha=1.0)),
    "negative radius": ("certificate", lambda row: row.update(certified_radius=-1.0)),
    "no reach": ("estimate", lambda row: row.pop("reach")),
    "no distance": ("witness", lambda row: row.pop("attack_distance", row.update(status="found"))),
    "norm of a distance": ("witness", lambda row: row.update(distances={"nan": 0.1})),
    "status": ("certificate", lambda row: row.update(status="<script>")),
    "reason": ("certificate", lambda row: row.update(reason=3)),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny_network.py").write_text(NETWORK)
    x = torch.rand(6, 4, generator=torch.Generator().manual_seed(1))
    np.savez(folder / "data.npz", x=x.numpy(), y=np.array([1, 0, 0, 0, 0, 0]))
    write(folder, CONFIG)
    certify("run", "config.toml", "--output", "out", cwd=folder)
    return folder


@pytest.mark.parametrize("damage", [*DAMAGES, "kind", "unit", "norm", "row dropped", "manifest alpha", "requirement"])
def test_an_edited_run_is_refused_in_one_line(damage: str, finished: Path):
    records, manifest = finished / "out/records.jsonl", finished / "out/manifest.json"
    before = records.read_bytes(), manifest.read_bytes()
    lines = [json.loads(line) for line in before[0].splitlines()]
    witness = next(line for line in lines if line["kind"] == "witness")
    if damage in DAMAGES:
        kind, change = DAMAGES[damage]
        change(next(row for line in lines if line["kind"] == kind for row in line["rows"]))
    elif damage in ("manifest alpha", "requirement"):
        edited = json.loads(before[1])
        if damage == "requirement":
            edited["source"]["require"][0]["norm"] = "nan"
        else:
            edited["configuration"]["methods"]["smoothing"]["alpha"] = 0.01
        manifest.write_text(json.dumps(edited))
        lines = lines[:2]
    elif damage == "row dropped":
        del witness["rows"][1]
    else:
        lines[0] |= {"kind": {"kind": "witness"}, "unit": {"unit": "ibp\x00/2/0-6"}, "norm": {"norm": "nan"}}[damage]
    try:
        records.write_text("".join(json.dumps(line) + "\n" for line in lines))
        for command in ("check", "report", "resume"):
            *more, last = certify(command, "out", cwd=finished, expect=2).splitlines()
            assert last.startswith("error: ")
            assert [line for line in more if not line.startswith("certifying ")] == []
    finally:
        records.write_bytes(before[0])
        manifest.write_bytes(before[1])
