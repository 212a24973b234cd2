"""A process that decides one query after the other, so that torch is imported once and a query can be ended."""

import signal
from multiprocessing.connection import Connection
from typing import TypedDict


class Query(TypedDict):
    """A question to the process."""

    onnx: str
    vnnlib: str
    timeout: float
    sound: str
    waiting: int  # bytes of sub-problems


class Answer(TypedDict):
    """The answer: a verdict, what led to it, and the result in the format of VNN-COMP."""

    verdict: str
    domains: int
    decided_by: str
    reason: str
    result: str


def serve(connection: Connection, threads: int) -> None:
    """Answer queries until the other side is gone; a query that cannot be read is unknown, with the reason."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other side ends this process
    import torch

    from bounds.errors import BoundsError
    from certify.verification.decide import decide

    torch.set_num_threads(threads)
    connection.send(None)  # ready
    while True:
        try:
            query: Query = connection.recv()
        except EOFError:
            return
        try:
            decision = decide(
                query["onnx"],
                query["vnnlib"],
                timeout=query["timeout"],
                sound=query["sound"],
                generator=torch.Generator().manual_seed(0),
                waiting=query["waiting"],
            )
            found = Answer(
                verdict=decision.verdict,
                domains=decision.domains,
                decided_by=decision.decided_by,
                reason=decision.reason,
                result=decision.to_competition(),
            )
        except Exception as error:  # the next query may do better
            reason = " ".join(str(error).split())
            named = reason if isinstance(error, BoundsError) else f"{type(error).__name__}: {reason}"
            found = Answer(verdict="unknown", domains=0, decided_by="", reason=named, result="unknown\n")
        connection.send(found)
