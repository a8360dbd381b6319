"""What people look at: the table, the page and the preview."""

from mixwell.report.page import Paths, write
from mixwell.report.preview import draw_preview
from mixwell.report.tables import markdown_table, tables

__all__ = ["Paths", "draw_preview", "markdown_table", "tables", "write"]
