"""The data package: files -> examples -> aligned batches. Only here are targets shifted."""
