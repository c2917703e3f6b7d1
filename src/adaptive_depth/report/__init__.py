"""A finished run as one HTML page: values in, text out. Needs neither torch nor a network."""

from .page import report_page

__all__ = ["report_page"]
