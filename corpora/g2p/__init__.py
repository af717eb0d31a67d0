"""Builds the grapheme-to-phoneme corpus from the CMU Pronouncing Dictionary."""
