"""One wrong program."""

from typing import NamedTuple


class Mutant(NamedTuple):
    """A piece of text of one file, replaced.

    Attributes:
        story: what is wrong.
        file: where, from the root of the project.
        old: text that stands there once.
        new: what stands there in the wrong program.
        tests: arguments for pytest.
    """

    story: str
    file: str
    old: str
    new: str
    tests: str
