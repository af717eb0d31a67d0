"""The generation package: token ids in, hypotheses out, one file an engine. Tokenizes no text."""
