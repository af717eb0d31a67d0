"""Sentences that a synthesizer speaks, for speech recognition from scratch on a laptop."""
