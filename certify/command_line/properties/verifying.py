"""The commands of complete verification: one query, a folder of queries, and what a query may use.

Torch is imported inside commands only, so that help is quick.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from certify.command_line.process import CONTRADICTION, FINE, INTERRUPTED, raise_when_interrupted

if TYPE_CHECKING:
    from certify.verification.decision import Decision

Sound = Literal["rounding", "real", "deployed"]
LEAST_MEMORY = 10**6  # in bytes; a smaller number lacks its unit
GRACE = 0.02, 0.2  # share of the time, and seconds, after which a query ends whatever it is doing


def verify_query(
    *files: Path,
    network: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative=())] = (),
    timeout: float | None = None,
    output: Path | None = None,
    proof: Path | None = None,
    sound: Sound = "rounding",
    memory: str = "2GiB",
    instances: Path | None = None,
    root: Path | None = None,
    timeout_scale: float = 1.0,
) -> int:
    """Decide whether a property holds of a network: sat (violated), unsat (proved), unknown or timeout.

    `certify verify NET.onnx PROPERTY.vnnlib`, or `certify verify QUERY.vnnlib --network N=NET.onnx`; the property may
    be compressed by gzip. With --instances, a whole benchmark.

    Args:
        files: The network and the property; or the property alone.
        network: The network of a property of version 2.0, as NAME=FILE.
        timeout: Seconds for a query.
        output: File for the verdict and, if violated, the input and output, in the format of VNN-COMP. With
            --instances, a directory; what is there is continued.
        proof: File for a proof of the verdict, for certify check-proof. Where there can be none, the reason is
            printed, and the verdict stands without it.
        sound: Arithmetic that a proof is about: real numbers with all rounding errors of the proof included, the same
            without these, or the float32 network as it runs.
        memory: What sub-problems may take that wait, such as 4GB; where they are more, the verdict is unknown.
        instances: CSV file of a benchmark, with a network, a property and seconds in each line.
        root: Folder that its paths start from; that of the CSV file if not given.
        timeout_scale: Factor for its seconds.
    """
    from bounds import InvalidInput, checks
    from certify.sizes import bytes_of

    if timeout is not None:
        checks.positive("--timeout", timeout)
    waiting = bytes_of("--memory", memory)
    if waiting < LEAST_MEMORY:
        raise InvalidInput(f'--memory must be at least 1MB, with its unit, such as "2GB"; got {memory!r}')
    if instances is not None:
        checks.positive("--timeout-scale", timeout_scale)
        if proof is not None:
            raise InvalidInput("--proof is for one query: pass a network and a property instead of --instances")
        return _benchmark(files or network, instances, root, output, sound, timeout, timeout_scale, waiting)
    began = time.monotonic()
    onnx, query = _named(files, network)
    import torch

    from certify.verification.decide import decide

    raise_when_interrupted()
    with _ending_in_time(timeout, began, output) as may_answer:
        proof = _possible(proof, onnx, query, sound)
        left = None if timeout is None else max(timeout - (time.monotonic() - began), 1e-3)
        source = torch.Generator().manual_seed(0)
        decision = decide(onnx, query, timeout=left, sound=sound, generator=source, waiting=waiting, proof=proof)
        if may_answer():
            _tell(decision, output)
    return FINE


def supports(
    *,
    onnx_opset_versions: bool = False,
    onnx_element_types: bool = False,
    onnx_operators: bool = False,
    vnnlib_versions: bool = False,
    hidden_node_theories: bool = False,
    multiple_input_output_theories: bool = False,
    multiple_network_theories: bool = False,
    multiple_node_comparison_theories: bool = False,
    arithmetic_complexity_theories: bool = False,
    optimised_disjunctive_reasoning: bool = False,
    serialise_assignments: bool = False,
) -> int:
    """Say what a query may use, one line each, as the solver interface of VNN-LIB 2.0 asks.

    Args:
        onnx_opset_versions: Oldest and newest operator set.
        onnx_element_types: Types of numbers.
        onnx_operators: Operators.
        vnnlib_versions: Oldest and newest version.
        hidden_node_theories: Whether assertions may speak of hidden nodes; NH, they may not.
        multiple_input_output_theories: Whether there may be several inputs and outputs; MIO, there may.
        multiple_network_theories: Whether there may be several networks; SNET, one alone.
        multiple_node_comparison_theories: Whether an assertion may speak of inputs and outputs at once; MNC, it may.
        arithmetic_complexity_theories: Terms; LIN, linear ones.
        optimised_disjunctive_reasoning: Whether the cases of a disjunction are searched together.
        serialise_assignments: Whether assignments are printed in the standard's own format.
    """
    asked = [name for name, value in locals().items() if value]
    if not asked:
        from bounds.errors import InvalidInput

        raise InvalidInput("name what to list, such as --onnx-operators; certify supports --help lists all")
    said = {
        "hidden_node_theories": ["NH"],
        "multiple_input_output_theories": ["MIO"],
        "multiple_network_theories": ["SNET"],
        "multiple_node_comparison_theories": ["MNC"],
        "arithmetic_complexity_theories": ["LIN"],
        "optimised_disjunctive_reasoning": ["true"],
        "serialise_assignments": ["false"],
        "vnnlib_versions": ["1.0", "2.0"],
        "onnx_element_types": ["real", "bfloat16", "float16", "float32", "float64"],
    }
    for name in asked:
        print("\n".join(said[name] if name in said else _of_onnx(name)))
    return FINE


def _of_onnx(name: str) -> list[str]:
    """The reader of ONNX files on what it takes."""
    from bounds.onnx.files import OLDEST_OPSET
    from bounds.onnx.operators.table import OPERATORS

    if name == "onnx_operators":
        return sorted(OPERATORS)
    from onnx.defs import onnx_opset_version

    return [str(OLDEST_OPSET), str(onnx_opset_version())]


def _named(files: tuple[Path, ...], network: tuple[str, ...]) -> tuple[Path, Path]:
    """The network and the property that the arguments name."""
    from bounds.errors import InvalidInput

    if len(files) == 2 and not network:
        return files[0], files[1]
    if len(files) == 1 and len(network) == 1:
        name, separator, path = network[0].partition("=")
        if name and separator and path:
            return Path(path), files[0]
        raise InvalidInput(f"--network must be NAME=FILE, got {network[0]!r}")
    if len(network) > 1:
        raise InvalidInput("properties of several networks cannot be represented: name one --network")
    raise InvalidInput(
        "pass a network and a property, NET.onnx PROPERTY.vnnlib, or a property and --network NAME=NET.onnx"
    )


def _possible(proof: Path | None, network: Path, query: Path, sound: Sound) -> Path | None:
    """The file for a proof, if there can be one; else the reason is said before the search begins."""
    if proof is None:
        return None
    from certify.verification.proving.recording import why_no_proof

    reason = why_no_proof(network, query, sound)
    if reason:
        print(f"no proof can be written: {reason}", file=sys.stderr, flush=True)
    return None if reason else proof


def _tell(decision: "Decision", output: Path | None) -> None:
    """Print the verdict, and what led to it on the stream for people."""
    _write(output, decision.to_competition())
    print(decision.verdict, flush=True)
    how = f"by {decision.decided_by}" if decision.decided_by else decision.reason
    print(f"{decision.seconds:.2f} s, {decision.domains} sub-problems, {how}", file=sys.stderr)
    if decision.proof:
        size = Path(decision.proof).stat().st_size
        print(f"proof: {decision.proof}, {size / 1e3:.1f} kB", file=sys.stderr)
    elif decision.without_proof:
        print(f"no proof was written: {decision.without_proof}", file=sys.stderr)


def _write(output: Path | None, text: str) -> None:
    from bounds.errors import InvalidConfiguration

    if output is None:
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidConfiguration(f"{output} cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def _ending_in_time(timeout: float | None, began: float, output: Path | None) -> Iterator["Answering"]:
    """End the program with the verdict ``timeout`` where a query does not end by itself soon after its time."""
    answering = Answering(output)
    timer = None
    if timeout is not None:
        share, seconds = GRACE
        timer = threading.Timer(timeout * (1 + share) + seconds - (time.monotonic() - began), answering.give_up)
        timer.daemon = True
        timer.start()
    try:
        yield answering
    finally:
        if timer is not None:
            timer.cancel()


class Answering:
    """The right to say the verdict, which one thread gets once.

    Args:
        output: file for the verdict.
    """

    def __init__(self, output: Path | None) -> None:
        self._output = output
        self._lock = threading.Lock()

    def __call__(self) -> bool:
        """Whether the caller may say it."""
        return self._lock.acquire(blocking=False)

    def give_up(self) -> None:
        """Say ``timeout`` and leave, unless the verdict is being said."""
        if self():
            with contextlib.suppress(Exception):  # nothing may keep the program from ending
                print("timeout", flush=True)
                _write(self._output, "timeout\n")
            os._exit(FINE)


def _benchmark(
    others: tuple[object, ...],
    instances: Path,
    root: Path | None,
    output: Path | None,
    sound: Sound,
    timeout: float | None,
    scale: float,
    waiting: int,
) -> int:
    """Run a folder of queries; exit code 3 if a verdict contradicts a known one."""
    from bounds.errors import InvalidInput

    if others or timeout is not None:
        raise InvalidInput("--instances names networks, properties and times: pass no others with it")
    if output is None:
        raise InvalidInput("--output must name a directory for the results of --instances")
    from certify.command_line.properties.benchmark import Benchmark
    from certify.command_line.properties.benchmark_report import write_report

    benchmark = Benchmark(instances, root or instances.parent, output, sound, scale, waiting)
    raise_when_interrupted()
    try:
        benchmark.run()
    except KeyboardInterrupt:
        print("interrupted: what is decided is stored; run the same command to continue", file=sys.stderr)
        return INTERRUPTED
    wrong = write_report(benchmark)
    return CONTRADICTION if wrong else FINE
