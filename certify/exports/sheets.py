"""Tables in the forms that they are written in: numbers for programs, words for readers."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import pandas as pd

SPECIAL = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "∞": r"$\infty$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "≈": r"$\approx$",
    "\u00d7": r"$\times$",
    "—": "---",
    "\u2013": "--",
    "\u00a0": "~",
    "·": r"$\cdot$",
    "±": r"$\pm$",
    "→": r"$\rightarrow$",
    # Letters that names of settings hold, and that plain LaTeX knows in formulas only.
    "\u03b1": r"$\alpha$",
    "\u03b2": r"$\beta$",
    "\u03b4": r"$\delta$",
    "\u03b5": r"$\varepsilon$",
    "\u03bb": r"$\lambda$",
    "\u03bc": r"$\mu$",
    "\u03c3": r"$\sigma$",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Sheet:
    """One table of an export.

    Attributes:
        name: of its files, without an ending.
        data: values as they are, for programs.
        caption: sentence for readers; a sheet without one is for programs only.
        text: the table as readers see it, every cell a string.
        bold: which cells of ``text`` are set in bold, as a table of its shape; None for none.
    """

    name: str
    data: "pd.DataFrame"
    caption: str = ""
    text: "pd.DataFrame | None" = None
    bold: "pd.DataFrame | None" = None


def escaped(text: str) -> str:
    r"""Text as LaTeX prints it.

    >>> escaped("crown_ibp"), escaped("100 % of l∞")
    ('crown\\_ibp', '100 \\% of l$\\infty$')
    """
    return "".join(SPECIAL.get(sign, sign) for sign in " ".join(text.split()))


def latex(sheet: Sheet) -> str:
    """A ``table`` environment with rules of the package ``booktabs``, first columns to the left and numbers right."""
    header, lines, numbers = _cells(sheet)
    bold = _bold(sheet)
    rows = [
        [rf"\textbf{{{escaped(cell)}}}" if strong else escaped(cell) for cell, strong in zip(line, marks, strict=True)]
        for line, marks in zip(lines, bold, strict=True)
    ]
    body = "\n".join(f"    {' & '.join(row)} \\\\" for row in rows)
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{escaped(sheet.caption)}}}",
            rf"  \label{{tab:{_label(sheet.name)}}}",
            rf"  \begin{{tabular}}{{{''.join('r' if number else 'l' for number in numbers)}}}",
            r"    \toprule",
            f"    {' & '.join(map(escaped, header))} \\\\",
            r"    \midrule",
            *([body] if body else []),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def markdown(sheet: Sheet) -> str:
    """A table of GitHub's Markdown under its caption."""
    header, lines, numbers = _cells(sheet)
    rule = ["---:" if number else "---" for number in numbers]
    rows = [
        [f"**{_piped(cell)}**" if strong else _piped(cell) for cell, strong in zip(line, marks, strict=True)]
        for line, marks in zip(lines, _bold(sheet), strict=True)
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in [[_piped(name) for name in header], rule, *rows])
    return f"{sheet.caption}\n\n{table}\n"


def flat(data: "pd.DataFrame") -> "pd.DataFrame":
    """The table with plain cells only: lists and mappings become JSON, other objects their words."""
    objects = [name for name in data.columns if data[name].dtype == object]
    plain = {name: data[name].map(_plain) for name in objects}
    for name in plain:  # orders of norms, and names in their place
        if {str, float} <= set(map(type, plain[name].dropna())):
            plain[name] = plain[name].map(str)
    return data.assign(**plain) if objects else data


def plain_records(data: "pd.DataFrame") -> list[dict[str, Any]]:
    """The rows as JSON can hold them: no number stands for what is not finite, but null."""
    return [{str(name): _json(value) for name, value in row.items()} for row in data.to_dict("records")]


def _cells(sheet: Sheet) -> tuple[list[str], list[list[str]], list[bool]]:
    """Header, rows, and which columns hold numbers."""
    if sheet.text is None:
        raise ValueError(f"sheet {sheet.name} has no words for readers")
    header = [str(name) for name in sheet.text.columns]
    lines = [[str(cell) for cell in line] for line in sheet.text.itertuples(index=False, name=None)]
    numbers = [_numeric(line[i] for line in lines) for i in range(len(header))]
    return header, lines, numbers


def _bold(sheet: Sheet) -> list[list[bool]]:
    marked = sheet.text if sheet.bold is None else sheet.bold
    assert marked is not None  # as _cells has seen
    return [[sheet.bold is not None and bool(cell) for cell in line] for line in marked.itertuples(index=False)]


def _numeric(cells: Iterable[str]) -> bool:
    """Whether every cell begins as a number does, or says that there is none."""
    return all(cell.lstrip("≈≥≤ -")[:1].isdigit() or cell in ("—", "∞", "") for cell in cells)


def _label(name: str) -> str:
    return "".join(sign if sign.isalnum() and sign.isascii() else "-" for sign in name)


def _piped(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*").replace("_", "\\_")


def _plain(value: object) -> object:
    if isinstance(value, Mapping | list | tuple):
        return msgspec.json.encode(value).decode()
    if isinstance(value, str):
        return str(value)
    if value is None or isinstance(value, int | float):
        return value
    return str(value)


def _json(value: object) -> object:
    """A cell for JSON; numbers of numpy and pandas become Python's."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, Mapping):
        return {str(key): _json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_json(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, int):
        return value
    return None if str(value) == "<NA>" else str(value)
