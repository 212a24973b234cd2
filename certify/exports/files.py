"""Writing an export: each table and figure in each form that was asked for."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bounds.errors import InvalidConfiguration, InvalidInput
from certify.exports.figures import COLUMN, save_figure
from certify.exports.sheets import Sheet, flat, latex, markdown, plain_records

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("csv", "parquet", "latex", "markdown", "json", "pdf", "svg", "png")
DRAWN = ("pdf", "svg", "png")
READ = {"latex": ("tex", latex), "markdown": ("md", markdown)}


def formats_of(formats: str | Sequence[str]) -> list[str]:
    """The formats asked for, each once; a string may name several, with commas between them.

    Raises:
        InvalidInput: an unknown format, none, or one whose package is missing.
    """
    parts = formats.split(",") if isinstance(formats, str) else list(formats)
    chosen = list(dict.fromkeys(str(part).strip() for part in parts))
    unknown = [name for name in chosen if name not in FORMATS]
    if unknown or not chosen:
        raise InvalidInput(f"formats must be some of {', '.join(FORMATS)}, got {', '.join(unknown) or 'none'}")
    if "parquet" in chosen and find_spec("pyarrow") is None:
        raise InvalidInput("format parquet needs pyarrow: pip install 'certify-bounds[parquet]', or choose csv")
    return chosen


def write_export(
    folder: Path | str,
    formats: Sequence[str],
    sheets: Sequence[Sheet],
    figures: "Mapping[str, Figure]",
    *,
    about: Mapping[str, Any],
    width: float = COLUMN,
) -> list[Path]:
    """Write all tables and figures into a folder, and return the files.

    Args:
        folder: made if it is not there; files of the same names are replaced.
        formats: as :func:`formats_of` gives them.
        sheets: the tables. JSON puts all of them into one file.
        figures: by the name of their files.
        about: where the numbers come from, for the JSON file.
        width: of figures, in inches.

    Raises:
        InvalidConfiguration: a file cannot be written.
    """
    folder, written = Path(folder), list[Path]()
    if width <= 0:
        raise InvalidInput(f"width must be above 0 inches, got {width}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for form in formats:
            if form in DRAWN:
                for name, figure in figures.items():
                    written.append(folder / f"{name}.{form}")
                    save_figure(figure, written[-1], width)
            elif form == "json":
                written.append(folder / "export.json")
                written[-1].write_bytes(_as_json(sheets, about))
            else:
                written += [path for sheet in sheets for path in _write_table(folder, form, sheet)]
    except OSError as error:
        raise InvalidConfiguration(f"{error.filename or folder} cannot be written: {error.strerror}") from error
    return written


def _write_table(folder: Path, form: str, sheet: Sheet) -> list[Path]:
    if form in READ:
        if sheet.text is None:
            return []
        ending, written = READ[form]
        path = folder / f"{sheet.name}.{ending}"
        path.write_text(written(sheet), encoding="utf-8")
        return [path]
    path = folder / f"{sheet.name}.{form}"
    table = flat(sheet.data)
    if form == "csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path, index=False)
    return [path]


def _as_json(sheets: Sequence[Sheet], about: Mapping[str, Any]) -> bytes:
    whole = {**about, "tables": {sheet.name: plain_records(sheet.data) for sheet in sheets}}
    return msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n"
