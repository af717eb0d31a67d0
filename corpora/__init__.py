"""Builders of the corpora that are bundled with seqdistill; nothing here is imported by it."""
