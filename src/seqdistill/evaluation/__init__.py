"""The evaluation room: models and test data in, rows of numbers out. Trains nothing."""
