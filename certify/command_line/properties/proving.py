"""The command that checks proofs. It needs no torch."""

import sys
import time
from pathlib import Path

from certify.command_line.process import BAD_INPUT, CONTRADICTION, FINE


def check_proof_file(proof: Path, network: Path, property: Path) -> int:
    """Check a proof that certify verify --proof wrote; exit code 0 if it is accepted, 3 if it is refused.

    The checker shares no code with the search. It reads the network and the property by itself, and derives every bound
    anew.

    Args:
        proof: The proof.
        network: The network, an ONNX file.
        property: The property, a VNN-LIB file.
    """
    from certify.proofs.checking import check_proof
    from certify.proofs.errors import ProofError

    began = time.monotonic()
    try:
        report = check_proof(proof, network, property)
    except ProofError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    if not report.accepted:
        where = f"{report.where}: " if report.where else ""
        print(f"refused: {where}{report.reason}")
        return CONTRADICTION
    print(f"accepted: {report.verdict}")
    print(f"{time.monotonic() - began:.2f} s, {report.leaves} leaves", file=sys.stderr)
    return FINE
