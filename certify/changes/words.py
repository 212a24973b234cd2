"""Words of texts with their synonyms, as a setting: a manifest names them by their digest."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidConfiguration, InvalidInput
from bounds.sets.words import NO_WORD

Synonyms = Mapping[int, Sequence[int]] | Tensor
NAMES = ("embedding", "synonyms")
WANTED = "words must be (embedding, synonyms), or a .safetensors file of both"


@dataclass(frozen=True, eq=False)
class GivenWords:
    """Vectors of words, and the words that may replace each.

    Attributes:
        embedding: (W, E) floating; None where only the digest or a file is known.
        synonyms: (W, V) int64, filled up with -1; likewise.
        file: ``.safetensors`` that holds both, if there is one.
        sha256: digest of both.
    """

    embedding: Tensor | None
    synonyms: Tensor | None
    file: str | None
    sha256: str

    @classmethod
    def of(cls, given: object) -> "GivenWords":
        """The words that a caller, a configuration or a manifest names.

        Raises:
            InvalidInput: something else.
            InvalidConfiguration: a file that cannot be read.
        """
        if isinstance(given, GivenWords):
            return given
        if isinstance(given, str | Path):
            file = Path(given).resolve()
            return cls(None, None, str(file), _digest(*_read(file)))
        if isinstance(given, Mapping) and isinstance(given.get("sha256"), str) and given.keys() <= {"sha256", "file"}:
            return cls(None, None, given.get("file"), given["sha256"])
        if not isinstance(given, Sequence) or len(given) != 2:
            raise InvalidInput(f"{WANTED}, got {type(given).__name__}")
        embedding, synonyms = _checked(*given)
        return cls(embedding, synonyms, None, _digest(embedding, synonyms))

    def plain(self) -> dict[str, str]:
        """The digest, and the file if there is one."""
        return {"sha256": self.sha256, **({} if self.file is None else {"file": self.file})}

    def found(self) -> tuple[Tensor, Tensor]:
        """Embedding and synonyms themselves.

        Raises:
            InvalidConfiguration: they are not at hand, or are others by now.
        """
        if self.embedding is not None and self.synonyms is not None:
            return self.embedding, self.synonyms
        if self.file is None:
            raise InvalidConfiguration(
                f"words must be at hand, but the manifest has no more than their digest {self.sha256[:12]}: hand them "
                f"in (certify.audit takes changes=), or name a .safetensors file"
            )
        both = _read(Path(self.file))
        if _digest(*both) != self.sha256:
            raise InvalidConfiguration(
                f"words must be those of digest {self.sha256[:12]}, but {self.file} holds others: restore it"
            )
        return both

    def tokens(self, x: Tensor) -> Tensor:
        """Places (N, L) in the embedding of the vectors (N, L, E) of texts.

        Raises:
            InvalidInput: a vector that is none of the embedding, or that of several words with other synonyms.
        """
        embedding, synonyms = self.found()
        if x.ndim != 3 or x.shape[2] != embedding.shape[1]:
            raise InvalidInput(
                f"x must be vectors of words (N, L, {embedding.shape[1]}), got {tuple(x.shape)}: give the model behind "
                f"the embedding"
            )
        places: dict[bytes, int] = {}
        twice = set()
        for place, row in enumerate(_rows(embedding.to(x.dtype))):
            first = places.setdefault(row, place)
            if first != place and not torch.equal(synonyms[first], synonyms[place]):
                twice.add(row)
        found = []
        for number, row in enumerate(_rows(x.flatten(0, 1))):
            if row not in places or row in twice:
                what = "the vector of several words" if row in twice else "no vector of the embedding"
                raise InvalidInput(
                    f"x must hold vectors of words, but word {number % x.shape[1]} of row {number // x.shape[1]} is "
                    f"{what}: embed the texts with the same table"
                )
            found.append(places[row])
        return torch.tensor(found, dtype=torch.int64).view(x.shape[:2])

    def substitutes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (N, L, V, E) that may take the place of each word of texts (N, L, E), and which of them count."""
        embedding, synonyms = self.found()
        near = synonyms[self.tokens(x)]
        return embedding.to(x.dtype)[near.clamp(min=0)].to(x.device), (near != NO_WORD).to(x.device)


def _checked(embedding: Any, synonyms: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401  # whatever a caller gives
    weight = checks.tensor("embedding", embedding).detach().cpu()
    if weight.ndim != 2 or not weight.is_floating_point() or not bool(weight.isfinite().all()):
        raise InvalidInput(f"embedding must be finite, of shape (W, E), got {tuple(weight.shape)} of {weight.dtype}")
    if isinstance(synonyms, Mapping):
        most = max((len(several) for several in synonyms.values()), default=0)
        listed = torch.full((len(weight), most), NO_WORD)
        for token, several in synonyms.items():
            place = checks.at_most("synonyms", checks.at_least("synonyms", token, 0), len(weight) - 1)
            listed[int(place), : len(several)] = torch.tensor(list(several), dtype=torch.int64)
    else:
        listed = checks.tensor("synonyms", synonyms).cpu()
    if listed.ndim != 2 or len(listed) != len(weight) or listed.dtype not in (torch.int64, torch.int32):
        raise InvalidInput(f"synonyms must have shape ({len(weight)}, V) of int64, got {tuple(listed.shape)}")
    if listed.numel() and (int(listed.max()) >= len(weight) or int(listed.min()) < NO_WORD):
        raise InvalidInput(f"synonyms must be from 0 to {len(weight) - 1}, as the embedding has them, or -1")
    return weight, listed.long()


def _read(file: Path) -> tuple[Tensor, Tensor]:
    try:
        tensors = load_file(file)
        return _checked(*(tensors[name] for name in NAMES))
    except (OSError, SafetensorError, KeyError, InvalidInput) as error:
        raise InvalidConfiguration(
            f"words file {file} must be .safetensors with {' and '.join(NAMES)}, but: {error}"
        ) from error


def _digest(embedding: Tensor, synonyms: Tensor) -> str:
    digest = hashlib.sha256()
    for value in (embedding, synonyms):
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _rows(values: Tensor) -> list[bytes]:
    """Each row as bytes, by which equal rows are known; 0 has one sign."""
    plain = (values.detach().cpu() + 0.0).contiguous()
    whole = plain.flatten().view(torch.uint8).numpy().tobytes()
    size = plain.shape[1] * plain.element_size()
    return [whole[start : start + size] for start in range(0, len(whole), size)]
