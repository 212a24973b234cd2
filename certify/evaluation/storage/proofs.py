"""Proofs of radii in a run: each is a tensor of bytes next to those of its unit, and its row states the hash.

So they are on the disk before the line that names them, and travel with a unit to whoever merges it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from certify.verification.proving.radius_proofs import CertificateWithProofs

PREFIX = "proof_"


def is_proof(name: str) -> bool:
    """Whether a tensor of a unit is the proof of one of its inputs."""
    return name.startswith(PREFIX)


def with_stored_proofs(
    rows: Sequence[dict[str, Any]], certificate: CertificateWithProofs, first_index: int
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """The rows of certificates with the hashes of their proofs, or why there are none; and the proofs as tensors."""
    found, tensors = [], {}
    for place, (row, proof) in enumerate(zip(rows, certificate.proofs, strict=True)):
        if isinstance(proof, bytes):
            tensors[f"{PREFIX}{first_index + place}"] = torch.from_numpy(np.frombuffer(proof, np.uint8).copy())
            found.append({**row, "proof": hashlib.sha256(proof).hexdigest()})
        else:
            found.append({**row, "without_proof": proof} if proof else row)
    return found, tensors


def stored_proof(row: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes | str:
    """The proof that a row states the hash of, or what is wrong with it."""
    tensor = tensors.get(f"{PREFIX}{row['index']}")
    if tensor is None:
        return "its proof is missing"
    content = tensor.contiguous().numpy().tobytes()
    return content if hashlib.sha256(content).hexdigest() == row["proof"] else "its proof is not the one that it states"
