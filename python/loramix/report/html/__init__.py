"""A report as one page of HTML: no network, no other file, complete without its script."""

from loramix.report.html.page import page

__all__ = ["page"]
