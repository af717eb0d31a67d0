"""Whole jobs on models that people know, each with its measured result."""
