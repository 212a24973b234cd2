"""Texts as vectors of words of which few are replaced, each by one of its substitutes."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from bounds import checks
from bounds.errors import InvalidInput
from bounds.sets.balls import Interval
from bounds.sets.choices import STAYS, Choices, checked_budget, checked_mask, hull_of

NO_WORD = -1  # fills up lists of substitutes


class SynonymSet(Choices):
    """Texts of which at most ``changes`` words are replaced, each by one of V substitutes of its own.

    Inputs are vectors of words, as they leave an embedding: bound the part of the network behind it. Linear functions
    have exact minima over the set.

    Args:
        center: (N, L, E) floating tensor, vectors of L words.
        substitutes: (N, L, V, E), vectors that may take their place.
        changes: how many words of one text may be replaced, a number or (N,) integers.
        allowed: (N, L, V) bool, substitutes that count, where lists differ in length; None for all.
        frozen_features: bool, (N, L) or (L,); True for words that stay.

    Raises:
        InvalidInput: shapes or dtypes that do not match, entries that are not finite.

    References:
        Jia, Raghunathan, Göksel, Liang (2019), Certified robustness to adversarial word substitutions,
        arXiv:1909.00986, for intervals; Ye, Gong, Liu (2020), SAFER, arXiv:2005.14424, for at most so many.
    """

    substitutes: Tensor

    OF_ROWS: ClassVar[tuple[str, ...]] = (*Choices.OF_ROWS, "substitutes")
    OF_NUMBERS: ClassVar[tuple[str, ...]] = (*Choices.OF_NUMBERS, "substitutes")

    def __init__(
        self,
        center: Tensor,
        substitutes: Tensor,
        changes: int | Tensor,
        *,
        allowed: Tensor | None = None,
        frozen_features: Tensor | None = None,
    ) -> None:
        checks.inputs(center)
        checks.tensor("substitutes", substitutes)
        fits = center.ndim == 3 and substitutes.ndim == 4
        shape = (*center.shape[:2], substitutes.shape[2] if fits else "V", center.shape[-1])
        if not fits or tuple(substitutes.shape) != shape or substitutes.dtype != center.dtype:
            raise InvalidInput(
                f"substitutes must have shape (N, L, V, E) and the dtype of a center (N, L, E), got "
                f"{tuple(substitutes.shape)} of {substitutes.dtype} for {tuple(center.shape)} of {center.dtype}"
            )
        if allowed is None:
            allowed = torch.ones(substitutes.shape[:3], dtype=torch.bool, device=center.device)
        if checks.tensor("allowed", allowed).dtype != torch.bool or allowed.shape != substitutes.shape[:3]:
            raise InvalidInput(
                f"allowed must be boolean, of shape {tuple(substitutes.shape[:3])}, got {tuple(allowed.shape)} of "
                f"{allowed.dtype}"
            )
        allowed = allowed.to(center.device)
        substitutes = torch.where(allowed[..., None], substitutes.to(center.device), center[:, :, None])
        if not bool(substitutes.isfinite().all()):
            raise InvalidInput("substitutes must be finite where allowed, but some entry is not: remove or repair it")
        frozen = checked_mask(frozen_features, center[..., 0])
        words, count = center.shape[1], substitutes.shape[2]
        self.center, self.substitutes, self.budget = center, substitutes, checked_budget(changes, center)
        self.position = torch.arange(words, device=center.device).repeat_interleave(count)
        other = (substitutes != center[:, :, None]).any(3)
        self.allowed = (allowed & other & ~frozen[..., None]).flatten(1)
        self.stays = torch.ones(center.shape[:2], dtype=torch.bool, device=center.device)
        self.ranges = torch.zeros(words, dtype=torch.bool, device=center.device)

    @classmethod
    def of_tokens(
        cls,
        embedding: Tensor,
        tokens: Tensor,
        synonyms: Mapping[int, Sequence[int]] | Tensor,
        changes: int | Tensor,
        *,
        frozen_features: Tensor | None = None,
    ) -> "SynonymSet":
        """The set around texts of tokens, with substitutes from a table of synonyms.

        Args:
            embedding: (W, E), the vector of each token.
            tokens: (N, L) int64.
            synonyms: tokens that may replace a token, by token; or (W, V) int64, filled up with -1.
            changes: see the class.
            frozen_features: likewise.

        Raises:
            InvalidInput: tokens that the embedding does not have.
        """
        weight = checks.tensor("embedding", embedding).detach()
        if weight.ndim != 2 or checks.tensor("tokens", tokens).ndim != 2 or tokens.is_floating_point():
            raise InvalidInput(
                f"embedding must have shape (W, E) and tokens (N, L) of int64, got {tuple(weight.shape)} and "
                f"{tuple(tokens.shape)} of {tokens.dtype}"
            )
        listed = synonyms if isinstance(synonyms, Tensor) else _in_rows(synonyms, len(weight), tokens)
        if listed.ndim != 2 or len(listed) != len(weight) or listed.is_floating_point():
            raise InvalidInput(
                f"synonyms must have shape ({len(weight)}, V) of int64, got {tuple(listed.shape)} of {listed.dtype}"
            )
        tokens, listed = tokens.to(weight.device), listed.to(weight.device)
        for name, found in (("tokens", tokens), ("synonyms", listed.clamp(min=0))):
            if found.numel() and (int(found.min()) < 0 or int(found.max()) >= len(weight)):
                raise InvalidInput(f"{name} must be from 0 to {len(weight) - 1}, as the embedding has them")
        near = listed[tokens]
        substitutes = weight[near.clamp(min=0)]
        return cls(weight[tokens], substitutes, changes, allowed=near != NO_WORD, frozen_features=frozen_features)

    def scores(self, rows: Tensor) -> Tensor:
        """Changes of linear functions, see :class:`Choices`."""
        by_word = rows.unflatten(2, self.center.shape[1:])
        return torch.einsum("nrle,nlve->nrlv", by_word, self._delta().to(rows.dtype)).flatten(2)

    def _delta(self) -> Tensor:
        return self.substitutes - self.center[:, :, None]

    def moves(self, choice: Tensor) -> Tensor:
        """Moves to choices, see :class:`Choices`."""
        count = self.substitutes.shape[2]
        delta = self._delta()[:, None].expand(-1, choice.shape[1], *[-1] * 3)
        which = (choice.clamp(min=0) % max(count, 1))[..., None, None].expand(*choice.shape, 1, delta.shape[-1])
        taken = delta.gather(3, which).squeeze(3) if count else torch.zeros_like(self.center)[:, None]
        return torch.where((choice == STAYS)[..., None], 0.0, taken).flatten(2)

    def points(self, choice: Tensor) -> Tensor:
        """Texts with choices, see :class:`Choices`."""
        count = self.substitutes.shape[2]
        if count == 0:
            return self.center
        which = (choice.clamp(min=0) % count)[..., None, None].expand(*choice.shape, 1, self.center.shape[-1])
        taken = self.substitutes.gather(2, which).squeeze(2)
        return torch.where((choice == STAYS)[..., None], self.center, taken)

    def hull(self) -> Interval:
        """Smallest box around the set."""
        live = self.live().view(self.substitutes.shape[:3])[..., None]
        sides = []
        for sign in (1, -1):
            still = torch.where(self.stays[..., None], sign * self.center, torch.inf)
            taken = torch.where(live, sign * self.substitutes, torch.inf)
            sides.append(sign * torch.cat([taken, still[:, :, None]], 2).amin(2))
        return hull_of(sides[0], sides[1], self.center)

    def spread(self) -> Tensor:
        """The most that terms of scores move each entry, see :class:`Choices`."""
        zero = torch.zeros_like(self.center)[:, :, None]
        return torch.cat([self._delta().abs(), zero], 2).amax(2).flatten(1)

    def matches(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Words that points keep, and that are allowed substitutes, see :class:`Choices`."""
        points = points.view(self.center.shape)
        kept = (points == self.center).all(2)
        same = (points[:, :, None] == self.substitutes).all(3) & self.allowed.view(self.substitutes.shape[:3])
        return kept, same.any(2)


def _in_rows(synonyms: Mapping[int, Sequence[int]], size: int, tokens: Tensor) -> Tensor:
    """A table (W, V) of synonyms, filled up; rows of tokens that do not occur stay empty."""
    here = [token for token in tokens.unique().tolist() if len(synonyms.get(token, ()))]
    table = torch.full((size, max((len(synonyms[token]) for token in here), default=0)), NO_WORD, device=tokens.device)
    for token in here:
        found = [checks.at_least("synonyms", other, 0) for other in synonyms[token]]
        table[token, : len(found)] = torch.tensor(found, dtype=torch.int64, device=tokens.device)
    return table
