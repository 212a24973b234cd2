"""Settings of the documentation: ``sphinx-build -W docs OUTPUT``. Neither the build nor its result needs a network."""

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

import certify

project = "certify-bounds"
author = "The certify-bounds developers"
project_copyright = f"2026, {author}"
version = release = certify.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["README.md"]
templates_path: list[str] = []
html_theme = "furo"
html_title = f"certify-bounds {release}"
html_static_path = ["_static"]
html_css_files = ["words.css"]
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
myst_enable_extensions = ["colon_fence", "dollarmath", "deflist"]
myst_heading_anchors = 3

napoleon_numpy_docstring = False
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
maximum_signature_line_length = 88

# Shapes such as (N, *D) are written plainly in docstrings, where reStructuredText would take the star for emphasis.
SHAPE = re.compile(r"(?<![`\w])\((?=[^()`]*\*)[\w.*]+(?:, [\w*]+)*,?\)(?!`)")


def shapes_as_code(app: Sphinx, kind: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Set shapes in code type."""
    lines[:] = [SHAPE.sub(r"``\g<0>``", line) for line in lines]


def inline_math(writer: object, node: nodes.math) -> None:
    """Write a formula as MathML, which browsers show without a script."""
    writer.body.append(convert(node.astext(), display="inline"))  # type: ignore[attr-defined]
    raise nodes.SkipNode


def display_math(writer: object, node: nodes.math_block) -> None:
    """Write a formula on a line of its own as MathML."""
    writer.body.append(f'<div class="formula">{convert(node.astext(), display="block")}</div>')  # type: ignore[attr-defined]
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    app.connect("autodoc-process-docstring", shapes_as_code)
    app.add_html_math_renderer("mathml", (inline_math, None), (display_math, None))


html_math_renderer = "mathml"
