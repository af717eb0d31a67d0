"""One self-contained page about a run or a comparison. Reads run directories only; no torch."""

from seqdistill.report.page import build_report, write_report

__all__ = ["build_report", "write_report"]
