"""The report of a run: one Markdown file and one HTML file that needs nothing beside it."""

from evaluation.quality.report.writing import write_report

__all__ = ["write_report"]
