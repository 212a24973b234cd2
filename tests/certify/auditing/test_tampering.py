"""Every way to tamper with a run that was thought of: check or audit find it, but for three that change nothing.

Most are tried twice: by somebody who edits files, and by somebody who also links all lines anew, so that the hash chain
is whole and only what the lines say can give them away.
"""

import contextlib
import io
import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from oracles.audited_runs import Tampered, copy_of, make_run
from safetensors.torch import load_file, save_file

from certify.auditing.audit import audit
from certify.auditing.certificates.proofs import ROUNDED
from certify.auditing.smoothed.redrawing import AGAIN
from certify.cli import _exit_code
from certify.smoothing.drawing.bits import DRAWS_VERSION

Edit = Callable[[Tampered], None]
FAR = {"attack_distance": 9.9, "distances": {"2": 9.9, "inf": 9.9}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("audited"))


def command(*arguments: object) -> tuple[int, str]:
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        code = _exit_code([str(argument) for argument in arguments])
    return code, told.getvalue()


def setting(method: str, key: str, value: object) -> Edit:
    def edit(run: Tampered) -> None:
        run.manifest["configuration"]["methods"][method][key] = value

    return edit


def manifest(key: str, value: object) -> Edit:
    def edit(run: Tampered) -> None:
        run.manifest[key] = value

    return edit


def configuration(key: str, value: object) -> Edit:
    def edit(run: Tampered) -> None:
        run.manifest["configuration"][key] = value

    return edit


def row(method: str, change: Callable[[dict], object], norm: str = "2", **wanted: object) -> Edit:
    def edit(run: Tampered) -> None:
        change(run.row(method, norm, **wanted))

    return edit


def line(method: str, change: Callable[[dict], object], norm: str = "2") -> Edit:
    def edit(run: Tampered) -> None:
        change(run.line(method, norm))

    return edit


def larger(factor: float) -> Callable[[dict], object]:
    return lambda row: row.update(certified_radius=factor * row["certified_radius"])


def next_class(row: dict) -> None:
    row["prediction"] = (row["prediction"] + 1) % 3


def votes_moved(row: dict) -> None:
    label = row["prediction"]
    other = (label + 1) % len(row["counts"])
    row["counts"][label] -= 200
    row["counts"][other] += 200


def front_line_changed(run: Tampered) -> None:
    first = deepcopy(run.line("ibp"))
    first["rows"][0]["certified_radius"] *= 1.2
    run.lines.insert(0, first)


def renamed(record: dict) -> None:
    record["unit"] = record["unit"].replace("ibp/2/", "ibp/2/1")


def foreign(run: Tampered) -> None:
    extra = deepcopy(run.line("ibp"))
    extra["unit"] = "ibp/2/100-112"
    run.lines.append(extra)


def witness_is_clean(run: Tampered) -> None:
    def change(tensors: dict) -> None:
        tensors["adversarial"] = tensors["clean"].clone()

    run.replace_tensors("attack", change)


def tensors_swapped(run: Tampered) -> None:
    def change(tensors: dict) -> None:
        tensors["adversarial"] = tensors["adversarial"].flip(0)

    run.replace_tensors("attack", change)


def clean_moved(run: Tampered) -> None:
    def change(tensors: dict) -> None:
        tensors["clean"] = tensors["clean"] + 0.25 * (tensors["adversarial"] - tensors["clean"])

    run.replace_tensors("attack", change)


def method_renamed(run: Tampered) -> None:
    methods = run.manifest["configuration"]["methods"]
    methods["crown_ibp"] = methods.pop("crown")


def line_removed_and_units_lowered(run: Tampered) -> None:
    run.lines.remove(run.line("crown", "inf"))
    run.manifest["configuration"]["units"] -= 1


def without_hashes(run: Tampered) -> None:
    run.line("attack").pop("tensors_sha256")


def nothing(run: Tampered) -> None:
    pass


def torch_version(run: Tampered) -> None:
    run.manifest["versions"]["torch"] = "2.6.0"


# By name: what is edited in manifest and lines. Those in CHAIN_ALONE leave statements that hold, of the same model and
# data: only the chain, or a file beside it, tells.
EDITS: dict[str, Edit] = {
    "alpha in the manifest": setting("smoothing", "alpha", 0.01),
    "sigma in the manifest": setting("smoothing", "sigma", 0.5),
    "seed in the manifest": manifest("seed", 1),
    "votes for the label moved": row("smoothing", votes_moved, status="certified"),
    "votes above the draws": row("smoothing", lambda row: row["counts"].__setitem__(row["prediction"], 10**6)),
    "p_lower raised": row("smoothing", lambda row: row.update(p_lower=0.999, p_upper=0.001), status="certified"),
    "radius of smoothing": row("smoothing", lambda row: row.update(certified_radius=2.5), status="certified"),
    "radius of ibp": row("ibp", larger(1.5), status="certified"),
    "radius of crown": row("crown", larger(1.2), status="certified"),
    "negative radius": row("ibp", lambda row: row.update(certified_radius=-0.1)),
    "alpha of rows": line("smoothing", lambda record: [row.update(alpha=0.0) for row in record["rows"]]),
    "misclassified to certified": row("ibp", lambda row: row.update(status="certified"), status="misclassified"),
    "certified to abstained": row("smoothing", lambda row: row.update(status="abstained"), status="certified"),
    "a changed line in front": front_line_changed,
    "unit renamed": line("ibp", renamed),
    "foreign unit": foreign,
    "indices all 0": line("ibp", lambda record: [row.update(index=0) for row in record["rows"]]),
    "row dropped": line("ibp", lambda record: record["rows"].pop()),
    "label edited": row("ibp", lambda row: row.update(label=(row["label"] + 1) % 3)),
    "base prediction edited": row("ibp", lambda row: row.update(base_prediction=(row["base_prediction"] + 1) % 3)),
    "distances of an attack": row("attack", lambda row: row.update(FAR), status="found"),
    "witness is the clean input": witness_is_clean,
    "hash of tensors dropped": without_hashes,
    "distances dropped": row("attack", lambda row: row.pop("distances"), status="found"),
    "status is markup": row("ibp", lambda row: row.update(status="<script>alert(1)</script>")),
    "a line removed and the number of units lowered": line_removed_and_units_lowered,
    "method renamed": method_renamed,
    "hash of the data": manifest("data_sha256", "0" * 64),
    "hash of the weights": manifest("weights_sha256", "0" * 64),
    "torch version": torch_version,
    "box": configuration("high", 2.0),
    "witnesses swapped": tensors_swapped,
    "clean inputs moved": clean_moved,
    "radius not a number": row("ibp", lambda row: row.update(certified_radius=None)),
    "kind changed": line("ibp", lambda record: record.update(kind="witness")),
    "norm of a record": line("ibp", lambda record: record.update(norm="1")),
    "norm not a number": line("ibp", lambda record: record.update(norm="nan")),
    "negative index": row("ibp", lambda row: row.update(index=-1)),
    "control character in a name": line("ibp", lambda record: record.update(unit="ibp/2/0-12\x00")),
    "radius above a witness": row("ibp", lambda row: row.update(certified_radius=5.0), status="certified"),
    "subject of a certificate": row("smoothing", lambda row: row.update(subject="base"), status="certified"),
    "label of smoothing": row("smoothing", next_class, status="certified"),
    "group edited": row("ibp", lambda row: row.update(group=(row["group"] + 1) % 3)),
    "promise of a record": line("ibp", lambda record: record["promise"].update(alpha=0.5)),
}  # fmt: skip
CHAIN_ALONE = {"torch version"}


def weights_on_disk(run: Tampered) -> None:
    file = run.path.parent / "w.safetensors"
    weights = load_file(file)
    weights["last.bias"] += 0.01
    save_file(weights, file)


def data_on_disk(run: Tampered, name: str = "x") -> None:
    file = run.path.parent / "data.npz"
    arrays = dict(np.load(file))
    arrays[name].flat[0] = (int(arrays[name].flat[0]) + 1) % 3
    np.savez(file, **arrays)


def code_on_disk(run: Tampered, change: str = "-x") -> None:
    file = run.path.parent / "audited_net.py"
    file.write_text(file.read_text().replace("self.first(x)", f"self.first({change})"))


def code_where_no_data_lie(run: Tampered) -> None:
    code_on_disk(run, "torch.where(x > 7, -x, x)")


def report_replaced(run: Tampered) -> None:
    (run.path / "report.html").write_text("<p>all is well</p>")


def line_doubled(run: Tampered) -> None:
    file = run.path / "records.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines, lines[0]]))


def order_reversed(run: Tampered) -> None:
    file = run.path / "records.jsonl"
    file.write_bytes(b"".join(reversed(file.read_bytes().splitlines(keepends=True))))


def middle_line_damaged(run: Tampered) -> None:
    file = run.path / "records.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], lines[1][:40] + b"\n", *lines[2:]]))


ON_DISK: dict[str, Edit] = {
    "weights changed": weights_on_disk,
    "data changed": data_on_disk,
    "one label changed": lambda run: data_on_disk(run, "y"),
    "code changed": code_on_disk,
    "code changed where no data lie": code_where_no_data_lie,
    "a damaged line in the middle": middle_line_damaged,
    "empty manifest": lambda run: (run.path / "manifest.json").write_text(""),
    "emptied tensors": lambda run: run.tensors("attack").write_bytes(b""),
    "tensors gone": lambda run: run.tensors("attack").unlink(),
}
HARMLESS: dict[str, Edit] = {
    "report replaced": report_replaced,
    "a line doubled": line_doubled,
    "order reversed": order_reversed,
}


@pytest.mark.slow
def test_the_run_itself_holds(run: Path, tmp_path: Path):
    """The twin of the tests below: with nothing edited, and with new links, nothing is refuted."""
    tampered = copy_of(run, tmp_path)
    for relink in (False, True):
        tampered.write(relink=relink)
        assert command("check", tampered.path)[0] == 0
        code, told = command("audit", tampered.path, "--sample", 1, "--format", "json")
        found = json.loads(told)
        assert (code, found["refuted"], found["chained"]) == (0, [], True)
        assert {finding["reason"] for finding in found["unjudged"]} <= {ROUNDED}
        assert {name for name, count in found["counts"].items() if count["confirmed"]} >= {
            *("hash chain", "units", "inputs and labels", "statuses", "model, data and settings", "votes of smoothing"),
            *("probabilities of smoothing", "radii of smoothing", "distances of witnesses", "classes of witnesses"),
            *("votes drawn again", "proofs of bounds by intervals", "methods run again"),
        }


@pytest.mark.slow
def test_draws_of_another_version_are_not_judged(run: Path, tmp_path: Path):
    """Neither confirmed nor refuted, with the reason; a record and its run that disagree are refuted."""
    tampered = copy_of(run, tmp_path)
    del tampered.manifest["draws_version"]
    tampered.write(relink=True)
    found = audit(tampered.path, sample=1.0)
    reasons = {finding.reason for finding in found.unjudged if finding.check == AGAIN}
    assert reasons == {f"its noise is of version 1, and this release draws version {DRAWS_VERSION} alone"}
    assert AGAIN not in found.confirmed
    other = copy_of(run, tmp_path / "other")
    line("smoothing", lambda record: record["drawing"].update(draws_version=1))(other)
    other.write(relink=True)
    refuted = [finding.reason for finding in audit(other.path, sample=0.0).refuted]
    assert refuted == [f"its draws are of version 1, those of its run of version {DRAWS_VERSION}"]


def test_there_are_as_many_as_were_measured():
    assert len(EDITS) + len(ON_DISK) + len(HARMLESS) >= 53


@pytest.mark.parametrize("name", EDITS)
def test_edits_are_found(name: str, run: Path, tmp_path: Path):
    tampered = copy_of(run, tmp_path)
    EDITS[name](tampered)
    tampered.write()
    code, told = command("check", tampered.path)
    assert code in (2, 3), told
    assert "internal error" not in told


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(EDITS.keys() - CHAIN_ALONE))
def test_edits_are_found_though_all_lines_are_linked_anew(name: str, run: Path, tmp_path: Path):
    tampered = copy_of(run, tmp_path)
    EDITS[name](tampered)
    tampered.write(relink=True)
    code, told = command("check", tampered.path)
    if code == 0:  # what no record tells, model and data do
        code, told = command("audit", tampered.path, "--sample", 1)
    assert code in (2, 3), told
    assert "its line was changed" not in told


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_DISK)
def test_changes_on_disk_are_found(name: str, run: Path, tmp_path: Path):
    tampered = copy_of(run, tmp_path)
    tampered.write()
    ON_DISK[name](tampered)
    code, told = command("audit", tampered.path)
    assert code in (2, 3), told


@pytest.mark.slow
@pytest.mark.parametrize("name", HARMLESS)
def test_what_changes_nothing_is_not_refuted(name: str, run: Path, tmp_path: Path):
    tampered = copy_of(run, tmp_path)
    tampered.write()
    HARMLESS[name](tampered)
    assert command("check", tampered.path)[0] == 0
    assert command("audit", tampered.path)[0] == 0
