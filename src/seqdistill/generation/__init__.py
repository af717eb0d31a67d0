"""The generation room: token ids in, hypotheses out, one file an engine. Tokenizes no text."""
