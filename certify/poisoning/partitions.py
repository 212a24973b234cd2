"""Parts of a training set that a row falls into by what it holds alone, and the classifiers that each part reaches.

Certificates count rows of the training set that are inserted or deleted. Each changes one part, as long as no row moves
between parts because of others. So a row is filed by a hash of its own numbers, never by its place in the list.
"""

import hashlib

import numpy as np
import torch
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput


def hash_partition(inputs: Tensor, parts: int, *, labels: Tensor | None = None, salt: int = 0) -> Tensor:
    """The part of each training row, by a hash of what the row holds.

    Equal rows fall into the same part. Without ``labels``, a row stays in its part when its label changes, so that a
    changed label costs an attacker's budget as one row, where it would be two: one deleted, one inserted. With
    ``labels``, rows of one class are spread by their label too. The attacker may know the hash.

    Args:
        inputs: (R, *D), of any dtype but complex; the hash is of its numbers as they are stored. ``-0.0`` counts as 0.
        parts: number of parts.
        labels: (R,) integer, hashed with the inputs; None leaves labels out.
        salt: another salt gives another partition.

    Returns:
        (R,) int64 on the device of ``inputs``, from 0 to ``parts - 1``.

    Raises:
        InvalidInput: a bad argument.

    References:
        Levine, Feizi (2021), Deep partition aggregation: provable defense against general poisoning attacks,
        arXiv:2006.14768, section 4.
    """
    parts = checks.at_least("parts", parts, 1)
    key = checks.at_least("salt", salt, 0).to_bytes(64, "little")
    if checks.tensor("inputs", inputs).ndim < 1 or inputs.is_complex():
        raise InvalidInput(f"inputs must be real, of shape (R, *D), got {inputs.dtype} of {tuple(inputs.shape)}")
    plain = inputs.detach().contiguous()
    plain = plain.where(plain != 0, torch.zeros_like(plain)).cpu()  # -0.0 equals 0
    plain = plain.flatten(1) if plain.ndim > 1 else plain[:, None]
    stored = plain.view(torch.uint8).numpy()
    names = None
    if labels is not None:
        names = checks.rows("labels", labels, len(inputs)).detach().cpu().to(torch.int64).numpy()
    found = np.empty(len(inputs), dtype=np.int64)
    for i, row in enumerate(stored):
        digest = hashlib.blake2b(row.tobytes(), digest_size=16, key=key)
        if names is not None:
            digest.update(names[i].tobytes())
        found[i] = int.from_bytes(digest.digest(), "little") % parts
    return torch.from_numpy(found).to(inputs.device)


def spread_partitions(classifiers: int, spread: int, *, seed: int = 0) -> Tensor:
    """Base classifiers that each part reaches in finite aggregation, (P, M) bool with P = M.

    As many parts as classifiers; part j reaches the classifiers ``(j + r) % M`` for ``spread`` random offsets r. A
    spread of 1 files each part with one classifier, which is deep partition aggregation.

    Args:
        classifiers: the number M of base classifiers, and of parts.
        spread: classifiers that each part reaches, and parts that each classifier is trained on.
        seed: of the offsets.

    Raises:
        InvalidInput: a spread above the number of classifiers; another bad argument.

    References:
        Wang, Levine, Feizi (2022), Improved certified defenses against data poisoning with (deterministic) finite
        aggregation, ICML, arXiv:2202.02628, section 4.

    >>> spread_partitions(3, 1).long()
    tensor([[1, 0, 0],
            [0, 1, 0],
            [0, 0, 1]])
    """
    count = checks.at_least("classifiers", classifiers, 1)
    checks.at_most("spread", checks.at_least("spread", spread, 1), count)
    source = torch.Generator("cpu").manual_seed(checks.at_least("seed", seed, 0))
    offsets = (
        torch.randperm(count, generator=source, device="cpu")[:spread]
        if spread > 1
        else torch.tensor([0], device="cpu")
    )
    reached = torch.zeros(count, count, dtype=torch.bool, device="cpu")
    parts = torch.arange(count, device="cpu")[:, None]
    return reached.scatter(1, (parts + offsets) % count, True)


def training_rows(part: Tensor, spread: Tensor, classifier: int) -> Tensor:
    """Training rows of one base classifier, (R,) bool.

    Args:
        part: (R,) int64, the part of each row, from :func:`hash_partition`.
        spread: (P, M) bool, from :func:`spread_partitions`.
        classifier: number of the base classifier, from 0 to M - 1.

    Raises:
        InvalidInput: a part or a classifier that the spread does not have.
    """
    checks.at_most(
        "classifier", checks.at_least("classifier", classifier, 0), checks.tensor("spread", spread).shape[1] - 1
    )
    if len(part) and not 0 <= int(part.min()) <= int(part.max()) < len(spread):
        raise InvalidInput(
            f"part must hold numbers from 0 to {len(spread) - 1}, got {int(part.min())} to {int(part.max())}"
        )
    return spread.to(part.device)[part, classifier]
