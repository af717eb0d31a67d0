"""The sources package: who writes the sequences that the student learns from. Knows no loss."""
