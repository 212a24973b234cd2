"""The command line: the commands, with their exit codes.

Exit codes: 0 fine; 1 a stated threshold was missed or the run is unfinished; 2 wrong usage or bad input; 3 a certified
radius exceeds the distance of a re-checked adversarial example, an audit refutes a statement, or a proof is refused;
70 an error in this toolkit, whose traceback the environment variable CERTIFY_TRACEBACK=1 shows; 130 interrupted; 141
nobody reads the output. The commands are imported when they are needed, so that an interrupt finds the program ready
from the first moment.
"""

import os
import sys
import traceback
from collections.abc import Sequence

from certify.command_line.process import (
    BAD_INPUT,
    FINE,
    INTERNAL,
    INTERRUPTED,
    NO_READER,
    flush_output,
    is_interrupt,
    leaving_when_interrupted,
    tolerate_encodings,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command ``certify``."""
    with leaving_when_interrupted():
        code = _exit_code(arguments)
        code = code if flush_output() else NO_READER
    sys.exit(code)


def _exit_code(arguments: Sequence[str] | None) -> int:
    tolerate_encodings()
    import cyclopts

    from certify.command_line.commands import app

    try:
        outcome = app(arguments, exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        return _refuse(error)
    except BrokenPipeError:
        return NO_READER
    except (KeyboardInterrupt, Exception) as error:
        if is_interrupt(error):
            print("interrupted", file=sys.stderr)
            return INTERRUPTED
        errors = sys.modules.get("bounds.errors")  # not imported, not raised; and torch may be what is broken
        if errors is not None and isinstance(error, errors.BoundsError):
            return _refuse(error)
        return _apologise(error)
    return outcome if isinstance(outcome, int) else FINE


def _refuse(error: Exception) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return BAD_INPUT


def _apologise(error: BaseException) -> int:
    """Say that the toolkit is at fault; Python's own exit code is 1, which means a missed threshold here."""
    if os.environ.get("CERTIFY_TRACEBACK") == "1":
        traceback.print_exception(error)
    message = " ".join(f"{type(error).__name__}: {error}".split())
    print(f"error: internal error: {message} (set CERTIFY_TRACEBACK=1 for the traceback)", file=sys.stderr)
    return INTERNAL
