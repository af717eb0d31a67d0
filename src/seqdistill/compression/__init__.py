"""The compression package: models into smaller models. Trains nothing."""
