"""The evaluation package: models and test data in, rows of numbers out. Trains nothing."""
