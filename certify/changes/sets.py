"""Rows of tables and texts of which few features or words change, as an evaluation names, stores and reads them."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from bounds import checks
from bounds.errors import BoundsError, InvalidConfiguration, InvalidInput
from bounds.sets.choices import Choices
from bounds.sets.features import Category, Feature
from bounds.sets.orders import CHANGES
from bounds.sets.tables import FeatureChanges
from bounds.sets.words import SynonymSet
from certify.changes.features import feature_of_table, table_of_feature
from certify.changes.words import GivenWords, Synonyms
from certify.sets.stated import StatedSet, Table

DIGITS = 8  # of a digest in a name


class ChangeSet(StatedSet):
    """Inputs of which few features or words change; sizes are numbers of changes.

    Attributes:
        at_most: changes of one input.
        frozen: places that stay as they are: entries of an input, or words of a text.
    """

    KEY = "changes"
    TITLE = "Changed features and words"
    NOTE = (
        "Accuracy when up to so many features or words of every input change, each to one of its values: proved for "
        "all such changes, left by a search for counterfactuals, and of random changes, which bound nothing."
    )

    at_most: int
    frozen: tuple[int, ...]

    @classmethod
    def _named(cls, what: str, at_most: int, frozen: Sequence[int], contents: object) -> "ChangeSet":
        """The name, with a digest of all that belongs to the set."""
        most = checks.at_least("at_most", at_most, 1)
        still = sorted({checks.at_least("frozen", place, 0) for place in frozen})
        digest = hashlib.sha256(json.dumps([contents, still]).encode()).hexdigest()[:DIGITS]
        found = super().__new__(cls, f"at most {most} of {what} {digest}, {CHANGES}")
        found.at_most, found.frozen = most, tuple(still)
        return found

    @property
    def reach(self) -> float:
        """The largest number of changes."""
        return float(self.at_most)

    @abstractmethod
    def around(self, x: Tensor) -> Choices:
        """The sets around inputs (N, *D).

        Raises:
            InvalidInput: inputs that no feature allows, or words that have no place in the embedding.
        """

    def _mask(self, shape: Sequence[int], device: torch.device) -> Tensor | None:
        """Places that stay, True in a mask of one input."""
        if not self.frozen:
            return None
        mask = torch.zeros(torch.Size(shape).numel(), dtype=torch.bool, device=device)
        if self.frozen[-1] >= len(mask):
            raise InvalidInput(f"frozen must be places from 0 to {len(mask) - 1}, got {self.frozen[-1]}")
        mask[list(self.frozen)] = True
        return mask.view(*shape)

    def _table(self, **contents: object) -> Table:
        return {"at_most": self.at_most, **contents, **({"frozen": list(self.frozen)} if self.frozen else {})}

    @classmethod
    def of(cls, given: object) -> "ChangeSet":
        """The set itself, see :class:`certify.sets.stated.StatedSet`."""
        if not isinstance(given, ChangeSet):
            raise InvalidInput(
                f"changes must be certify.ChangedFeatures or certify.ChangedWords, got {given!r}: pass "
                f"ChangedFeatures(features, at_most=2)"
            )
        return given

    @classmethod
    def of_table(cls, table: object, place: str, folder: Path | None = None) -> "ChangeSet":
        """The set of a table, see :class:`certify.sets.stated.StatedSet`."""
        if not isinstance(table, Mapping):
            raise InvalidConfiguration(f"{place} must be a table of settings, got {table!r}")
        settings = dict(table)
        kinds = [name for name in ("features", "groups", "words") if name in settings]
        if len(kinds) != 1 or settings.keys() - {*kinds, "at_most", "frozen"} or "at_most" not in settings:
            raise InvalidConfiguration(
                f"{place} must have at_most, one of features, groups and words, and maybe frozen, got "
                f"{', '.join(settings) or 'nothing'}"
            )
        contents, about = settings.pop(kinds[0]), settings
        try:
            if not isinstance(about.get("frozen", []), list):
                raise InvalidInput(f"frozen must be a list of places, got {about['frozen']!r}")
            if kinds[0] == "words":
                words = GivenWords.of(folder / contents if folder and isinstance(contents, str) else contents)
                return ChangedWords(words, **about)
            if not isinstance(contents, list):
                raise InvalidInput(f"{kinds[0]} must be a list, got {contents!r}")
            read = feature_of_table if kinds[0] == "features" else Category
            return ChangedFeatures([read(each) for each in contents], **about)
        except (BoundsError, TypeError, ValueError) as error:
            said = " ".join(str(error).split())
            raise InvalidConfiguration(said if said.startswith(place) else f"{place} {said}") from error


class ChangedFeatures(ChangeSet):
    """Rows of a table of which at most so many features change, as the features themselves allow.

    It is a text, which stands in the place of the order of a norm in records and tables: the number of changes, of
    features, and a digest of all of them. See :class:`bounds.FeatureChanges` for the set around an input.

    Args:
        features: a :class:`bounds.Category`, :class:`bounds.Levels` or :class:`bounds.Numeric` for each feature that
            may change, or the columns of a one-hot group.
        at_most: features of one row that may change, at least 1.
        frozen: columns that stay as they are, in every row.

    >>> from bounds import Levels
    >>> ChangedFeatures([[0, 1, 2], Levels(3, range(5))], at_most=2)
    'at most 2 of 2 features 01b9318c, changes'

    Raises:
        InvalidInput: something else, or no features.
    """

    features: tuple[Feature, ...]

    def __new__(
        cls, features: Sequence[Feature | Sequence[int]], at_most: int, frozen: Sequence[int] = ()
    ) -> "ChangedFeatures":
        """The name, with the features that it stands for."""
        given = [
            Category(each) if isinstance(each, Sequence) else each for each in checks.several("features", features)
        ]
        tables = [table_of_feature(each) for each in given]
        several = f"{len(given)} feature{'s' * (len(given) != 1)}"
        found = cast(ChangedFeatures, super()._named(several, at_most, frozen, tables))
        found.features = tuple(map(feature_of_table, tables))
        return found

    def __getnewargs__(self) -> tuple[Any, ...]:  # for pickle
        return self.features, self.at_most, self.frozen

    def around(self, x: Tensor) -> FeatureChanges:
        """The sets around inputs, see :class:`ChangeSet`."""
        return FeatureChanges(x, self.features, self.at_most, self._mask(x.shape[1:], x.device))

    def table(self) -> Table:
        """The set in plain values, for a manifest.

        >>> ChangedFeatures([[0, 1, 2]], at_most=1).table()
        {'at_most': 1, 'features': [{'kind': 'category', 'columns': [0, 1, 2]}]}
        """
        return self._table(features=[table_of_feature(each) for each in self.features])


class ChangedWords(ChangeSet):
    """Texts of which at most so many words are replaced, each by one of its synonyms.

    Inputs are vectors of words (N, L, E), as they leave an embedding; a word is known by its vector. A manifest holds a
    digest of embedding and synonyms, and the file that they come from. See :class:`bounds.SynonymSet`.

    Args:
        words: ``(embedding, synonyms)``: vectors (W, E) of all words, and by word those that may replace it, or (W, V)
            int64, filled up with -1. Or a ``.safetensors`` file of both.
        at_most: words of one text that may be replaced, at least 1.
        frozen: positions that stay as they are, in every text.

    Raises:
        InvalidInput: something else.
        InvalidConfiguration: a file that cannot be read.
    """

    words: GivenWords

    def __new__(
        cls, words: tuple[Tensor, Synonyms] | GivenWords | Path | str, at_most: int, frozen: Sequence[int] = ()
    ) -> "ChangedWords":
        """The name, with the words that it stands for."""
        given = GivenWords.of(words)
        found = cast(ChangedWords, super()._named("all words", at_most, frozen, given.sha256))
        found.words = given
        return found

    def __getnewargs__(self) -> tuple[Any, ...]:  # for pickle
        return self.words, self.at_most, self.frozen

    def around(self, x: Tensor) -> SynonymSet:
        """The sets around inputs, see :class:`ChangeSet`."""
        substitutes, allowed = self.words.substitutes(x)
        mask = self._mask(x.shape[1:2], x.device)
        return SynonymSet(x, substitutes, self.at_most, allowed=allowed, frozen_features=mask)

    def table(self) -> Table:
        """The set in plain values, for a manifest."""
        return self._table(words=self.words.plain())
