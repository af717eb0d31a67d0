"""The grapheme-to-phoneme corpus, which more than one experiment learns from."""

from __future__ import annotations

from pathlib import Path

from corpora.g2p import build as g2p_corpus


def make_g2p_data(folder: Path) -> None:
    """Builds the corpus in the folder where it is not there."""
    if not (folder / "corpus.json").is_file():
        entries, version = g2p_corpus.load_entries()
        g2p_corpus.write(g2p_corpus.divide(entries), folder, version=version)
