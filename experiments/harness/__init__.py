"""What experiments share: planning, running, rows, estimates, verdicts, plots. Knows no task."""
