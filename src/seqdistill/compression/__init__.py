"""The compression room: models into smaller models. Trains nothing."""
