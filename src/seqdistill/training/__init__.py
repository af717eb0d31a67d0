"""The training package: batches in, updated weights out. Knows no method and no recipe."""
