"""Builder of the bundled corpus of arithmetic problems with worked steps."""
