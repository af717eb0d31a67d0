"""Builder of the bundled corpus of Debian package descriptions and their summaries."""
