"""Errors of proofs; each message is one line.

::

    ProofError (ValueError)
    ├── Unreadable    a network or property that the checker does not read
    └── Refused       a proof that does not prove what it claims
"""


class ProofError(ValueError):
    """Base of the errors of this room."""


class Unreadable(ProofError):
    """The network or the property holds something that the checker does not read."""


class Refused(ProofError):
    """A proof is damaged, is about something else, or does not hold.

    Args:
        reason: one line.
        where: the part of the proof that fails.
        leaves: that were accepted before.
    """

    def __init__(self, reason: str, where: str = "", leaves: int = 0) -> None:
        super().__init__(f"{where}: {reason}" if where else reason)
        self.reason, self.where, self.leaves = reason, where, leaves
