"""The page and the figures of an evaluation."""

from certify.report.columns import COLUMNS, Column, Line
from certify.report.figures import curve_figure, svg
from certify.report.page import Page, render
from certify.report.studies import Study
from certify.report.words import norm_name, rounded_down, rounded_up

__all__ = [
    "COLUMNS",
    "Column",
    "Line",
    "Page",
    "Study",
    "curve_figure",
    "norm_name",
    "render",
    "rounded_down",
    "rounded_up",
    "svg",
]
