"""The types that all share: batches, teacher scores, the head, token sums, errors, generators.

This package imports nothing by itself, so that packages without torch can use `core.errors`.
"""
