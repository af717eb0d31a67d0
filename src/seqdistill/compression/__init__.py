"""The compression room."""
