"""The generation package: token ids in, hypotheses out, one file per engine. Tokenizes no text."""
