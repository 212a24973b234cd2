"""The text of a property: given itself, or in a file that may be compressed."""

import gzip
import os
import zlib
from pathlib import Path

from bounds.errors import InvalidProperty

MOST_BYTES = 2**28  # of a text, after decompression: ten times the largest published file that is known
GZIP = b"\x1f\x8b"


def named_text(source: str | os.PathLike[str]) -> tuple[str, str]:
    """A name for messages, and the text; a string is the text itself where it is no usual path."""
    if isinstance(source, str) and _is_text(source):
        return "the text", source
    if not isinstance(source, str | os.PathLike):
        raise InvalidProperty(f"the property must be a path or a text, got {type(source).__name__}")
    path = Path(source)
    try:
        with path.open("rb") as file:
            is_compressed = file.read(len(GZIP)) == GZIP
            file.seek(0)
            content = (gzip.GzipFile(fileobj=file) if is_compressed else file).read(MOST_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidProperty(f"{path.name} is a damaged gzip file ({error}): get it anew") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidProperty(f"{path} cannot be read ({reason}): pass the path of a .vnnlib or .vnnlib.gz file") from (
            error
        )
    if len(content) > MOST_BYTES:
        raise InvalidProperty(f"{path.name} holds more than {MOST_BYTES} bytes, the most that is read: split it")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidProperty(
            f"{path.name} is no text (byte {error.start} is {content[error.start]:#04x}): pass a .vnnlib file"
        ) from error
    return path.name, text


def _is_text(source: str) -> bool:
    """Whether a string is no path: it begins as VNN-LIB does, has several lines, or says nothing."""
    return source.lstrip()[:1] in ("(", ";", "") or "\n" in source
