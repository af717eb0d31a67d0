"""The nouns of the house: batches, teacher scores, the head, token sums, errors, generators.

This package imports nothing by itself, so that rooms without torch can use `core.errors`.
"""
