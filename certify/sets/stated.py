"""Sets of perturbations that an evaluation is asked about: named, written into its manifest, read from it again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from bounds.sets.orders import NamedSet
from certify.sets.curves import SetCurves
from certify.sets.draws import SetAccuracy

Table = dict[str, Any]


class StatedSet(NamedSet):
    """A text in the place of the order of a norm, which stands for a set of perturbations around every input.

    Two sets of one name are the same set, so that runs can be compared by it.
    """

    KEY: ClassVar[str]  # of manifests and configurations, and the argument of an evaluation, that sets stand under
    TITLE: ClassVar[str]  # of their section of a page
    NOTE: ClassVar[str]  # a sentence below it
    CURVES: ClassVar[type[SetCurves]] = SetCurves

    @property
    def reach(self) -> float:
        """The largest size that the set has."""
        raise NotImplementedError

    def table(self) -> Table:
        """The set in plain values, for a manifest; :meth:`of_table` reads it."""
        raise NotImplementedError

    def accuracy(self, **found: Any) -> SetAccuracy:  # noqa: ANN401  # the fields of a record
        """A record of random draws from the set."""
        return SetAccuracy(**found)

    @classmethod
    def of(cls, given: object) -> Self:
        """The set that a caller asks for.

        Raises:
            InvalidInput: something else.
        """
        raise NotImplementedError

    @classmethod
    def of_table(cls, table: Mapping[str, Any], place: str, folder: Path | None = None) -> Self:
        """The set of a table, in a configuration or a manifest.

        Args:
            table: keys and values.
            place: of the table, for messages.
            folder: in which files are looked for that it names.

        Raises:
            InvalidConfiguration: no table of a set, with what is wrong with it.
        """
        raise NotImplementedError
