"""The page and the figures of an evaluation."""

from certify.report.figures import curve_figure, svg
from certify.report.names import norm_name
from certify.report.page import Page, render

__all__ = ["Page", "curve_figure", "norm_name", "render", "svg"]
