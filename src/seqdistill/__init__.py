"""seqdistill: turn a large sequence model into a small, fast one, and prove what was kept."""

__version__ = "0.1.0"
