"""Parts of a page: templates, styles, scripts, and data for scripts, all inside of one file."""

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

SCRIPTS = ("shared.js", "chart.js", "sorting.js", "show_input.js", "input_table.js")  # in the order of their execution
STYLES = ("page.css", "input_view.css")
ESCAPES = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def embedded_json(value: object) -> str:
    r"""JSON that may stand inside a ``<script type="application/json">``.

    NaN becomes null, and an infinite number the text that JavaScript's ``Number`` reads as one: JSON has neither. No
    text can end the element, since angle brackets are escaped.

    >>> embedded_json({"a</script>": [1, 0.5, math.nan, -math.inf]})
    '{"a\\u003c/script\\u003e":[1,0.5,null,"-Infinity"]}'
    """
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(ESCAPES)


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(each) for each in value]
    return value


def part(folder: str, name: str) -> str:
    """The text of a style sheet or script of this package."""
    return resources.files("certify.report").joinpath(folder, name).read_text(encoding="utf-8")


@cache
def environment() -> "Environment":
    """Templates of the page, with its style sheet and scripts: whatever else they print is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    made = Environment(
        loader=PackageLoader("certify.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(
        style=Markup("".join(part("styles", name) for name in STYLES)),
        script=lambda name: Markup(part("scripts", name)),
        scripts=SCRIPTS,
    )
    made.filters["embedded_json"] = lambda value: Markup(embedded_json(value))
    return made
