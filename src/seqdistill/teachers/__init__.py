"""The teachers package: what a teacher says about a batch. Knows no loss and no optimizer."""
