"""``certify verify`` and ``certify supports``: one query, a benchmark that continues, and what refuses it."""

import csv
import gzip
import subprocess
import sys
import time
from pathlib import Path

import pytest
from oracles.commands import certify, refusal
from oracles.decisions import UNKNOWN, Linear, identity, pretend, property_of
from oracles.modules import ROOT

from bounds.search.problem import SearchResult
from certify.command_line.properties import benchmark
from certify.command_line.properties.verifying import Answering, supports

HEAD = "(declare-network N (declare-input X float32 [1,1]) (declare-output Y float32 [1,1])) (assert (<= 0 X[0,0] 1))"


def write_csv(path: Path, *rows: tuple[object, ...]) -> Path:
    path.write_text("".join(f"{','.join(map(str, row))}\n" for row in rows))
    return path


def stored(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def queries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``y = x`` with three properties, one of them compressed; what the attack leaves open is "unsat"."""
    pretend(monkeypatch, SearchResult("proved", domains=4, decided_by="input splits"))
    identity(tmp_path / "net.onnx")
    for name, threshold in (("a", 0.5), ("b", 1.5), ("c", 0.25)):
        text = property_of([(0.0, 1.0)], f"(assert (>= Y_0 {threshold}))")
        (tmp_path / f"{name}.vnnlib").write_text(text)
    (tmp_path / "c.vnnlib.gz").write_bytes(gzip.compress((tmp_path / "c.vnnlib").read_bytes()))
    (tmp_path / "c.vnnlib").unlink()
    return tmp_path


# ----------------------------------------------------------------------------------------------------------- one query


def test_the_verdict_is_the_first_line_and_the_file_holds_a_witness(queries: Path):
    told = certify("verify", "net.onnx", "a.vnnlib", "--timeout", 60, "--output", "out.txt", cwd=queries)
    assert told.splitlines()[0] == "sat"
    first, x, y = (queries / "out.txt").read_text().splitlines()
    assert (first, x[:6], y[:6]) == ("sat", "((X_0 ", " (Y_0 ")
    assert x[6:-1] == y[6:-2]
    assert float(x[6:-1]) >= 0.5
    told = certify("verify", "net.onnx", "b.vnnlib", "--output", "out.txt", cwd=queries)
    assert told.splitlines()[0] == "unsat"
    assert "4 sub-problems, by input splits" in told
    assert (queries / "out.txt").read_text() == "unsat\n"
    assert certify("verify", "net.onnx", "c.vnnlib.gz", cwd=queries).startswith("sat\n")


def test_a_query_of_version_2_names_its_network(queries: Path):
    (queries / "query.vnnlib").write_text(f"{HEAD} (assert (>= Y[0,0] 1))")
    assert certify("verify", "query.vnnlib", "--network", "N=net.onnx", cwd=queries).startswith("sat\n")


def test_what_cannot_be_read_or_meant_is_one_line(queries: Path):
    assert "pass a network and a property" in refusal("verify", "net.onnx", cwd=queries)
    assert "pass a network and a property" in refusal("verify", cwd=queries)
    assert "must be NAME=FILE" in refusal("verify", "a.vnnlib", "--network", "net.onnx", cwd=queries)
    several = ("verify", "a.vnnlib", "--network", "N=net.onnx", "--network", "M=net.onnx")
    assert "several networks" in refusal(*several, cwd=queries)
    assert "none.onnx cannot be read" in refusal("verify", "none.onnx", "a.vnnlib", cwd=queries)
    assert "none.vnnlib" in refusal("verify", "net.onnx", "none.vnnlib", cwd=queries)
    (queries / "torn.vnnlib").write_text("(assert (<= X_0 1)")
    assert "torn.vnnlib" in refusal("verify", "net.onnx", "torn.vnnlib", cwd=queries)
    (queries / "torn.onnx").write_bytes(b"\x08\x07")
    assert "ONNX file torn.onnx" in refusal("verify", "torn.onnx", "a.vnnlib", cwd=queries)
    assert "--timeout" in refusal("verify", "net.onnx", "a.vnnlib", "--timeout", 0, cwd=queries)
    assert "with its unit" in refusal("verify", "net.onnx", "a.vnnlib", "--memory", 2, cwd=queries)
    unwritable = ("verify", "net.onnx", "a.vnnlib", "--output", "nowhere/out.txt")
    assert "nowhere/out.txt cannot be written" in refusal(*unwritable, cwd=queries)


def test_one_verdict_is_said():
    answering = Answering(None)
    assert answering()
    assert not answering()
    answering.give_up()  # would end the tests


# ----------------------------------------------------------------------------------------------------------- benchmark


class Here:
    """A process that is none: it answers in this one, and is told to fail at some queries."""

    asked: list[str]
    memories: set[int]

    def __init__(self) -> None:
        Here.asked, Here.memories = [], set()

    def ask(self, query: dict) -> tuple[dict, float]:
        Here.memories.add(query["waiting"])
        Here.asked.append(Path(query["vnnlib"]).name)
        if len(Here.asked) > Here.most:
            raise KeyboardInterrupt
        verdict = "unsat" if "b.vnnlib" in query["vnnlib"] else "sat"
        answer = {"verdict": verdict, "domains": 7, "decided_by": "bounds", "reason": "", "result": f"{verdict}\n"}
        return answer, 0.5

    def close(self) -> None:
        pass

    most = 10


@pytest.mark.slow
def test_a_benchmark_goes_on_where_it_stopped(queries: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(benchmark, "_Process", Here)
    rows = [("net.onnx", f"{name}.vnnlib", 2) for name in "abc"]
    write_csv(queries / "instances.csv", ("onnx", "vnnlib", "timeout"), *rows)
    arguments = ("verify", "--instances", "instances.csv", "--output", "out", "--timeout-scale", 0.5)
    monkeypatch.setattr(Here, "most", 2)
    assert "run the same command" in certify(*arguments, cwd=queries, expect=130)
    monkeypatch.setattr(Here, "most", 10)
    assert [row["verdict"] for row in stored(queries / "out")] == ["sat", "unsat"]
    with (queries / "out" / "results.csv").open("a") as file:
        file.write("net.onnx,c.vnn")  # as a kill leaves it
    told = certify(*arguments, "--memory", "3MB", cwd=queries)
    assert (Here.asked, Here.memories) == (["c.vnnlib.gz"], {3 * 10**6})
    assert "2 of 3 instances are known already" in told
    found = stored(queries / "out")
    assert [row["vnnlib"] for row in found] == ["a.vnnlib", "b.vnnlib", "c.vnnlib"]
    assert found[1] == {
        "onnx": "net.onnx",
        "vnnlib": "b.vnnlib",
        "verdict": "unsat",
        "seconds": "0.5",
        "domains": "7",
        "decided_by": "bounds",
        "reason": "",
        "timeout": "1.0",
        "sound": "rounding",
    }
    assert sorted(path.name for path in (queries / "out").iterdir()) == [
        "answers",
        "cactus.png",
        "results.csv",
        "summary.csv",
    ]
    certify(*arguments, cwd=queries)
    assert Here.asked == []
    certify(*arguments[:-1], 1, cwd=queries)  # another time limit is another question
    assert len(Here.asked) == 3


def test_verdicts_are_held_against_known_ones(queries: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(benchmark, "_Process", Here)
    write_csv(queries / "instances.csv", *(("net.onnx", f"{name}.vnnlib", 2) for name in "abc"))
    known = [("a", "sat"), ("b", "sat"), ("c", "unsat-claimed")]
    write_csv(
        queries / "expected.csv", ("onnx", "vnnlib", "final"), *(("net.onnx", f"{n}.vnnlib", v) for n, v in known)
    )
    told = certify("verify", "--instances", "instances.csv", "--output", "out", cwd=queries, expect=3)
    assert "contradiction: net.onnx b.vnnlib is unsat, known to be sat" in told
    with (queries / "out" / "summary.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert (last["network"], last["instances"], last["solved"]) == ("all", "3", "3")
    assert (last["sat"], last["unsat"], last["wrong"]) == ("2", "1", "1")


def test_benchmarks_that_cannot_be_run_are_refused(queries: Path):
    run = ("verify", "--instances", "instances.csv")
    assert "--output must name a directory" in refusal(*run, cwd=queries)
    assert "instances.csv cannot be read" in refusal(*run, "--output", "out", cwd=queries)
    write_csv(queries / "instances.csv", ("net.onnx", "a.vnnlib", 2), ("net.onnx", "b.vnnlib"))
    assert "line 2 of instances.csv" in refusal(*run, "--output", "out", cwd=queries)
    write_csv(queries / "instances.csv", ("net.onnx", "a.vnnlib", -2))
    assert "line 1 of instances.csv has a time limit" in refusal(*run, "--output", "out", cwd=queries)
    assert "pass no others" in refusal(*run, "net.onnx", "--output", "out", cwd=queries)
    (queries / "other").mkdir()
    (queries / "other" / "results.csv").write_text("a,b\n1,2\n")
    write_csv(queries / "instances.csv", ("net.onnx", "a.vnnlib", 2))
    assert "no results of this command" in refusal(*run, "--output", "other", cwd=queries)


@pytest.mark.slow
def test_a_process_answers_and_is_ended_when_it_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """For real: a query that cannot be read, one that is decided, one whose time is over while torch is busy."""
    linear = Linear(tmp_path / "net.onnx", 3)
    (tmp_path / "good.vnnlib").write_text(linear.below(linear.least + 1e-3))
    (tmp_path / "torn.vnnlib").write_text("(assert")
    names = [("net.onnx", "good.vnnlib", 60), ("net.onnx", "torn.vnnlib", 60), ("none.onnx", "good.vnnlib", 60)]
    write_csv(tmp_path / "instances.csv", *names)
    certify("verify", "--instances", "instances.csv", "--output", "out", cwd=tmp_path)
    found = stored(tmp_path / "out")
    assert [row["verdict"] for row in found] == ["sat", "unknown", "unknown"]
    assert "torn.vnnlib" in found[1]["reason"]
    assert "none.onnx cannot be read" in found[2]["reason"]
    assert (tmp_path / "out" / "answers" / "00000.txt").read_text().startswith("sat\n((X_0 ")

    monkeypatch.setattr(benchmark, "serve", _hanging)
    process = benchmark._Process()
    began = time.monotonic()
    query = {"onnx": "net.onnx", "vnnlib": "good.vnnlib", "timeout": 0.5, "sound": "rounding"}
    answer, seconds = process.ask(query)
    assert (answer["verdict"], answer["result"]) == ("timeout", "timeout\n")
    assert 1.5 <= seconds < 2.5
    monkeypatch.setattr(benchmark, "serve", _dying)
    answer, _ = process.ask(query)
    assert (answer["verdict"], answer["reason"]) == ("unknown", "the process of the query ended with exit code 7")
    process.close()
    assert time.monotonic() - began < 60


def _hanging(connection, threads) -> None:
    connection.send(None)
    time.sleep(600)


def _dying(connection, threads) -> None:
    connection.send(None)
    connection.recv()
    sys.exit(7)


@pytest.mark.slow
def test_a_query_ends_in_time_whatever_it_is_doing(tmp_path: Path):
    """A network of which one forward pass takes longer than the query may."""
    script = tmp_path / "hang.py"
    identity(tmp_path / "net.onnx")
    (tmp_path / "a.vnnlib").write_text(property_of([(0.0, 1.0)], "(assert (>= Y_0 0.5))"))
    script.write_text(
        "import time, certify.verification.decide as room\n"
        "room.decide = lambda *given, **options: time.sleep(60)\n"
        "from certify.cli import main\n"
        "main(['verify', 'net.onnx', 'a.vnnlib', '--timeout', '1', '--output', 'out.txt'])\n"
    )
    began = time.monotonic()
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "timeout\n")
    assert (tmp_path / "out.txt").read_text() == "timeout\n"
    assert time.monotonic() - began < 30


# ------------------------------------------------------------------------------------------------------------ supports


@pytest.mark.parametrize(
    ("asked", "lines"),
    [
        ("--vnnlib-versions", ["1.0", "2.0"]),
        ("--hidden-node-theories", ["NH"]),
        ("--multiple-input-output-theories", ["MIO"]),
        ("--multiple-network-theories", ["SNET"]),
        ("--multiple-node-comparison-theories", ["MNC"]),
        ("--arithmetic-complexity-theories", ["LIN"]),
        ("--optimised-disjunctive-reasoning", ["true"]),
        ("--serialise-assignments", ["false"]),
    ],
)
def test_what_a_query_may_use_is_listed(tmp_path: Path, asked: str, lines: list[str]):
    assert certify("supports", asked, cwd=tmp_path).splitlines() == lines


def test_operators_are_those_of_the_reader(tmp_path: Path):
    told = certify("supports", "--onnx-operators", cwd=tmp_path).splitlines()
    assert {"Conv", "Gemm", "Relu", "Softmax"} <= set(told)
    assert told == sorted(told)
    oldest, newest = map(int, certify("supports", "--onnx-opset-versions", cwd=tmp_path).splitlines())
    assert oldest <= 13 <= newest
    assert "float32" in certify("supports", "--onnx-element-types", cwd=tmp_path).splitlines()
    assert "name what to list" in refusal("supports", cwd=tmp_path)
    assert len(supports.__kwdefaults__) == 11


def test_an_unknown_verdict_says_why(queries: Path, monkeypatch: pytest.MonkeyPatch):
    pretend(monkeypatch, UNKNOWN)
    told = certify("verify", "net.onnx", "b.vnnlib", cwd=queries)
    assert told.startswith("unknown\n")
    assert "it only pretends" in told
