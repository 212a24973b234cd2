"""Exported models: good files are read, and no file runs code of its own, whatever it carries."""

import contextlib
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from bounds import InvalidConfiguration
from certify.configuration.config import ModelSource
from certify.configuration.models.exported import load_exported
from certify.configuration.sources import load_model


class Touch:
    """A pickled thing that makes a file when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3)).eval()
    batch = ({0: torch.export.Dim("batch", min=1, max=4096)},)
    file = tmp_path_factory.mktemp("exported") / "good.pt2"
    torch.export.save(torch.export.export(model, (torch.rand(3, 1, 5, 5),), dynamic_shapes=batch), file)
    torch.save(model.state_dict(), file.with_suffix(".weights"))
    return file


def changed(good: Path, target: Path, change: Callable[[str, bytes], bytes], extra: dict[str, bytes]) -> Path:
    """A copy of an archive with other contents."""
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(target, "w") as new:
        for part in old.infolist():
            new.writestr(part.filename.replace("good/", f"{target.stem}/"), change(part.filename, old.read(part)))
        for name, content in extra.items():
            new.writestr(f"{target.stem}/{name}", content)
    return target


def replaced(key: str, value: object) -> Callable[[str, bytes], bytes]:
    """A change of every value of a key in the description of the graph."""

    def walk(found: object) -> object:
        if isinstance(found, dict):
            return {name: value if name == key else walk(inner) for name, inner in found.items()}
        return [walk(inner) for inner in found] if isinstance(found, list) else found

    return lambda name, content: (
        json.dumps(walk(json.loads(content))).encode() if name.endswith("model.json") else content
    )


def test_a_good_file_is_read(good: Path):
    model = load_exported(str(good))
    x = torch.rand(7, 1, 5, 5, generator=torch.Generator().manual_seed(1))
    state = torch.load(good.with_suffix(".weights"), weights_only=True)
    plain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3)).eval()
    plain.load_state_dict(state)
    assert torch.equal(model(x), plain(x))


@pytest.mark.parametrize("forced", [None, "1"])
@pytest.mark.parametrize("kind", ["sample inputs", "opaque", "size", "guard", "name", "library", "pickle"])
def test_no_file_runs_code(kind: str, forced: str | None, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file that makes a folder when its code runs is refused, and the folder is not there."""
    marker, file = tmp_path / "marker", tmp_path / "bad.pt2"
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", forced)
    hostile, call = pickle.dumps(Touch(marker)), f"__import__('os').mkdir({str(marker)!r})"
    same = lambda name, content: content  # noqa: E731
    if kind == "pickle":
        torch.save(Touch(marker), file)
    elif kind == "sample inputs":
        torch.save(Touch(marker), tmp_path / "inputs.pt")
        inputs = (tmp_path / "inputs.pt").read_bytes()
        changed(good, file, lambda name, content: inputs if "sample_inputs" in name else content, {})
    elif kind in ("opaque", "library"):
        name = "data/constants/opaque_obj_0" if kind == "opaque" else "data/aotinductor/model/model.so"
        changed(good, file, same, {name: hostile})
    elif kind == "size":
        changed(good, file, replaced("expr_str", call), {})
    elif kind == "guard":
        changed(good, file, replaced("guards_code", [f"{call} is None"]), {})
    else:
        changed(good, file, replaced("name", f"x, y={call}"), {})
    with pytest.raises(InvalidConfiguration, match=r"exported model .*bad\.pt2 (must hold|cannot be read)") as caught:
        load_model(ModelSource(exported=str(file)))
    assert "\n" not in str(caught.value)
    assert not marker.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    assert os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD") == forced


def test_the_hostile_sample_inputs_would_run(good: Path, tmp_path: Path):
    """The twin of the test above: with what torch does by itself, the folder is made."""
    marker, file = tmp_path / "marker", tmp_path / "bad.pt2"
    torch.save(Touch(marker), tmp_path / "inputs.pt")
    inputs = (tmp_path / "inputs.pt").read_bytes()
    changed(good, file, lambda name, content: inputs if "sample_inputs" in name else content, {})
    with contextlib.suppress(Exception):  # whatever it makes of it afterwards
        torch.export.load(file)
    assert marker.exists()


@pytest.mark.parametrize("kind", ["weights", "text", "none", "folder"])
def test_what_is_no_exported_model_is_refused_in_one_line(
    kind: str, good: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    file = tmp_path / "model.pt2"
    if kind == "weights":
        shutil.copy(good.with_suffix(".weights"), file)
    elif kind == "text":
        file.write_text("no archive")
    elif kind == "folder":
        file.mkdir()
    with pytest.raises(InvalidConfiguration, match=r"model\.pt2 cannot be read: .*: write it with torch\.export\.save"):
        load_exported(str(file))
    assert not caplog.records
