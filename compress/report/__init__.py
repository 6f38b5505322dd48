"""What a run gave, as a table on the terminal, a Markdown file and one HTML file."""

from compress.report.document import write_report
from compress.report.terminal import summary_table

__all__ = ["summary_table", "write_report"]
